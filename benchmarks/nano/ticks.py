"""Native ticks: of one agent under a guard beside a bare pair of readings, of a batch beside Numba and beside a memory stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.fleet import line
from benchmarks.nano import frameworks, native
from benchmarks.nano.rounds import at_least, at_most, interleaved
from kernels.passes import TICKS
from swarm import nano

SLICE_S = 0.02
BATCH_ROUNDS = 41
ROW_BYTES = 24
"""That a move takes from and gives to memory: x and v are read, x is written."""


def flock_of(form: str, agents: int, budget: nano.Budget | None = None, *, tick: str = "move") -> nano.NanoSwarm:
    """Agents with columns x and v, ready to run."""

    class Mover(nano.Kind, capacity=agents):
        x: nano.f64
        v: nano.f64

    flock = nano.NanoSwarm(seed=1)
    forms = {"native": Mover.native, "native_many": Mover.native_many}
    suffix = "_many" if form == "native_many" else ""
    movers = flock.spawn(forms[form](TICKS[tick + suffix]), agents, rate_hz=1_000, budget=budget)
    movers.v[:] = np.linspace(-1.0, 1.0, agents)
    flock.run_for(passes=2)
    return flock


def slices(flock: nano.NanoSwarm, agents: int, slice_s: float = SLICE_S) -> Callable[[], float]:
    """A way that runs a flock for about that long, and returns ns of CPU a tick: others may want the core meanwhile."""
    passes = 1
    while True:
        began = time.thread_time()
        flock.run_for(passes=passes)
        if time.thread_time() - began > slice_s / 2:
            break
        passes *= 2
    return passes_of(flock, agents, passes)


def passes_of(flock: nano.NanoSwarm, agents: int, passes: int) -> Callable[[], float]:
    """A way that makes so many passes, and returns ns of CPU a tick."""

    def way() -> float:
        began = time.thread_time_ns()
        flock.run_for(passes=passes)
        return (time.thread_time_ns() - began) / (passes * agents)

    return way


def guards(agents: int = 10_000) -> None:
    """A tick of one agent that moves it, with each guard, over readings of the counter."""
    flocks = {
        "none": flock_of("native", agents),
        "sampled": flock_of("native", agents, nano.Budget(1e6, "sampled")),
        "chained": flock_of("native", agents, nano.Budget(1e6, "chained")),
    }

    def tail() -> float:
        return native.floor(200_000).spent.quantile(0.99)

    def guarded(guard: str) -> Callable[[], float]:
        def way() -> float:
            return flocks[guard].run_for(passes=50).cohorts[0].tick_ns.quantile(0.99)

        return way

    ways: dict[str, Callable[[], float]] = {"pair": tail, "p99": guarded("chained"), "p99 sampled": guarded("sampled")}
    ways |= {name: slices(flock, agents) for name, flock in flocks.items()}
    tails = interleaved(ways)
    pair = tails["pair"]
    line("readings of the counter, back to back, p99", f"{pair:.1f} ns")
    at_most("native tick, chained guard, 10,000 agents, p99", f"{tails['p99']:.1f} ns", tails["p99"] / pair, 1.8)
    line("  sampled guard, p99", f"{tails['p99 sampled']:.1f} ns", f"{tails['p99 sampled'] / pair:.2f} x")
    at_most("  without guard, mean", f"{tails['none']:.2f} ns", tails["none"] / pair, 0.25)
    for guard in ("sampled", "chained"):
        line(f"  {guard} guard, mean", f"{tails[guard]:.2f} ns", f"{tails[guard] / pair:.2f} x")


def batches(agents: int) -> None:
    """A batch tick over columns, beside the same loop by Numba, as a memory stream, and as our ticks one by one."""
    times = max(1, 20_000_000 // agents)
    ways = {
        "many": passes_of(flock_of("native_many", agents), agents, times),
        "one": passes_of(flock_of("native", agents), agents, max(1, times // 4)),
    }
    x, v = np.zeros(agents), np.linspace(-1.0, 1.0, agents)

    def stream() -> float:
        began = time.thread_time_ns()
        native.library().stream(x.ctypes.data, v.ctypes.data, 1e-3, agents, times)
        return (time.thread_time_ns() - began) / (times * agents)

    ways["stream"] = stream
    with frameworks.peer("numba") as numba:
        said: dict[str, Any] = {"agents": agents, "passes": times}
        if numba.missing is None:
            ways["numba"] = lambda: numba.ask({**said, "called": "once"})["ns"]
            ways["numba a pass"] = lambda: numba.ask({**said, "called": "each pass"})["ns"]
        found = interleaved(ways, BATCH_ROUNDS)
        rate = f"{1 / found['many']:.2f} G/s"
        if numba.missing is None:
            ratio = found["numba"] / found["many"]
            if agents < 1_000_000:
                at_least(f"batch tick on columns, {agents:,} agents", rate, ratio, 1.0, " Numba")
            else:
                line(f"batch tick on columns, {agents:,} agents", rate, f"{ratio:.2f} x Numba")
            line("  Numba, passes inside", f"{1 / found['numba']:.2f} G/s")
            line(
                "  Numba, called each pass",
                f"{1 / found['numba a pass']:.2f} G/s",
                f"ours is {found['numba a pass'] / found['many']:.2f} x",
            )
        else:
            line(f"batch tick on columns, {agents:,} agents", rate)
            line("  Numba", "missing", numba.missing)
        streams = found["stream"] / found["many"]
        if agents < 1_000_000:
            line("  memory stream of this form", f"{1 / found['stream']:.2f} G/s", f"ours is {streams:.2f} x")
        else:
            at_least("  memory stream of this form", f"{1 / found['stream']:.2f} G/s", streams, 0.7, " it")
        ones, text = found["one"] / found["many"], f"{1 / found['one']:.2f} G/s"
        at_least("  our own native tick, one by one", text, ones, 4.0)
        if agents >= 1_000_000:
            wanted, there, taken = (ROW_BYTES / ns for ns in (found["one"] / 4.0, found["stream"], found["many"]))
            line(
                "    what 4 x as many would take from memory",
                f"{wanted:.0f} GB/s",
                f"the stream has {there:.0f}, ours {taken:.0f}",
            )


def rows() -> None:
    """Print the rows."""
    guards()
    for agents in (1_000, 10_000, 1_000_000):
        batches(agents)
