"""Handing tasks to workers: which worker, how many at once, and what is taken back when they turn out to be long."""

from __future__ import annotations

from collections.abc import Callable

from swarm.protocol.effects import Fact
from swarm.protocol.executor.crew import Crew
from swarm.protocol.executor.effects import ExecutionEffect, HandSlice, HandSpec
from swarm.protocol.executor.grants import SlotGrants
from swarm.protocol.executor.keeping import keeps_slots
from swarm.protocol.executor.leases import Leases
from swarm.protocol.executor.leaving import saved_within
from swarm.protocol.executor.reports import Reports
from swarm.protocol.executor.runs import Run, Slice, Worker
from swarm.protocol.executor.suspension import class_of, level
from swarm.protocol.executor.suspensions import Suspensions
from swarm.protocol.executor.table import RunTable
from swarm.protocol.executor.timeouts import OBSERVE_EVERY_S, is_timed
from swarm.protocol.executor.waiting import Waiting
from swarm.protocol.fair import GUESS_S
from swarm.protocol.resources import Account, ReadyShapes, Shape
from swarm.protocol.runtimes import Runtimes
from swarm.protocol.states import Priority

SLICE_HORIZON_S = 0.005
"""A slice is cut so that it takes about this long: short enough to share, long enough to pay for its hand-over."""
SLICE_TASKS_MAX = 512
PIPELINE_BELOW_S = 0.020
"""A worker is given a second slice ahead of time when its tasks are shorter than this: the gap would be felt."""
PIPELINE_DEPTH = 2
SLICES_MAX = 8
"""Slices in a worker's hands, counting those that it does not know to be empty yet. Its page has room for 16."""
SHARE_AFTER_S = 0.050
"""What waits in a worker's hands behind a task that runs for so long is taken back, for whoever has time."""
CLASSES = tuple(priority.name.lower() for priority in Priority)


