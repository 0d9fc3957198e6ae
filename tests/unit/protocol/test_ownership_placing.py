"""Where the owner places tasks, and what becomes of them when their executor goes."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.protocol.messages import Kind
from swarm.protocol.ownership import Connect
from swarm.protocol.states import Status
from tests.unit.protocol.owner import (
    CLIENT,
    ELM,
    ME,
    OAK,
    Owner,
    key_of,
    spec_of,
)

# --- placing ----------------------------------------------------------------------------------------------------------


def test_tokens_grow_and_those_of_a_later_life_are_above_those_of_an_earlier_one() -> None:
    first, second = Owner(slots=3, epoch=1), Owner(slots=3, epoch=2)
    tokens = []
    for owner in (first, second):
        for number in range(3):
            owner.submit(number)
        tokens += [dispatch.dispatch for dispatch in owner.taken()]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 6


def test_work_waits_when_all_are_full_and_the_reason_is_on_record() -> None:
    owner = Owner(slots=1)
    owner.executor(OAK, "oak", 1)
    batch = owner.submit(1, 3)
    assert {dispatch.executor for dispatch in owner.taken()} == {ME, OAK}
    assert owner.it.waiting == 1
    assert batch is not None
    _, what, _, _, _, detail = batch.trace[-1]
    assert what == "waits"
    assert {name: why for name, _, _, why in detail} == {"me": "is full", "oak": "is full"}


def test_an_executor_without_a_link_is_asked_for_one_and_gets_work_when_it_is_there() -> None:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak", linked=False)
    owner.submit(1)
    assert owner.taken() == []
    assert Connect(OAK) in owner.others
    owner.it.executor_linked(owner.now, OAK)
    owner.take()
    assert [dispatch.executor for dispatch in owner.taken()] == [OAK]


@pytest.mark.parametrize("load", [{"drain": True}, {"free": 0.0, "others": 2}])
def test_an_executor_that_drains_or_is_busy_with_others_gets_nothing_until_it_says_otherwise(
    load: dict[str, Any],
) -> None:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak")
    owner.it.executor_load(owner.now, OAK, load)
    owner.submit(1)
    assert owner.taken() == []
    owner.it.executor_load(owner.now, OAK, {"free": 2.0, "others": 0})
    owner.take()
    assert [dispatch.executor for dispatch in owner.taken()] == [OAK]


def test_a_suspect_gets_nothing_new_until_it_is_seen_again() -> None:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak")
    owner.it.executor_suspected(OAK)
    owner.submit(1)
    assert owner.taken() == []
    owner.executor(OAK, "oak")
    assert [dispatch.executor for dispatch in owner.taken()] == [OAK]


def test_needs_and_labels_decide_where_it_fits() -> None:
    owner = Owner(slots=2)
    owner.executor(OAK, "oak", gpu=1.0)
    owner.submit(1, spec=spec_of(needs={"gpu": 1.0}))
    owner.submit(2, spec=spec_of(labels=("arm",)))
    assert [dispatch.executor for dispatch in owner.taken()] == [OAK]
    assert owner.it.waiting == 1


@pytest.mark.parametrize(
    "load",
    [
        {"free": "many", "wait": None, "blocked": -3, "others": -1},
        {"free": None, "others": float("nan"), "blocked": 2.5},
        {},
        {"drain": "yes", "others": [], "blocked": {}},
    ],
)
def test_a_malformed_load_neither_raises_nor_leaves_a_negative_count(load: dict[str, Any]) -> None:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak")
    owner.it.executor_load(owner.now, OAK, load)
    it = owner.it.executors[OAK]
    assert it.blocked >= 0
    assert not it.others < 0
    owner.submit(1)


# --- executors that go ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["dead", "left", "link"])
def test_what_was_out_at_an_executor_that_is_gone_runs_elsewhere(why: str) -> None:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak", 2)
    owner.submit(1, 2)
    (dispatch,) = owner.taken()
    owner.report(dispatch, {1: Status.OK})
    owner.it.executor_lost(owner.now, OAK, why)
    owner.executor(ELM, "elm", 2)
    (again,) = owner.taken()
    assert (again.executor, again.first, again.count, again.attempts) == (ELM, 0, 1, 1)
    (moved,) = [event for event in owner.messages(Kind.EVENT) if event["e"] == "moved"]
    assert moved["v"] == [1, "oak"]
    owner.fine(again)
    assert owner.ended(1) == {0: Status.OK, 1: Status.OK}


def test_what_may_not_be_repeated_is_lost_with_its_executor() -> None:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak", 2)
    owner.submit(1, 2, spec_of(rerun=False))
    owner.it.grant_start(owner.now, key_of(1), [(0, 2)])
    owner.take()
    (dispatch,) = owner.taken()
    owner.report(dispatch, {0: Status.OK})
    owner.it.executor_lost(owner.now, OAK, "dead")
    owner.executor(ELM, "elm", 2)
    assert owner.taken() == []
    assert owner.ended(1) == {0: Status.OK, 1: Status.LOST}


def test_the_own_executor_is_never_lost_nor_suspect() -> None:
    owner = Owner(slots=1)
    owner.submit(1)
    owner.it.executor_lost(owner.now, ME, "dead")
    owner.it.executor_suspected(ME)
    owner.fine(owner.taken()[0])
    assert owner.ended(1) == {0: Status.OK}


def test_after_a_break_what_the_executor_does_not_hold_runs_again_and_what_it_holds_goes_on() -> None:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak", 4)
    owner.submit(1, 4)
    (dispatch,) = owner.taken()
    owner.it.executor_relinked(owner.now, OAK, {dispatch.dispatch: [(1, 3)]})
    owner.take()
    assert [(one.first, one.count) for one in owner.taken()] == [(0, 1), (3, 1)]
    owner.report(dispatch, {0: Status.OK, 1: Status.OK, 2: Status.OK, 3: Status.OK})
    assert owner.ended(1) == {1: Status.OK, 2: Status.OK}


def test_a_dispatch_that_was_sent_after_the_question_is_not_taken_for_lost() -> None:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak", 2)
    owner.submit(1)
    (first,) = owner.taken()
    owner.submit(2)
    (second,) = owner.taken()
    owner.it.executor_relinked(owner.now, OAK, {first.dispatch: [(0, 1)]}, frozenset((first.dispatch,)))
    owner.take()
    assert owner.taken() == []
    owner.fine(second)
    assert owner.ended(2) == {0: Status.OK}


def test_after_a_break_what_was_to_be_ended_is_told_again() -> None:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak", 3)
    owner.submit(1, 3)
    (dispatch,) = owner.taken()
    owner.it.cancel(owner.now, key_of(1), [(0, 1)])
    owner.it.cancel(owner.now, key_of(1), [(1, 2)], kill=False)
    owner.take()
    owner.told.clear()
    owner.it.executor_relinked(owner.now, OAK, {dispatch.dispatch: [(0, 3)]})
    owner.take()
    assert owner.messages(Kind.RECALL, OAK) == [{"d": dispatch.dispatch, "r": [[0, 1]], "k": True}]


def test_words_about_executors_and_batches_that_nobody_knows_change_nothing() -> None:
    owner = Owner(slots=1)
    owner.it.executor_load(owner.now, OAK, {"free": 3})
    owner.it.executor_linked(owner.now, OAK)
    owner.it.executor_suspected(OAK)
    owner.it.executor_lost(owner.now, OAK, "dead")
    owner.it.executor_relinked(owner.now, OAK, {7: [(0, 9)]})
    owner.it.cancel(owner.now, key_of(9), None)
    owner.it.grant_start(owner.now, key_of(9), [(0, 5)])
    owner.it.give_input(key_of(9), 0, "in", None, b"")
    owner.it.event(owner.now, OAK, 7, 0, "progress", 1, b"")
    owner.it.client_lost(owner.now, CLIENT)
    owner.it.on_timer(owner.now + 1e6)
    assert owner.it.take_effects() == []
    assert owner.it.next_deadline() is None
    assert list(owner.it.executors) == [ME]
