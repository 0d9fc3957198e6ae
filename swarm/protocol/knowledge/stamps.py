"""Hybrid logical clock (Kulkarni, Demirbas, Madappa, Avva, Leone 2014, "Logical physical clocks").

A stamp is 48 bits of wall-clock milliseconds since 1970 and 16 bits of a counter, in one integer (``ms << 16 | counter``), so that
stamps compare as numbers. With the author's id (16 bytes) it is unique; packed, both together, 24 bytes that compare as
the stamps do. The wall clock may jump: back, and stamps go on from the last one; ahead by too much on another node, and
its stamps are refused here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from swarm.protocol.knowledge.bounds import FUTURE_MS, ID_BYTES

COUNTER_BITS: Final = 16
STAMP_MAX: Final = (1 << 64) - 1
STAMP_BYTES: Final = 8 + ID_BYTES


class FarFuture(ValueError):
    """A stamp is further ahead of this node's clock than is believed. ``ahead_ms`` says how far, ``bound_ms`` how far it may be."""

    def __init__(self, ahead_ms: int, bound_ms: int) -> None:
        super().__init__(
            f"a stamp {ahead_ms} ms ahead of this node's clock ({bound_ms} ms are allowed): compare `date` on both machines"
        )
        self.ahead_ms = ahead_ms
        self.bound_ms = bound_ms


class Stamp(NamedTuple):
    """When, in the order that all nodes agree on, and by whom."""

    time: int
    """``ms << 16 | counter``."""
    author: bytes

    @property
    def ms(self) -> int:
        """Wall-clock milliseconds since 1970."""
        return self.time >> COUNTER_BITS

    def packed(self) -> bytes:
        """24 bytes, ordered as the stamps are."""
        return self.time.to_bytes(8, "big") + self.author

    @classmethod
    def unpacked(cls, raw: bytes) -> Stamp:
        """The stamp of 24 bytes. ValueError for another length."""
        if len(raw) != STAMP_BYTES:
            raise ValueError(f"a stamp of {len(raw)} bytes instead of {STAMP_BYTES}")
        return cls(int.from_bytes(raw[:8], "big"), bytes(raw[8:]))


def time_of(ms: int, counter: int = 0) -> int:
    """The number of an instant."""
    return ms << COUNTER_BITS | counter


def ms_of(time: int) -> int:
    """Wall-clock milliseconds of a stamp's number."""
    return time >> COUNTER_BITS


class HybridClock:
    """Stamps of one node: each greater than all before it and all that it has seen.

    ``last`` is the latest; whoever keeps it over a restart keeps the promise over that, too.
    """

    __slots__ = ("future_ms", "last")

    def __init__(self, last: int = 0, future_ms: int = FUTURE_MS) -> None:
        self.last = last
        self.future_ms = future_ms

    def stamp(self, wall_ms: int) -> int:
        """The next stamp. A full counter carries into the milliseconds."""
        self.last = max(time_of(wall_ms), self.last + 1)
        return self.last

    def check(self, time: int, wall_ms: int) -> None:
        """FarFuture if a stamp is not to be believed yet."""
        ahead_ms = (time >> COUNTER_BITS) - wall_ms
        if ahead_ms > self.future_ms:
            raise FarFuture(ahead_ms, self.future_ms)

    def saw(self, time: int, wall_ms: int) -> None:
        """A stamp came from elsewhere: own ones are later from now on. FarFuture, and nothing changes, if it is not believed."""
        self.check(time, wall_ms)
        self.last = max(self.last, time)
