"""Durable tasks that submit durable tasks, and are run again: what they have submitted before is found, not made twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import swarm
from swarm.errors import TaskRefused
from tests.e2e.fleets import Nodes, until

NAMES = ("ash", "oak", "elm")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """Three nodes, each in a zone of its own, as if on three machines."""
    made = Nodes(tmp_path / "home", settings={"SWARM_HTTP_ENABLED": "false"})
    for name in NAMES:
        made.start(name, "--workers", "2", "--ledger-zone", f"zone-{name}")
    with made.connect("ash") as fleet:

        def formed() -> bool:
            groups = fleet.query("status")["ledger"]["groups"]
            return any(len(one["voters"]) == 3 for one in groups if one["home_name"] == "ash")

        until(formed, 60, made.log("ash"))
    yield made
    assert set(made.stop_all().values()) == {0}


def child(mark: str, ran: str) -> str:
    """Leaves a line for each time that it runs."""
    with open(ran, "a") as file:
        file.write(f"{mark}\n")
    return mark.upper()


def parent(ran: str, where: str) -> tuple[list[str], int]:
    """Has its children run, says where it runs, and when it runs for the first time stays there."""
    again = Path(where).exists()
    marks = {"one", "two", "three"}
    with swarm.connect(timeout_s=60, durability="fleet") as fleet:
        futures = [fleet.submit(child, mark, ran) for mark in sorted(marks)]
        futures.append(fleet.submit(child, "keyed", ran, key="keyed"))
        found = [future.result(60) for future in futures]
        found += fleet.map(child, ["m1", "m2", "m3"], [ran] * 3)
        found.append(fleet.submit(lambda marks: child("+".join(marks), ran), marks).result(60))
        found.append(fleet.submit(lambda data: child(f"bytes-{len(data)}", ran), bytes(200_000)).result(60))
    if not again:
        task = swarm.current_task()
        assert task is not None and task.durable
        Path(where).write_text(task.node)
        time.sleep(120)
    return found, 2 if again else 1


def lines(file: Path) -> Counter[str]:
    return Counter(file.read_text().split())


def test_a_parent_that_is_run_again_finds_its_children_and_each_has_run_once(nodes: Nodes, tmp_path: Path) -> None:
    ran, where = tmp_path / "ran", tmp_path / "where"
    with nodes.connect("ash") as fleet:
        future = fleet.submit(parent, str(ran), str(where), durability="fleet")
        until(lambda: where.exists() and where.read_text(), 90, nodes.log("ash"))
        before = lines(ran)
        assert len(before) == 9 and set(before.values()) == {1}
        nodes.kill(where.read_text())
        found, attempt = future.result(120)
        assert attempt == 2 and found[:7] == ["ONE", "THREE", "TWO", "KEYED", "M1", "M2", "M3"]
    assert lines(ran) == before


def changes(ran: str) -> Any:
    """Submits something else each time that it runs, and fails the first time."""
    task = swarm.current_task()
    assert task is not None
    with swarm.connect(timeout_s=60, durability="fleet") as fleet:
        first = fleet.submit(child, f"attempt-{task.attempt}", ran)
        try:
            first.result(60)
        except TaskRefused as refused:
            key = f"attempt {task.attempt}"
            return str(refused), fleet.submit(child, f"attempt-{task.attempt}", ran, key=key).result(60)
        raise OSError("tried again")


def test_a_parent_that_submits_something_else_is_told_and_a_key_of_its_own_helps(nodes: Nodes, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with nodes.connect("ash") as fleet:
        text, value = fleet.submit(changes, str(ran), durability="fleet", retries=2, backoff_s=0.1).result(90)
        assert "other content: its digest is" in text and "this one's" in text
        assert value == "ATTEMPT-2"
    assert lines(ran) == {"attempt-1": 1, "attempt-2": 1}


def test_a_key_that_another_script_says_again_is_the_same_task(nodes: Nodes, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    ids = set()
    for name in ("ash", "elm"):
        with nodes.connect(name) as fleet:
            future = fleet.submit(child, "order-17", str(ran), durability="fleet", key="order-17")
            assert future.result(60) == "ORDER-17"
            ids.add(future.id)
            with pytest.raises(TaskRefused, match="other content"):
                fleet.submit(child, "order-18", str(ran), durability="fleet", key="order-17").result(60)
    assert len(ids) == 1 and lines(ran) == {"order-17": 1}
