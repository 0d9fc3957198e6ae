"""The owner and its clients: cancelling, starting once, dependencies, deadlines, and clients that come and go."""

from __future__ import annotations

import msgpack
import pytest

from swarm.protocol import ids
from swarm.protocol.messages import Kind
from swarm.protocol.ownership import OwnershipConfig
from swarm.protocol.states import Status
from tests.unit.protocol.owner import (
    CLIENT,
    ME,
    WALL,
    Owner,
    key_of,
    spec_of,
)

# --- cancelling -------------------------------------------------------------------------------------------------------


def test_what_waits_is_cancelled_at_once_and_what_runs_is_recalled() -> None:
    owner = Owner(slots=1)
    owner.submit(1, 3)
    (dispatch,) = owner.taken()
    owner.it.cancel(owner.now, key_of(1), None)
    owner.take()
    assert owner.ended(1) == {1: Status.CANCELLED, 2: Status.CANCELLED}
    assert owner.messages(Kind.RECALL, ME) == [{"d": dispatch.dispatch, "r": [[0, 3]], "k": True}]
    owner.report(dispatch, {0: Status.RETURNED})
    assert owner.ended(1)[0] == Status.CANCELLED
    assert (owner.it.unfinished, owner.it.waiting) == (0, 0)
    owner.it.cancel(owner.now, key_of(1), None)  # too late
    assert owner.it.take_effects() == []


@pytest.mark.parametrize(
    ("reported", "ends"),
    [(Status.OK, Status.OK), (Status.CRASHED, Status.CANCELLED), (Status.RETRY, Status.FAILED), (Status.CANCELLED, 2)],
)
def test_what_ran_when_it_was_cancelled_ends_as_it_did_and_never_runs_again(reported: int, ends: int) -> None:
    owner = Owner(slots=1)
    owner.submit(1, spec=spec_of(retries=9))
    (dispatch,) = owner.taken()
    owner.it.cancel(owner.now, key_of(1), [(0, 1)], kill=False)
    owner.take()
    assert owner.messages(Kind.RECALL, ME)[0]["k"] is False
    owner.report(dispatch, {0: reported})
    assert owner.ended(1) == {0: ends}
    assert owner.taken() == []


def test_ranges_beyond_the_batch_cancel_what_there_is() -> None:
    owner = Owner(slots=0)
    owner.submit(1, 3)
    owner.it.cancel(owner.now, key_of(1), [(2, 2**32 - 1), (1, 1), (3, 2)])
    owner.take()
    assert owner.ended(1) == {2: Status.CANCELLED}
    assert owner.it.waiting == 2


# --- starting once ----------------------------------------------------------------------------------------------------


def test_what_may_not_be_repeated_starts_when_its_client_says_so() -> None:
    owner = Owner(slots=4)
    owner.submit(1, 3, spec_of(rerun=False))
    assert owner.taken() == []
    assert owner.messages(Kind.ASK_START) == [{"b": key_of(1), "r": [[0, 3]]}]
    owner.it.grant_start(owner.now, key_of(1), [(1, 2), (2, 99)])
    owner.it.grant_start(owner.now, key_of(1), [(1, 2)])  # again: changes nothing
    owner.take()
    dispatched = owner.taken()
    assert [(one.first, one.count) for one in dispatched] == [(1, 2)]
    # A client that comes back is asked for the rest again.
    owner.submit(1, 3, spec_of(rerun=False))
    assert owner.messages(Kind.ASK_START)[-1] == {"b": key_of(1), "r": [[0, 1]]}


# --- dependencies -----------------------------------------------------------------------------------------------------


def test_a_task_waits_for_those_that_it_depends_on_and_gets_their_results() -> None:
    owner = Owner(slots=4)
    owner.submit(1, 2)
    (source,) = owner.taken()
    deps = [ids.task_id(key_of(1), 1), ids.task_id(key_of(1), 0)]
    owner.submit(2, deps=deps)
    assert owner.taken() == []
    owner.report(source, {0: Status.OK})
    assert owner.taken() == []
    owner.report(source, {1: Status.OK})
    (dispatch,) = owner.taken()
    assert dispatch.extra["deps"] == [b"M\x01", b"M\x01"]
    # What has ended already is at hand.
    owner.submit(3, deps=deps[:1])
    assert [one.extra["deps"] for one in owner.taken()] == [[b"M\x01"]]


