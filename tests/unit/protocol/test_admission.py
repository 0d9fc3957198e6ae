"""What an owner takes when it has much already, and when it has those come back that it sent away."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from swarm.protocol import ids
from swarm.protocol.drain import LONG_S, SPAN_S, STALE_S, Drain
from swarm.protocol.messages import Kind
from swarm.protocol.owner.admission import AFTER_S_MAX, INVITED
from swarm.protocol.ownership import OwnershipConfig, ToExecutor
from swarm.protocol.states import Priority, Status
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
    for number in range(4, 12):
        owner.submit(number, 10)
    after = [header["after"] for header in refusals(owner)[1:]]
    assert after == sorted(after) and after[0] < after[1] and after[-1] == pytest.approx(AFTER_S_MAX)
    assert after[1] - after[0] == pytest.approx(1.0 / INVITED, rel=0.3), "ten tasks take a second here"


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


def test_the_rate_is_that_of_times_with_enough_to_do() -> None:
    drain = Drain()
    drain.ended(-1.0, 1)
    assert drain.rate(0.0) == 0.0 and drain.after_s(0.0, 10, 0.5, 5.0) == 0.5, "nobody was sent away yet"
    drain.full(0.0, 100)
    for step in range(1, 6):
        drain.ended(step * 0.1, 10)
    drain.full(0.5, 50)
    assert drain.rate(0.5) == pytest.approx(100)
    assert drain.after_s(0.5, 200, 0.1, 5.0) == pytest.approx(2.0)
    assert drain.after_s(0.5, 1e9, 0.1, 5.0) == 5.0
    drain.ended(0.75, 25)
    assert drain.rate(3.0) == pytest.approx(100), "what was idle since does not count"
    drain.full(4.0, 100)
    drain.ended(4.0, 10)
    assert drain.rate(4.0 + SPAN_S / 2) == pytest.approx(100)
    assert drain.rate(4.0 + SPAN_S) == pytest.approx(5), "it got slower, and that is not waited for"
    drain.ended(4.0 + SPAN_S, 40)
    assert drain.rate(4.0 + SPAN_S) == pytest.approx((100 + 25) / 2)
    assert drain.rate(4.0 + SPAN_S + STALE_S) == 0.0


def test_what_was_held_and_went_otherwise_than_by_ending_is_not_waited_for() -> None:
    drain = Drain()
    drain.full(0.0, 1000)
    drain.ended(0.1, 20)
    drain.full(LONG_S, 40)
    assert drain.rate(LONG_S) == pytest.approx(2.0)
    drain.ended(LONG_S + 0.02, 20)
    assert drain.rate(LONG_S + 0.02) == pytest.approx((2 + 1000) / 2)


def test_a_report_that_comes_at_once_is_no_rate() -> None:
    drain = Drain()
    drain.full(1.0, 2)
    drain.ended(1.0, 1)
    assert drain.rate(1.0) == 0.0
    drain.ended(2.0, 1)
    assert drain.rate(2.0) == pytest.approx(2.0)


@pytest.mark.parametrize("stuck", [0, 1])
def test_a_node_that_sent_a_flood_away_is_not_idle_while_the_flood_waits(stuck: int) -> None:
    """1,000 tasks a second at best; 270 lots of 33 from three clients at once, each handed over again when it was told to.

    `stuck` slots are taken by something else for ever: the node is never without any work.
    """
    step_s, each_step, lots = 0.01, 10, 270
    owner = Owner(slots=each_step + stuck, config=OwnershipConfig(tasks_max=400))
    if stuck:
        owner.submit(10_000, stuck)
        owner.taken()
    owner.submit(20_000, 1)
    owner.fine(owner.taken()[0])
    owner.wait(1.0)  # with next to nothing to do: that is no sign of how fast it is
    clients = [b"client %d" % number for number in range(3)]
    again = [(owner.now + number * 0.001, number) for number in range(lots)]
    waiting: deque[tuple[ToExecutor, int]] = deque()
    left, began, handed = lots * 33, owner.now, 0
    while left and owner.now - began < 60:
        due = sorted(entry for entry in again if entry[0] <= owner.now)
        again = [entry for entry in again if entry[0] > owner.now]
        for _, number in due:
            handed += 1
            if owner.submit(number + 1, 33, client=clients[number % 3]) is None:
                again.append((owner.now + float(owner.told[-1].header["after"]), number))
        waiting.extend((one, index) for one in owner.taken() for index in range(one.first, one.first + one.count))
        for _ in range(min(each_step, len(waiting))):
            one, index = waiting.popleft()
            owner.report(one, {index: Status.OK})
            left -= 1
        owner.wait(step_s)
    took_s = owner.now - began
    assert left == 0
    assert took_s < 1.25 * lots * 33 / (each_step / step_s), f"it took {took_s:.1f} s"
    assert handed < 4 * lots, f"{handed} lots were handed over to have {lots} taken"
