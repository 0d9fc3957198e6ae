"""How evenly a tick that does nothing is called, over what back-to-back readings of the counter show in the same run."""

from __future__ import annotations

from statistics import median

from benchmarks.fleet import line
from benchmarks.nano import native
from benchmarks.nano.rounds import at_most
from benchmarks.nano.ticks import flock_of
from swarm import nano
from swarm.nano.reports import Durations

AGENTS = 1_000
PASSES = 1_000
ROUNDS = 9
KEPT = 0.999


def said(what: str, spent: Durations, seconds: float) -> None:
    """What is behind the trimmed deviation."""
    line(f"  {what}: p50, p99, p99.99", " / ".join(f"{spent.quantile(q):.1f}" for q in (0.5, 0.99, 0.9999)) + " ns")
    line("    standard deviation of all", f"{native.spread(spent):.0f} ns")
    line("    gaps over 1 us", f"{native.above(spent, 1_000) / seconds:,.0f}/s")


def rows() -> None:
    """Print the rows."""
    flock = flock_of("native", AGENTS, nano.Budget(1e6, "chained"), tick="nothing")
    ticks: list[tuple[float, Durations, float]] = []
    floors: list[tuple[float, Durations, float]] = []
    for _ in range(ROUNDS):
        floor = native.floor(AGENTS * PASSES, "chained")
        floors.append((native.spread(floor.spent, KEPT), floor.spent, floor.wall_s))
        report = flock.run_for(passes=PASSES)
        spent = report.cohorts[0].tick_ns
        ticks.append((native.spread(spent, KEPT), spent, report.wall_s))
    tick, floor_sd = median(each[0] for each in ticks), median(each[0] for each in floors)
    at_most("jitter of a tick of nothing, sd trimmed at 99.9 %", f"{tick:.2f} ns", tick / floor_sd, 1.5, " floor")
    for what, each in (("tick", ticks), ("readings alone", floors)):
        middle = sorted(each, key=lambda one: one[0])[ROUNDS // 2]
        said(what, middle[1], middle[2])
