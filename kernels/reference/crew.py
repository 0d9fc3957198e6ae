"""Twin of :mod:`kernels.crew`: one thread, which runs the chunks of a plan in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any


def deal(costs: Sequence[int], threads: int) -> list[int]:
    """The thread in whose part of the total cost the middle of the chunk lies; a chunk costs 1 more than declared."""
    if threads < 1:
        raise ValueError("a crew of no threads")
    total, before, dealt = 0.0, 0.0, []
    for cost in costs:  # since Python 3.12 sum() adds floats otherwise than one by one
        total += cost + 1.0
    for cost in costs:
        dealt.append(min(threads - 1, int((before + (cost + 1.0) / 2.0) / total * threads)))
        before += cost + 1.0
    return dealt


def cut(start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
    """The chunks of a range of rows."""
    for first in range(start, stop, rows):
        yield first, min(first + rows, stop)


Line = tuple[int, int, int, bytes]
"""topic, kind, row, payload of 56 bytes"""


class Context:
    """What a tick is given: the first row, the instant, the pass, and a way to publish."""

    def __init__(self, kind: int, seed: int, number: int, now_ns: int, topics: Sequence[int], lines: int) -> None:
        self.kind, self.seed, self.number, self.now_ns = kind, seed, number, now_ns
        self.topics, self.most = topics, lines
        self.lines: list[Line] = []
        self.refused = 0

    def publish(self, topic: int, row: int, payload: bytes) -> bool:
        """A line for the outbox of this chunk, if there is room for it and such a topic."""
        if topic >= len(self.topics) or len(payload) > 56 or len(self.lines) >= self.most:
            self.refused += 1
            return False
        self.lines.append((self.topics[topic], self.kind, row, payload.ljust(56, b"\0")))
        return True


Tick = Callable[[int, int, Context], Any]
"""Ticks the rows from the first to before the second."""


class Plan:
    """Ticks of ranges of rows."""

    def __init__(self, seed: int = 0, lines: int = 0) -> None:
        self._seed, self._lines_max = seed, lines
        self._chunks: list[tuple[Tick, int, int, int, Sequence[int]]] = []
        self.lines: list[Line] = []
        self.refused = 0

    def add(
        self, tick: Tick, start: int, stop: int, kind: int = 0, topics: Sequence[int] = (), rows: int = 4096
    ) -> None:
        """Rows start to stop of a kind, in chunks."""
        self._chunks += [(tick, first, last, kind, topics) for first, last in cut(start, stop, rows)]

    def run(self, now_ns: int = 0, number: int = 0) -> None:
        """One pass: all chunks, in their order."""
        self.lines, self.refused = [], 0
        for tick, first, last, kind, topics in self._chunks:
            context = Context(kind, self._seed, number, now_ns, topics, self._lines_max)
            tick(first, last, context)
            self.lines += context.lines
            self.refused += context.refused
