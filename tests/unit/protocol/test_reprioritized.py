"""Class and nice are changed while tasks wait, run and stand still; what urgent work waits for is as urgent meanwhile."""

from __future__ import annotations

from typing import Any

from swarm.protocol import ids
from swarm.protocol.executor.effects import ResumeWorker, SuspendWorker
from swarm.protocol.messages import Kind
from swarm.protocol.states import Priority, Status
from tests.unit.protocol.executor import ELM, OAK
from tests.unit.protocol.owner import ELM as OTHER
from tests.unit.protocol.owner import ME, Owner, key_of
from tests.unit.protocol.owner import spec_of as spec
from tests.unit.protocol.test_suspension import busy, stood

LOW, STANDARD, HIGH, CRITICAL = Priority

# --- the executor -----------------------------------------------------------------------------------------------------


def test_a_running_task_that_is_raised_makes_way_for_nothing_that_is_not_above_it() -> None:
    node, parts = busy()
    node.it.reprioritize(node.now, OAK, 2, None, HIGH, 0)
    assert node.it.yielding() == [1.0, 0.0, 1.0]
    node.dispatch(8, owner=ELM, priority=HIGH)
    node.take()
    assert stood(node) == [parts[0].worker], "although the other began later"
    node.dispatch(9, owner=ELM, priority=HIGH)
    assert len(stood(node)) == 1


def test_a_running_task_that_is_lowered_makes_way() -> None:
    node, _ = busy(1, STANDARD)
    node.it.reprioritize(node.now, OAK, 1, None, CRITICAL, 0)
    node.dispatch(9, priority=CRITICAL)
    assert not stood(node)
    node.it.reprioritize(node.now, OAK, 1, None, STANDARD, 0)
    node.take()
    assert len(stood(node)) == 1 and len(node.slices()) == 1
    node.it.reprioritize(node.now, OAK, 9, None, HIGH, 0)  # nobody makes way for equals, and what runs goes on
    assert len(stood(node)) == 1


def test_what_stands_still_and_is_raised_takes_its_slot_back() -> None:
    node, (part,) = busy(1)
    node.dispatch(9, owner=ELM, priority=HIGH)
    (other,) = node.slices()
    node.claim(other)
    assert stood(node) == [part.worker]
    node.it.reprioritize(node.now, OAK, 1, None, CRITICAL, 0)
    node.take()
    assert stood(node) == [other.worker]
    assert [one.worker for one in node.others if isinstance(one, ResumeWorker)] == [part.worker]
    assert [one.worker for one in node.others if isinstance(one, SuspendWorker)] == [part.worker, other.worker]
    node.report(part, {0: Status.OK})
    node.done(part)
    assert not stood(node)


def test_of_a_part_of_a_run_what_runs_is_changed_and_what_waits_goes_back() -> None:
    node, _ = busy(1, STANDARD)
    node.dispatch(5, 3, priority=STANDARD)
    node.it.reprioritize(node.now, OAK, 5, [(1, 2)], HIGH, 3)
    node.take()
    assert node.ended(5) == {1: Status.RETURNED}
    node.it.reprioritize(node.now, OAK, 1, [(0, 1)], LOW, 0)
    assert node.it.yielding() == [1.0, 0.0, 0.0]
    node.dispatch(9, priority=HIGH)
    assert len(stood(node)) == 1
    node.it.reprioritize(node.now, OAK, 77, None, HIGH, 0)  # what is gone meanwhile


# --- the owner --------------------------------------------------------------------------------------------------------


def told(owner: Owner, to: bytes = ME) -> list[tuple[Any, ...]]:
    """What executors were told of changes: (dispatch, ranges, class, nice)."""
    return [(it["d"], it["r"], it["p"], it["n"]) for it in owner.messages(Kind.REPRIORITIZE, to)]


def full(priority: int = CRITICAL) -> Owner:
    """An owner whose only slot is taken."""
    owner = Owner(slots=1)
    owner.submit(90, spec=spec(priority=priority))
    (owner.first,) = owner.taken()  # type: ignore[attr-defined]
    return owner


def change(owner: Owner, number: int, ranges: list[tuple[int, int]] | None, *urgency: int | None) -> None:
    owner.it.reprioritize(owner.now, key_of(number), ranges, *urgency)  # type: ignore[arg-type]
    owner.take()


