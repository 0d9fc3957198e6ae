"""Recording: what of durable batches is written into their log, and what waits until it is committed.

A first attempt may begin before anything is committed. Everything else waits: the receipt for the submission, an outcome's
being told for its entry, and any attempt but the first of the epoch in which the batch was submitted for its grant. What
may not be repeated is granted in the log before its first attempt, too, so that a later leader knows that it may have run.
"""

from __future__ import annotations

from collections.abc import Callable

from kernels.batch import Calls, OutcomeBuilder, Outcomes
from swarm.protocol.effects import Fact
from swarm.protocol.ledger.effects import Reason, Refusal
from swarm.protocol.ledger.records import (
    KEPT_MAX,
    Blob,
    Cancelled,
    Counted,
    Ended,
    Forgotten,
    Granted,
    Kept,
    KeptBlob,
    Record,
    Reprioritized,
    Saved,
    Submitted,
    Token,
    split_ranges,
)
from swarm.protocol.ledger.retention import KEYS_MAX
from swarm.protocol.ledger.state import Applied, Verdict
from swarm.protocol.outbound import Bytes
from swarm.protocol.owner.batches import Batch, Dispatch, Durable, Holdings, Propose
from swarm.protocol.owner.clients import Clients
from swarm.protocol.owner.ending import Ending
from swarm.protocol.owner.placing import Placing, handed
from swarm.protocol.owner.words import said
from swarm.protocol.spec import Spec
from swarm.protocol.states import Status

WRITE_AGAIN = 6
"""The timer of a record that the log did not take."""
WRITE_AGAIN_S = 0.5
ENDED_BYTES_MAX = 512 * 1024
"""Columns of outcomes in one record; a single task's may be longer."""

What = Dispatch | Outcomes | Callable[[float], None] | None
"""What a record is about, or what to do when it is committed."""

_NOT_LEADING = frozenset((Reason.NOT_LEADER, Reason.NOT_YET, Reason.HANDING_OVER, Reason.UNKNOWN_GROUP))
_FINAL = frozenset((Reason.DISK_FULL, Reason.TOO_LARGE, Reason.CONFLICT, Reason.MALFORMED, Reason.GONE))
_UNKEPT = frozenset((Reason.DISK_FULL, Reason.TOO_LARGE, Reason.GONE, Reason.FULL))
"""Why a log may not take what can be run all the same."""
_HINTS = {
    Reason.DISK_FULL: "make room on its disk, or use another node; durability='none' needs none",
    Reason.TOO_LARGE: "hand over less at once; large arguments travel as blobs",
    Reason.CONFLICT: "give each batch an id of its own",
    Reason.GONE: "hand it over again",
    Reason.FULL: "fetch outcomes, keep them for less long, or use more nodes",
}


