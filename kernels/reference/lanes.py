"""Twin of :mod:`kernels.lanes`: which lines there is room for, and in which order they come out."""

from __future__ import annotations

from collections import deque

LINE = 64


class Lane:
    """A ring of so many lines; both kinds behave alike as long as one thing happens at a time."""

    def __init__(self, capacity: int, start: int = 0) -> None:
        self.capacity = capacity
        self._lines: deque[bytes] = deque()
        self._head = start % capacity

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
        self._head = (self._head + bool(self._lines)) % self.capacity
        return self._lines.popleft() if self._lines else None

    def get_many(self, into: bytearray) -> int:
        """Take as many lines as there are, or as fit; how many."""
        taken = min(len(into) // LINE, len(self._lines))
        for at in range(taken):
            into[at * LINE : (at + 1) * LINE] = self._lines.popleft()
        self._head = (self._head + taken) % self.capacity
        return taken

    def claimable(self, lines: int) -> int:
        """How many of so many lines can be claimed: free ones, up to the ring's end."""
        tail = (self._head + len(self._lines)) % self.capacity
        return min(lines, self.capacity - len(self._lines), self.capacity - tail)

    def peekable(self, lines: int) -> list[bytes]:
        """The oldest lines, up to so many and up to the ring's end."""
        return list(self._lines)[: min(lines, self.capacity - self._head)]