def order(owner: Owner) -> list[tuple[int, int, Any]]:
    """Have all run one after the other: (batch, index, urgency) as they are handed out."""
    found = []
    owner.fine(owner.first)  # type: ignore[attr-defined]
    while taken := owner.taken():
        for dispatch in taken:
            number = next(one for one in range(100) if key_of(one) == dispatch.batch)
            found += [
                (number, index, dispatch.urgency) for index in range(dispatch.first, dispatch.first + dispatch.count)
            ]
            owner.fine(dispatch)
    return found


def test_a_waiting_batch_is_raised_and_goes_first() -> None:
    owner = full()
    for number in (1, 2, 3):
        owner.submit(number)
    change(owner, 3, None, HIGH, None)
    change(owner, 2, None, None, -20)
    assert order(owner) == [(3, 0, (HIGH, 0)), (2, 0, (STANDARD, -20)), (1, 0, None)]


def test_of_a_batch_the_tasks_that_were_named_go_first() -> None:
    owner = full()
    owner.submit(1, 6)
    change(owner, 1, [(4, 5), (2, 3)], HIGH, None)
    change(owner, 1, [(5, 6)], LOW, None)
    assert owner.it.waiting == 6
    found = order(owner)
    assert [index for _, index, _ in found] == [2, 4, 0, 1, 3, 5]
    assert [urgency for _, _, urgency in found] == [(HIGH, 0)] * 2 + [None] * 3 + [(LOW, 0)]
    assert owner.it.waiting == owner.it.unfinished == 0 and not owner.it.batches[key_of(1)].lanes


def test_what_is_handed_out_is_told_of_which_class_it_was_made_since() -> None:
    """What it submits is of that class; what it inherits from who waits for it is over when that waits no more."""
    owner = full()
    for number in (1, 2, 3):
        owner.submit(number, 2)
    change(owner, 2, None, HIGH, None)
    change(owner, 3, [(1, 2)], LOW, None)
    owner.it.awaited(owner.now, ids.task_id(key_of(1), 0), b"somebody else!!!", CRITICAL)
    owner.fine(owner.first)  # type: ignore[attr-defined]
    said = {}
    while taken := owner.taken():
        for dispatch in taken:
            said[dispatch.batch, dispatch.first] = dispatch.extra.get("priority")
            owner.fine(dispatch)
    found = {key: value for key, value in said.items() if value is not None}
    assert found == {(key_of(2), 0): HIGH, (key_of(3), 1): LOW}


def test_what_was_given_back_waits_among_those_of_its_class_again() -> None:
    owner = full()
    owner.submit(1, 3)
    change(owner, 1, [(2, 3)], HIGH, None)
    owner.fine(owner.first)  # type: ignore[attr-defined]
    dispatch = owner.taken()[0]
    assert (dispatch.first, dispatch.count) == (2, 1)
    owner.report(dispatch, {2: Status.RETURNED})
    assert [dispatch.urgency for dispatch in owner.taken() if dispatch.first == 2][-1] == (HIGH, 0)


def test_what_is_given_up_or_too_late_is_nowhere_any_more() -> None:
    owner = full()
    owner.submit(1, 4)
    owner.submit(2, 4, spec(deadline=owner.now + 1e9 + 5.0))
    for number in (1, 2):
        change(owner, number, [(1, 3)], HIGH, None)
    owner.it.cancel(owner.now, key_of(1), [(2, 4)])
    assert owner.it.waiting == 6
    owner.it.cancel(owner.now, key_of(2), None)
    assert [index for number, index, _ in order(owner) if number == 1] == [1, 0]
    assert owner.it.waiting == owner.it.unfinished == 0


def test_what_is_out_is_changed_where_it_is() -> None:
    owner = full(STANDARD)
    owner.executor(OTHER, "elm", 4)
    owner.submit(1, 2)
    dispatches = owner.taken()
    assert {it.executor for it in dispatches} == {OTHER}
    change(owner, 1, None, HIGH, 4)
    assert told(owner, OTHER) == [(it.dispatch, None, HIGH, 4) for it in dispatches]
    assert owner.it.executors[OTHER].urgent == 2
    change(owner, 1, [(1, 2)], LOW, None)
    holder = next(it for it in dispatches if it.first <= 1 < it.first + it.count)
    assert told(owner, OTHER)[-1] == (holder.dispatch, [[1, 2]], LOW, 4)
    for dispatch in dispatches:
        owner.fine(dispatch)
    assert owner.it.executors[OTHER].urgent == 0
    change(owner, 1, None, HIGH, None)  # it is over


