"""The second place of the votes, and what must be there of a journal: two small files, written in turn.

Each has all votes, the numbers of the first and the last segment, and the number of a commit that was synced before. One that
was torn or has rotted leaves the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

import msgpack

from nodes.journal.format import CHECK_BYTES, VERSION, FormatError, NewerError, check
from nodes.journal.stamps import BLOCK
from swarm.protocol.raft.entries import Vote

MAGIC: Final = b"SWARMJST"
_HEAD = Struct("<8sIIQ8s")


@dataclass(slots=True)
class State:
    """What a state file says."""

    fleet: bytes
    node: bytes
    generation: int = 0
    """The greater is the newer."""
    first: int = 1
    """The oldest segment that belongs to the journal."""
    last: int = 0
    """The youngest segment that must be there."""
    commit: int = 0
    """All commits up to this one were synced: what is missing of them is lost, not torn."""
    votes: Mapping[bytes, Vote] = field(default_factory=dict)

    def pack(self) -> bytes:
        """Whole blocks."""
        body: bytes = msgpack.packb(
            (
                self.fleet, self.node, self.first, self.last, self.commit,
                [(group, vote.term, vote.candidate, *vote.left) for group, vote in sorted(self.votes.items())],
            )
        )  # fmt: skip
        head = _HEAD.pack(MAGIC, VERSION, len(body), self.generation, b"")[:-CHECK_BYTES]
        whole: bytes = head + check(head + body) + body
        return whole.ljust(-(-len(whole) // BLOCK) * BLOCK, b"\0")

    @classmethod
    def unpack(cls, data: bytes) -> State:
        """FormatError if it is none, NewerError if a later version wrote it."""
        if len(data) < _HEAD.size or data[:8] != MAGIC:
            raise FormatError("no state")
        _, version, size, generation, found = _HEAD.unpack_from(data)
        body = data[_HEAD.size : _HEAD.size + size]
        whole = found == check(data[: _HEAD.size - CHECK_BYTES] + body)
        if not whole:
            raise FormatError("a state that is not whole")
        if version > VERSION:  # the head and its checksum are the same in all versions
            raise NewerError("a later version")
        fleet, node, first, last, commit, votes = msgpack.unpackb(body)
        return cls(
            fleet, node, generation, first, last, commit,
            {group: Vote(term, candidate, tuple(left) or (0, 0)) for group, term, candidate, *left in votes},
        )  # fmt: skip
