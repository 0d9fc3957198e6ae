"""A wall clock that is set back by a day under a running fleet: nothing is lost, and who starts again belongs to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import swarm
from swarm.client.sync import Fleet
from tests.e2e.fleets import ROOT, Nodes, until

CLOCK = """
import os, time

_real, _file = time.time, os.environ["TEST_CLOCK_FILE"]

def _set_time():
    try:
        with open(_file) as file:
            return _real() + float(file.read())
    except (OSError, ValueError):
        return _real()

time.time = _set_time
"""
"""For `sitecustomize`: this process's wall clock is off by what the file says, now and whenever it changes."""
DAY_S = 86_400.0


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CLOCK)
    (tmp_path / "offset").write_text("0")
    nodes = Nodes(
        tmp_path / "m",
        settings={"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "TEST_CLOCK_FILE": str(tmp_path / "offset")},
    )
    yield nodes
    assert set(nodes.stop_all().values()) == {0}


def until_there(path: str) -> tuple[int, float]:
    """Runs until a file is there. Which attempt it is, and the wall clock there."""
    while not os.path.exists(path):
        time.sleep(0.02)
    task = swarm.current_task()
    assert task is not None
    return task.attempt, time.time()


def states(fleet: Fleet) -> dict[str, str]:
    return {member["name"]: member["state"] for member in fleet.members()}


def test_a_clock_that_is_set_back_a_day(nodes: Nodes, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    nodes.start("oak", "--workers", "1", "--label", "home")
    nodes.start("elm", "--workers", "1", "--label", "away")
    with nodes.connect("oak") as fleet:
        until(lambda: states(fleet) == {"oak": "alive", "elm": "alive"}, 60, "two members")
        here = fleet.submit(until_there, str(gate), labels=["home"], rerun=False)
        away = fleet.submit(until_there, str(gate), labels=["away"], rerun=False)
        until(lambda: here.running() and away.running(), 60, "both run")

        (tmp_path / "offset").write_text(str(-DAY_S))
        ends = time.monotonic() + 8  # longer than it takes to find a member dead
        while time.monotonic() < ends:
            # Who has no time to answer may be suspected; who is not believed is gone.
            now = states(fleet)
            assert now.keys() == {"oak", "elm"} and set(now.values()) <= {"alive", "suspect"}, "certificates count"
            time.sleep(0.5)
        until(lambda: states(fleet) == {"oak": "alive", "elm": "alive"}, 60, "both are believed")
        up_s = fleet.query("status")["node"]["up_s"]
        assert 0 < up_s < 3600, "durations are not the wall clock's"
        said = subprocess.run(
            [sys.executable, "-m", "nodes.cli", "status", "--json"], env=nodes.env, capture_output=True, timeout=60
        )
        assert said.returncode == 0, said.stderr
        assert len(json.loads(said.stdout)["members"]) == 2, "a new client, whose clock is set back too, is let in"

        nodes.kill("elm")
        with pytest.raises(swarm.TaskLost):
            away.result(60)
        nodes.start("elm", "--workers", "1", "--label", "away")
        until(lambda: states(fleet) == {"oak": "alive", "elm": "alive"}, 60, "it is back, though its clock says before")
        assert "replayed" not in nodes.log("oak")
        again = fleet.submit(until_there, str(gate), labels=["away"])
        gate.touch()
        attempt, wall_s = again.result(60)
        assert attempt == 1 and wall_s < time.time() - DAY_S / 2, "the clock there is what this test is about"
        assert here.result(60)[0] == 1, "and what ran the whole time ran undisturbed"
