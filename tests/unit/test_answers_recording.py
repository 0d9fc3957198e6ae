"""What is said of a durable task whose outcome is not committed yet: nothing of the outcome."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nodes.answers import Answers
from swarm.protocol.states import Status
from tests.unit.protocol.durable_owner import DurableOwner, Log


def said(batch: Any) -> tuple[dict[str, Any], list[str]]:
    answers = Answers.__new__(Answers)
    execution = SimpleNamespace(running_tasks=list)
    answers._node = SimpleNamespace(name="me", fabric=SimpleNamespace(execution=execution))  # type: ignore[assignment]
    return answers._task(batch, 0, {}), answers._explain(batch, 0)


def test_nothing_is_told_of_an_outcome_before_it_is_committed() -> None:
    owner, log = DurableOwner(), Log()
    log.lead(owner)
    batch = owner.hand(1)
    owner.report(owner.taken()[0], {0: Status.FAILED})
    shown, lines = said(batch)
    assert shown["state"] == "recording" and "message" not in shown and "run_s" not in shown
    assert not [line for line in lines if "failed" in line]
    log.commit()
    shown, lines = said(batch)
    assert shown["state"] == "failed" and [line for line in lines if "failed" in line]


def test_who_took_a_batch_over_says_how_its_tasks_failed() -> None:
    first, second, log = DurableOwner(), DurableOwner(), Log()
    log.lead(first)
    first.hand(1)
    dispatch = first.taken()[0]
    first.it.cancel(first.now, dispatch.batch, None)
    first.take()
    first.report(dispatch, {0: Status.RETURNED})
    log.commit_all()
    log.lead(second)
    shown, _ = said(second.it.batches[dispatch.batch])
    assert (shown["state"], shown["message"]) == ("cancelled", "the task was cancelled")
