"""Planted faults of the ledger: mutations of one place each, that the simulator has to find."""

from __future__ import annotations

from tests.sim.raft.faults import Fault, plant_in

LEDGER = "swarm.protocol.ledger"
RAFT = "swarm.protocol.raft"
OUTCOMES = ("stale-outcome", "one-outcome", "determinism", "outcome-changed")
FAULTS = {
    "stale-token": Fault(
        "batch", "return granted == token if granted is not None else token.epoch == self.epoch", "return True",
        "An outcome is taken under any token.",
        OUTCOMES, 2,
    ),
    "epoch-ignored": Fault(
        "batch", "return 0 if token.epoch == self.epoch else None", "return 0",
        "A token of any epoch counts for a row that was granted none.",
        OUTCOMES, 60,
    ),
    "two-outcomes": Fault(
        "batch", "if index >= self.count or self.ended(index):", "if index >= self.count:",
        "A second outcome of a task is taken too.",
        OUTCOMES, 1,
    ),
    "grants-not-restored": Fault(
        "batch", "for token, ranges in sorted(by_token.items()):", "for token, ranges in ():",
        "A snapshot does not bring back who holds what: stale tokens count again.",
        OUTCOMES, 64,
    ),
    "content-unchecked": Fault(
        "state", "same = known.submitted.digest == record.digest", "same = True",
        "The same key with other content gets a receipt.",
        ("content",), 0,
    ),
    "forget-unfinished": Fault(
        "state", "if batch is not None and not batch.unfinished:", "if batch is not None:",
        "A batch that has not ended is forgotten when somebody says so.",
        ("lost", "forgotten", *OUTCOMES), 1,
    ),
    "retention-zero": Fault(
        "retention", "batch.submitted.retention_s or config.undelivered_s", "batch.submitted.retention_s",
        "Outcomes that are to live until they are delivered are forgotten at once.",
        ("forgotten",), 1,
    ),
    "lead-early": Fault(
        "ledger", "group.told_leader = self.id\n", "group.told_leader = self.id\n                self._lead(group, raft)\n",
        "A new leader begins before it knows what was committed.",
        ("lead-incomplete",), 0,
    ),
    "one-host": Fault(
        "members", "if len(found) < VOTERS and view.stays(id) and view.host(id) not in hosts:",
        "if len(found) < VOTERS and view.stays(id):",
        "Two members of a group are on one host.",
        ("liveness",), 3,
    ),
}  # fmt: skip
RAFT_FAULTS = {
    "copies-unsynced": Fault(
        "leading", "if replica.log.stable >= index else found)", "if True else found)",
        "A receipt counts the leader's own disk before that has the entry.",
        ("receipt",), 5,
    ),
}  # fmt: skip
FAULTS |= RAFT_FAULTS


def plant(name: str) -> None:
    """From here on the protocol has this fault. It must not have been imported yet."""
    plant_in(RAFT if name in RAFT_FAULTS else LEDGER, FAULTS[name])
