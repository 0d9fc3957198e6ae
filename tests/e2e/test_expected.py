"""Tasks of which it is told how long they take, on a real node: the longest of what waits goes first."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.tasks import task
from tests.e2e.fleets import Nodes, until


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path / "w", settings={"SWARM_LEDGER_ENABLED": "false"})
    yield nodes
    assert set(nodes.stop_all().values()) <= {0}


def blocks(folder: str) -> None:
    """Runs until a file is there."""
    (Path(folder) / "begun").touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)


@task(expected_s=1.0)
def notes(folder: str, what: int) -> None:
    """Writes down that it ran."""
    with open(Path(folder) / "order", "a") as file:
        file.write(f"{what}\n")


def order(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "order").read_text().splitlines()]


def test_the_longest_of_what_waits_goes_first(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("oak", "--workers", "1")
    here = str(tmp_path)
    with nodes.connect("oak") as fleet:
        blocked = fleet.submit(blocks, here)
        until(lambda: (tmp_path / "begun").exists(), 30, "the only slot is taken")
        futures = [fleet.submit(notes, here, what, expected_s=what) for what in (3, 30, 7, 300)]
        futures.append(fleet.submit(notes, here, 1))
        until(lambda: fleet.query("status")["tasks"]["waiting"] == 5, 30, "they wait")
        (tmp_path / "go").touch()
        for one in (blocked, *futures):
            one.result(60)
        assert order(tmp_path) == [300, 30, 7, 3, 1]


def test_a_map_may_tell_it_of_each_item_and_a_command_of_itself(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("oak", "--workers", "1")
    here = str(tmp_path)
    with nodes.connect("oak") as fleet:
        blocked = fleet.submit(blocks, here)
        until(lambda: (tmp_path / "begun").exists(), 30, "the only slot is taken")
        results = fleet.map(notes, [here] * 4, (5, 80, 20, 1), expected_s=lambda folder, what: what)
        until(lambda: fleet.query("status")["tasks"]["waiting"] == 4, 30, "they wait")
        (tmp_path / "go").touch()
        assert list(results) == [None] * 4
        blocked.result(60)
        assert order(tmp_path) == [80, 20, 5, 1]
    command = [sys.executable, "-m", "nodes.cli", "run", "--expected", "5m", "--", "echo", "ran"]
    ran = subprocess.run(command, env=nodes.env, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0 and ran.stdout == "ran\n", ran
