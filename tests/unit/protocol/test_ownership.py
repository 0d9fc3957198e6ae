"""The owner by itself: batches in, outcomes and answers out, and what nobody should ever send it."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from kernels.batch import Outcomes
from swarm.protocol import ids
from swarm.protocol.messages import Kind
from swarm.protocol.ownership import OwnershipConfig
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


# --- events and input -------------------------------------------------------------------------------------------------


def test_events_of_a_task_reach_its_client_and_others_do_not() -> None:
    owner = Owner(slots=1)
    batch = owner.submit(1, 2)
    (dispatch,) = owner.taken()
    owner.it.event(owner.now, ME, dispatch.dispatch, 0, "progress", {"done": 1}, b"")
    for executor, number, index in (
        (OAK, dispatch.dispatch, 0),
        (ME, 999, 0),
        (ME, dispatch.dispatch, 1),
        (ME, dispatch.dispatch, -1),
    ):
        owner.it.event(owner.now, executor, number, index, "progress", "forged", b"")
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
