"""Tasks that run for longer than they may."""

from __future__ import annotations

from collections.abc import Callable, Collection

from swarm.protocol.executor.runs import Worker
from swarm.protocol.states import Status

OBSERVE_EVERY_S = 0.010


def is_timed(worker: Worker) -> bool:
    """Whether a worker has something in hand that may not run for ever."""
    return any(part.run.spec.timeout_s is not None for part in worker.slices.values())


def end_what_is_over(
    now: float,
    workers: Collection[Worker],
    recall: Callable[[float, Worker], None],
    kill: Callable[[Worker, str], None],
) -> float | None:
    """End workers whose task has run for longer than its timeout; time for which it stood still does not count. When to look
    again, or None while nothing with a timeout is in anybody's hands."""
    soonest: float | None = None
    for worker in workers:
        if worker.state not in ("ready", "blocked") or not is_timed(worker):
            continue
        current = worker.current()
        if current is None or current[0].run.spec.timeout_s is None:
            soonest = min(soonest or now + OBSERVE_EVERY_S, now + OBSERVE_EVERY_S)
            continue
        part, timeout_s = current[0], current[0].run.spec.timeout_s
        ends = current[2] + timeout_s
        if worker.paused[0] == (part.run.number, current[1]):
            ends += worker.paused[1]  # only running counts
        if now < ends:
            # What it has in hand besides may begin at any time, and may have less time.
            least_s = min(part.run.spec.timeout_s or timeout_s for part in worker.slices.values())
            look = min(ends, now + max(OBSERVE_EVERY_S, least_s))
            soonest = min(soonest, look) if soonest is not None else look
            continue
        recall(now, worker)
        part.run.verdicts[current[1]] = Status.TIMEOUT
        kill(worker, f"its task ran longer than {timeout_s:g} s")
    return soonest
