"""What several cores are worth: one population on one core and on more, in rounds that alternate. Wall time, since that is what is
to be saved; and CPU time of all threads together, which tells what cutting, stealing and waiting cost, on a machine that
others use as well: with so many cores free, the wall time is that divided by them."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from statistics import median

from benchmarks.fleet import line
from benchmarks.nano import frameworks, native
from kernels.crew import cores as processors
from kernels.passes import TICKS
from swarm import nano
from swarm.nano.topologies.mesh import skew

ROUND_S = 0.03
ROUNDS = 9


class Mover(nano.Kind, capacity=1 << 20):
    """Moves x by v, or computes from x."""

    x: nano.f64
    v: nano.f64


class Slow(nano.Kind, capacity=4096):
    """An agent of Python's that takes some time over its tick."""

    n: nano.u64

    def tick(self, now_ns: int, bus: object) -> None:
        self.n += sum(range(200)) > 0


def flock_of(tick: int, agents: int, cores: int, alone_ns: int | None = None) -> nano.NanoSwarm:
    """A population that has run for a moment."""
    flock = nano.NanoSwarm(seed=1, cores=cores)
    if alone_ns is not None:
        flock._mesh.alone_ns = alone_ns
    flock.spawn(Mover.native_many(tick), agents, rate_hz=1_000_000)
    flock.run_for(passes=5)
    return flock


def wall(flock: nano.NanoSwarm, agents: int, cpu: list[float] | None = None) -> Callable[[], float]:
    """ns an agent and pass in a slice of some 30 ms; of CPU time goes to `cpu`."""
    began = time.perf_counter()
    flock.run_for(passes=20)
    passes = max(3, int(20 * ROUND_S / (time.perf_counter() - began)))

    def run() -> float:
        at, used = time.perf_counter_ns(), time.process_time_ns()
        flock.run_for(passes=passes)
        if cpu is not None:
            cpu.append((time.process_time_ns() - used) / (passes * agents))
        return (time.perf_counter_ns() - at) / (passes * agents)

    return run


def rounds(ways: dict[str, Callable[[], float]]) -> dict[str, tuple[float, float]]:
    """Median and best of rounds that alternate."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, way in ways.items():
            value = way()
            if number:
                found[name].append(value)
    return {name: (median(values), min(values)) for name, values in found.items()}


def speed_up(what: str, tick: int, agents: int, numbers: list[int], prange: bool = False) -> None:
    """One tick on one core and on each of these numbers."""
    flocks = {cores: flock_of(tick, agents, cores) for cores in (1, *numbers)}
    cpu: dict[int, list[float]] = {cores: [] for cores in flocks}
    ways = {f"{cores}": wall(flock, agents, cpu[cores]) for cores, flock in flocks.items()}
    with frameworks.peer("numba") as numba:
        if prange and numba.missing is None:
            passes = max(3, int(ROUND_S * 1e9 / (agents * 400)))
            for cores in numbers:
                said = {"agents": agents, "passes": passes, "threads": cores}
                ways[f"numba {cores}"] = lambda said=said: numba.ask(said)["ns"]  # type: ignore[misc]
        found = rounds(ways)
        line(f"{what}, {agents:,} agents, 1 core", f"{found['1'][0]:.2f} ns")
        for cores in numbers:
            middle, best = found[f"{cores}"]
            crew = flocks[cores].crew
            unused = crew is None or not sum(crew.chunks)
            line(
                f"  {cores} cores", f"{middle:.2f} ns",
                f"{found['1'][0] / middle:.2f} x one (best rounds {found['1'][1] / best:.2f} x)"
                + f", CPU {median(cpu[cores]) / median(cpu[1]):.2f} x"
                + (", left to one thread" if unused else f", skew {skew(crew.busy_ns):.2f}" if crew is not None else ""),
            )  # fmt: skip
            if f"numba {cores}" in found:
                theirs = found[f"numba {cores}"]
                line(f"  Numba's prange, {cores} threads", f"{theirs[0]:.2f} ns", f"ours is {theirs[0] / middle:.2f} x")
            elif prange:
                line("  Numba's prange", "missing", str(numba.missing))


def threshold(numbers: int) -> None:
    """What a pass costs more, or less, when it is cut however small it is."""
    tick = ctypes.cast(native.library().grind, ctypes.c_void_p).value or 0
    for agents in (64, 256, 1024, 4096):
        alone, cut = flock_of(tick, agents, 1), flock_of(tick, agents, numbers, alone_ns=0)
        found = rounds({"alone": wall(alone, agents), "cut": wall(cut, agents)})
        took = found["alone"][0] * agents / 1000
        line(
            f"  a pass of {took:.0f} us cut for {numbers} cores", "", f"{found['alone'][0] / found['cut'][0]:.2f} x one"
        )


def python_beside() -> None:
    """Native ticks and Python's of one population, with Python's on a thread of their own and without."""
    tick = ctypes.cast(native.library().grind, ctypes.c_void_p).value or 0
    ways = {}
    for apart in (False, True):
        flock = nano.NanoSwarm(seed=1, python_thread=apart)
        flock.spawn(Mover.native_many(tick), 20_000, rate_hz=1000)
        flock.spawn(Slow, 2_000, rate_hz=1000)
        flock.run_for(passes=3)
        ways["apart" if apart else "in turn"] = wall(flock, 1)
    found = rounds(ways)
    line("Python's agents beside native ones, a pass", f"{found['apart'][0] / 1e6:.2f} ms",
         f"{found['in turn'][0] / found['apart'][0]:.2f} x in turn (best rounds {found['in turn'][1] / found['apart'][1]:.2f} x)")  # fmt: skip


def rows() -> None:
    """Print them."""
    numbers = [n for n in (2, 4, 8, 16, 32) if n <= processors()]
    if not numbers:
        line("several cores", "missing", "this process has one")
        return
    tick = ctypes.cast(native.library().grind, ctypes.c_void_p).value or 0
    speed_up("compute-bound batch (50 steps with a division)", tick, 10_000, numbers, prange=True)
    speed_up("memory-bound batch (x += v)", TICKS["move_many"], 1_000_000, numbers)
    speed_up("a small population", TICKS["move_many"], 1_000, numbers)
    threshold(numbers[0])
    python_beside()
