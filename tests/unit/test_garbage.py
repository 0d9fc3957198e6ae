"""When a node walks all that it holds, looking for garbage: not while it works, and yet before that is without a bound."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any, cast

import pytest

from nodes import garbage
from nodes.garbage import BLOCKS_MIN, EVERY_S, IDLE_S, Garbage


class Clock:
    """A loop of which only timers are asked."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, function: Any) -> Clock:
        self.due.append((self.now + delay_s, function))
        return self

    def cancel(self) -> None:
        self.due.clear()

    def wait(self, for_s: float) -> None:
        until = self.now + for_s
        while self.due and self.due[0][0] <= until:
            self.now, function = self.due.pop(0)
            function()
        self.now = until


class Ring:
    """Refers to itself: only a collector finds it."""

    def __init__(self) -> None:
        self.me = self


class Node:
    """One that works or does not, with so many blocks of memory."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.idle = False
        self.blocks = BLOCKS_MIN
        self.walks: list[int] = []
        self.it = Garbage(cast(Any, self.clock), lambda: self.idle, lambda: self.blocks, self.collect)

    def collect(self, generation: int) -> int:
        self.walks.append(generation)
        return gc.collect(generation)

    def whole(self) -> int:
        """How often all was walked since the last call."""
        found = self.walks.count(2)
        self.walks.clear()
        return found


@pytest.fixture
def node() -> Iterator[Node]:
    before = gc.get_threshold()
    it = Node()
    it.it.start()
    assert it.whole() == 1, "what is left of the start goes first"
    yield it
    it.it.close()
    assert gc.get_threshold() == before and not gc.get_freeze_count()


def test_while_there_is_work_only_what_is_new_is_walked(node: Node) -> None:
    kept = [Ring() for _ in range(100)]
    node.clock.wait(1000 * EVERY_S)
    assert len(node.walks) == 1000 and not node.whole()
    assert gc.get_threshold()[2] == garbage.NEVER, "Python does not do it by itself"
    assert not any(one is kept[0] for one in gc.get_objects()), (
        "what is kept is set aside, and costs the next look nothing"
    )


def test_garbage_of_a_second_goes_within_the_next(node: Node) -> None:
    one = weakref.ref(Ring())
    node.clock.wait(EVERY_S)
    assert one() is None


def test_idle_it_walks_all_once(node: Node) -> None:
    rings = [Ring()]
    one = weakref.ref(rings[0])
    node.clock.wait(2 * EVERY_S)
    rings.clear()
    node.clock.wait(10 * EVERY_S)
    assert one() is not None, "it was set aside before it became garbage"
    assert not node.whole()
    node.idle = True
    node.clock.wait(IDLE_S + 2 * EVERY_S)
    assert one() is None and node.whole() == 1
    node.clock.wait(100 * IDLE_S)
    assert not node.walks, "nothing has changed since"
    node.idle = False
    node.clock.wait(EVERY_S)
    node.idle = True
    node.clock.wait(IDLE_S + 2 * EVERY_S)
    assert node.whole() == 1


def test_a_node_that_never_rests_walks_all_each_time_that_it_holds_twice_as_much(node: Node) -> None:
    for blocks, walks in ((2 * BLOCKS_MIN, 0), (2 * BLOCKS_MIN + 1, 1), (4 * BLOCKS_MIN, 0), (5 * BLOCKS_MIN, 1)):
        node.blocks = blocks
        node.clock.wait(100 * EVERY_S)
        assert node.whole() == walks, blocks
