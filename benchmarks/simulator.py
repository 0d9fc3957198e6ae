"""The simulator's speed: bare events, 200 nodes for 60 simulated seconds, tasks under faults, and how long a death stays
unknown.

``python -m benchmarks.simulator [--json]``; `make bench` prints its first lines. Needs nothing but one core; the figures
of time are of this machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from random import Random
from typing import Any

from swarm.protocol.membership_config import DEATH_KNOWN_S, DEFAULT
from tests.sim import checkers
from tests.sim.fabric import scenarios
from tests.sim.fleet import Fleet
from tests.sim.network import Network
from tests.sim.simulator import Simulator


class Echo:
    """Passes on what comes to the next in a ring, and has a timer."""

    def __init__(self, following: int) -> None:
        self._following = following
        self._out: list[tuple[Any, Any]] = []
        self._deadline = 0.0

    def receive(self, now: float, source: Any, payload: Any) -> None:
        self._out.append((self._following, payload))

    def tick(self, now: float) -> None:
        self._deadline = now + 0.01

    def next_deadline(self) -> float:
        return self._deadline

    def take(self) -> list[tuple[Any, Any]]:
        out, self._out = self._out, []
        return out


def engine_events_per_s(events: int = 300_000) -> float:
    """Messages and timers of processes that do next to nothing."""
    simulator = Simulator(Network(Random(0)))
    ring = 50
    for place in range(ring):
        echo = Echo((place + 1) % ring)
        echo.receive(0.0, None, b"token")
        simulator.start(place, echo)
    began = time.perf_counter()
    while simulator.events < events:
        simulator.run(simulator.now + 0.1)
    return simulator.events / (time.perf_counter() - began)


def large_fleet(count: int = 200, simulated_s: float = 60.0) -> dict[str, float]:
    """Joins, quiet, one death, load updates: `simulated_s` of a fleet of `count`."""
    began, began_cpu = time.perf_counter(), time.process_time()
    fleet = Fleet(0)
    fleet.grow(count)
    join_s = fleet.run_until_agreed(5.0)
    joined_wall_s = time.perf_counter() - began
    victim = count // 3
    fleet.kill(victim)
    death_s = checkers.death_known(fleet, victim, 30.0)
    step = 0
    while fleet.sim.now < simulated_s:
        for number in sorted(fleet.nodes):
            if number % 10 == step % 10:
                fleet.call(number, "update_self", {"slots": 2, "free": step % 3})
        fleet.run(0.5)
        step += 1
    wall_s = time.perf_counter() - began
    return {
        "nodes": count,
        "simulated_s": fleet.sim.now,
        "wall_s": wall_s,
        "cpu_s": time.process_time() - began_cpu,
        "join_wall_s": joined_wall_s,
        "events_per_s": fleet.sim.events / wall_s,
        "last_join_known_s": join_s,
        "death_known_s": death_s,
        "datagrams_per_node_s": fleet.network.sent / count / fleet.sim.now,
    }


def fabric_storms(seeds: int = 20) -> dict[str, float]:
    """Runs of the task fabric with every kind of fault, all checkers on."""
    events, simulated_s, began = 0, 0.0, time.perf_counter()
    for seed in range(seeds):
        outcome = scenarios.run("storm", seed)
        events += outcome.events
        simulated_s += outcome.simulated_s
    wall_s = time.perf_counter() - began
    return {"runs_per_s": seeds / wall_s, "events_per_s": events / wall_s, "simulated_s_per_s": simulated_s / wall_s}


def rows(line: Callable[[str, str, str], None]) -> None:
    """The lines of `make bench`."""
    rates = sorted(engine_events_per_s() for _ in range(3))
    line("simulator: events of processes that do next to nothing", f"{rates[1]:,.0f}/s", "")
    large = large_fleet()
    line(
        f"  {large['nodes']} nodes, {large['simulated_s']:.0f} simulated seconds",
        f"{large['wall_s']:.1f} s",
        f"{large['cpu_s']:.1f} s of CPU",
    )
    storms = fabric_storms()
    line(
        "  tasks under every fault, all checkers",
        f"{storms['events_per_s']:,.0f}/s",
        f"{storms['runs_per_s']:.1f} runs a second",
    )


def deaths(count: int, seeds: int) -> dict[str, float]:
    """How long until all know of a death, over some seeds."""
    times = []
    for seed in range(seeds):
        fleet = Fleet(seed)
        fleet.grow(count)
        fleet.run_until_agreed(5.0)
        fleet.run(2.0 + fleet.rng.random())
        victim = int(fleet.rng.random() * count)
        fleet.kill(victim)
        times.append(checkers.death_known(fleet, victim, 30.0))
    return {
        "nodes": count,
        "seeds": seeds,
        "median_s": statistics.median(times),
        "worst_s": max(times),
        "bound_s": DEFAULT.death_bound_s(count),
        "promised_s": DEATH_KNOWN_S[count],
    }


def main() -> None:
    """Prints all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer seeds")
    arguments = parser.parse_args()
    figures = {
        "engine_events_per_s": engine_events_per_s(),
        "large_fleet": large_fleet(),
        "fabric_storms": fabric_storms(),
        "deaths": [deaths(5, 20 if arguments.quick else 200), deaths(200, 1 if arguments.quick else 5)],
    }
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    large = figures["large_fleet"]
    assert isinstance(large, dict)
    print(f"simulator engine       {figures['engine_events_per_s']:10.0f} events/s")
    print(
        f"{large['nodes']} nodes, {large['simulated_s']:.0f} simulated s   {large['wall_s']:.1f} s wall, {large['cpu_s']:.1f} s CPU, "
        f"{large['events_per_s']:.0f} events/s, {large['datagrams_per_node_s']:.1f} datagrams/s a node"
    )
    storms = figures["fabric_storms"]
    assert isinstance(storms, dict)
    print(
        f"tasks under every fault   {storms['runs_per_s']:.1f} runs/s, {storms['events_per_s']:.0f} events/s, "
        f"{storms['simulated_s_per_s']:.0f} simulated s/s"
    )
    for row in figures["deaths"]:  # type: ignore[attr-defined]
        print(
            f"a death among {row['nodes']:3} known to all after {row['median_s']:.2f} s median, {row['worst_s']:.2f} s "
            f"worst of {row['seeds']} (bound {row['bound_s']:.2f} s, promised {row['promised_s']:.0f} s)"
        )


if __name__ == "__main__":
    main()
