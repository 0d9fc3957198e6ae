"""What consensus wants done, as values. Beside these there are facts (`swarm.protocol.effects.Fact`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from swarm.protocol.effects import Fact
from swarm.protocol.raft.entries import Entry, Members, Snapshot, Vote


@dataclass(slots=True)
class Write:
    """What the storage has to write for one group, in the order in which these come, all of it or up to some point.

    First the vote, so that no entry on disk has a later term. Then the snapshot, if there is one: it stands for all
    entries up to its index, and with `reset` for the whole log. Then `entries` from index `first` on, in place of all
    that was there from `first` on. With `repaired` the log does not count as damaged any more; until then it does, whatever is written to it.
    """

    group: bytes
    vote: Vote | None
    snapshot: Snapshot | None
    reset: bool
    repaired: bool
    first: int
    entries: Sequence[Entry]


@dataclass(slots=True)
class Sync:
    """Write all this, sync it, then call `RaftNode.synced(number)`: one sync for all groups of a turn (group commit).

    More may be asked for before the first is done; they are done in order. A sync that fails ends the process. A write
    for which there is no space leaves what was there as it was, and its groups are begun anew from it
    (`RaftNode.restart`).
    """

    number: int
    writes: Sequence[Write]


@dataclass(slots=True)
class Send:
    """Send a frame to a node. It may be lost, come twice or late."""

    to: bytes
    payload: bytes


@dataclass(slots=True)
class Apply:
    """These entries, from index `first` on, are committed. Each index comes once, in order, save for what a snapshot skips.

    Entries of all kinds come; those that are not DATA mean nothing to the state machine above.
    """

    group: bytes
    first: int
    entries: Sequence[Entry]


@dataclass(slots=True)
class Install:
    """The state machine above takes over a snapshot in place of what it has; what is applied next comes after it."""

    group: bytes
    snapshot: Snapshot


@dataclass(slots=True)
class ReadReady:
    """A read that was asked for sees all that was committed when it was asked for, once `index` is applied: it is."""

    group: bytes
    context: bytes
    index: int


@dataclass(slots=True)
class ReadLost:
    """A read that was asked for cannot be answered here any more: ask the leader, if there is one."""

    group: bytes
    context: bytes
    leader: bytes | None


@dataclass(slots=True)
class Leading:
    """This node leads the group from here on, in this term, which no other leader of the group ever had or will have.

    The term is on disk before this is said: it is the epoch of a fencing token.
    """

    group: bytes
    term: int


@dataclass(slots=True)
class Following:
    """This node does not lead the group; `leader` does, as far as is known. What it proposed may yet be committed or not."""

    group: bytes
    term: int
    leader: bytes | None


@dataclass(slots=True)
class Changed:
    """The group has these members: committed."""

    group: bytes
    index: int
    members: Members


@dataclass(slots=True)
class Removed:
    """The leader says that this node is no member any more: close the group, and keep its vote. It stands for no election."""

    group: bytes


@dataclass(slots=True)
class Repaired:
    """A log that was damaged has all that it ever acknowledged: this member votes and counts again."""

    group: bytes


@dataclass(slots=True)
class Stranger:
    """A node speaks of a group that is not known here: create it without members, if this node is to be a member."""

    group: bytes
    sender: bytes


Effect = (
    Sync
    | Send
    | Apply
    | Install
    | ReadReady
    | ReadLost
    | Leading
    | Following
    | Changed
    | Removed
    | Repaired
    | Stranger
    | Fact
)


class Refusal(Enum):
    """Why a leader does not do what it is asked. None of these leaves anything behind."""

    NOT_LEADER = "not-leader"
    BUSY = "busy"
    """Too much is not committed yet."""
    HANDING_OVER = "handing-over"
    FULL = "full"
    """This node's disk is full."""
    TOO_LARGE = "too-large"
    NOT_YET = "not-yet"
    """Nothing of the leader's own term is committed yet (Ongaro's correction of 2015)."""
    PENDING = "pending"
    """Another change of the members is not committed yet."""
    NO_CHANGE = "no-change"
    UNKNOWN_MEMBER = "unknown-member"
    BEHIND = "behind"
    """The learner lacks too much to be made a voter, or is not there, or is damaged."""
    LAST_VOTER = "last-voter"
    TOO_MANY = "too-many"
    UNKNOWN_GROUP = "unknown-group"


@dataclass(slots=True)
class Proposed:
    """Where a proposal stands in the log. It is committed if what is applied at `index` has `term`, lost if it has another."""

    index: int
    term: int
