"""Tasks that move between hosts while they run, and tasks that stood still on a host that is gone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import swarm
from tests.lab.lan import Lan
from tests.lan.fleets import PATIENCE_S, LanFleet, until

pytestmark = [pytest.mark.lan, pytest.mark.timeout(300)]

HOSTS = ["h1", "h2", "h3"]


@pytest.fixture
def three(lan: Lan, tmp_path: Path) -> Iterator[LanFleet]:
    """Two of three are there; the third is a member that can be started."""
    fleet = LanFleet(lan, tmp_path / "f", flags=("--no-http-enabled", "--no-ledger-enabled"))
    fleet.start("h1")
    fleet.join(fleet.token("h1", "--uses", "2"), "h2", "h3")
    fleet.start("h2")
    fleet.all_know(HOSTS[:2], PATIENCE_S)
    yield fleet
    lan.heal()
    assert set(fleet.stop().values()) == {0}


def note(there: Path, what: str) -> None:
    current = swarm.current_task()
    assert current is not None
    with open(there / what, "a") as file:
        file.write(f"{current.text} {current.node}\n")


def noted(there: Path, what: str) -> list[list[str]]:
    path = there / what
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@swarm.task(checkpoint=True)
def carries(there: Path, size: int) -> tuple[int, int, int]:
    """Counts, with a state of some size."""
    steps, total, ballast = swarm.restore((0, 0, b""))
    ballast = ballast or os.urandom(1) * size
    note(there, "began")
    while not (there / "stop").exists():
        steps += 1
        total += steps
        swarm.checkpoint(lambda: (steps, total, ballast))
    assert total == steps * (steps + 1) // 2
    return steps, len(ballast), len(set(ballast))


def plods(there: Path) -> str:
    note(there, "began")
    while not (there / "stop").exists():
        time.sleep(0.01)
    return "over"


def holds(there: Path) -> str:
    note(there, "urgent")
    while not (there / "stop").exists():
        time.sleep(0.01)
    return "held"


@pytest.mark.parametrize("size", [100, 5_000_000])
def test_a_task_goes_from_host_to_host_and_on_where_it_stood(three: LanFleet, tmp_path: Path, size: int) -> None:
    fleet = three.client("h1")
    future = fleet.submit(carries, tmp_path, size)
    until(lambda: noted(tmp_path, "began"), PATIENCE_S)
    assert noted(tmp_path, "began")[0][1] == "h1"
    answer = fleet.move(future, "h2")
    print(f"a task with {size} bytes of state from host to host: {answer['took_s'] * 1e3:.1f} ms")
    until(lambda: len(noted(tmp_path, "began")) == 2, PATIENCE_S)
    three.kill("h2")
    until(lambda: len(noted(tmp_path, "began")) == 3, PATIENCE_S)
    (tmp_path / "stop").touch()
    steps, length, kinds = future.result(PATIENCE_S)
    assert steps > 0 and (length, kinds) == (size, 1), "it went on from the state that its owner had kept"
    assert [node for _, node in noted(tmp_path, "began")] == ["h1", "h2", "h1"]


def test_what_stood_still_on_a_host_that_dies_runs_elsewhere(three: LanFleet, tmp_path: Path) -> None:
    fleet = three.client("h1")
    low = [fleet.submit(plods, tmp_path, priority=swarm.LOW) for _ in range(2)]
    until(lambda: len(noted(tmp_path, "began")) == 2, PATIENCE_S)
    assert {node for _, node in noted(tmp_path, "began")} == {"h1", "h2"}
    urgent = [fleet.submit(holds, tmp_path, priority=swarm.CRITICAL) for _ in range(2)]
    until(lambda: len(noted(tmp_path, "urgent")) == 2, PATIENCE_S)
    stood = next(task for task, node in noted(tmp_path, "began") if node == "h2")
    until(lambda: fleet.query("task", task=stood)["state"] == "suspended", PATIENCE_S)
    three.kill("h2")
    three.start("h3")
    until(
        lambda: [stood, "h3"] in noted(tmp_path, "began") or ["h3"] in [one[1:] for one in noted(tmp_path, "urgent")],
        PATIENCE_S,
    )
    (tmp_path / "stop").touch()
    assert [one.result(PATIENCE_S) for one in low] == ["over"] * 2
    assert [one.result(PATIENCE_S) for one in urgent] == ["held"] * 2
    places = [node for task, node in noted(tmp_path, "began") if task == stood]
    assert places[0] == "h2" and len(places) == 2 and places[1] in ("h1", "h3"), places
