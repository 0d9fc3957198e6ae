"""Tasks that go on elsewhere without being asked, on real nodes: off a node where they stand still, and off one that its owner uses."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import swarm
from swarm.client.sync import Fleet
from swarm.protocol.owner.relief_bounds import ReliefBounds
from tests.e2e.fleets import Nodes, until

QUIET = {"SWARM_LEDGER_ENABLED": "false", "SWARM_HTTP_ENABLED": "false"}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path / "w", settings=QUIET)
    yield nodes
    assert set(nodes.stop_all().values()) <= {0}


@swarm.task(checkpoint=True)
def counts(there: Path, name: str = "counts") -> tuple[int, int, list[str]]:
    """Counts until it is told to stop, in steps whose sum is known, and says on which nodes; idle for most of the time."""
    steps, total, path = swarm.restore((0, 0, []))
    path = [*path, swarm.current_task().node]
    with open(there / name, "a") as file:
        file.write(f"{path[-1]}\n")
    while not (there / "stop").exists():
        steps += 1
        total += steps
        time.sleep(0.01)
        swarm.checkpoint(lambda: (steps, total, path))
    return steps, total, path


def waits_for(path: Path, begun: Path) -> str:
    """Runs until a file is there."""
    begun.touch()
    while not path.exists():
        time.sleep(0.01)
    return "over"


def lines(there: Path, name: str = "counts") -> list[str]:
    return (there / name).read_text().split() if (there / name).exists() else []


def explained(nodes: Nodes, id: str) -> str:
    return nodes.cli("task", "explain", id).stdout.decode()


def all_alive(fleet: Fleet, count: int) -> None:
    until(lambda: sum(one["state"] == "alive" for one in fleet.members()) == count, 60)


def displaced(nodes: Nodes, fleet: Fleet, tmp_path: Path, **options: object) -> tuple[object, object, object]:
    """A LOW task that stands still on oak for a critical one, while elm is taken by a third."""
    block = fleet.submit(waits_for, tmp_path / "free", tmp_path / "block", labels=("second",))
    until((tmp_path / "block").exists, 60)
    low = fleet.submit(counts, tmp_path, priority=swarm.LOW, **options)
    until(lambda: lines(tmp_path) == ["oak"], 60)
    urgent = fleet.submit(waits_for, tmp_path / "calm", tmp_path / "urgent", priority=swarm.CRITICAL, labels=("first",))
    until((tmp_path / "urgent").exists, 60)
    return block, low, urgent


def test_what_stands_still_goes_on_at_the_first_node_with_a_free_slot(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path / "w", settings={"SWARM_LEDGER_ENABLED": "false", "SWARM_HTTP_PORT": "0"})
    try:
        nodes.start("oak", "--workers", "1", "--label", "first")
        nodes.start("elm", "--workers", "1", "--label", "second")
        with nodes.connect("oak") as fleet:
            all_alive(fleet, 2)
            block, low, urgent = displaced(nodes, fleet, tmp_path)
            time.sleep(ReliefBounds().stood_s + 1.0)
            assert lines(tmp_path) == ["oak"] and "suspended on oak" in explained(nodes, low.id), "elm is full"
            (tmp_path / "free").touch()
            assert block.result(60) == "over"
            until(lambda: lines(tmp_path) == ["oak", "elm"], 60, "it goes on at elm")
            assert not urgent.done(), "and what displaced it still runs"
            text = explained(nodes, low.id)
            assert "moved on elm" in text and "it had stood still for" in text and "waits_for is more urgent" in text
            with urllib.request.urlopen(f"{fleet.query('status')['node']['http']}/metrics", timeout=60) as page:
                told = [line for line in page.read().decode().splitlines() if line.startswith("swarm_task_moves_total")]
            assert 'swarm_task_moves_total{result="moved",why="preemption"} 1.0' in told, told
            (tmp_path / "calm").touch()
            (tmp_path / "stop").touch()
            steps, total, path = low.result(60)
            assert total == steps * (steps + 1) // 2 and path == ["oak", "elm"]
            assert urgent.result(60) == "over"
    finally:
        assert set(nodes.stop_all().values()) <= {0}


def test_it_goes_on_where_it_stood_when_that_is_over_first_and_where_nothing_is_to_be_moved(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path / "w", settings=QUIET | {"SWARM_MOVE_TASKS": "false"})
    try:
        nodes.start("oak", "--workers", "1", "--label", "first")
        nodes.start("elm", "--workers", "1", "--label", "second")
        with nodes.connect("oak") as fleet:
            all_alive(fleet, 2)
            block, low, urgent = displaced(nodes, fleet, tmp_path)
            (tmp_path / "free").touch()
            assert block.result(60) == "over"
            time.sleep(ReliefBounds().stood_s + 1.5)
            (tmp_path / "calm").touch()
            assert urgent.result(60) == "over"
            (tmp_path / "stop").touch()
            assert low.result(60)[2] == ["oak"]
    finally:
        assert set(nodes.stop_all().values()) <= {0}


def test_a_node_that_its_owner_uses_is_relieved_of_what_runs_there(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path / "w", settings=QUIET)
    others: list[subprocess.Popen[bytes]] = []
    try:
        nodes.env["SWARM_YIELD_TO_OWNER"] = "true"
        nodes.start("oak", "--workers", "3")
        with nodes.connect("oak") as fleet:
            low = [fleet.submit(counts, tmp_path, f"c{number}") for number in range(3)]
            until(lambda: all(lines(tmp_path, f"c{number}") for number in range(3)), 60)
            nodes.env["SWARM_YIELD_TO_OWNER"] = "false"
            nodes.start("elm", "--workers", "3")
            all_alive(fleet, 2)
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
            until(lambda: any("elm" in lines(tmp_path, f"c{number}") for number in range(3)), 60, "one goes to elm")
            moved = next(one for number, one in enumerate(low) if "elm" in lines(tmp_path, f"c{number}"))
            text = explained(nodes, moved.id)
            assert "leaves oak" in text or "leaves on oak" in text, text
            assert "moved on elm" in text and "oak offers" in text and "slots now, and ran" in text, text
            (tmp_path / "stop").touch()
            for one in low:
                steps, total, path = one.result(60)
                assert total == steps * (steps + 1) // 2 and path in (["oak"], ["oak", "elm"]), (
                    "nothing goes to and fro"
                )
    finally:
        for one in others:
            one.kill()
            one.wait()
        assert set(nodes.stop_all().values()) <= {0}


def paced(number: int) -> int:
    """Takes four times as long on oak."""
    time.sleep(0.08 if swarm.current_task().node == "oak" else 0.02)
    return number


def test_what_runs_on_a_slow_node_goes_on_at_a_faster_one(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("oak", "--workers", "1")
    nodes.start("elm", "--workers", "1", "--label", "fast")
    with nodes.connect("oak") as fleet:
        all_alive(fleet, 2)

        def ratio() -> float:
            """How many times as fast elm is, as far as was measured."""
            list(fleet.map(paced, range(100), chunksize=1, ordered=False))
            speeds = {one["name"]: one.get("speed", 1.0) for one in fleet.query("status")["members"]}
            return float(speeds["elm"] / speeds["oak"])

        until(lambda: ratio() >= 1.6, 120, "the speeds are known")
        block = fleet.submit(waits_for, tmp_path / "free", tmp_path / "block", labels=("fast",))
        until((tmp_path / "block").exists, 60)
        task = fleet.submit(counts, tmp_path)
        until(lambda: lines(tmp_path) == ["oak"], 60, "it begins on oak, since elm is full")
        (tmp_path / "free").touch()
        assert block.result(60) == "over"
        until(lambda: lines(tmp_path) == ["oak", "elm"], 60, "it goes on at elm")
        text = explained(nodes, task.id)
        assert "moved on elm" in text and "elm was idle, and is" in text and "times as fast" in text, text
        (tmp_path / "stop").touch()
        steps, total, path = task.result(60)
        assert total == steps * (steps + 1) // 2 and path == ["oak", "elm"]
