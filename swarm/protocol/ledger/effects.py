"""What the ledger wants done, as values. Raft's `Send`, `Sync`, `ReadReady` and `ReadLost` come through as they are, and facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from swarm.protocol.effects import EMPTY, Fact
from swarm.protocol.ledger.homes import Announcement
from swarm.protocol.ledger.state import Applied, LedgerState
from swarm.protocol.raft.effects import ReadLost, ReadReady, Send, Sync


class Reason(Enum):
    """Why something is not taken."""

    NOT_LEADER = "not-leader"
    """Ask `leader`, if that is known."""
    NOT_YET = "not-yet"
    """Leadership has just begun."""
    HANDING_OVER = "handing-over"
    BUSY = "busy"
    """Too much is not committed yet."""
    DISK_FULL = "disk-full"
    FULL = "full"
    """The log's state has reached its bound."""
    TOO_LARGE = "too-large"
    """The record itself; or an outcome beyond what was reserved for it, when there is no other room: make its payload a blob."""
    CONFLICT = "conflict"
    """The batch's key is known with other content; `facts` has both digests."""
    KNOWN = "known"
    """The batch is there already, with this content: `LedgerState.batches` has it. Nothing needs to be done."""
    GONE = "gone"
    """What it refers to is nowhere."""
    MALFORMED = "malformed"
    UNKNOWN_GROUP = "unknown-group"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was not taken; nothing of it is left behind."""

    reason: Reason
    hint: str
    leader: bytes | None = None
    retry_after_s: float | None = None
    facts: Mapping[str, object] = field(default_factory=lambda: EMPTY)


@dataclass(slots=True)
class Committed:
    """A proposal is committed and applied. `applied` says what it came to: of a submission `DONE` or `KNOWN` is a receipt,
    `CONFLICT` is not; of an ending the outcomes that count, which may be revealed now."""

    ticket: int
    copies: int
    """Disks that are known to have it."""
    hosts: int
    applied: Applied


@dataclass(slots=True)
class Dropped:
    """A proposal came to nothing; or, if `unknown`, leadership was lost before it was known: it may yet be committed."""

    ticket: int
    why: str
    unknown: bool


@dataclass(slots=True)
class Lead:
    """This node leads the group, and `state` has all that was ever committed. `epoch` is that of the tokens to grant."""

    group: bytes
    epoch: int
    state: LedgerState


@dataclass(slots=True)
class Follow:
    """This node does not lead the group (any more): what it holds of its batches as an owner, it gives up."""

    group: bytes
    leader: bytes | None


@dataclass(slots=True)
class Announce:
    """What to say in the node's own record from here on."""

    announcement: Announcement


@dataclass(slots=True)
class Close:
    """This node is no member of the group any more. A `Sync` before this has the storage drop the log and the snapshot and
    keep the vote: what it finds of the group at its next start is `Recovered` with that vote and nothing else."""

    group: bytes


@dataclass(slots=True)
class Named:
    """Of what lies beside a log of which this node has a copy, something is needed that was not, or is not any more:
    `LedgerState.pins` of all logs say what has to be on this node's disk."""

    group: bytes


@dataclass(slots=True)
class Drained:
    """All has been handed over that can be now. `left` are groups which nobody can take over: of this node alone, or those
    who could are away. It comes again when that is not so any more."""

    left: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Loss:
    """What a forced recovery gives up, and what it goes on from."""

    group: bytes
    gone: tuple[bytes, ...]
    """Voters that are none any more. Should one of them still run, its outcomes and this one's may differ."""
    last: int
    """Entries up to here are kept. What was committed after it by those who are gone is lost, with its receipts."""
    committed: int
    """Entries up to here were known here as committed; those between may have been given up by the others, and are kept."""
    damaged: bool
    """This log has lost entries that it once acknowledged, besides."""
    wall: float
    """Time of the latest record that was known as committed."""
    batches: int
    unfinished: int


Effect = (
    Send | Sync | ReadReady | ReadLost | Committed | Dropped | Lead | Follow | Announce | Close | Named | Drained | Fact
)
