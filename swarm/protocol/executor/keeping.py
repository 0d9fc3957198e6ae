"""Slots that are kept for who is next in line.

What is next may not fit yet, since it takes several slots, or since tasks of another shape follow each other in the slots that there are.
Whoever is behind it and fits would take each slot that becomes free, and it would wait for ever. Conservative backfilling (D. Feitelson,
A. Weil, "Utilization and predictability in scheduling the IBM SP2 with backfilling", 1998) lets pass only what delays nobody before it, but
needs to be told how long things take. Here nobody says so; there are averages, which tell short tasks from others.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarm.protocol.executor.runs import Run, Worker
from swarm.protocol.executor.suspension import AGEING_S
from swarm.protocol.resources import SLACK, Account, Shape
from swarm.protocol.runtimes import Runtimes

SHORT_S = 0.020
"""Tasks that are shorter on average make room in a moment, if nothing is handed out behind them."""


def keeps_slots(
    account: Account, workers: Iterable[Worker], runs: Iterable[Run], runtimes: Runtimes, shape: Shape, waited_s: float
) -> bool:
    """Whether nothing that is behind the head of this shape may begin before it, so that slots gather for it.

    It does where slots are all that it lacks, and would be enough when the short tasks have ended that run: then others wait for a moment. Where
    long ones run it does once it has waited for as long as it takes to rise by a class; until then others may pass. And not while tasks wait
    that a task has submitted: what runs may be waiting for one of them, in a way that nobody sees.
    """
    slots = 0.0
    for name, amount in shape.needs:
        if name == "cpu":
            slots = amount
        elif account.used.get(name, 0.0) + amount > account.limit(name) + SLACK:
            return False  # a memory, or a GPU, that is taken: slots are of no use to it
    if not slots or account.fits(shape):
        return False  # it waits for a worker, or for nothing
    if any(run.spec.depth and run.columns.ready for run in runs):
        return False
    if waited_s >= AGEING_S:
        return True
    long = 0.0
    for worker in workers:
        if worker.shape is None or not worker.slices or worker.state not in ("ready", "stopping"):
            continue
        means = [runtimes.mean_s(part.run.raw) for part in worker.slices.values()]
        if any(mean is None or mean >= SHORT_S for mean in means):
            long += worker.shape.cpu
    return long + slots <= account.limit("cpu") + SLACK
