"""How long many tasks of very different length take on machines of different size and speed, beside what is possible at all.

``python -m benchmarks.makespan [--nodes 3 8 …] [--tasks N] [--traces 1 2 …]`` simulates fleets: the very objects that a node is made
of (owner, executor, placement, stealing, their messages and links), with simulated workers. Then three real nodes of 1, 2 and 3 workers on this
machine run a scaled-down trace of sleeping tasks, beside Dask, with workers of as many threads, and HyperQueue, with workers of as
many cores, where they are there (``PEERS_PYTHON`` names a Python that has ``dask[distributed]`` and ``hyperqueue``).

The bound is the larger of the total time over the fleet's capacity and the longest task on the fastest machine. Times are of a bounded
Pareto distribution (alpha 1.5), as measured of processes by Harchol-Balter and Downey (1997), and of one with two modes: short
tasks, and, behind them, long ones of the same function, on which averages are wrong. Each trace is run once more with tasks that offer
checkpoints: what runs long on a slow machine then goes on at a faster one; and with tasks whose lengths were told (`expected_s`), with and
without. Where the longest task alone is what the bound is of, and stands late in the trace, only who knows of it can begin it in time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from unittest.mock import patch

from benchmarks.schedules import blind_s, bound_s, longest_first_s, moving_s, patient_s
from swarm.protocol.membership_config import DEFAULT as membership
from swarm.protocol.resources import Capacity
from swarm.protocol.spec import Spec
from swarm.protocol.states import Status
from swarm.tasks import told_s
from tests.sim.fabric import links, programs, workers
from tests.sim.fabric.node import SimNode
from tests.sim.fabric.programs import Program
from tests.sim.fabric.truth import Attempt, state_of
from tests.sim.fabric.world import Members, World

SIZES = ((2.0, 1.0), (4.0, 0.5), (6.0, 2.0))
"""(slots, speed) of machines, repeated."""
REAL_SLOTS = (1, 2, 3)
REAL_TASKS = 400
REAL_S = (0.03, 3.0)
WARM = 200
"""Tasks a node of another kind, run before: so many that it is known how fast the slowest is."""
UNSTOLEN_NODES_MAX = 8
"""Of larger fleets the figure without stealing is not taken."""
SAFE_S = 0.05
"""A task that offers checkpoints comes to a safe point after so much of its work, at speed 1."""
STATE_BYTES = 1 << 20
"""What it leaves with there, and takes to where it goes on."""
BYTES_PER_S = 125e6
"""What a link carries: 1 Gbit/s."""
LARGE_BYTES = 1 << 12
"""Messages below this take no time by their size."""


def pareto(count: int, seed: int, least_s: float, most_s: float, alpha: float = 1.5) -> list[float]:
    """Run times of a bounded Pareto distribution, seconds."""
    rng = Random(f"pareto {seed}")
    part = 1.0 - (least_s / most_s) ** alpha
    return [least_s / (1.0 - rng.random() * part) ** (1 / alpha) for _ in range(count)]


def two_modes(count: int, seed: int) -> list[float]:
    """Nine of ten tasks are short and come first; then the long ones."""
    rng = Random(f"modes {seed}")
    short = count * 9 // 10
    return [0.001 * (0.5 + rng.random()) for _ in range(short)] + [0.5 + rng.random() for _ in range(count - short)]


class Steady(Members):
    """Nothing goes wrong, so nobody need be probed: all know each other from the start, and node 0, which hands the work over, is
    linked to all. How busy a node is they hear of as often, and as late, as membership gossips it in a fleet of that size."""

    def _tick(self) -> None:
        """Nobody is suspected."""

    def started(self, node: SimNode) -> None:
        for other in self._world.running():
            if other is node:
                continue
            if 0 not in (node.number, other.number):
                # Who hands nothing over dials nobody before it wants something of him; with all dialled there are n^2 links.
                node.members.add(other.id)
                other.members.add(node.id)
            node.host.call_soon(node.member_seen, other.id, other.name, other.info())
            other.host.call_soon(other.member_seen, node.id, node.name, node.info())
        self._told: dict[int, float] = getattr(self, "_told", {})

    def gossip(self, node: SimNode) -> None:
        now, running = self._world.sim.now, self._world.running()
        count = len(running)
        pause_s = max(membership.info_interval_s, membership.info_interval_per_member_s * count)
        wait_s = max(0.0, self._told.get(node.number, 0.0) + pause_s - now)
        if wait_s:
            # As member records do: the latest one is told when it is its turn.
            node._info_timer = node.host.call_later(wait_s, node._tell_info)
            return
        self._told[node.number] = now
        node.host.call_later(membership.spread_s(count) * self._rng.random(), self._tell_all, node, node.info())

    def _tell_all(self, node: SimNode, info: dict[str, object]) -> None:
        for other in self._world.running():
            if other is not node:
                self._heard(other, node, info)


class Saving(workers.SimWorker):
    """A worker whose tasks come to a safe point now and then, and end there if they are to go on elsewhere."""

    def _run(self, part: workers._Part, row: int, index: int, attempt: Attempt) -> None:
        program = programs.read_program(part.calls.payload(row))
        if program.what != programs.COUNTS:
            super()._run(part, row, index, attempt)
            return
        attempt.steps = attempt.begun_at_step
        self._after((program.run_s - attempt.steps * SAFE_S) / self.pool.node.speed, self._whole, attempt, program)
        if (part.run, index) in self.leaves:
            self._leave_at((part.run, index), program)

    def _whole(self, attempt: Attempt, program: Program) -> None:
        attempt.steps = program.times
        self._ended(Status.OK)

    def leave(self, run: int, index: int, value: int) -> None:
        super().leave(run, index, value)
        part, attempt = self.part, self.attempt
        if value and part is not None and attempt is not None and (part.run, index) == (run, attempt.task[1]):
            self._leave_at((run, index), programs.read_program(part.calls.payload(index - part.start)))

    def _leave_at(self, task: tuple[int, int], program: Program) -> None:
        attempt, speed, now = self.attempt, self.pool.node.speed, self.pool.node.world.sim.now
        assert attempt is not None
        ran = (now - attempt.at) * speed / SAFE_S
        steps = int(ran) + 1
        if (attempt.begun_at_step + steps) * SAFE_S < program.run_s:
            self._after((steps - ran) * SAFE_S / speed, self._left, task, attempt.begun_at_step + steps)

    def _left(self, task: tuple[int, int], steps: int) -> None:
        attempt = self.attempt
        assert attempt is not None
        if task in self.leaves:
            self.leaves.discard(task)
            attempt.steps = steps
            self._ended(Status.SAVED)


def full_state(attempt: Attempt) -> bytes:
    """What is left with at a safe point, in its size."""
    return state_of(attempt).ljust(STATE_BYTES, b"\0")


def sent_in_time(end: links.End, *parts: bytes) -> None:
    """A large message takes the time that its bytes do, and so does what is behind it."""
    large = sum(map(len, parts)) >= LARGE_BYTES
    if large:
        end.arrives_at = max(end.arrives_at, end.host.sim.now) + sum(map(len, parts)) / BYTES_PER_S
        end.batch_at = -1.0
    SEND(end, *parts)
    if large:
        end.batch_at = -1.0


SEND = links.End.send


def simulated(
    times: list[float],
    machines: list[tuple[float, float]],
    seed: int,
    *,
    stealing: bool = True,
    saving: bool = False,
    told: bool = False,
) -> tuple[float, int, int]:
    """(makespan in simulated seconds, tasks stolen, tasks moved while they ran). `saving`: tasks offer checkpoints. `told`: their lengths
    are."""
    if not saving:
        return _simulated(times, machines, seed, stealing, saving, told)
    with (
        patch.object(workers, "SimWorker", Saving), patch.object(workers, "state_of", full_state),
        patch.object(links.End, "send", sent_in_time),
    ):  # fmt: skip
        return _simulated(times, machines, seed, stealing, saving, told)


def _simulated(
    times: list[float], machines: list[tuple[float, float]], seed: int, stealing: bool, saving: bool, told: bool
) -> tuple[float, int, int]:
    world = World(seed, checked=False, members=Steady)
    for number, (slots, speed) in enumerate(machines):
        world.start(number, Capacity({"cpu": slots}), speed)
    world.run(3.0)
    if not stealing:
        for node in world.nodes.values():
            node.fabric.stealing = None
    client = world.client(0)
    world.run(0.2)
    # Another kind of task was run before, so that it is known how fast the nodes are.
    before = client.submit(
        Spec("call", ("name", "m:g", "g"), "g"), [Program("fine", 0.05).encode() for _ in range(WARM * len(machines))]
    )
    while before.left:
        world.run(0.05)
    what = programs.COUNTS if saving else programs.FINE
    # As a client does: what takes about the same travels together.
    lengths: dict[float | None, list[bytes]] = {}
    for one in times:
        lengths.setdefault(told_s(one) if told else None, []).append(Program(what, one, int(one / SAFE_S)).encode())
    began = world.sim.now
    batches = [
        client.submit(Spec("call", ("name", "m:f", "f"), "f", checkpoint=saving, expected_s=length), each)
        for length, each in lengths.items()
    ]
    while any(batch.left for batch in batches):
        world.run(0.05)
    stolen = sum(
        entry[3] - entry[2] for node in world.nodes.values() for it in node.ownership.batches.values()
        for entry in it.trace if entry[1] == "stolen"
    )  # fmt: skip
    moved = sum(count for (_, result), count in world.truth.moves_of.items() if result == "moved")
    return max(batch.ended_at for batch in batches) - began, stolen, moved


def simulate(nodes: int, count: int, trace: int = 1) -> None:
    """Print the lines of one fleet, and one trace of each distribution."""
    machines = [SIZES[number % len(SIZES)] for number in range(nodes)]
    capacity = sum(slots * speed for slots, speed in machines)
    scale = capacity / 14.0
    traces = {
        "Pareto, 5 ms to 5 s": [one * scale for one in pareto(count, trace, 0.005, 5.0)],
        "short, then long": [one * max(1.0, scale) for one in two_modes(count, trace)],
    }
    for name, times in traces.items():
        least = bound_s(times, machines)
        print(
            f"makespan, {nodes} unequal nodes, {count:,} tasks (times {scale:.1f} x {name}, {trace}), x the bound of {least:.1f} s (the "
            f"longest task {max(times) / max(speed for _, speed in machines) / least:.2f}); at no cost, lengths unknown: in this order "
            f"{blind_s(times, machines) / least:.3f}, the best of four, in hindsight, {patient_s(times, machines) / least:.3f}, moving "
            f"what runs {moving_s(times, machines) / least:.3f}; lengths known {longest_first_s(times, machines) / least:.3f}",
            flush=True,
        )
        for told in (False, True):
            for saving in (False, True):
                took, stolen, moved = simulated(times, machines, 1, saving=saving, told=told)
                offered = (
                    f"checkpoints every {SAFE_S * 1e3:.0f} ms of work, {STATE_BYTES / 2**20:.0f} MiB over 1 Gbit/s"
                )
                print(
                    f"makespan, simulated: lengths {'told' if told else 'unknown'}, {offered if saving else 'no checkpoints'}: "
                    f"{took / least:.3f} x the bound ({stolen} stolen, {moved} moved while they ran)",
                    flush=True,
                )
        if nodes <= UNSTOLEN_NODES_MAX:
            without, _, _ = simulated(times, machines, 1, stealing=False)
            print(
                f"makespan, simulated: lengths unknown, without stealing: {without / least:.3f} x the bound", flush=True
            )


# --- three real nodes -------------------------------------------------------------------------------------------------


def sleeps(for_s: float) -> None:
    """A task of known length."""
    time.sleep(for_s)


def real_times() -> list[float]:
    """The trace for real nodes."""
    return pareto(REAL_TASKS, 2, *REAL_S)


def ours(told: bool) -> float:
    """Makespan on three nodes of this machine, seconds. `told`: the lengths of tasks are."""
    from tests.e2e.fleets import Nodes, until

    times = real_times()
    with tempfile.TemporaryDirectory(prefix="sw-", dir="/tmp") as folder:
        nodes = Nodes(Path(folder), settings={"SWARM_LEDGER_ENABLED": "false", "SWARM_HTTP_ENABLED": "false"})
        try:
            for name, slots in zip(("oak", "elm", "ash"), REAL_SLOTS, strict=True):
                nodes.start(name, "--workers", str(slots))
            with nodes.connect("oak") as fleet:
                until(lambda: sum(one["state"] == "alive" for one in fleet.members()) == 3, 60, "all are there")
                for one in [fleet.submit(sleeps, 0.01) for _ in range(60)]:
                    one.result(60)
                began = time.perf_counter()
                futures = [fleet.submit(sleeps, one, **({"expected_s": one} if told else {})) for one in times]
                for one in futures:
                    one.result(600)
                return time.perf_counter() - began
        finally:
            nodes.stop_all()


DASK = """
import json, sys, time
from distributed import Client, Nanny, Scheduler, SpecCluster
def sleeps(for_s): time.sleep(for_s)
if __name__ == "__main__":
    times, slots = json.load(sys.stdin)
    workers = {n: {"cls": Nanny, "options": {"nthreads": s, "dashboard_address": None}} for n, s in enumerate(slots)}
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": None, "port": 0}}
    with SpecCluster(scheduler=scheduler, workers=workers, silence_logs=50) as cluster, Client(cluster) as client:
        client.wait_for_workers(len(slots))
        client.gather(client.map(sleeps, [0.01 + n * 1e-9 for n in range(60)], pure=False))
        began = time.perf_counter()
        client.gather(client.map(sleeps, times, pure=False))
        print("TOOK", time.perf_counter() - began, flush=True)
