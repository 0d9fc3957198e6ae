"""Twin of :mod:`kernels.deadlines`."""

from __future__ import annotations

from collections.abc import MutableSequence


class Deadlines:
    """Ids by (instant, id)."""

    def __init__(self, ids: int = 1024) -> None:
        if not 1 <= ids <= 2**32:
            raise ValueError(f"room for {ids} ids; it is 1 to 2^32")
        self._at_ns: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._at_ns)

    def arm(self, id: int, at_ns: int) -> None:
        """Set or move the deadline of an id."""
        self._at_ns[id] = at_ns

    def disarm(self, id: int) -> bool:
        """Forget the deadline of an id; tells whether it had one."""
        return self._at_ns.pop(id, None) is not None

    def deadline(self, id: int) -> int | None:
        """The deadline of an id."""
        return self._at_ns.get(id)

    def peek(self) -> tuple[int, int] | None:
        """The earliest as (ns, id), or None."""
        return min(((at_ns, id) for id, at_ns in self._at_ns.items()), default=None)

    def pop(self) -> tuple[int, int] | None:
        """Take the earliest as (ns, id), or None."""
        first = self.peek()
        if first:
            del self._at_ns[first[1]]
        return first

    def expired(self, now_ns: int, out: MutableSequence[int]) -> int:
        """Take ids whose deadline is not after now_ns, by (instant, id)."""
        taken = 0
        while taken < len(out) and (first := self.peek()) and first[0] <= now_ns:
            out[taken] = first[1]
            taken += 1
            self.pop()
        return taken
