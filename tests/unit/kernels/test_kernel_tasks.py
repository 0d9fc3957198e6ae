"""The owner's columns do what the reference does, whatever the order of events."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kernels.batch import OutcomeBuilder, Outcomes
from kernels.reference import tasks as reference
from kernels.tasks import TaskColumns

COUNT = 12
TOKENS = st.sampled_from([0, 1, 7, 2**64 - 1])
INDEX = st.integers(0, COUNT - 1)


def outcomes(rows):
    builder = OutcomeBuilder()
    for index, status in rows:
        builder.add(index, status, 0, b"")
    return Outcomes(builder.take(), len(rows))


class Record(RuleBasedStateMachine):
    @initialize(count=st.integers(0, COUNT))
    def start(self, count):
        self.count = count
        self.kernel = TaskColumns(count)
        self.twin = reference.TaskColumns(count)

    def both(self, name, *args):
        def call(record):
            try:
                return getattr(record, name)(*args)
            except IndexError:
                return IndexError

        expected = call(self.twin)
        assert call(self.kernel) == expected, (name, args)
        return expected

    @rule(limit=st.integers(1, COUNT + 3), token=TOKENS)
    def take(self, limit, token):
        self.both("take", limit, token)

    @rule(index=st.integers(-1, COUNT), token=TOKENS)
    def take_at(self, index, token):
        self.both("take_at", index, token)

    @rule(
        rows=st.lists(st.tuples(st.integers(0, COUNT + 2), st.sampled_from([0, 1, 9, 16, 17])), max_size=8),
        token=TOKENS,
    )
    def settle(self, rows, token):
        view = outcomes(rows)
        accepted = self.both("accepts", view, token)
        number = self.both("settle", view, token)
        assert not accepted or number == len(rows)

    @rule(token=TOKENS, start=INDEX, length=st.integers(0, COUNT))
    def settle_what_is_out(self, token, start, length):
        rows = [(i, 0) for first, n in self.both("outstanding", token) for i in range(first, first + n)]
        view = outcomes(rows[start : start + length])
        assert self.both("accepts", view, token)
        assert self.both("settle", view, token) == view.count

    @rule(index=st.integers(-1, COUNT), token=TOKENS, to=TOKENS)
    def pass_on(self, index, token, to):
        passed = self.both("pass_on", index, token, to)
        assert not passed or self.kernel.holds(index, to)

    @rule(name=st.sampled_from(["finish", "release", "hold", "crashed"]), index=st.integers(-1, COUNT))
    def change(self, name, index):
        self.both(name, index)

    @invariant()
    def same(self):
        for name in ("ready", "dispatched", "done", "held", "count"):
            assert getattr(self.kernel, name) == getattr(self.twin, name), name
        assert self.kernel.ready + self.kernel.dispatched + self.kernel.done + self.kernel.held == self.count
        self.both("pending")
        for token in (0, 1, 7, 2**64 - 1):
            self.both("outstanding", token)
            for index in range(-1, self.count + 1):
                self.both("holds", index, token)
        for index in range(self.count):
            for name in ("state", "token", "attempts"):
                self.both(name, index)


Record.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRecord = Record.TestCase


def test_a_batch_is_handed_out_once_in_order():
    record = TaskColumns(1000)
    ranges = []
    while (taken := record.take(64, 3)) is not None:
        ranges.append(taken)
    assert [index for start, n in ranges for index in range(start, start + n)] == list(range(1000))
    assert record.outstanding(3) == [(0, 1000)]


def test_what_comes_back_is_handed_out_again_under_a_new_token_only():
    record = TaskColumns(4)
    record.take(4, 1)
    record.release(2)
    assert record.take(4, 2) == (2, 1)
    late = outcomes([(2, 0)])
    assert record.settle(late, 1) == 0
    assert record.settle(late, 2) == 1
    assert record.settle(late, 2) == 0
    assert record.attempts(2) == 2


def test_the_same_row_twice_is_not_accepted_and_leaves_no_mark():
    record = TaskColumns(3)
    record.take(3, 1)
    assert not record.accepts(outcomes([(0, 0), (1, 0), (0, 0)]), 1)
    assert [record.state(i) for i in range(3)] == [TaskColumns.DISPATCHED] * 3
    assert record.accepts(outcomes([(2, 0), (0, 0), (1, 0)]), 1)


@pytest.mark.parametrize("count", [-1, 2**32, 2**64, 1.5, None])
def test_a_count_that_cannot_be_is_refused(count):
    with pytest.raises(ValueError, match="tasks"):
        TaskColumns(count)


def test_at_least_one_task_is_taken():
    with pytest.raises(ValueError, match="limit"):
        TaskColumns(1).take(0, 1)
