"""The executor's part that keeps the memory of what stands still within its budget; the rules are those of
`swarm.protocol.executor.memory`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from swarm.protocol.effects import Fact
from swarm.protocol.executor.effects import ExecutionEffect
from swarm.protocol.executor.leaving import asked
from swarm.protocol.executor.memory import LEAVE_S, is_repeatable, over_budget, tasks_of
from swarm.protocol.executor.runs import Run, Worker
from swarm.protocol.executor.suspensions import Suspensions
from swarm.protocol.states import Status


class Evictions:
    """Suspended workers whose memory is wanted. `workers` are the executor's own; `budget_bytes` 0: no budget."""

    def __init__(
        self,
        workers: Mapping[int, Worker],
        suspensions: Suspensions,
        budget_bytes: int,
        emit: Callable[[ExecutionEffect], None],
        recall: Callable[[float, Worker], None],
        kill: Callable[[Worker, str], None],
        may_go_on: Callable[[float, bytes], bool],
    ) -> None:
        self._workers = workers
        self._suspensions = suspensions
        self._budget_bytes = budget_bytes
        self._emit = emit
        self._recall = recall
        self._kill = kill
        self._may_go_on = may_go_on
        self._leaving: dict[int, tuple[float, list[tuple[int, int]]]] = {}
        """Workers whose suspended tasks go on to a safe point, to leave -> (until when, (number of the run, index) of them)."""

    def measured(self, now: float, rss_bytes: Mapping[int, int]) -> None:
        """What suspended workers keep in memory was measured; over the budget the cheapest to lose go."""
        if not self._budget_bytes:
            return
        standing = [worker for worker in self._workers.values() if worker.suspension is not None]
        for goes in over_budget(standing, rss_bytes, self._budget_bytes):
            worker, how = goes.worker, "saved" if goes.saves else "again"
            if goes.saves and not all(self._may_go_on(now, part.run.owner) for part in worker.slices.values()):
                continue
            kept = rss_bytes.get(worker.number, 0)
            self._emit(Fact("suspended.evicted", {"how": how}, {"worker": worker.number, "bytes": kept}))
            if not goes.saves:
                self._run_again(worker, f"{kept} bytes of it were more than this node keeps for what stands still")
                continue
            tasks = tasks_of(worker)
            self._suspensions.resume(now, worker)
            worker.immune_until = now + LEAVE_S
            self._leaving[worker.number] = (now + LEAVE_S, [(run.number, index) for run, index in tasks])
            for run, index in tasks:
                self._ask(worker, run, index, True)

    def exited(self, worker: int) -> None:
        """A worker is gone."""
        self._leaving.pop(worker, None)

    def next_deadline(self) -> float | None:
        """When the first of those that leave has had its time."""
        return min((until for until, _ in self._leaving.values()), default=None)

    def on_timer(self, now: float) -> None:
        """Some came to no safe point in time: they are run again as a whole, or stay."""
        for number, (until, tasks) in list(self._leaving.items()):
            if until > now:
                continue
            del self._leaving[number]
            worker = self._workers.get(number)
            if worker is None or worker.state != "ready":
                continue
            still = [(run, index) for run, index in tasks_of(worker) if (run.number, index) in tasks]
            if still and all(is_repeatable(run) for run, _ in still):
                self._recall(now, worker)
                self._run_again(worker, "it came to no safe point, and its memory was more than this node keeps")
            else:
                for run, index in still:
                    self._ask(worker, run, index, False)

    def _ask(self, worker: Worker, run: Run, index: int, save: bool) -> None:
        for effect in asked((worker,), run, [(index, index + 1)], save):
            self._emit(effect)

    def _run_again(self, worker: Worker, why: str) -> None:
        """End a worker where it stands; what it ran goes back to its owner without blame."""
        for run, index in tasks_of(worker):
            run.verdicts[index] = Status.RETURNED
        self._kill(worker, why)
