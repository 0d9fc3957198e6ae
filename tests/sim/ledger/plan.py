"""What happens in one run, drawn from its seed beforehand: each step stands for itself, so any of them can be left out."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from swarm.protocol.ledger.config import LedgerConfig
from swarm.protocol.raft.config import RaftConfig
from tests.sim.raft.plan import Plan, Step

FAULTS = (
    "crash", "crash", "crash", "part", "part", "cut", "weather", "pause", "clock", "slow", "fsync", "full", "rot", "wipe",
    "transfer", "storm", "pick", "betray", "drain", "leave",
)  # fmt: skip
WORK = ("submit", "submit", "submit", "resubmit", "forge", "attach", "attach", "forget", "cancel")


@dataclass
class LedgerPlan(Plan):
    """A run of the ledger: beside what a run of consensus has."""

    ledger: LedgerConfig = LedgerConfig()
    nodes: int = 4
    hosts: int = 4
    haste: float = 0.0
    """How likely an owner takes a row for lost that is not."""
    deaf: float = 0.0
    """How likely a client does not hear an answer."""


def draw(seed: int, members: int | None = None) -> LedgerPlan:
    """The plan of a seed."""
    rng = Random(f"ledger {seed}")
    random = rng.random
    raft = RaftConfig(
        heartbeat_s=0.1 if random() < 0.5 else 0.19,
        append_entries=1 + int(8 * random()),
        append_bytes=200 + int(2000 * random()),
        inflight_messages=1 + int(5 * random()),
        snapshot_chunk_bytes=100 + int(1000 * random()),
        catch_up_entries=int(8 * random()),
        rest_after_s=0.1 + random(),
        preferred_delay_s=0.3 * random(),
    )
    ledger = LedgerConfig(
        raft=raft,
        pack_bytes=400 + int(2000 * random()),
        log_bytes_min=500 + int(8000 * random() ** 2),
        replace_after_s=2.5,
        readd_after_s=1.0,
        policy_every_s=0.15,
        forget_every_s=0.2,
        undelivered_s=5000.0,
    )
    nodes = 3 if random() < 0.1 else 4
    plan = LedgerPlan(
        seed,
        voters=nodes,
        spares=0,
        groups=0,
        config=raft,
        compact_at=0,
        compact_keep=0,
        snapshot_bytes=0,
        duration_s=2.0 + 5.0 * random(),
        eager=False,
        meddles=False,
        ambushes=0.7 if random() < 0.3 else 0.0,
        delay_s=0.003 if random() < 0.3 else 0.0003,
        ledger=ledger,
        nodes=nodes,
        hosts=nodes - 1 if random() < 0.1 else nodes,
        haste=0.2 if random() < 0.3 else 0.0,
        deaf=0.3 if random() < 0.5 else 0.0,
    )
    kinds = sorted({FAULTS[int(random() * len(FAULTS))] for _ in range(1 + int(6 * random()))})
    pause_s = 0.25 + 1.2 * random()
    at = 1.2 + random()
    while at < plan.duration_s:
        kind = kinds[int(random() * len(kinds))]
        plan.steps.append(Step(at, kind, (random(), random(), random())))
        at += pause_s * 2 * random()
    pace_s = 0.08 + 0.4 * random() ** 2
    at = 0.2 * random()
    while at < plan.duration_s:
        kind = WORK[int(random() * len(WORK))]
        plan.steps.append(Step(at, kind, (random(), random(), random())))
        at += pace_s * 2 * random()
    plan.steps.sort(key=lambda step: step.at)
    return plan
