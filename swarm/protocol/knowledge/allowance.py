"""How much of one author a shard holds, and how much of it at a time: so that nobody fills the disks of a fleet.

Of what an author said the last `bytes_max` bytes and `entries_max` entries are held, by the order of the tree (last stamp, id). A segment is
taken if it fits beside those that are later than it; then the earliest go until all fit. Nodes that exchange what they have come to the same
that way: of two that differ, take the latest segment that one alone holds. Beside it are the same later ones on both, so the other
takes it. What author keeps the rules (`Knowledge`) says no more than fits, and loses nothing by this.

How fast it comes is each node's own bound, a bucket that leaks: what was refused is offered again later.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Final

from swarm.protocol.knowledge import bounds
from swarm.protocol.knowledge.entries import Segment

BURSTS: Final = 2
"""A bucket holds so many times what is held of an author: a node that begins anew gets all of it at once, and what is new besides."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """Bounds for one author in one shard. The first two are the same in the whole fleet."""

    bytes_max: int = bounds.AUTHOR_BYTES_MAX
    entries_max: int = bounds.AUTHOR_ENTRIES_MAX
    bytes_per_s: float = bounds.AUTHOR_BYTES_PER_S


class Spoken:
    """What of one author a shard holds."""

    __slots__ = ("_at_ms", "_level", "bytes", "entries", "places")

    def __init__(self) -> None:
        self.places: list[tuple[bytes, int, int]] = []
        """(place, bytes, entries) of each segment, rising."""
        self.bytes = 0
        self.entries = 0
        self._level = 0.0
        self._at_ms = 0

    def fits(self, segment: Segment, allowance: Allowance) -> bool:
        """Whether a segment is among the last that may be held."""
        size, count = len(segment.raw), segment.count
        if self.bytes + size <= allowance.bytes_max and self.entries + count <= allowance.entries_max:
            return True
        for place, later_bytes, later_entries in reversed(self.places):
            if place < segment.place:
                break
            size += later_bytes
            count += later_entries
        return size <= allowance.bytes_max and count <= allowance.entries_max

    def in_time(self, size: int, wall_ms: int, allowance: Allowance) -> bool:
        """Whether so many bytes more may come now."""
        return self._leaked(wall_ms, allowance) + size <= BURSTS * allowance.bytes_max

    def _leaked(self, wall_ms: int, allowance: Allowance) -> float:
        passed_s = max(0, wall_ms - self._at_ms) / 1000
        return max(0.0, self._level - allowance.bytes_per_s * passed_s)

    def add(self, segment: Segment, wall_ms: int, allowance: Allowance) -> None:
        """It is held."""
        size = len(segment.raw)
        self._level = self._leaked(wall_ms, allowance) + size
        # A clock that was set back leaks from there on.
        self._at_ms = wall_ms
        insort(self.places, (segment.place, size, segment.count))
        self.bytes += size
        self.entries += segment.count

    def remove(self, segment: Segment) -> None:
        """It is held no more."""
        at = bisect_left(self.places, (segment.place, 0, 0))
        place, size, count = self.places.pop(at)
        assert place == segment.place
        self.bytes -= size
        self.entries -= count

    def over(self, allowance: Allowance) -> list[bytes]:
        """Ids of the earliest segments, that are too many."""
        found, size, count = list[bytes](), self.bytes, self.entries
        for place, its_bytes, its_entries in self.places:
            if size <= allowance.bytes_max and count <= allowance.entries_max:
                break
            found.append(place[8:])
            size -= its_bytes
            count -= its_entries
        return found

    def room(self, size: int, count: int, wall_ms: int, allowance: Allowance) -> bool:
        """Whether the author may say so much more without losing anything."""
        return (
            self.bytes + size <= allowance.bytes_max
            and self.entries + count <= allowance.entries_max
            and self.in_time(size, wall_ms, allowance)
        )
