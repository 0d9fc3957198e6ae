"""The parameters of a group's consensus, and the bounds of its messages, with the formulas between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

NODE_ID_BYTES: Final = 16
BOOT_BYTES: Final = 8
GROUP_BYTES_MAX: Final = 32
"""The name of a group: the id of its home node, in most cases."""
MEMBERS_MAX: Final = 16
"""Voters and learners of one group together."""
NUMBER_MAX: Final = 2**62
"""Terms, indices, rounds: far above what is ever reached, and below what MessagePack can carry."""

TERM_JUMP_MAX: Final = 1 << 20
"""How much later a term may be than the one that is known here. So many elections are not missed; and who would use terms
up, so that none is left, needs 2^42 messages for it."""
FORCED_TERMS: Final = 1 << 10
"""How much later the term of a forced leadership is than all that its member has seen: above whatever those that are lost
may have reached meanwhile."""

ENTRY_BYTES_MAX: Final = 4 * MIB
"""One entry: a batch of tasks, whose large payloads are blobs."""
ENTRIES_MAX: Final = 1024
"""Of one message."""
MESSAGE_BYTES_MAX: Final = 8 * MIB
"""Of all entries of one message; its sender stops well before."""
FRAME_BYTES_MAX: Final = 16 * MIB
"""What goes to one peer as one message of a link."""
MESSAGES_MAX: Final = 65536
"""Of one frame."""
SNAPSHOT_BYTES_MAX: Final = 64 * MIB
"""A snapshot that is sent in chunks; what is larger is sent as a reference to a blob."""
CONTEXT_BYTES_MAX: Final = 64
assert FORCED_TERMS < TERM_JUMP_MAX < NUMBER_MAX
assert ENTRY_BYTES_MAX < MESSAGE_BYTES_MAX < FRAME_BYTES_MAX


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """How often, how long, how much. Durations in seconds on the clock of the shell."""

    heartbeat_s: float = 0.1
    """Between two heartbeats of a leader, and of one node to another for all groups that are at rest."""
    election_timeout_s: float = 0.6
    """The shortest time without a leader after which a member asks for votes; the longest is twice that. For as long a
    member that hears from its leader votes for nobody else, and a leader that does not hear from a majority resigns."""
    preferred_delay_s: float = 0.3
    """All but the preferred member wait for so much longer."""
    transfer_timeout_s: float = 0.6
    """Until a hand-over of leadership that did not happen is given up and proposals are taken again."""
    prefer_interval_s: float = 2.0
    """The least time between two attempts to hand leadership to the preferred member."""
    rest_after_s: float = 1.0
    """A group with nothing to do for so long is at rest: it sends nothing and has no timer."""
    append_bytes: int = 256 * KIB
    """A message of entries is closed when it holds so much."""
    append_entries: int = 512
    inflight_messages: int = 64
    """Messages of entries that may be under way to one member."""
    inflight_bytes: int = 4 * MIB
    uncommitted_bytes: int = 16 * MIB
    """Of proposals that are not committed; above it a leader says that it is busy."""
    snapshot_chunk_bytes: int = 256 * KIB
    catch_up_entries: int = 256
    """A learner that lacks at most so many entries can be made a voter."""
    frame_bytes: int = MIB
    """A frame is closed when it holds so much."""

    def __post_init__(self) -> None:
        assert 0 < 3 * self.heartbeat_s <= self.election_timeout_s, "some heartbeats may be lost without an election"
        assert 0 < self.append_entries <= ENTRIES_MAX
        assert 0 < self.append_bytes <= MESSAGE_BYTES_MAX - ENTRY_BYTES_MAX
        assert 0 < self.snapshot_chunk_bytes <= MESSAGE_BYTES_MAX
        assert 0 < self.frame_bytes <= FRAME_BYTES_MAX - MESSAGE_BYTES_MAX


DEFAULT: Final = RaftConfig()
