"""Tasks that go on at another node while they run, on real nodes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import swarm
from swarm.client.futures import Future
from swarm.client.sync import Fleet
from tests.e2e.fleets import Nodes, until


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path / "w", settings={"SWARM_LEDGER_ENABLED": "false", "SWARM_HTTP_ENABLED": "false"})
    yield nodes
    assert set(nodes.stop_all().values()) <= {0}


def note(there: Path, what: str) -> None:
    with open(there / what, "a") as file:
        file.write(f"{swarm.current_task().node} {os.getpid()}\n")


@swarm.task(checkpoint=True)
def counts(there: Path, rerun: bool = True) -> tuple[int, int, list[str]]:
    """Counts until it is told to stop, in steps whose sum is known, and says on which nodes."""
    steps, total, path = swarm.restore((0, 0, []))
    path = [*path, swarm.current_task().node]
    note(there, "began")
    try:
        while not (there / "stop").exists():
            steps += 1
            total += steps
            swarm.checkpoint(lambda: (steps, total, path))
    finally:
        note(there, "left")
    return steps, total, path


@swarm.task(checkpoint=True)
async def counts_async(there: Path) -> tuple[int, int, list[str]]:
    """The same, with others beside it in its process."""
    steps, total, path = swarm.restore((0, 0, []))
    path = [*path, swarm.current_task().node]
    note(there, "began")
    while not (there / "stop").exists():
        steps += 1
        total += steps
        await asyncio.sleep(0)
        swarm.checkpoint((steps, total, path))
    return steps, total, path


@swarm.task(checkpoint=True)
def never(there: Path) -> str:
    note(there, "began")
    while not (there / "stop").exists():
        time.sleep(0.01)
    return "over"


def began(there: Path, count: int = 1) -> None:
    until(lambda: (there / "began").exists() and len((there / "began").read_text().splitlines()) >= count, 60)


def pair(nodes: Nodes) -> None:
    for name in ("oak", "elm"):
        nodes.start(name, "--workers", "1")
    with nodes.connect("oak") as fleet:
        until(lambda: sum(one["state"] == "alive" for one in fleet.members()) == 2, 60)


def where(fleet: Fleet, future: Future) -> str:
    return str(fleet.query("task", task=future.id)["node"])


@pytest.mark.parametrize("fn", [counts, counts_async])
def test_a_task_goes_on_at_another_node_from_where_it_stood(nodes: Nodes, tmp_path: Path, fn: object) -> None:
    pair(nodes)
    with nodes.connect("oak") as fleet:
        future = fleet.submit(fn, tmp_path)
        began(tmp_path)
        answer = fleet.move(future, "elm")
        assert answer["node"] == "elm" and answer["took_s"] < 30
        began(tmp_path, 2)
        done = nodes.cli("task", "move", future.id[:10], "oak")
        assert done.returncode == 0 and b"goes on at oak" in done.stdout, done
        began(tmp_path, 3)
        lines = nodes.cli("task", "explain", future.id).stdout.decode()
        (tmp_path / "stop").touch()
        steps, total, path = future.result(60)
        assert total == steps * (steps + 1) // 2 and path == ["oak", "elm", "oak"]
        assert "moved on elm" in lines and "from oak" in lines and "moved on oak" in lines, lines


def reason(nodes: Nodes, *words: str) -> tuple[int, str]:
    done = nodes.cli("task", "move", "--json", *words)
    return done.returncode, json.loads(done.stdout)["reason"] if done.stdout else done.stderr.decode()


def test_what_is_not_moved_goes_on_and_the_status_says_why(nodes: Nodes, tmp_path: Path) -> None:
    pair(nodes)
    with nodes.connect("oak") as fleet:
        one = fleet.submit(never, tmp_path, needs={"memory": 1})
        began(tmp_path)
        there = where(fleet, one)
        other = "elm" if there == "oak" else "oak"
        assert reason(nodes, one.id, there) == (5, "there")
        code, words = reason(nodes, one.id, "ash")
        assert code == 6 and "no node 'ash'" in words
        code, words = reason(nodes, "zzzzzz", other)
        assert code == 6 and "no task" in words
        assert reason(nodes, one.id, other, "--within", "300ms") == (124, "late")
        (tmp_path / "more").mkdir()
        two = fleet.submit(never, tmp_path / "more", checkpoint=False)
        began(tmp_path / "more")
        assert reason(nodes, two.id, there) == (5, "no-checkpoint")
        assert reason(nodes, one.id, other) == (75, "busy")
        plain = nodes.cli("task", "move", one.id, other)
        assert plain.returncode == 75 and b"cannot take" in plain.stderr and not plain.stdout, plain
        with pytest.raises(swarm.MoveBusy, match="cannot take"):
            fleet.move(one, other)
        (tmp_path / "stop").touch()
        (tmp_path / "more" / "stop").touch()
        assert [one.result(60), two.result(60)] == ["over", "over"]
        assert reason(nodes, one.id, other) == (5, "not-running")
    assert (tmp_path / "began").read_text().count("\n") == 1, "it was never begun anew"


@swarm.task(checkpoint=True)
def unsavable(there: Path) -> str:
    note(there, "began")
    while not (there / "stop").exists():
        swarm.checkpoint(lambda: time.sleep.__self__ and (line for line in "generators are not sent"))
    return "over"


def test_a_state_that_cannot_be_sent_costs_the_move_and_not_the_task(nodes: Nodes, tmp_path: Path) -> None:
    pair(nodes)
    with nodes.connect("oak") as fleet:
        future = fleet.submit(unsavable, tmp_path)
        began(tmp_path)
        with pytest.raises(swarm.MoveRefused, match="cannot be sent") as refused:
            fleet.move(future, "elm")
        assert refused.value.reason == "unsaved"
        (tmp_path / "stop").touch()
        assert future.result(60) == "over"


def test_when_the_node_that_it_went_to_dies_it_goes_on_from_what_was_saved(nodes: Nodes, tmp_path: Path) -> None:
    pair(nodes)
    with nodes.connect("oak") as fleet:
        future = fleet.submit(counts, tmp_path)
        began(tmp_path)
        time.sleep(0.2)
        fleet.move(future, "elm")
        began(tmp_path, 2)
        time.sleep(0.2)
        nodes.kill("elm")
        began(tmp_path, 3)
        (tmp_path / "stop").touch()
        steps, total, path = future.result(60)
        assert total == steps * (steps + 1) // 2
        assert path == ["oak", "oak"], "what it did on elm is lost, what it did before is not"
        assert [line.split()[0] for line in (tmp_path / "began").read_text().splitlines()] == ["oak", "elm", "oak"]


@swarm.task(checkpoint=True)
def carries(there: Path, size: int) -> tuple[int, int, list[str]]:
    """Its state is large."""
    steps, ballast, path = swarm.restore((0, b"", []))
    ballast = ballast or os.urandom(1) * size
    path = [*path, swarm.current_task().node]
    note(there, "began")
    while not (there / "stop").exists():
        steps += 1
        swarm.checkpoint(lambda: (steps, ballast, path))
    return len(ballast), len(set(ballast)), path


@pytest.mark.parametrize("size", [100, 20_000_000])
def test_a_node_that_drains_has_its_tasks_go_on_elsewhere_with_all_their_state(
    nodes: Nodes, tmp_path: Path, size: int
) -> None:
    pair(nodes)
    with nodes.connect("oak") as fleet:
        (tmp_path / "other").mkdir()
        block = fleet.submit(never, tmp_path / "other", checkpoint=False)
        began(tmp_path / "other")
        future = fleet.submit(carries, tmp_path, size)
        began(tmp_path)
        assert (where(fleet, block), where(fleet, future)) == ("oak", "elm")
        (tmp_path / "other" / "stop").touch()
        assert block.result(60) == "over"
        answer = json.loads(nodes.cli("node", "drain", "elm", "--json", timeout_s=60).stdout)
        assert not answer["running"], answer
        assert nodes.stop("elm") == 0
        began(tmp_path, 2)
        (tmp_path / "stop").touch()
        assert future.result(60) == (size, 1, ["elm", "oak"])
        assert nodes.cli("task", "explain", future.id).stdout.count(b"moved on oak") == 1


@swarm.task(checkpoint=True)
def fenced(there: Path) -> tuple[int, int]:
    """Writes down under which token it runs."""
    steps, total = swarm.restore((0, 0))
    current = swarm.current_task()
    assert current is not None
    with open(there / "tokens", "a") as file:
        file.write(json.dumps([current.token, current.moved, current.attempt]) + "\n")
    note(there, "began")
    while not (there / "stop").exists():
        steps += 1
        total += steps
        swarm.checkpoint(lambda: (steps, total))
    return steps, total


def test_a_durable_task_is_moved_under_tokens_that_grow_and_outlives_its_owner(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path / "w", settings={"SWARM_HTTP_ENABLED": "false"})
    names = ("ash", "oak", "elm")
    try:
        for name in names:
            nodes.start(name, "--workers", "1", "--ledger-zone", f"zone-{name}")
        with nodes.connect("ash") as fleet:
            until(
                lambda: any(
                    one["home_name"] == "ash" and sorted(one["voters"]) == sorted(names)
                    for one in fleet.query("status")["ledger"]["groups"]
                ),
                60,
            )
            future = fleet.submit(fenced, tmp_path, durability="fleet")
            began(tmp_path)
            task = future.id
            for count, target in enumerate(("oak", "elm", "oak"), 2):
                fleet.move(future, target)
                began(tmp_path, count)
            fleet.detach()
        tokens = [json.loads(line) for line in (tmp_path / "tokens").read_text().splitlines()]
        assert [moved for _, moved, _ in tokens] == [0, 1, 2, 3]
        assert sorted(token for token, _, _ in tokens) == [token for token, _, _ in tokens]
        assert len({tuple(token) for token, _, _ in tokens}) == 4
        nodes.kill("ash")
        with nodes.connect("elm") as fleet:
            attached = fleet.attach(task, timeout=60)
            (tmp_path / "stop").touch()
            steps, total = attached.result(timeout=60)
            assert total == steps * (steps + 1) // 2
        assert len((tmp_path / "tokens").read_text().splitlines()) == 4, "it ran on while another took over its log"
    finally:
        nodes.stop_all()


def holds(there: Path) -> str:
    """Urgent, until it is told that it is over."""
    while not (there / "over").exists():
        time.sleep(0.01)
    return "held"


def anew(there: Path) -> list[str]:
    """It can only begin anew."""
    ballast = os.urandom(1) * 30_000_000
    note(there, "began")
    while not (there / "stop").exists():
        time.sleep(0.01)
    return (there / "began").read_text().split()[::2][: len(ballast)]


@pytest.mark.parametrize("saves", [True, False])
def test_what_stands_still_keeps_no_more_memory_than_its_node_bears(nodes: Nodes, tmp_path: Path, saves: bool) -> None:
    nodes.start("oak", "--workers", "1", "--suspended-bytes", "20MB")
    with nodes.connect("oak") as fleet:
        if saves:
            low = fleet.submit(carries, tmp_path, 30_000_000, priority=swarm.LOW)
        else:
            low = fleet.submit(anew, tmp_path, priority=swarm.LOW)
        began(tmp_path)
        time.sleep(0.3)
        urgent = fleet.submit(holds, tmp_path, priority=swarm.CRITICAL)
        word = "saved on oak" if saves else "stood still and is run again"
        until(lambda: word in nodes.cli("task", "explain", low.id).stdout.decode(), 60, word)
        assert not urgent.done()
        (tmp_path / "over").touch()
        assert urgent.result(60) == "held"
        began(tmp_path, 2)
        (tmp_path / "stop").touch()
        assert low.result(60) == ((30_000_000, 1, ["oak", "oak"]) if saves else ["oak", "oak"])
