"""Submitting: a batch that a client hands over becomes one of this owner's, or its client is told why not."""

from __future__ import annotations

from collections.abc import Callable

from kernels.batch import Calls, Outcomes
from kernels.tasks import TaskColumns
from swarm.protocol import ids
from swarm.protocol.effects import Fact
from swarm.protocol.ledger.effects import Reason, Refusal
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Bytes, Tell
from swarm.protocol.owner import returning
from swarm.protocol.owner.admission import Admission
from swarm.protocol.owner.batches import Batch, Durable, Holdings
from swarm.protocol.owner.clients import Clients
from swarm.protocol.owner.dependencies import Dependencies
from swarm.protocol.owner.ending import EXPIRE, Ending
from swarm.protocol.owner.placing import Placing
from swarm.protocol.owner.recording import Recording
from swarm.protocol.owner.refusals import Refusals
from swarm.protocol.owner.relief import Relief
from swarm.protocol.owner.urgency import Urgency
from swarm.protocol.owner.words import merged
from swarm.protocol.resources import shape_of
from swarm.protocol.spec import SpecError, parse_spec

ATTEMPTS_MAX = 1 << 31
"""Attempts that a client may say there were of a batch before."""


class Submitting:
    """Enters batches wherever they are to be known."""

    def __init__(
        self,
        holdings: Holdings,
        placing: Placing,
        ending: Ending,
        admission: Admission,
        clients: Clients,
        recording: Recording,
        dependencies: Dependencies,
        urgency: Urgency,
        relief: Relief,
        refusals: Refusals,
    ) -> None:
        self._holdings = holdings
        self._placing = placing
        self._ending = ending
        self._admission = admission
        self._clients = clients
        self._recording = recording
        self._dependencies = dependencies
        self._urgency = urgency
        self._relief = relief
        self._refusals = refusals
        self.class_of: Callable[[bytes], int | None] = lambda task: None
        """The class that a task was given by now, if it runs here or is this owner's."""

    def submit(
        self,
        now: float,
        now_wall: float,
        client: bytes,
        author: str,
        granted: bool,
        key: bytes,
        raw: bytes,
        count: int,
        columns: memoryview | bytes,
        *,
        attempts: int = 0,
        deps: list[bytes] | None = None,
        ended: list[tuple[int, int]] | None = None,
        durability: int = 0,
        soft: bool = False,
        retention_s: float | None = None,
        inherited: int | None = None,
    ) -> None:
        """Take a batch from a client, or say why not. A batch known already is attached to, not taken twice.

        `ended` are ranges that another owner has seen to their end: they are not run again. A `durability` above 0 has it
        put into the log of its home, which its key names: only who leads that takes it, or attaches to it. If it is `soft`,
        nobody asked for that: what can not be kept is run without. `inherited` is the class of the task that submits it, where that
        runs on another node.
        """
        holdings, refuse = self._holdings, self._clients.refuse
        known = holdings.batches.get(key)
        durable: Durable | None = None
        unkept = ""
        if soft and known is not None and known.durable is None:
            unkept = "its log did not take it"
        elif durability or (known is not None and known.durable is not None):
            found = self._refusals.durable(client, key, raw, count, columns, deps or [], durability, retention_s, soft)
            if found is None:
                return
            if isinstance(found, Durable):
                durable = found
            else:
                unkept = found
            attempts, ended = 0, None
        stands: tuple[Outcomes, Bytes] | None = None
        if known is not None and known.abandoned:
            # A laptop that slept: its tasks were ended for nobody's sake, and are run anew now that somebody is there. Where none may
            # be repeated, that is so for those that have not begun.
            if known.finished_at is None:
                refuse(
                    client, key, "full", "its tasks are still being ended, since its client had been gone",
                    "they are run again in a moment", holdings.config.refuse_after_s,
                )  # fmt: skip
                return
            self._ending.forget(key)
            if not known.spec.rerun and (stands := returning.kept(known)) is not None:
                ended = merged([*(ended or ()), *returning.rows_of(stands[0])])
        elif known is not None:
            self._clients.attach(now, known, client)
            if unkept:
                self._clients.not_kept(known)
            return
        if len(key) != ids.BATCH_KEY_BYTES or count < 1 or not 0 <= attempts < ATTEMPTS_MAX:
            refuse(client, key, "malformed", "the batch has no proper key or no tasks", "")
            return
        try:
            spec = parse_spec(raw)
        except SpecError as error:
            refuse(client, key, "spec", str(error), "client and node may be of different versions")
            return
        nbytes = len(columns)
        if not self._refusals.has_room(now, client, author, granted, key, spec, count, nbytes, deps or []):
            return
        try:
            calls = Calls(columns, count)
        except ValueError as error:
            refuse(client, key, "malformed", f"the batch's columns are damaged: {error}", "")
            return
        lacks = None if durable is None else self._recording.lacks(durable, spec, calls)
        if durable is not None and soft:
            if lacks is None and not self._dependencies.are_in_log(deps or [], durable.group):
                lacks = Refusal(Reason.GONE, "a task that it waits for is not kept either")
            if lacks is not None:
                durable, unkept, lacks = None, lacks.hint, None
        if lacks is not None:
            hint = "pass a path that all machines read, or say durability='none'"
            refuse(client, key, lacks.reason.value, f"not accepted: {lacks.hint}", hint)
            return
        batch = Batch(
            next(holdings.numbers), key, client, author, spec, raw, granted, shape_of(spec), calls, TaskColumns(count),
            now, now_wall, now, attempt=attempts, durable=durable,
        )  # fmt: skip
        if spec.deadline is not None:
            batch.expires_at = now + max(0.0, spec.deadline - now_wall)
            holdings.timers.at(batch.expires_at, EXPIRE, batch)
        holdings.batches[key] = batch
        holdings.by_number[batch.number] = batch
        self._admission.taken(batch)
        over = sum(
            batch.columns.finish(index) for start, stop in ended or () for index in range(start, min(stop, count))
        )
        holdings.tasks += count - over
        holdings.bytes += nbytes
        if stands is not None:
            returning.put_back(holdings, batch, *stands)
            holdings.emit(Tell(client, Kind.OUTCOMES, {"b": key, "n": stands[0].count}, (stands[1],)))
        batch.log(now, "submitted", 0, count, "", author)
        holdings.emit(Fact("batch.submitted", {"kind": spec.kind}, {"batch": key.hex(), "name": spec.name}, count))
        if durable is not None:
            self._recording.submitted(now, batch, durable, deps or [])
        if deps:
            self._dependencies.wait_for(now, batch, deps)
        if unkept:
            batch.log(now, "not kept", 0, count, "", unkept)
            self._clients.not_kept(batch)
        if batch.columns.ready:
            self._placing.push(batch, now, batch.columns.ready)
        if spec.inherits:
            inherited = self.class_of(spec.parent) if inherited is None else inherited
        self._urgency.child(now, batch, inherited if spec.inherits else None)
        self._ending.close_if_done(now, batch)
        self._relief.arm(now)
        self._placing.pump(now)
