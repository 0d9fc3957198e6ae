"""Patience: the last tasks of a kind wait for a faster node, and not for longer than there is to be gained."""

from __future__ import annotations

import pytest

from swarm.protocol.owner.patience import SOONER, WAIT_TASKS
from swarm.protocol.states import Priority, Status
from tests.unit.protocol.owner import ME, OAK, Owner, key_of, report_of, spec_of

MEAN_S = 1.0


def fleet(slow: float = 0.5, fast: float = 2.0, slots: float = 2.0, mean_s: float = MEAN_S) -> Owner:
    """This node is slow, another one is fast, and how long the tasks take is known."""
    owner = Owner(slots)
    owner.executor(OAK, "oak", slots)
    owner.submit(1)
    (first,) = owner.taken()
    count, body = report_of({0: Status.OK}, int(mean_s * 1e6))
    owner.it.outcomes(owner.now, first.executor, first.dispatch, count, body, None)
    owner.take()
    for id, speed in ((ME, slow), (OAK, fast)):
        owner.it.executors[id].pace.speed = speed
    owner.it._placing._patience.measured()
    return owner


def where(owner: Owner) -> list[bytes]:
    return [one.executor for one in owner.taken() for _ in range(one.count)]


def test_while_much_waits_every_node_is_used() -> None:
    owner = fleet()
    owner.submit(2, 30)
    assert sorted(where(owner)) == sorted([ME, ME, OAK, OAK])
    assert owner.it.waiting == 26


def test_the_last_tasks_wait_for_the_faster_node_and_explain_says_so() -> None:
    owner = fleet()
    batch = owner.submit(2, 6)
    # Two slots at twice the speed take six tasks in the time that one loses on the slow node, of which two begin there at once.
    assert where(owner) == [OAK, OAK] and owner.it.waiting == 4
    assert batch is not None
    what = batch.trace[-1]
    assert what[1] == "waits" and any(SOONER in line for line in what[-1]), what


def test_the_fast_node_takes_them_as_its_slots_become_free() -> None:
    owner = fleet()
    owner.submit(2, 6)
    out = owner.taken()
    for _ in range(3):
        assert {one.executor for one in out} == {OAK}
        for one in out:
            owner.fine(one)
        out = owner.taken()
    assert owner.it.waiting == 0


def test_of_what_is_more_than_the_faster_node_takes_only_that_begins_on_the_slow_one() -> None:
    owner = fleet(slots=8.0)
    owner.submit(2, 8 + 24 + 3)
    placed = where(owner)
    assert placed.count(OAK) == 8 and placed.count(ME) == 3


@pytest.mark.parametrize("mean_s", [0.1, 1.0, 1000.0])
def test_it_waits_no_longer_than_there_is_to_be_gained(mean_s: float) -> None:
    owner = fleet(slow=1 / 16, mean_s=mean_s)
    owner.submit(2, 4)
    assert where(owner) == [OAK, OAK]
    # Nothing is heard of the fast one: what it runs may be long.
    owner.wait(min(60.0, WAIT_TASKS * mean_s) * 0.9)
    assert where(owner) == []
    owner.wait(min(60.0, WAIT_TASKS * mean_s) * 0.2)
    assert where(owner) == [ME, ME]


def test_many_batches_wait_no_longer_than_one() -> None:
    owner = fleet(slow=1 / 16)
    for number in range(2, 6):
        owner.submit(number)
    assert where(owner) == [OAK, OAK]
    owner.wait(WAIT_TASKS * MEAN_S * 1.1)
    assert where(owner) == [ME, ME]


@pytest.mark.parametrize("why", ["urgent", "short", "not known", "equal", "not linked", "busy for others"])
def test_nothing_waits_for_it_that_should_not(why: str) -> None:
    owner = fleet(mean_s=0.001 if why == "short" else MEAN_S, slow=2.0 if why == "equal" else 0.5)
    spec = spec_of(priority=Priority.HIGH) if why == "urgent" else spec_of()
    if why == "urgent":
        owner.submit(3, 1, spec)
        (one,) = owner.taken()
        count, body = report_of({0: Status.OK}, 1_000_000)
        owner.it.outcomes(owner.now, one.executor, one.dispatch, count, body, None)
        owner.taken()
    if why == "not known":
        spec = spec_of(timeout_s=77.0)
    if why == "not linked":
        owner.it.executors[OAK].linked = False
    if why == "busy for others":
        owner.it.executors[OAK].others = 2.0
    owner.submit(2, 4, spec)
    assert ME in where(owner)


def test_what_is_held_back_can_be_cancelled_and_the_fast_node_may_leave() -> None:
    owner = fleet()
    owner.submit(2, 6)
    assert where(owner) == [OAK, OAK]
    owner.it.cancel(owner.now, key_of(2), [(5, 6)])
    owner.take()
    owner.it.executor_lost(owner.now, OAK, "dead")
    owner.take()
    owner.wait(1.0)
    assert where(owner) == [ME, ME], "there is no faster one any more"
