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
    """Allocations by the C library in 1 and in 1,001 passes of native ticks. Run with allocations.c loaded before."""
    from benchmarks.nano.ticks import flock_of
    from kernels.passes import NEVER
    from swarm import nano

    preloaded.allocations.restype = native.ctypes.c_uint64
    found = {}
    for form, budget in (("native", nano.Budget(1e6, "chained")), ("native_many", None)):
        flock = flock_of(form, 1_000, budget)
        passes = flock.passes
        made = []
        for count in (1, 1_001):
            before = preloaded.allocations()
            passes.run(NEVER, count)
            made.append(preloaded.allocations() - before)
        found[form] = made[1] - made[0]
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
        counter = str(native.compiled("allocations.c", "-ldl"))
        environment = {**os.environ, "LD_PRELOAD": counter}
        run = [sys.executable, "-c", ALLOCATIONS]
        said = subprocess.run(run, check=True, capture_output=True, text=True, timeout=60, env=environment)
    except subprocess.SubprocessError as error:
        line("allocations in the native tick path", "not counted", str(error))
        return
    for form, made in json.loads(said.stdout).items():
        line(f"allocations in 1,000 passes, {form}", f"{made}", "" if made == 0 else "! 0")
