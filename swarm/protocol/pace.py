"""How fast nodes run tasks, beside one another: like is compared with like.

For each kind of task (one spec) an owner keeps the run times that it saw last, on whatever node. How far a node's times are from the
kind's median *of that moment*, in octaves, is kept for each node; the median of these is its speed. Both being medians, no single run time
moves anything further than to its neighbour in size, however long it was; both being of the same moment, a kind whose
tasks become longer makes nobody slow. A run time is taken as that of its kind over the speed of its node, which is a two-way table fitted
by medians (Tukey, "Exploratory data analysis", 1977: median polish): so machines of very different number and speed do not blur
what the kind itself takes.

What ran on one node alone says nothing of its speed, and is not counted; nor is what a worker takes for its first task of a kind
(imports, cold caches), nor what ends while the times of its kind are changing. And a node counts as any other for as long as the
difference may be chance, by the notch of its median (McGill, Tukey, Larsen, "Variations of box plots", 1978).

A speed that is wrong costs little: it decides who of those with room is first, how far ahead work is sent, and for some moments
whether the last tasks wait for a faster node (`swarm.protocol.owner.patience`). It never takes its last room from an idle node, and what waits for
long goes to whoever is idle (`swarm.protocol.stealing`).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import log2, sqrt

KINDS_MAX = 16
"""Kinds of tasks that are compared: those seen last."""
WINDOW = 128
"""Run times that are looked back upon, of a node; of a kind at least."""
WINDOW_SLOTS = 4
WINDOW_MAX = 4096
"""And of a kind so many for each slot that ran it, up to this: tasks of one length end on all nodes of one speed at once, and with
fewer those of one speed would be compared with nothing but each other."""
NEWEST_PART = 4
"""One in so many of a kind's, the newest, are set against those before them: if they differ by an octave, its times are changing."""
KNOWN_AFTER = 48
"""Run times of a node that there have to be beside those of others before it counts as faster or slower."""
EVERY = 8
"""After so many more all is reckoned again; of a kind, after one part in `WINDOW / EVERY` of what is looked back upon."""
OTHERS_PART = 1 / 16
"""So large a part of a kind's last run times has to be of other nodes."""
FRESH_S = 60.0
"""What was longer ago is not compared with what is now; of long tasks, `FRESH_TASKS` times as long as one takes."""
FRESH_TASKS = 32.0
NOTABLE = 1.2
"""What differs by less counts as equally fast."""
NOTCH = 2.0
"""Half a notch is so many interquartile ranges over the root of the count: 1.57 there, and more here, where it is looked at again and again."""
SPEED_MAX = 16.0
ROWS_EACH = 8
"""About so many run times of a report are looked at, one in so many of all: where reports are large, not of each task."""
LEAST_S = 1e-6


class _Window:
    """The last so many values, and their order."""

    __slots__ = ("head", "last", "most", "ordered")

    def __init__(self, most: int = WINDOW) -> None:
        self.most = most
        self.last: array[float] = array("d")
        self.ordered: array[float] = array("d")
        self.head = 0
        """Where the oldest one is, when it is full."""

    def add(self, value: float) -> int:
        """Take one in; where in `last` it is now."""
        insort(self.ordered, value)
        if len(self.last) < self.most:
            self.last.append(value)
            return len(self.last) - 1
        at = self.head
        del self.ordered[bisect_left(self.ordered, self.last[at])]
        self.last[at] = value
        self.head = (at + 1) % self.most
        return at

    def widen(self, most: int) -> int:
        """Look back further from now on. How many of the first places have become the last ones."""
        head, self.head, self.most = self.head, 0, most
        self.last = self.last[head:] + self.last[:head]
        return head

    def newest(self, count: int) -> list[float]:
        """The last so many of those that there are."""
        size = len(self.last)
        return [self.last[(self.head - 1 - back) % size] for back in range(min(count, size))]

    @property
    def spread(self) -> float:
        """The interquartile range."""
        quarter = len(self.ordered) // 4
        return self.ordered[-1 - quarter] - self.ordered[quarter]


@dataclass(slots=True)
class Pace:
    """The speed of one node, 1.0 on average of those that ran the same."""

    speed: float = 1.0
    """How many times as fast as the average; exactly 1.0 where that is not known, or the difference small."""
    shift: float = 0.0
    """The same in octaves, before it is judged to be notable."""
    beside: _Window = field(default_factory=_Window)
    """How far its run times were from the median of their kind, octaves."""
    since: int = 0

    def judge(self) -> bool:
        """Reckon the speed anew. Whether it is another."""
        before, ordered = self.speed, self.beside.ordered
        if self.since < EVERY or len(ordered) < KNOWN_AFTER:
            return False
        self.since = 0
        most = log2(SPEED_MAX)
        self.shift = max(-most, min(most, -_median(ordered)))
        chance = NOTCH * self.beside.spread / sqrt(len(ordered))
        self.speed = 1.0 if abs(self.shift) <= max(chance, log2(NOTABLE)) else float(2.0**self.shift)
        return self.speed != before


