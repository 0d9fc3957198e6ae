"""Ten times more work than the machines can do, from several clients at once: who grows, who waits, and what urgent work notices.

``python -m benchmarks.overload [--minutes M] [--clients N] [--stages]`` starts three nodes with one worker each, which share this machine's cores
with the clients. Each client hands over tasks as fast as it may, without waiting (``submit_timeout_s=0``), and comes back when it is
told to; nothing is kept on disks, which would bound it first; the nodes' rooms are small, so that clients and nodes have to refuse. One more client asks for CRITICAL tasks meanwhile, and before.
Prints the memory of every process over time, the refusals that nodes told and clients received, and the latency of CRITICAL tasks: of the idle
fleet, of one that has exactly as much work as it can do, from as many clients, and of the one that has ten times more.
Asserts nothing but what was promised: that every task that was taken has its outcome. With ``--stages`` also where the time of
CRITICAL tasks goes (`benchmarks.stages`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from pathlib import Path

import psutil

import swarm
from benchmarks import stages
from benchmarks.durable import NAMES, quantiles, three_nodes
from benchmarks.fleet import connected, line
from benchmarks.urgent import first_line, to_first_line_ms

TASK_S = 0.002
OVERLOAD = 10
QUEUE_TASKS = 4_000
SAMPLES = 8
CRITICALS = 150
ROW_BYTES = 2_000
"""Of the argument of each task."""


def works(data: bytes, for_s: float) -> int:
    """Uses the processor for so long."""
    ends = time.perf_counter() + for_s
    while time.perf_counter() < ends:
        pass
    return len(data)


def flood(seconds: float, rate: float) -> None:
    """One client: hands over `rate` tasks a second, comes back when it is told to, and checks that all that was taken has an outcome."""
    under_way: deque[swarm.Future] = deque()
    counts = {"taken": 0, "refused": 0, "ended": 0, "wrong": 0}
    data = os.urandom(ROW_BYTES)

    def settle(everything: bool) -> None:
        while under_way and (everything or under_way[0].done()):
            counts["ended"] += 1
            counts["wrong"] += under_way.popleft().result(600) != ROW_BYTES

    with swarm.connect(durability="none") as fleet:
        low = fleet.options(priority=swarm.LOW, submit_timeout_s=0)
        began = time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            due = int((now - began) * rate) - counts["taken"]
            for _ in range(min(due, 500)):
                try:
                    under_way.append(low.submit(works, data, TASK_S))
                except swarm.NotAccepted as full:
                    counts["refused"] += 1
                    time.sleep(min(full.retry_after_s, 0.5))
                    break
                counts["taken"] += 1
            settle(False)
            time.sleep(0.002)
        settle(True)
    print(json.dumps(counts), flush=True)


def told(home: Path) -> int:
    """Refusals for want of room that the nodes counted."""
    found = 0
    for name in NAMES:
        os.environ["SWARM_NODE_SOCKET"] = str(home / "run" / f"{name}.sock")
        with swarm.connect() as fleet:
            where = fleet.query("status")["node"]["http"]
        with urllib.request.urlopen(f"{where}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        found += sum(
            int(float(one.split()[-1])) for one in lines if one.startswith('swarm_batches_refused_total{reason="full"}')
        )
    del os.environ["SWARM_NODE_SOCKET"]
    return found


def family_mib(process: psutil.Process) -> tuple[float, float]:
    """Resident memory of a process, and of the largest below it."""
    below = [one.memory_info().rss for one in process.children(recursive=True) if one.is_running()]
    return process.memory_info().rss / 2**20, max(below, default=0) / 2**20


def rows(seconds: float = 20.0, clients: int = 4, by_stage: bool = False) -> None:
    """Print the lines."""
    with tempfile.TemporaryDirectory(prefix="sw-", dir="/tmp") as folder:
        notes = {name: Path(folder) / f"{name}.stages" for name in NAMES} if by_stage else {}
        traced = stages.Traced() if by_stage else None
        os.environ["SWARM_LIMITS_QUEUE_TASKS"] = str(QUEUE_TASKS)

        def entry(name: str) -> tuple[str, ...]:
            return ("benchmarks.stages", str(notes[name])) if notes else ("nodes.cli",)

        with three_nodes(Path(folder), entry) as nodes:
            del os.environ["SWARM_LIMITS_QUEUE_TASKS"]
            _measure(Path(folder), nodes, seconds, clients, traced)
        if traced is not None:
            stages.tell("idle", traced.tasks[:CRITICALS], notes)
            stages.tell("overload", traced.tasks[CRITICALS:], notes)


def _critical_ms(fleet: swarm.Fleet, count: int, traced: stages.Traced | None) -> list[float]:
    if traced is None:
        return to_first_line_ms(fleet, count)
    took = []
    for _ in range(count):
        called = time.monotonic_ns()
        began = fleet.submit(first_line, priority=swarm.CRITICAL).result(60)
        traced.ended(called, began)
        took.append((began - called) / 1e6)
        time.sleep(0.01)
    return took


def _floods(clients: int, seconds: float, rate: float) -> list[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "benchmarks.overload", "--flood", str(seconds), str(rate)]
    return [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(clients)]


def _measure(
    home: Path, nodes: dict[str, subprocess.Popen[bytes]], seconds: float, clients: int, traced: stages.Traced | None
) -> None:
    connected().close()
    with swarm.connect(direct=False, durability="none") as fleet:
        while sum(one["state"] == "alive" for one in fleet.members()) < len(NAMES):
            time.sleep(0.1)
        to_first_line_ms(fleet, 20)
        idle = quantiles(_critical_ms(fleet, CRITICALS, traced))
        just = min(len(NAMES), os.cpu_count() or 1) / TASK_S / clients
        rate = OVERLOAD * just
        busy_s = max(10.0, seconds / 4)
        busy_clients = _floods(clients, busy_s, just)
        busy: list[float] = []
        began = time.monotonic()
        while time.monotonic() < began + busy_s * SAMPLES / (SAMPLES + 1):
            busy += _critical_ms(fleet, 10, None)
        for one in busy_clients:
            one.communicate(timeout=900)
        floods = _floods(clients, seconds, rate)
        watched = {name: psutil.Process(one.pid) for name, one in nodes.items()}
        watched |= {f"client {number}": psutil.Process(one.pid) for number, one in enumerate(floods)}
        series: dict[str, list[tuple[float, float]]] = {name: [] for name in watched}
        urgent: list[float] = []
        pids = {name: process.pid for name, process in watched.items()} | {"who asks for CRITICAL tasks": os.getpid()}
        ran, began = stages.waited(pids), time.monotonic()
        for sample in range(SAMPLES):
            while time.monotonic() < began + seconds * (sample + 1) / (SAMPLES + 1):
                urgent += _critical_ms(fleet, 10, traced)
            for name, process in watched.items():
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    series[name].append(family_mib(process))
        if traced is not None:
            stages.tell_processors(ran, stages.waited(pids), time.monotonic() - began)
        found = [json.loads(one.communicate(timeout=900)[0]) for one in floods]
    total = {key: sum(one[key] for one in found) for key in found[0]}
    for name, points in series.items():
        own = " ".join(f"{point[0]:.0f}" for point in points)
        below = (
            f"; its largest worker {points[0][1]:.0f} to {max(point[1] for point in points):.0f}"
            if name in NAMES
            else ""
        )
        line(f"memory of {name} over {seconds:.0f} s", own + below, "MiB")
    wanted = int(rate * seconds) * clients
    line("tasks wanted, taken, ended", f"{wanted} {total['taken']} {total['ended']}", "")
    line(
        "told to come back: by clients' windows and full nodes / of these, batches that nodes refused",
        f"{total['refused']} / {told(home)}",
        "",
    )
    line("outcomes that are wrong or missing", f"{total['wrong'] + total['taken'] - total['ended']}", "")
    of_idle, of_busy, of_over = (f"{one[0]:.2f} / {one[1]:.2f}" for one in (idle, quantiles(busy), quantiles(urgent)))
    line("critical task to its first line, idle fleet, p50 / p99", of_idle, "ms")
    line(f"the same with as much work as the fleet can do, {len(busy)} of them", of_busy, "ms")
    line(f"the same under {OVERLOAD} times too much, {len(urgent)} of them", of_over, "ms")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1 / 3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--stages", action="store_true", help="where the time of CRITICAL tasks goes")
    parser.add_argument("--flood", nargs=2, type=float, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.flood:
        flood(*said.flood)
    else:
        rows(said.minutes * 60, said.clients, said.stages)


if __name__ == "__main__":
    main()
