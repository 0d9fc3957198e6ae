"""Saving and loading 1,000,000 agents, beside a copy of as many bytes into memory that is new, as theirs has to be."""

from __future__ import annotations

import mmap
import time
from typing import Any

import numpy as np

from benchmarks.fleet import line
from benchmarks.nano import native
from benchmarks.nano.rounds import at_least, interleaved
from kernels.motions import tick_many
from swarm import nano

AGENTS = 1_000_000


class Kept(nano.Kind, capacity=AGENTS):
    """What is saved."""

    x: nano.f64
    v: nano.f64


def rows() -> None:
    """Print the rows."""
    ticks: dict[str, Any] = {"Kept": tick_many("move")}
    flock = nano.NanoSwarm(seed=1)
    kept = flock.spawn(Kept.native_many(ticks["Kept"]), AGENTS, rate_hz=100)
    kept.x[:] = np.random.default_rng(1).normal(size=AGENTS)
    flock.run_for(passes=3)
    blob = flock.save()
    size = len(blob)
    warm = np.zeros(size, dtype=np.uint8)
    source = np.frombuffer(blob, dtype=np.uint8)

    def save() -> float:
        began = time.perf_counter()
        flock.save()
        return time.perf_counter() - began

    def load() -> float:
        began = time.perf_counter()
        nano.load(blob, ticks=ticks)
        return time.perf_counter() - began

    def fresh() -> float:
        began = time.perf_counter()
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as room:
            target = np.frombuffer(room, dtype=np.uint8)
            native.library().copy(target.ctypes.data, source.ctypes.data, size)
            took = time.perf_counter() - began
            del target
        return took

    def again() -> float:
        began = time.perf_counter()
        native.library().copy(warm.ctypes.data, source.ctypes.data, size)
        return time.perf_counter() - began

    found = interleaved({"fresh": fresh, "save": save, "load": load, "again": again}, rounds=11, warm=2)
    line(f"memcpy of {size / 1e6:.0f} MB into new memory", f"{size / 1e9 / found['fresh']:.1f} GB/s")
    line("  into the same memory again", f"{size / 1e9 / found['again']:.1f} GB/s")
    for way in ("save", "load"):
        at_least(f"{way} of 1,000,000 agents", f"{size / 1e9 / found[way]:.1f} GB/s", found["fresh"] / found[way], 0.5)
