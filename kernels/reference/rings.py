"""Twin of :mod:`kernels.rings`: which messages fit, and in which order they come out."""

from __future__ import annotations

from collections import deque

HEAD_BYTES = 4
ALIGN = 8


def _padded(size: int) -> int:
    return -(-(size + HEAD_BYTES) // ALIGN) * ALIGN


class Ring:
    """A ring of `capacity` bytes for messages."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._messages: deque[tuple[bytes, int]] = deque()  # with what each takes, the gap before it included
        self._tail = 0

    @property
    def free(self) -> int:
        """Bytes that are free just now."""
        return self.capacity - sum(taken for _, taken in self._messages)

    def put(self, message: bytes | bytearray | memoryview) -> bool:
        """Append a message; False when there is no room now, ValueError for one over half of the capacity."""
        needed = _padded(len(message))
        if needed * 2 > self.capacity:
            raise ValueError(f"a message of {len(message)} bytes in a ring of {self.capacity}")
        left = self.capacity - self._tail
        taken = needed if needed <= left else left + needed
        if taken > self.free:
            return False
        self._messages.append((bytes(message), taken))
        self._tail = (self._tail + taken) % self.capacity
        return True

    def get(self) -> bytes | None:
        """The oldest message, or None."""
        return self._messages.popleft()[0] if self._messages else None
