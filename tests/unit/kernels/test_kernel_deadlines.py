"""The heap of deadlines gives what sorting by (instant, id) gives, whatever was moved and forgotten."""

from __future__ import annotations

import random
from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kernels.deadlines import Deadlines
from kernels.reference import deadlines as reference

IDS = st.integers(0, 20) | st.integers(0, 3_000)
INSTANTS = st.integers(0, 10) | st.integers(0, 2**64 - 1)


class Both(RuleBasedStateMachine):
    """The kernel and its twin, asked the same."""

    @initialize(ids=st.sampled_from([1, 16, 5_000]))
    def begin(self, ids):
        self.kernel, self.twin = Deadlines(ids), reference.Deadlines(ids)

    @rule(id=IDS, at=INSTANTS)
    def arm(self, id, at):
        self.kernel.arm(id, at)
        self.twin.arm(id, at)

    @rule(ids=st.lists(IDS, max_size=40), at=INSTANTS, spread=st.integers(0, 50))
    def arm_many(self, ids, at, spread):
        draw = random.Random(len(ids))
        for id in ids:
            instant = min(at + draw.randint(0, spread), 2**64 - 1)
            self.kernel.arm(id, instant)
            self.twin.arm(id, instant)

    @rule(id=IDS)
    def disarm(self, id):
        assert self.kernel.disarm(id) == self.twin.disarm(id)

    @rule(id=IDS)
    def deadline(self, id):
        assert self.kernel.deadline(id) == self.twin.deadline(id)

    @rule()
    def pop(self):
        assert self.kernel.pop() == self.twin.pop()

    @rule(now=INSTANTS, most=st.integers(0, 30))
    def expired(self, now, most):
        mine, its = array("I", bytes(4 * most)), [0] * most
        assert self.kernel.expired(now, mine) == self.twin.expired(now, its)
        assert list(mine) == its

    @invariant()
    def the_same_is_first(self):
        if hasattr(self, "kernel"):
            assert self.kernel.peek() == self.twin.peek()
            assert len(self.kernel) == self.kernel.count == len(self.twin)

    def teardown(self):
        if hasattr(self, "kernel"):
            while (first := self.twin.pop()) is not None:
                assert self.kernel.pop() == first
            assert self.kernel.pop() is None


TestBoth = Both.TestCase
TestBoth.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_thousands_come_out_sorted():
    draw = random.Random(1)
    deadlines = Deadlines()
    last = {}
    for _ in range(20_000):
        id, at = draw.randrange(5_000), draw.randrange(10_000)
        deadlines.arm(id, at)
        last[id] = at
    for id in range(0, 5_000, 7):
        assert deadlines.disarm(id) == (last.pop(id, None) is not None)
    out = array("I", bytes(4 * len(last)))
    assert deadlines.expired(10_000, out) == len(last)
    assert list(out) == [id for _, id in sorted((at, id) for id, at in last.items())]


def test_what_cannot_be():
    deadlines = Deadlines()
    for ids in (0, 2**32 + 1):
        with pytest.raises(ValueError, match="ids"):
            Deadlines(ids)
    for id, at in ((-1, 0), (2**32, 0), (0, -1), (0, 2**64)):
        with pytest.raises(OverflowError):
            deadlines.arm(id, at)
    with pytest.raises(ValueError, match="Buffer"):
        deadlines.expired(1, array("B", [1]))
    assert (deadlines.peek(), deadlines.pop(), deadlines.disarm(2**32 - 1)) == (None, None, False)
