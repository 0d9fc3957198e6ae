"""The owner: the batches that clients handed to this node, until each of their tasks has one outcome.

The owner keeps the columns of a batch (`kernels.tasks.TaskColumns`), places ranges of it on executors (this node is one of
them), and takes their outcomes back. Every range that it hands out has a dispatch number, the fencing token: an outcome
counts only while its task is still out under that number. Nothing here is per task where all goes well; what failed, was
given back or was lost is looked at one by one.

This module is what the shell talks to. The parts are in `swarm.protocol.owner`, over the same holdings: `submitting` (what
clients hand over), `refusals` (what of it is not taken), `placing` (what is out at whom), `reports` (what executors say of
it), `attempts` (what the end of one means), `ending` (outcomes on their way), `cancelling`, `dependencies`, `clients`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from kernels.batch import Calls, Outcomes
from kernels.tasks import TaskColumns
from swarm.protocol import ids
from swarm.protocol.ledger.batch import BatchState
from swarm.protocol.ledger.effects import Reason, Refusal
from swarm.protocol.ledger.records import KeptBlob
from swarm.protocol.ledger.state import Applied
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Bytes, Tell
from swarm.protocol.owner import finding
from swarm.protocol.owner.admission import RESERVE, Admission
from swarm.protocol.owner.approvals import Approvals
from swarm.protocol.owner.attempts import RETRY, Attempts
from swarm.protocol.owner.batches import (
    Adopt,
    AskHeld,
    Batch,
    Connect,
    Dispatch,
    Holdings,
    Keep,
    KeepNoMore,
    MoveOver,
    OwnershipConfig,
    OwnershipEffect,
    Propose,
    ToExecutor,
)
from swarm.protocol.owner.cancelling import Cancelling
from swarm.protocol.owner.clients import CLIENT, Clients
from swarm.protocol.owner.dependencies import Dependencies
from swarm.protocol.owner.ending import EXPIRE, FORGET, RETENTION, Ending
from swarm.protocol.owner.heeding import HEED, Heeding
from swarm.protocol.owner.keeping import Keeping
from swarm.protocol.owner.leading import ADOPT, Held, Leading
from swarm.protocol.owner.moving import MOVE, Moving
from swarm.protocol.owner.placing import Placing
from swarm.protocol.owner.recording import WRITE_AGAIN, Recording
from swarm.protocol.owner.refusals import Refusals
from swarm.protocol.owner.relief import RELIEF, Relief
from swarm.protocol.owner.reports import Reports
from swarm.protocol.owner.submitting import Submitting
from swarm.protocol.owner.urgency import Urgency
from swarm.protocol.placement import Executor
from swarm.protocol.resources import Capacity
from swarm.protocol.runtimes import Runtimes
from swarm.protocol.spec import Spec

_REASONS = frozenset(reason.value for reason in Reason)


class Ownership:
    """The owner's state machine. `now` is seconds of the node's boot-time clock."""

    def __init__(self, config: OwnershipConfig, me: bytes, name: str, capacity: Capacity, epoch: int = 0) -> None:
        self.me = me
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
        self.class_here: Callable[[bytes], int | None] = lambda task: None
        """The class that a task which runs on this node was given, None for one that does not: of its own, not for who waits for it."""
        self.refusals = Refusals(self._holdings, self._admission, self._clients, self._recording, self._leading)
        submitting = Submitting(
            self._holdings, self._placing, self._ending, self._admission, self._clients, self._recording, self._dependencies,
            self._urgency, self._relief, self.refusals,
        )  # fmt: skip
        submitting.class_of = self.class_of
        self._cancelling = Cancelling(
            self._holdings, self._placing, self._ending, self._clients, self._recording, self._leading, self._relief,
        )  # fmt: skip
        reports = Reports(
            self._holdings, self._placing, self._ending, self._attempts, self.heeding, self._keeping, self._moving,
            self._relief,
        )  # fmt: skip
        # The parts' own: nothing stands between them and the shell, which calls them for each lot of tasks.
        self.submit = submitting.submit
        self.cancel = self._cancelling.cancel
        self.outcomes = reports.outcomes
        self.event = reports.event

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
    def last_dispatch(self) -> int:
        """The number of the last dispatch of this owner; later ones have greater numbers."""
        return self._placing.last_number

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
            self._relief.came_back(now)
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
            self._relief.came_back(now)
            self._placing.pump(now)

    # --- clients ------------------------------------------------------------------------------------------------------

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

    def move(self, now: float, key: bytes, index: int, node: bytes, within_s: float, by: str = "") -> int:
        """Have a task that runs go on at another node, from its next safe point. `MoveOver` says under this ticket what came of it.
        `by` is who asks."""
        ticket = self._moving.move(now, key, index, node, within_s, by)
        self._placing.pump(now)
        return ticket

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
        self.refusals.draining = True
        self._placing.executors[self.me].draining = True
        self._moving.heard(now, self._placing.executors[self.me])

    def approve(
        self, now: float, thief: bytes, nonce: int, victim: bytes, number: int, start: int, stop: int, wait_s: float
    ) -> str:
        """An idle node asks for tasks that wait at another one: "" when they are recalled for it, else why not."""
        return self._approvals.approve(now, thief, nonce, victim, number, start, stop, wait_s)

    def on_timer(self, now: float) -> None:
        """Run what is due: backoffs, deadlines, leases, retention."""
        while (due := self._holdings.timers.pop(now)) is not None:
            what, value = due
            if what == RETRY:
                self._attempts.retry(*value)
            elif what == EXPIRE:
                self._cancelling.expire(now, value)
            elif what == CLIENT:
                self._cancelling.client_gone(now, value)
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
        self._relief.came_back(now)
        self._placing.pump(now)

    # --- the ledger ---------------------------------------------------------------------------------------------------

    def committed(self, now: float, ticket: int, copies: int, hosts: int, applied: Applied) -> None:
        """A record that was proposed is committed, on so many disks of so many hosts; `applied` is what it came to."""
        self._recording.committed(now, ticket, copies, hosts, applied)
        self._relief.came_back(now)
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
        self._relief.came_back(now)

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
