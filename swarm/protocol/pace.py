"""How fast nodes run tasks, beside one another: like is compared with like.

For each kind of task (one spec) an owner keeps, a node, the run times that it saw there last. Where a kind ran on several nodes, the
medians say how many times as fast one of them is as the others; a kind that ran on one node alone says nothing. So the speeds are the
least that explains all: a run time is that of its kind over the speed of its node, which is a two-way table fitted by medians (Tukey,
"Exploratory data analysis", 1977, "median polish"), in logarithms, a node at a time.

No single run time moves a median further than to its neighbour, however long it was. What a worker takes for its first task of a
kind (imports, cold caches) is not counted. And a node counts as any other for as long as the difference may be chance: the medians'
notches have to be apart (McGill, Tukey, Larsen, "Variations of box plots", 1978).

A speed that is wrong costs little: it decides who of those with room is first, and how far ahead work is sent. It never
takes a node's last window from it, and what waits for long goes to whoever is idle (`swarm.protocol.stealing`).
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
"""Run times of one kind on one node that are looked back upon."""
KNOWN_AFTER = 32
"""Run times that there have to be of a kind on a node, and on others, before they are compared."""
EVERY = 8
"""After so many more they are compared again."""
FRESH_S = 60.0
"""What a node took longer ago is not compared with what another takes now; of long tasks, `FRESH_TASKS` times as long."""
FRESH_TASKS = 32.0
NOTABLE = 1.2
"""What differs by less counts as equally fast."""
NOTCH = 2.0
"""Half a notch is so many interquartile ranges over the root of the count: 1.57 there, and more here, where it is looked at again and again."""
SPEED_MAX = 16.0
ROWS_EACH = 8
"""About so many run times of a report are looked at, one in so many of all: where reports are large, not of each task."""
LOG_LEAST_S = 1e-6


@dataclass(slots=True)
class Pace:
    """The speed of one node, 1.0 on average."""

    speed: float = 1.0
    """How many times as fast as the average; exactly 1.0 where that is not known, or the difference small."""
    shift: float = 0.0
    """What was found, in octaves, before it is judged to be notable; of all nodes only the differences mean anything."""


@dataclass(slots=True)
class _Seen:
    """Run times of one kind on one node, as log2 of seconds."""

    skip: int
    """The first of its workers, which are not counted."""
    last: array[float] = field(default_factory=lambda: array("d"))
    """In the order in which they came, the oldest at `head` when it is full."""
    ordered: array[float] = field(default_factory=lambda: array("d"))
    head: int = 0
    since: int = 0
    """So many came since they were compared."""
    at: float = 0.0
    """When the last one came."""
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

    def add(self, value: float) -> None:
        if self.skip > 0:
            self.skip -= 1
            return
        if len(self.last) < WINDOW:
            self.last.append(value)
        else:
            old = self.last[self.head]
            del self.ordered[bisect_left(self.ordered, old)]
            self.last[self.head] = value
            self.head = (self.head + 1) % WINDOW
        insort(self.ordered, value)
        self.since += 1

    @property
    def count(self) -> int:
        return len(self.ordered)

    @property
    def median(self) -> float:
        return _median(self.ordered)

    @property
    def spread(self) -> float:
        """The interquartile range, octaves."""
        quarter = len(self.ordered) // 4
        return self.ordered[-1 - quarter] - self.ordered[quarter]

    def says(self, now: float) -> bool:
        """Whether it says anything of how fast its node is now."""
        fresh_s = max(FRESH_S, FRESH_TASKS * 2.0 ** min(self.median, 32.0)) if self.ordered else 0.0
        return self.count >= KNOWN_AFTER and now - self.at <= fresh_s


class Paces:
    """The run times by kind and node, and what they say of each node's speed."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[bytes, dict[bytes, _Seen]] = OrderedDict()
        self._paces: dict[bytes, Pace] = {}

    def observe(
        self, now: float, node: bytes, pace: Pace, slots: float, kind: bytes, count: int, time_s: Callable[[int], float]
    ) -> bool:
        """A node of so many slots reports `count` tasks of a kind, of which the n-th took `time_s(n)` seconds (0: it does not
        count). Whether its speed is another now."""
        seen = self._kinds.get(kind)
        if seen is None:
            seen = self._kinds[kind] = {}
            if len(self._kinds) > KINDS_MAX:
                self._kinds.popitem(last=False)
        else:
            self._kinds.move_to_end(kind)
        mine = seen.get(node)
        if mine is None:
            mine = seen[node] = _Seen(max(1, int(min(slots, WINDOW))))
        mine.at = now
        for row in mine.pick(count):
            took_s = time_s(row)
            if took_s > 0:
                mine.add(log2(max(took_s, LOG_LEAST_S)))
        if mine.since < EVERY or mine.count < KNOWN_AFTER:
            return False
        mine.since = 0
        if len(seen) > 1:
            self._paces[node] = pace
            return self._compare(now, node, pace)
        return False

    def gone(self, node: bytes) -> None:
        """A node is none any more."""
        self._paces.pop(node, None)
        for seen in self._kinds.values():
            seen.pop(node, None)

    def _shift(self, node: bytes) -> float:
        known = self._paces.get(node)
        return 0.0 if known is None else known.shift

    def _compare(self, now: float, node: bytes, pace: Pace) -> bool:
        """Fit the speed of one node to all that it ran beside others."""
        found: list[tuple[float, float, float]] = []
        beside: set[bytes] = set()
        for seen in self._kinds.values():
            mine = seen.get(node)
            if mine is None or not mine.says(now):
                continue
            # What each of the others says that one task takes at speed 1.
            others: list[float] = []
            count = 0
            for other, it in seen.items():
                if other != node and it.says(now):
                    others.append(it.median + self._shift(other))
                    beside.add(other)
                    count += it.count
            if others:
                notch = NOTCH * mine.spread * sqrt(1.0 / mine.count + 1.0 / min(count, WINDOW))
                found.append((_median(sorted(others)) - mine.median, float(mine.count), notch))
        if not found:
            return False
        pace.shift = _weighted_median(sorted(found))
        # Beside those that ran the same, and no others: how much faster these are than the rest of the fleet, nobody knows.
        rest = len(beside)
        apart = pace.shift - sum(self._shift(other) for other in sorted(beside)) / rest
        speed: float = max(1 / SPEED_MAX, min(SPEED_MAX, 2.0 ** (apart * rest / (rest + 1))))
        before = pace.speed
        if 1 / NOTABLE < speed < NOTABLE or abs(apart) <= min(notch for _, _, notch in found):
            speed = 1.0
        pace.speed = speed
        return speed != before


def _median(ordered: array[float] | list[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _weighted_median(found: list[tuple[float, float, float]]) -> float:
    """Of (value, weight, …) in their order."""
    half = sum(weight for _, weight, _ in found) / 2
    for value, weight, _ in found:
        half -= weight
        if half <= 0:
            return value
    return found[-1][0]
