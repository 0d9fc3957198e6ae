"""Populations on three nodes of this machine: passes and messages a second of a spread one beside one process, and what it takes to
move a million agents beside a copy of as many bytes.

The parts talk over CURVE on the loopback interface, and share this machine's cores; between hosts the way there and back comes on top.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

import swarm
from benchmarks.fleet import line
from benchmarks.nano.fleet_kinds import many, talking
from benchmarks.nano.rounds import interleaved
from swarm import nano

NODES = ("one", "two", "three")
ROUNDS = 5
PASSES = {8: 2_000, 1_000: 1_000, 20_000: 200}
"""Messages a pass, and how many passes are made of each."""


class Fleet:
    """Nodes in a home of their own."""

    def __init__(self) -> None:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        self.home = tempfile.mkdtemp(prefix="swarm-bench-")
        os.environ["SWARM_HOME"] = self.home
        self.nodes = []
        for name in NODES:
            with open(Path(self.home) / f"{name}.log", "wb") as log:
                self.nodes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "nodes.cli", "node", "--name", name, "--workers", "1"],
                        stdout=log,
                        stderr=log,
                    )
                )
            while not list((Path(self.home) / "run").glob(f"{name}*.sock")):
                time.sleep(0.05)
        self.client = swarm.connect(timeout_s=10)
        while sum(each["state"] == "alive" for each in self.client.members()) < len(NODES):
            time.sleep(0.05)

    def close(self) -> None:
        """Stop them."""
        self.client.close()
        for node in self.nodes:
            node.send_signal(signal.SIGTERM)
        for node in self.nodes:
            node.wait(30)
        shutil.rmtree(self.home, ignore_errors=True)


def spread(fleet: Fleet) -> None:
    """Passes a second of one process, and of two and three parts."""
    for talkers, passes in PASSES.items():
        blob = talking(talkers).save()

        def alone(blob: bytes = blob, passes: int = passes) -> float:
            return nano.load(blob).run_for(passes=passes).wall_s / passes

        def parts(count: int, blob: bytes = blob, passes: int = passes) -> float:
            report = nano.submit(fleet.client, blob, passes=passes, nodes=count, by="rows", save_every_s=None).result(
                120
            )
            return max(stint.wall_s for stint in report.stints) / passes

        found = interleaved({"1": alone, "2": lambda: parts(2), "3": lambda: parts(3)}, rounds=ROUNDS)
        line(
            f"{talkers:,} messages a pass, one process",
            f"{1 / found['1']:,.0f} passes/s",
            f"{found['1'] * 1e6:.0f} us a pass",
        )
        for count in ("2", "3"):
            share = 1 - 1 / int(count)
            crossing = talkers * share * int(count)  # each talker is heard in every other part
            line(
                f"  {count} parts", f"{1 / found[count]:,.0f} passes/s",
                f"{found[count] * 1e6:.0f} us a pass, {crossing / found[count] / 1e6:.2f} M lines/s between parts",
            )  # fmt: skip


def moving(fleet: Fleet) -> None:
    """A million agents from one node to another."""
    blob = many().save()
    size = len(blob)
    source, target = np.frombuffer(blob, dtype="u1"), np.empty(size, dtype="u1")
    run = nano.submit(fleet.client, blob, seconds=1e7, on=NODES[0], save_every_s=None)
    while not run.progress["passes"]:
        time.sleep(0.02)

    def copies() -> float:
        began = time.perf_counter()
        target[:] = source
        return time.perf_counter() - began

    moved: list[float] = []

    def moves() -> float:
        began = time.perf_counter()
        run.move(NODES[(len(moved) + 1) % 2])
        moved.append(time.perf_counter() - began)
        return moved[-1]

    def there_and_back() -> float:
        began = time.perf_counter()
        fleet.client.submit(np.negative, source, labels=[f"node:{NODES[2]}"]).result(60)
        return time.perf_counter() - began

    found = interleaved({"copy": copies, "task": there_and_back, "move": moves}, rounds=7, warm=2)
    run.stop()
    run.result(60)
    line(
        f"1,000,000 agents ({size / 1e6:.0f} MB) moved",
        f"{found['move'] * 1e3:.0f} ms",
        f"{size / 1e6 / found['move']:.0f} MB/s",
    )
    line(
        "  a task with them as argument and result",
        f"{found['task'] * 1e3:.0f} ms",
        f"{found['move'] / found['task']:.1f} x",
    )
    line("  a copy of them in memory", f"{found['copy'] * 1e3:.1f} ms", f"{found['move'] / found['copy']:.0f} x")
    small = talking(8).save()
    run = nano.submit(fleet.client, small, seconds=1e7, on=NODES[0], save_every_s=None)
    while not run.progress["passes"]:
        time.sleep(0.02)
    moved.clear()
    line("11 agents moved", f"{median(moves() for _ in range(7)) * 1e3:.0f} ms")
    run.stop()
    run.result(60)


def rows() -> None:
    """Print the rows."""
    fleet = Fleet()
    try:
        spread(fleet)
        moving(fleet)
    finally:
        fleet.close()


if __name__ == "__main__":
    rows()
