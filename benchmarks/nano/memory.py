"""Bytes an agent by the resident memory of a fresh process, and allocations while native ticks run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from benchmarks.fleet import line
from benchmarks.nano import native

AGENTS = 1_000_000
PYTHON_AGENTS = 200_000
PASSES_COUNTED = 1_000
ALLOCATES = "a tick that allocates once"

RESIDENT = """
import json, sys
from pathlib import Path
from benchmarks.nano.memory import grown
print(json.dumps(grown(sys.argv[1], int(sys.argv[2]))))
"""

ALLOCATIONS = """
import ctypes, json
from benchmarks.nano.memory import counted
print(json.dumps(counted(ctypes.CDLL(None))))
"""


def resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as said:
        return int(said.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def grown(form: str, agents: int) -> float:
    """Bytes an agent that a population which has run a few passes takes. Run in a process of its own."""
    from benchmarks.nano.python_agents import nothing
    from kernels.motions import tick_many
    from kernels.passes import TICKS
    from swarm import nano

    class Small(nano.Kind, capacity=agents):
        __slots__ = ()  # as for any class of which there are many: nothing but its fields
        x: nano.f64
        v: nano.f64

        def tick(self, now_ns: int, bus: object) -> None:
            """Nothing."""

    forms: dict[str, Any] = {
        "native_many": Small.native_many(tick_many("move")), "native": Small.native(TICKS["move"]),
        "object": Small, "generator": Small.generators(nothing),
    }  # fmt: skip
    warm = nano.NanoSwarm()
    warm.spawn(forms[form], 1, rate_hz=1_000)
    warm.run_for(passes=2)
    before = resident()
    flock = nano.NanoSwarm()
    spawned = flock.spawn(forms[form], agents, rate_hz=1_000)
    spawned.x[:] = 1.0
    spawned.v[:] = 1.0
    flock.run_for(passes=3)
    return (resident() - before) / agents


def counted(preloaded: Any) -> dict[str, int]:
    """Allocations by the C library in a thousand passes of native ticks, by how they tick; and in those of a tick that
    allocates once, which shows that they are counted. Run with allocations.c loaded before."""
    from benchmarks.nano.ticks import flock_of
    from kernels.passes import NEVER, TICKS
    from swarm import nano

    preloaded.allocations.restype = native.ctypes.c_uint64

    class Cell(nano.Kind, capacity=1_000):
        x: nano.f64
        v: nano.f64
        said = nano.writes("said")
        heard = nano.reads("said")

    def flock_with(form: Any, rate_hz: Any, **how: Any) -> nano.NanoSwarm:
        flock = nano.NanoSwarm(seed=1, **how)
        flock.spawn(form, 1_000, rate_hz=rate_hz)
        return flock

    rates = [100.0 + n for n in range(1_000)]
    talking = Cell.native(native.library().tick_talks)
    flocks = {
        "native": flock_of("native", 1_000, nano.Budget(1e6, "chained")),
        "native, sampled": flock_of("native", 1_000, nano.Budget(1e6, "sampled")),
        "native_many": flock_of("native_many", 1_000, None),
        "native, rates of their own": flock_with(Cell.native(TICKS["move"]), rates),
        "native_many, rates of their own": flock_with(Cell.native_many(TICKS["move_many"]), rates),
        "native, with messages": flock_with(talking, 1_000),
        "native_many, two cores": flock_with(Cell.native_many(TICKS["move_many"]), 1_000, cores=2),
        ALLOCATES: flock_with(Cell.native(native.library().tick_allocates), 1_000),
    }

    def run(passes: Any, count: int) -> None:
        last = passes.made + count
        while passes.made < last:  # it comes back between, to look for signals
            passes.run(NEVER, last - passes.made)

    found = {}
    for name, flock in flocks.items():
        passes = flock.passes
        run(passes, 2_000)  # buffers grow to what they need
        made = []
        for count in (1, 1 + PASSES_COUNTED):
            before = preloaded.allocations()
            run(passes, count)
            made.append(preloaded.allocations() - before)
        found[name] = made[1] - made[0]
    return found


def allocations() -> dict[str, int]:
    """`counted`, in a process of its own that is told to count."""
    counter = str(native.compiled("allocations.c", "-ldl"))
    run = [sys.executable, "-c", ALLOCATIONS]
    environment = {**os.environ, "LD_PRELOAD": counter}
    said = subprocess.run(run, check=True, capture_output=True, text=True, timeout=200, env=environment)
    found: dict[str, int] = json.loads(said.stdout)
    return found


def rows() -> None:
    """Print the rows."""
    for form, agents, limit in (
        ("native_many", AGENTS, 128), ("native", AGENTS, 128), ("object", PYTHON_AGENTS, 320), ("generator", PYTHON_AGENTS, 320),
    ):  # fmt: skip
        run = [sys.executable, "-c", RESIDENT, form, str(agents)]
        took = json.loads(subprocess.run(run, check=True, capture_output=True, text=True, timeout=120).stdout)
        line(f"memory an agent, two fields, {form}", f"{took:.0f} B", f"{'' if took <= limit else '! '}<= {limit} B")
    try:
        found = allocations()
    except subprocess.SubprocessError as error:
        line("allocations in the native tick path", "not counted", str(error))
        return
    for name, made in found.items():
        wanted = 1_000 * PASSES_COUNTED if name == ALLOCATES else 0
        line(f"allocations in {PASSES_COUNTED:,} passes, {name}", f"{made:,}", "" if made == wanted else f"! {wanted}")
