"""Twin of :mod:`kernels.deque`."""

from __future__ import annotations

import collections


class Deque:
    """Numbers of 64 bits: one end is the owner's, the other the thieves'."""

    def __init__(self) -> None:
        self._items: collections.deque[int] = collections.deque()

    def __len__(self) -> int:
        return len(self._items)

    def push(self, item: int) -> None:
        """Add at the bottom."""
        if not 0 <= item < 1 << 64:
            raise OverflowError(item)
        self._items.append(item)

    def take(self) -> int | None:
        """What was pushed last."""
        return self._items.pop() if self._items else None

    def steal(self) -> int | None:
        """What was pushed first."""
        return self._items.popleft() if self._items else None