def test_a_dependency_that_fails_or_is_not_known_ends_those_behind_it() -> None:
    owner = Owner(slots=4)
    owner.submit(1)
    (source,) = owner.taken()
    owner.submit(2, deps=[ids.task_id(key_of(1), 0)])
    owner.submit(3, deps=[ids.task_id(key_of(2), 0)])
    owner.submit(4, deps=[ids.task_id(key_of(77), 0)])
    owner.submit(5, deps=[ids.task_id(key_of(1), 9)])
    assert owner.ended(4) == {0: Status.DEPENDENCY}
    assert owner.ended(5) == {0: Status.DEPENDENCY}
    owner.report(source, {0: Status.FAILED})
    assert owner.ended(2) == {0: Status.DEPENDENCY}
    assert owner.ended(3) == {0: Status.DEPENDENCY}
    outcome = owner.it.batches[key_of(2)].outcome(0)
    assert outcome is not None
    facts = msgpack.unpackb(bytes(outcome[1])[1:])["facts"]
    assert facts["status"] == "failed"
    owner.submit(6, deps=[ids.task_id(key_of(1), 0)])  # has failed before
    assert owner.ended(6) == {0: Status.DEPENDENCY}
    assert owner.it.unfinished == 0


def test_a_cancelled_task_that_waited_is_not_released_by_what_it_waited_for() -> None:
    owner = Owner(slots=4)
    owner.submit(1)
    (source,) = owner.taken()
    owner.submit(2, deps=[ids.task_id(key_of(1), 0)])
    owner.it.cancel(owner.now, key_of(2), None)
    owner.take()
    owner.fine(source)
    assert owner.taken() == []
    assert owner.ended(2) == {0: Status.CANCELLED}


# --- time -------------------------------------------------------------------------------------------------------------


def test_what_has_not_begun_by_its_deadline_expires() -> None:
    owner = Owner(slots=1)
    owner.submit(1, 3, spec_of(deadline=WALL + owner.now + 5.0))
    (running,) = owner.taken()
    owner.wait(4.9)
    assert owner.ended(1) == {}
    owner.wait(0.2)
    assert owner.ended(1) == {1: Status.EXPIRED, 2: Status.EXPIRED}
    owner.fine(running)
    assert owner.ended(1)[0] == Status.OK


def test_a_client_that_does_not_come_back_loses_its_tasks_and_one_that_does_keeps_them() -> None:
    owner = Owner(slots=1, config=OwnershipConfig(client_lease_s=10.0))
    owner.submit(1, 2)
    (running,) = owner.taken()
    owner.it.client_lost(owner.now, CLIENT)
    owner.wait(9.0)
    owner.submit(1, 2)
    owner.wait(5.0)
    assert owner.ended(1) == {}
    owner.it.client_lost(owner.now, CLIENT)
    owner.wait(10.1)
    assert owner.it.batches[key_of(1)].client is None
    assert owner.messages(Kind.RECALL, ME) == [{"d": running.dispatch, "r": [[0, 2]], "k": True}]
    owner.report(running, {0: Status.CANCELLED})
    assert owner.it.unfinished == 0
    assert "batch.abandoned" in [fact.name for fact in owner.facts]


def test_what_may_not_be_repeated_and_never_began_is_run_when_its_client_is_back_after_all() -> None:
    owner = Owner(slots=1, config=OwnershipConfig(client_lease_s=10.0))
    owner.submit(1)
    (first,) = owner.taken()
    for number in (2, 3):
        owner.submit(number, 2, spec_of(rerun=False))
    owner.it.grant_start(owner.now, key_of(3), [(0, 1)])
    owner.it.client_lost(owner.now, CLIENT)
    owner.wait(10.1)
    owner.report(first, {0: Status.CANCELLED})
    assert owner.it.unfinished == 0
    told = len(owner.told)
    owner.submit(2, 2, spec_of(rerun=False))
    owner.it.grant_start(owner.now, key_of(2), [(0, 2)])
    owner.take()
    (again,) = owner.taken()
    owner.fine(again)
    owner.fine(owner.taken()[0])
    del owner.told[:told]
    assert owner.ended(2) == {0: Status.OK, 1: Status.OK}, "it had not begun, so it is not repeated"
    owner.submit(3, 2, spec_of(rerun=False))
    assert owner.ended(3) == {}, "it might have begun, and had not"
    owner.it.grant_start(owner.now, key_of(3), [(0, 2)])
    owner.take()
    while runs := owner.taken():
        for one in runs:
            owner.fine(one)
    assert owner.ended(3) == {0: Status.OK, 1: Status.OK}


