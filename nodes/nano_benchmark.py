"""`swarm nano benchmark`: populations that do next to nothing, so that what is measured is the scheduler."""

from __future__ import annotations

import time
from typing import Any

from kernels.passes import TICKS
from swarm import nano


def measure(form: str, agents: int, seconds: float, cores: int = 1) -> dict[str, Any]:
    """Ticks of one form for about so many seconds, each agent once a pass.

    Native ticks move x by v; generators and objects do nothing. A batch is measured whole, a native tick of one agent by the
    chained guard, Python's by their part of the pass.
    """
    flock = nano.NanoSwarm(seed=1, cores=cores)

    class Mover(nano.Kind, capacity=agents):
        x: nano.f64
        v: nano.f64

        def tick(self, now_ns: int, bus: object) -> None:
            pass

    def nothing(agent: object, bus: object) -> Any:
        while True:
            yield

    forms: dict[str, Any] = {
        "native_many": Mover.native_many(TICKS["move_many"]), "native": Mover.native(TICKS["move"]),
        "generator": Mover.generators(nothing), "object": Mover,
    }  # fmt: skip
    budget = nano.Budget(1e6, "chained") if form == "native" else None
    flock.spawn(forms[form], agents, rate_hz=1_000, budget=budget)
    flock.run_for(passes=3)
    mark, until = flock.mark(), time.monotonic() + seconds
    passes = 1
    while time.monotonic() < until:
        began = time.monotonic()
        flock.run_for(passes=passes)
        if time.monotonic() - began < seconds / 20:
            passes *= 2
    report = flock.report(mark)
    line = report.cohorts[0]
    return {
        "form": form, "guard": "chained" if budget is not None else "", "ticks": report.ticks, "wall_s": report.wall_s,
        "ns": report.wall_s * 1e9 / report.ticks, "p50_ns": line.tick_ns.quantile(0.5), "p99_ns": line.tick_ns.quantile(0.99),
    }  # fmt: skip
