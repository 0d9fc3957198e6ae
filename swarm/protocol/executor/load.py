"""What a node tells of its load, by class and by task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from swarm.protocol import ids
from swarm.protocol.executor.runs import Worker
from swarm.protocol.executor.suspension import class_of, slots_that_yield
from swarm.protocol.executor.table import RunTable
from swarm.protocol.resources import SLACK, Account, ReadyShapes
from swarm.protocol.states import Priority

NOBODY_WAITS = [0] * len(Priority)


def load_of(
    account: Account, ready: ReadyShapes, workers: Collection[Worker], yields: list[float], *, draining: bool
) -> dict[str, Any]:
    """Free slots ("free"), tasks waiting ("wait"), tasks that wait for other tasks ("blocked"), slots withheld ("off"), slots
    in use beyond those that are offered ("over"), slots that yield to more urgent work ("low"): what anybody is told."""
    blocked = sum(1 for worker in workers if worker.state == "blocked")
    load: dict[str, Any] = {
        "free": round(account.free_cpu, 3),
        "wait": ready.tasks,
        "drain": draining,
        "blocked": blocked,
    }
    if account.withheld:
        load["off"] = account.withheld
    if account.over_cpu > SLACK:
        load["over"] = round(account.over_cpu, 3)
    if any(yields):
        load["low"] = yields
    return load


def load_to(load: Mapping[str, Any], runs: RunTable, owner: bytes, waiting: list[int]) -> dict[str, Any]:
    """The same to an owner, with how many tasks of others are here ("others"), and how many of its own wait, by class ("yours"): all of
    its own it counts itself, and better, since a report of what is free is older than what it has sent or taken back since."""
    told = dict(load, others=runs.others(owner), yours=waiting)
    if "low" in load:
        urgent = runs.urgent_of(owner)
        if urgent:
            told["urgent"] = urgent
    return told


def waiting_by_owner(ready: ReadyShapes, runs: RunTable) -> dict[bytes, list[int]]:
    """Tasks that wait for a slot, by owner and by the class of their runs."""
    found: dict[bytes, list[int]] = {}
    if ready.tasks:
        for run in runs.by_number.values():
            if run.columns.ready:
                found.setdefault(run.owner, [0] * len(Priority))[run.priority] += run.columns.ready
    return found


def yielding(workers: Collection[Worker], ready: ReadyShapes, runs: RunTable, now: float) -> list[float]:
    """Slots whose tasks make way for more urgent ones: of class LOW, STANDARD, HIGH."""
    waiting = [] if not runs.any_urgent or not ready.tasks else [
        (run, run.columns.ready) for run in runs.by_number.values()
        if run.priority >= Priority.HIGH and run.columns.ready
    ]  # fmt: skip
    return slots_that_yield(workers, waiting, now)


def classes(workers: Collection[Worker], ready: ReadyShapes) -> list[tuple[int, int, int]]:
    """(waiting, running, suspended) of each class, LOW first: tasks that no worker has, and workers that have some."""
    running, standing = [0] * len(Priority), [0] * len(Priority)
    for worker in workers:
        if worker.suspension is not None:
            standing[worker.suspension.priority] += 1
        elif worker.slices:
            running[class_of(worker)] += 1
    return [(ready.waiting(priority), running[priority], standing[priority]) for priority in Priority]


def running_tasks(workers: Collection[Worker]) -> list[tuple[bytes, int, int, float]]:
    """(batch, index, worker, started at) of what runs now."""
    found = []
    for worker in workers:
        current = worker.current()
        if current is not None:
            found.append((current[0].run.batch, current[1], worker.number, current[2]))
    return found


def waiting_tasks(workers: Collection[Worker]) -> dict[bytes, int]:
    """Tasks that run here and wait for others, with their classes now."""
    found = {}
    for worker in workers:
        current = worker.current() if worker.state == "blocked" else None
        if current is not None:
            found[ids.task_id(current[0].run.batch, current[1])] = class_of(worker)
    return found
