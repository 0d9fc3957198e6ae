"""Shares and starvation, as properties of whole fleets over seeds: users who want more than there is get as much as each other, and
each class but those below CRITICAL work moves on under a steady stream of a higher one. The rules' mutants are found."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from kernels.runqueue import RunQueue
from swarm.protocol import fair
from swarm.protocol.executor import handing
from swarm.protocol.owner.in_line import InLine
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
MEMORY, WIDE = {"memory": 1e6}, {"cpu": float(SLOTS)}
Needs = dict[str, float] | None


def fleet(seed: int, nodes: int = 2) -> World:
    world = World(seed)
    for number in range(nodes):
        world.start(number, Capacity({"cpu": float(SLOTS), "memory": 1e9}))
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


def moves(
    seed: int, low: int, high: int, *, mine: bool = False, needs: Needs = None, of_stream: Needs = None, owner: int = 0,
    takes_s: float = 0.15, within_s: float = 30.0,
) -> None:  # fmt: skip
    """A task of one class waits, while work of another keeps coming: of the same user, or of another; handed to the same node or not."""
    world = fleet(seed, 1 + owner)
    stream, other = world.client(0), world.client(owner)
    world.run(0.5)
    rng = Random(f"stream {seed}")
    enough = 4 * SLOTS * max(1, round(0.1 / takes_s))

    def feed() -> None:
        if stream.unfinished < enough:
            hand(
                stream,
                programs.FINE,
                takes_s * (0.3 + 1.4 * rng.random()),
                enough,
                priority=high,
                needs=of_stream or {},
            )
        stream.host.call_later(0.05, feed)

    feed()
    world.run(2.0)
    batch = hand(stream if mine else other, programs.FINE, 0.1, 1, priority=low, needs=needs or {})
    _until(world, batch, within_s)
    assert not batch.left, f"class {low} stands still under {high}"


def _until(world: World, batch: Any, within_s: float) -> None:
    ends = world.sim.now + within_s
    while batch.left and world.sim.now < ends:
        world.run(0.25)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_users_get_as_much_as_each_other(seed: int) -> None:
    shares(seed)


@pytest.mark.parametrize("mine", [True, False])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 2), (1, 2)])
def test_each_class_moves_on_under_a_stream_of_a_higher_one(low: int, high: int, mine: bool) -> None:
    for seed in range(2):
        moves(seed, low, high, mine=mine)


@pytest.mark.parametrize(("needs", "of_stream"), [(MEMORY, None), (None, MEMORY), (WIDE, None)])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 1)])
def test_what_asks_for_something_else_is_in_the_same_line(needs: Needs, of_stream: Needs, low: int, high: int) -> None:
    """What a task needs decides where it fits, not when it is its turn."""
    moves(1, low, high, needs=needs, of_stream=of_stream, mine=bool(needs is MEMORY))


@pytest.mark.parametrize(("low", "high", "within_s"), [(0, 1, 30.0), (1, 1, 3.0), (2, 1, 3.0)])
def test_what_is_handed_to_another_node_is_in_the_same_line(low: int, high: int, within_s: float) -> None:
    """A stream of short tasks, of which some are always sent ahead, leaves another owner no free slot to see."""
    moves(1, low, high, owner=1, takes_s=0.012, within_s=within_s)


def test_what_only_one_node_has_is_not_for_its_own_clients_alone() -> None:
    """Who hears first of a free slot is who owns what ran in it."""
    world = World(3)
    world.start(0, Capacity({"cpu": 2.0, "gpu": 1.0}))
    world.start(1, Capacity({"cpu": 2.0}))
    world.run(2.0)
    here, there = world.client(0), world.client(1)
    world.run(0.5)
    hand(here, programs.FINE, 0.3, 200, priority=Priority.LOW, needs={"gpu": 1.0})
    world.run(2.0)
    batch = hand(there, programs.FINE, 0.3, 3, needs={"gpu": 1.0})
    _until(world, batch, 10.0)
    assert not batch.left, "STANDARD work waits behind LOW"


def test_a_class_comes_before_a_lower_one_that_was_handed_to_another_node() -> None:
    """Tasks of one length, so that the slots of a node become free at once."""
    world = fleet(5)
    low, usual = world.client(0), world.client(1)
    world.run(0.5)
    hand(low, programs.FINE, 0.3, 400, priority=Priority.LOW)
    world.run(1.0)
    hand(usual, programs.FINE, 0.3, 400)
    world.run(1.0)
    since = world.sim.now
    world.run(8.0)
    of_low, of_usual = slot_time(world, [low, usual], since)
    assert of_usual >= 2 * of_low, f"{of_low:.1f} s of LOW work beside {of_usual:.1f} s of STANDARD"


def test_nothing_goes_past_what_is_before_it_by_asking_for_something_else() -> None:
    """STANDARD tasks that are too long to be sent ahead wait at their owner; LOW ones that need memory as well do not wait elsewhere for their slots."""
    world = fleet(1, 1)
    client = world.client(0)
    world.run(0.5)
    standard = hand(client, programs.FINE, 0.1, 60, priority=Priority.STANDARD)
    low = hand(client, programs.FINE, 0.1, 20, priority=Priority.LOW, needs=MEMORY)
    world.run(2.5)
    assert standard.left < 20 and low.left == 20, f"{standard.left} and {low.left} are left"
    world.run_until_done(10.0)


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


def test_the_property_sees_owners_who_have_nothing_wait_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InLine, "place", lambda self, *told: None)
    with pytest.raises(AssertionError, match="stands still"):
        moves(1, Priority.HIGH, Priority.STANDARD, owner=1, takes_s=0.012, within_s=3.0)
    with pytest.raises(AssertionError, match="behind LOW"):
        test_what_only_one_node_has_is_not_for_its_own_clients_alone()


def test_the_property_sees_slots_that_never_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing, "keeps_slots", lambda *told: False)
    with pytest.raises(AssertionError, match="stands still"):
        moves(1, Priority.STANDARD, Priority.STANDARD, needs=WIDE)


def test_the_property_sees_a_line_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_shape(self: fair.FairQueue, now: int) -> Any:
        return (0, 0, 0.0, 0, 0)

    monkeypatch.setattr(fair.FairQueue, "rank", by_shape)
    with pytest.raises(AssertionError, match="stands still"):
        moves(1, Priority.LOW, Priority.STANDARD, needs=MEMORY)


def test_no_more_wait_at_the_very_node_than_anywhere() -> None:
    """What was placed in one turn is not known to the node's executor before the next."""
    world = fleet(1, 1)
    client = world.client(0)
    world.run(0.5)
    hand(client, programs.FINE, 5.0, 2, needs=MEMORY)
    world.run(0.5)
    hand(client, programs.FINE, 0.1, 20, priority=Priority.STANDARD)
    world.run(0.5)
    (node,) = world.nodes.values()
    assert node.fabric.execution.waiting == 1
    world.run_until_done(30.0)
