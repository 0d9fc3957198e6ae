"""What is taken and what is refused: by rules that look at a segment alone, so that all nodes come to the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from blake3 import blake3

from swarm.protocol.knowledge import bounds
from swarm.protocol.knowledge.entries import Segment
from swarm.protocol.knowledge.stamps import ms_of

STRIKE: Final = 0xF0
"""The first byte of a proof against a line; that of a segment is its version."""


class Outcome(Enum):
    """What became of a segment."""

    NEW = "new"
    """It counts."""
    KNOWN = "known"
    """It was here before."""
    OLD = "old"
    """All that it says is out of date for longer than the retention."""
    CONTRADICTS = "contradicts"
    """It shows that its line contradicts itself, which is struck from now on; `strike` has the proof."""
    STRUCK = "struck"
    """Its line contradicted itself before: nothing of the line counts."""
    LINES = "lines"
    """Its author has begun so many lines since that this one is not kept."""
    QUOTA = "quota"
    """Its author has said more than it may on one line."""
    ALLOWANCE = "allowance"
    """Of its author more is held already that is later: this one does not fit beside it."""
    RATE = "rate"
    """Its author says too much at a time: to be offered again."""
    FUTURE = "future"
    """Its stamps are too far ahead: to be offered again when their time has come."""
    UNKNOWN_AUTHOR = "unknown-author"
    """Whose it is is not known yet: to be offered again with the author's certificate."""
    REVOKED = "revoked"
    SIGNATURE = "signature"
    """The signature does not fit: whoever hands on such a thing breaks the protocol."""
    MALFORMED = "malformed"
    WRONG_SHARD = "wrong-shard"


WAITS: Final = frozenset((Outcome.FUTURE, Outcome.UNKNOWN_AUTHOR, Outcome.RATE))
"""Not for good."""
VIOLATIONS: Final = frozenset((Outcome.SIGNATURE, Outcome.MALFORMED, Outcome.WRONG_SHARD))
"""No correct node hands such a thing on."""

Verify = Callable[[bytes, bytes, bytes], Outcome | None]
"""(author, message, signature) -> None if the author signed the message and is trusted, else UNKNOWN_AUTHOR, REVOKED or SIGNATURE."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How many entries an author may have made on one line of a shard. The same in the whole fleet: a segment is within it or
    not by its own header, so all nodes agree."""

    burst: int = bounds.QUOTA_BURST
    per_s: float = bounds.QUOTA_PER_S

    def allows(self, segment: Segment) -> bool:
        """Whether the line may have come so far by the time of the segment."""
        return self.within(segment.life, segment.first + segment.count, segment.last_time)

    def within(self, life: int, end: int, time: int) -> bool:
        """Whether a line that began at `life` may have come to number `end` by a stamp."""
        return end <= self.burst + self.per_s * (ms_of(time) - ms_of(life)) / 1000


def by_number(segment: Segment) -> tuple[int, bytes]:
    return segment.first, segment.id


def contradict(one: Segment, other: Segment) -> bool:
    """Whether no author that keeps its numbers can have made both of a line: they share numbers, or stamps fall as numbers rise."""
    if one.first > other.first:
        one, other = other, one
    return one.first + one.count > other.first or one.last_time >= other.first_time


def strike_place(line: tuple[bytes, int]) -> bytes:
    """Where in the tree the proof against a line is; the same whichever proof it is."""
    author, life = line
    return life.to_bytes(8, "big") + blake3(b"strike" + author + life.to_bytes(8, "big")).digest(bounds.ID_BYTES)
