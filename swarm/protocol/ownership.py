"""The owner: the batches that clients handed to this node, until each of their tasks has one outcome.

The owner keeps the columns of a batch (`kernels.tasks.TaskColumns`), places ranges of it on executors (this node is one of
them), and takes their outcomes back. Every range that it hands out has a dispatch number, the fencing token: an outcome
counts only while its task is still out under that number. Nothing here is per task where all goes well; what failed, was
given back or was lost is looked at one by one.

This module is what the shell talks to. The parts are in `swarm.protocol.owner`, over the same holdings: `placing` (what
is out at whom), `attempts` (what the end of one means), `ending` (outcomes on their way), `dependencies`, `clients`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from kernels.batch import Calls, Outcomes
from kernels.tasks import TaskColumns
from swarm.protocol import ids
from swarm.protocol.effects import Fact
from swarm.protocol.ledger.batch import BatchState
from swarm.protocol.ledger.effects import Reason, Refusal
from swarm.protocol.ledger.records import Durability, KeptBlob, digest_of
from swarm.protocol.ledger.state import Applied
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Bytes, Tell
from swarm.protocol.owner import finding, returning
from swarm.protocol.owner.admission import RESERVE, Admission
from swarm.protocol.owner.approvals import Approvals
from swarm.protocol.owner.attempts import RETRY, Attempts
from swarm.protocol.owner.batches import (
    Adopt,
    AskHeld,
    Batch,
    Connect,
    Dispatch,
    Durable,
    Holdings,
    Keep,
    KeepNoMore,
    MoveOver,
    OwnershipConfig,
    OwnershipEffect,
    Propose,
    ToExecutor,
)
from swarm.protocol.owner.clients import CLIENT, Clients
from swarm.protocol.owner.dependencies import Dependencies
from swarm.protocol.owner.ending import EXPIRE, FORGET, RETENTION, Ending, Said
from swarm.protocol.owner.heeding import HEED, Heeding
from swarm.protocol.owner.keeping import Keeping
from swarm.protocol.owner.leading import ADOPT, Held, Leading
from swarm.protocol.owner.moving import MOVE, Moving
from swarm.protocol.owner.placing import Placing
from swarm.protocol.owner.recording import WRITE_AGAIN, Recording
from swarm.protocol.owner.relief import RELIEF, Relief
from swarm.protocol.owner.urgency import Urgency
from swarm.protocol.owner.words import merged, said, why_it_stood
from swarm.protocol.placement import Executor
from swarm.protocol.resources import Capacity, shape_of
from swarm.protocol.runtimes import Runtimes
from swarm.protocol.spec import Spec, SpecError, parse_spec
from swarm.protocol.states import Status

_REASONS = frozenset(reason.value for reason in Reason)
ATTEMPTS_MAX = 1 << 31
"""Attempts that a client may say there were of a batch before."""


class Ownership:
    """The owner's state machine. `now` is seconds of the node's boot-time clock."""

    def __init__(self, config: OwnershipConfig, me: bytes, name: str, capacity: Capacity, epoch: int = 0) -> None:
        self.me = me
        self.draining = False
        self._holdings = Holdings(config)
        self._placing = Placing(self._holdings, me, name, capacity, epoch)
        self._ending = Ending(self._holdings)
        self._admission = Admission(self._holdings)
        self._ending.over = self._admission.over
        self._attempts = Attempts(self._holdings, self._placing, self._ending)
        self.heeding = Heeding(self._holdings, self._placing, self._ending)
        self._attempts.learn = self.heeding.failed
        self._attempts.went_well = self.heeding.went_well
        self._approvals = Approvals(self._holdings, self._placing)
        self._attempts.redirect = self._approvals.redirect
        self._dependencies = Dependencies(self._holdings, self._placing, self._ending)
        self._clients = Clients(self._holdings, self._placing)
        self._recording = Recording(self._holdings, self._placing, self._ending, self._clients)
        self._urgency = Urgency(self._holdings, self._placing, self._recording)
        self._leading = Leading(
            self._holdings, self._placing, self._ending, self._clients, self._recording, self._dependencies,
        )  # fmt: skip
        self._keeping = Keeping(self._holdings, self._placing, self._recording, self._attempts)
        self._moving = Moving(self._holdings, self._placing)
        self._relief = Relief(self._holdings, self._placing, self._moving)
        self._attempts.saved = self._moving.saved
        self._moving.write = self._recording.saved
        self._recording.keep = lambda batch, ids, then: self._keeping.want(batch, ids, None, then)
        self._recording.withdrawn = self._keeping.withdraw
        self._keeping.take = self._take_outcomes
        self._placing.hand = self._recording.hand
        self._ending.record = self._recording.ended
        self._attempts.counted = self._recording.counted
        self._recording.refused = self._dependencies.refused
        self._recording.unkept = self._run_unkept
        self._placing.may_start = self._clients.may_start
        self.is_behind: Callable[[bytes], bool] = lambda client: False
        """Whether a client has not taken much of what it was told."""
        self._ending.waits = lambda client: self._clients.is_away(client) or self.is_behind(client)
        self._placing.lost = self._attempts.lost
        self._ending.known = self._known
        self._dependencies.waits = self._urgency.waits
        self.no_space: Callable[[bytes, int], bool] = lambda key, level: False
        """Whether a batch's log is this node's alone, has not got it, and leads nothing for want of space."""
        self.class_here: Callable[[bytes], int | None] = lambda task: None
        """The class that a task which runs on this node was given, None for one that does not: of its own, not for who waits for it."""
        self.keeps_ledger = False
        """Whether this node has a journal: without one nothing durable is taken."""

    # --- what the shell asks ------------------------------------------------------------------------------------------

    def take_effects(self) -> list[OwnershipEffect]:
        """What is to be done now, in order."""
        return self._holdings.take()

    def next_deadline(self) -> float | None:
        """When `on_timer` wants to be called, or None."""
        return self._holdings.timers.next_deadline()

    @property
    def config(self) -> OwnershipConfig:
        """The bounds of what it holds."""
        return self._holdings.config

    @property
    def batches(self) -> OrderedDict[bytes, Batch]:
        """Batches by key, unfinished ones and those kept."""
        return self._holdings.batches

    @property
    def executors(self) -> Mapping[bytes, Executor]:
        """Executors by node id."""
        return self._placing.executors

    @property
    def dispatches(self) -> Mapping[int, Dispatch]:
        """What is out, by number."""
        return self._placing.dispatches

    @property
    def runtimes(self) -> Runtimes:
        """How long tasks take."""
        return self._placing.runtimes

    @property
    def unfinished(self) -> int:
        """Tasks without an outcome."""
        return self._holdings.tasks

    @property
    def waiting(self) -> int:
        """Tasks ready to run that no executor has."""
        return self._placing.ready.tasks

    def waiting_of(self, priority: int) -> int:
        """Of these the tasks of one class."""
        return self._placing.ready.waiting(priority)

    @property
    def led(self) -> Mapping[bytes, int]:
        """Groups whose logs this node leads, with the epoch."""
        return self._leading.led

    # --- executors ----------------------------------------------------------------------------------------------------

    def executor_seen(self, now: float, node: bytes, name: str, capacity: Capacity, load: Mapping[str, Any]) -> None:
        """A member said what it has and how busy it is."""
        self._placing.seen(node, name, capacity, load)
        self._moving.heard(now, self._placing.executors[node])
        self._relieved(now)
        self._placing.pump(now)

    def executor_load(self, now: float, node: bytes, load: Mapping[str, Any]) -> None:
        """A member said how busy it is."""
        it = self._placing.executors.get(node)
        if it is not None:
            it.heard(load)
            self._moving.heard(now, it)
            self._relieved(now)
            self._placing.pump(now)

    def executor_linked(self, now: float, node: bytes) -> None:
        """There is a link to an executor now."""
        it = self._placing.executors.get(node)
        if it is not None and not it.linked:
            it.linked = True
            # Gossip counted ours, if there were any, among those of others. The link says better in a moment.
            it.others = 0.0
            self._leading.linked(node)
            self._placing.pump(now)

    def executor_suspected(self, node: bytes) -> None:
        """A member does not answer: nothing new goes there until it does or is dead."""
        it = self._placing.executors.get(node)
        if it is not None and not it.local:
            it.suspect = True

    @property
    def batch_tasks_max(self) -> int:
        """How many tasks a client shall hand over at once: of more, it would wait long until there is room for all of them."""
        return max(1, self.config.tasks_max // RESERVE)

    def executor_lost(self, now: float, node: bytes, why: str) -> None:
        """An executor is gone (dead, left, or its link is down): what was out there runs elsewhere, or is lost."""
        self._moving.executor_gone(node)
        if self._placing.gone(now, node, why):
            self._moved(now)
            self._placing.pump(now)

    def executor_relinked(
        self,
        now: float,
        node: bytes,
        held: Mapping[int, list[tuple[int, int]]],
        asked: Collection[int] | None = None,
    ) -> None:
        """A link to an executor is back. `held` is what it still has, by dispatch; a report of the rest was lost.

        `asked` are the dispatches that were out when it was asked; None: all that are out now.
        """
        if self._placing.relinked(now, node, self._keeping.with_reports(held), asked):
            self._moved(now)
            self._placing.pump(now)

    # --- clients ------------------------------------------------------------------------------------------------------

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
            found = self._durable(client, key, raw, count, columns, deps or [], durability, retention_s, soft)
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
                    "they are run again in a moment", self.config.refuse_after_s,
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
        if not self._has_room(now, client, author, granted, key, spec, count, nbytes, deps or []):
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

    def _run_unkept(self, now: float, batch: Batch, refusal: Refusal) -> None:
        """A log does not take what nobody asked to be kept: it is run all the same, under the eyes of its client."""
        if batch.client is None:
            return  # it was not accepted, and nobody waits for it
        self.submit(
            now, batch.wall(now), batch.client, batch.author, batch.granted, batch.key, batch.raw, batch.calls.count,
            b"".join(batch.calls.slice(0, batch.calls.count)), attempts=batch.attempt + 1, deps=batch.dep_order,
        )  # fmt: skip
        taken = self._holdings.batches.get(batch.key)
        if taken is None:
            return
        taken.others = batch.others
        taken.log(now, "not kept", 0, batch.calls.count, "", refusal.hint)
        self._clients.not_kept(taken)
        for ranges, kill in ((batch.cancelled, False), (batch.killed, True)):
            if ranges:
                self.cancel(now, batch.key, ranges, kill=kill)

    def class_of(self, task: bytes) -> int | None:
        """The class that a task was given by now, if it runs here or is this owner's."""
        if len(task) != ids.TASK_ID_BYTES:
            return None
        here = self.class_here(task)
        return self._urgency.own_class(task) if here is None else here

    def takes(self, key: bytes, level: int) -> bool:
        """Whether this owner answers for a durable batch: it has it, or leads the log that it belongs to."""
        return key in self._holdings.batches or self._leading.group_of(key, level) is not None

    def log_of(self, key: bytes, level: int) -> bytes | None:
        """The log that a durable batch belongs to, if it is led here."""
        return self._leading.group_of(key, level)

    def _durable(
        self,
        client: bytes,
        key: bytes,
        raw: bytes,
        count: int,
        columns: memoryview | bytes,
        deps: list[bytes],
        level: int,
        retention_s: float | None,
        soft: bool,
    ) -> Durable | str | None:
        """What is to be known of a durable batch; None when it is not taken, and its client has been told why. If it is `soft`, a
        text says why it cannot be kept, and is run without."""
        digest, known = digest_of(raw, count, columns, deps), self._holdings.batches.get(key)
        if known is not None:
            there = known.durable
            if there is not None and there.digest == digest and there.level == level:
                return there
            self._clients.refuse(
                client, key, "conflict",
                f"there is a batch with this id and other content: its digest is {_digest(there)}, this one's {digest.hex()}",
                "give each batch an id of its own; the one that is there was left as it is",
            )  # fmt: skip
            return None
        if soft and not self.keeps_ledger:
            return "this node keeps no journal"
        if not self.keeps_ledger or level not in (Durability.NODE, Durability.FLEET):
            self._clients.refuse(
                client, key, "durability", "this node keeps no journal, so it can promise nothing for later",
                "durability='none' has tasks that live as long as the script that submitted them",
            )  # fmt: skip
            return None
        group = self._leading.group_of(key, level)
        if group is None and soft and self.no_space(key, level):
            return "the disk of this node is full"
        if group is None and self.no_space(key, level):
            self._clients.refuse(
                client, key, "disk-full", "not accepted: the disk of this node is full, and nobody else keeps its log",
                "make room there; it takes durable tasks again by itself",
            )  # fmt: skip
            return None
        if group is None:
            self._clients.unknown(client, key, untaken=True)
            return None
        epoch = self._leading.led[group]
        kept = self.config.durable_retention_s if retention_s is None else retention_s
        begun = self._recording.has_begun(group, key)
        return Durable(group, level, digest, epoch, epoch, count, kept, begun, soft=soft)

    def _has_room(
        self, now: float, client: bytes, author: str, granted: bool, key: bytes, spec: Spec, count: int, nbytes: int,
        deps: list[bytes],
    ) -> bool:  # fmt: skip
        """Whether a batch may and can be taken; if not, its client has been told why."""
        config, refuse = self.config, self._clients.refuse
        if (spec.pickled or (spec.fn is not None and spec.fn[0] == "blob") or spec.kind == "command") and not granted:
            refuse(
                client, key, "not-granted", f"{author} may not run code of its own here (no grant 'code')",
                "use functions that the nodes load by name, or ask an admin for a certificate with the grant 'code'",
            )  # fmt: skip
        elif self.draining:
            refuse(client, key, "draining", "this node is stopping", "another node takes the batch", 0.0)
        elif count > config.tasks_max or nbytes > config.bytes_max:
            refuse(
                client, key, "too-large", f"a batch of {count} tasks ({nbytes} bytes); this node never holds so much",
                "hand over less at once, or raise queue_tasks and queue_bytes in the node's settings",
            )  # fmt: skip
        elif (full := self._admission.refusal(now, client, key, spec, count, nbytes, deps)) is not None:
            refuse(client, key, "full", full[0], "try again then, or use more nodes", full[1])
        else:
            return True
        return False

    def cancel(self, now: float, key: bytes, ranges: list[tuple[int, int]] | None, *, kill: bool = True) -> None:
        """The client, or somebody for it, gives tasks up: those waiting end now, those running are ended if `kill`."""
        batch = self._holdings.batches.get(key)
        if batch is None or batch.finished_at is not None:
            return
        wanted = merged(ranges) if ranges is not None else [(0, batch.calls.count)]
        batch.cancelled = merged([*batch.cancelled, *wanted])
        if kill:
            batch.killed = merged([*batch.killed, *wanted])
        if batch.durable is not None:
            self._recording.cancelled(batch, wanted, kill)
        ended: Said = []
        payload = said("the task was cancelled", "", batch.spec)
        dispatched: set[int] = set()
        columns = batch.columns
        adopting = self._leading.is_adopting(batch)  # who has it is not known yet, and is told when it is
        for start, stop in wanted:
            batch.log(now, "cancelled", start, stop)
            for index in range(max(0, start), min(stop, batch.calls.count)):
                state = columns.state(index)
                if state == TaskColumns.DISPATCHED:
                    dispatched.add(columns.token(index))
                elif state != TaskColumns.DONE and not adopting:
                    ended.append((index, Status.CANCELLED, payload))
        waiting = self._placing.withdraw(batch)
        self._ending.finish(now, batch, ended)
        if waiting and batch.columns.ready:
            # Who waited for what ended lent it his urgency, and has it back: that may have put the others into the queue already.
            self._placing.withdraw(batch)
            self._placing.push(batch, now, batch.columns.ready)
        for number in sorted(dispatched):
            dispatch = self._placing.dispatches.get(number)
            if dispatch is not None:
                self._placing.recall(dispatch, wanted, kill)
        self._moved(now)
        self._placing.pump(now)

    def move(self, now: float, key: bytes, index: int, node: bytes, within_s: float, by: str = "") -> int:
        """Have a task that runs go on at another node, from its next safe point. `MoveOver` says under this ticket what came of it.
        `by` is who asks."""
        ticket = self._moving.move(now, key, index, node, within_s, by)
        self._placing.pump(now)
        return ticket

    def _moved(self, now: float) -> None:
        """Something may have come back that was asked to move, and a slot be free for what stands still."""
        if self._moving:
            self._moving.look(now)
        self._relief.look(now)

    def _relieved(self, now: float) -> None:
        """Somebody said how busy he is."""
        self._relief.arm(now)
        self._relief.look(now)

    def reprioritize(
        self, now: float, key: bytes, ranges: list[tuple[int, int]] | None, priority: int | None, nice: int | None
    ) -> None:
        """Tasks of a batch (None: all) are of another class or nice from here on, whether they wait or run; None keeps it."""
        batch = self._holdings.batches.get(key)
        if batch is not None:
            self._urgency.change(now, batch, ranges, priority, nice)
            self._placing.pump(now)

    def awaited(self, now: float, task: bytes, by: bytes, priority: int | None) -> None:
        """A task waits for one of this owner's, and is of this class: that is as urgent meanwhile. None: it waits no more."""
        if priority is None:
            self._urgency.awaited_no_more(now, task, by)
        else:
            self._urgency.awaited(now, task, by, priority)
        self._placing.pump(now)

    def waiter_changed(self, now: float, by: bytes, priority: int) -> None:
        """A task that may wait for some of this owner's is of another class from here on."""
        self._urgency.waiter_changed(now, by, priority)
        self._placing.pump(now)

    def parent_waits(self, now: float, task: bytes, priority: int | None) -> None:
        """A task that runs on this node waits, and is of this class: what it submitted is as urgent meanwhile. None: it goes
        on, or is gone."""
        if priority is None:
            self._urgency.parent_goes_on(now, task)
        else:
            self._urgency.parent_waits(now, task, priority)
        self._placing.pump(now)

    def _known(self, now: float, batch: Batch, report: Outcomes) -> None:
        self._dependencies.known(now, batch, report)
        self._urgency.known(now, batch, report)

    def grant_start(self, now: float, key: bytes, ranges: list[tuple[int, int]]) -> None:
        """The client has noted that these, not repeatable, may start now."""
        batch = self._holdings.batches.get(key)
        if batch is not None:
            self._clients.grant_start(batch, ranges)
            self._placing.pump(now)

    def give_input(self, key: bytes, index: int, what: str, value: Any, body: Bytes) -> None:
        """Pass input, a signal or a stream's credit from the client on to where the task runs."""
        batch = self._holdings.batches.get(key)
        if batch is None or not 0 <= index < batch.calls.count:
            return
        dispatch = self._placing.dispatches.get(batch.columns.token(index))
        if dispatch is not None and batch.columns.state(index) == TaskColumns.DISPATCHED:
            header = {"b": key, "i": index, "e": what, "v": value}
            self._holdings.emit(Tell(dispatch.executor.id, Kind.INPUT, header, (body,) if len(body) else ()))

    def client_lost(self, now: float, client: bytes) -> None:
        """A client's link is down. Its lease runs; if it does not come back, nobody wants its tasks any more."""
        self._clients.lost(now, client)

    def drain(self, now: float) -> None:
        """Take no more batches; what clients have here goes on until the shell's deadline."""
        self.draining = True
        self._placing.executors[self.me].draining = True
        self._moving.heard(now, self._placing.executors[self.me])

    def approve(
        self, now: float, thief: bytes, nonce: int, victim: bytes, number: int, start: int, stop: int, wait_s: float
    ) -> str:
        """An idle node asks for tasks that wait at another one: "" when they are recalled for it, else why not."""
        return self._approvals.approve(now, thief, nonce, victim, number, start, stop, wait_s)

    # --- executors' reports -------------------------------------------------------------------------------------------

    def outcomes(
        self, now: float, executor: bytes, number: int, count: int, body: Bytes, load: Any = None, stood_us: Any = 0
    ) -> None:
        """An executor reports outcomes under a dispatch number; rows that are not out under it are ignored. Some of their tasks
        stood still for `stood_us` microseconds together.

        ValueError when the columns are malformed.
        """
        placing = self._placing
        it = placing.executors.get(executor)
        if it is not None and isinstance(load, Mapping) and not it.local:
            it.heard(load)
            self._moving.heard(now, it)
        dispatch = placing.out(number, executor)
        if dispatch is None:
            self._holdings.emit(Fact("outcome.stale", {}, {"executor": executor.hex(), "dispatch": number}, count))
            return
        report = Outcomes(body, count)
        if type(stood_us) is int and stood_us > 0:
            dispatch.stood_us += stood_us
        if dispatch.batch.durable is None or not self._keeping.holds_back(now, dispatch, report, body):
            self._take_outcomes(now, dispatch, report, body)
        placing.pump(now)

    def _take_outcomes(self, now: float, dispatch: Dispatch, report: Outcomes, body: Bytes) -> None:
        placing, number, count = self._placing, dispatch.number, report.count
        batch = dispatch.batch
        columns = batch.columns
        placing.settle(dispatch, count, max(0, report.run_us_total - dispatch.stood_us) / 1e6)
        if report.all_ok and columns.accepts(report, number):
            columns.settle(report, number)
            placing.ran(now, dispatch, report, count)
            self._ending.settled(now, batch, report, body, dispatch.token)
            self._ending.count(batch, Status.OK, count, report)
            placing.returned(dispatch, count)
            if batch.untied:
                self.heeding.went_well(now, dispatch)
        else:
            self._attempts.sort_out(now, dispatch, report)
        self._moved(now)
        self._ending.close_if_done(now, batch)

    def event(self, now: float, executor: bytes, number: int, index: int, name: str, value: Any, body: Bytes) -> None:
        """An executor says something about a task that runs: passed on to the client."""
        dispatch = self._placing.out(number, executor)
        if dispatch is None:
            return
        batch = dispatch.batch
        if not 0 <= index < batch.calls.count or not batch.columns.holds(index, number):
            return
        if name == "progress":
            batch.progress[index] = value
        elif name == "lesson":
            self.heeding.reflected(now, dispatch, index, value)
            self._placing.pump(now)
            return
        elif name in ("suspended", "resumed"):
            batch.log(now, name, index, index + 1, dispatch.executor.name, why_it_stood(name, value))
            self._relief.stood(now, dispatch, index, name == "suspended", value)
        elif name == "unsaved":
            self._moving.unsaved(now, batch, index, str(value))
            return
        if batch.client is not None:
            header = {"b": batch.key, "i": index, "e": name, "v": value, "w": dispatch.executor.name}
            for client in batch.clients:
                self._holdings.emit(Tell(client, Kind.EVENT, header, (body,) if len(body) else ()))

    def on_timer(self, now: float) -> None:
        """Run what is due: backoffs, deadlines, leases, retention."""
        while (due := self._holdings.timers.pop(now)) is not None:
            what, value = due
            if what == RETRY:
                self._attempts.retry(*value)
            elif what == EXPIRE:
                self._expire(now, value)
            elif what == CLIENT:
                left = self._clients.lease_over(now, value)
                for batch in left:
                    self._placing.withdraw(batch)  # the end of one makes room, and none of the others is to begin in it
                for batch in left:
                    self.cancel(now, batch.key, None)
                self._ending.shed(now)  # what was kept for it
            elif what == FORGET:
                self._ending.forget_until(now)
            elif what == RETENTION:
                self._leading.forget(now, value)
            elif what == WRITE_AGAIN:
                self._recording.write_again(*value)
            elif what == ADOPT:
                self._leading.adopted(now, *value)
            elif what == HEED:
                self.heeding.over(now, value)
            elif what == MOVE:
                self._moving.late(now, *value)
            elif what == RELIEF:
                self._relief.due(now)
        self._moved(now)
        self._placing.pump(now)

    def _expire(self, now: float, batch: Batch) -> None:
        """The deadline of a batch has passed: what has not begun will not."""
        if batch.finished_at is not None or self._holdings.by_number.get(batch.number) is not batch:
            return
        if self._leading.is_adopting(batch):
            self._holdings.timers.at(now + self.config.adopt_s, EXPIRE, batch)  # some of it may run
            return
        self._placing.withdraw(batch)
        payload = said("its deadline passed before it could start", "", batch.spec)
        ended: Said = []
        for start, stop in batch.pending():
            for index in range(start, stop):
                if batch.columns.state(index) != TaskColumns.DISPATCHED:
                    ended.append((index, Status.EXPIRED, payload))
        self._ending.finish(now, batch, ended)

    # --- the ledger ---------------------------------------------------------------------------------------------------

    def committed(self, now: float, ticket: int, copies: int, hosts: int, applied: Applied) -> None:
        """A record that was proposed is committed, on so many disks of so many hosts; `applied` is what it came to."""
        self._recording.committed(now, ticket, copies, hosts, applied)
        self._moved(now)
        self._placing.pump(now)

    def dropped(self, now: float, ticket: int, why: str = "", unknown: bool = True) -> None:
        """A record came to nothing; or, if `unknown`, leadership was lost before it was known: `follow`, or `lead` in a
        later epoch, comes next, and tells."""
        if unknown:
            self._recording.dropped(now, ticket)
        else:
            reason = Reason(why) if why in _REASONS else Reason.NOT_LEADER
            self.not_taken(now, ticket, Refusal(reason, "the log did not take it"))

    def not_taken(self, now: float, ticket: int, refusal: Refusal) -> None:
        """The log does not take a record now, and it is certain that it is not in it: a full disk, say."""
        self._recording.not_taken(now, ticket, refusal)
        self._placing.pump(now)

    def kept(self, now: float, ticket: int, blobs: tuple[KeptBlob, ...], copies: int, hosts: int) -> None:
        """Blobs (`Keep`) are on the disks of a majority of their log's members."""
        self._keeping.kept(now, ticket, blobs, copies, hosts)
        self._placing.pump(now)

    def not_kept(self, now: float, ticket: int, refusal: Refusal) -> None:
        """They are not, and will not be: `Reason.GONE` when they are nowhere."""
        self._keeping.not_kept(now, ticket, refusal)
        self._placing.pump(now)

    def delivered(self, key: bytes) -> None:
        """The client has all outcomes of a batch."""
        batch = self._holdings.batches.get(key)
        if batch is not None:
            self._recording.delivered(batch)

    def lead(
        self,
        now: float,
        now_wall: float,
        group: bytes,
        epoch: int,
        batches: Mapping[bytes, BatchState],
        copies: int = 1,
        hosts: int = 1,
    ) -> None:
        """This node leads a group in an epoch; `batches` are those of its log, with all that was committed before, on so
        many disks of so many hosts."""
        self._leading.lead(now, now_wall, group, epoch, batches, copies, hosts)
        self._placing.pump(now)

    def follow(self, now: float, group: bytes) -> None:
        """This node leads a group no longer. What runs goes on: the next leader adopts it."""
        self._leading.follow(now, group)
        self._moved(now)

    def held(self, now: float, group: bytes, epoch: int, executor: bytes, runs: list[Held]) -> None:
        """What an executor has of a group's batches, whoever handed it over (the answer to `AskHeld`)."""
        self._leading.held(now, group, epoch, executor, runs)
        self._placing.pump(now)

    def know_blobs(
        self,
        needs_of: Callable[[Spec, Calls], tuple[bytes, ...]],
        content_of: Callable[[bytes], bytes | None],
        has_blob: Callable[[bytes, bytes], bool],
        fits: Callable[[bytes], bool | None],
        refs_of: Callable[[Spec, Outcomes, Bytes], Mapping[int, tuple[bytes, ...]]],
    ) -> None:
        """What a batch needs beside its arguments, by its ids; what is found under one; whether a group's log has it already;
        whether it is small enough for one, None if it is not here; and which rows of outcomes refer to which."""
        recording = self._recording
        recording.needs_of, recording.content_of, recording.has_blob = needs_of, content_of, has_blob
        recording.fits, self._keeping.refs_of = fits, refs_of

    # --- what people ask ----------------------------------------------------------------------------------------------

    def on_its_way(self, batch: Batch) -> list[str]:
        """Records of a batch that are on their way into its log, by their kinds."""
        return self._recording.on_its_way(batch)

    def is_adopting(self, batch: Batch) -> bool:
        """Whether executors are still asked what they have of a batch that was taken over."""
        return self._leading.is_adopting(batch)

    def find(self, prefix: str, most: int = 2) -> list[tuple[Batch, int]]:
        """Tasks whose text id begins with `prefix`, at most `most`; a full id is found at once."""
        return finding.find(self._holdings.batches, prefix, most)

    def states(self, batch: Batch) -> Iterator[tuple[int, str]]:
        """(index, state in words) of each task of a batch."""
        return finding.states(batch)


def _digest(durable: Durable | None) -> str:
    return "not known" if durable is None else durable.digest.hex()


__all__ = [
    "Adopt",
    "AskHeld",
    "Batch",
    "Connect",
    "Dispatch",
    "Keep",
    "KeepNoMore",
    "MoveOver",
    "Ownership",
    "OwnershipConfig",
    "OwnershipEffect",
    "Propose",
    "ToExecutor",
]
