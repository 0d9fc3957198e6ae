"""What no worker has begun: the queue of runs, and how tasks come back into it from workers, or to their owners out of it."""

from __future__ import annotations

from kernels.tasks import TaskColumns
from swarm.protocol import ids
from swarm.protocol.executor.reports import Reports
from swarm.protocol.executor.runs import Run, Worker
from swarm.protocol.executor.table import RunTable
from swarm.protocol.resources import ReadyShapes
from swarm.protocol.runtimes import Runtimes
from swarm.protocol.spec import kind_of


class Waiting:
    """Puts tasks into the queue (`ready`), and takes them out of it and of the hands of workers."""

    def __init__(self, ready: ReadyShapes, table: RunTable, reports: Reports, runtimes: Runtimes) -> None:
        self._ready = ready
        self._runtimes = runtimes
        self._table = table
        self._reports = reports

    def push(self, run: Run, count: int) -> None:
        """So many tasks of a run wait."""
        expected_s = run.spec.expected_s
        self._runtimes.told(run.raw, expected_s)
        self._ready.push(
            run.shape, run.number, run.priority, run.nice, int(run.queued_at * 1e9), count, run.user,
            (run.batch[: ids.SESSION_BYTES], run.raw if expected_s is None else kind_of(run.raw)), run.spec.deadline,
            expected_s,
        )  # fmt: skip

    def recall_from(self, now: float, worker: Worker) -> None:
        """Take back whatever a worker has not begun, and queue it again."""
        if worker.page is None:
            return
        for part in worker.slices.values():
            new_end, old_end = worker.page.recall(part.slot)
            if new_end < old_end:
                self.requeue(part.run, part.start + new_end, part.start + old_end)

    def requeue(self, run: Run, start: int, stop: int) -> None:
        """Tasks that a worker had wait again."""
        if run.number not in self._table.by_number:
            return  # Its owner was lost meanwhile: nobody wants them.
        for index in range(start, stop):
            run.columns.release(index - run.first)
        self.push(run, stop - start)

    def give_back(self, run: Run, ranges: list[tuple[int, int]]) -> None:
        """Give tasks of these ranges that no worker has back to the owner."""
        back: list[int] = []
        columns = run.columns
        for start, stop in ranges:
            for index in range(max(start, run.first), min(stop, run.first + run.calls.count)):
                if columns.state(index - run.first) == TaskColumns.READY:
                    run.finish(index)
                    back.append(index)
        if not back:
            return
        waiting = self._ready.remove(run.shape, run.number) - len(back)
        if waiting > 0:
            self.push(run, waiting)
        self._table.gone(run)
        self._reports.back(run.owner, run.dispatch, run.batch, back)
        if columns.done == run.calls.count:
            self._table.forget(run)
