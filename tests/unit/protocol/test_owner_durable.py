"""Durable batches in the owner: what waits until it is committed, and what becomes of it when it is not."""

from __future__ import annotations

import pytest

from kernels.batch import CallBuilder
from swarm.protocol import ids
from swarm.protocol.ledger.effects import Reason, Refusal
from swarm.protocol.ledger.homes import durable_session
from swarm.protocol.ledger.records import Durability, Token
from swarm.protocol.ledger.state import LedgerState
from swarm.protocol.messages import Kind
from swarm.protocol.owner.clients import OTHERS_MAX
from swarm.protocol.ownership import OwnershipConfig
from swarm.protocol.states import CRASHES_MAX, Status
from tests.unit.protocol.durable_owner import (
    DURABLE_SESSION,
    GROUP,
    OWN_GROUP,
    DurableOwner,
    Log,
    durable_key,
    outcomes_of,
)
from tests.unit.protocol.owner import CLIENT, ME, OAK, OTHER_CLIENT, WALL, columns_of, key_of, spec_of


def leader(slots: float = 2.0, config: OwnershipConfig | None = None) -> tuple[DurableOwner, Log]:
    """An owner that leads its own log."""
    owner, log = DurableOwner(slots, config=config), Log()
    log.lead(owner)
    return owner, log


def told(owner: DurableOwner, number: int) -> dict[int, int]:
    """Index -> status of what the client was told."""
    return owner.ended(number, key=durable_key(number))


def test_the_receipt_comes_when_the_batch_is_committed_and_its_tasks_begin_before() -> None:
    owner, log = leader()
    owner.hand(1, 2)
    (dispatch,) = owner.taken()
    assert dispatch.extra["token"] == [1, dispatch.dispatch]
    assert log.kinds() == ["Submitted"]
    assert not owner.messages(Kind.ACCEPTED)
    log.commit()
    (receipt,) = owner.messages(Kind.ACCEPTED)
    assert receipt == {"b": durable_key(1), "copies": 2, "hosts": 2, "e": 1, "r": 86_400.0}


def test_an_outcome_is_told_when_it_is_committed_and_not_before() -> None:
    owner, log = leader()
    batch = owner.hand(1, 2)
    assert batch is not None
    owner.fine(owner.taken()[0])
    assert log.kinds() == ["Submitted", "Ended"]
    assert (told(owner, 1), batch.outcome(0), batch.finished_at, owner.it.unfinished) == ({}, None, None, 2)
    log.commit(1)
    assert told(owner, 1) == {}
    log.commit()
    assert told(owner, 1) == {0: Status.OK, 1: Status.OK}
    assert (batch.finished_at, owner.it.unfinished) == (owner.now, 0)
    assert log.state.batches[durable_key(1)].unfinished == 0


def test_what_waits_for_an_outcome_waits_for_its_commit() -> None:
    owner, log = leader()
    owner.hand(1)
    owner.hand(2, deps=[ids.task_id(durable_key(1), 0)])
    (first,) = owner.taken()
    owner.fine(first)
    assert owner.taken() == []
    log.commit_all()
    (second,) = owner.taken()
    assert (second.batch, second.extra["deps"]) == (durable_key(2), [b"M\x01"])


def test_a_further_attempt_is_granted_in_the_log_before_it_goes_out_and_tokens_grow() -> None:
    owner, log = leader(slots=1)
    owner.hand(1)
    (first,) = owner.taken()
    owner.report(first, {0: Status.RETURNED})
    log.commit(1)
    assert owner.taken() == [] and log.kinds() == ["Granted"]
    log.commit()
    (second,) = owner.taken()
    assert tuple(second.extra["token"]) > tuple(first.extra["token"])
    owner.fine(first)
    assert log.kinds() == [] and told(owner, 1) == {}
    owner.fine(second)
    log.commit()
    assert told(owner, 1) == {0: Status.OK}


def test_a_first_attempt_of_what_may_not_be_repeated_is_in_the_log_before_it_begins_and_no_client_is_asked() -> None:
    owner, log = leader()
    owner.hand(1, spec=spec_of(rerun=False))
    assert owner.taken() == [] and log.kinds() == ["Submitted", "Granted"]
    log.commit()
    assert len(owner.taken()) == 1
    assert not owner.messages(Kind.ASK_START)


