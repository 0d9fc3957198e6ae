"""The memory of what stands still: how much of it a node bears, and what goes when it is more.

A suspended task keeps its process, and with it its memory, for as long as urgent work has its slot. Beyond the node's budget the
task goes that is cheapest to lose: first one that offers checkpoints, which loses nothing; then of those that may be run again
the one that has run least, which begins anew elsewhere, without blame. What may not be repeated stays, whatever it takes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from swarm.protocol.executor.runs import Run, Worker

LEAVE_S = 5.0
"""So long may a suspended task that is to leave take to its next safe point. It runs for that, though its slot is taken."""


@dataclass(frozen=True, slots=True)
class Goes:
    """A suspended worker whose memory is wanted."""

    worker: Worker
    saves: bool
    """Its task ends at its next safe point; else it is ended where it stands, and run again as a whole."""


def tasks_of(worker: Worker) -> list[tuple[Run, int]]:
    """The tasks that a worker has begun, or may have."""
    return [
        (part.run, index)
        for part in worker.slices.values()
        for start, stop in part.run.outstanding(part.token)
        for index in range(start, stop)
    ]


def is_savable(run: Run) -> bool:
    """Whether a task of a run can be ended at a safe point: it offers that, and its owner knows what to do with a state."""
    return run.spec.checkpoint and "saved" in run.extra


def is_repeatable(run: Run) -> bool:
    """Whether a task of a run may begin anew. Items of a stream that were delivered would come twice."""
    return run.spec.rerun and not run.spec.stream


def ran_s(worker: Worker) -> float:
    """For how long the task of a suspended worker has run."""
    it = worker.suspension
    return 0.0 if it is None else max(0.0, it.since - it.began - worker.paused[1])


def over_budget(standing: Collection[Worker], rss_bytes: Mapping[int, int], budget_bytes: int) -> list[Goes]:
    """Who goes so that the others are within the budget, the cheapest first. `rss_bytes` is by worker number."""
    excess = sum(rss_bytes.get(worker.number, 0) for worker in standing) - budget_bytes
    if excess <= 0:
        return []
    candidates = []
    for worker in standing:
        tasks, taken = tasks_of(worker), rss_bytes.get(worker.number, 0)
        if not tasks or not taken:
            continue
        saves = worker.page is not None and all(is_savable(run) for run, _ in tasks)
        if saves or all(is_repeatable(run) for run, _ in tasks):
            candidates.append((not saves, 0.0 if saves else ran_s(worker), -taken, worker.number, worker))
    found = []
    for anew, _, taken, _, worker in sorted(candidates, key=lambda one: one[:4]):
        if excess <= 0:
            break
        found.append(Goes(worker, not anew))
        excess += taken
    return found
