"""What is said of tasks of one batch of which some wait, and of one that waits in line at another node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nodes.answers import Answers
from swarm.protocol.states import Status
from tests.unit.protocol.owner import ME, OAK, Owner, report_of


def answers() -> Answers:
    it = Answers.__new__(Answers)
    execution = SimpleNamespace(running_tasks=list)
    it._node = SimpleNamespace(name="me", fabric=SimpleNamespace(execution=execution))  # type: ignore[assignment]
    return it


def told(batch: Any, index: int) -> list[str]:
    return [line.partition("ago: ")[2] for line in answers()._explain(batch, index)[1:] if "ago: " in line]


def test_a_task_that_has_its_slot_is_not_said_to_wait_since_others_of_its_batch_do() -> None:
    owner = Owner(slots=1)
    batch = owner.submit(1, 3)
    assert told(batch, 0) == ["submitted", "placed on me"]
    assert told(batch, 1) == told(batch, 2) == ["submitted", "waits"]
    (first,) = owner.taken()
    owner.it.outcomes(owner.now, ME, first.dispatch, *report_of({0: Status.OK}, run_us=1_000_000))
    owner.take()
    assert told(batch, 0) == ["submitted", "placed on me"]
    assert told(batch, 1) == ["submitted", "waits", "placed on me"] and told(batch, 2)[-1] == "waits"
    (second,) = owner.taken()
    owner.report(second, {1: Status.RETURNED})
    owner.wait(1.0)
    assert told(batch, 1)[:3] == ["submitted", "waits", "placed on me"]


def test_what_waits_in_line_elsewhere_is_not_said_to_run() -> None:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak")
    owner.it.executor_load(owner.now, OAK, {"free": 0.0, "wait": 9, "others": 11, "yours": [0, 0, 0, 0]})
    batch = owner.submit(1)
    assert batch is not None
    shown = answers()._task(batch, 0, {})
    assert (shown["state"], shown["node"]) == ("placed", "oak")
    assert any("waits there for its turn" in line for line in answers()._explain(batch, 0))
