"""The executor's part that suspends workers and lets them go on; the rules are those of `swarm.protocol.executor.suspension`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from swarm.protocol.effects import Fact
from swarm.protocol.executor.effects import ExecutionEffect, ResumeWorker, SuspendWorker
from swarm.protocol.executor.memory import LEAVE_S
from swarm.protocol.executor.runs import Run, Slice, Worker
from swarm.protocol.executor.suspension import Suspension, class_of, immune_for_s, level, suspendable, victims
from swarm.protocol.resources import SLACK, Account, Shape
from swarm.protocol.states import Priority

ANY = -1
"""Below all classes."""


class Suspensions:
    """Workers that stand still. `workers` and `account` are the executor's own."""

    def __init__(
        self,
        workers: Mapping[int, Worker],
        account: Account,
        releasable: Collection[str],
        emit: Callable[[ExecutionEffect], None],
        recall: Callable[[float, Worker], None],
        tell: Callable[[Run, int, str, Any], None],
        resumed: Callable[[float, Worker], None],
        may_go_on: Callable[[float, bytes], bool] = lambda now, owner: True,
    ) -> None:
        self._workers = workers
        self._account = account
        self._releasable = releasable
        self._emit = emit
        self._recall = recall
        self._tell = tell
        self._resumed = resumed
        self._may_go_on = may_go_on
        self.count = 0
        """How many stand still."""
        self._leaving: dict[int, tuple[float, Suspension]] = {}
        """Workers that go on to leave -> until when, and as what they stood still."""

    def victims(self, now: float, shape: Shape, urgent: Run) -> list[Worker]:
        """Who would be suspended for one task of a run; nobody where its class takes nothing from others, or that is not enough."""
        if urgent.priority < Priority.HIGH:
            return []
        return victims(self._workers.values(), self._account, self._releasable, shape, urgent.priority, now)

    def suspend(self, now: float, found: list[Worker], shape: Shape, urgent: Run) -> bool:
        """Stop workers where they stand; what they had not begun goes to others, and who had begun nothing gives up its slot
        without being stopped. Whether the urgent task fits now."""
        for worker in found:
            assert worker.state == "ready" and worker.shape is not None, (worker.number, worker.state)
            self._recall(now, worker)
            current = worker.current() or _between(worker, now)
            if current is None:
                self._account.give(worker.shape)
                worker.shape = None
                continue
            part, index, began = current
            task = (part.run.number, index)
            priority = class_of(worker)
            it = Suspension(now, priority, urgent.batch, task, began, urgent.spec.name)
            if worker.paused[0] != task:
                worker.paused, worker.evictions = (task, 0.0), 0
            worker.evictions += 1
            self._stop(worker, part.run, it)
        return self._account.fits(shape)

    def _stop(self, worker: Worker, run: Run, it: Suspension) -> None:
        assert worker.shape is not None, worker.number
        worker.suspension, worker.state = it, "suspended"
        self._account.lend(worker.shape, self._releasable)
        self.count += 1
        self._emit(SuspendWorker(worker.number))
        self._said(run, it)
        self._emit(Fact("task.suspended", {"class": Priority(it.priority).name.lower()}))

    def _said(self, run: Run, it: Suspension) -> None:
        self._tell(run, it.task[1], "suspended", {"by": it.displaced_by, "name": it.name})

    def tell_again(self, run: Run) -> None:
        """A run has another owner, who is told what of it stands still."""
        for worker in self._workers.values():
            if worker.suspension is not None and worker.suspension.task[0] == run.number:
                self._said(run, worker.suspension)

    # --- leaving for another node ---------------------------------------------------------------------------------------

    def leave(self, now: float, worker: Worker) -> None:
        """A worker that stands still goes on to its next safe point, beside what has its slot, for a bounded time."""
        it = worker.suspension
        if it is not None:
            self.resume(now, worker)
            worker.immune_until = max(worker.immune_until, now + LEAVE_S)
            self._leaving[worker.number] = (now + LEAVE_S, it)

    def stay(self, now: float, worker: Worker) -> None:
        """It is not to leave any more, or had its time for it: it stands still again, unless there is room for it by now."""
        _, it = self._leaving.pop(worker.number, (0.0, None))
        if it is None or worker.state != "ready" or worker.shape is None:
            return
        current = worker.current()
        if current is None or (current[0].run.number, current[1]) != it.task:
            return
        used, limit = self._account.used, self._account.limit
        if any(used.get(name, 0.0) > limit(name) + SLACK for name, _ in worker.shape.needs if name in self._releasable):
            self._recall(now, worker)
            self._stop(worker, current[0].run, replace(it, since=now))

    def leave_at(self) -> float | None:
        """When the time of the first of them is over."""
        return min((until for until, _ in self._leaving.values()), default=None)

    def left(self, now: float) -> None:
        """Whose time is over stands still again."""
        for number in [number for number, (until, _) in self._leaving.items() if until <= now]:
            worker = self._workers.get(number)
            if worker is None:
                del self._leaving[number]
            else:
                self.stay(now, worker)

    def end(self, now: float, worker: Worker) -> float:
        """A worker stands still no longer, as far as the accounts are concerned. For how long it did, in seconds."""
        it = worker.suspension
        if it is None:
            return 0.0
        assert worker.shape is not None, worker.number
        stood_s = now - it.since
        in_all_s = worker.paused[1] + stood_s
        worker.suspension, worker.state, worker.paused = None, "ready", (it.task, in_all_s)
        worker.immune_until = now + immune_for_s(worker.evictions, now - it.began - in_all_s, in_all_s)
        self._account.reclaim(worker.shape, self._releasable)
        self.count -= 1
        return stood_s

    def resume(self, now: float, worker: Worker) -> None:
        """Let a worker go on that stands still."""
        it = worker.suspension
        if it is None:
            return
        stood_s = self.end(now, worker)
        self._emit(ResumeWorker(worker.number))
        run, index = (
            next((part.run for part in worker.slices.values() if part.run.number == it.task[0]), None),
            it.task[1],
        )
        if run is not None:
            self._tell(run, index, "resumed", round(stood_s, 6))
        self._emit(Fact("task.resumed", {}, {"stood_s": stood_s}, stood_s))
        self._resumed(now, worker)

    def resume_all(self, now: float, above: int = ANY) -> None:
        """Let go on what fits, of this class or a higher one as they stand now: the highest first, then who stands still longest."""
        if not self.count:
            return
        standing = [(worker, it) for worker in self._workers.values() if (it := worker.suspension) is not None]
        standing.sort(key=lambda pair: (-level(pair[1].priority, pair[1].since, now), pair[1].since, pair[0].number))
        for worker, it in standing:
            assert worker.shape is not None, worker.number
            if level(it.priority, it.since, now) < above:
                return
            if not all(self._may_go_on(now, part.run.owner) for part in worker.slices.values()):
                continue  # its owner may have given its task to somebody else
            if self._account.fits_again(worker.shape, self._releasable) or self._makes_way(now, worker, it):
                self.resume(now, worker)

    def reprioritized(self, worker: Worker, run: int, index: int, priority: int) -> None:
        """The class of what a worker was running when it was stopped is another from here on."""
        it = worker.suspension
        if it is not None and it.task == (run, index) and it.priority != priority:
            worker.suspension = replace(it, priority=priority)

    def _makes_way(self, now: float, worker: Worker, it: Suspension) -> bool:
        """Whether less urgent work was stopped so that this goes on: it was raised while it stood still, or what could make way
        for it could not before."""
        if it.priority < Priority.HIGH or worker.shape is None:
            return False
        needs = tuple((name, amount) for name, amount in worker.shape.needs if name in self._releasable)
        shape = Shape(worker.shape.python, needs, worker.shape.labels)
        found = victims(self._workers.values(), self._account, self._releasable, shape, it.priority, now)
        run = next((part.run for part in worker.slices.values() if part.run.number == it.task[0]), None)
        return bool(found) and run is not None and self.suspend(now, found, shape, run)

    def is_taken(self, now: float) -> bool:
        """Whether urgent work that came now would have to take a slot from other work, and no process would be there to run it."""
        if self.count or self._account.free_cpu >= 1.0:
            return False
        if any(one.state == "starting" or (one.state == "ready" and not one.slices) for one in self._workers.values()):
            return False
        return any(class_of(worker) < Priority.CRITICAL for worker in suspendable(self._workers.values(), now))


def _between(worker: Worker, now: float) -> tuple[Slice, int, float] | None:
    """As `Worker.current` of one that has taken a task and does not say so: it has just begun it, or just ended it and not told
    yet. None where all that it took is reported."""
    for part in worker.slices.values():
        for start, _ in part.run.outstanding(part.token):
            return part, start, now
    return None