def test_what_may_not_be_repeated_runs_elsewhere_when_its_executor_goes_before_its_grant_is_committed() -> None:
    owner, log = leader(slots=0)
    owner.executor(OAK, "oak", 1)
    owner.hand(1, spec=spec_of(rerun=False))
    owner.it.executor_lost(owner.now, OAK, "dead")
    owner.take()
    log.commit_all()
    assert owner.taken() == [] and told(owner, 1) == {}
    owner.executor(OAK, "oak", 1)
    log.commit_all()
    (dispatch,) = owner.taken()
    owner.it.executor_lost(owner.now, OAK, "dead")
    owner.take()
    log.commit_all()
    assert told(owner, 1) == {0: Status.LOST} and dispatch.count == 1


def test_retries_and_crashes_are_in_the_log() -> None:
    owner, log = leader(slots=1)
    owner.hand(1, spec=spec_of(retries=2))
    owner.report(owner.taken()[0], {0: Status.RETRY})
    owner.wait(1)
    log.commit_all()
    owner.report(owner.taken()[0], {0: Status.CRASHED})
    log.commit_all()
    assert log.state.batches[durable_key(1)].counts == {0: (1, 1)}


def test_a_cancel_is_in_the_log_and_ends_what_waits_for_its_grant() -> None:
    owner, log = leader(slots=1)
    owner.hand(1, 2)
    (first,) = owner.taken()
    owner.report(first, {0: Status.RETURNED})
    owner.it.cancel(owner.now, durable_key(1), None)
    owner.take()
    log.commit_all()
    assert log.state.batches[durable_key(1)].killed == [(0, 2)]
    for dispatch in owner.taken():  # the grant was under way: what it allowed is recalled at once
        assert [it for it in owner.told if it.kind == Kind.RECALL and it.header["d"] == dispatch.dispatch]
        owner.report(dispatch, dict.fromkeys(range(dispatch.first, dispatch.first + dispatch.count), Status.CANCELLED))
    log.commit_all()
    assert told(owner, 1) == {0: Status.CANCELLED, 1: Status.CANCELLED}


def test_the_same_batch_again_is_attached_to_and_other_content_is_refused_with_both_digests() -> None:
    owner, log = leader()
    batch = owner.hand(1, 2)
    owner.fine(owner.taken()[0])
    log.commit_all()
    assert owner.hand(1, 2, client=OTHER_CLIENT) is batch
    assert owner.ended(1, OTHER_CLIENT, durable_key(1)) == {0: Status.OK, 1: Status.OK}
    assert [it["copies"] for it in owner.messages(Kind.ACCEPTED, OTHER_CLIENT)] == [2]
    owner.hand(1, 3)
    (refusal,) = owner.messages(Kind.REFUSED)
    assert (refusal["reason"], refusal["after"]) == ("conflict", None)
    assert batch is not None and batch.durable is not None and batch.durable.digest.hex() in refusal["message"]
    assert owner.it.batches[durable_key(1)] is batch


def test_without_a_leader_the_answer_is_unknown_and_nothing_begins() -> None:
    owner, log = leader()
    log.lead(DurableOwner(me=OAK))
    assert owner.hand(1) is None and owner.taken() == []
    (refusal,) = owner.messages(Kind.REFUSED)
    assert refusal["reason"] == "unknown" and refusal["after"] > 0 and refusal["hint"]


def test_a_batch_of_another_home_is_unknown_here_and_one_without_a_journal_is_refused() -> None:
    owner, _ = leader()
    owner.hand(1, key=ids.batch_key(durable_session(OAK, b"12345"), 1))
    owner.it.refusals.keeps_ledger = False
    owner.hand(2)
    assert [it["reason"] for it in owner.messages(Kind.REFUSED)] == ["unknown", "durability"]
    assert owner.messages(Kind.REFUSED)[1]["after"] is None


def test_each_level_has_a_log_of_its_own() -> None:
    owner, log = leader()
    mine = Log()
    mine.copies = 1
    mine.lead(owner, OWN_GROUP)
    owner.hand(1, level=Durability.NODE)
    owner.hand(2)
    assert (mine.kinds(), log.kinds()) == (["Submitted"], ["Submitted"])
    mine.commit()
    assert [(it["b"], it["copies"]) for it in owner.messages(Kind.ACCEPTED)] == [(durable_key(1), 1)]
    owner.hand(1, level=Durability.FLEET)
    assert [it["reason"] for it in owner.messages(Kind.REFUSED)] == ["conflict"]


