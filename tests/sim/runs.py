"""Runs of seeds, and how a failing one becomes short: the same for consensus, the ledger and the owners above it."""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from tests.sim.raft.plan import Plan
    from tests.sim.raft.truth import Broken
    from tests.sim.scenarios import Outcome

# What is under test is imported when a run begins, and not before: a fault may have to be planted in it first.

P = TypeVar("P", bound="Plan")


class Runs(Generic[P]):
    """One kind of run: how a seed's plan is drawn, and the world in which it is carried out."""

    def __init__(self, draw: Callable[..., P], world: Callable[..., Any], shrinks_max: int) -> None:
        self._draw = draw
        self._world = world
        self._shrinks_max = shrinks_max

    def run(self, seed: int, members: int | None = None, brief: bool = False) -> Outcome:
        """One seed. `Broken` with its short trace if something does not hold."""
        from tests.sim.raft.truth import Broken
        from tests.sim.scenarios import Outcome

        plan = self._draw(seed, members)
        world = self._world(plan)
        try:
            world.run()
        except Broken as broken:
            story = "" if brief else f"\n{self.explain(plan, broken)}"
            raise Broken(f"seed {seed}: {broken}{story}") from None
        return Outcome(world.sim.trace, world.sim.events, world.sim.now, len(world.disks))

    def failure(self, plan: P) -> str | None:
        """The name of the property that does not hold in a run."""
        from tests.sim.raft.truth import Broken

        try:
            self._world(plan).run()
        except Broken as broken:
            return str(broken).split(":")[0]
        return None

    def shrink(self, plan: P, name: str) -> P:
        """A plan of fewer steps in which the same property does not hold (Zeller's delta debugging, without complements)."""
        runs, steps = 0, plan.steps
        size = max(1, len(steps) // 2)
        while True:
            start = 0
            while start < len(steps) and runs < self._shrinks_max:
                fewer = steps[:start] + steps[start + size :]
                runs += 1
                if self.failure(replace(plan, steps=fewer)) == name:
                    steps = fewer
                else:
                    start += size
            if size == 1 or runs >= self._shrinks_max:
                return replace(plan, steps=steps)
            size = max(1, size // 2)

    def explain(self, plan: P, broken: Broken, lines: int = 60) -> str:
        """The steps that are left of a failing plan, and the last lines of what happened in it."""
        from tests.sim.raft.truth import Broken

        short = self.shrink(plan, str(broken).split(":")[0])
        world = self._world(short, trace=True)
        text = ""
        try:
            world.run()
        except Broken as again:
            text = str(again)
        assert world.trace is not None
        steps = "\n".join(f"  {step}" for step in short.steps)
        last = "\n".join(f"  {line}" for line in world.trace.lines[-lines:])
        return f"{len(short.steps)} of {len(plan.steps)} steps are enough:\n{steps}\n{last}\n  {text}"


def main(package: str, faults: Mapping[str, object], plant: Callable[[str], None], *, sized: bool = False) -> int:
    """Runs seeds until one fails: ``python -m PACKAGE [--seeds 1000] [--start 0] [--fault NAME]``.

    With ``--fault`` one of the planted faults is in the protocol; then a seed that fails is what is wanted. Prints the
    steps that are enough to make it fail, and what happened. Exit status 1 if a seed failed. Of consensus alone the number of
    voters may be said (`sized`).
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    if sized:
        parser.add_argument("--members", type=int, choices=(3, 5), help="only groups of so many")
    parser.add_argument("--fault", choices=sorted(faults))
    parser.add_argument("--brief", action="store_true", help="only the first line of a failure")
    arguments = parser.parse_args()
    if arguments.fault:
        plant(arguments.fault)  # before the protocol is imported
    run = importlib.import_module(f"{package}.runs").run
    from tests.sim.raft.truth import Broken

    began, events = time.perf_counter(), 0
    for seed in range(arguments.start, arguments.start + arguments.seeds):
        try:
            events += run(seed, getattr(arguments, "members", None), brief=arguments.brief).events
        except Broken as broken:
            took_s = time.perf_counter() - began
            print(f"FAILED after {seed - arguments.start + 1} seeds, {took_s:.1f} s: {broken}")
            return 1
    took_s = time.perf_counter() - began
    print(f"{arguments.seeds} seeds, {events} events, {took_s:.1f} s, {events / took_s:.0f} events/s: nothing found")
    return 0
