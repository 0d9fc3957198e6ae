"""Noise floor, guards, timer wheel: what time costs the nano-agents. Run: python -m benchmarks.nano.time

All loops of a comparison take turns in one process; a line gives the median of the rounds and, in brackets, the best tenth,
which is what a machine gives when nothing else runs on it.
"""

from __future__ import annotations

import ctypes
import heapq
import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np

import kernels
from kernels.deadlines import Deadlines
from kernels.ticks import Calibration
from kernels.wheel import Wheel

HERE = Path(__file__).parent
AGENTS = 10_000
ROUNDS = 300


def trimmed_sd(samples: np.ndarray, upto: float = 0.999) -> float:
    """Standard deviation of what is not above this quantile."""
    return float(samples[samples <= np.quantile(samples, upto)].std())


def noise_floor(clock: Calibration, readings: int = 2_000_000) -> np.ndarray:
    """One reading of the counter after another: what the machine does to the least that can be measured. ns."""
    gaps = np.empty(readings, dtype=np.uint64)
    clock.back_to_back(gaps)
    ns = gaps * (1e9 / clock.hz)
    p50, p99, p9999 = np.quantile(ns, (0.5, 0.99, 0.9999))
    seconds = ns.sum() / 1e9
    print(
        f"clock                   {clock.source}, {clock.hz / 1e9:.4f} GHz, ±{clock.uncertainty_ppm:.2f} ppm {clock.reason}"
    )
    print(f"noise floor             p50 {p50:.1f}  p99 {p99:.1f}  p99.99 {p9999:.1f} ns")
    print(f"                        sd {trimmed_sd(ns):.2f} ns trimmed at 99.9 %, {ns.std():.1f} raw")
    print(
        f"                        {(ns > 1_000).sum() / seconds:.0f} gaps over 1 µs a second, the longest {ns.max() / 1e3:.0f} µs"
    )
    return ns


def built(folder: Path) -> ctypes.CDLL | None:
    """guard_cost.c as a library; None without a compiler."""
    compiler = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "guard_cost.so"
    include = Path(kernels.__file__).parent
    subprocess.run(
        [
            compiler,
            "-O3",
            "-std=gnu11",
            "-shared",
            "-fPIC",
            f"-I{include}",
            str(HERE / "guard_cost.c"),
            "-o",
            str(library),
        ],
        check=True,
    )
    return ctypes.CDLL(str(library))


def guards(clock: Calibration) -> None:
    """A no-op native tick, called by its address, with and without guards, beside bare pairs of readings."""
    with tempfile.TemporaryDirectory() as folder:
        library = built(Path(folder))
        if library is None:
            print("guards                  no C compiler: left out")
            return
        state, each, single = (np.zeros(AGENTS, dtype=np.uint64) for _ in range(3))
        loops = {
            name: np.zeros(ROUNDS, dtype=np.uint64) for name in ("bare pair", "chained", "none", "sampled, 1 in 64")
        }

        def address(array: np.ndarray) -> ctypes.c_void_p:
            return ctypes.c_void_p(array.ctypes.data)

        library.rounds(
            ctypes.c_size_t(AGENTS),
            ctypes.c_size_t(ROUNDS),
            address(state),
            *(address(column) for column in loops.values()),
            address(each),
        )
        per_tick = 1e9 / clock.hz
        bare_p99, guarded_p99 = [], []
        for _ in range(50):
            library.rounds(
                ctypes.c_size_t(AGENTS),
                ctypes.c_size_t(1),
                address(state),
                *map(address, (np.zeros(1, np.uint64),) * 4),
                address(each),
            )
            library.singly(ctypes.c_size_t(AGENTS), address(state), address(single))
            bare_p99.append(np.quantile(each, 0.99) * per_tick)
            guarded_p99.append(np.quantile(single, 0.99) * per_tick)
    ns = {name: column * per_tick / AGENTS for name, column in loops.items()}
    bare = float(np.median(ns["bare pair"]))
    for name, column in ns.items():
        median, best = float(np.median(column)), float(np.quantile(column, 0.1))
        print(f"tick, guard {name:<20}{median:6.2f} ns ({best:.2f}) {median / bare:5.2f} × the pair")
    ratio = float(np.median(np.array(guarded_p99) / np.array(bare_p99)))
    print(
        f"p99 of an agent         {np.median(guarded_p99):.1f} ns, of a bare pair {np.median(bare_p99):.1f} ns: {ratio:.2f} ×"
    )


