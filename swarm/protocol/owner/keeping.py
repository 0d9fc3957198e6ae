"""Keeping: what durable batches and their outcomes refer to, and no entry of a log has room for.

Such blobs are files on the disks of the log's members, beside it. A batch is written into the log when a majority of them has
all that it needs. Outcomes are taken from their executor only then, too, and after the log has named what they refer to: until
then their tasks are out, so that a result which is lost on the way, with its executor, is had again by another attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from kernels.batch import OutcomeBuilder, Outcomes
from swarm.protocol.effects import Fact
from swarm.protocol.ledger.effects import Reason, Refusal
from swarm.protocol.ledger.records import KeptBlob
from swarm.protocol.outbound import Bytes
from swarm.protocol.owner.attempts import Attempts
from swarm.protocol.owner.batches import Batch, Dispatch, Holdings, Keep, KeepNoMore
from swarm.protocol.owner.placing import Placing
from swarm.protocol.owner.recording import Recording
from swarm.protocol.owner.words import ranges, said
from swarm.protocol.spec import Spec
from swarm.protocol.states import Status

Then = Callable[[float, tuple[KeptBlob, ...] | Refusal, int, int], None]
"""Told (now, what is kept or why not, copies, hosts)."""


@dataclass(slots=True, eq=False)
class Report:
    """Outcomes that wait until what they refer to is kept."""

    dispatch: Dispatch
    executor: bytes
    count: int
    body: Bytes
    rows: list[int]
    large: list[int]
    """Those of the rows that refer to something."""
    out: int
    """How many of them count as out."""


class Keeping:
    """What is on its way onto disks, by ticket."""

    def __init__(self, holdings: Holdings, placing: Placing, recording: Recording, attempts: Attempts) -> None:
        self._holdings = holdings
        self._placing = placing
        self._recording = recording
        self._attempts = attempts
        self._ticket = 0
        self._wanted: dict[int, tuple[Batch, Then]] = {}
        self._reports: dict[int, list[Report]] = {}
        """By the number of their dispatch."""
        self.refs_of: Callable[[Spec, Outcomes, Bytes], Mapping[int, tuple[bytes, ...]]] = lambda spec, report, body: {}
        """Which rows of outcomes refer to which blobs."""
        self.take: Callable[[float, Dispatch, Outcomes, Bytes], None]
        """Takes outcomes of what is out."""

    @property
    def tickets(self) -> int:
        """How much is on its way."""
        return len(self._wanted)

    # --- in general ---------------------------------------------------------------------------------------------------

    def want(self, batch: Batch, ids: tuple[bytes, ...], source: bytes | None, then: Then) -> None:
        """Have blobs kept beside a batch's log. With a `source`, who has them for certain, nothing is given up for want of
        space, since it may come."""
        assert batch.durable is not None
        self._ticket += 1
        self._wanted[self._ticket] = (batch, then)
        self._holdings.emit(Keep(self._ticket, batch.durable.group, ids, source))

    def kept(self, now: float, ticket: int, blobs: tuple[KeptBlob, ...], copies: int, hosts: int) -> None:
        """A majority has them, on so many disks of so many hosts."""
        found = self._wanted.pop(ticket, None)
        if found is not None:
            found[1](now, blobs, copies, hosts)

    def not_kept(self, now: float, ticket: int, refusal: Refusal) -> None:
        """They are not kept, and will not be."""
        found = self._wanted.pop(ticket, None)
        if found is not None:
            found[1](now, refusal, 0, 0)

    def withdraw(self, batch: Batch) -> None:
        """This owner has nothing to do with a batch any more."""
        for ticket in [ticket for ticket, (wanted, _) in self._wanted.items() if wanted is batch]:
            del self._wanted[ticket]
            self._holdings.emit(KeepNoMore(ticket))
        for number in [number for number, held in self._reports.items() if held[0].dispatch.batch is batch]:
            for it in list(self._reports[number]):
                self._over(it)

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def holds_back(self, now: float, dispatch: Dispatch, report: Outcomes, body: Bytes) -> bool:
        """Whether outcomes have to wait until what they refer to is kept."""
        batch = dispatch.batch
        if batch.durable is None:
            return False
        refs, known = self.refs_of(batch.spec, report, body), batch.durable.kept
        wanted = tuple(dict.fromkeys(id for ids in refs.values() for id in ids if id not in known))
        if not wanted:
            return False
        rows = sorted(report.index(row) for row in range(report.count))
        large = sorted(report.index(row) for row in refs)
        out = sum(batch.columns.holds(row, dispatch.number) for row in rows)
        it = Report(dispatch, dispatch.executor.id, report.count, body, rows, large, out)
        # Its slots are free for others: how long it takes to be kept is not theirs to wait for.
        dispatch.executor.back(batch.shape, out, dispatch.priority)
        self._reports.setdefault(dispatch.number, []).append(it)
        for start, stop in ranges(large):
            batch.log(
                now, "kept", start, stop, dispatch.executor.name, "what it returned is written to the disks of its log"
            )
        self.want(batch, wanted, it.executor, partial(self._kept, it))
        return True

    def with_reports(self, held: Mapping[int, list[tuple[int, int]]]) -> Mapping[int, list[tuple[int, int]]]:
        """What an executor still has, and what it has told already and is not taken yet."""
        if not self._reports:
            return held
        found = dict(held)
        for number, reports in self._reports.items():
            rows = sorted({row for report in reports for row in report.rows})
            found[number] = [*found.get(number, []), *ranges(rows)]
        return found

    def _kept(self, it: Report, now: float, what: tuple[KeptBlob, ...] | Refusal, copies: int, hosts: int) -> None:
        batch = it.dispatch.batch
        if not isinstance(what, Refusal):
            self._recording.kept(batch, what, partial(self._named, it, what))
        elif what.reason is Reason.GONE:
            self._over(it)
            self._lost(now, it, what.hint)
        else:
            self._named(self._refused(it, what), (), now)

    def _named(self, it: Report, blobs: tuple[KeptBlob, ...], now: float) -> None:
        """The log names what the outcomes refer to: they count."""
        durable = it.dispatch.batch.durable
        assert durable is not None
        durable.kept.update(blob.id for blob in blobs)
        self._over(it)
        if self._placing.out(it.dispatch.number, it.executor) is it.dispatch:
            self.take(now, it.dispatch, Outcomes(it.body, it.count), it.body)
        else:
            facts = {"executor": it.executor.hex(), "dispatch": it.dispatch.number}
            self._holdings.emit(Fact("outcome.stale", {}, facts, it.count))

    def _over(self, it: Report) -> None:
        """It waits no longer: what follows counts its tasks out again."""
        reports = self._reports[it.dispatch.number]
        reports.remove(it)
        if not reports:
            del self._reports[it.dispatch.number]
        if self._placing.out(it.dispatch.number, it.executor) is it.dispatch:
            it.dispatch.executor.sent(it.dispatch.batch.shape, it.out, it.dispatch.priority)

    def _lost(self, now: float, it: Report, why: str) -> None:
        """What was returned is nowhere: as if its executor had been lost, for these rows."""
        dispatch = self._placing.out(it.dispatch.number, it.executor)
        if dispatch is None:
            return
        lost = [row for row in it.rows if dispatch.batch.columns.holds(row, dispatch.number)]
        if lost:
            self._attempts.lost(now, dispatch, lost, why)
            self._placing.returned(dispatch, len(lost))

    def _refused(self, it: Report, why: Refusal) -> Report:
        """The same outcomes, but those that refer to what is not kept are failures."""
        batch, report, large = it.dispatch.batch, Outcomes(it.body, it.count), set(it.large)
        payload = said(
            f"its outcome is not kept: {why.hint}", "return less, or write it to a place of your own", batch.spec
        )
        builder = OutcomeBuilder()
        for row in range(report.count):
            index = report.index(row)
            if index in large:
                builder.add(index, Status.REFUSED, report.run_us(row), payload)
            else:
                builder.add(index, report.status(row), report.run_us(row), bytes(report.payload(row)))
        it.body = builder.take()
        return it
