"""A node that is hot, on battery or at other work offers fewer slots; and what an executor and an owner make of that."""

from __future__ import annotations

import pytest

from swarm.protocol.executor.offer import ONE_MORE_S, Offer, Readings, Rules, wanted
from swarm.protocol.placement import Executor as Seen
from swarm.protocol.placement import judge
from swarm.protocol.resources import PLAIN, Capacity
from swarm.protocol.states import Priority, Status
from tests.unit.protocol.executor import ELM, Executor

RULES = Rules(hot_c=90.0, battery_part=0.5, yields=True)


@pytest.mark.parametrize(
    ("readings", "offered", "why"),
    [
        (Readings(), 8, ""),
        (Readings(80.0, False, 0.4), 8, ""),
        (Readings(85.0), 5, "85 °C"),
        (Readings(90.0), 2, "90 °C"),
        (Readings(120.0), 2, "120 °C"),
        (Readings(None, True), 4, "on battery"),
        (Readings(None, None, 2.6), 5, "2.6 processors at other work"),
        (Readings(85.0, True, 30.0), 1, "30.0 processors at other work"),
    ],
)
def test_how_many_slots_are_offered_and_why(readings: Readings, offered: int, why: str) -> None:
    count, told = wanted(8, readings, RULES)
    assert count == offered and (told[-1] if told else "") == why


def test_what_is_not_heeded_does_not_count_and_one_slot_is_always_offered() -> None:
    assert wanted(8, Readings(120.0, True, 8.0), Rules(0.0, 1.0, False)) == (8, ())
    assert wanted(1, Readings(120.0, True, 8.0), RULES)[0] == 1
    assert wanted(0, Readings(120.0), RULES)[0] == 0


def test_fewer_at_once_and_more_one_at_a_time() -> None:
    offer, now = Offer(8, RULES), 100.0
    assert offer.read(now, Readings(90.0)) == 2 and offer.why == ("90 °C",)
    assert offer.read(now + 3, Readings(60.0)) == 2 and offer.why, "it may be hot again in a moment"
    seen = [offer.read(now + step, Readings(60.0)) for step in range(0, int(8 * ONE_MORE_S), 3)]
    assert sorted(seen) == seen and seen[-1] == 8 and set(seen) == set(range(2, 9))
    assert offer.why == ()


def test_an_executor_that_offers_less_begins_less_and_goes_on_with_what_runs() -> None:
    node = Executor(4.0)
    for number in range(1, 7):
        node.dispatch(number)
    parts = node.slices()
    assert len(parts) == 4
    node.it.offer(node.now, 2)
    assert node.it.load()["off"] == 2.0 and node.it.load()["free"] == 0.0 and node.it.running == 4
    for part in parts[:2]:
        node.run(part)
    assert not node.slices(), "two run, and two are offered"
    node.run(parts[2])
    assert len(node.slices()) == 1
    node.it.offer(node.now, 4)
    node.take()
    assert len(node.slices()) == 1 and "off" not in node.it.load()


def test_what_needs_more_than_is_offered_runs_alone_rather_than_never() -> None:
    node = Executor(4.0)
    node.it.offer(node.now, 1)
    node.dispatch(1)
    (small,) = node.slices()
    node.dispatch(2, needs={"cpu": 3})
    assert not node.slices()
    node.run(small)
    (large,) = node.slices()
    node.dispatch(3)
    assert not node.slices()
    node.run(large)
    assert len(node.slices()) == 1


def test_urgent_work_takes_an_offered_slot_and_no_other() -> None:
    node = Executor(2.0)
    node.it.offer(node.now, 1)
    node.dispatch(1, priority=Priority.LOW)
    (low,) = node.slices()
    node.claim(low)
    node.wait(1.0)
    node.dispatch(2, owner=ELM, priority=Priority.CRITICAL)
    (urgent,) = node.slices()
    assert node.it.suspended == 1
    node.run(urgent)
    assert node.it.suspended == 0
    node.report(low, {0: Status.OK})
    node.done(low)
    assert not node.it.account.used["cpu"]


def test_an_owner_counts_what_is_withheld_out() -> None:
    it = Seen(b"oak", "oak", Capacity({"cpu": 4.0}), linked=True)
    it.heard({"free": 1.0, "wait": 0, "off": 3.0, "others": 0})
    assert judge(it, PLAIN, 1.0).room == 1
    it.heard({"free": 4.0, "wait": 0, "off": True, "others": 0})
    assert judge(it, PLAIN, 1.0).room == 4