def log_uniform_periods(n: int, rng: np.random.Generator) -> np.ndarray:
    """Of rates from 1 to 1,000 Hz, as many in each octave, ns."""
    return (1e9 / np.exp(rng.uniform(0, np.log(1_000), n))).astype(np.uint64)


def wheel_rounds(n: int, step_ns: int, seconds: float) -> tuple[np.ndarray, float]:
    """ns a firing (taken from the wheel, armed anew) of each millisecond of virtual time, and firings a second."""
    rng = np.random.default_rng(1)
    grain = np.uint64(step_ns)
    periods = (log_uniform_periods(n, rng) + grain - np.uint64(1)) // grain * grain
    wheel = Wheel(n, step_ns)
    wheel.rearm(np.arange(n, dtype=np.uint32), (rng.random(n) * periods).astype(np.uint64) // grain * grain)
    out = np.empty(n, dtype=np.uint32)
    clock = time.perf_counter_ns
    costs, firings, now = [], 0, 0
    spent = fired = 0
    while now < seconds * 1e9:
        now += step_ns
        begun = clock()
        count = wheel.expired(now, out)
        taken = clock() - begun
        ids = out[:count]
        times = periods[ids] + np.uint64(now)
        begun = clock()
        wheel.rearm(ids, times)
        spent += taken + clock() - begun
        fired += count
        firings += count
        if now % 1_000_000 == 0:
            costs.append(spent / max(1, fired))
            spent = fired = 0
    return np.array(costs[len(costs) // 4 :]), firings / seconds


def wheel() -> None:
    """100,000 ids at rates log-uniform over 1 to 1,000 Hz; beside it our heap and Python's."""
    n = 100_000
    for step_us in (10, 100, 1_000):
        costs, rate = wheel_rounds(n, step_us * 1_000, 0.4)
        median, best = float(np.median(costs)), float(np.quantile(costs, 0.1))
        print(
            f"wheel, a look each {step_us:>4} µs {median:6.1f} ns a firing ({best:.1f}): {median * rate / 1e7:.0f} % of a core ({best * rate / 1e7:.0f} %)"
            f" for {n:,} ids, {rate / 1e6:.1f} M firings/s"
        )
    rng = np.random.default_rng(1)
    periods = [int(period) for period in log_uniform_periods(n, rng)]
    deadlines = Deadlines(n)
    for id, period in enumerate(periods):
        deadlines.arm(id, period)
    pushed = [(period, id) for id, period in enumerate(periods)]
    heapq.heapify(pushed)
    count, ours, theirs = 10_000, [], []
    for _ in range(15):
        begun = time.perf_counter_ns()
        for _ in range(count):
            first = deadlines.pop()
            assert first is not None
            deadlines.arm(first[1], first[0] + periods[first[1]])
        ours.append((time.perf_counter_ns() - begun) / count)
        begun = time.perf_counter_ns()
        for _ in range(count):
            at, id = pushed[0]
            heapq.heapreplace(pushed, (at + periods[id], id))
        theirs.append((time.perf_counter_ns() - begun) / count)
    print(
        f"from Python, one by one {np.median(ours):6.0f} ns a firing ({min(ours):.0f}) from the heap of deadlines,"
        f" {np.median(theirs):.0f} ({min(theirs):.0f}) from heapq"
    )


def main() -> None:
    print(f"time: {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    clock = Calibration(0.1)
    noise_floor(clock)
    guards(clock)
    wheel()


if __name__ == "__main__":
    main()
