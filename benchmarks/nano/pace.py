"""1,000 agents at 1 MHz in real time: how much of it their ticks fill, and instants missed beside an idle loop that spins."""

from __future__ import annotations

from statistics import median

from benchmarks.fleet import line
from benchmarks.nano import native
from benchmarks.nano.rounds import at_most
from kernels.motions import tick_many
from swarm import nano

AGENTS = 1_000
PERIOD_NS = 1_000
SLICE_S = 0.3
ROUNDS = 7


class Mover(nano.Kind, capacity=AGENTS):
    """What ticks."""

    x: nano.f64
    v: nano.f64


def rows() -> None:
    """Print the rows."""
    flock = nano.NanoSwarm(time="real", resolution_ns=PERIOD_NS, spin_s=1.0)
    flock.spawn(Mover.native_many(tick_many("move")), AGENTS, rate_hz=1e9 / PERIOD_NS, budget=nano.Budget(1.0))
    flock.run_for(seconds=0.01)
    filled, missed, idle = [], [], []
    instants = round(SLICE_S * 1e9 / PERIOD_NS)
    for _ in range(ROUNDS):
        idle.append(native.library().idle_spin(PERIOD_NS, instants) / instants)
        report = flock.run_for(seconds=SLICE_S)
        cohort = report.cohorts[0]
        filled.append(cohort.busy_ns / 1e9 / report.wall_s)
        missed.append(cohort.missed / max(1, cohort.missed + cohort.ticks))
    fill = median(filled)
    line("1,000 agents at 1 MHz: ticks fill", f"{fill:.0%}", f"{'' if fill <= 0.25 else '! '}<= 25 %")
    miss, bare = median(missed), median(idle)
    at_most("  missed", f"{miss:.2%}", miss / max(bare, 1e-9), 2.0, " idle")
    line("  missed by an idle loop that spins", f"{bare:.2%}")
