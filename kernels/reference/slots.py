"""Twin of :mod:`kernels.slots`, inside one process: what the page means, without sharing it."""

from __future__ import annotations

from typing import ClassVar


class SlotPage:
    """16 slices between a node and one worker."""

    SLICES: ClassVar[int] = 16

    def __init__(self) -> None:
        self._slices = [(0, 0)] * self.SLICES
        self._current: tuple[int, int, int] | None = None

    def offer(self, slot: int, count: int) -> None:
        """Node: a new slice of `count` tasks."""
        self._slices[slot] = (0, count)

    def recall(self, slot: int, keep: int = 0) -> tuple[int, int]:
        """Node: take back what was not claimed but the next `keep`: (new end, old end)."""
        cursor, end = self._slices[slot]
        self._slices[slot] = (cursor, min(end, cursor + keep))
        return self._slices[slot][1], end

    def progress(self, slot: int) -> tuple[int, int]:
        """Node: (cursor, end)."""
        return self._slices[slot]

    def current(self) -> tuple[int, int, int] | None:
        """Node: (slot, index, started_ns) of the task that runs now."""
        return self._current

    def claim(self, slot: int) -> int:
        """Worker: the next index to start, or -1."""
        cursor, end = self._slices[slot]
        if cursor >= end:
            return -1
        self._slices[slot] = (cursor + 1, end)
        return cursor

    def begin(self, slot: int, index: int, now_ns: int) -> None:
        """Worker: this task runs from now on."""
        self._current = (slot, index, now_ns)

    def end(self) -> None:
        """Worker: nothing runs."""
        self._current = None
