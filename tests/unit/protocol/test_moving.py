"""Moves: an owner that has a task go on at another executor, and an executor that is asked to let one go."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.protocol.executor.effects import HandInput, ResumeWorker
from swarm.protocol.ledger.records import Token
from swarm.protocol.messages import Kind
from swarm.protocol.owner import moving
from swarm.protocol.owner.batches import MoveOver
from swarm.protocol.states import Priority, Status
from tests.unit.protocol.durable_owner import GROUP, DurableOwner, Log, durable_key
from tests.unit.protocol.executor import Executor
from tests.unit.protocol.owner import ELM, ME, OAK, Owner, key_of, report_of, spec_of

SAVABLE = spec_of(checkpoint=True)


def owner_of_three(slots: float = 1.0) -> Owner:
    owner = Owner(slots=slots)
    owner.executor(OAK, "oak", slots=slots)
    owner.executor(ELM, "elm", slots=slots)
    return owner


def over(owner: Owner) -> list[tuple[str, str]]:
    """(reason, node) of what came of moves since the last call."""
    found = [(it.reason, it.node) for it in owner.others if isinstance(it, MoveOver)]
    owner.others.clear()
    return found


def move(owner: Owner, node: bytes, key: bytes | None = None, index: int = 0, within_s: float = 10.0) -> None:
    owner.it.move(owner.now, key or key_of(1), index, node, within_s)
    owner.take()


def asks(owner: Owner, node: bytes) -> list[bool]:
    return [one["c"] for one in owner.messages(Kind.RECALL, node) if "c" in one]


def rows_of(index: int = 0) -> dict[int, int]:
    return {index: Status.SAVED}


def test_a_task_is_asked_and_goes_on_elsewhere_from_its_state_under_a_greater_number() -> None:
    owner = owner_of_three()
    owner.submit(1, 1, SAVABLE)
    (first,) = owner.taken()
    assert first.executor == ME and first.extra["saved"] == []
    move(owner, OAK)
    assert asks(owner, ME) == [True] and not owner.taken() and not over(owner)
    owner.report(first, rows_of())
    (second,) = owner.taken()
    assert second.executor == OAK and second.dispatch > first.dispatch
    assert second.extra["saved"] == [[0, 1, b"F\x80"]]
    assert over(owner) == [("", "oak")]
    owner.fine(first)  # a zombie's word
    assert owner.ended(1) == {}
    owner.fine(second)
    assert owner.ended(1) == {0: Status.OK}
    assert [event[1] for event in owner.it.batches[key_of(1)].trace].count("moved") == 1
    assert not owner.it.batches[key_of(1)].saved, "nobody needs it any more"
    assert all(not one.ours and not one.inflight for one in owner.it.executors.values()), "no slot is kept"


def test_who_runs_it_after_a_death_goes_on_from_the_last_state() -> None:
    owner = owner_of_three()
    owner.submit(1, 1, SAVABLE)
    (first,) = owner.taken()
    move(owner, OAK)
    owner.report(first, rows_of())
    owner.taken()
    owner.it.executor_lost(owner.now, OAK, "dead")
    owner.take()
    (third,) = owner.taken()
    assert third.executor != OAK and third.extra["saved"] == [[0, 1, b"F\x80"]]
    move(owner, ELM if third.executor == ME else ME)
    owner.report(third, rows_of())
    (fourth,) = owner.taken()
    assert fourth.extra["saved"] == [[0, 2, b"F\x80"]]


@pytest.mark.parametrize("rerun", [True, False])
def test_what_may_not_be_repeated_is_moved_but_not_run_again_after_a_death(rerun: bool) -> None:
    owner = owner_of_three()
    owner.submit(1, 1, spec_of(checkpoint=True, rerun=rerun))
    if not rerun:
        owner.it.grant_start(owner.now, key_of(1), [(0, 1)])
        owner.take()
    (first,) = owner.taken()
    move(owner, OAK)
    owner.report(first, rows_of())
    (second,) = owner.taken()
    assert second.executor == OAK
    owner.it.executor_lost(owner.now, OAK, "dead")
    owner.take()
    assert owner.ended(1) == ({} if rerun else {0: Status.LOST})


@pytest.mark.parametrize(
    ("reason", "how"),
    [
        (moving.NO_CHECKPOINT, {"spec": spec_of()}),
        (moving.UNFIT, {"spec": spec_of(checkpoint=True, needs={"memory": 50.0})}),
        (moving.THERE, {"node": ME}),
        (moving.GONE, {"node": b"nobody"}),
        (moving.GONE, {"index": 1}),
        (moving.BUSY, {"full": True}),
        (moving.BUSY, {"draining": True}),
        (moving.BUSY, {"linked": False}),
        (moving.NOT_RUNNING, {"ended": True}),
        (moving.MOVING, {"twice": True}),
    ],
)
def test_what_is_not_moved_is_said_why_and_left_alone(reason: str, how: dict[str, Any]) -> None:
    owner = Owner(slots=1.0)
    owner.it.executors[ME].capacity.totals["memory"] = 100.0  # type: ignore[index]
    owner.submit(1, 1, how.get("spec", SAVABLE))
    owner.executor(OAK, "oak", slots=1.0, linked=how.get("linked", True))
    (first,) = owner.taken()
    if how.get("full"):
        owner.submit(2)
    if how.get("draining"):
        owner.it.executor_load(owner.now, OAK, {"free": 1.0, "wait": 0, "drain": True, "others": 0})
    if how.get("ended"):
        owner.fine(first)
    if how.get("twice"):
        move(owner, OAK)
    owner.take()
    before = len(owner.messages(Kind.RECALL, ME))
    move(owner, how.get("node", OAK), index=how.get("index", 0))
    assert [word for word, _ in over(owner)] == [reason]
    assert len(owner.messages(Kind.RECALL, ME)) == before


def test_one_that_comes_to_no_safe_point_is_told_to_stay_and_its_slot_is_free_again() -> None:
    owner = owner_of_three()
    owner.submit(1, 1, SAVABLE)
    (first,) = owner.taken()
    move(owner, OAK, within_s=3.0)
    assert owner.it.executors[OAK].ours == 1
    owner.wait(2.9)
    assert not over(owner)
    owner.wait(0.2)
    assert over(owner) == [(moving.LATE, "oak")] and asks(owner, ME) == [True, False]
    assert owner.it.executors[OAK].ours == 0
    owner.report(first, rows_of())  # it was on its way
    (again,) = owner.taken()
    assert again.extra["saved"] == [[0, 1, b"F\x80"]]
    owner.fine(again)
    assert owner.ended(1) == {0: Status.OK}


@pytest.mark.parametrize(
    ("status", "reason"), [(Status.OK, moving.ENDED), (Status.FAILED, moving.ENDED), (Status.RETURNED, "")]
)
def test_one_that_ends_first_is_not_moved_and_one_that_had_not_begun_is(status: Status, reason: str) -> None:
    owner = owner_of_three()
    owner.submit(1, 1, SAVABLE)
    (first,) = owner.taken()
    move(owner, OAK)
    owner.report(first, {0: status})
    assert over(owner) == [(reason, "oak")]
    assert [one.executor for one in owner.taken()] == ([] if reason else [OAK])


def test_a_state_that_cannot_be_sent_ends_the_move_alone() -> None:
    owner = owner_of_three()
    owner.submit(1, 1, SAVABLE)
    (first,) = owner.taken()
    move(owner, OAK)
    owner.it.event(owner.now, ME, first.dispatch, 0, "unsaved", "of a lock", b"")
    owner.take()
    assert over(owner) == [(moving.UNSAVED, "oak")]
    owner.fine(first)
    assert owner.ended(1) == {0: Status.OK}


def test_when_the_target_dies_meanwhile_it_goes_on_wherever_there_is_room() -> None:
    owner = owner_of_three()
    owner.submit(1, 1, SAVABLE)
    (first,) = owner.taken()
    move(owner, OAK)
    owner.it.executor_lost(owner.now, OAK, "dead")
    owner.take()
    owner.report(first, rows_of())
    assert over(owner) == [(moving.GONE, "oak")]
    (again,) = owner.taken()
    assert again.executor in (ME, ELM) and again.extra["saved"] == [[0, 1, b"F\x80"]]


def test_one_that_was_cancelled_meanwhile_does_not_go_on() -> None:
    owner = owner_of_three()
    owner.submit(1, 1, SAVABLE)
    (first,) = owner.taken()
    move(owner, OAK)
    owner.it.cancel(owner.now, key_of(1), None)
    owner.take()
    owner.report(first, rows_of())
    assert owner.ended(1) == {0: Status.CANCELLED} and not owner.taken()
    assert over(owner) == [(moving.ENDED, "oak")]


def test_an_executor_that_drains_is_emptied_as_far_as_there_is_room_elsewhere() -> None:
    owner = Owner(slots=1.0)
    owner.executor(OAK, "oak", slots=3.0)
    owner.submit(1, 4, SAVABLE)
    at_oak = [one for one in owner.taken() if one.executor == OAK]
    assert sum(one.count for one in at_oak) == 3
    draining = {"free": 0.0, "wait": 0, "drain": True, "others": 0}
    owner.it.executor_load(owner.now, OAK, draining)
    owner.take()
    assert asks(owner, OAK) == [], "there is no room"
    owner.executor(ELM, "elm", slots=2.0)
    owner.it.executor_load(owner.now, ELM, {"free": 2.0, "wait": 0, "drain": False, "others": 0})
    owner.take()
    assert asks(owner, OAK) == [True, True], "two slots, two tasks"
    (out,) = at_oak
    owner.report(out, {out.first: Status.SAVED, out.first + 1: Status.SAVED}, **draining)
    moved = owner.taken()
    assert {one.executor for one in moved} == {ELM} and sum(one.count for one in moved) == 2
    assert not over(owner), "nobody asked"


def test_a_durable_task_goes_on_when_the_log_has_granted_it_a_greater_token() -> None:
    owner, log = DurableOwner(1.0), Log()
    log.lead(owner)
    owner.executor(OAK, "oak", slots=1.0)
    owner.hand(1, 1, SAVABLE)
    (first,) = owner.taken()
    log.commit_all()
    owner.it.move(owner.now, durable_key(1), 0, OAK, 10.0)
    owner.take()
    owner.report(first, rows_of())
    assert not owner.taken() and log.kinds() == ["Saved"], "first its state is in the log"
    owner.wait(0.5)
    assert not over(owner) and owner.it.batches[durable_key(1)].columns.held == 1
    log.commit()
    assert not owner.taken() and log.kinds() == ["Granted"], "no second token before the log has it"
    log.commit_all()
    (second,) = owner.taken()
    assert second.executor == OAK and second.extra["token"] > first.extra["token"]
    assert second.extra["saved"] == [[0, 1, b"F\x80"]]
    owner.fine(first)
    assert owner.ended(1, key=durable_key(1)) == {}
    owner.fine(second)
    log.commit_all()
    assert owner.ended(1, key=durable_key(1)) == {0: Status.OK}


@pytest.mark.parametrize("rerun", [True, False])
@pytest.mark.parametrize("when", ["asked", "reported", "saved", "granted", "ran"])
def test_an_owner_that_dies_in_the_midst_of_a_move_leaves_one_attempt_and_the_state_that_its_log_has(
    when: str, rerun: bool
) -> None:
    steps = ("asked", "reported", "saved", "granted", "ran").index(when)
    log, spec = Log(), spec_of(checkpoint=True, rerun=rerun)
    first, second = DurableOwner(0.0), DurableOwner(0.0, b"next" + bytes(12))
    for owner in (first, second):
        owner.executor(OAK, "oak", slots=1.0)
        owner.executor(ELM, "elm", slots=1.0)
    log.lead(first)
    first.hand(1, 1, spec)
    log.commit_all()
    (old,) = first.taken()
    target = OAK if old.executor == ELM else ELM
    first.it.move(first.now, durable_key(1), 0, target, 10.0)
    first.take()
    running = old
    if steps >= 1:
        first.report(old, rows_of())
    if steps >= 2:
        log.commit()
    if steps >= 3:
        log.commit()
        (running,) = first.taken()
        assert running.executor == target
    log.lead(second)
    is_held = when == "asked" or steps >= 3
    for node in sorted(second.it.executors):
        rows = [(running.batch, ME, running.dispatch, Token(*running.extra["token"]), [(0, 1)])]
        found = rows if is_held and node == running.executor and when != "ran" else []
        second.it.held(second.now, GROUP, log.term, node, found)
        second.take()
    log.commit_all()
    if when in ("asked", "granted"):
        assert not second.taken() and len(second.adopts) == 1, "it goes on where it is"
        second.it.outcomes(second.now, running.executor, second.adopts[0].number, *report_of({0: Status.OK}))
        second.take()
        log.commit_all()
        assert log.state.batches[durable_key(1)].unfinished == 0
    elif not rerun and when in ("reported", "ran"):
        assert not second.taken()
        found = log.state.batches[durable_key(1)].outcome(0)
        assert found is not None and found[0] == Status.LOST, "it may have run, and nobody knows"
    else:
        (again,) = second.taken()
        assert Token(*again.extra["token"]) > Token(*old.extra["token"])
        kept = [] if when == "reported" else [[0, 1, b"F\x80"]]
        assert again.extra["saved"] == kept, "from what was acknowledged, or from the beginning"


# --- the executor -----------------------------------------------------------------------------------------------------


def inputs(node: Executor) -> list[tuple[int, int, Any]]:
    found = [(one.worker, one.index, one.value) for one in node.others if isinstance(one, HandInput)]
    node.others.clear()
    return found


def recall(node: Executor, number: int, save: bool, ranges: list[tuple[int, int]] | None = None) -> None:
    node.it.recall(node.now, OAK, number, ranges, False, save)
    node.take()


def test_the_worker_that_has_it_is_asked_and_what_it_ends_with_is_its_state() -> None:
    node = Executor(slots=2)
    node.dispatch(7, 2, checkpoint=True)
    first, second = node.slices()
    for part in (first, second):
        node.claim(part)
    inputs(node)
    recall(node, 7, True, [(1, 2)])
    assert inputs(node) == [(second.worker, 1, 1)]
    recall(node, 7, False, [(1, 2)])
    assert inputs(node) == [(second.worker, 1, 0)]
    node.report(second, {1: Status.SAVED})
    node.done(second)
    assert node.ended(7) == {1: Status.SAVED}
    node.report(first, {0: Status.OK})
    node.done(first)
    node.at_rest()


def test_what_has_not_begun_comes_back_and_what_offers_nothing_is_left_alone() -> None:
    node = Executor(slots=1)
    node.dispatch(7, 2, checkpoint=True)
    (part,) = node.slices()
    node.claim(part)
    inputs(node)
    recall(node, 7, True)
    assert inputs(node) == [(part.worker, 0, 1)] and node.ended(7) == {1: Status.RETURNED}
    other = Executor(slots=1)
    other.dispatch(7, 1)
    other.claim(other.slices()[0])
    inputs(other)
    recall(other, 7, True)
    assert not inputs(other) and not other.ended(7)


def test_who_stands_still_goes_on_to_its_safe_point() -> None:
    node = Executor(slots=1, spare_workers=1)
    node.dispatch(1, 1, checkpoint=True, priority=Priority.LOW)
    (part,) = node.slices()
    node.claim(part)
    node.wait(1.0)
    node.dispatch(2, 1, priority=Priority.CRITICAL)
    assert node.it.suspended == 1
    node.others.clear()
    recall(node, 1, True)
    assert [type(one) for one in node.others] == [ResumeWorker, HandInput], "first it goes on, then it hears"


def test_states_travel_with_the_slices_that_have_their_tasks() -> None:
    node = Executor(slots=2)
    node.dispatch(7, 2, checkpoint=True, extra={"saved": [[0, 1, b"a"], [1, 3, b"b"]]})
    assert [one.extra["saved"] for one in node.slices()] == [[[0, 1, b"a"]], [[1, 3, b"b"]]]


@pytest.mark.parametrize("saved", [7, [7], [[0, 1]], [[0, 0, b"a"]], [[0, 1, "a"]], [["0", 1, b"a"]]])
def test_states_that_no_owner_would_send_are_refused(saved: Any) -> None:
    with pytest.raises(ValueError, match="state"):
        Executor().dispatch(7, 1, extra={"saved": saved})
