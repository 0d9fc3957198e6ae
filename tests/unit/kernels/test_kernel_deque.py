"""The deque gives every item once, to its owner or to a thief, and no race is seen."""

from __future__ import annotations

import re
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sanitized import build, clean

from kernels.deque import Deque
from kernels.reference import deque as reference


class Both(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.kernel = Deque()
        self.twin = reference.Deque()

    @rule(items=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=90))
    def push(self, items):
        for item in items:
            self.kernel.push(item)
            self.twin.push(item)

    @rule(n=st.integers(1, 70))
    def take(self, n):
        for _ in range(n):
            assert self.kernel.take() == self.twin.take()

    @rule(n=st.integers(1, 70))
    def steal(self, n):
        for _ in range(n):
            assert self.kernel.steal() == self.twin.steal()

    @invariant()
    def as_long(self):
        assert len(self.kernel) == len(self.twin)


TestBoth = Both.TestCase
TestBoth.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("item", [-1, 2**64])
def test_items_are_64_bits(item):
    for deque in (Deque(), reference.Deque()):
        with pytest.raises(OverflowError):
            deque.push(item)


def test_the_ring_wraps_and_grows_while_it_is_in_the_middle():
    deque = Deque()
    for i in range(50):
        deque.push(i)
    assert [deque.steal() for _ in range(40)] == list(range(40))
    for i in range(50, 300):
        deque.push(i)
    assert [deque.steal() for _ in range(60)] == list(range(40, 100))
    assert [deque.take() for _ in range(201)] == [*range(299, 99, -1), None]


def test_threads_of_python_get_each_item_once():
    deque = Deque()
    found: list[list[int]] = [[], [], []]
    done = threading.Event()

    def steal(mine):
        while True:
            last = done.is_set()
            item = deque.steal()
            if item is not None:
                mine.append(item)
            elif last:
                return

    thieves = [threading.Thread(target=steal, args=(mine,)) for mine in found[1:]]
    for thief in thieves:
        thief.start()
    for i in range(3_000):
        deque.push(i)
        if i % 3 == 0 and (item := deque.take()) is not None:
            found[0].append(item)
    done.set()
    for thief in thieves:
        thief.join(60)
    assert sorted(sum(found, [])) == list(range(3_000))


def test_no_race_is_seen_by_the_thread_sanitizer(tmp_path):
    said = clean(build("deque_tsan.c", tmp_path))
    assert re.fullmatch(r"\d+ taken, \d+ stolen, 0 wrong, 0 not once\n", said)
