"""The owner by itself: each thing that it is told, each effect that it leaves, and what nobody should ever send it."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from kernels.batch import Outcomes
from swarm.protocol import ids
from swarm.protocol.messages import Kind
from swarm.protocol.ownership import Connect, OwnershipConfig
from swarm.protocol.states import CRASHES_MAX, Status
from tests.unit.protocol.owner import (
    CLIENT,
    ELM,
    ME,
    OAK,
    OTHER_CLIENT,
    WALL,
    Owner,
    columns_of,
    key_of,
    report_of,
    spec_of,
)

# --- submitting -------------------------------------------------------------------------------------------------------


def test_a_batch_is_placed_and_its_outcomes_go_to_the_client() -> None:
    owner = Owner(slots=2)
    owner.submit(1, 2)
    (dispatch,) = owner.taken()
    assert (dispatch.executor, dispatch.batch, dispatch.first, dispatch.count) == (ME, key_of(1), 0, 2)
    assert (dispatch.granted, dispatch.attempts, dispatch.extra) == (True, 0, {})
    assert bytes(dispatch.payloads) == b"M\x00M\x01"
    owner.fine(dispatch)
    assert owner.ended(1) == {0: Status.OK, 1: Status.OK}
    assert (owner.it.unfinished, owner.it.waiting) == (0, 0)
    batch = owner.it.batches[key_of(1)]
    assert batch.finished_at == owner.now
    assert batch.counts == {Status.OK: 2}
    assert batch.outcome(1) == (Status.OK, b"M\x01")
    assert [fact.name for fact in owner.facts] == ["batch.submitted", "task.finished"]


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("malformed", {"columns": b"\x01"}),
        ("malformed", {"columns": columns_of(2)}),
        ("spec", {"spec": "bad"}),
        ("not-granted", {"granted": False, "spec": "pickled"}),
        ("not-granted", {"granted": False, "spec": "blob"}),
        ("not-granted", {"granted": False, "spec": "command"}),
        ("too-large", {"count": 11}),
        ("too-large", {"columns": bytes(10_001)}),
    ],
)
def test_what_is_not_taken_is_refused_with_a_reason_and_costs_nothing(reason: str, options: dict[str, Any]) -> None:
    owner = Owner(config=OwnershipConfig(tasks_max=10, bytes_max=10_000))
    count = options.get("count", 1)
    spec = {
        "bad": b"\xc1",
        "pickled": spec_of(pickled=True).encode(),
        "blob": msgpack.packb({"kind": "call", "fn": ["blob", bytes(32), "f"], "name": "f"}),
        "command": msgpack.packb({"kind": "command", "name": "true"}),
        None: spec_of().encode(),
    }[options.get("spec")]
    granted = options.get("granted", True)
    columns = options.get("columns") or columns_of(count)
    owner.it.submit(owner.now, WALL, CLIENT, "ann", granted, key_of(1), spec, count, columns)
    owner.take()
    (refusal,) = owner.messages(Kind.REFUSED)
    assert (refusal["b"], refusal["reason"], refusal["after"]) == (key_of(1), reason, None)
    assert refusal["message"]
    assert not owner.it.batches
    assert (owner.it.unfinished, owner.dispatched) == (0, [])
    assert owner.facts[-1].labels == {"reason": reason}


@pytest.mark.parametrize(("key", "count"), [(b"short", 1), (bytes(13), 1), (key_of(1), 0), (key_of(1), -1)])
def test_a_batch_without_a_proper_key_or_without_tasks_is_refused(key: bytes, count: int) -> None:
    owner = Owner()
    owner.it.submit(owner.now, WALL, CLIENT, "ann", True, key, spec_of().encode(), count, b"")
    owner.take()
    assert owner.messages(Kind.REFUSED)[0]["reason"] == "malformed"
    assert not owner.it.batches


def test_a_full_owner_says_when_to_come_back_and_takes_more_when_something_has_ended() -> None:
    owner = Owner(slots=2, config=OwnershipConfig(tasks_max=3, refuse_after_s=0.7))
    owner.submit(1, 2)
    owner.submit(2, 2)
    (refusal,) = owner.messages(Kind.REFUSED)
    assert (refusal["b"], refusal["reason"], refusal["after"]) == (key_of(2), "full", 0.7)
    owner.fine(owner.taken()[0])
    assert owner.submit(2, 2) is not None


def test_bytes_of_calls_are_bounded_and_given_back() -> None:
    size = len(columns_of(4))
    owner = Owner(slots=4, config=OwnershipConfig(bytes_max=size))
    owner.submit(1, 4)
    owner.submit(2, 1)
    assert owner.messages(Kind.REFUSED)[0]["reason"] == "full"
    owner.fine(owner.taken()[0])
    assert owner.submit(2, 1) is not None


def test_a_draining_owner_takes_nothing_but_ends_what_it_has() -> None:
    owner = Owner(slots=1)
    owner.submit(1, 2)
    owner.it.drain(owner.now)
    owner.submit(2)
    refusal = owner.messages(Kind.REFUSED)[0]
    assert (refusal["reason"], refusal["after"]) == ("draining", 0.0)
    owner.fine(owner.taken()[0])
    assert owner.taken() == []  # the rest goes to another node, if there is one
    owner.executor(OAK, "oak")
    (rest,) = owner.taken()
    assert rest.executor == OAK
    owner.fine(rest)
    assert owner.ended(1) == {0: 0, 1: 0}


def test_the_same_batch_again_is_attached_to_and_its_client_hears_all_again() -> None:
    owner = Owner(slots=2)
    owner.submit(1, 2)
    dispatch = owner.taken()[0]
    owner.report(dispatch, {0: Status.OK})
    owner.told.clear()
    owner.submit(1, 2, client=OTHER_CLIENT)
    assert owner.taken() == []
    assert owner.ended(1, OTHER_CLIENT) == {0: Status.OK}
    owner.report(dispatch, {1: Status.OK})
    assert owner.ended(1, OTHER_CLIENT) == {0: Status.OK, 1: Status.OK}
    assert owner.ended(1) == {}


def test_what_another_owner_has_seen_to_its_end_is_not_run_again() -> None:
    owner = Owner(slots=4)
    owner.submit(1, 4, ended=[(0, 1), (2, 4), (3, 99)], attempts=2)
    (dispatch,) = owner.taken()
    assert (dispatch.first, dispatch.count, dispatch.attempts) == (1, 1, 2)
    assert owner.it.unfinished == 1
    owner.fine(dispatch)
    assert owner.it.unfinished == 0
    assert owner.it.batches[key_of(1)].finished_at is not None


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


# --- outcomes ---------------------------------------------------------------------------------------------------------


def test_a_stale_report_is_counted_and_changes_nothing() -> None:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak", 1)
    owner.submit(1)
    (old,) = owner.taken()
    owner.it.executor_lost(owner.now, OAK, "dead")
    owner.executor(ELM, "elm", 1)
    (new,) = owner.taken()
    assert new.dispatch > old.dispatch
    owner.fine(old)
    assert owner.ended(1) == {}
    assert owner.facts[-1].name == "outcome.stale"
    # Nor does anybody else's word count under the new token.
    owner.report(new, {0: Status.OK}, executor=OAK)
    assert owner.ended(1) == {}
    owner.fine(new)
    assert owner.ended(1) == {0: Status.OK}


def test_a_row_that_is_reported_twice_counts_once() -> None:
    owner = Owner(slots=2)
    owner.submit(1, 2)
    (dispatch,) = owner.taken()
    owner.report(dispatch, {0: Status.OK})
    owner.report(dispatch, {0: Status.FAILED})
    assert owner.ended(1) == {0: Status.OK}
    owner.report(dispatch, {0: Status.FAILED, 1: Status.OK})
    assert owner.ended(1) == {0: Status.OK, 1: Status.OK}
    assert owner.it.unfinished == 0


def test_rows_outside_of_the_batch_or_of_the_dispatch_are_ignored() -> None:
    owner = Owner(slots=1)
    owner.submit(1, 3)
    (dispatch,) = owner.taken()
    owner.report(dispatch, {1: Status.OK, 2: Status.OK, 77: Status.OK, 2**32 - 1: Status.FAILED})
    assert owner.ended(1) == {}
    assert owner.it.unfinished == 3


@pytest.mark.parametrize(
    ("count", "body"), [(1, b""), (2, report_of({0: 0})[1]), (0, b"x"), (2**31, b"1234"), (-1, b"")]
)
def test_a_report_whose_columns_do_not_fit_is_an_error_and_changes_nothing(count: int, body: bytes) -> None:
    owner = Owner(slots=1)
    owner.submit(1)
    (dispatch,) = owner.taken()
    with pytest.raises((ValueError, OverflowError)):
        owner.it.outcomes(owner.now, ME, dispatch.dispatch, count, body)
    assert owner.it.unfinished == 1
    owner.fine(dispatch)
    assert owner.ended(1) == {0: Status.OK}


@pytest.mark.parametrize("status", [Status.FAILED, Status.TIMEOUT, Status.REFUSED, 9, 15])
def test_a_final_status_ends_the_task(status: int) -> None:
    owner = Owner(slots=1)
    owner.submit(1, spec=spec_of(retries=5))
    if status == 15:
        with pytest.raises(ValueError):
            owner.report(owner.taken()[0], {0: status})
        return
    owner.report(owner.taken()[0], {0: status})
    assert owner.ended(1) == {0: status}


def test_what_is_returned_runs_elsewhere_without_blame() -> None:
    owner = Owner(slots=1)
    owner.submit(1)
    for _ in range(5):
        owner.report(owner.taken()[0], {0: Status.RETURNED})
    owner.fine(owner.taken()[0])
    assert owner.ended(1) == {0: Status.OK}


def test_a_retry_waits_its_backoff_and_is_given_up_when_none_is_left() -> None:
    owner = Owner(slots=1)
    owner.submit(1, spec=spec_of(retries=2, backoff_s=(1.0, 3.0, 60.0)))
    for wait in (1.0, 3.0):
        owner.report(owner.taken()[0], {0: Status.RETRY})
        owner.wait(wait - 0.01)
        assert owner.taken() == []
        owner.wait(0.02)
    (last,) = owner.taken()
    assert last.attempts == 2
    owner.report(last, {0: Status.RETRY})
    assert owner.ended(1) == {0: Status.FAILED}


def test_a_task_that_takes_its_workers_down_is_quarantined() -> None:
    owner = Owner(slots=1)
    owner.submit(1)
    for _ in range(CRASHES_MAX):
        assert owner.ended(1) == {}
        owner.report(owner.taken()[0], {0: Status.CRASHED})
    assert owner.ended(1) == {0: Status.QUARANTINED}
    assert owner.taken() == []


def test_a_crash_ends_what_may_not_be_repeated() -> None:
    owner = Owner(slots=1)
    owner.submit(1, spec=spec_of(rerun=False))
    owner.it.grant_start(owner.now, key_of(1), [(0, 1)])
    owner.take()
    owner.report(owner.taken()[0], {0: Status.CRASHED})
    assert owner.ended(1) == {0: Status.CRASHED}


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
    owner.it.event(OAK, 7, 0, "progress", 1, b"")
    owner.it.client_lost(owner.now, CLIENT)
    owner.it.on_timer(owner.now + 1e6)
    assert owner.it.take_effects() == []
    assert owner.it.next_deadline() is None
    assert list(owner.it.executors) == [ME]


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


# --- events and input -------------------------------------------------------------------------------------------------


def test_events_of_a_task_reach_its_client_and_others_do_not() -> None:
    owner = Owner(slots=1)
    batch = owner.submit(1, 2)
    (dispatch,) = owner.taken()
    owner.it.event(ME, dispatch.dispatch, 0, "progress", {"done": 1}, b"")
    for executor, number, index in (
        (OAK, dispatch.dispatch, 0),
        (ME, 999, 0),
        (ME, dispatch.dispatch, 1),
        (ME, dispatch.dispatch, -1),
    ):
        owner.it.event(executor, number, index, "progress", "forged", b"")
    owner.take()
    (event,) = owner.messages(Kind.EVENT)
    assert (event["i"], event["e"], event["v"], event["w"]) == (0, "progress", {"done": 1}, "me")
    assert batch is not None
    assert batch.progress == {0: {"done": 1}}


def test_input_goes_where_the_task_runs_and_nowhere_when_it_does_not() -> None:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak", 1)
    owner.submit(1, 2)
    (dispatch,) = owner.taken()
    for index in (0, 1, 2, -1):
        owner.it.give_input(key_of(1), index, "in", None, b"text")
    owner.take()
    assert [header["i"] for header in owner.messages(Kind.INPUT, OAK)] == [0]
    owner.fine(dispatch)
    owner.it.give_input(key_of(1), 0, "in", None, b"text")
    owner.take()
    assert len(owner.messages(Kind.INPUT, OAK)) == 1


# --- questions --------------------------------------------------------------------------------------------------------


def test_tasks_are_found_by_their_text() -> None:
    owner = Owner(slots=1)
    owner.submit(1, 3)
    text = ids.text(ids.task_id(key_of(1), 2))
    assert [(batch.key, index) for batch, index in owner.it.find(text)] == [(key_of(1), 2)]
    assert [index for _, index in owner.it.find(text[:12])] == [2]
    assert len(owner.it.find("", most=2)) == 2
    assert owner.it.find("!" * 26) == []
    assert owner.it.find(ids.text(ids.task_id(key_of(1), 3))) == []
    assert dict(owner.it.states(owner.it.batches[key_of(1)])) == {0: "placed", 1: "ready", 2: "ready"}


def test_outcomes_kept_are_those_that_were_told() -> None:
    owner = Owner(slots=2)
    owner.submit(1, 2)
    owner.report(owner.taken()[0], {1: Status.FAILED, 0: Status.OK})
    batch = owner.it.batches[key_of(1)]
    kept = {report.index(row): report.status(row) for report, _ in batch.outcomes for row in range(report.count)}
    assert kept == owner.ended(1) == {0: Status.OK, 1: Status.FAILED}
    assert all(isinstance(report, Outcomes) for report, _ in batch.outcomes)
    assert batch.outcome(5) is None


# --- hostile clients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [-1, 1 << 31, 1 << 70])
def test_a_count_of_attempts_that_cannot_be_is_refused_and_leaves_nothing_behind(attempts: int) -> None:
    owner = Owner(slots=1)
    owner.submit(1, attempts=attempts)
    assert owner.messages(Kind.REFUSED)[0]["reason"] == "malformed"
    with pytest.raises(TypeError):
        owner.submit(2, attempts="many")
    assert not owner.it.batches
    assert owner.it.executors[ME].ours == 0


def test_a_task_that_depends_on_itself_does_not_wait_for_ever() -> None:
    owner = Owner(slots=1)
    owner.submit(1, deps=[ids.task_id(key_of(1), 0)])
    assert owner.ended(1) == {0: Status.DEPENDENCY}


def test_many_cancels_of_the_same_are_kept_as_one() -> None:
    owner = Owner(slots=1)
    batch = owner.submit(1, 100)
    assert batch is not None
    for _ in range(50):
        owner.it.cancel(owner.now, key_of(1), [(0, 3), (2, 5), (90, 90), (7, 9), (5, 6)])
    assert batch.cancelled == batch.killed == [(0, 6), (7, 9)]
    assert [index for index in range(12) if batch.is_cancelled(index)] == [0, 1, 2, 3, 4, 5, 7, 8]


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
    assert owner.ended(1) == {0: Status.CANCELLED}
