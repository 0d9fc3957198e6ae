"""A dry run of placement: where tasks would go, who would make way for them, and when the next one would start.

The owner's part (`spread`) ranks copies of its executors by the rule by which it places (`swarm.protocol.placement.rank`), and
counts in what it would hand over. The executor's part (`begin`) asks the rule by which it suspends
(`swarm.protocol.executor.suspension.victims`), on a copy of its account. Nothing is changed, kept free or handed over by either.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from swarm.protocol.execution import Execution
from swarm.protocol.executor.runs import Worker
from swarm.protocol.executor.suspension import class_of, level, victims
from swarm.protocol.placement import Executor, Verdict, rank
from swarm.protocol.resources import Account, Shape
from swarm.protocol.states import Priority


@dataclass(frozen=True, slots=True)
class Spread:
    """What the owner would do with tasks that came now."""

    verdicts: list[Verdict]
    """What it thinks of each executor before the first of them, best first."""
    tasks: dict[bytes, int]
    """How many would be handed to each that gets some."""
    left: int
    """How many would wait for room."""


@dataclass(slots=True)
class Begin:
    """What an executor would do with tasks that came now."""

    at_once: int = 0
    """How many would begin at once."""
    displaced: list[Worker] = field(default_factory=list)
    """Who would stand still for them."""
    next_s: float | None = None
    """When one more would begin, by how long such tasks as run there took on average; None: not known."""


def spread(executors: Collection[Executor], shape: Shape, priority: int, count: int) -> Spread:
    """Where so many tasks of a shape would be handed, if nobody knew yet how long they take."""
    copies = {it.id: _copy(it) for it in executors}
    verdicts = first = rank(list(copies.values()), shape, None, priority)
    tasks: dict[bytes, int] = {}
    left = count
    while left > 0 and (chosen := next((verdict for verdict in verdicts if verdict.room), None)) is not None:
        room = sum(verdict.room for verdict in verdicts)
        share = -(-left * chosen.room // room) if room > chosen.room else left
        sent = max(1, min(chosen.room, share))
        it = copies[chosen.executor]
        it.sent(shape, sent, priority)
        if chosen.displaces:
            it.displaced(shape, priority, sent)
        tasks[it.id] = tasks.get(it.id, 0) + sent
        left -= sent
        verdicts = rank(list(copies.values()), shape, None, priority)
    return Spread(first, tasks, left)


def begin(execution: Execution, shape: Shape, priority: int, count: int, now: float) -> Begin:
    """How so many tasks of a shape would begin at an executor, and when the next one after these could."""
    found = Begin()
    if execution.draining:
        return found
    real, releasable = execution.account, execution.config.releasable
    account = Account(real.capacity, dict(real.used), real.withheld)
    running = {number: worker for number, worker in execution.workers.items() if worker.suspension is None}
    ahead = [
        run.shape for run in execution.runs if level(run.priority, run.queued_at, now) >= priority
        for _ in range(min(run.columns.ready, len(running) + 1))
    ]  # fmt: skip
    # What waits there and is not less urgent goes first. The last is the one more.
    waits = len(ahead)
    for position, wanted in enumerate((*ahead, *[shape] * (count + 1))):
        out = _room_for(account, running, releasable, wanted, priority, now)
        if out is None:
            ahead = ahead[position:]
            break
        account.take(wanted)
        if position == waits + count:
            found.next_s = 0.0
            return found
        if position >= waits:
            found.at_once += 1
            found.displaced.extend(out)
    ahead += [
        _again(worker.shape, releasable) for worker in execution.workers.values()
        if (it := worker.suspension) is not None and worker.shape is not None
        and level(it.priority, it.since, now) >= priority
    ]  # fmt: skip
    found.next_s = _next_s(execution, account, running.values(), [*ahead, shape], now)
    return found


def _copy(it: Executor) -> Executor:
    """An executor that may be changed."""
    other = replace(it, inflight=dict(it.inflight), yielding=list(it.yielding), fits={}, dispatches={})
    if it.ask_load is not None:
        other.heard(it.ask_load())
        other.ask_load = None
    return other


def _room_for(
    account: Account, running: dict[int, Worker], releasable: Collection[str], shape: Shape, priority: int, now: float
) -> list[Worker] | None:
    """Who makes way for one task, and is out of the account and of those that run then; None when it does not fit all the same."""
    if account.fits(shape):
        return []
    if priority < Priority.HIGH:
        return None
    out = victims(running.values(), account, releasable, shape, priority, now)
    for worker in out:
        assert worker.shape is not None, worker.number
        account.lend(worker.shape, releasable)
        del running[worker.number]
    return out or None


def _next_s(
    execution: Execution, account: Account, running: Collection[Worker], queue: Sequence[Shape], now: float
) -> float | None:
    """When the last of a queue begins, if what runs ends after its averages; None when those do not tell."""
    waiting = list(queue)
    ends: list[tuple[float, Shape]] = []
    for worker in running:
        current = worker.current() if worker.state == "ready" else None
        mean = None if current is None else execution.runtimes.mean_s(current[0].run.raw)
        if current is not None and mean is not None and worker.shape is not None and now - current[2] <= mean:
            ends.append((current[2] + mean - now, worker.shape))
    at_s = 0.0
    for end_s, shape in [(0.0, None), *sorted(ends, key=lambda pair: pair[0])]:
        at_s = end_s
        if shape is not None:
            account.give(shape)
        while waiting and account.fits(waiting[0]):
            account.take(waiting.pop(0))
        if not waiting:
            return at_s
    return None


def _again(shape: Shape, releasable: Collection[str]) -> Shape:
    """What something that stands still takes when it goes on."""
    return Shape(shape.python, tuple((name, amount) for name, amount in shape.needs if name in releasable), ())


def runs_there(worker: Worker, now: float) -> tuple[bytes, int, str, int, float] | None:
    """(batch, index, name, class, seconds for which it has run) of what a worker runs."""
    current = worker.current()
    if current is None:
        return None
    part, index, began = current
    ran_s = now - began - (worker.paused[1] if worker.paused[0] == (part.run.number, index) else 0.0)
    return part.run.batch, index, part.run.spec.name, class_of(worker), max(0.0, ran_s)
