"""Runs of seeds, and how a failing one becomes short."""

from __future__ import annotations

from dataclasses import replace

from tests.sim.ledger.plan import LedgerPlan, draw
from tests.sim.ledger.world import LedgerWorld
from tests.sim.raft.truth import Broken
from tests.sim.scenarios import Outcome


def run(seed: int, brief: bool = False, kind: type[LedgerWorld] = LedgerWorld) -> Outcome:
    """One seed. `Broken` with its short trace if something does not hold."""
    plan = draw(seed)
    world = kind(plan)
    try:
        world.run()
    except Broken as broken:
        story = "" if brief else f"\n{explain(plan, broken, kind=kind)}"
        raise Broken(f"seed {seed}: {broken}{story}") from None
    return Outcome(world.sim.trace, world.sim.events, world.sim.now, len(world.disks))


def failure(plan: LedgerPlan, kind: type[LedgerWorld] = LedgerWorld) -> str | None:
    """The name of the property that does not hold in a run."""
    try:
        kind(plan).run()
    except Broken as broken:
        return str(broken).split(":")[0]
    return None


def shrink(plan: LedgerPlan, name: str, runs_max: int = 150, kind: type[LedgerWorld] = LedgerWorld) -> LedgerPlan:
    """A plan of fewer steps in which the same property does not hold (Zeller's delta debugging, without complements)."""
    runs, steps = 0, plan.steps
    size = max(1, len(steps) // 2)
    while True:
        start = 0
        while start < len(steps) and runs < runs_max:
            fewer = steps[:start] + steps[start + size :]
            runs += 1
            if failure(replace(plan, steps=fewer), kind) == name:
                steps = fewer
            else:
                start += size
        if size == 1 or runs >= runs_max:
            return replace(plan, steps=steps)
        size = max(1, size // 2)


def explain(plan: LedgerPlan, broken: Broken, lines: int = 60, kind: type[LedgerWorld] = LedgerWorld) -> str:
    """The steps that are left of a failing plan, and the last lines of what happened in it."""
    short = shrink(plan, str(broken).split(":")[0], kind=kind)
    world = kind(short, trace=True)
    text = ""
    try:
        world.run()
    except Broken as again:
        text = str(again)
    assert world.trace is not None
    steps = "\n".join(f"  {step}" for step in short.steps)
    last = "\n".join(f"  {line}" for line in world.trace.lines[-lines:])
    return f"{len(short.steps)} of {len(plan.steps)} steps are enough:\n{steps}\n{last}\n  {text}"