class Handing:
    """Hands what waits to who has time, as far as the account goes."""

    owner_lost: Callable[[float, bytes], object]
    """Told of owners whose leases turn out to be over."""

    def __init__(
        self, ready: ReadyShapes, table: RunTable, crew: Crew, account: Account, runtimes: Runtimes, waiting: Waiting,
        reports: Reports, grants: SlotGrants, leases: Leases, suspensions: Suspensions,
        emit: Callable[[ExecutionEffect], None],
    ) -> None:  # fmt: skip
        self._ready = ready
        self._table = table
        self._crew = crew
        self._workers = crew.workers
        self._account = account
        self._runtimes = runtimes
        self._waiting = waiting
        self._reports = reports
        self._grants = grants
        self._leases = leases
        self._suspensions = suspensions
        self._emit = emit
        self._slice_token = 0
        self.draining = False
        """Nothing more is begun."""
        self.observe_at: float | None = None
        """When to look whether something has run for too long."""
        self.share_at: float | None = None
        """When to look whether something waits behind what takes long."""
        self.seen = 0.0
        """The latest instant that the executor was told."""

    def pump(self, now: float) -> None:
        """Hand waiting tasks to workers until one or the other runs out; what is suspended goes before what has not begun."""
        self.seen = max(self.seen, now)
        suspensions = self._suspensions
        if suspensions.count and (gone := self._leases.over(now)):
            # This node stood still itself, or its timer is late: what stands still does not go on first.
            for owner in gone:
                self.owner_lost(now, owner)
        if self.draining or not self._ready.tasks:
            suspensions.resume_all(now)
            return
        now_ns = int(now * 1e9)
        turns = self._ready.turns(now_ns)
        while (shape := turns.next()) is not None:
            head = self._ready.head(shape, now_ns)
            assert head is not None, shape
            run = self._table.by_number[head[0]]
            if suspensions.count:
                suspensions.resume_all(now, level(run.priority, run.queued_at, now))
            worker = self._worker_for(now, shape, run)
            if worker is not None:
                self._hand(now, worker, run, shape)
                continue
            turns.full()
            if not turns.alone and keeps_slots(
                self._account, self._workers.values(), self._table, self._runtimes, shape, now - run.queued_at
            ):
                break
        suspensions.resume_all(now)
        if self._crew.lacks_spares and not self.draining and self._suspensions.is_taken(now):
            self._crew.want_spares(now)

    def _worker_for(self, now: float, shape: Shape, run: Run) -> Worker | None:
        """The worker to hand a slice of this shape to, or None while it has to wait."""
        idle: Worker | None = None
        busy: Worker | None = None
        granted: Worker | None = None
        through: Worker | None = None
        alive, low = 0, run.priority == Priority.LOW
        for worker in self._workers.values():
            if worker.granted and worker.state == "ready":
                granted = worker if granted is None or granted.revoked else granted
                continue
            if worker.python != shape.python or worker.state in ("stopping", "blocked", "suspended"):
                continue
            alive += 1
            if worker.state != "ready":
                continue
            if not worker.slices:
                # One whose share of the processors need not be changed first, if there is one.
                if idle is None or (idle.low is not low and worker.low is low):
                    idle = worker
            elif worker.shape is None:
                # All of it was taken back before it began, and it has not seen that yet.
                through = worker if len(worker.slices) < SLICES_MAX else through
            elif worker.shape != shape or len(worker.slices) >= PIPELINE_DEPTH or worker.slow:
                pass
            elif not self._suspensions.count or class_of(worker) <= run.priority:
                # Behind urgent work nothing goes while others stand still for it: its slot is theirs.
                busy = worker if busy is None or len(worker.slices) < len(busy.slices) else busy
        if idle is None and run.priority >= Priority.HIGH:
            idle = through
        if self._account.fits(shape):
            if idle is not None:
                return idle
            if granted is None:
                self._crew.start_if_short(now, shape, self._ready.waiting_of(shape))
        elif run.priority >= Priority.HIGH:
            found = self._suspensions.victims(now, shape, run)
            # One that has begun nothing of what it was handed can run it as well as an idle one.
            free = (one for one in found if one.current() is None and len(one.slices) < SLICES_MAX)
            taker = idle or next(free, None)
            if found and taker is not None:
                fits = self._suspensions.suspend(now, found, shape, run)
                self._crew.replace(now)
                if fits and taker.state == "ready":
                    return taker
            if found and idle is None:
                self._crew.start_if_short(now, shape, self._ready.waiting_of(shape))
        if granted is not None:
            self._grants.revoke(granted)
        if busy is None or busy.page is None or run.spec.stream or not run.spec.rerun:
            return None
        mean = self._runtimes.mean_s(run.raw)
        return busy if mean is not None and mean < PIPELINE_BELOW_S else None

    def _hand(self, now: float, worker: Worker, run: Run, shape: Shape) -> None:
        limit = self._slice_tasks(run, shape, worker)
        self._slice_token += 1
        taken = run.columns.take(limit, self._slice_token)
        assert taken is not None, (run.number, run.columns.ready)
        start = run.first + taken[0]
        stop = start + taken[1]
        mean = self._runtimes.mean_s(run.raw)
        run.thought_s = GUESS_S if mean is None else mean
        self._ready.take(shape, run.number, taken[1], mean)
        if worker.shape is None:
            worker.shape = shape
            self._account.take(shape)
        slot = 0
        while slot in worker.slices:
            slot += 1
        part = Slice(run, slot, self._slice_token, start, stop, now)
        worker.slices[slot] = part
        if worker.page is not None:
            worker.page.offer(slot, stop - start)
        number = worker.specs.get((run.raw, run.granted))
        if number is None:
            number = len(worker.specs) + 1
            worker.specs[(run.raw, run.granted)] = number
            self._emit(HandSpec(worker.number, number, run.raw, run.granted))
        lengths, payloads = run.calls.slice(start - run.first, stop - run.first)
        extra = {"batch": run.batch, "token": run.dispatch, "attempt": run.attempts + 1}
        if run.extra:
            extra |= run.extra
            if "saved" in extra:
                extra["saved"] = saved_within(extra["saved"], start, stop)
        low = worker.low = run.spec.priority == Priority.LOW and class_of(worker) == Priority.LOW
        self._emit(
            HandSlice(worker.number, slot, run.number, start, stop - start, number, extra, lengths, payloads, low)
        )
        if self.share_at is None and (stop - start > 1 or len(worker.slices) > 1):
            self.share_at = now + SHARE_AFTER_S
        if run.spec.timeout_s is not None:
            self._observe_by(now + min(OBSERVE_EVERY_S, run.spec.timeout_s))
        if not run.spec.rerun or run.spec.kind == "command":
            self._reports.event(run, start, "started", None)
        wait = now - run.queued_at + run.waited_s
        self._emit(
            Fact("slice.handed", {"class": CLASSES[run.priority]}, {"wait_s": wait, "tasks": stop - start}, wait)
        )

    def _slice_tasks(self, run: Run, shape: Shape, worker: Worker) -> int:
        """How many tasks to hand over at once."""
        if worker.page is None or not run.spec.rerun or run.spec.stream or run.spec.kind == "command":
            return 1
        most = self._runtimes.count_within(run.raw, SLICE_HORIZON_S, SLICE_TASKS_MAX)
        if most == 1:
            return 1
        share = -(-self._ready.waiting_of(shape) // max(1, self._crew.slots))
        return max(1, min(most, share))

    def share(self, now: float) -> None:
        """Take back what waits in workers' hands behind tasks that turned out to be long, and see when to look again."""
        for worker in self._workers.values():
            if worker.page is None or worker.state != "ready":
                continue
            if not any(cursor < end for cursor, end in map(worker.page.progress, worker.slices)):
                continue
            current = worker.current()
            if current is not None and now - current[2] >= SHARE_AFTER_S:
                worker.slow = True
                self._waiting.recall_from(now, worker)
            else:
                self.share_at = now + SHARE_AFTER_S
        self.pump(now)

    def resumed(self, now: float, worker: Worker) -> None:
        """A worker goes on: what it runs may have a timeout."""
        if is_timed(worker):
            self._observe_by(now + OBSERVE_EVERY_S)

    def _observe_by(self, at: float) -> None:
        """Look for what has run for too long at that time at the latest: what was looked at last may have had more time than this."""
        self.observe_at = at if self.observe_at is None else min(self.observe_at, at)
