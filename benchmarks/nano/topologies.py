"""What topologies keep to, and what they and a crew cost. Run: python -m benchmarks.nano.topologies [--seconds 1]

Shares, fairness and choices are of virtual time, so the same on any machine; costs are medians of interleaved rounds on this one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from array import array
from collections import Counter
from collections.abc import Callable

from kernels.crew import Crew, Plan, cores
from kernels.passes import TICKS
from swarm.nano.topologies import Due, Hierarchical, Mesh, Priority, Quantum, RoundRobin, Topology, jain
from swarm.nano.topologies.mesh import rehearse, skew

PASS_NS = 1_000_000
GROUPS = ("a", "b", "c", "d")
MAKERS: dict[str, Callable[[], Topology]] = {
    "round robin": RoundRobin,
    "priority": lambda: Priority({"a": "high", "d": "low"}),
    "hierarchical": lambda: Hierarchical({"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}),
    "mesh": lambda: Mesh(2),
    "quantum": lambda: Quantum({"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}),
}


def due(now_ns: int, cost_ns: tuple[int, ...] = (70, 110, 900, 333)) -> list[Due]:
    """Four cohorts with two passes' worth of work each."""
    each = [(group, 2 * PASS_NS // cost) for group, cost in zip(GROUPS, cost_ns)]
    return [Due(group, i, n, n * cost_ns[i], now_ns) for i, (group, n) in enumerate(each)]


def used(topology: Topology, passes: int) -> tuple[Counter[str], int]:
    """ns granted to each group in so many passes of a ms, and the number of grants."""
    topology.bind(GROUPS, 7)
    got: Counter[str] = Counter()
    grants = 0
    for number in range(passes):
        topology.begin(number * PASS_NS, PASS_NS)
        for grant in topology.order(number * PASS_NS, due(number * PASS_NS)):
            got[grant.due.group] += grant.cost_ns
            grants += 1
    return got, grants


def promises(passes: int) -> None:
    """Statistics of a run of virtual time."""
    got, _ = used(RoundRobin(), passes)
    print(f"round robin    Jain index {jain(got.values()):.6f}")
    got, _ = used(MAKERS["hierarchical"](), passes)
    worst = max(abs(got[g] / sum(got.values()) / share - 1) for g, share in zip(GROUPS, (0.4, 0.3, 0.2, 0.1)))
    print(f"hierarchical   worst share off by {worst:.4%}")
    register = Quantum({"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0})
    register.bind(GROUPS, 7)
    chosen: Counter[str] = Counter()
    for _ in range(10_000):
        register.begin(0, 1)
        chosen[next(iter(register.order(0, [Due(g, i, 1, 1, 0) for i, g in enumerate(GROUPS)]))).due.group] += 1
    chi = sum((chosen[g] - 1_000 * w) ** 2 / (1_000 * w) for g, w in zip(GROUPS, (4, 3, 2, 1)))
    print(f"quantum        chi-square {chi:.2f} of 10,000 choices among 4 (99.9 % point 16.27)")
    for threads in (2, 8, 64):
        played = rehearse([40_000] * 1000 + [10_000] * 3000, threads, [1] * 4000)
        print(
            f"mesh           {threads} threads, a quarter 4 x as slow: skew {skew(played.busy_ns):.4f}, {played.steals} steals"
        )


def costs(rounds: int = 15) -> None:
    """What a pass of the order costs."""
    samples: dict[str, list[float]] = {name: [] for name in MAKERS}
    grants = {}
    for _ in range(rounds):
        for name, make in MAKERS.items():
            topology = make()
            began = time.process_time_ns()
            _, grants[name] = used(topology, 50)
            samples[name].append((time.process_time_ns() - began) / 50)
    for name, ns in samples.items():
        print(
            f"order of a pass  {name:13} {statistics.median(ns) / 1e3:7.1f} us of a core, {grants[name] / 50:.1f} grants"
        )


def crews(rounds: int = 15) -> None:
    """A million agents moved by one thread and by more; and what a pass without work costs."""
    rows = 1_000_000
    x, v = array("d", bytes(8 * rows)), array("d", bytes(8 * rows))
    sizes = sorted({1, 2, cores()})
    made = {threads: Crew(threads) for threads in sizes}
    times: dict[tuple[str, int], list[int]] = {}
    plans = {}
    for threads in sizes:
        plans["moves", threads] = Plan()
        plans["moves", threads].add(TICKS["move_many"], [x, v], 0, rows, rows=8192)
        plans["nothing", threads] = Plan()
        plans["nothing", threads].add(TICKS["nothing_many"], [x, v], 0, 64 * threads, rows=64)
    for _ in range(rounds):
        for (what, threads), plan in plans.items():
            repeats = 5 if what == "moves" else 300
            began = time.perf_counter_ns()
            for number in range(repeats):
                made[threads].tick(plan, number, number)
            times.setdefault((what, threads), []).append((time.perf_counter_ns() - began) // repeats)
    for (what, threads), ns in times.items():
        note = ""
        if what == "moves":
            crew = made[threads]
            stolen = sum(crew.steals) / sum(crew.chunks)
            note = (
                f", {rows / statistics.median(ns):.2f} G agents/s, skew {skew(crew.busy_ns):.3f}, {stolen:.1%} stolen"
            )
        print(
            f"a pass of {what:7} {threads} threads: {statistics.median(ns) / 1e3:8.1f} us (least {min(ns) / 1e3:.1f}){note}"
        )
    for crew in made.values():
        crew.close()


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of virtual time for the statistics")
    promises(round(parser.parse_args().seconds * 1000))
    costs()
    crews()


if __name__ == "__main__":
    main()
