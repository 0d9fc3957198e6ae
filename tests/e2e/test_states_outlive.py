"""The state of a durable task is in its log: it goes on from there when its owner and the node that ran it are both gone."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

import swarm
from swarm.client.sync import Fleet
from tests.e2e.fleets import Nodes, until


@swarm.task(checkpoint=True)
def carries(there: Path, size: int) -> tuple[int, int, list[str]]:
    """Counts, with ballast that only the first attempt can make."""
    steps, ballast, path = swarm.restore((0, b"", []))
    current = swarm.current_task()
    assert current is not None
    ballast = ballast or os.urandom(1) * size
    path = [*path, current.node]
    with open(there / "began", "a") as file:
        file.write(json.dumps([current.node, current.token, steps, len(ballast)]) + "\n")
    while not (there / "stop").exists():
        steps += 1
        time.sleep(0.002)
        swarm.checkpoint(lambda: (steps, ballast, path))
    return steps, len(set(ballast)), path


def began(there: Path) -> list[list[object]]:
    path = there / "began"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_out(fleet: Fleet, task: str) -> bool:
    try:
        return fleet.query("task", task=task)["state"] in ("placed", "running")
    except swarm.NotFound:
        return False


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_moved_task_goes_on_from_its_state_when_its_owner_and_its_node_are_gone(tmp_path: Path, size: int) -> None:
    nodes = Nodes(tmp_path / "w", settings={"SWARM_HTTP_ENABLED": "false"})
    names = ("ash", "oak", "elm")
    flags = {name: ("--workers", "1", "--ledger-zone", f"zone-{name}") for name in names}
    try:
        for name in names:
            nodes.start(name, *flags[name])
        with nodes.connect("ash") as fleet:
            until(
                lambda: any(
                    one["home_name"] == "ash" and sorted(one["voters"]) == sorted(names)
                    for one in fleet.query("status")["ledger"]["groups"]
                ),
                60,
            )
            future = fleet.submit(carries, tmp_path, size, durability="fleet")
            until(lambda: len(began(tmp_path)) == 1, 60)
            time.sleep(0.3)
            task, first = future.id, str(began(tmp_path)[0][0])
            target = "oak" if first != "oak" else "elm"
            fleet.move(future, target)
            until(lambda: len(began(tmp_path)) == 2, 60)
            fleet.detach()
        moved = began(tmp_path)[1]
        assert moved[0] == target and moved[2] and moved[3] == size
        nodes.kill("ash")  # its owner, and leader of its log
        rest = next(name for name in ("oak", "elm") if name != target)
        with nodes.connect(rest) as fleet:
            until(lambda: is_out(fleet, task), 60, "somebody answers for it")
        nodes.start("ash", *flags["ash"])
        time.sleep(2.0)
        nodes.kill(target)  # where it runs
        until(lambda: len(began(tmp_path)) == 3, 90, "it is begun once more")
        again = began(tmp_path)[2]
        assert again[2] == moved[2] and again[3] == size, "from the state with which it had left"
        assert again[1] > moved[1], "under a greater token"
        with nodes.connect(rest) as fleet:
            attached = fleet.attach(task, timeout=60)
            (tmp_path / "stop").touch()
            steps, kinds, path = attached.result(timeout=60)
            assert steps >= moved[2] and kinds == 1 and path[:1] == [first] and len(path) == 2
    finally:
        nodes.stop_all()