def test_tasks_that_may_not_be_repeated_ask_first_in_every_class() -> None:
    owner = full()
    owner.submit(1, 3, spec(rerun=False))
    change(owner, 1, [(1, 2)], HIGH, None)
    owner.fine(owner.first)  # type: ignore[attr-defined]
    assert not owner.taken()
    owner.it.grant_start(owner.now, key_of(1), [(0, 3)])
    owner.take()
    (dispatch,) = owner.taken()
    assert dispatch.first == 1


def test_what_waits_in_a_class_of_its_own_is_asked_about_when_it_is_its_turn_and_waits_once() -> None:
    owner = full()
    owner.submit(1)
    owner.submit(2, 3, spec(rerun=False))
    change(owner, 2, [(1, 2)], LOW, None)
    owner.submit(2, 3, spec(rerun=False))
    assert not owner.messages(Kind.ASK_START), "its client came back, and nobody waits for its word yet"
    owner.it.grant_start(owner.now, key_of(2), [(0, 3)])  # said over another link, before
    batch = owner.it.batches[key_of(2)]
    assert [lane.waiting for lane in batch.lanes.values()] == [[1]] and owner.it.waiting == 4
    assert [(number, index) for number, index, _ in order(owner)] == [(1, 0), (2, 0), (2, 2), (2, 1)]
    assert owner.it.unfinished == 0


# --- inherited --------------------------------------------------------------------------------------------------------


def dep(number: int, index: int = 0) -> bytes:
    return ids.task_id(key_of(number), index)


def test_what_an_urgent_task_depends_on_is_as_urgent_while_it_waits_and_what_that_depends_on_too() -> None:
    owner = full()
    owner.submit(1, 1, spec(priority=LOW))
    owner.submit(2, 3, spec(priority=LOW))
    owner.submit(3, 1, spec(), deps=[dep(1), dep(2, 1)])
    batches = owner.it.batches
    assert batches[key_of(1)].urgency(0) == batches[key_of(2)].urgency(1) == (STANDARD, 0)
    owner.submit(4, 1, spec(priority=CRITICAL), deps=[dep(3)])
    assert [batches[key_of(number)].urgency(0)[0] for number in (1, 3)] == [CRITICAL] * 2
    assert [batches[key_of(2)].urgency(index)[0] for index in range(3)] == [LOW, CRITICAL, LOW]
    owner.it.cancel(owner.now, key_of(4), None)
    assert [batches[key_of(number)].urgency(0)[0] for number in (1, 2, 3)] == [STANDARD, LOW, STANDARD], "it falls back"
    change(owner, 3, None, HIGH, None)
    assert batches[key_of(1)].urgency(0)[0] == batches[key_of(2)].urgency(1)[0] == HIGH
    assert [(number, index) for number, index, _ in order(owner)][:2] == [(1, 0), (2, 1)]
    assert not owner.it._urgency._waits_for


def test_what_a_task_that_runs_waits_for_is_raised_as_long_as_it_waits() -> None:
    owner = full(LOW)
    running, by = owner.first, b"somewhere else!!"  # type: ignore[attr-defined]
    owner.it.awaited(owner.now, dep(90), by, CRITICAL)
    owner.take()
    assert told(owner) == [(running.dispatch, None, CRITICAL, 0)]
    owner.it.waiter_changed(owner.now, by, HIGH)
    owner.it.awaited(owner.now, dep(90), b"another waiter!!", STANDARD)
    owner.it.awaited(owner.now, dep(90), by, None)
    owner.it.awaited(owner.now, dep(90), b"another waiter!!", None)
    owner.take()
    assert [it[2] for it in told(owner)] == [CRITICAL, HIGH, STANDARD, LOW]
    owner.it.awaited(owner.now, dep(7), by, CRITICAL)  # unknown
    owner.it.awaited(owner.now, dep(90, 5), by, CRITICAL)
    owner.fine(running)
    owner.it.awaited(owner.now, dep(90), by, CRITICAL)
    assert not owner.it._urgency._waits_for
