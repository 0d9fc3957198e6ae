"""Many agents, each at a rate of its own, and many more at one rate: how much of a core they take in real time."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np

from benchmarks.fleet import line
from kernels.motions import tick_many
from kernels.passes import TICKS
from swarm import nano

SLICE_S = 1.0
ROUNDS = 3
LIMIT = 0.5


class Slow(nano.Kind, capacity=1_000_000):
    """What ticks."""

    x: nano.f64
    v: nano.f64


def share(flock: nano.NanoSwarm) -> tuple[float, float]:
    """CPU a second of real time, and the share of ticks that were missed."""
    shares, missed = [], []
    flock.run_for(seconds=0.2)
    for _ in range(ROUNDS):
        began = time.process_time()
        report = flock.run_for(seconds=SLICE_S)
        shares.append((time.process_time() - began) / report.wall_s)
        lost = sum(each.missed for each in report.cohorts)
        missed.append(lost / max(1, lost + report.ticks))
    return median(shares), median(missed)


def rows() -> None:
    """Print the rows."""
    rates = np.exp(np.random.default_rng(1).uniform(np.log(1.0), np.log(1_000.0), 100_000))
    forms: tuple[tuple[str, Any, int, Any], ...] = (
        ("100,000 agents at 1 to 1,000 Hz, in batches", Slow.native_many(tick_many("move")), 100_000, rates),
        ("100,000 agents at 1 to 1,000 Hz, one by one", Slow.native(TICKS["move"]), 100_000, rates),
        ("1,000,000 agents at 100 Hz, in batches", Slow.native_many(tick_many("move")), 1_000_000, 100.0),
    )
    for what, form, agents, rate_hz in forms:
        flock = nano.NanoSwarm(time="real", resolution_ns=100_000)
        flock.spawn(form, agents, rate_hz=rate_hz)
        taken, missed = share(flock)
        line(f"{what}: of a core", f"{taken:.0%}", f"{'' if taken <= LIMIT else '! '}<= 50 %, missed {missed:.2%}")
