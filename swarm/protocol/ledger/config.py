"""The ledger's parameters and bounds, with the formulas between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from swarm.protocol.ledger.homes import HOMES_MAX
from swarm.protocol.raft.config import ENTRY_BYTES_MAX, MIB, SNAPSHOT_BYTES_MAX, RaftConfig

RECORD_BYTES_MAX: Final = ENTRY_BYTES_MAX - 1
"""One record, which takes an entry of its own if it must."""
VOTERS: Final = 3
"""Of a group: it goes on while one of them is away."""


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """Durations in seconds, sizes in bytes."""

    raft: RaftConfig = field(default_factory=RaftConfig)
    pack_bytes: int = MIB
    """Records of one turn are packed into entries of about so much."""
    state_bytes_max: int = 48 * MIB
    """Of one log's state, space that is reserved for outcomes included: beyond it no batch is accepted."""
    hard_bytes_max: int = 56 * MIB
    """Beyond it no outcome that takes more than was reserved for it either: its payload has to go into a blob."""
    log_bytes_min: int = 8 * MIB
    """A log is compacted when its entries take more than this, and more than the state does."""
    replace_after_s: float = 600.0
    """A member that is away for so long has left for good, if the others are a majority."""
    readd_after_s: float = 30.0
    """Who was removed is added again no sooner: whatever it had said as a member has arrived or is lost by then."""
    policy_every_s: float = 0.5
    """Between two looks at a group whose members are not yet what they should be."""
    undelivered_s: float = 7 * 86400.0
    """Outcomes with a retention of zero, which nobody fetches, live for so long."""
    forget_every_s: float = 1.0
    """At least this long between two rounds of forgetting."""
    clock_slack_s: float = 3600.0
    """So much later than the latest record may a new leader's wall clock be and still be believed at once."""
    groups_max: int = HOMES_MAX - 1
    """Groups of other homes that a node takes part in."""
    refuse_after_s: float = 0.5
    """When to come back, if there is no better guess."""

    def __post_init__(self) -> None:
        assert 0 < self.pack_bytes <= RECORD_BYTES_MAX
        assert 0 < self.state_bytes_max < self.hard_bytes_max < SNAPSHOT_BYTES_MAX
        assert 0 <= self.groups_max < HOMES_MAX, "a node names its own home too"
        assert self.readd_after_s > 0 and self.policy_every_s > 0


DEFAULT: Final = LedgerConfig()