@pytest.mark.parametrize(
    ("reason", "said", "after"),
    [
        (Reason.DISK_FULL, "disk-full", None),
        (Reason.FULL, "full", 5.0),
        (Reason.BUSY, "busy", 5.0),
        (Reason.NOT_LEADER, "unknown", 0.25),
    ],
)
def test_a_batch_that_the_log_does_not_take_is_not_accepted_and_leaves_nothing(
    reason: Reason, said: str, after: float | None
) -> None:
    owner, log = leader()
    owner.hand(1, 2)
    (dispatch,) = owner.taken()
    log.refuse(reason, 5.0)
    (refusal,) = owner.messages(Kind.REFUSED)
    assert (refusal["reason"], refusal["after"]) == (said, after)
    assert (owner.it.unfinished, owner.it.waiting, dict(owner.it.batches)) == (0, 0, {})
    assert [it.header["d"] for it in owner.told if it.kind == Kind.RECALL] == [dispatch.dispatch]
    assert owner.hand(2, 2) is not None and len(owner.taken()) == 1


def test_what_had_begun_when_its_batch_was_not_taken_is_granted_when_it_is_handed_over_again() -> None:
    owner, log = leader()
    owner.hand(1)
    (first,) = owner.taken()
    log.refuse(Reason.FULL, 5.0)
    owner.hand(1)
    assert owner.taken() == [] and log.kinds() == ["Submitted", "Granted"]
    log.commit()
    (second,) = owner.taken()
    batch = log.state.batches[durable_key(1)]
    assert batch.accepts(0, Token(*second.extra["token"])) and not batch.accepts(0, Token(*first.extra["token"]))
    owner.hand(2)
    assert len(owner.taken()) == 1, "others begin at once"


def test_an_outcome_that_the_log_does_not_take_now_is_written_again() -> None:
    owner, log = leader()
    owner.hand(1)
    log.commit()
    owner.fine(owner.taken()[0])
    log.refuse(Reason.DISK_FULL)
    assert told(owner, 1) == {}
    owner.wait(1)
    log.commit()
    assert told(owner, 1) == {0: Status.OK}


def test_a_grant_that_the_log_does_not_take_now_is_asked_for_again_under_a_greater_token() -> None:
    owner, log = leader(slots=1)
    owner.hand(1)
    (first,) = owner.taken()
    log.commit()
    owner.report(first, {0: Status.RETURNED})
    log.refuse(Reason.BUSY)
    owner.wait(1)
    log.commit()
    (second,) = owner.taken()
    assert second.dispatch > first.dispatch + 1


def test_an_outcome_too_large_for_the_log_ends_as_refused_and_many_go_in_parts() -> None:
    owner, log = leader(slots=4)
    owner.hand(1, 4)
    (dispatch,) = owner.taken()
    count, body = outcomes_of(dict.fromkeys(range(4), int(Status.OK)), size=300_000)
    owner.it.outcomes(owner.now, dispatch.executor, dispatch.dispatch, count, body)
    owner.take()
    assert log.kinds() == ["Submitted"] + ["Ended"] * 4
    log.commit(4)
    log.refuse(Reason.TOO_LARGE)
    log.commit_all()
    assert sorted(told(owner, 1).values()) == [0, 0, 0, Status.REFUSED]


def test_a_durable_batch_goes_on_without_its_client_and_is_kept_until_the_log_forgets_it() -> None:
    owner, log = leader(config=OwnershipConfig(durable_retention_s=100.0))
    batch = owner.hand(1)
    assert batch is not None
    (dispatch,) = owner.taken()
    owner.it.client_lost(owner.now, CLIENT)
    owner.wait(60)
    assert not batch.abandoned and not batch.cancelled
    owner.fine(dispatch)
    log.commit_all()
    owner.wait(1000)
    assert batch.outcome(0) is not None and durable_key(1) in owner.it.batches
    log.state._batches.clear()
    owner.wait(40)
    assert durable_key(1) not in owner.it.batches


def test_what_is_kept_until_it_was_delivered_is_forgotten_then() -> None:
    owner, log = leader(config=OwnershipConfig(durable_retention_s=0.0))
    owner.hand(1)
    owner.fine(owner.taken()[0])
    owner.it.delivered(durable_key(1))
    log.commit_all()
    owner.it.delivered(durable_key(1))
    owner.take()
    assert log.kinds() == ["Forgotten"]
    log.commit()
    assert not owner.it.batches and not log.state.batches


def test_a_durable_task_does_not_depend_on_one_that_may_be_gone_tomorrow() -> None:
    owner, log = leader()
    owner.submit(1)
    owner.hand(2, deps=[ids.task_id(key_of(1), 0)])
    log.commit_all()
    assert told(owner, 2) == {0: Status.DEPENDENCY}


