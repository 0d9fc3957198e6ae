"""Tasks that are moved without being asked, under faults, cancels, suspensions and moves by hand at once; and that what must hold of
it is seen when it does not."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from swarm.protocol.owner.moving import Moving
from swarm.protocol.owner.relief import PREEMPTION, SLOTS, SPEED, Relief
from swarm.protocol.placement import Executor
from tests.sim.fabric.scenarios import Run, run

SEEDS = int(os.environ.get("RELIEF_SEEDS", "6"))
"""Of each schedule, beside those of `tests.sim.test_fabric`."""


@pytest.mark.parametrize("kind", ["relief", "relieving"])
def test_tasks_are_moved_for_each_reason_and_all_that_holds_of_moves_holds_of_these(kind: str) -> None:
    moves: Counter[str] = Counter()
    resumed = 0
    for seed in range(1000, 1000 + 2 * SEEDS):
        it = Run(kind, seed)
        it.go()
        for (why, result), count in it.world.truth.moves_of.items():
            moves[why] += count if result == "moved" else 0
        resumed += it.world.truth.resumed
    assert moves[PREEMPTION] and moves[SLOTS], moves
    assert moves[SPEED] or kind != "relief", moves
    assert resumed >= (moves[PREEMPTION] + moves[SLOTS] + moves[SPEED]) / 2, (moves, resumed)


def some_run_fails(kind: str, words: str, seeds: int = 60) -> None:
    for seed in range(seeds):
        try:
            run(kind, seed)
        except AssertionError as error:
            assert words in str(error), error
            return
    pytest.fail(f"{words!r} was not seen in {seeds} runs")


def test_the_checker_sees_tasks_that_are_moved_to_and_fro(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Relief._ended

    def forgetful(self: Relief, now: float, it: Any, reason: str) -> None:
        honest(self, now, it, reason)
        self._records.clear()
        self._left.clear()

    monkeypatch.setattr(Relief, "_ended", forgetful)
    some_run_fails("relief", "it was moved only just")


def test_the_checker_sees_a_move_to_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def anybody(self: Relief, now: float, shape: Any, but: Executor | None) -> Iterator[Executor]:
        yield from (it for _, it in sorted(self._placing.executors.items()) if it is not but and it.linked)

    monkeypatch.setattr(Relief, "_with_room", anybody)
    some_run_fails("relief", "there is no room")


def test_the_checker_sees_a_task_that_is_handed_on_before_it_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Moving.relieve

    def hasty(self: Moving, now: float, dispatch: Any, index: int, *how: Any) -> None:
        honest(self, now, dispatch, index, *how)
        dispatch.batch.columns.release(index)
        self._placing.push(dispatch.batch, 0.0, 1)
        self._placing.returned(dispatch, 1)

    monkeypatch.setattr(Moving, "relieve", hasty)
    some_run_fails("relief", "runs twice, under two tokens")


def test_the_checker_sees_a_cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relief, "_leaves", lambda self, source: False)
    some_run_fails("relief", "others are leaving", 200)
