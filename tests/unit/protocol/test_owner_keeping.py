"""What is too large for a log: kept beside it before the batch, or its outcome, is written."""

from __future__ import annotations

import pytest

from swarm.protocol.ledger.effects import Reason, Refusal
from swarm.protocol.ledger.records import Kept, KeptBlob, Submitted
from swarm.protocol.messages import Kind
from swarm.protocol.owner.batches import Keep, KeepNoMore
from swarm.protocol.resources import Capacity
from swarm.protocol.states import Status
from tests.unit.protocol.durable_owner import GROUP, DurableOwner, Log, durable_key, outcomes_of
from tests.unit.protocol.owner import CLIENT, ME, OAK, spec_of

LARGE, SMALL, RESULT, OTHER = b"L" * 32, b"S" * 32, b"R" * 32, b"O" * 32


def blob(id: bytes) -> KeptBlob:
    return KeptBlob(id, 5_000_000, id)


class Keeper(DurableOwner):
    """An owner with a shell that keeps blobs when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.here = {LARGE: False, SMALL: True}
        self.results: dict[int, tuple[bytes, ...]] = {}
        self.keeps: list[Keep] = []
        self.no_more: list[int] = []
        self.it.know_blobs(
            lambda spec, calls: (LARGE, SMALL),
            lambda id: b"small" if self.here.get(id) else None,
            lambda group, id: False,
            lambda id: self.here.get(id),
            lambda spec, report, body: {
                row: self.results[report.index(row)]
                for row in range(report.count)
                if report.status(row) == Status.OK and report.index(row) in self.results
            },
        )

    def take(self) -> None:
        super().take()
        self.keeps += [each for each in self.others if isinstance(each, Keep)]
        self.no_more += [each.ticket for each in self.others if isinstance(each, KeepNoMore)]
        self.others = [each for each in self.others if not isinstance(each, Keep | KeepNoMore)]

    def keep(self, copies: int = 2) -> None:
        it = self.keeps.pop(0)
        self.it.kept(self.now, it.ticket, tuple(blob(id) for id in it.ids), copies, copies)
        self.take()

    def not_keep(self, reason: Reason, hint: str = "because") -> None:
        self.it.not_kept(self.now, self.keeps.pop(0).ticket, Refusal(reason, hint))
        self.take()

    def report(self, rows: dict[int, int], executor: bytes = ME, at: int = -1) -> None:
        count, body = outcomes_of(rows)
        self.it.outcomes(self.now, executor, self.dispatched[at].dispatch, count, body)
        self.take()

    def told_kinds(self) -> list[Kind]:
        return [each.kind for each in self.told if each.to == CLIENT]


@pytest.fixture
def owner() -> Keeper:
    owner = Keeper()
    Log().lead(owner)
    return owner


@pytest.fixture
def log(owner: Keeper) -> Log:
    return owner.logs[GROUP]


def test_a_batch_is_written_when_what_it_needs_is_kept_and_its_receipt_counts_that(owner: Keeper, log: Log) -> None:
    owner.hand(1, 2)
    assert [it.ids for it in owner.keeps] == [(LARGE,)] and log.waiting == []
    assert owner.dispatched, "a first attempt waits for no disk"
    owner.keep(copies=1)
    assert log.kinds() == ["Blob", "Submitted"]
    record = log.waiting[1].record
    assert isinstance(record, Submitted) and record.kept == (blob(LARGE),) and set(record.refs) == {LARGE, SMALL}
    log.commit_all()
    (receipt,) = [it for it in owner.told if it.kind == Kind.ACCEPTED]
    assert (receipt.header["copies"], receipt.header["hosts"]) == (1, 1), "two have the record, one has all of it"
    assert log.state.pins.blobs == {LARGE: blob(LARGE)}


def test_outcomes_and_cancels_wait_for_the_batch_itself(owner: Keeper, log: Log) -> None:
    batch = owner.hand(1, 2)
    owner.report({0: Status.OK})
    owner.it.cancel(owner.now, durable_key(1), [(1, 2)], kill=True)
    owner.take()
    assert log.waiting == [] and Kind.OUTCOMES not in owner.told_kinds()
    owner.keep()
    assert log.kinds() == ["Blob", "Submitted", "Ended", "Cancelled"]
    owner.report({1: Status.CANCELLED})
    log.commit_all()
    assert batch is not None and batch.finished_at is not None
    assert log.state.pins.blobs == {}, "no task needs it any more"


@pytest.mark.parametrize(
    ("reason", "final"),
    [(Reason.DISK_FULL, True), (Reason.TOO_LARGE, True), (Reason.GONE, True), (Reason.BUSY, False)],
)
def test_what_cannot_be_kept_is_not_accepted(owner: Keeper, log: Log, reason: Reason, final: bool) -> None:
    owner.hand(1)
    owner.not_keep(reason, "the disks are full")
    (refused,) = [it for it in owner.told if it.kind == Kind.REFUSED]
    assert refused.header["reason"] == reason.value and "the disks are full" in refused.header["message"]
    assert (refused.header["after"] is None) == final
    assert durable_key(1) not in owner.it.batches and log.waiting == [] and owner.it.unfinished == 0


def test_what_is_neither_here_nor_elsewhere_is_refused_at_once(owner: Keeper, log: Log) -> None:
    del owner.here[LARGE]
    assert owner.hand(1) is None and owner.keeps == []
    (refused,) = [it for it in owner.told if it.kind == Kind.REFUSED]
    assert refused.header["reason"] == "gone" and "receipt covers all" in refused.header["message"]


def test_something_small_that_is_gone_meanwhile(owner: Keeper, log: Log) -> None:
    owner.hand(1)
    del owner.here[SMALL]
    owner.keep()
    assert log.waiting == [] and durable_key(1) not in owner.it.batches
    assert [it.header["reason"] for it in owner.told if it.kind == Kind.REFUSED] == ["gone"]


def test_leadership_that_is_lost_meanwhile(owner: Keeper, log: Log) -> None:
    owner.hand(1)
    (ticket,) = [it.ticket for it in owner.keeps]
    owner.it.follow(owner.now, GROUP)
    owner.take()
    assert owner.no_more == [ticket]
    owner.it.kept(owner.now, ticket, (blob(LARGE),), 2, 2)
    owner.take()
    assert log.waiting == []
    assert [it.header["reason"] for it in owner.told if it.kind == Kind.REFUSED] == ["unknown"]


def begun(owner: Keeper, log: Log, count: int = 1, **options: object) -> None:
    """A batch in the log, with nothing large in its arguments, that runs here."""
    owner.here[LARGE] = True
    owner.hand(1, count, spec_of(**options))
    log.commit_all()
    assert owner.dispatched
    owner.told.clear()


def test_a_large_result_is_kept_and_named_before_its_outcome_is_written(owner: Keeper, log: Log) -> None:
    begun(owner, log)
    owner.results = {0: (RESULT, OTHER)}
    owner.report({0: Status.OK})
    assert [(it.ids, it.source) for it in owner.keeps] == [((RESULT, OTHER), ME)] and log.waiting == []
    owner.keep()
    assert log.kinds() == ["Kept"]
    record = log.waiting[0].record
    assert isinstance(record, Kept) and record.blobs == (blob(RESULT), blob(OTHER))
    log.commit(1)
    assert log.kinds() == ["Ended"] and Kind.OUTCOMES not in owner.told_kinds()
    log.commit_all()
    assert owner.told_kinds() == [Kind.OUTCOMES]
    assert set(log.state.pins.blobs) == {RESULT, OTHER}


def test_what_is_known_to_be_kept_is_not_waited_for_again(owner: Keeper, log: Log) -> None:
    begun(owner, log, 2)
    owner.results = {0: (RESULT,), 1: (RESULT,)}
    owner.report({0: Status.OK}, at=0)
    owner.keep()
    log.commit_all()
    owner.report({1: Status.OK})
    assert owner.keeps == [] and log.kinds() == ["Ended"]


def test_a_report_that_waits_is_not_lost_by_a_link_that_was_down(owner: Keeper, log: Log) -> None:
    begun(owner, log)
    owner.results = {0: (RESULT,)}
    number = owner.dispatched[-1].dispatch
    owner.report({0: Status.OK})
    owner.it.executor_relinked(owner.now, ME, {}, [number])
    owner.take()
    assert len(owner.dispatched) == 1, "nothing was lost"
    owner.keep()
    log.commit_all()
    assert owner.told_kinds() == [Kind.OUTCOMES]
    owner.it.executor_relinked(owner.now, ME, {})
    owner.take()
    assert len(owner.dispatched) == 1


def test_a_result_that_is_nowhere_is_had_again_by_another_attempt(owner: Keeper, log: Log) -> None:
    begun(owner, log, 2)
    owner.results = {0: (RESULT,)}
    before = len(owner.dispatched)
    owner.report({0: Status.OK}, at=0)
    owner.not_keep(Reason.GONE, "nobody has it")
    log.commit_all()
    assert len(owner.dispatched) == before + 1 and owner.dispatched[-1].first == 0
    owner.results = {}
    owner.report({0: Status.OK})
    log.commit_all()
    assert owner.told_kinds().count(Kind.OUTCOMES) == 1


def test_a_result_that_is_nowhere_of_what_may_not_be_repeated_is_lost(owner: Keeper, log: Log) -> None:
    begun(owner, log, rerun=False)
    owner.results = {0: (RESULT,)}
    owner.report({0: Status.OK})
    owner.not_keep(Reason.GONE, "nobody has it")
    log.commit_all()
    batch = owner.it.batches[durable_key(1)]
    found = batch.outcome(0)
    assert found is not None and found[0] == Status.LOST and b"nobody has it" in bytes(found[1])


def test_a_result_that_is_too_large_is_a_failure_and_the_others_of_its_report_are_what_they_are(
    owner: Keeper, log: Log
) -> None:
    owner.here[LARGE] = True
    owner.hand(1, 2, spec_of())
    log.commit_all()
    owner.results = {1: (RESULT,)}
    owner.report({0: Status.OK, 1: Status.OK})
    owner.not_keep(Reason.TOO_LARGE, "5 MB are more than is kept")
    log.commit_all()
    batch = owner.it.batches[durable_key(1)]
    first, second = batch.outcome(0), batch.outcome(1)
    assert first is not None and first[0] == Status.OK
    assert second is not None and second[0] == Status.REFUSED and b"5 MB are more" in bytes(second[1])
    assert log.state.pins.blobs == {}


def test_an_executor_that_is_lost_with_its_result_on_the_way(owner: Keeper, log: Log) -> None:
    owner.it.executor_seen(owner.now, OAK, "oak", Capacity({"cpu": 8.0}), {"free": 8.0, "wait": 0})
    owner.it.executor_linked(owner.now, OAK)
    owner.take()
    owner.here[LARGE] = True
    owner.hand(1, 6)
    log.commit_all()
    at = next(number for number, each in enumerate(owner.dispatched) if each.executor == OAK)
    there = owner.dispatched[at]
    rows = {index: Status.OK for index in range(there.first, there.first + there.count)}
    owner.results = dict.fromkeys(rows, (RESULT,))
    count, body = outcomes_of({row: int(status) for row, status in rows.items()})
    owner.it.outcomes(owner.now, OAK, there.dispatch, count, body)
    owner.take()
    before = len(owner.dispatched)
    owner.it.executor_lost(owner.now, OAK, "dead")
    owner.take()
    log.commit_all()
    owner.keep()
    log.commit_all()
    assert Kind.OUTCOMES not in owner.told_kinds(), "it is another attempt's to tell now"
    for each in owner.dispatched[before:]:
        assert each.executor == ME


def test_what_waits_to_be_kept_takes_no_slots_and_is_counted_out_once(owner: Keeper, log: Log) -> None:
    executor = owner.it.executors[ME]
    begun(owner, log, 2)
    assert executor.ours == 2
    owner.results = {0: (RESULT,), 1: (OTHER,)}
    owner.report({0: Status.OK, 1: Status.OK})
    assert executor.ours == 0 and owner.it.unfinished == 2
    owner.hand(2, 2)
    assert executor.ours == 2, "others run meanwhile"
    owner.keep()
    log.commit_all()
    assert executor.ours == 2 and owner.it.unfinished == 2
    owner.results = {}
    owner.report({0: Status.OK, 1: Status.OK})
    log.commit_all()
    assert executor.ours == 0 and executor.inflight == {} and owner.it.unfinished == 0


def test_what_waits_to_be_kept_is_withdrawn_with_its_batch(owner: Keeper, log: Log) -> None:
    executor = owner.it.executors[ME]
    begun(owner, log)
    owner.results = {0: (RESULT,)}
    owner.report({0: Status.OK})
    owner.it.follow(owner.now, GROUP)
    owner.take()
    assert executor.ours == 0 and executor.inflight == {} and owner.no_more


def test_a_new_leader_knows_what_outcomes_may_refer_to(owner: Keeper, log: Log) -> None:
    begun(owner, log, 2)
    owner.results = {0: (RESULT,), 1: (RESULT,)}
    owner.report({0: Status.OK}, at=0)
    owner.keep()
    log.commit_all()
    other = Keeper()
    other.results = owner.results
    log.lead(other)
    durable = other.it.batches[durable_key(1)].durable
    assert durable is not None and durable.kept == {RESULT}
