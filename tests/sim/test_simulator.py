"""The simulator itself: its clock, its network, and that one seed is one run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from random import Random
from typing import Any

import pytest

from swarm.protocol.effects import Died
from tests.sim import checkers
from tests.sim.fleet import Fleet
from tests.sim.network import Network, Weather
from tests.sim.simulator import Simulator


class Recorder:
    """Notes what it gets, sends what it is told to, and wakes at given instants."""

    def __init__(self, *instants: float) -> None:
        self.got: list[tuple[float, Any, Any]] = []
        self.ticks: list[float] = []
        self.out: list[tuple[Any, Any]] = []
        self._instants = list(instants)

    def receive(self, now: float, source: Any, payload: Any) -> None:
        self.got.append((now, source, payload))

    def tick(self, now: float) -> None:
        self.ticks.append(now)
        self._instants = [instant for instant in self._instants if instant > now]

    def next_deadline(self) -> float | None:
        return min(self._instants, default=None)

    def take(self) -> list[tuple[Any, Any]]:
        out, self.out = self.out, []
        return out


def pair(weather: Weather) -> tuple[Simulator, Network, Recorder, Recorder]:
    network = Network(Random(1), weather)
    simulator = Simulator(network, inbox_max=4)
    one, other = Recorder(), Recorder()
    simulator.start("one", one)
    simulator.start("other", other, offset=1000.0)
    return simulator, network, one, other


def send(simulator: Simulator, process: Recorder, *payloads: Any) -> None:
    process.out += [("other", payload) for payload in payloads]
    simulator.settle("one")


def test_timers_fire_on_the_clock_of_the_process_in_order() -> None:
    simulator = Simulator(Network(Random(0)))
    process = Recorder(1007.0, 1003.0, 1003.0)
    simulator.start("one", process, offset=1000.0)
    simulator.run(10.0)
    assert process.ticks == pytest.approx([1003.0, 1007.0])
    assert simulator.now == 10.0


def test_messages_arrive_after_the_delay_on_the_clock_of_the_receiver() -> None:
    simulator, _, one, other = pair(Weather(delay_s=0.5, jitter_s=0.0))
    send(simulator, one, "hello")
    simulator.run(0.4)
    assert other.got == []
    simulator.run(1.0)
    assert other.got == [(1000.5, "one", "hello")]


def test_a_cut_is_one_way_and_can_be_mended() -> None:
    simulator, network, one, other = pair(Weather())
    network.cut("one", "other")
    send(simulator, one, 1)
    other.out.append(("one", 2))
    simulator.settle("other")
    simulator.run(1.0)
    assert other.got == []
    assert [payload for _, _, payload in one.got] == [2]
    network.mend("one", "other")
    send(simulator, one, 3)
    simulator.run(2.0)
    assert [payload for _, _, payload in other.got] == [3]


def test_loss_duplication_and_reordering_happen_as_often_as_said() -> None:
    simulator, network, one, other = pair(Weather(0.001, 0.0, loss=0.2, duplication=0.3, reordering=0.2))
    send(simulator, one, *range(2000))
    simulator.run(5.0)
    got = [payload for _, _, payload in other.got]
    assert 0.15 * 2000 < network.lost < 0.25 * 2000
    assert len(set(got)) == 2000 - network.lost
    assert 0.2 * 1600 < len(got) - len(set(got)) < 0.4 * 1600
    assert got != sorted(got)


def test_a_paused_process_finds_what_its_socket_could_hold_when_it_goes_on() -> None:
    simulator, _, one, other = pair(Weather())
    simulator.pause("other")
    send(simulator, one, *range(10))
    simulator.run(1.0)
    assert other.got == []
    assert other.ticks == []
    simulator.resume("other")
    assert len(other.got) == 4
    assert all(now == 1001.0 for now, _, _ in other.got)


def test_a_stopped_process_gets_nothing_and_its_successor_no_old_timer() -> None:
    simulator, _, one, other = pair(Weather(delay_s=0.5))
    send(simulator, one, "for the old one")
    simulator.stop("other")
    simulator.run(1.0)
    assert other.got == []
    successor = Recorder(1003.0)
    simulator.start("other", successor)
    simulator.run(5.0)
    assert successor.ticks == pytest.approx([1003.0])


def storm_traces(hash_seed: str) -> list[str]:
    command = [sys.executable, "-m", "tests.sim", "--seeds", "1", "--start", "7", "--kind", "storm", "--kind", "kill"]
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return re.findall(r"trace (\w+)", ran.stdout)


def test_one_seed_is_one_trace_whatever_the_hash_seed() -> None:
    first = storm_traces("1")
    assert len(first) == 2
    assert storm_traces("2") == first


def test_the_checker_sees_a_node_that_is_buried_alive() -> None:
    fleet = Fleet(0)
    fleet.grow(4)
    fleet.run_until_agreed(1.0)
    fleet.pause(2, 10.0)
    fleet.run(10.0)
    assert any(event.kind is Died for event in fleet.events)
    with pytest.raises(AssertionError, match="buried node 2 alive"):
        checkers.nobody_buried_alive(fleet)


def test_the_checker_sees_a_death_that_nobody_notices() -> None:
    fleet = Fleet(0)
    fleet.grow(4)
    fleet.run_until_agreed(1.0)
    fleet.kill(2)
    with pytest.raises(AssertionError, match="still believe in it"):
        checkers.death_known(fleet, 2, 0.5)
