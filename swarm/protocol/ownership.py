"""The owner: the batches that clients handed to this node, until each of their tasks has one outcome.

The owner keeps the columns of a batch (`kernels.tasks.TaskColumns`), places ranges of it on executors (this node is one of
them), and takes their outcomes back. Every range that it hands out has a dispatch number, the fencing token: an outcome
counts only while its task is still out under that number. Nothing here is per task where all goes well; what failed, was
given back or was lost is looked at one by one.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from kernels.batch import Calls, OutcomeBuilder, Outcomes
from kernels.tasks import TaskColumns
from swarm.protocol import ids
from swarm.protocol.effects import Fact
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Bytes, Tell
from swarm.protocol.placement import Executor, Verdict, judge, rank
from swarm.protocol.resources import Capacity, ReadyShapes, Shape, shape_of
from swarm.protocol.runtimes import Runtimes
from swarm.protocol.spec import Spec, SpecError, parse_spec
from swarm.protocol.states import Status, after_attempt

TRACE_KEPT_MAX = 512
ATTEMPTS_MAX = 1 << 31
"""Attempts that a client may say there were of a batch before."""
_INDEX_END = 1 << 32


@dataclass(frozen=True, slots=True)
class OwnershipConfig:
    """Bounds of what an owner holds. Units: tasks, bytes, seconds."""

    tasks_max: int = 2_000_000
    bytes_max: int = 1 << 30
    retention_s: float = 900.0
    retained_batches_max: int = 10_000
    retained_bytes_max: int = 256 << 20
    client_lease_s: float = 10.0
    refuse_after_s: float = 0.2


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a link to a node: there is work for it."""

    node: bytes


@dataclass(slots=True)
class ToExecutor:
    """Hand a range of a batch to an executor. For this very node the shell calls its executor directly."""

    executor: bytes
    dispatch: int
    batch: bytes
    spec: Spec
    raw: bytes
    granted: bool
    first: int
    count: int
    attempts: int
    extra: dict[str, Any]
    lengths: memoryview
    payloads: memoryview


OwnershipEffect = Tell | ToExecutor | Connect | Fact


@dataclass(slots=True, eq=False)
class Batch:
    """A batch of tasks in the owner's hands."""

    number: int
    key: bytes
    client: bytes | None
    author: str
    spec: Spec
    raw: bytes
    granted: bool
    shape: Shape
    calls: Calls
    columns: TaskColumns
    submitted_at: float
    submitted_wall: float
    attached_at: float
    """When its client handed it over, or did so again."""
    expires_at: float | None = None
    cancelled: list[tuple[int, int]] = field(default_factory=list)
    killed: list[tuple[int, int]] = field(default_factory=list)
    """Those of the cancelled that shall be ended where they run."""
    retries: dict[int, int] = field(default_factory=dict)
    may_start: set[int] = field(default_factory=set)
    """Indices of a batch that is not repeatable whose start the client has granted."""
    deps: dict[bytes, bytes | None] = field(default_factory=dict)
    """Task ids that the one task of this batch waits for -> result payload, None while it waits."""
    dep_order: list[bytes] = field(default_factory=list)
    outcomes: list[tuple[Outcomes, Bytes]] = field(default_factory=list)
    outcome_bytes: int = 0
    trace: deque[tuple[float, str, int, int, str, Any]] = field(default_factory=lambda: deque(maxlen=TRACE_KEPT_MAX))
    finished_at: float | None = None
    counts: dict[int, int] = field(default_factory=dict)
    last_words: dict[int, str] = field(default_factory=dict)
    progress: dict[int, Any] = field(default_factory=dict)
    attempt: int = 0
    abandoned: bool = False
    """Cancelled because its client was gone for too long."""

    def is_cancelled(self, index: int) -> bool:
        """Whether the client gave this task up; `cancelled` is sorted and without overlaps."""
        at = bisect_right(self.cancelled, (index, _INDEX_END)) - 1
        return at >= 0 and index < self.cancelled[at][1]

    def outstanding(self, token: int) -> list[tuple[int, int]]:
        """Ranges (start, stop) that are out under a token."""
        return [(start, start + count) for start, count in self.columns.outstanding(token)]

    def pending(self) -> list[tuple[int, int]]:
        """Ranges (start, stop) without an outcome."""
        return [(start, start + count) for start, count in self.columns.pending()]

    def log(self, now: float, what: str, start: int, stop: int, node: str = "", detail: Any = None) -> None:
        """Put on record what happened to a range."""
        self.trace.append((now, what, start, stop, node, detail))

    def outcome(self, index: int) -> tuple[int, memoryview] | None:
        """(status, payload) of a finished task while it is kept."""
        for outcomes, _ in reversed(self.outcomes):
            for row in range(outcomes.count):
                if outcomes.index(row) == index:
                    return outcomes.status(row), outcomes.payload(row)
        return None


@dataclass(slots=True, eq=False)
class Dispatch:
    """A range that is out at an executor under one fencing token."""

    number: int
    batch: Batch
    executor: Executor
    start: int
    stop: int
    left: int
    sent_at: float


