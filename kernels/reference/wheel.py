"""Twin of :mod:`kernels.wheel`."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence

NEVER_NS = 2**64 - 1


class Wheel:
    """Ids and the instants, ns, at which they are due."""

    def __init__(self, ids: int = 1024, grain_ns: int = 1) -> None:
        if not 1 <= ids <= 2**32:
            raise ValueError(f"room for {ids} ids; it is 1 to 2^32")
        if grain_ns < 1:
            raise ValueError("a grain of 0 ns; it is 1 ns or longer")
        self.grain_ns = grain_ns
        self._at_ns: dict[int, int] = {}
        self._now_ns = 0

    def __len__(self) -> int:
        return len(self._at_ns)

    @property
    def count(self) -> int:
        """How many wait."""
        return len(self._at_ns)

    def arm(self, id: int, at_ns: int) -> None:
        """Have an id due at an instant."""
        if at_ns != NEVER_NS and at_ns % self.grain_ns:
            raise ValueError(f"an instant of {at_ns} ns is no multiple of the wheel's grain, {self.grain_ns} ns")
        self._at_ns.pop(id, None)
        if (at_ns := max(at_ns, self._now_ns)) != NEVER_NS:
            self._at_ns[id] = at_ns

    def disarm(self, id: int) -> bool:
        """Have an id not due at all; tells whether it waited."""
        return self._at_ns.pop(id, None) is not None

    def rearm(self, ids: Sequence[int], times: Sequence[int]) -> None:
        """arm() of many."""
        if len(ids) != len(times):
            raise ValueError(f"{len(ids)} ids and {len(times)} instants")
        for id, at_ns in zip(ids, times, strict=True):
            self.arm(id, at_ns)

    def waits_until(self, id: int) -> int | None:
        """The instant at which an id is due."""
        return self._at_ns.get(id)

    def expired(self, now_ns: int, out: MutableSequence[int]) -> int:
        """Take those whose instant is not after now_ns: the lowest ids, ascending, as many as there is room for."""
        self._now_ns = max(self._now_ns, now_ns - now_ns % self.grain_ns)
        due = sorted(id for id, at_ns in self._at_ns.items() if at_ns <= self._now_ns)[: len(out)]
        for place, id in enumerate(due):
            out[place] = id
            del self._at_ns[id]
        return len(due)

    def next_due(self) -> int | None:
        """The first instant at which an id is due."""
        return min(self._at_ns.values(), default=None)
