"""`make bench`: our figures beside those of peers and of the wire, in one run. Prints; asserts nothing.

Machines are noisy: compare the ratios, which come from rounds that were interleaved, not the absolute figures.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

import swarm
from benchmarks import raw

ROUNDS = 3
IN_FLIGHT = 5_000
TASKS = 100_000
ITEMS = 200_000
LARGE_BYTES = 64 << 20
WARM_ROUNDS = 3
CHUNK_SIZES = (500, 2_000, 8_000)


def noop() -> None:
    """The task of most lines below."""


def double(x: int) -> int:
    """The task of the lines about map."""
    return x * 2


class Node:
    """One node with two workers in a home of its own."""

    def __init__(self) -> None:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody's second start compiles everything anew
        self.home = tempfile.mkdtemp(prefix="swarm-bench-")
        os.environ["SWARM_HOME"] = self.home
        with open(Path(self.home) / "log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nodes.cli", "node", "--name", "bench", "--workers", "2"], stdout=log, stderr=log
            )

    def close(self) -> None:
        """Stop it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        shutil.rmtree(self.home, ignore_errors=True)


def connected() -> swarm.Fleet:
    """A client, as soon as the node has made its fleet and listens."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return swarm.connect(timeout_s=0.2)
        except swarm.FleetNotFound:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


COLD_CLIENT = """
import time, swarm
while True:
    try:
        fleet = swarm.connect(timeout_s=0.2)
        break
    except swarm.FleetNotFound:
        time.sleep(0.005)
assert fleet.submit(pow, 2, 3).result(20) == 8
print(time.monotonic())
fleet.close()
"""


def cold_start_s() -> float:
    """A node that has no fleet yet and a script, started together: seconds to the script's first result."""
    node = Node()
    began = time.monotonic()
    try:
        said = subprocess.run([sys.executable, "-c", COLD_CLIENT], capture_output=True, check=True, timeout=60)
        return float(said.stdout) - began
    finally:
        node.close()


def in_flight_per_s(submit: Callable[..., object], tasks: int) -> float:
    """Tasks a second with `IN_FLIGHT` of them under way."""
    waiting: deque[concurrent.futures.Future[None]] = deque()
    began = time.perf_counter()
    for _ in range(tasks):
        waiting.append(submit(noop))  # type: ignore[arg-type]
        if len(waiting) >= IN_FLIGHT:
            waiting.popleft().result()
    while waiting:
        waiting.popleft().result()
    return tasks / (time.perf_counter() - began)


