"""Timers of one state machine: a heap of (instant, kind, argument). What is out of date is ignored, not cancelled."""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import Any


class Timer(IntEnum):
    """What a timer of membership is for."""

    PROBE = 0
    PROBE_HELP = 1
    PROBE_END = 2
    RELAY_NACK = 3
    RELAY_END = 4
    CONFIRM = 5
    SUSPICION = 6
    GOSSIP = 7
    SYNC = 8
    DEAD_CONTACT = 9
    HELLO = 10
    WANT = 11
    INFO = 12


class Timers:
    """Instants are in seconds on the clock of the shell. Equal instants fire in the order in which they were set."""

    __slots__ = ("_count", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, Any]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, instant: float, kind: int, argument: Any = None) -> None:
        """Fires `kind` with `argument` at `instant`."""
        self._count += 1
        heappush(self._heap, (instant, self._count, kind, argument))

    def next_deadline(self) -> float | None:
        """The earliest instant, or None."""
        return self._heap[0][0] if self._heap else None

    def waiting(self, kind: int) -> list[Any]:
        """The arguments of the timers of a kind that have not fired, in no particular order."""
        return [argument for _, _, what, argument in self._heap if what == kind]

    def pop(self, now: float) -> tuple[int, Any] | None:
        """The next (kind, argument) that is due, or None."""
        heap = self._heap
        if heap and heap[0][0] <= now:
            entry = heappop(heap)
            return entry[2], entry[3]
        return None

    def postpone(self, kinds: Collection[int], by_s: float) -> None:
        """Moves every timer of these kinds: time in which this machine did not run does not count for them."""
        self._heap = [
            (when + by_s if kind in kinds else when, count, kind, argument)
            for when, count, kind, argument in self._heap
        ]
        heapify(self._heap)