class Ownership:
    """The owner's state machine. `now` is seconds of the node's boot-time clock."""

    def __init__(self, config: OwnershipConfig, me: bytes, name: str, capacity: Capacity, epoch: int = 0) -> None:
        self.config = config
        self.me = me
        self.runtimes = Runtimes()
        self.draining = False
        local = Executor(me, name, capacity, local=True, linked=True, free=capacity.totals.get("cpu", 0.0))
        self._executors: dict[bytes, Executor] = {me: local}
        self._batches: OrderedDict[bytes, Batch] = OrderedDict()
        self._by_number: dict[int, Batch] = {}
        self._dispatches: dict[int, Dispatch] = {}
        self._ready = ReadyShapes()
        self._batch_number = 0
        # Dispatch numbers of a later life of this node are above those of an earlier one: 2^40 dispatches a life.
        self._dispatch_number = epoch << 40
        self._timers: list[tuple[float, int, str, Any]] = []
        self._timer_number = 0
        self._dependents: dict[bytes, dict[int, list[Batch]]] = {}
        self._clients_gone: dict[bytes, float] = {}
        self._tasks = 0
        self._bytes = 0
        self._retained: OrderedDict[bytes, int] = OrderedDict()
        self._retained_bytes = 0
        self._forgetting = False
        self._effects: list[OwnershipEffect] = []

    # --- what the shell asks ------------------------------------------------------------------------------------------

    def take_effects(self) -> list[OwnershipEffect]:
        """What is to be done now, in order."""
        effects, self._effects = self._effects, []
        return effects

    def next_deadline(self) -> float | None:
        """When `on_timer` wants to be called, or None."""
        return self._timers[0][0] if self._timers else None

    @property
    def batches(self) -> OrderedDict[bytes, Batch]:
        """Batches by key, unfinished ones and those kept."""
        return self._batches

    @property
    def executors(self) -> Mapping[bytes, Executor]:
        """Executors by node id."""
        return self._executors

    @property
    def unfinished(self) -> int:
        """Tasks without an outcome."""
        return self._tasks

    @property
    def waiting(self) -> int:
        """Tasks ready to run that no executor has."""
        return self._ready.tasks

    # --- executors ----------------------------------------------------------------------------------------------------

    def executor_seen(self, now: float, node: bytes, name: str, capacity: Capacity, load: Mapping[str, Any]) -> None:
        """A member said what it has and how busy it is."""
        it = self._executors.get(node)
        if it is None:
            it = self._executors[node] = Executor(node, name, capacity, free=capacity.totals.get("cpu", 0.0))
        if it.capacity != capacity:
            it.capacity = capacity
            it.fits.clear()
        it.name = name
        it.suspect = False
        self._heard(it, load)
        self._pump(now)

    def executor_load(self, now: float, node: bytes, load: Mapping[str, Any]) -> None:
        """A member said how busy it is."""
        it = self._executors.get(node)
        if it is not None:
            self._heard(it, load)
            self._pump(now)

    def executor_linked(self, now: float, node: bytes) -> None:
        """There is a link to an executor now."""
        it = self._executors.get(node)
        if it is not None and not it.linked:
            it.linked = True
            # Gossip counted ours, if there were any, among those of others. The link says better in a moment.
            it.others = 0.0
            self._pump(now)

    def executor_suspected(self, node: bytes) -> None:
        """A member does not answer: nothing new goes there until it does or is dead."""
        it = self._executors.get(node)
        if it is not None and not it.local:
            it.suspect = True

    def executor_lost(self, now: float, node: bytes, why: str) -> None:
        """An executor is gone (dead, left, or its link is down): what was out there runs elsewhere, or is lost."""
        it = self._executors.get(node)
        if it is None or it.local:
            return
        if why == "link":
            it.linked = False
        else:
            del self._executors[node]
        for number in sorted(it.dispatches):
            self._dispatch_lost(now, it.dispatches[number], why)
        it.dispatches.clear()
        it.inflight.clear()
        it.ours = 0
        self._pump(now)

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
        it = self._executors.get(node)
        if it is None:
            return
        for number in sorted(it.dispatches):
            dispatch = it.dispatches[number]
            if asked is not None and number not in asked:
                continue
            here = held.get(number, [])
            lost = [
                index
                for start, stop in dispatch.batch.outstanding(number)
                for index in range(start, stop)
                if not any(begin <= index < end for begin, end in here)
            ]
            if lost:
                self._rows_lost(now, dispatch, lost, "a report was lost on the way")
                self._returned(dispatch, len(lost))
            given_up = dispatch.batch.killed
            if given_up and number in it.dispatches:
                # That the client wants them ended may have been lost as well.
                self._recall(dispatch, given_up, True)
        self._pump(now)

    @staticmethod
    def _heard(executor: Executor, load: Mapping[str, Any]) -> None:
        free, waiting, blocked, others = load.get("free"), load.get("wait"), load.get("blocked"), load.get("others")
        if isinstance(free, int | float):
            executor.free = float(free)
        if isinstance(blocked, int):
            executor.blocked = max(0, blocked)
        if isinstance(others, int | float):
            executor.others = max(0.0, float(others))
        elif not executor.linked and isinstance(waiting, int):
            # Gossip, which says nothing of whose tasks they are: none of ours, where there is no link.
            executor.others = max(0.0, executor.slots - executor.free + executor.blocked + waiting)
        executor.draining = load.get("drain") is True

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
        retries_max: int | None = None,
    ) -> None:
        """Take a batch from a client, or say why not. A batch known already is attached to, not taken twice.

        `ended` are ranges that another owner has seen to their end: they are not run again.
        """
        known = self._batches.get(key)
        if known is not None and known.abandoned and known.spec.rerun:
            # A laptop that slept: its tasks were ended for nobody's sake, and are run anew now that somebody is there.
            if known.finished_at is None:
                self._refuse(
                    client, key, "full", "its tasks are still being ended, since its client had been gone",
                    "they are run again in a moment", self.config.refuse_after_s,
                )  # fmt: skip
                return
            self._retained_bytes -= self._retained.pop(key, 0)
            del self._batches[key]
        elif known is not None:
            self._attach(now, known, client)
            return
        if len(key) != ids.BATCH_KEY_BYTES or count < 1 or not 0 <= attempts < ATTEMPTS_MAX:
            self._refuse(client, key, "malformed", "the batch has no proper key or no tasks", "")
            return
        try:
            spec = parse_spec(raw)
        except SpecError as error:
            self._refuse(client, key, "spec", str(error), "client and node may be of different versions")
            return
        if (spec.pickled or (spec.fn is not None and spec.fn[0] == "blob") or spec.kind == "command") and not granted:
            self._refuse(
                client, key, "not-granted", f"{author} may not run code of its own here (no grant 'code')",
                "use functions that the nodes load by name, or ask an admin for a certificate with the grant 'code'",
            )  # fmt: skip
            return
        if self.draining:
            self._refuse(client, key, "draining", "this node is stopping", "another node takes the batch", 0.0)
            return
        nbytes = len(columns)
        if count > self.config.tasks_max or nbytes > self.config.bytes_max:
            self._refuse(
                client, key, "too-large", f"a batch of {count} tasks ({nbytes} bytes); this node never holds so much",
                "hand over less at once, or raise queue_tasks and queue_bytes in the node's settings",
            )  # fmt: skip
            return
        if self._tasks + count > self.config.tasks_max or self._bytes + nbytes > self.config.bytes_max:
            self._refuse(
                client, key, "full", f"this node holds {self._tasks} unfinished tasks ({self._bytes} bytes)",
                "try again soon, or use more nodes", self.config.refuse_after_s,
            )  # fmt: skip
            return
        try:
            calls = Calls(columns, count)
        except ValueError as error:
            self._refuse(client, key, "malformed", f"the batch's columns are damaged: {error}", "")
            return
        self._batch_number += 1
        batch = Batch(
            self._batch_number, key, client, author, spec, raw, granted, shape_of(spec), calls, TaskColumns(count),
            now, now_wall, now, attempt=attempts,
        )  # fmt: skip
        if spec.deadline is not None:
            batch.expires_at = now + max(0.0, spec.deadline - now_wall)
            self._after(batch.expires_at, "expire", batch)
        self._batches[key] = batch
        self._by_number[batch.number] = batch
        over = sum(
            batch.columns.finish(index) for start, stop in ended or () for index in range(start, min(stop, count))
        )
        self._tasks += count - over
        self._bytes += nbytes
        batch.log(now, "submitted", 0, count, "", author)
        self._effects.append(
            Fact("batch.submitted", {"kind": spec.kind}, {"batch": key.hex(), "name": spec.name}, count)
        )
        if deps:
            self._wait_for(now, batch, deps)
        if batch.columns.ready:
            self._push(batch, now, batch.columns.ready)
        self._close_if_done(now, batch)
        self._pump(now)

    def cancel(self, now: float, key: bytes, ranges: list[tuple[int, int]] | None, *, kill: bool = True) -> None:
        """The client, or somebody for it, gives tasks up: those waiting end now, those running are ended if `kill`."""
        batch = self._batches.get(key)
        if batch is None or batch.finished_at is not None:
            return
        wanted = merged(ranges) if ranges is not None else [(0, batch.calls.count)]
        batch.cancelled = merged([*batch.cancelled, *wanted])
        if kill:
            batch.killed = merged([*batch.killed, *wanted])
        ended: list[tuple[int, int, bytes | memoryview]] = []
        payload = said("the task was cancelled", "", batch.spec)
        dispatched: set[int] = set()
        columns = batch.columns
        for start, stop in wanted:
            batch.log(now, "cancelled", start, stop)
            for index in range(max(0, start), min(stop, batch.calls.count)):
                state = columns.state(index)
                if state == TaskColumns.DISPATCHED:
                    dispatched.add(columns.token(index))
                elif state != TaskColumns.DONE:
                    ended.append((index, Status.CANCELLED, payload))
        waiting = self._ready.remove(batch.shape, batch.number)
        self._finish(now, batch, ended)
        if waiting and batch.columns.ready:
            self._push(batch, now, batch.columns.ready)
        for number in sorted(dispatched):
            dispatch = self._dispatches.get(number)
            if dispatch is not None:
                self._recall(dispatch, wanted, kill)
        self._pump(now)

    def grant_start(self, now: float, key: bytes, ranges: list[tuple[int, int]]) -> None:
        """The client has noted that these, not repeatable, may start now."""
        batch = self._batches.get(key)
        if batch is None:
            return
        ready = 0
        for start, stop in ranges:
            for index in range(start, min(stop, batch.calls.count)):
                if index not in batch.may_start:
                    batch.may_start.add(index)
                    if batch.columns.state(index) == TaskColumns.HELD:
                        batch.columns.release(index)
                        ready += 1
        if ready:
            self._push(batch, batch.submitted_at, ready)
        self._pump(now)

    def give_input(self, key: bytes, index: int, what: str, value: Any, body: Bytes) -> None:
        """Pass input, a signal or a stream's credit from the client on to where the task runs."""
        batch = self._batches.get(key)
        if batch is None or not 0 <= index < batch.calls.count:
            return
        dispatch = self._dispatches.get(batch.columns.token(index))
        if dispatch is not None and batch.columns.state(index) == TaskColumns.DISPATCHED:
            header = {"b": key, "i": index, "e": what, "v": value}
            self._effects.append(Tell(dispatch.executor.id, Kind.INPUT, header, (body,) if len(body) else ()))

    def client_lost(self, now: float, client: bytes) -> None:
        """A client's link is down. Its lease runs; if it does not come back, nobody wants its tasks any more."""
        if any(batch.client == client for batch in self._batches.values() if batch.finished_at is None):
            self._clients_gone[client] = now
            self._after(now + self.config.client_lease_s, "client", client)

    def drain(self, now: float) -> None:
        """Take no more batches; what clients have here goes on until the shell's deadline."""
        self.draining = True
        self._executors[self.me].draining = True

    # --- executors' reports -------------------------------------------------------------------------------------------

    def outcomes(self, now: float, executor: bytes, number: int, count: int, body: Bytes, load: Any = None) -> None:
        """An executor reports outcomes under a dispatch number; rows that are not out under it are ignored.

        ValueError when the columns are malformed.
        """
        it = self._executors.get(executor)
        if it is not None and isinstance(load, Mapping) and not it.local:
            self._heard(it, load)
        dispatch = self._dispatches.get(number)
        if dispatch is None or dispatch.executor.id != executor:
            self._effects.append(Fact("outcome.stale", {}, {"executor": executor.hex(), "dispatch": number}, count))
            return
        batch = dispatch.batch
        report = Outcomes(body, count)
        columns = batch.columns
        if report.all_ok and columns.accepts(report, number):
            columns.settle(report, number)
            self.runtimes.observe(batch.raw, report.run_us_total, count)
            self._settled(now, batch, report, body)
            self._count(batch, Status.OK, count, report)
            self._returned(dispatch, count)
        else:
            self._sort_out(now, dispatch, report)
        self._close_if_done(now, batch)
        self._pump(now)

    def event(self, executor: bytes, number: int, index: int, name: str, value: Any, body: Bytes) -> None:
        """An executor says something about a task that runs: passed on to the client."""
        dispatch = self._dispatches.get(number)
        if dispatch is None or dispatch.executor.id != executor:
            return
        batch = dispatch.batch
        if not 0 <= index < batch.calls.count or not batch.columns.holds(index, number):
            return
        if name == "progress":
            batch.progress[index] = value
        if batch.client is not None:
            header = {"b": batch.key, "i": index, "e": name, "v": value, "w": dispatch.executor.name}
            self._effects.append(Tell(batch.client, Kind.EVENT, header, (body,) if len(body) else ()))

    def on_timer(self, now: float) -> None:
        """Run what is due: backoffs, deadlines, leases, retention."""
        while self._timers and self._timers[0][0] <= now:
            _, _, what, value = heapq.heappop(self._timers)
            if what == "retry":
                batch, index = value
                if batch.columns.state(index) == TaskColumns.HELD and batch.finished_at is None:
                    batch.columns.release(index)
                    self._push(batch, batch.submitted_at, 1)
            elif what == "expire":
                self._expire(now, value)
            elif what == "client":
                self._client_lease_over(now, value)
            elif what == "forget":
                self._forget_until(now)
        self._pump(now)

    # --- inside: starting ---------------------------------------------------------------------------------------------

    def _after(self, at: float, what: str, value: Any) -> None:
        self._timer_number += 1
        heapq.heappush(self._timers, (at, self._timer_number, what, value))

    def _push(self, batch: Batch, since: float, count: int) -> None:
        spec = batch.spec
        self._ready.push(batch.shape, batch.number, spec.priority, spec.nice, int(since * 1e9), count)

    def _pump(self, now: float) -> None:
        """Place ready tasks until they or the executors' windows run out."""
        if not self._ready.tasks:
            return
        now_ns = int(now * 1e9)
        for shape in self._ready.shapes(now_ns):
            while (head := self._ready.head(shape, now_ns)) is not None:
                batch = self._by_number[head[0]]
                if not batch.spec.rerun and not self._ask_start(batch, head[1]):
                    continue
                if not self._place(now, batch, shape, head[1]):
                    break

    def _ask_start(self, batch: Batch, waiting: int) -> bool:
        """Tasks that may not be repeated start only when the client has noted it. False: all of them were held."""
        columns, asked = batch.columns, []
        kept = 0
        for start, stop in batch.pending():
            for index in range(start, stop):
                if columns.state(index) != TaskColumns.READY:
                    continue
                if index in batch.may_start:
                    kept += 1
                elif batch.client is not None:
                    columns.hold(index)
                    asked.append(index)
                else:
                    batch.may_start.add(index)
                    kept += 1
        if asked:
            self._ready.remove(batch.shape, batch.number)
            if kept:
                self._push(batch, batch.submitted_at, kept)
            assert batch.client is not None
            header = {"b": batch.key, "r": [list(pair) for pair in ranges(asked)]}
            self._effects.append(Tell(batch.client, Kind.ASK_START, header))
        return kept > 0

    def _place(self, now: float, batch: Batch, shape: Shape, waiting: int) -> bool:
        """Hand some of a batch to the best executor. False when none has room."""
        mean = self.runtimes.mean_s(batch.raw)
        if len(self._executors) == 1:
            verdicts = [judge(self._executors[self.me], shape, mean)]
        else:
            executors = list(self._executors.values())
            verdicts = rank([executors[0], *sorted(executors[1:], key=lambda one: one.id)], shape, mean)
        chosen = next((verdict for verdict in verdicts if verdict.room and self._reachable(verdict)), None)
        if chosen is None:
            self._explain_wait(now, batch, verdicts)
            return False
        it = self._executors[chosen.executor]
        room = sum(verdict.room for verdict in verdicts)
        # Several executors with room share what is left, so that all of them end at about the same time.
        share = -(-waiting * chosen.room // room) if room > chosen.room else waiting
        limit = max(1, min(chosen.room, share, WINDOW_STEP))
        self._dispatch_number += 1
        number = self._dispatch_number
        taken = batch.columns.take(limit, number)
        assert taken is not None, (batch.number, waiting)
        start, stop = taken[0], taken[0] + taken[1]
        self._ready.take(shape, batch.number, taken[1])
        dispatch = Dispatch(number, batch, it, start, stop, stop - start, now)
        self._dispatches[number] = dispatch
        it.dispatches[number] = dispatch
        it.sent(shape, stop - start)
        lengths, payloads = batch.calls.slice(start, stop)
        extra: dict[str, Any] = {}
        if batch.dep_order:
            extra["deps"] = [batch.deps[dep] for dep in batch.dep_order]
        if len(verdicts) > 1:
            detail = [(verdict.name, verdict.room, round(verdict.wait_s, 3), verdict.why) for verdict in verdicts[:16]]
        else:
            detail = None
        batch.log(now, "placed", start, stop, it.name, detail)
        attempts = batch.columns.attempts(start) - 1 + batch.attempt
        self._effects.append(
            ToExecutor(
                it.id,
                number,
                batch.key,
                batch.spec,
                batch.raw,
                batch.granted,
                start,
                stop - start,
                attempts,
                extra,
                lengths,
                payloads,
            )
        )
        return True

    def _reachable(self, verdict: Verdict) -> bool:
        executor = self._executors[verdict.executor]
        if not executor.linked:
            self._effects.append(Connect(executor.id))
        return executor.linked

    def _explain_wait(self, now: float, batch: Batch, verdicts: list[Verdict]) -> None:
        detail = [(verdict.name, verdict.room, round(verdict.wait_s, 3), verdict.why) for verdict in verdicts[:16]]
        if batch.trace and batch.trace[-1][1] == "waits":
            batch.trace.pop()
        batch.log(now, "waits", 0, batch.calls.count, "", detail)

    # --- inside: ending -----------------------------------------------------------------------------------------------

    def _returned(self, dispatch: Dispatch, count: int) -> None:
        """`count` tasks of a dispatch are out no more."""
        dispatch.left -= count
        it = dispatch.executor
        it.back(dispatch.batch.shape, count)
        if dispatch.left <= 0:
            self._dispatches.pop(dispatch.number, None)
            it.dispatches.pop(dispatch.number, None)

    def _settled(self, now: float, batch: Batch, report: Outcomes, body: Bytes) -> None:
        """Final outcomes: to the client, to those that wait for them, and into what is kept."""
        self._tasks -= report.count
        batch.outcomes.append((report, body))
        batch.outcome_bytes += report.nbytes
        if batch.client is not None:
            self._effects.append(Tell(batch.client, Kind.OUTCOMES, {"b": batch.key, "n": report.count}, (body,)))
        waiting = self._dependents.get(batch.key)
        if waiting:
            for row in range(report.count):
                for dependent in waiting.pop(report.index(row), ()):
                    self._dependency(now, dependent, ids.task_id(batch.key, report.index(row)), report, row)
            if not waiting:
                self._dependents.pop(batch.key, None)

    def _count(self, batch: Batch, status: int, count: int, report: Outcomes | None = None) -> None:
        batch.counts[status] = batch.counts.get(status, 0) + count
        labels = {"status": _WORDS[status], "kind": batch.spec.kind}
        if report is not None:
            fields: dict[str, Any] = {"outcomes": report}
        else:
            fields = {"batch": batch.key.hex(), "name": batch.spec.name}
        self._effects.append(Fact("task.finished", labels, fields, count))

    def _finish(
        self, now: float, batch: Batch, ended: list[tuple[int, int, bytes | memoryview]], run_us: int = 0
    ) -> None:
        """Give tasks their final outcomes here."""
        builder, count = OutcomeBuilder(), 0
        for index, status, payload in ended:
            if batch.columns.finish(index):
                builder.add(index, status, run_us, bytes(payload))
                count += 1
                self._count(batch, status, 1)
        if count:
            body = builder.take()
            self._settled(now, batch, Outcomes(body, count), body)
        self._close_if_done(now, batch)

    def _sort_out(self, now: float, dispatch: Dispatch, report: Outcomes) -> None:
        """Outcomes that are not all fine: look at each."""
        batch, columns, number = dispatch.batch, dispatch.batch.columns, dispatch.number
        ended: list[tuple[int, int, bytes | memoryview]] = []
        ready = 0
        left = 0
        for row in range(report.count):
            index, status = report.index(row), report.status(row)
            if not columns.holds(index, number):
                continue
            left += 1
            cancelled = batch.is_cancelled(index)
            crashes = columns.crashed(index) if status == Status.CRASHED else 0
            retries_left = batch.spec.retries - batch.retries.get(index, 0) if status == Status.RETRY else 0
            final = after_attempt(
                status, rerun=batch.spec.rerun, retries_left=retries_left, crashes=crashes, cancelled=cancelled
            )
            node = dispatch.executor.name
            if final is None:
                ready += self._again(now, batch, index, status, report.payload(row), node)
                continue
            payload = report.payload(row)
            if final == Status.CANCELLED and status != Status.CANCELLED:
                payload = memoryview(said("the task was cancelled", "", batch.spec))
            elif final == Status.QUARANTINED:
                payload = memoryview(quarantined(batch.spec, crashes, node, payload))
            batch.log(now, Status(final).name.lower(), index, index + 1, node, _words(payload))
            ended.append((index, final, payload))
        self._returned(dispatch, left)
        if report.count and left:
            self.runtimes.observe(
                batch.raw, report.run_us_total, sum(1 for row in range(report.count) if report.run_us(row))
            )
        self._finish(now, batch, ended)
        if ready:
            self._push(batch, batch.submitted_at, ready)

    def _again(self, now: float, batch: Batch, index: int, status: int, payload: memoryview, node: str) -> int:
        """A task runs again: at once (1), or after its backoff (0)."""
        batch.log(now, Status(status).name.lower(), index, index + 1, node, _words(payload))
        if status == Status.RETRY:
            tried = batch.retries[index] = batch.retries.get(index, 0) + 1
            batch.columns.hold(index)
            wait = batch.spec.backoff(tried)
            self._after(now + wait, "retry", (batch, index))
            self._effects.append(Fact("task.retried", {}, {"batch": batch.key.hex(), "index": index, "wait_s": wait}))
            return 0
        if status != Status.RETURNED:
            self._effects.append(
                Fact("task.rerun", {"why": Status(status).name.lower()}, {"batch": batch.key.hex(), "index": index})
            )
        batch.columns.release(index)
        return 1

    def _dispatch_lost(self, now: float, dispatch: Dispatch, why: str) -> None:
        """An executor is gone with a dispatch: what is not reported runs again, or is lost."""
        self._dispatches.pop(dispatch.number, None)
        out = dispatch.batch.outstanding(dispatch.number)
        indices = [index for start, stop in out for index in range(start, stop)]
        self._rows_lost(now, dispatch, indices, f"the node is gone ({why})")

    def _rows_lost(self, now: float, dispatch: Dispatch, indices: list[int], why: str) -> None:
        batch = dispatch.batch
        ended: list[tuple[int, int, bytes | memoryview]] = []
        ready = 0
        for start, stop in ranges(indices):
            batch.log(now, "lost", start, stop, dispatch.executor.name, why)
        for index in indices:
            final = after_attempt(
                Status.LOST, rerun=batch.spec.rerun, retries_left=0, crashes=0, cancelled=batch.is_cancelled(index)
            )
            if final is None:
                batch.columns.release(index)
                ready += 1
            else:
                hint = "it may have run; whether it did is not known" if final == Status.LOST else ""
                text = f"{batch.spec.name or 'the task'} was on {dispatch.executor.name}: {why}"
                ended.append((index, final, said(text, hint, batch.spec)))
        if ready:
            self._effects.append(
                Fact("task.moved", {}, {"batch": batch.key.hex(), "from": dispatch.executor.name, "why": why}, ready)
            )
            if batch.client is not None:
                header = {"b": batch.key, "i": dispatch.start, "e": "moved", "v": [ready, dispatch.executor.name]}
                self._effects.append(Tell(batch.client, Kind.EVENT, header))
            self._push(batch, batch.submitted_at, ready)
        self._finish(now, batch, ended)

    def _recall(self, dispatch: Dispatch, wanted: list[tuple[int, int]], kill: bool) -> None:
        header = {"d": dispatch.number, "r": [list(pair) for pair in wanted], "k": kill}
        self._effects.append(Tell(dispatch.executor.id, Kind.RECALL, header))

    def _close_if_done(self, now: float, batch: Batch) -> None:
        if batch.finished_at is not None or batch.columns.done < batch.calls.count:
            return
        batch.finished_at = now
        batch.log(now, "finished", 0, batch.calls.count)
        self._bytes -= batch.calls.nbytes
        self._by_number.pop(batch.number, None)
        self._retained[batch.key] = batch.outcome_bytes
        self._retained_bytes += batch.outcome_bytes
        # The arguments are not needed any more; one empty call keeps the record's shape.
        self._shed(now)

    def _shed(self, now: float) -> None:
        """Keep what is kept within its bounds; the oldest go first."""
        config = self.config
        while self._retained and (
            len(self._retained) > config.retained_batches_max or self._retained_bytes > config.retained_bytes_max
        ):
            self._forget_one()
        if self._retained and not self._forgetting:
            self._forgetting = True
            first = self._batches[next(iter(self._retained))]
            self._after((first.finished_at or now) + config.retention_s, "forget", None)

    def _forget_one(self) -> None:
        key, nbytes = self._retained.popitem(last=False)
        self._retained_bytes -= nbytes
        self._batches.pop(key, None)

    def _forget_until(self, now: float) -> None:
        self._forgetting = False
        while self._retained:
            batch = self._batches[next(iter(self._retained))]
            if batch.finished_at is not None and batch.finished_at + self.config.retention_s > now:
                break
            self._forget_one()
        self._shed(now)

    # --- inside: clients and dependencies -----------------------------------------------------------------------------

    def _refuse(
        self, client: bytes, key: bytes, reason: str, message: str, hint: str, after_s: float | None = None
    ) -> None:
        header = {"b": key, "reason": reason, "message": message, "hint": hint, "after": after_s}
        self._effects.append(Tell(client, Kind.REFUSED, header))
        self._effects.append(Fact("batch.refused", {"reason": reason}, {"batch": key.hex(), "message": message}))

    def _attach(self, now: float, batch: Batch, client: bytes) -> None:
        """The same batch again: its client has a new link. What is known is told again."""
        batch.client, batch.attached_at = client, now
        for report, body in batch.outcomes:
            self._effects.append(Tell(client, Kind.OUTCOMES, {"b": batch.key, "n": report.count}, (body,)))
        if not batch.spec.rerun and not any(value is None for value in batch.deps.values()):
            # The question may have been lost with the old link.
            held = [
                index
                for start, stop in batch.pending()
                for index in range(start, stop)
                if batch.columns.state(index) == TaskColumns.HELD and index not in batch.may_start
            ]
            if held:
                header = {"b": batch.key, "r": [list(pair) for pair in ranges(held)]}
                self._effects.append(Tell(client, Kind.ASK_START, header))

    def _client_lease_over(self, now: float, client: bytes) -> None:
        since = self._clients_gone.get(client)
        if since is None or now < since + self.config.client_lease_s:
            return  # Lost once more meanwhile: that has its own timer.
        del self._clients_gone[client]
        # One that came back has handed over again what it still wants.
        for batch in [one for one in self._batches.values() if one.client == client and one.attached_at <= since]:
            batch.client = None
            if batch.finished_at is None:
                batch.abandoned = True
                batch.log(now, "abandoned", 0, batch.calls.count, "", "its client is gone")
                self._effects.append(Fact("batch.abandoned", {}, {"batch": batch.key.hex()}))
                self.cancel(now, batch.key, None)

    def _wait_for(self, now: float, batch: Batch, deps: list[bytes]) -> None:
        """Hold the one task of a batch until the tasks that it depends on have ended."""
        batch.dep_order = list(deps)
        failed: tuple[bytes, int, memoryview] | None = None
        for dep in deps:
            key, index = ids.split(dep)
            source = self._batches.get(key)
            if source is None or source is batch or index >= source.calls.count:
                self._finish(now, batch, [(0, Status.DEPENDENCY, said(
                    f"task {ids.text(dep)[:8]}, which this one depends on, is not known here",
                    "pass its result instead", batch.spec))])  # fmt: skip
                return
            known = source.outcome(index)
            if known is not None:
                batch.deps[dep] = bytes(known[1])
                if known[0] != Status.OK:
                    failed = (dep, known[0], known[1])
            else:
                batch.deps[dep] = None
                self._dependents.setdefault(key, {}).setdefault(index, []).append(batch)
        if failed is not None:
            self._dependency_failed(now, batch, *failed)
        elif any(value is None for value in batch.deps.values()):
            batch.columns.hold(0)
            batch.log(now, "waits for tasks", 0, 1, "", [ids.text(dep)[:8] for dep in deps])

    def _dependency(self, now: float, batch: Batch, dep: bytes, report: Outcomes, row: int) -> None:
        if batch.columns.state(0) != TaskColumns.HELD:
            return
        if report.status(row) != Status.OK:
            self._dependency_failed(now, batch, dep, report.status(row), report.payload(row))
            return
        batch.deps[dep] = bytes(report.payload(row))
        if all(value is not None for value in batch.deps.values()):
            batch.columns.release(0)
            self._push(batch, now, 1)

    def _dependency_failed(self, now: float, batch: Batch, dep: bytes, status: int, payload: memoryview) -> None:
        facts = {"task": ids.text(dep), "status": Status(status).name.lower(), "cause": bytes(payload)}
        text = f"task {ids.text(dep)[:8]}, which this one depends on, ended as {Status(status).name.lower()}"
        self._finish(now, batch, [(0, Status.DEPENDENCY, said(text, "", batch.spec, facts))])

    def _expire(self, now: float, batch: Batch) -> None:
        """The deadline of a batch has passed: what has not begun will not."""
        if batch.finished_at is not None:
            return
        self._ready.remove(batch.shape, batch.number)
        payload = said("its deadline passed before it could start", "", batch.spec)
        ended: list[tuple[int, int, bytes | memoryview]] = []
        for start, stop in batch.pending():
            for index in range(start, stop):
                if batch.columns.state(index) != TaskColumns.DISPATCHED:
                    ended.append((index, Status.EXPIRED, payload))
        self._finish(now, batch, ended)

    # --- what people ask ----------------------------------------------------------------------------------------------

    def find(self, prefix: str, most: int = 2) -> list[tuple[Batch, int]]:
        """Tasks whose text id begins with `prefix`, at most `most`; a full id is found at once."""
        if len(prefix) == ids.TEXT_LENGTH:
            try:
                key, index = ids.split(ids.parse(prefix))
            except ValueError:
                return []
            batch = self._batches.get(key)
            return [(batch, index)] if batch is not None and index < batch.calls.count else []
        found: list[tuple[Batch, int]] = []
        for batch in reversed(self._batches.values()):
            for index in range(min(batch.calls.count, 65536)):
                if ids.text(ids.task_id(batch.key, index)).startswith(prefix):
                    found.append((batch, index))
                    if len(found) >= most:
                        return found
        return found

    def states(self, batch: Batch) -> Iterator[tuple[int, str]]:
        """(index, state in words) of each task of a batch."""
        words = {0: "ready", 1: "placed", 2: "done", 3: "held"}
        for index in range(batch.calls.count):
            yield index, words[batch.columns.state(index)]


_WORDS = {int(status): status.name.lower() for status in Status}

WINDOW_STEP = 1024
"""Tasks in one dispatch at most, so that a recall or a loss concerns few."""


def ranges(indices: list[int]) -> list[tuple[int, int]]:
    """Sorted indices as (start, stop) ranges."""
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found


def merged(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(start, stop) ranges in order and without overlaps; empty ones left out."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(parts):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        elif start < stop:
            found.append((start, stop))
    return found


def said(message: str, hint: str, spec: Spec, facts: Mapping[str, Any] | None = None) -> bytes:
    """The payload of an outcome that the fabric, not the task, has to tell."""
    return b"F" + bytes(
        msgpack.packb({"message": message, "hint": hint, "facts": {"name": spec.name} | dict(facts or {})})
    )


def quarantined(spec: Spec, crashes: int, node: str, payload: memoryview) -> bytes:
    """The payload for a task that took too many workers with it."""
    last = _words(payload) or ""
    return said(
        f"{spec.name or 'the task'} took its worker down {crashes} times and is not run again ({last}, last on {node})",
        "run it by itself to see why; swarm task logs shows its last output",
        spec,
    )


def _words(payload: memoryview) -> str | None:
    """The message in a failure's payload, for the record."""
    if len(payload) < 2 or payload[0] != ord("F"):
        return None
    try:
        fields = msgpack.unpackb(payload[1:])
    except Exception:
        return None
    if not isinstance(fields, dict):
        return None
    kind, message = fields.get("type"), fields.get("message")
    shown = f"{str(kind).rpartition(':')[2]}: {message}" if kind else str(message)
    return shown[:300]