def test_of_what_may_not_be_repeated_and_had_partly_begun_the_rest_goes_on_when_its_client_is_back() -> None:
    owner = Owner(slots=2, config=OwnershipConfig(client_lease_s=10.0))
    once = spec_of(rerun=False)
    owner.submit(1, 7, once)
    owner.it.grant_start(owner.now, key_of(1), [(0, 6)])
    owner.take()
    (run,) = owner.taken()
    owner.report(run, {0: Status.OK})  # has its outcome
    (third,) = owner.taken()
    assert (run.first, run.count, third.first, third.count) == (0, 2, 2, 4)
    owner.it.cancel(owner.now, key_of(1), [(5, 6)])
    owner.take()
    owner.it.client_lost(owner.now, CLIENT)
    owner.wait(10.1)
    owner.report(run, {1: Status.CANCELLED})  # it ran, and was ended
    owner.submit(1, 7, once)
    assert [one["reason"] for one in owner.messages(Kind.REFUSED)] == ["full"], "not all of it is over yet"
    owner.report(third, dict.fromkeys((2, 3, 4, 5), Status.RETURNED))  # they waited there, and had not begun
    assert owner.it.unfinished == 0
    del owner.told[:]
    owner.submit(1, 7, once)
    assert owner.ended(1) == {0: Status.OK, 1: Status.LOST, 5: Status.CANCELLED}
    assert owner.it.unfinished == 4
    owner.it.grant_start(owner.now, key_of(1), [(0, 7)])
    owner.take()
    began = []
    while runs := owner.taken():
        began += [index for one in runs for index in range(one.first, one.first + one.count)]
        for one in runs:
            owner.fine(one)
    assert sorted(began) == [2, 3, 4, 6], "nothing begins twice"
    assert set(owner.ended(1).values()) == {Status.OK, Status.LOST, Status.CANCELLED} and owner.it.unfinished == 0
    owner.submit(1, 7, once)  # its link breaks once more: the same outcomes
    told = owner.messages(Kind.OUTCOMES)
    assert sum(one["n"] for one in told) == 14


def test_what_has_ended_is_kept_for_a_while_and_within_bounds() -> None:
    owner = Owner(slots=1, config=OwnershipConfig(retention_s=100.0, retained_batches_max=2))
    for number in range(4):
        owner.submit(number)
        owner.fine(owner.taken()[0])
        owner.wait(10.0)
    assert list(owner.it.batches) == [key_of(2), key_of(3)]
    owner.wait(85.0)
    assert list(owner.it.batches) == [key_of(3)]
    owner.wait(10.0)
    assert not owner.it.batches
    assert owner.it.next_deadline() is None


# --- clients that come and go -----------------------------------------------------------------------------------------


def test_what_a_client_that_came_back_does_not_hand_over_again_is_given_up() -> None:
    owner = Owner(slots=2, config=OwnershipConfig(client_lease_s=10.0))
    owner.submit(1)
    owner.submit(2)
    kept, given_up = owner.taken()
    owner.wait(1.0)
    owner.it.client_lost(owner.now, CLIENT)
    owner.wait(3.0)
    owner.submit(1)  # the other one has ended elsewhere meanwhile, or was cancelled there
    owner.wait(8.0)
    assert owner.messages(Kind.RECALL, ME) == [{"d": given_up.dispatch, "r": [[0, 1]], "k": True}]
    owner.fine(kept)
    assert owner.ended(1) == {0: Status.OK}


def test_a_client_that_is_lost_twice_has_its_whole_lease_the_second_time() -> None:
    owner = Owner(slots=1, config=OwnershipConfig(client_lease_s=10.0))
    owner.submit(1)
    owner.wait(1.0)
    owner.it.client_lost(owner.now, CLIENT)
    owner.wait(5.0)
    owner.submit(1)
    owner.wait(1.0)
    owner.it.client_lost(owner.now, CLIENT)
    owner.wait(9.9)
    assert owner.messages(Kind.RECALL, ME) == []
    owner.wait(0.2)
    assert len(owner.messages(Kind.RECALL, ME)) == 1


def test_a_client_that_was_away_for_longer_than_its_lease_has_its_tasks_run_anew() -> None:
    """A laptop that slept comes back to the node that had given its tasks up: it cancelled nothing."""
    owner = Owner(slots=1, config=OwnershipConfig(client_lease_s=10.0))
    owner.submit(1, 2)
    (running,) = owner.taken()
    owner.it.client_lost(owner.now, CLIENT)
    owner.wait(10.1)
    owner.submit(1, 2)  # while what ran is still being ended
    refusals = owner.messages(Kind.REFUSED, CLIENT)
    assert [(one["reason"], one["after"]) for one in refusals] == [("full", owner.it.config.refuse_after_s)]
    owner.report(running, {0: Status.CANCELLED, 1: Status.CANCELLED})
    assert owner.ended(1) == {}, "nobody is told of a cancel that nobody wanted"
    owner.submit(1, 2)
    again = owner.taken()
    assert again[-1].dispatch > running.dispatch
    owner.fine(again[-1])
    assert owner.ended(1) == {0: Status.OK, 1: Status.OK}
    assert owner.it.unfinished == 0


def test_what_may_not_run_twice_stays_as_it_ended_when_its_client_was_away_for_too_long() -> None:
    owner = Owner(slots=1, config=OwnershipConfig(client_lease_s=10.0))
    spec = spec_of(rerun=False)
    owner.submit(1, 1, spec)
    owner.it.grant_start(owner.now, key_of(1), [(0, 1)])
    owner.take()
    (running,) = owner.taken()
    owner.it.client_lost(owner.now, CLIENT)
    owner.wait(10.1)
    owner.report(running, {0: Status.CANCELLED})
    owner.submit(1, 1, spec)
    assert owner.taken() == []
    assert owner.ended(1) == {0: Status.LOST}, "it was ended, and nobody had cancelled it"