class Recording:
    """Records on their way into logs, by ticket."""

    def __init__(self, holdings: Holdings, placing: Placing, ending: Ending, clients: Clients) -> None:
        self._holdings = holdings
        self._placing = placing
        self._ending = ending
        self._clients = clients
        self._ticket = 0
        self._delivered: dict[bytes, dict[bytes, None]] = {}
        """Group -> batches that may be forgotten for space, in the order in which they were delivered."""
        self._begun: dict[bytes, set[bytes]] = {}
        """Group -> batches that it did not take, of which something was sent out."""
        self._waiting: dict[int, tuple[Batch, Record, What]] = {}
        self._blobs: set[tuple[bytes, bytes]] = set()
        """(group, id) of what is on its way into a log."""
        self.refused: Callable[[float, Batch], None]
        """Told of a batch that is not accepted, and never will be."""
        self.needs_of: Callable[[Spec, Calls], tuple[bytes, ...]] = lambda spec, calls: ()
        """What a batch is made of beside its arguments: code by value, files, large buffers."""
        self.content_of: Callable[[bytes], bytes | None] = lambda id: None
        """What is here of these; None for what is not here, or is too large for a log."""
        self.has_blob: Callable[[bytes, bytes], bool] = lambda group, id: False
        """Whether a group's log has it."""
        self.fits: Callable[[bytes], bool | None] = lambda id: None if self.content_of(id) is None else True
        """Whether it is small enough for a log; None where it is not here."""
        self.keep: Callable[
            [Batch, tuple[bytes, ...], Callable[[float, tuple[KeptBlob, ...] | Refusal, int, int], None]], None
        ]
        """Has blobs kept beside a batch's log."""
        self.unkept: Callable[[float, Batch, Refusal], None]
        """Told of a batch that nobody asked to be kept, and that its log does not take: it is withdrawn, to be run without."""
        self.granted: Callable[[Dispatch], None] = lambda dispatch: None
        """Told of a dispatch that waited for its grant, and is sent."""
        self.withdrawn: Callable[[Batch], None] = lambda batch: None
        """Told of a batch with which this owner has nothing to do any more."""

    @property
    def tickets(self) -> int:
        """Records that are on their way."""
        return len(self._waiting)

    def on_its_way(self, batch: Batch) -> list[str]:
        """The kinds of a batch's records that are on their way."""
        return [type(record).__name__ for found, record, _ in self._waiting.values() if found is batch]

    def has_begun(self, group: bytes, key: bytes) -> bool:
        """Whether tasks of a batch that the log then did not take may have begun under tokens of this epoch: handed over
        again, it has its first attempts granted, so that no two tokens are valid."""
        return key in self._begun.get(group, ())

    def new_epoch(self, group: bytes) -> None:
        """Tokens of the epoch before count no more for what is submitted from here on."""
        self._begun.pop(group, None)
        self._delivered.pop(group, None)

    # --- what is written ----------------------------------------------------------------------------------------------

    def submitted(self, now: float, batch: Batch, durable: Durable, deps: list[bytes]) -> None:
        """A batch was handed over: what it needs goes before it, as far as the log does not have it."""
        refs = self.needs_of(batch.spec, batch.calls)
        large = tuple(id for id in refs if not self._has(durable, id) and self.fits(id) is False)
        if not large:
            self._write(now, batch, durable, deps, refs, ())
            return
        durable.unwritten = []
        batch.log(
            now, "kept", 0, batch.calls.count, "", f"{len(large)} large arguments are written to the disks of its log"
        )

        def then(now: float, what: tuple[KeptBlob, ...] | Refusal, copies: int, hosts: int) -> None:
            if isinstance(what, Refusal):
                self._not_accepted(now, batch, what)
                return
            durable.beside = (copies, hosts)
            waiting, durable.unwritten = durable.unwritten or [], None
            if self._write(now, batch, durable, deps, refs, what):
                for record, about in waiting:
                    self._propose(batch, record, about)

        self.keep(batch, large, then)

    def _has(self, durable: Durable, id: bytes) -> bool:
        return (durable.group, id) in self._blobs or self.has_blob(durable.group, id)

    def _write(
        self, now: float, batch: Batch, durable: Durable, deps: list[bytes], refs: tuple[bytes, ...],
        beside: tuple[KeptBlob, ...],
    ) -> bool:  # fmt: skip
        """Write a batch with all that it needs; False when something of that is gone."""
        elsewhere, contents = {blob.id for blob in beside}, []
        for id in refs:
            if id in elsewhere or self._has(durable, id):
                continue
            content = self.content_of(id)
            if content is None:
                self._not_accepted(
                    now, batch, Refusal(Reason.GONE, "something that its tasks need is not here any more")
                )
                return False
            contents.append(Blob(id, content))
        for blob in contents:
            self._blobs.add((durable.group, blob.id))
            durable.blobs += 1
            self._propose(batch, blob)
        self._propose(
            batch,
            Submitted(
                batch.key, batch.author, batch.granted, batch.raw, batch.calls.count, self._columns(batch),
                batch.submitted_wall, durable.retention_s, durable.level, durable.digest, tuple(deps), refs, beside,
            ),
        )  # fmt: skip
        return True

    def lacks(self, durable: Durable, spec: Spec, calls: Calls) -> Refusal | None:
        """Why it cannot be kept with all that its tasks need, if that is so."""
        refs = self.needs_of(spec, calls)
        missing = [id for id in refs if not self._has(durable, id) and self.fits(id) is not True]
        if any(self.fits(id) is None for id in missing):
            return Refusal(
                Reason.GONE, "a receipt covers all that a task needs, and something of it is neither here nor elsewhere"
            )
        if len(missing) > KEPT_MAX:
            hint = f"its tasks need {len(missing)} large blobs, and a batch may need {KEPT_MAX}"
            return Refusal(Reason.TOO_LARGE, hint)
        return None

    def kept(self, batch: Batch, blobs: tuple[KeptBlob, ...], then: Callable[[float], None]) -> None:
        """Outcomes of a batch refer to blobs that a majority keeps: call `then` when the log names them."""
        parts = [blobs[at : at + KEPT_MAX] for at in range(0, len(blobs), KEPT_MAX)]
        for part in parts:
            self._propose(batch, Kept(batch.key, part), then if part is parts[-1] else None)

    @staticmethod
    def _columns(batch: Batch) -> bytes:
        return b"".join(batch.calls.slice(0, batch.calls.count))

    def hand(self, dispatch: Dispatch) -> None:
        """A range is to go out: at once, or as soon as its grant is committed."""
        batch = dispatch.batch
        durable = batch.durable
        assert durable is not None
        dispatch.token = Token(durable.leads, dispatch.number)
        if durable.epoch == durable.leads and not durable.again and batch.spec.rerun:
            durable.begun = True
            self._holdings.emit(handed(dispatch))
            return
        dispatch.sent = False
        self._propose(batch, Granted(batch.key, ((dispatch.start, dispatch.stop),), dispatch.token), dispatch)

    def ended(self, now: float, batch: Batch, token: Token | None, report: Outcomes, body: Bytes) -> None:
        """Outcomes: nobody hears of them before they are committed."""
        if len(body) > ENDED_BYTES_MAX and report.count > 1:
            half = report.count // 2
            for start, stop in ((0, half), (half, report.count)):
                builder = OutcomeBuilder()
                for row in range(start, stop):
                    builder.add(report.index(row), report.status(row), report.run_us(row), bytes(report.payload(row)))
                part = builder.take()
                self.ended(now, batch, token, Outcomes(part, stop - start), part)
            return
        columns = body if isinstance(body, bytes | memoryview) else bytes(body)
        self._propose(batch, Ended(batch.key, token, report.count, columns, batch.wall(now)), report)

    def counted(self, batch: Batch, rows: list[tuple[int, int, int]]) -> None:
        """Tasks run again: how often they crashed and were retried so far."""
        assert batch.durable is not None
        batch.durable.again = True
        told = tuple(row for row in rows if row[1] or row[2])
        if told:
            self._propose(batch, Counted(batch.key, told))

    def cancelled(self, batch: Batch, wanted: list[tuple[int, int]], kill: bool) -> None:
        """Tasks were given up."""
        count = batch.calls.count
        inside = [(max(0, start), min(stop, count)) for start, stop in wanted if start < count and stop > 0]
        for part in split_ranges([(start, stop) for start, stop in inside if start < stop]):
            self._propose(batch, Cancelled(batch.key, part, kill))

    def reprioritized(self, batch: Batch, wanted: list[tuple[int, int]]) -> None:
        """Tasks are of another class, or nice."""
        for part in split_ranges(wanted):
            urgency = batch.own_apart.get(part[0][0], batch.own)
            self._propose(batch, Reprioritized(batch.key, part, *urgency))

    def saved(self, batch: Batch, index: int, token: Token, then: Callable[[float], None]) -> None:
        """A task left at a safe point: call `then` when its state is in the log."""
        moved, state = batch.saved[index]
        self._propose(batch, Saved(batch.key, index, moved, token, state), then)

    def delivered(self, batch: Batch) -> None:
        """The client has all outcomes: what is kept until then, and no longer, is forgotten. What nobody asked to be kept is,
        when there is no space for more."""
        durable = batch.durable
        if durable is None or batch.finished_at is None:
            return
        if not durable.retention_s:
            self._propose(batch, Forgotten((batch.key,)))
        elif durable.soft:
            self._delivered.setdefault(durable.group, {})[batch.key] = None

    def _make_room(self, group: bytes) -> None:
        """A log is full: the older half of what nobody asked to be kept, and everybody has who wanted it, is forgotten."""
        found = self._delivered.get(group, {})
        keys = list(found)[: (len(found) + 1) // 2]
        for key in keys:
            del found[key]
        keys = [key for key in keys if key in self._holdings.batches]
        for at in range(0, len(keys), KEYS_MAX):
            part = tuple(keys[at : at + KEYS_MAX])
            self._propose(self._holdings.batches[part[0]], Forgotten(part))

    def _propose(self, batch: Batch, record: Record, what: What = None) -> None:
        assert batch.durable is not None
        if batch.durable.unwritten is not None:
            batch.durable.unwritten.append((record, what))
            return
        self._ticket += 1
        self._waiting[self._ticket] = (batch, record, what)
        self._holdings.emit(Propose(self._ticket, batch.durable.group, record))

    # --- what came of it ----------------------------------------------------------------------------------------------

    def committed(self, now: float, ticket: int, copies: int, hosts: int, applied: Applied) -> None:
        """A record is on so many disks, of so many hosts, for good, and `applied` says what it came to."""
        found = self._waiting.pop(ticket, None)
        if found is None:
            return
        batch, record, what = found
        durable = batch.durable
        assert durable is not None
        if isinstance(record, Submitted):
            assert applied.verdict is not Verdict.CONFLICT, "a leader knows all batches of its log"
            if durable.beside is not None:
                # A copy of it is no more than the least that there is of anything that it needs.
                copies, hosts = min(copies, durable.beside[0]), min(hosts, durable.beside[1])
            durable.copies, durable.hosts = copies, hosts
            batch.log(now, "accepted", 0, batch.calls.count, "", f"{copies} copies on {hosts} hosts")
            if not durable.blobs:
                self._clients.accepted(batch, durable)
        elif isinstance(record, Blob):
            self._blobs.discard((durable.group, record.id))
            durable.blobs -= 1
            if durable.copies and not durable.blobs:
                self._clients.accepted(batch, durable)
        elif isinstance(record, Ended):
            assert isinstance(what, Outcomes)
            assert applied.verdict is Verdict.DONE, f"an outcome that does not count: {applied.verdict}"
            durable.open -= what.count
            self._ending.reveal(now, batch, what, record.columns)
            self._ending.close_if_done(now, batch)
        elif isinstance(record, Kept | Saved):
            if callable(what):
                what(now)
        elif isinstance(record, Granted):
            assert isinstance(what, Dispatch)
            if applied.verdict is Verdict.DONE:
                self._go(now, batch, what)
            else:
                self.write_again(batch, None, what)
        elif isinstance(record, Forgotten):
            for key in record.keys:
                forgotten = self._holdings.batches.get(key)
                if forgotten is not None and forgotten.durable is not None:
                    self.forget(forgotten)

    def _go(self, now: float, batch: Batch, dispatch: Dispatch) -> None:
        """A grant is committed."""
        if dispatch.number not in self._placing.dispatches:
            return  # its executor was lost meanwhile
        dispatch.sent = True
        self._holdings.emit(handed(dispatch))
        self.granted(dispatch)
        if batch.cancelled:
            # What was recalled before it was there goes on nowhere.
            self._placing.recall(dispatch, batch.cancelled, False)
            if batch.killed:
                self._placing.recall(dispatch, batch.killed, True)

    def not_taken(self, now: float, ticket: int, refusal: Refusal) -> None:
        """The log takes a record not now. A batch is not accepted then; all else is written again in a moment."""
        found = self._waiting.pop(ticket, None)
        if found is None:
            return
        batch, record, what = found
        if isinstance(record, Submitted):
            if refusal.reason is Reason.FULL:
                self._make_room(batch.durable.group if batch.durable is not None else b"")
            self._not_accepted(now, batch, refusal)
        elif isinstance(record, Granted):
            # Under another number, since numbers of a batch are to grow from grant to grant.
            self._holdings.timers.at(now + WRITE_AGAIN_S, WRITE_AGAIN, (batch, None, what))
        elif (
            isinstance(record, Ended) and refusal.reason is Reason.TOO_LARGE and len(record.columns) > record.rows * 128
        ):
            assert isinstance(what, Outcomes)
            payload = said("its outcome does not fit into the log", "return less, or a large buffer", batch.spec)
            builder = OutcomeBuilder()
            for row in range(what.count):
                builder.add(what.index(row), Status.REFUSED, what.run_us(row), payload)
            part = builder.take()
            self.ended(now, batch, record.token, Outcomes(part, what.count), part)
        elif isinstance(record, Saved) and refusal.reason is Reason.TOO_LARGE and callable(what):
            what(now)  # then it goes on from there as long as this owner lives
        else:
            self._holdings.timers.at(now + WRITE_AGAIN_S, WRITE_AGAIN, (batch, record, what))

    def _not_accepted(self, now: float, batch: Batch, refusal: Refusal) -> None:
        self.withdraw(batch)
        self._holdings.batches.pop(batch.key, None)
        assert batch.durable is not None
        if batch.durable.soft and refusal.reason in _UNKEPT:
            self.unkept(now, batch, refusal)
            return
        for client in batch.clients:
            self._refuse(client, batch.key, refusal)
        if refusal.reason in _FINAL:
            self.refused(now, batch)

    def _refuse(self, client: bytes, key: bytes, refusal: Refusal) -> None:
        if refusal.reason in _NOT_LEADING:
            self._clients.unknown(client, key, untaken=True)
            return
        after_s = None if refusal.reason in _FINAL else refusal.retry_after_s or WRITE_AGAIN_S
        self._clients.refuse(
            client, key, refusal.reason.value, f"not accepted: {refusal.hint}", _HINTS.get(refusal.reason, ""), after_s
        )

    def write_again(self, batch: Batch, record: Record | None, what: What) -> None:
        """The time has come for what the log did not take."""
        if self._holdings.batches.get(batch.key) is not batch:
            return
        if isinstance(record, Reprioritized):
            self.reprioritized(batch, list(record.ranges))  # it may be another by now
        elif record is not None:
            self._propose(batch, record, what)
        elif isinstance(what, Dispatch) and what.number in self._placing.dispatches:
            back = [index for start, stop in batch.outstanding(what.number) for index in range(start, stop)]
            for index in back:
                batch.columns.release(index)
            self._placing.returned(what, what.left)
            if back:
                self._placing.push(batch, batch.submitted_at, len(back))

    def dropped(self, now: float, ticket: int) -> None:
        """Leadership was lost before it was known what came of a record. The leader of the day knows; `withdraw` follows."""
        found = self._waiting.pop(ticket, None)
        if found is not None and isinstance(found[1], Blob) and found[0].durable is not None:
            self._blobs.discard((found[0].durable.group, found[1].id))

    def forget(self, batch: Batch) -> None:
        """A batch is in its log no longer."""
        if self._holdings.batches.get(batch.key) is batch:
            del self._holdings.batches[batch.key]

    def withdraw(self, batch: Batch, recall: bool = True) -> None:
        """This owner has nothing to do with a batch any more. What is out is given back, unless a leader may adopt it."""
        self.withdrawn(batch)
        if batch.durable is not None and batch.durable.begun:
            # What was handed out may be back already, while its outcome waits: it was out all the same.
            self._begun.setdefault(batch.durable.group, set()).add(batch.key)
        for dispatch in self._placing.give_up(batch):
            if recall and dispatch.sent:
                assert batch.durable is not None
                self._begun.setdefault(batch.durable.group, set()).add(batch.key)
                self._placing.recall(dispatch, [(dispatch.start, dispatch.stop)], True)
        for ticket in [ticket for ticket, found in self._waiting.items() if found[0] is batch]:
            _, record, _ = self._waiting.pop(ticket)
            if isinstance(record, Blob) and batch.durable is not None:
                self._blobs.discard((batch.durable.group, record.id))
        holdings = self._holdings
        if holdings.by_number.pop(batch.number, None) is not None:
            assert batch.durable is not None
            holdings.tasks -= batch.durable.open
            holdings.bytes -= batch.calls.nbytes
            holdings.outcome_bytes -= batch.outcome_bytes
            self._ending.over(batch.number)
        holdings.emit(Fact("batch.withdrawn", {}, {"batch": batch.key.hex()}))