"""
HYPERQUEUE = """
import json, sys, time
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig
if __name__ == "__main__":
    times, slots = json.load(sys.stdin)
    with LocalCluster() as cluster:
        for count in slots:
            cluster.start_worker(WorkerConfig(cores=count))
        client = cluster.client()
        def run(times):
            job = Job()
            for one in times:
                job.program(["sleep", f"{one:.6f}"])
            client.wait_for_jobs([client.submit(job)])
        run([0.01] * 60)
        began = time.perf_counter()
        run(times)
        print("TOOK", time.perf_counter() - began, flush=True)
"""


def peers(script: str, module: str) -> float | str:
    """The same of a peer, seconds, or why not."""
    python = os.environ.get("PEERS_PYTHON", sys.executable)
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
        return "not installed (PEERS_PYTHON=a python that has dask[distributed] and hyperqueue)"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peer.py"
        path.write_text(script)
        told = json.dumps([real_times(), REAL_SLOTS])
        ran = subprocess.run([python, str(path)], input=told, capture_output=True, text=True, timeout=600, cwd=folder)
    line = next((line for line in ran.stdout.splitlines() if "TOOK" in line), None)
    return float(line.split()[-1]) if line else f"failed: {ran.stderr[-300:]}"


def real() -> None:
    """Print the line of three real nodes, beside the peer."""
    least = bound_s(real_times(), [(float(slots), 1.0) for slots in REAL_SLOTS])
    took = ours(told=False)
    said = [f"lengths told: {ours(told=True) / least:.3f} x"]
    for name, script, module in (
        ("Dask", DASK, "distributed"),
        ("HyperQueue, whose tasks are processes", HYPERQUEUE, "hyperqueue"),
    ):
        peer = peers(script, module)
        said.append(f"{name}: {peer if isinstance(peer, str) else f'{peer / least:.3f} x'}")
    print(
        f"makespan, three nodes of {', '.join(map(str, REAL_SLOTS))} workers here: {REAL_TASKS} tasks (Pareto, 30 ms to 3 s): "
        f"{took / least:.3f} x the bound of {least:.1f} s; {'; '.join(said)}",
        flush=True,
    )


def rows(nodes: tuple[int, ...] = (3, 8)) -> None:
    """Print all lines."""
    for count in nodes:
        simulate(count, 10_000)
    real()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--nodes", type=int, nargs="*", default=[3, 8], help="sizes of simulated fleets")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--traces", type=int, nargs="*", default=[1], help="which draws of the times; luck differs")
    parser.add_argument("--only", choices=("simulated", "real"))
    args = parser.parse_args()
    if args.only != "real":
        for nodes in args.nodes:
            for trace in args.traces:
                simulate(nodes, args.tasks, trace)
    if args.only != "simulated":
        real()


if __name__ == "__main__":
    main()
