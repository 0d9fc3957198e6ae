"""Twin of :mod:`kernels.lanes`: which lines there is room for, and in which order they come out."""

from __future__ import annotations

from collections import deque

LINE = 64


class Lane:
    """A ring of so many lines; both kinds behave alike as long as one thing happens at a time."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._lines: deque[bytes] = deque()

    @property
    def waiting(self) -> int:
        """Lines that wait to be taken."""
        return len(self._lines)

    def put(self, line: bytes) -> bool:
        """Append a line; False when the ring is full."""
        return self.put_many(line) == 1

    def put_many(self, lines: bytes) -> int:
        """Append as many lines as there is room for; how many."""
        taken = min(len(lines) // LINE, self.capacity - len(self._lines))
        self._lines.extend(lines[at * LINE : (at + 1) * LINE] for at in range(taken))
        return taken

    def get(self) -> bytes | None:
        """The oldest line, or None."""
        return self._lines.popleft() if self._lines else None

    def get_many(self, into: bytearray) -> int:
        """Take as many lines as there are, or as fit; how many."""
        taken = min(len(into) // LINE, len(self._lines))
        for at in range(taken):
            into[at * LINE : (at + 1) * LINE] = self._lines.popleft()
        return taken
