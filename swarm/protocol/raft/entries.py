"""What a log is made of: entries, the members of a group, snapshots, and what a node found on its disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from swarm.protocol.raft.config import MEMBERS_MAX, NODE_ID_BYTES


class EntryKind(IntEnum):
    """What an entry is for; the number is on the wire and on disk."""

    NOTHING = 0
    """The first entry of a leader's term (Ongaro 2014, 6.4): what was before it is committed with it."""
    DATA = 1
    """Of the state machine above, opaque here."""
    MEMBERS = 2
    """The members of the group from here on."""


class Entry(NamedTuple):
    """An entry; its index is known from where it lies. A plain tuple on the wire."""

    term: int
    kind: int
    data: bytes


class FormatError(ValueError):
    """Bytes that are not what they should be. The text is one of few, so that it can label a count."""


def _ids(value: Any) -> list[bytes]:
    if type(value) is not list or not all(type(id) is bytes and len(id) == NODE_ID_BYTES for id in value):
        raise FormatError("members")
    return value


@dataclass(frozen=True, slots=True)
class Members:
    """Who is in a group; sorted. Learners get entries and have no vote (Ongaro 2014, 4.2.1)."""

    voters: tuple[bytes, ...] = ()
    learners: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, voters: Iterable[bytes], learners: Iterable[bytes] = ()) -> Members:
        """Sorted, and each once."""
        voting = sorted(set(voters))
        return cls(tuple(voting), tuple(sorted(set(learners) - set(voting))))

    @property
    def majority(self) -> int:
        """How many voters are more than half."""
        return len(self.voters) // 2 + 1

    @property
    def all(self) -> tuple[bytes, ...]:
        """Voters, then learners."""
        return self.voters + self.learners

    def pack(self) -> bytes:
        """As the data of an entry."""
        return bytes(msgpack.packb({"v": self.voters, "l": self.learners}))

    def fields(self) -> dict[str, Any]:
        """As part of a message."""
        return {"v": self.voters, "l": self.learners}

    @classmethod
    def unpack(cls, data: bytes) -> Members:
        """The inverse of `pack`. FormatError if it is none."""
        try:
            return cls.read(msgpack.unpackb(data))
        except FormatError:
            raise
        except Exception:
            raise FormatError("members") from None

    @classmethod
    def read(cls, value: Any) -> Members:
        """From a part of a message. FormatError if it is none."""
        if type(value) is not dict:
            raise FormatError("members")
        voters, learners = _ids(value.get("v")), _ids(value.get("l"))
        members = cls.of(voters, learners)
        if len(members.all) > MEMBERS_MAX or len(members.all) != len(voters) + len(learners):
            raise FormatError("members")
        return members


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What stands for all entries up to `index`. The one at index 0 is the empty log with its first members."""

    index: int = 0
    term: int = 0
    members: Members = field(default_factory=Members)
    data: bytes = b""
    """The state of the state machine above, or a reference to it."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What must be on disk before a member answers (Raft's hard state): its term, and for whom it voted in it."""

    term: int = 0
    candidate: bytes | None = None
    left: tuple[int, int] = (0, 0)
    """(term, index) of the last entry of the log that it gave up when it left the group. It had acknowledged what was in it: added
    again, with an empty log, it votes as one that has it still."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a node found on its disk for one group.

    `damaged` says that entries or the snapshot that had once been synced cannot be read; `snapshot` and `entries` are
    then what comes before them. The vote is never damaged: it is kept in two places, and a disk that lost both is a lost
    disk, so its node comes back under a new identity.
    """

    vote: Vote = Vote()
    snapshot: Snapshot = Snapshot()
    entries: tuple[Entry, ...] = ()
    """From index `snapshot.index + 1` on."""
    damaged: bool = False