@pytest.mark.parametrize("after_s", [None, 5.0])
def test_what_waits_for_a_batch_that_is_never_accepted_ends(after_s: float | None) -> None:
    owner, log = leader()
    owner.hand(1)
    owner.hand(2, deps=[ids.task_id(durable_key(1), 0)])
    second = log.waiting.pop(1)
    log.refuse(Reason.TOO_LARGE if after_s is None else Reason.FULL, after_s)
    log.waiting.insert(0, second)
    log.commit_all()
    if after_s is None:
        assert told(owner, 2) == {0: Status.DEPENDENCY} and log.state.batches[durable_key(2)].unfinished == 0
        return
    assert told(owner, 2) == {}, "its client hands the first one over again"
    owner.hand(1)
    log.commit_all()
    owner.fine(owner.taken()[-1])
    log.commit_all()
    owner.fine(owner.taken()[-1])
    log.commit_all()
    assert told(owner, 2) == {0: Status.OK}


def test_a_batch_without_durability_writes_nothing_and_is_told_at_once() -> None:
    owner, log = leader()
    owner.submit(1, 2)
    (dispatch,) = owner.taken()
    assert "token" not in dispatch.extra
    owner.fine(dispatch)
    assert log.waiting == [] and owner.ended(1) == {0: Status.OK, 1: Status.OK}


def test_quarantine_counts_crashes_of_all_leaders() -> None:
    owner, log = leader(slots=1)
    owner.hand(1)
    for _ in range(CRASHES_MAX - 1):
        log.commit_all()
        owner.report(owner.taken()[0], {0: Status.CRASHED})
    log.commit_all()
    other = DurableOwner(slots=1)
    log.lead(other)
    other.it.held(other.now, GROUP, log.term, other.it.me, [])
    other.take()
    log.commit_all()
    other.report(other.taken()[0], {0: Status.CRASHED})
    log.commit_all()
    other.hand(1)
    assert other.ended(1, key=durable_key(1)) == {0: Status.QUARANTINED}


def test_columns_and_dependencies_are_part_of_what_a_batch_is() -> None:
    owner, _ = leader()
    owner.hand(1, 2)
    owner.hand(1, 2, columns=columns_of(2)[:-1] + b"\x7f")
    owner.hand(1, 2, spec=spec_of(retries=1))
    assert [it["reason"] for it in owner.messages(Kind.REFUSED)] == ["conflict", "conflict"]
    assert DURABLE_SESSION == durable_key(1)[:8]


def test_all_clients_that_hand_over_the_same_batch_hear_what_becomes_of_it() -> None:
    owner, log = leader()
    batch = owner.hand(1)
    assert batch is not None
    log.commit()
    (dispatch,) = owner.taken()
    owner.messages(Kind.ACCEPTED)
    owner.hand(1, client=OTHER_CLIENT)
    owner.hand(1, client=OTHER_CLIENT)
    assert batch.clients == (OTHER_CLIENT, CLIENT)
    owner.fine(dispatch)
    log.commit()
    heard = [it.to for it in owner.told if it.kind == Kind.OUTCOMES]
    assert sorted(heard) == sorted((CLIENT, OTHER_CLIENT))
    owner.it.lead(owner.now, WALL + owner.now, GROUP, 2, log.state.batches)
    owner.take()
    heard = [it.to for it in owner.told if it.kind == Kind.OUTCOMES]
    assert sorted(heard) == sorted((CLIENT, OTHER_CLIENT) * 2), "a later epoch tells it again"


def test_a_client_that_is_gone_leaves_the_batch_to_those_that_wait_with_it() -> None:
    owner, log = leader()
    batch = owner.hand(1)
    assert batch is not None
    log.commit()
    for number in range(20):
        owner.hand(1, client=b"c%02d" % number + bytes(21))
    assert len(batch.clients) == 1 + OTHERS_MAX
    owner.hand(1, client=OTHER_CLIENT)
    before = batch.clients[1]
    owner.it.client_lost(owner.now, OTHER_CLIENT)
    owner.wait(11.0)
    assert batch.client == before and OTHER_CLIENT not in batch.clients


def test_a_batch_that_the_log_does_not_take_is_refused_to_all_who_handed_it_over() -> None:
    owner, log = leader()
    owner.hand(1)
    owner.hand(1, client=OTHER_CLIENT)
    log.refuse(Reason.TOO_LARGE)
    assert {it.to for it in owner.told if it.kind == Kind.REFUSED} == {CLIENT, OTHER_CLIENT}


def unkept(owner: DurableOwner, number: int) -> bool:
    """Whether the client was told last that its batch is on no disk, but runs."""
    found = [it for it in owner.messages(Kind.ACCEPTED) if it["b"] == durable_key(number)]
    return bool(found) and not found[-1]["copies"]


