"""The ready-made batch ticks at each level of what the processor can do: identical bits, and how much faster than scalar."""

from __future__ import annotations

import numpy as np

from benchmarks.fleet import line
from benchmarks.nano.rounds import interleaved
from benchmarks.nano.ticks import slices
from kernels import motions
from swarm import nano

STEPS = 100


def flock_at(motion: str, level: str, agents: int) -> tuple[nano.NanoSwarm, nano.Agents]:
    """Agents that move by a tick of a level."""

    class Mover(nano.Kind, capacity=agents):
        x: nano.f64
        v: nano.f64

    flock = nano.NanoSwarm(seed=1)
    movers = flock.spawn(Mover.native_many(motions.tick_many(motion, level)), agents, rate_hz=1_000)
    random = np.random.default_rng(1)
    movers.x[:], movers.v[:] = random.normal(size=agents), random.normal(size=agents)
    return flock, movers


def rows() -> None:
    """Print the rows."""
    line("levels of this processor", " ".join(motions.LEVELS), f"in use: {motions.LEVEL}")
    for motion in motions.NAMES:
        for agents in (1_000, 10_000, 1_000_000):
            flocks = {level: flock_at(motion, level, agents) for level in motions.LEVELS}
            bits = set()
            for flock, movers in flocks.values():
                flock.run_for(passes=STEPS)
                bits.add(movers.x.tobytes() + movers.v.tobytes())
            found = interleaved({level: slices(flock, agents, 0.01) for level, (flock, _) in flocks.items()}, rounds=9)
            best = found[motions.LEVEL]
            same = "bits identical" if len(bits) == 1 else "! BITS DIFFER"
            line(f"{motion}, {agents:,} agents, {motions.LEVEL}", f"{1 / best:.2f} G/s", same)
            for level in motions.LEVELS[:-1]:
                line(f"  {level}", f"{1 / found[level]:.2f} G/s", f"{found[level] / best:.2f} x slower")
