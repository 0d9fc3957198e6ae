"""Random fault schedules, one seed a run. Each scenario raises AssertionError where a promise is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from swarm.protocol.membership_config import DEFAULT
from tests.sim import checkers
from tests.sim.fleet import Fleet
from tests.sim.network import Weather

JOIN_S = 1.0
"""The promise: a new node knows all and is known to all."""
HEAL_S = 8.0
"""A cut is over, or a stopped node goes on: until all agree. Four attempts to reach the dead, and the merge."""
GRACE_S = 3.0
"""Rumours from before the end of a fault may arrive for so long."""
LOOK_S = DEFAULT.period(12) + 0.01
"""Who looked for the last time just before a cut was over may come to its verdict so long after."""
STALL_S = 0.8
"""A node that stalls for less than this is not declared dead: it is below the shortest suspicion."""
assert STALL_S < DEFAULT.suspicion_min_s(2)


@dataclass(frozen=True)
class Outcome:
    """What a run was like."""

    trace: int
    events: int
    simulated_s: float
    nodes: int


def _size(rng: Random, least: int = 3, most: int = 12) -> int:
    return least + int(rng.random() * (most - least + 1))


def _joined(fleet: Fleet, count: int) -> None:
    fleet.grow(count)
    fleet.run_until_agreed(JOIN_S)


def _everyone(fleet: Fleet, for_s: float) -> None:
    for number in sorted(fleet.nodes):
        fleet.disturb(number, for_s)


def calm(fleet: Fleet, rng: Random) -> None:
    """Nodes join at random moments and talk about their load; nothing goes wrong."""
    for number in range(_size(rng)):
        fleet.start(number, [int(rng.random() * number)] if number else [])
        fleet.run(rng.random() * 0.5)
    fleet.run_until_agreed(JOIN_S)
    for step in range(20):
        fleet.call(int(rng.random() * len(fleet.nodes)), "update_self", {"slots": 2, "free": step})
        fleet.run(rng.random())
    checkers.all_quiet(fleet, 5.0)


def kill(fleet: Fleet, rng: Random) -> None:
    """Nodes die one after the other, some with their connections seen to reset."""
    _joined(fleet, _size(rng, 4))
    while len(fleet.nodes) > 2:
        fleet.run(rng.random() * 3)
        victim = rng.choice(sorted(fleet.nodes))
        fleet.disturb(victim, float("inf"))
        count = len(fleet.nodes)
        fleet.kill(victim)
        checkers.death_known(fleet, victim, DEFAULT.death_bound_s(count))
        fleet.run_until_agreed(JOIN_S)


def restart(fleet: Fleet, rng: Random) -> None:
    """Nodes die and come back, before or after anybody noticed."""
    _joined(fleet, _size(rng))
    for _ in range(4):
        victim = rng.choice(sorted(fleet.nodes))
        others = [number for number in sorted(fleet.nodes) if number != victim]
        fleet.disturb(victim, 20.0)
        fleet.kill(victim)
        fleet.run(rng.random() * 5)
        fleet.start(victim, [rng.choice(others)])
        fleet.run_until_agreed(JOIN_S)
        fleet.run(rng.random() * 2)
    checkers.all_quiet(fleet, 5.0)


def partition(fleet: Fleet, rng: Random) -> None:
    """The network is cut in two for a while."""
    count = _size(rng, 4)
    _joined(fleet, count)
    for _ in range(2):
        side = set(rng.sample(range(count), 1 + int(rng.random() * (count - 1))))
        length = rng.random() * 15
        _everyone(fleet, length + LOOK_S)
        where = [fleet.address(number) for number in range(count)]
        fleet.network.part([where[n] for n in sorted(side)], [where[n] for n in range(count) if n not in side])
        fleet.run(length)
        fleet.network.heal()
        fleet.run_until_agreed(HEAL_S)
        fleet.run(HEAL_S)
    checkers.all_quiet(fleet, 5.0)


def one_way(fleet: Fleet, rng: Random) -> None:
    """Some pairs cannot talk in one direction: others help, and nobody dies."""
    count = _size(rng, 5)
    _joined(fleet, count)
    for _ in range(max(1, count // 4)):
        source, destination = rng.sample(range(count), 2)
        fleet.network.cut(fleet.address(source), fleet.address(destination))
    fleet.run(20.0)
    fleet.network.heal()
    fleet.run_until_agreed(HEAL_S)


def deaf(fleet: Fleet, rng: Random) -> None:
    """A node hears nothing and is heard: it dies for the others, and takes nobody with it."""
    count = _size(rng, 4)
    _joined(fleet, count)
    victim = int(rng.random() * count)
    length = 5 + rng.random() * 15
    fleet.excuse(victim, length + GRACE_S)
    fleet.disturb(victim, length + LOOK_S)
    for number in range(count):
        if number != victim:
            fleet.network.cut(fleet.address(number), fleet.address(victim))
    fleet.run(length)
    fleet.network.heal()
    fleet.run_until_agreed(HEAL_S)
    checkers.all_quiet(fleet, 5.0)


def mute(fleet: Fleet, rng: Random) -> None:
    """A node hears all and is heard by nobody: it dies for the others; and it takes nobody with it when it is back."""
    count = _size(rng, 4)
    _joined(fleet, count)
    victim = int(rng.random() * count)
    length = 0.3 + rng.random() * 12
    fleet.excuse(victim, length + GRACE_S)
    fleet.disturb(victim, length + LOOK_S)
    for number in range(count):
        if number != victim:
            fleet.network.cut(fleet.address(victim), fleet.address(number))
    fleet.run(length)
    fleet.network.heal()
    fleet.run_until_agreed(HEAL_S)
    fleet.run(HEAL_S)
    checkers.all_quiet(fleet, 5.0)


def pause(fleet: Fleet, rng: Random) -> None:
    """Nodes are stopped for long and go on: the fleet buries them, and takes them back; they bury nobody."""
    count = _size(rng, 4)
    _joined(fleet, count)
    for _ in range(3):
        victim = int(rng.random() * count)
        length = 0.5 + rng.random() * 12
        # The stopped node may be buried; what it thinks of others is not excused.
        fleet.excuse(victim, length + GRACE_S)
        fleet.pause(victim, length)
        fleet.run(length)
        fleet.run_until_agreed(HEAL_S)
        fleet.run(rng.random() * 3)
    checkers.all_quiet(fleet, 5.0)


def busy(fleet: Fleet, rng: Random) -> None:
    """Every node stalls now and then for less than the shortest suspicion: nobody dies."""
    count = _size(rng)
    _joined(fleet, count)
    for number in range(count):
        for _ in range(8):
            start = fleet.sim.now + rng.random() * 20
            length = rng.random() * STALL_S / 2
            fleet.sim.at(start, partial(fleet.pause, number, length))
    fleet.run(22.0)
    fleet.run_until_agreed(HEAL_S)
    checkers.all_quiet(fleet, 5.0)


def slow(fleet: Fleet, rng: Random) -> None:
    """One node stalls all the time, as under a heavy load: it neither dies nor buries anybody."""
    count = _size(rng)
    _joined(fleet, count)
    victim = int(rng.random() * count)
    end = fleet.sim.now + 20.0

    def stall() -> None:
        if fleet.sim.now < end:
            length = 0.1 + rng.random() * (STALL_S - 0.1)
            fleet.pause(victim, length)
            fleet.sim.at(fleet.sim.now + length + rng.random() * 0.2, stall)

    stall()
    fleet.run(22.0)
    fleet.run_until_agreed(HEAL_S)
    checkers.all_quiet(fleet, 5.0)


def lossy(fleet: Fleet, rng: Random) -> None:
    """A bad network: a tenth is lost, some comes twice or late. All know each other, nobody dies."""
    fleet.network.weather = Weather(0.002, 0.01, loss=0.1, duplication=0.05, reordering=0.1)
    fleet.grow(_size(rng), apart_s=0.1)
    fleet.run_until_agreed(5.0)
    fleet.run(20.0)
    fleet.network.weather = Weather()
    fleet.run_until_agreed(HEAL_S)


def goodbye(fleet: Fleet, rng: Random) -> None:
    """Nodes leave in good order: known at once, and nobody is called dead."""
    _joined(fleet, _size(rng, 4))
    while len(fleet.nodes) > 2:
        leaver = rng.choice(sorted(fleet.nodes))
        fleet.call(leaver, "leave")
        fleet.run(fleet.nodes[leaver].membership.goodbye_s)
        fleet.kill(leaver)
        fleet.run_until_agreed(JOIN_S)
        fleet.run(rng.random() * 3)


def storm(fleet: Fleet, rng: Random) -> None:
    """Everything at once; afterwards all agree."""
    count = _size(rng, 5)
    _joined(fleet, count)
    for number in range(count):
        fleet.disturb(number, 1e9)
    for _ in range(12):
        what = int(rng.random() * 5)
        number = int(rng.random() * count)
        if what == 0 and number in fleet.nodes:
            fleet.kill(number)
        elif what == 1 and number not in fleet.nodes:
            fleet.start(number, [int(rng.random() * count)])
        elif what == 2 and number in fleet.nodes:
            fleet.pause(number, rng.random() * 5)
        elif what == 3:
            fleet.network.cut(fleet.address(number), fleet.address(int(rng.random() * count)))
        else:
            fleet.network.weather = Weather(loss=rng.random() * 0.2, reordering=0.1, duplication=0.1)
        fleet.run(rng.random() * 4)
    fleet.network.heal()
    fleet.network.weather = Weather()
    fleet.run(6.0)
    for number in range(count):
        if number not in fleet.nodes:
            fleet.start(number, [other for other in range(count) if other != number])
    fleet.run_until_agreed(HEAL_S + DEFAULT.hello_retry_max_s)
    checkers.all_quiet(fleet, 5.0)


SCENARIOS: dict[str, Callable[[Fleet, Random], None]] = {
    scenario.__name__: scenario
    for scenario in (calm, kill, restart, partition, one_way, deaf, mute, pause, busy, slow, lossy, goodbye, storm)
}


def run(kind: str, seed: int) -> Outcome:
    """One run of one scenario. AssertionError where it breaks a promise."""
    fleet = Fleet(seed)
    SCENARIOS[kind](fleet, Random(f"{kind} {seed}"))
    checkers.nobody_buried_alive(fleet)
    checkers.joins_alternate(fleet)
    return Outcome(fleet.sim.trace, fleet.sim.events, fleet.sim.now, len(fleet.starts))
