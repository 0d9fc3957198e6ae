"""Planted faults of the knowledge log: mutations of one place each, that the simulator has to find."""

from __future__ import annotations

from tests.sim.raft.faults import Fault, plant_in

PACKAGE = "swarm.protocol.knowledge"
WRONG = ("values", "convergence", "refusal", "accusation")
FAULTS = {
    "last-heard-wins": Fault(
        "crdts", "max(slot.values(), key=order)", "list(slot.values())[-1]",
        "Of a register what came last wins, not what was said last.",
        ("values",), 1,
    ),
    "removal-wins": Fault(
        "crdts", "and said.time <= time for a,", "for a,",
        "A removal takes out additions that it has not seen.",
        ("values",), 32,
    ),
    "contradiction-kept": Fault(
        "shard", "if contradict(other.segment, segment):", "if False:",
        "Who says two things under one number is believed both.",
        WRONG, 4,
    ),
    "stamps-may-fall": Fault(
        "rules", " or one.last_time >= other.first_time", "",
        "Numbers that rise while stamps fall are taken.",
        WRONG, 4,
    ),
    "signature-unchecked": Fault(
        "shard", "return self._verify(segment.author, header, entries.signature_of(segment.raw))", "return None",
        "Anybody can speak for anybody.",
        WRONG, 30,
    ),
    "future-believed": Fault(
        "shard", "if ms_of(segment.last_time) > wall_ms + self._future_ms:", "if False:",
        "Stamps from far ahead are taken: they win for years.",
        WRONG, 4,
    ),
    "quota-unchecked": Fault(
        "shard", "if not self.quota.allows(segment):", "if False:",
        "An author may say as much as it likes.",
        WRONG, 4,
    ),
    "missing-not-wanted": Fault(
        "sync", "if lacking:", "if len(lacking) > 1:",
        "A single segment that is lacking under a leaf is not asked for.",
        ("convergence", "values"), 20,
    ),
    "pruning-believed": Fault(
        "fading", "return weight_in(strengths(facts, uses, fading), fading.cycle_of(said.time)) < fading.threshold",
        "return True",
        "Who says that a fact is pruned is believed, whatever it weighs.",
        ("values",), 6,
    ),
    "policy-unheard": Fault(
        "weights", "self.fade_by(fading_of(policy))", "pass",
        "Facts fade as they always did, whatever the policy says.",
        ("values",), 0,
    ),
    "uses-of-the-first": Fault(
        "fading", "last = crdts.by_author(uses)", "last = dict(list(crdts.by_author(uses).items())[:1])",
        "Of the uses those of one author count: who was heard first.",
        ("values",), 4,
    ),
    "hoard-kept": Fault(
        "shard", "for id in spoken.over(self._allowance):", "for id in ():",
        "Of an author that says too much all is kept.",
        WRONG, 24,
    ),
    "numbers-again": Fault(
        "knowledge", "ranges[-1][1] + (0 if clean else SKIPPED), clock.last", "0, clock.last",
        "After a restart a node numbers its entries from the first again.",
        ("numbers", "values", "refusal"), 0,
    ),
}  # fmt: skip


def plant(name: str) -> None:
    """From here on the knowledge log has this fault. It must not have been imported yet."""
    plant_in(PACKAGE, FAULTS[name])
