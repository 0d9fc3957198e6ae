"""What is kept of a batch that has ended: the same outcomes and the same record, in little memory, for whom it is kept."""

from __future__ import annotations

import gc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kernels.batch import OutcomeBuilder, Outcomes
from kernels.reference import ranks
from swarm.protocol.owner.batches import OwnershipConfig
from swarm.protocol.owner.put_away import BATCH_BYTES, TRACE_MAX, PutAway, joined
from swarm.protocol.states import Priority, Status
from tests.unit.protocol.owner import CLIENT, OAK, OTHER_CLIENT, Owner, key_of, spec_of

ROWS = st.lists(
    st.lists(st.tuples(st.integers(0, 1 << 31), st.integers(0, 9), st.binary(max_size=40)), max_size=6), max_size=8
)


@given(ROWS)
def test_reports_that_are_joined_say_the_same(said: list[list[tuple[int, int, bytes]]]) -> None:
    reports: list[tuple[Outcomes, Any]] = []
    for rows in said:
        builder = OutcomeBuilder()
        for index, status, payload in rows:
            builder.add(index, status, index % 1000, payload)
        body = builder.take()
        reports.append((Outcomes(body, len(rows)), memoryview(body)))
    every = [row for rows in said for row in rows]
    one = Outcomes(joined(reports), len(every))
    assert [(one.index(at), one.status(at), bytes(one.payload(at))) for at in range(one.count)] == every
    assert [one.run_us(at) for at in range(one.count)] == [row[0] % 1000 for row in every]


def test_a_record_reads_as_before_and_has_a_bound() -> None:
    ranked = ranks.Ranked([])
    ranked._lines = [("oak", 3, 0.0, ""), ("elm", 0, 1.5, "it is full")]
    events = [(1.0, "placed", 0, 3, "oak", ranked), (2.0, "waits for tasks", 0, 3, "", ["ab", "cd"])]
    events += [(3.0, "suspended", 0, 1, "oak", {"by": "x", "at": (1, None)}), (4.0, "odd", 0, 1, "", object)]
    record = PutAway(events)
    assert [event[:5] for event in record] == [event[:5] for event in events]
    assert (
        record[0][5] == ranked.lines() and record[1][5] == ["ab", "cd"] and record[2][5] == {"by": "x", "at": (1, None)}
    )
    assert "object" in record[-1][5] and [event[1] for event in reversed(record)][0] == "odd"
    record.append((5.0, "later", 0, 1, "", None))
    assert len(record) == 5 and record.pop()[1] == "later" and len(record) == 4
    many = PutAway([(float(at), "placed", at, at + 1, "", None) for at in range(1000)])
    assert len(many) == TRACE_MAX and [many[0][0], many[1][0], many[-1][0]] == [0.0, 1001.0 - TRACE_MAX, 999.0]


def test_a_batch_that_has_ended_has_its_outcomes_and_its_record() -> None:
    owner = Owner(1.0)
    batch = owner.submit(1, 12)
    assert batch is not None
    while dispatched := owner.taken():
        for dispatch in dispatched:
            for index in range(dispatch.first, dispatch.first + dispatch.count):
                owner.report(dispatch, {index: Status.OK if index % 5 else Status.FAILED})
    before = owner.ended(1)
    assert len(before) == 12 and batch.finished_at is not None
    assert len(batch.outcomes) == 1, "as one block"
    assert {index: batch.outcome(index)[0] for index in range(12)} == before  # type: ignore[index]
    assert [event[1] for event in batch.trace][0] == "submitted" and batch.trace[-1][1] == "finished"
    owner.told.clear()
    owner.submit(1, 12)
    assert owner.ended(1) == before, "who asks again is told all of it"


def test_what_is_kept_has_a_bound_in_bytes_that_counts_all_of_it() -> None:
    bound = 50 * BATCH_BYTES
    owner = Owner(1.0, OwnershipConfig(retained_bytes_max=bound))
    for number in range(200):
        owner.submit(number)
        owner.fine(owner.taken()[0])
        holdings = owner.it._holdings
        assert holdings.retained_bytes <= bound
        assert holdings.retained_bytes >= BATCH_BYTES * len(holdings.retained)
    assert 30 < len(owner.it.batches) < 50 and key_of(199) in owner.it.batches


def test_a_batch_that_has_ended_holds_few_objects_however_much_happened_to_it() -> None:
    owner = Owner(1.0)
    owner.executor(OAK, "oak", 1.0)
    counts = []
    for number, count in enumerate((1, 300)):
        gc.collect()
        before = len(gc.get_objects())
        owner.submit(number, count, spec_of(priority=Priority.LOW))
        while dispatched := owner.taken():
            for dispatch in dispatched:
                for index in range(dispatch.first, dispatch.first + dispatch.count):
                    owner.report(dispatch, {index: Status.OK})
        for kept in (owner.told, owner.facts, owner.others):
            kept.clear()
        del dispatched, dispatch
        gc.collect()
        counts.append(len(gc.get_objects()) - before)
    assert counts[1] <= counts[0] + 5, counts


def flood(owner: Owner, first: int, count: int, client: bytes = OTHER_CLIENT) -> None:
    for number in range(first, first + count):
        owner.submit(number, client=client)
        owner.fine(owner.taken()[0])


def test_what_a_client_that_is_away_may_come_back_for_is_kept() -> None:
    owner = Owner(1.0, OwnershipConfig(retained_batches_max=10, client_lease_s=10.0))
    owner.submit(1)
    owner.fine(owner.taken()[0])
    owner.it.client_lost(owner.now, CLIENT)
    flood(owner, 100, 500)
    assert key_of(1) in owner.it.batches and len(owner.it.batches) == 10
    owner.told.clear()
    owner.submit(1)
    assert owner.ended(1) == {0: Status.OK} and not owner.taken(), "it is not run again"
    owner.it.client_lost(owner.now, CLIENT)
    owner.wait(11.0)
    flood(owner, 1000, 500)
    assert key_of(1) not in owner.it.batches, "its lease is over"


def test_what_a_client_has_not_taken_yet_is_kept() -> None:
    owner = Owner(1.0, OwnershipConfig(retained_batches_max=10, retention_s=100.0))
    behind = {CLIENT}
    owner.it.is_behind = lambda client: client in behind
    flood(owner, 1, 70, CLIENT)
    flood(owner, 100, 500)
    assert sum(batch.client == CLIENT for batch in owner.it.batches.values()) == 70
    assert len(owner.it.batches) == 71, "and the latest of all others"
    owner.wait(200.0)
    assert len(owner.it.batches) == 70
    behind.clear()
    owner.wait(10.0)
    assert not owner.it.batches and not owner.it._holdings.retained_bytes
