"""The worker processes of an executor: how many there are, when one is replaced, and what is done when they do not start."""

from __future__ import annotations

from collections.abc import Callable

from swarm.protocol.effects import Fact
from swarm.protocol.executor.effects import ExecutionEffect, StartWorker, StopWorker
from swarm.protocol.executor.runs import ClaimPage, Worker
from swarm.protocol.executor.suspension import SPARE_AFTER_S
from swarm.protocol.resources import Shape

WORKERS_EXTRA_MAX = 64
"""Workers beyond the slots, in place of those that wait for tasks of their own."""
START_FAILURES_MAX = 3


class Crew:
    """The workers by number. `recycle_tasks` and `recycle_age_s` as in the executor's configuration."""

    def __init__(
        self,
        slots: int,
        emit: Callable[[ExecutionEffect], None],
        *,
        recycle_tasks: int = 0,
        recycle_age_s: float = 0.0,
        spare_workers: int = 0,
    ) -> None:
        self.workers: dict[int, Worker] = {}
        self.slots = slots
        self._emit = emit
        self._recycle_tasks = recycle_tasks
        self._recycle_age_s = recycle_age_s
        self._spare_workers = spare_workers
        self._spares = 0
        self.spare_at: float | None = None
        """When spare workers are started, unless slots are free by then."""
        self.retry_at: float | None = None
        """When the next one is started, after some that did not."""
        self._last = 0
        self._failures = 0

    def started(self, worker: int, page: ClaimPage | None) -> None:
        """The process of a worker runs; its page, if it has one."""
        if worker in self.workers:
            self.workers[worker].page = page

    def ready(self, now: float, worker: int) -> bool:
        """A worker has loaded and takes work; whether it is one of ours that was waited for."""
        it = self.workers.get(worker)
        if it is None or it.state != "starting":
            return False
        it.state = "ready"
        it.started_at = now
        self._failures = 0
        return True

    def start(self, now: float, python: str) -> None:
        """Start one more."""
        self._last += 1
        worker = Worker(self._last, python, None, started_at=now)
        self.workers[worker.number] = worker
        self._emit(StartWorker(worker.number, python))

    def replace(self, now: float) -> None:
        """Keep as many home workers as there are slots, not counting those whose task waits for another."""
        if self.retry_at is not None:
            return
        count = sum(1 for one in self.workers.values() if not one.python and one.state in ("starting", "ready"))
        room = self.slots + WORKERS_EXTRA_MAX - len(self.workers)
        for _ in range(min(self.slots + self._spares - count, room)):
            self.start(now, "")

    def start_if_short(self, now: float, shape: Shape, waiting: int) -> None:
        """Resources are free but no worker is, and so many tasks of this shape wait: start one, within bounds, for its
        interpreter."""
        starting = sum(1 for one in self.workers.values() if one.state == "starting" and one.python == shape.python)
        if starting >= waiting or starting >= max(self.slots, 1):
            return
        if len(self.workers) >= self.slots + WORKERS_EXTRA_MAX:
            spare = next(
                (one for one in self.workers.values() if one.state == "ready" and not one.slices and not one.granted),
                None,
            )
            if spare is None or spare.python == shape.python:
                return
            self.retire(now, spare, "another interpreter is needed")
        self.start(now, shape.python)

    def retire(self, now: float, worker: Worker, reason: str) -> None:
        """Let a worker end by itself, and start another in its place."""
        worker.state = "stopping"
        worker.reason = reason
        self._emit(StopWorker(worker.number, "finish", reason))
        self.replace(now)

    def retire_if_old(self, now: float, worker: Worker) -> None:
        """A worker has nothing in hand: replace it, if it has run for long enough."""
        if self._recycle_tasks and worker.done >= self._recycle_tasks:
            self.retire(now, worker, f"it has run {worker.done} tasks")
        elif self._recycle_age_s and now - worker.started_at >= self._recycle_age_s:
            self.retire(now, worker, f"it is {now - worker.started_at:.0f} s old")

    def start_failed(self, now: float, worker: Worker, why: str) -> bool:
        """A worker died before it was ready. After a few in a row wait longer; True when a guest's interpreter is given up."""
        self._failures += 1
        fields = {"worker": worker.number, "python": worker.python, "why": why}
        self._emit(Fact("worker.start_failed", {}, fields))
        if worker.python and self._failures >= START_FAILURES_MAX:
            self._failures = 0
            return True
        if not worker.python:
            self.retry_at = now + min(30.0, 0.1 * 2**self._failures)
        return False

    # --- spares: urgent work need not wait for a process to start ---------------------------------------------------------

    @property
    def lacks_spares(self) -> bool:
        """Whether there are fewer spares than there may be, and none are about to be started."""
        return self._spares < self._spare_workers and self.spare_at is None

    def want_spares(self, now: float) -> None:
        """Every slot is taken by work that makes way: have more processes soon, unless that passes."""
        self.spare_at = now + SPARE_AFTER_S

    def on_timer(self, now: float, wanted: Callable[[], bool]) -> None:
        """Start what is due; spares if they are still `wanted`."""
        if self.retry_at is not None and now >= self.retry_at:
            self.retry_at = None
            self.replace(now)
        if self.spare_at is not None and now >= self.spare_at:
            self.spare_at = None
            if wanted():
                self._spares = self._spare_workers
                self.replace(now)
