"""What happens in one run, drawn from its seed beforehand: each step stands for itself, so any of them can be left out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from swarm.protocol.raft.config import RaftConfig


@dataclass(frozen=True)
class Step:
    """Something that is done at an instant (simulated seconds)."""

    at: float
    name: str
    arguments: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.at:7.3f} {self.name} {' '.join(f'{value:.3g}' for value in self.arguments)}"


@dataclass
class Plan:
    """A run."""

    seed: int
    voters: int
    spares: int
    groups: int
    config: RaftConfig
    compact_at: int
    compact_keep: int
    snapshot_bytes: int
    duration_s: float
    eager: bool
    """The operator acts as soon as there is a leader."""
    meddles: bool
    """The operator changes members at random, by whoever believes to lead."""
    ambushes: float
    """How likely a new leader is cut off or crashes within milliseconds: the moment at which things are half done."""
    delay_s: float = 0.0003
    """Of a message, at least; up to twice that. The longer, the more is half done at any moment."""
    grows: bool = False
    """Each group begins with its home alone, as that of a node does that finds others later: its log goes back to where it had one voter."""
    steps: list[Step] = field(default_factory=list)


FAULTS = (
    "crash", "crash", "crash", "part", "part", "cut", "weather", "pause", "clock", "slow", "fsync", "full", "rot", "wipe",
    "transfer", "members", "storm", "pick", "betray",
)  # fmt: skip
"""Kinds of steps besides proposals and reads; each seed has some of them. Arguments are floats in [0, 1)."""


VOTERS = (3, 3, 3, 3, 3, 5, 5, 5, 4, 2)
"""Even numbers since they are on the way from one odd number to another, and where changes of members can go wrong."""


def draw(seed: int, members: int | None = None) -> Plan:
    """The plan of a seed."""
    rng = Random(f"raft {seed}")
    random = rng.random
    config = RaftConfig(
        heartbeat_s=0.1 if random() < 0.3 else 0.19,
        append_entries=1 if random() < 0.3 else 2 + int(6 * random()),
        append_bytes=60 + int(400 * random()),
        inflight_messages=1 + int(5 * random()),
        snapshot_chunk_bytes=8 + int(60 * random()),
        catch_up_entries=int(8 * random()),
        rest_after_s=0.1 + random(),
        uncommitted_bytes=400 if random() < 0.2 else 1 << 20,
        preferred_delay_s=0.3 * random(),
    )
    plan = Plan(
        seed,
        voters=members or VOTERS[int(random() * len(VOTERS))],
        spares=2,
        groups=1 if random() < 0.9 else 3,
        config=config,
        compact_at=4 + int(40 * random() ** 2),
        compact_keep=int(5 * random()),
        snapshot_bytes=int(120 * random()),
        duration_s=2.0 + 5.0 * random(),
        eager=random() < 0.5,
        meddles=random() < 0.25,
        ambushes=0.8 if random() < 0.25 else 0.0,
    )
    style = random()
    if style < 0.35:
        plan.delay_s = 0.003
    if style < 0.15:
        # Every leader changes the members as it begins, and is cut off with one other.
        plan.voters, plan.groups, plan.duration_s = members or 4, 1, 12.0
        plan.meddles = plan.eager = True
        plan.ambushes = 0.9
    elif style < 0.35:
        # Every leader is gone before it has committed anything, and comes back (figure 8 of the paper).
        plan.ambushes, plan.groups, plan.duration_s = 0.95, 1, 15.0
        plan.config = replace(plan.config, append_entries=1)
        plan.voters = members or 3
    if seed % 10 == 7:
        plan.grows, plan.meddles, plan.compact_at = True, False, 1000
        plan.voters = members or 3
        if seed % 20 == 7:
            plan.ambushes, plan.groups, plan.duration_s = 0.95, 1, 15.0
    kinds = sorted({FAULTS[int(random() * len(FAULTS))] for _ in range(1 + int(7 * random()))})
    pause_s = 0.15 + 1.2 * random()
    if style < 0.35:
        kinds, pause_s = ["crash", "part"], 3.0
    at = 1.0 * random()
    while at < plan.duration_s:
        kind = kinds[int(random() * len(kinds))]
        plan.steps.append(Step(at, kind, (random(), random(), random())))
        at += pause_s * 2 * random()
    pace_s = 0.2 if style < 0.35 else 0.015 + 0.15 * random() ** 2
    # In some runs nobody wants anything for a while: groups go to rest, and are disturbed there.
    calm = (1.0, 1.0 + 3.0 * random()) if random() < 0.25 else (0.0, 0.0)
    at = 0.2 * random()
    while at < plan.duration_s:
        if calm[0] <= at < calm[1]:
            at = calm[1]
        plan.steps.append(Step(at, "read" if random() < 0.25 else "propose", (random(), random())))
        at += pace_s * 2 * random()
    plan.steps.sort(key=lambda step: step.at)
    return plan
