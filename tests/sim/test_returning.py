"""Clients that come back after their leases, to what may not be repeated: that the simulator sees what must not become of it."""

from __future__ import annotations

from typing import Any

import pytest

from kernels.batch import OutcomeBuilder, Outcomes
from swarm.protocol.owner import returning
from swarm.protocol.states import Status
from tests.sim.fabric.scenarios import run


def some_run_fails(words: str, seeds: int = 60) -> None:
    for seed in range(seeds):
        try:
            run("returning", seed)
        except AssertionError as error:
            assert words in str(error), error
            return
    pytest.fail(f"{words!r} was not seen in {seeds} runs")


def test_the_checker_sees_tasks_that_are_told_to_be_cancelled_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_it_ended(batch: Any) -> Any:
        return batch.outcomes[0] if batch.may_start and len(batch.outcomes) == 1 else honest(batch)

    honest = returning.kept
    monkeypatch.setattr(returning, "kept", as_it_ended)
    some_run_fails("nobody cancelled it")


def test_the_checker_sees_what_had_begun_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_the_lost(batch: Any) -> Any:
        found = honest(batch)
        if found is None:
            return None
        builder, count = OutcomeBuilder(), 0
        for row in range(found[0].count):
            if found[0].status(row) != Status.LOST:
                builder.add(found[0].index(row), found[0].status(row), 0, bytes(found[0].payload(row)))
                count += 1
        body = builder.take()
        return (Outcomes(body, count), body) if count else None

    honest = returning.kept
    monkeypatch.setattr(returning, "kept", without_the_lost)
    some_run_fails("began again")
