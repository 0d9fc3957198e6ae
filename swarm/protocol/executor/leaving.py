"""Leaving: tasks that are asked to end at their next safe point, so that they can go on elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kernels.tasks import TaskColumns
from swarm.protocol.executor.effects import HandInput
from swarm.protocol.executor.runs import Run, Worker
from swarm.protocol.executor.table import RunTable

SAVE = "save"
"""What a worker is handed for a task: 1 to end at its next safe point, 0 to go on."""


def asked(workers: Iterable[Worker], run: Run, ranges: list[tuple[int, int]] | None, save: bool) -> list[HandInput]:
    """The workers that have tasks of these ranges in hand are told. Nobody, where the tasks offer no checkpoints."""
    if not run.spec.checkpoint:
        return []
    wanted = [(run.first, run.first + run.calls.count)] if ranges is None else ranges
    return [
        HandInput(worker.number, run.number, index, SAVE, int(save))
        for worker in workers
        if worker.page is not None and worker.state in ("ready", "blocked", "suspended")
        for part in worker.slices.values()
        if part.run is run
        for begin, end in run.outstanding(part.token)
        for index in range(begin, end)
        if any(start <= index < stop for start, stop in wanted)
    ]


def still_here(leaving: Mapping[tuple[int, int], Run], runs: RunTable) -> dict[tuple[int, int], Run]:
    """Those of the tasks that were asked to leave which have not ended."""
    return {
        (number, index): run for (number, index), run in leaving.items()
        if run in runs and run.columns.state(index - run.first) != TaskColumns.DONE
    }  # fmt: skip


def saved_within(saved: Any, start: int, stop: int) -> list[Any]:
    """Of the states that came with a run those of the tasks from `start` to `stop`: rows of (index, how often moved, state)."""
    return [row for row in saved if start <= row[0] < stop]


def check_saved(saved: Any) -> None:
    """ValueError for states that no owner would send."""
    if not isinstance(saved, list | tuple):
        raise ValueError("states to go on from are not listed")
    for row in saved:
        if not isinstance(row, list | tuple) or len(row) != 3:
            raise ValueError("a state to go on from is not (index, how often moved, state)")
        index, moved, state = row
        if type(index) is not int or type(moved) is not int or moved < 1 or not isinstance(state, bytes):
            raise ValueError("a state to go on from has no index, count or content")