@dataclass(slots=True)
class _Source:
    """One node's reports of one kind."""

    skip: int
    """The first of its workers, which are not counted."""
    slots: int
    rows: float = 1.0
    """In a report, on average."""
    ahead: int = 0
    """Rows until the next one that is looked at."""

    def pick(self, count: int) -> range:
        """Which of a report's rows are looked at: one in so many of all rows, so that the tasks of large reports (short ones, mostly)
        are seen as often as those of small ones."""
        self.rows += (count - self.rows) / 16
        stride = max(1, int(self.rows / ROWS_EACH))
        found = range(min(self.ahead, count), count, stride)
        self.ahead = found[-1] + stride - count if found else self.ahead - count
        return found


class _Kind:
    """The last run times of one kind on all nodes, as log2 of the seconds (or of how many times what they were said to take) that
    they would have taken on the average one."""

    __slots__ = ("at", "known", "level", "middle", "nodes", "of", "since", "sources", "times", "unit_s")

    def __init__(self) -> None:
        self.sources: dict[bytes, _Source] = {}
        self.times = _Window()
        self.clear()

    def clear(self) -> None:
        """What there was is of another time."""
        self.times = _Window(self.times.most)
        self.nodes: list[bytes] = []
        """Whose each one is."""
        self.of: dict[bytes, int] = {}
        self.at = self.level = self.middle = 0.0
        self.since = 0
        self.unit_s = 0.0
        self.known = False

    def source(self, node: bytes, slots: float) -> _Source:
        """Where a node of so many slots begins to run such tasks."""
        wide = max(1, int(min(slots, WINDOW)))
        it = self.sources[node] = _Source(wide, wide)
        most = min(WINDOW_MAX, WINDOW_SLOTS * sum(one.slots for one in self.sources.values()))
        if most >= 2 * self.times.most:
            moved = self.times.widen(most)
            self.nodes = self.nodes[moved:] + self.nodes[:moved]
        return it

    @property
    def every(self) -> int:
        """After so many more all is reckoned again."""
        return max(EVERY, self.times.most * EVERY // WINDOW)

    def add(self, node: bytes, value: float) -> None:
        """A task ran on a node."""
        at = self.times.add(value)
        if at == len(self.nodes):
            self.nodes.append(node)
        else:
            self.forget(self.nodes[at])
            self.nodes[at] = node
        self.of[node] = self.of.get(node, 0) + 1
        self.since += 1

    def forget(self, node: bytes) -> None:
        """One time of a node is there no more."""
        left = self.of[node] - 1
        if left:
            self.of[node] = left
        else:
            del self.of[node]

    def judge(self, paces: dict[bytes, Pace]) -> None:
        """Reckon anew what a task takes, and whether that is changing."""
        self.since = 0
        count = len(self.nodes)
        self.middle = _median(self.times.ordered)
        self.level = sum(paces[node].shift * number for node, number in self.of.items()) / count
        part = self.times.most // NEWEST_PART
        last = self.times.newest(count)
        newest, before = last[:part], last[part:]
        self.known = len(before) >= part and abs(_median(sorted(newest)) - _median(sorted(before))) < 1.0

    def fresh_s(self) -> float:
        """For how long it says something."""
        return max(FRESH_S, FRESH_TASKS * self.unit_s * float(2.0 ** min(self.middle, 32.0)))


class Paces:
    """Run times by kind, and what they say of each node's speed."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[bytes, _Kind] = OrderedDict()
        self._paces: dict[bytes, Pace] = {}

    def observe(
        self,
        now: float,
        node: bytes,
        pace: Pace,
        slots: float,
        kind: bytes,
        count: int,
        time_s: Callable[[int], float],
        unit_s: float = 1.0,
    ) -> bool:
        """A node of so many slots reports `count` tasks of a kind, of which the n-th took `time_s(n)` times `unit_s` seconds (0: it
        does not count). Whether its speed is another now."""
        it = self._kinds.get(kind)
        if it is None:
            it = self._kinds[kind] = _Kind()
            if len(self._kinds) > KINDS_MAX:
                self._kinds.popitem(last=False)
        else:
            self._kinds.move_to_end(kind)
        source = it.sources.get(node)
        if source is None:
            source = it.source(node, slots)
        if it.nodes and now - it.at > it.fresh_s():
            it.clear()
        it.at, it.unit_s = now, max(it.unit_s, unit_s)
        self._paces[node] = pace
        for row in source.pick(count):
            took_s = time_s(row)
            if took_s <= 0:
                continue
            if source.skip:
                source.skip -= 1
                continue
            octaves = log2(max(took_s, LEAST_S))
            if it.known and it.of.get(node, 0) <= (1 - OTHERS_PART) * len(it.nodes):
                pace.beside.add(octaves - it.middle)
                pace.since += 1
            it.add(node, octaves + pace.shift - it.level)
            if it.since >= it.every:
                it.judge(self._paces)
        return pace.judge()

    def gone(self, node: bytes) -> None:
        """A node is none any more."""
        self._paces.pop(node, None)
        for it in self._kinds.values():
            it.sources.pop(node, None)
            if it.of.get(node):
                it.clear()


def _median(ordered: array[float] | list[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