def round_trips_us(submit: Callable[..., object], count: int) -> list[float]:
    """Round trips of one no-op at a time, microseconds."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        submit(noop).result()  # type: ignore[attr-defined]
        took.append((time.perf_counter() - began) * 1e6)
    return took


def median(values: list[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def line(what: str, value: str, ratio: str = "") -> None:
    """One row."""
    print(f"{what:<58} {value:>16} {ratio:>24}", flush=True)


def compare_maps(fleet: swarm.Fleet, pool: concurrent.futures.ProcessPoolExecutor) -> None:
    """`map` of a quick function, at the best of several sizes of chunks for each side, and at the size that we find."""
    maps: dict[str, Callable[[], Iterable[int]]] = {}
    for size in CHUNK_SIZES:
        maps[f"ours {size}"] = lambda size=size: fleet.map(double, range(ITEMS), chunksize=size)  # type: ignore[misc]
        maps[f"pool {size}"] = lambda size=size: pool.map(double, range(ITEMS), chunksize=size)  # type: ignore[misc]
    maps["ours auto"] = lambda: fleet.map(double, range(ITEMS))
    rates: dict[str, list[float]] = {name: [] for name in maps}
    for _ in range(ROUNDS):
        for name, begin in maps.items():
            began = time.perf_counter()
            assert sum(begin()) == (ITEMS - 1) * ITEMS
            rates[name].append(ITEMS / (time.perf_counter() - began))
    medians = {name: median(found) for name, found in rates.items()}
    ours, peer = (max(v for name, v in medians.items() if name.startswith(side)) for side in ("ours", "pool"))
    line("map in chunks, at the best size", f"{ours:,.0f}/s", f"{ours / peer:.2f} x the pool's best")
    line("  at the size that it finds itself", f"{medians['ours auto']:,.0f}/s", f"{medians['ours auto'] / peer:.2f} x")
    line("  ProcessPoolExecutor, at its best size", f"{peer:,.0f}/s")


def same(some: object) -> object:
    """The task of the echo of 64 MiB."""
    return some


def another(some: object) -> object:
    """As large a result, of the task's own: made once in a worker, so that what is measured is its way."""
    import builtins

    import numpy as np

    if not hasattr(builtins, "swarm_bench"):
        builtins.swarm_bench = np.ones(LARGE_BYTES // 8)  # type: ignore[attr-defined]
    return builtins.swarm_bench  # type: ignore[attr-defined]


def compare_large(fleet: swarm.Fleet) -> None:
    """An argument and a result of 64 MiB each, beside raw pyzmq over a Unix socket, by the clock and by the CPU."""
    import numpy as np

    array, text = np.ones(LARGE_BYTES // 8), bytes(LARGE_BYTES)
    with raw.large_echo(LARGE_BYTES) as echo:
        ways: dict[str, Callable[[], object]] = {
            "raw": echo,
            "an array, and another back": lambda: fleet.submit(another, array).result(),
            "an array, echoed": lambda: fleet.submit(same, array).result(),
            "bytes, echoed (these are copied)": lambda: fleet.submit(same, text).result(),
        }
        me = psutil.Process()
        processes = [me, *me.children(recursive=True)]
        took: dict[str, list[float]] = {name: [] for name in ways}
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for round_number in range(WARM_ROUNDS + 3 * ROUNDS):
            for name, way in ways.items():
                began, cpu_began = time.perf_counter(), cpu_s(processes)
                result = way()
                if round_number >= WARM_ROUNDS:
                    took[name].append(time.perf_counter() - began)
                    spent[name].append(cpu_s(processes) - cpu_began)
                del result
    wall = {name: median(found) for name, found in took.items()}
    cpu = {name: statistics.mean(found) for name, found in spent.items()}  # the kernel counts in steps of 10 ms
    line("64 MiB there and back, raw pyzmq over ipc", f"{wall['raw'] * 1e3:,.0f} ms", f"{cpu['raw'] * 1e3:,.0f} ms CPU")
    for name in list(ways)[1:]:
        ratios = f"{wall['raw'] / wall[name]:.1f} x, CPU {cpu['raw'] / max(cpu[name], 0.001):.1f} x"
        line(f"  {name}, same host, warm", f"{wall[name] * 1e3:,.0f} ms", ratios)


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """CPU time of processes, seconds."""
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


def main() -> None:
    """Everything, some minutes."""
    cold = [cold_start_s() for _ in range(ROUNDS + 1)][1:]  # the first one compiles what was never imported
    line("cold start of a node and a script to the first result", f"{median(cold):.2f} s")
    node = Node()
    try:
        fleet = connected()
        fleet.submit(noop).result(20)
        parent = psutil.Process(node.process.pid)
        workers = [child.memory_info().rss / 1e6 for child in parent.children()]
        line("resident memory: node / an idle worker", f"{parent.memory_info().rss / 1e6:.0f} / {max(workers):.0f} MB")
        for _ in range(500):
            fleet.submit(noop).result()
        spawn = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(2, spawn)
        pool.submit(noop).result()
        echo, ours, theirs = [], [], []
        for _ in range(ROUNDS):
            echo.append(raw.echo_per_s())
            ours.append(in_flight_per_s(fleet.submit, TASKS))
            theirs.append(in_flight_per_s(pool.submit, 10_000))
        line("raw pyzmq DEALER/ROUTER echo, blocking", f"{median(echo):,.0f}/s")
        line(
            f"submit, no-op, {IN_FLIGHT:,} in flight",
            f"{median(ours):,.0f}/s",
            f"{median(ours) / median(echo):.1f} x raw echo",
        )
        line("  ProcessPoolExecutor", f"{median(theirs):,.0f}/s", f"ours is {median(ours) / median(theirs):.1f} x")
        through = swarm.connect(direct=False)
        for one in (fleet, through):
            round_trips_us(one.submit, 200)
        trips: dict[str, list[float]] = {"granted": [], "through": [], "raw": [], "pool": []}
        for _ in range(2 * ROUNDS):
            trips["granted"] += round_trips_us(fleet.submit, 500)
            trips["raw"] += raw.round_trips_us(500)
            trips["through"] += round_trips_us(through.submit, 500)
            trips["pool"] += round_trips_us(pool.submit, 200)
        through.close()
        for name, part in (("p50", 0.5), ("p99", 0.99)):
            us = {which: sorted(some)[int(len(some) * part)] for which, some in trips.items()}
            line(f"raw pyzmq under uvloop, CURVE: round trip {name}", f"{us['raw']:,.0f} us")
            for which, what in (("granted", "a granted slot"), ("through", "through the node")):
                line(f"  one task, {what}", f"{us[which]:,.0f} us", f"{us[which] / us['raw']:.2f} x raw")
            line("  ProcessPoolExecutor", f"{us['pool']:,.0f} us", f"{us['pool'] / us['raw']:.2f} x raw")
        compare_maps(fleet, pool)
        compare_large(fleet)
        pool.shutdown()
        fleet.close()
    finally:
        node.close()
