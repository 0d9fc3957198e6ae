"""What happens in one run, drawn from its seed beforehand: each step stands for itself, so any of them can be left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from swarm.protocol.knowledge.keeper import KeeperConfig
from swarm.protocol.knowledge.replicas import Replication
from tests.sim.knowledge.adversary import WAYS
from tests.sim.raft.plan import Step

DAY_S = 86400.0
WORK = (
    "put", "put", "put", "again", "drop", "add", "add", "take-out", "count", "believe", "many",
    "use", "use", "prune", "prune", "prune", "bring-back", "policy",
)  # fmt: skip
FAULTS = (
    "crash",
    "crash",
    "part",
    "part",
    "away",
    "weather",
    "clock",
    "ahead",
    "pause",
    "lie",
    "lie",
    "revoke",
    "restore",
)


@dataclass
class KnowledgePlan:
    """A run."""

    seed: int
    nodes: int
    shards: int
    replication: Replication
    config: KeeperConfig
    duration_s: float
    week: bool
    """Days rather than minutes, with nodes that are away for up to a week."""
    steps: list[Step] = field(default_factory=list)


def draw(seed: int, members: int | None = None) -> KnowledgePlan:
    """The plan of a seed."""
    rng = Random(f"knowledge {seed}")
    random = rng.random
    nodes = members or 3 + int(5 * random())
    week = random() < 0.4
    duration_s = (9 + 6 * random()) * DAY_S if week else 60 + 200 * random()
    config = KeeperConfig(
        sync_every_s=5400.0 if week else 4.0,
        expire_every_s=7200.0 if week else 7.0,
        retention_ms=int((8 * DAY_S if week else 1e6) * 1000),
        fanout_extra=3 * random() - 1,
    )
    whole = random() < 0.6
    # One of the holders may be the one that lies; with less than two others all may be down for longer than anything is kept.
    replication = Replication(factor=3 + int(2 * random()), whole_nodes_max=16 if whole else 0)
    plan = KnowledgePlan(seed, nodes, 1 if random() < 0.3 else 4, replication, config, duration_s, week)
    kinds = [kind for kind in dict.fromkeys(FAULTS) if random() < 0.5]
    weights = [kind for kind in FAULTS if kind in kinds]
    for _ in range(20 + int(80 * random())):
        step = Step(duration_s * random(), WORK[int(random() * len(WORK))], tuple(random() for _ in range(3)))
        plan.steps.append(step)
    for _ in range(int(16 * random()) if weights else 0):
        name = weights[int(random() * len(weights))]
        plan.steps.append(Step(duration_s * random(), name, tuple(random() for _ in range(4))))
    plan.steps.sort(key=lambda step: step.at)
    return plan


def way_of(value: float) -> str:
    """The lie that a number in [0, 1) stands for."""
    return WAYS[int(value * len(WAYS))]
