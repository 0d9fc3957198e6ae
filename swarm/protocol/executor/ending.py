"""Workers that are ended, or died: what that means for the tasks that they had in hand."""

from __future__ import annotations

from collections.abc import Callable

from kernels.batch import OutcomeBuilder
from swarm.protocol.executor.effects import ExecutionEffect, StopWorker
from swarm.protocol.executor.reports import Reports, ended
from swarm.protocol.executor.runs import Run, Slice, Worker
from swarm.protocol.executor.suspensions import Suspensions
from swarm.protocol.executor.table import RunTable
from swarm.protocol.executor.waiting import Waiting
from swarm.protocol.resources import Account, ReadyShapes
from swarm.protocol.states import Status


class Ending:
    """Ends workers for the sake of what they run, and says of each of their tasks how it ended."""

    def __init__(
        self, workers: dict[int, Worker], ready: ReadyShapes, table: RunTable, waiting: Waiting, reports: Reports,
        suspensions: Suspensions, account: Account, emit: Callable[[ExecutionEffect], None], seen: Callable[[], float],
    ) -> None:  # fmt: skip
        """`seen` is the latest instant that the executor was told."""
        self._workers = workers
        self._ready = ready
        self._table = table
        self._waiting = waiting
        self._reports = reports
        self._suspensions = suspensions
        self._account = account
        self._emit = emit
        self._seen = seen

    def kill(self, worker: Worker, reason: str) -> None:
        """A worker is killed, with what it runs."""
        if worker.state == "blocked" and worker.shape is not None:
            self._account.take(worker.shape)
        self._suspensions.end(self._seen(), worker)
        worker.state = "stopping"
        worker.reason = reason
        self._emit(StopWorker(worker.number, "kill", reason))

    def kill_running(self, worker: Worker, run: Run, ranges: list[tuple[int, int]], verdict: int, reason: str) -> None:
        """End a worker if it runs, or may run, a task of these ranges; they are reported with `verdict`."""
        doomed = [
            index
            for part in worker.slices.values()
            if part.run is run
            for begin, end in run.outstanding(part.token)
            for index in range(begin, end)
            if any(start <= index < stop for start, stop in ranges)
        ]
        if worker.page is not None:
            current = worker.current()
            if current is not None and current[0].run is run and not run.spec.stream and len(doomed) > 1:
                doomed = [index for index in doomed if index == current[1]] or doomed
        if not doomed:
            return
        for index in doomed:
            run.verdicts[index] = verdict
        self.kill(worker, reason)

    def slice_died(
        self, now: float, worker: Worker, part: Slice, current: tuple[Slice, int, float] | None, why: str
    ) -> None:
        """A worker died with this slice: say of each task in it what that means."""
        run = part.run
        if run.number not in self._table.by_number:
            return
        claimed = part.start + (worker.page.progress(part.slot)[0] if worker.page else part.stop - part.start)
        ours = worker.reason if worker.state == "stopping" else ""
        running = current[1] if current is not None and current[0] is part else None
        builder, count, verdict_used = OutcomeBuilder(), 0, bool(run.verdicts)
        for begin, end in run.outstanding(part.token):
            for index in range(begin, end):
                if index >= claimed:
                    self._waiting.requeue(run, index, index + 1)
                    continue
                status = run.verdicts.pop(index, None)
                if status is None:
                    blamed = index == running or worker.page is None
                    status = Status.CRASHED if blamed and not (ours and verdict_used) else Status.LOST
                run.finish(index)
                builder.add(index, status, 0, ended(status, ours or why, run.spec))
                count += 1
        if count:
            self._reports.outcomes(run, count, builder.take())
        if run.columns.done == run.calls.count:
            self._table.forget(run)

    def drop(self, now: float, run: Run) -> None:
        """Nobody wants a run any more: what of it runs is ended, and nobody told."""
        self._ready.remove(run.shape, run.number)
        self._table.forget(run)
        for worker in list(self._workers.values()):
            parts = [part for part in worker.slices.values() if part.run is run]
            if not parts:
                continue
            started = worker.page is None
            if worker.page is not None:
                for part in parts:
                    worker.page.recall(part.slot)
                current = worker.current()
                started = current is not None and any(part is current[0] for part in parts)
            if started and worker.state in ("ready", "blocked", "suspended"):
                self._waiting.recall_from(now, worker)
                self.kill(worker, "the owner of its task is gone")

    def refuse_all(self, python: str, why: str) -> None:
        """An interpreter starts no worker: what is to run under it ends."""
        for run in [run for run in self._table if run.spec.python == python]:
            self._ready.remove(run.shape, run.number)
            self._reports.refused(run, f"the interpreter {python!r} does not start a worker ({why})")
            self._table.forget(run)
