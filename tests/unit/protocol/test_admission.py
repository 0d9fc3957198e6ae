"""What an owner takes when it has much already, and when it has those come back that it sent away."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.protocol import ids
from swarm.protocol.drain import SPAN_S, Drain
from swarm.protocol.messages import Kind
from swarm.protocol.owner.admission import AFTER_S_MAX
from swarm.protocol.ownership import OwnershipConfig
from swarm.protocol.states import Priority
from tests.unit.protocol.owner import CLIENT, OTHER_CLIENT, Owner, key_of, report_of, spec_of


def refusals(owner: Owner, to: bytes = CLIENT) -> list[dict[str, Any]]:
    return [header for header in owner.messages(Kind.REFUSED, to) if header["reason"] == "full"]


def one_ends(owner: Owner) -> None:
    """One task of what is out, which took long: so that one is out at a time."""
    (dispatch,) = owner.taken()
    count, body = report_of({dispatch.first: 0}, run_us=1_000_000)
    owner.it.outcomes(owner.now, dispatch.executor, dispatch.dispatch, count, body)
    owner.take()


def all_end(owner: Owner) -> None:
    """All there is, as it is handed out."""
    while dispatches := owner.taken():
        for one in dispatches:
            owner.fine(one)


def test_the_last_part_of_the_room_is_for_urgent_work_and_what_running_tasks_wait_for() -> None:
    owner = Owner(slots=1, config=OwnershipConfig(tasks_max=80))
    assert owner.submit(1, 69) and owner.submit(2, 1), "an eighth is free"
    assert owner.submit(3, 1) is None and "70 unfinished tasks" in refusals(owner)[0]["message"]
    assert owner.submit(4, 4, spec_of(priority=Priority.LOW)) is None
    assert owner.submit(5, 4, spec_of(priority=Priority.HIGH)) and owner.submit(6, 4, spec_of(depth=1))
    assert owner.submit(7, 3, spec_of(priority=Priority.CRITICAL)) is None, "the bound is for all"
    assert owner.submit(8, 2, spec_of(priority=Priority.CRITICAL))


def test_batches_are_bounded_and_outcomes_of_what_is_not_finished_count_as_bytes() -> None:
    owner = Owner(slots=1, config=OwnershipConfig(batches_max=4, bytes_max=400))
    for number in range(4):
        assert owner.submit(number + 1, 2)
    assert owner.submit(5, 1, spec_of(priority=Priority.HIGH)) is None, "a batch costs more than its calls"
    one_ends(owner)
    assert owner.it._holdings.outcome_bytes > 0, "the other task of its batch has not ended"
    all_end(owner)
    assert owner.submit(5, 1)
    all_end(owner)
    assert (owner.it._holdings.outcome_bytes, owner.it._admission._of, owner.it.unfinished) == (0, {}, 0)


def test_a_batch_that_is_finished_keeps_its_outcomes_and_not_its_calls() -> None:
    owner = Owner(slots=1)
    batch = owner.submit(1, 4)
    assert batch is not None and batch.calls.nbytes > 0
    all_end(owner)
    assert batch.finished_at is not None and (batch.calls.count, bytes(batch.calls.payload(3))) == (4, b"")
    assert owner.submit(1, 4) is batch and owner.it.unfinished == 0, "it is still known by its key"
    assert [owner.it.batches[key_of(1)].outcome(row) is not None for row in range(4)] == [True] * 4


def test_nobody_who_has_more_than_his_part_is_given_more_when_half_is_taken() -> None:
    owner = Owner(slots=1, config=OwnershipConfig(tasks_max=80))
    assert owner.submit(1, 35) and owner.submit(2, 6), "alone he may have nearly all"
    assert owner.submit(3, 10, client=OTHER_CLIENT), "who has nothing is given something"
    assert owner.submit(4, 1) is None
    assert "more than its part" in refusals(owner)[0]["message"]
    assert owner.submit(5, 10, client=OTHER_CLIENT)
    assert owner.submit(4, 1, spec_of(priority=Priority.CRITICAL)), "urgent work is nobody's flood"


def test_those_sent_away_come_back_one_after_the_other_as_fast_as_tasks_end() -> None:
    owner = Owner(slots=1, config=OwnershipConfig(tasks_max=40, refuse_after_s=0.1))
    owner.submit(1, 40)
    owner.submit(2, 10)
    assert refusals(owner)[0]["after"] == 0.1, "nothing is known yet"
    for _ in range(10):
        owner.now += 0.1
        one_ends(owner)
    owner.submit(3, 10)
    for number in range(4, 9):
        owner.submit(number, 10)
    after = [header["after"] for header in refusals(owner)[1:]]
    assert after == sorted(after) and after[0] < after[1] and after[-1] == pytest.approx(AFTER_S_MAX)
    assert after[1] - after[0] == pytest.approx(1.0, rel=0.3), "ten tasks take a second here"


def test_what_depends_on_a_batch_that_was_sent_away_is_sent_away_and_what_it_depends_on_is_kept() -> None:
    owner = Owner(slots=1, config=OwnershipConfig(tasks_max=16, retained_batches_max=1))
    owner.submit(1, 1)
    owner.submit(2, 13)
    assert owner.submit(3, 5) is None
    wants = [ids.task_id(key_of(3), 0), ids.task_id(key_of(1), 0)]
    assert owner.submit(4, 1, spec_of(priority=Priority.HIGH), deps=wants) is None
    assert [header["b"] for header in refusals(owner)] == [key_of(3), key_of(4)]
    all_end(owner)
    assert key_of(1) in owner.it.batches, "it ended, and somebody is to come back for it"
    assert owner.submit(3, 5) and owner.submit(4, 1, spec_of(priority=Priority.HIGH), deps=wants)
    all_end(owner)
    assert owner.ended(4) == {0: 0}
    owner.wait(60)
    owner.submit(5, 1)
    owner.fine(owner.taken()[0])
    assert key_of(1) not in owner.it.batches, "not for ever"


def test_a_dependency_that_does_not_come_back_is_not_known_in_the_end() -> None:
    owner = Owner(slots=1, config=OwnershipConfig(tasks_max=8))
    owner.submit(1, 8)
    assert owner.submit(2, 4) is None
    owner.now += 60
    all_end(owner)
    assert owner.submit(3, 1, deps=[ids.task_id(key_of(2), 0)])
    assert owner.ended(3) == {0: 7}


def test_the_rate_is_that_of_the_last_seconds() -> None:
    drain = Drain()
    assert drain.rate(0.0) == 0.0 and drain.after_s(0.0, 10, 0.5, 5.0) == 0.5
    for step in range(50):
        drain.ended(step * 0.1, 10)
    assert drain.rate(5.0) == pytest.approx(100, rel=0.15)
    assert drain.after_s(5.0, 200, 0.1, 5.0) == pytest.approx(2.0, rel=0.15)
    assert drain.after_s(5.0, 1e9, 0.1, 5.0) == 5.0
    assert drain.rate(5.0 + SPAN_S) < 60
    assert drain.rate(50.0) == 0.0
