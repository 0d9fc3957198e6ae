"""Suspension: who gives up a slot to more urgent work, and who gets one back first.

Suspended work keeps its process and its memory, so it goes on where it stood. It gives up what a stopped process does not use:
processor time, that is slots. What it needs besides (memory, a GPU's) stays taken, unless the node's settings declare a resource as
`releasable`. This is preemption by suspension as batch schedulers have it ("gang scheduling" in Slurm, there in time slices of seconds),
with these rules against its known faults:

* CRITICAL takes slots from all that is below it, HIGH from LOW alone: nothing that has a slot in this way loses it to its equals.
* Nobody is stopped before it is certain that the urgent task fits then, and before a worker process is there to run it.
* Who was suspended three times, and has stood still for longer than it has run, is left alone until it has run as long, so that a
  stream of urgent tasks takes half of its time at most.
* Suspended work rises with time by the same rule as waiting work (`kernels.runqueue`), and goes before what has not begun.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from swarm.protocol.executor.runs import Run, Slice, Worker
from swarm.protocol.resources import SLACK, Account, Shape
from swarm.protocol.states import Priority

EVICTIONS_MAX = 3
"""So often is a task suspended before it is asked how long it has stood still."""
IMMUNE_S_MAX = 30.0
AGEING_S = 10.0
"""Waiting work rises by a class in so long, as in `kernels.runqueue`."""
SPARE_AFTER_S = 0.2
"""When all slots have been taken for so long, spare workers are started, for urgent work that may come."""


@dataclass(frozen=True, slots=True)
class Suspension:
    """One worker that stands still."""

    since: float
    priority: int
    displaced_by: bytes
    """The batch that it made way for."""
    task: tuple[int, int]
    """(number of the run, index) of what it was running."""
    began: float
    """When that had begun."""
    name: str = ""
    """Of what it made way for."""


def yields(running: int, urgent: int) -> bool:
    """Whether work of one class makes way for work of another."""
    if urgent == Priority.CRITICAL:
        return running < Priority.CRITICAL
    return urgent == Priority.HIGH and running == Priority.LOW


def level(priority: int, since: float, now: float) -> int:
    """The class in which something that waits since then stands now."""
    if priority >= Priority.HIGH:
        return priority
    return min(Priority.HIGH, priority + int(max(0.0, now - since) // AGEING_S))


def immune_for_s(evictions: int, ran_s: float, stood_s: float) -> float:
    """For how long a task that goes on is not suspended again."""
    return min(IMMUNE_S_MAX, max(0.0, stood_s - ran_s)) if evictions >= EVICTIONS_MAX else 0.0


def class_of(worker: Worker) -> int:
    """The class of what a worker has in hand: the highest, if it is of several."""
    return max((_class_of(worker, part) for part in worker.slices.values()), default=Priority.CRITICAL)


def _class_of(worker: Worker, part: Slice) -> int:
    run = part.run
    current = worker.current() if run.apart else None
    if current is None or current[0] is not part:
        return run.priority
    return run.apart.get(current[1], (run.priority, 0))[0]


def suspendable(workers: Iterable[Worker], now: float) -> list[Worker]:
    """Workers that run a task and could be stopped now."""
    return [
        worker
        for worker in workers
        if worker.state == "ready" and worker.slices and not worker.granted and worker.immune_until <= now
    ]


def victims(
    workers: Collection[Worker], account: Account, releasable: Collection[str], shape: Shape, urgent: int, now: float
) -> list[Worker]:
    """The fewest workers, of the lowest classes, whose suspension makes room for one task of a shape; none where that is not enough.

    Among equals the one goes that has nothing begun, and after it the one that began last: it has the least in its caches, and the
    others are nearer to their ends.
    """
    short = {
        name: lack
        for name, amount in shape.needs
        if (lack := account.used.get(name, 0.0) + amount - account.limit(name)) > SLACK
    }
    if not short or any(name not in releasable for name in short):
        return []
    found = []
    running = [(worker, worker.current()) for worker in suspendable(workers, now) if yields(class_of(worker), urgent)]
    candidates = [
        (class_of(worker), 0, 0.0, worker.number, worker)
        if current is None
        else (class_of(worker), 1 + worker.evictions, -current[2], worker.number, worker)
        for worker, current in running
        if worker.shape is not None
    ]
    for *_, worker in sorted(candidates, key=lambda one: one[:4]):
        assert worker.shape is not None
        gives = {name: amount for name, amount in worker.shape.needs if name in releasable and amount > 0}
        if any(name in gives for name in short):
            found.append(worker)
            short = {name: lack - gives.get(name, 0.0) for name, lack in short.items()}
            short = {name: lack for name, lack in short.items() if lack > SLACK}
        if not short:
            return found
    return []


def slots_that_yield(workers: Iterable[Worker], runs_waiting: Iterable[tuple[Run, int]], now: float) -> list[float]:
    """Slots that make way, by the class of what runs in them: LOW, STANDARD, HIGH. Those for which urgent tasks wait already are left
    out."""
    found = [0.0, 0.0, 0.0]
    for worker in suspendable(workers, now):
        priority = class_of(worker)
        if priority < Priority.CRITICAL and worker.shape is not None:
            found[priority] += worker.shape.cpu
    for run, count in runs_waiting:
        wanted = run.shape.cpu * count
        for priority in range(Priority.CRITICAL):
            if wanted > 0 and yields(priority, run.priority):
                taken = min(wanted, found[priority])
                found[priority] -= taken
                wanted -= taken
    return found
