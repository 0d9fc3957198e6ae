"""Shares and starvation, as properties of whole fleets over seeds: users who want more than there is get as much as each other, and
each class but those below CRITICAL work moves on under a steady stream of a higher one. The rules' mutants are found."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from kernels.runqueue import RunQueue
from swarm.protocol import fair
from swarm.protocol.resources import Capacity
from swarm.protocol.states import Priority
from tests.sim.fabric import programs
from tests.sim.fabric.client import SimClient
from tests.sim.fabric.world import World
from tests.sim.test_fabric import hand

SEEDS = 6
SLOTS = 2
FOR_S = 15.0
LONGEST_S = 0.5


def fleet(seed: int, nodes: int = 2) -> World:
    world = World(seed)
    for number in range(nodes):
        world.start(number, Capacity({"cpu": float(SLOTS)}))
    world.run(2.0)
    return world


def slot_time(world: World, clients: list[SimClient], since: float) -> list[float]:
    """Seconds in slots that each had since then, as far as it has ended."""
    had = dict.fromkeys((client.session.id for client in clients), 0.0)
    for attempt in world.truth.attempts:
        if attempt.ended_at is not None and attempt.ended_at >= since:
            had[attempt.task[0][:8]] += attempt.ended_at - max(attempt.at, since)
    return list(had.values())


def shares(seed: int, nodes: int = 2) -> None:
    """One user floods with batches of every size, the other hands over one; both want more than there is."""
    rng, world = Random(f"shares {seed}"), fleet(seed, nodes)
    clients = [world.client(0), world.client(0)]
    world.run(0.5)
    for _ in range(40):
        hand(clients[0], programs.FINE, LONGEST_S * rng.random(), 10 + int(rng.random() * 30))
    world.run(1.0)
    hand(clients[1], programs.FINE, LONGEST_S * (0.1 + 0.9 * rng.random()), 2000)
    world.run(1.0)
    since = world.sim.now
    world.run(FOR_S)
    one, other = slot_time(world, clients, since)
    # What each slot runs at the ends, and what was sent ahead, is not divided any more.
    slack = 4 * SLOTS * nodes * LONGEST_S
    assert abs(one - other) <= slack, f"shares of {one:.1f} and {other:.1f} s, which may differ by {slack:.1f} s"
    assert one + other >= 0.7 * SLOTS * nodes * FOR_S, f"slots were idle: {one + other:.1f} s of work"


def moves(seed: int, low: int, high: int, *, mine: bool) -> None:
    """A task of one class waits, while work of a higher one keeps coming: of the same user, or of another."""
    world = fleet(seed, 1)
    stream, other = world.client(0), world.client(0)
    world.run(0.5)
    rng = Random(f"stream {seed}")

    def feed() -> None:
        if stream.unfinished < 4 * SLOTS:
            hand(stream, programs.FINE, 0.05 + 0.2 * rng.random(), 4 * SLOTS, priority=high)
        stream.host.call_later(0.05, feed)

    feed()
    world.run(2.0)
    batch = hand(stream if mine else other, programs.FINE, 0.1, 1, priority=low)
    world.run(30.0)
    assert not batch.left, f"class {low} stands still under {high}"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_users_get_as_much_as_each_other(seed: int) -> None:
    shares(seed)


@pytest.mark.parametrize("mine", [True, False])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 2), (1, 2)])
def test_each_class_moves_on_under_a_stream_of_a_higher_one(low: int, high: int, mine: bool) -> None:
    for seed in range(2):
        moves(seed, low, high, mine=mine)


def test_nothing_moves_under_critical_work() -> None:
    with pytest.raises(AssertionError, match="stands still"):
        moves(0, Priority.LOW, Priority.CRITICAL, mine=False)


def test_the_property_sees_users_who_are_not_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair.Shares, "serve", lambda self, user, tag, cost_ns: tag)
    with pytest.raises(AssertionError, match="may differ"):
        for seed in range(SEEDS):
            shares(seed)


def test_the_property_sees_a_queue_that_does_not_age(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ageless(RunQueue):
        def __init__(self, *args: Any) -> None:
            super().__init__(1 << 62)

    monkeypatch.setattr(fair, "RunQueue", Ageless)
    with pytest.raises(AssertionError, match="stands still"):
        moves(0, Priority.LOW, Priority.HIGH, mine=False)
