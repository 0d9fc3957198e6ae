"""The run queue's order is the reference's, and nothing starves."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kernels.reference import runqueue as reference
from kernels.runqueue import RunQueue

AGEING_NS = 100
KEYS = st.integers(0, 25) | st.just(2**64 - 1)


class Queue(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.kernel = RunQueue(AGEING_NS)
        self.twin = reference.RunQueue(AGEING_NS)
        self.now = 0

    def both(self, name, *args):
        def call(queue):
            try:
                return getattr(queue, name)(*args)
            except ValueError:
                return ValueError

        expected = call(self.twin)
        assert call(self.kernel) == expected, (name, args)
        return expected

    @rule(step=st.integers(0, 130))
    def wait(self, step):
        self.now += step

    @rule(
        key=KEYS,
        klass=st.integers(-1, 4),
        nice=st.sampled_from([-21, -20, -1, 0, 0, 0, 1, 19, 20]),
        waited=st.integers(0, 250),
        count=st.integers(0, 9),
    )
    def push(self, key, klass, nice, waited, count):
        self.both("push", key, klass, nice, self.now - waited, count)

    @rule(key=KEYS, klass=st.integers(0, 3), count=st.integers(1, 9))
    def push_usual(self, key, klass, count):
        self.both("push", key, klass, 0, self.now, count)

    @rule(
        key=KEYS, klass=st.integers(0, 3), nice=st.sampled_from([-1, 0, 0, 5]), waited=st.integers(0, 250),
        start=st.integers(-50, 400) | st.just(2**63 - 1),
    )  # fmt: skip
    def push_in_turn(self, key, klass, nice, waited, start):
        self.both("push", key, klass, nice, self.now - waited, 2, start)

    @rule(limit=st.integers(0, 12))
    def pop(self, limit):
        self.both("pop", self.now, limit)

    @rule(key=KEYS, limit=st.integers(-1, 12))
    def take_from(self, key, limit):
        self.both("take_from", key, limit)

    @rule(key=KEYS)
    def remove(self, key):
        self.both("remove", key)

    @invariant()
    def same(self):
        assert (self.kernel.tasks, self.kernel.runs) == (self.twin.tasks, self.twin.runs)
        self.both("peek", self.now)
        for klass in range(4):
            self.both("waiting", klass)
            self.both("oldest_ns", klass)

    def teardown(self):
        while self.both("pop", self.now, 3) is not None:
            pass
        assert (self.kernel.tasks, self.kernel.runs) == (0, 0)


Queue.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueue = Queue.TestCase


def test_classes_then_nice_then_age():
    queue = RunQueue()
    for key, klass, nice in ((1, 0, 0), (2, 1, 5), (3, 1, -5), (4, 3, 19), (5, 2, 0), (6, 1, 5)):
        queue.push(key, klass, nice, key, 1)
    assert [queue.pop(10, 9)[0] for _ in range(6)] == [4, 5, 3, 2, 6, 1]


def test_the_rest_of_a_run_stays_at_the_head():
    queue = RunQueue()
    queue.push(1, 1, 0, 0, 5)
    queue.push(2, 1, 0, 1, 5)
    assert [queue.pop(2, 3) for _ in range(4)] == [(1, 3), (1, 2), (2, 3), (2, 2)]
    assert queue.pop(2, 3) is None


def test_low_work_is_reached_although_higher_work_keeps_coming():
    queue = RunQueue(AGEING_NS)
    queue.push(0, 0, 0, 0, 1)
    for now in range(1, 10 * AGEING_NS):
        queue.push(now, 2, 0, now, 1)
        if queue.pop(now, 1) == (0, 1):
            break
    assert now == 2 * AGEING_NS  # two classes up, then the longest wait


def test_nice_is_a_head_start_and_starves_nobody():
    queue = RunQueue(AGEING_NS)
    queue.push(0, 2, 19, 0, 1)
    for now in range(1, 100 * AGEING_NS):
        queue.push(now, 2, -20, now, 1)
        if queue.pop(now, 1) == (0, 1):
            break
    assert now == 39 * AGEING_NS // 10, "39 steps of a tenth; who came first goes first where they are equal"


def test_many_keys_come_and_go():
    queue, twin = RunQueue(AGEING_NS), {}
    for step in range(20_000):
        key = (step * 2654435761) % 3_001 << 40
        if key in twin:
            assert queue.remove(key) == twin.pop(key)
        else:
            twin[key] = 1 + step % 5
            queue.push(key, step % 4, step % 40 - 20, step // 2, twin[key])
        assert queue.runs == len(twin)
    assert queue.tasks == sum(twin.values())
    while (found := queue.pop(10_000, 100)) is not None:
        assert twin.pop(found[0]) == found[1]
    assert not twin and not queue.runs and not queue.tasks


def test_ageing_never_reaches_critical():
    queue = RunQueue(AGEING_NS)
    queue.push(1, 0, -20, 0, 1)
    queue.push(2, 3, 19, 10**6, 1)
    assert queue.pop(10**6, 1) == (2, 1)


def test_many_runs_come_out_sorted():
    queue = RunQueue()
    for key in range(3000):
        queue.push(key, 1, (key * 7919) % 40 - 20, 0, 1)
    order = [queue.pop(0, 1)[0] for _ in range(3000)]
    assert order == sorted(range(3000), key=lambda key: ((key * 7919) % 40, key))


@pytest.mark.parametrize("ageing_ns", [0, -1])
def test_ageing_must_be_positive(ageing_ns):
    with pytest.raises(ValueError, match="ageing"):
        RunQueue(ageing_ns)


@pytest.mark.parametrize("klass", [-1, 4])
def test_a_class_that_does_not_exist(klass):
    queue = RunQueue()
    for ask in (queue.waiting, queue.oldest_ns):
        with pytest.raises(ValueError, match="class"):
            ask(klass)