@pytest.mark.parametrize("reason", [Reason.FULL, Reason.DISK_FULL, Reason.TOO_LARGE])
def test_what_nobody_asked_to_be_kept_runs_without_where_the_log_does_not_take_it(reason: Reason) -> None:
    owner, log = leader()
    owner.hand(1, 2, soft=True)
    (before,) = owner.taken()
    log.refuse(reason, 0.5)
    batch = owner.it.batches[durable_key(1)]
    assert batch.durable is None and batch.client == CLIENT
    assert unkept(owner, 1) and not owner.messages(Kind.REFUSED)
    assert [it["k"] for it in owner.messages(Kind.RECALL, ME)] == [True], "what had begun is ended first"
    owner.fine(before)
    assert told(owner, 1) == {}
    while dispatched := owner.taken():
        for dispatch in dispatched:
            assert "token" not in dispatch.extra and dispatch.attempts == 1
            owner.fine(dispatch)
    assert told(owner, 1) == {0: Status.OK, 1: Status.OK} and log.kinds() == []
    # Whoever asked for it hears that it is not to be had, as ever.
    owner.hand(2, 2)
    log.refuse(reason, 0.5)
    assert durable_key(2) not in owner.it.batches
    assert [it["reason"] for it in owner.messages(Kind.REFUSED)] == [reason.value]


def test_what_nobody_asked_to_be_kept_runs_without_at_a_node_that_keeps_no_journal() -> None:
    owner, _ = leader()
    owner.it.refusals.keeps_ledger = False
    owner.hand(1, soft=True)
    assert unkept(owner, 1)
    owner.hand(1, soft=True)  # the answer was lost
    assert unkept(owner, 1) and not owner.messages(Kind.REFUSED)
    owner.fine(owner.taken()[0])
    assert told(owner, 1) == {0: Status.OK}


def test_a_task_that_waits_for_one_that_is_not_kept_is_not_kept_either() -> None:
    owner, log = leader()
    owner.hand(1, soft=True)
    log.refuse(Reason.FULL, 0.5)
    owner.hand(2, soft=True, deps=[ids.task_id(durable_key(1), 0)])
    assert unkept(owner, 2) and log.kinds() == []
    for _ in range(2):
        for dispatch in owner.taken():
            owner.fine(dispatch)
    assert told(owner, 1) == told(owner, 2) == {0: Status.OK}


def test_one_that_waits_goes_on_when_what_it_waits_for_turns_out_not_to_be_kept() -> None:
    owner, log = leader()
    owner.hand(1, soft=True)
    owner.hand(2, soft=True, deps=[ids.task_id(durable_key(1), 0)])
    (first, second), log.waiting = log.waiting, []
    owner.it.not_taken(owner.now, first.ticket, Refusal(Reason.FULL, "because", retry_after_s=0.5))
    owner.take()
    log.waiting = [second]
    log.commit_all()
    for _ in range(3):
        for dispatch in owner.taken():
            owner.fine(dispatch)
        log.commit_all()
    assert told(owner, 1) == told(owner, 2) == {0: Status.OK}


def test_a_full_log_forgets_the_older_half_of_what_was_delivered_and_nobody_asked_for() -> None:
    owner, log = leader(slots=8)
    for number in range(1, 7):
        owner.hand(number, soft=number != 1)
        owner.fine(owner.taken()[0])
        log.commit_all()
        owner.it.delivered(durable_key(number))
    owner.hand(7)
    log.refuse(Reason.FULL, 0.5)
    assert log.kinds() == ["Forgotten"]
    log.commit_all()
    left = [number for number in range(1, 7) if durable_key(number) in log.state.batches]
    assert left == [1, 5, 6], "who asked for it has it"
    assert [durable_key(number) in owner.it.batches for number in range(1, 7)] == [
        number in left for number in range(1, 7)
    ]


def test_arguments_of_what_has_ended_are_given_up_and_content_is_still_told_apart() -> None:
    owner, log = leader()
    builder = CallBuilder()
    for _ in range(40):
        builder.add(b"M" + bytes(68))
    columns = builder.take()
    owner.hand(1, 40, columns=columns)
    while dispatched := owner.taken():
        for dispatch in dispatched:
            owner.fine(dispatch)
    log.commit_all()
    assert log.state.nbytes < len(columns) / 2
    state = LedgerState.restore(log.state.snapshot())
    assert state.snapshot() == log.state.snapshot() and state.nbytes == log.state.nbytes
    assert (state.batches[durable_key(1)].count, state.batches[durable_key(1)].unfinished) == (40, 0)
    owner.hand(1, 40, columns=columns)
    assert not owner.messages(Kind.REFUSED)
    owner.hand(1, 40, columns=columns_of(40))
    assert [it["reason"] for it in owner.messages(Kind.REFUSED)] == ["conflict"]
