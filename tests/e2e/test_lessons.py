"""One node's failure is every node's lesson: real nodes, one of which lacks what a task needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import swarm
from tests.e2e.fleets import Nodes, until
from tests.e2e.test_lone_calls import direct

NAMES = ("ash", "oak", "elm")


def nodes_of(tmp_path: Path, mode: str) -> Nodes:
    settings = {
        "SWARM_HTTP_ENABLED": "false", "SWARM_SLOTS": "2", "SWARM_LESSONS_MODE": mode, "SWARM_KNOWLEDGE_SYNC_EVERY_S": "1",
    }  # fmt: skip
    return Nodes(tmp_path / "home", settings=settings)


@pytest.fixture(params=["obey"])
def nodes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Nodes]:
    made = nodes_of(tmp_path, request.param)
    library = tmp_path / "library"
    library.mkdir()
    empty = tmp_path / "empty"
    empty.mkdir()
    (library / "planted_library.py").write_text("value = 7\n")
    lacking = dict(made.env)
    for name in NAMES:
        made.env = {**lacking, "PYTHONPATH": str(empty if name == "oak" else library)}
        made.start(name)
    made.env = lacking
    with made.connect("ash") as fleet:
        until(lambda: len(fleet.members()) == len(NAMES), 60, "members")
    yield made
    assert set(made.stop_all().values()) <= {0}


def uses(number: int) -> str:
    import time

    import planted_library  # type: ignore[import-not-found]

    time.sleep(0.02)
    assert planted_library.value == 7
    current = swarm.current_task()
    assert current is not None
    return str(current.node)


def where(number: int) -> str:
    import time

    time.sleep(0.02)
    current = swarm.current_task()
    assert current is not None
    return str(current.node)


def says(who: str) -> str:
    import time

    time.sleep(0.02)
    current = swarm.current_task()
    assert current is not None
    if current.node == who:
        swarm.lesson("the licence is not there")
    return str(current.node)


def told(nodes: Nodes, name: str, *words: str) -> list[Any]:
    """What `swarm lesson` of one node says."""
    before = nodes.env
    nodes.env = {**before, "SWARM_NODE_SOCKET": str(nodes.home.node_socket(name))}
    try:
        ran = nodes.cli("lesson", *words, "--json")
    finally:
        nodes.env = before
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_what_failed_on_one_node_runs_on_others(nodes: Nodes) -> None:
    uses.__module__ = "__main__"  # by value, as from a script
    with nodes.connect("ash") as fleet:
        with pytest.raises(ModuleNotFoundError):
            fleet.submit(uses, 0, labels=["node:oak"]).result(60)
        for name in NAMES:
            until(lambda name=name: len(told(nodes, name, "list")) == 1, 60, f"the lesson on {name}")
        one = told(nodes, "elm", "list")[0]
        assert one["family"] == "missing-module" and set(one["where"]) == {"interpreter", "packages"}
        (shown,) = told(nodes, "oak", "show", one["key"])
        assert [(by["node"], bool(by["task"])) for by in shown["told"]] == [("ash", True)], (
            "ash placed it, and knows which it was"
        )
    for name in ("elm", "oak"):
        with nodes.connect(name) as fleet:
            futures = [fleet.submit(uses, number) for number in range(100)]
            assert {future.result(60) for future in futures} <= {"ash", "elm"}
            task = futures[50].id
        (why,) = told(nodes, name, "why", task)
        assert any("heeds lessons" in line for line in why["lines"]), why
        assert [one["key"] for one in why["lessons"]] == [one["key"]]
    told(nodes, "ash", "forget", str(one["key"])[:8])
    for name in NAMES:
        until(lambda name=name: told(nodes, name, "list") == [], 60, f"{name} has forgotten")
    with nodes.connect("ash") as fleet, pytest.raises(ModuleNotFoundError):
        fleet.submit(uses, 0, labels=["node:oak"]).result(60)


def test_a_lesson_by_hand_is_heeded_and_shown(nodes: Nodes) -> None:
    (added,) = told(nodes, "ash", "add", "the licence is not there", "--node", "elm", "--for", "7d")
    for name in NAMES:
        until(lambda name=name: told(nodes, name, "list") == [added], 60, f"the lesson on {name}")
    with nodes.connect("oak") as fleet:
        futures = [fleet.submit(where, number) for number in range(40)]
        assert {future.result(60) for future in futures} <= {"ash", "oak"}
    (shown,) = told(nodes, "oak", "show", added["key"][:6])
    assert shown["advice"] == ["avoid node elm"] and shown["cause"] == "the licence is not there"


def test_what_a_task_says_keeps_others_away(nodes: Nodes) -> None:
    says.__module__ = where.__module__ = "__main__"
    with nodes.connect("ash") as fleet:
        assert fleet.submit(says, "elm", labels=["node:elm"]).result(60) == "elm"
        until(lambda: len(told(nodes, "oak", "list")) == 1, 60, "the lesson")
    with nodes.connect("oak") as fleet:
        futures = [fleet.submit(says, "nobody") for _ in range(40)]
        assert {future.result(60) for future in futures} <= {"ash", "oak"}


def meets(number: int, tried: str) -> str:
    """As `uses`; elsewhere it does not end before it was tried on oak."""
    import os
    import time

    current = swarm.current_task()
    assert current is not None
    if current.node == "oak":
        open(tried, "w").close()
    while not os.path.exists(tried):
        time.sleep(0.01)
    import planted_library

    assert planted_library.value == 7
    return str(current.node)


def test_a_durable_task_that_failed_on_one_node_is_tried_on_another(nodes: Nodes, tmp_path: Path) -> None:
    meets.__module__ = "__main__"
    with nodes.connect("ash") as fleet:
        # More than the others have slots for, so that some begin there.
        futures = [fleet.submit(meets, number, str(tmp_path / "tried"), durability="node") for number in range(30)]
        assert {future.result(60) for future in futures} <= {"ash", "elm"}
        (one,) = told(nodes, "ash", "list")
        assert set(one["where"]) == {"interpreter", "packages"}


def test_a_machine_that_gets_what_it_lacked_is_used_again(nodes: Nodes, tmp_path: Path) -> None:
    uses.__module__ = "__main__"
    with nodes.connect("ash") as fleet:
        with pytest.raises(ModuleNotFoundError):
            fleet.submit(uses, 0, labels=["node:oak"]).result(60)
        futures = [fleet.submit(uses, number) for number in range(40)]
        assert {future.result(60) for future in futures} <= {"ash", "elm"}
        (tmp_path / "empty" / "planted_library.py").write_text("value = 7\n")

        def runs() -> bool:
            return fleet.submit(uses, 1, labels=["node:oak"]).exception(60) is None

        until(runs, 60, "oak is used again")


def crashes(number: int) -> int:
    import os
    import signal
    import time

    time.sleep(0.02)
    if number < 0:
        os.kill(os.getpid(), signal.SIGABRT)
    return number


def test_a_call_that_ends_its_workers_is_not_run_again_and_others_are(nodes: Nodes) -> None:
    crashes.__module__ = "__main__"
    with nodes.connect("ash") as fleet:
        first = fleet.submit(crashes, -1).exception(60)
        assert "3 times" in str(first), first
        until(lambda: any(one["family"] == "poison-task" for one in told(nodes, "elm", "list")), 60, "the lesson")
    with nodes.connect("elm") as fleet:
        futures = [fleet.submit(crashes, number) for number in (-1, 1, 2, 3)]
        refused = futures[0].exception(60)
        assert "is not run" in str(refused) and "with these arguments" in str(refused)
        assert [future.result(60) for future in futures[1:]] == [1, 2, 3]
        (why,) = told(nodes, "elm", "why", futures[0].id)
        assert [one["family"] for one in why["lessons"]] == ["poison-task"]


def sleeps(number: int) -> int:
    import time

    time.sleep(0.4)
    return number


def test_what_may_take_longer_is_given_longer(nodes: Nodes) -> None:
    sleeps.__module__ = "__main__"
    with nodes.connect("ash") as fleet:
        assert fleet.submit(sleeps, 1, timeout_s=0.25).exception(60) is not None, "nobody allowed it"
        future = fleet.submit(sleeps, 2, timeout_s=0.25, timeout_max_s=30.0)
        assert future.result(60) == 2
        (why,) = told(nodes, "ash", "why", future.id)
        assert [one["family"] for one in why["lessons"]] == ["timeout"]
        lines = fleet.query("explain", task=future.id)["lines"]
        assert any("is given more by a lesson" in line for line in lines), lines


def looks(value: int) -> str | None:
    return "the sensor of this machine is stuck" if value == 17 else None


@swarm.task(reflect=looks)
def measures(who: str) -> int:
    import time

    time.sleep(0.02)
    current = swarm.current_task()
    assert current is not None
    return 17 if current.node == who else 3


def test_what_a_look_at_a_result_tells_is_a_lesson(nodes: Nodes) -> None:
    measures.__module__ = looks.__module__ = "__main__"
    with nodes.connect("ash") as fleet:
        assert fleet.submit(measures, "elm", labels=["node:elm"]).result(60) == 17
        until(lambda: len(told(nodes, "oak", "list")) == 1, 60, "the lesson")
        (one,) = told(nodes, "oak", "list")
        assert one["cause"] == "the sensor of this machine is stuck" and one["where"] == {"node": "elm"}
        assert {future.result(60) for future in [fleet.submit(measures, "elm") for _ in range(40)]} == {3}


def later(number: int) -> str:
    if number >= 8:
        import planted_library

        assert planted_library.value == 7
    current = swarm.current_task()
    assert current is not None
    return str(current.node)


def test_calls_on_a_slot_of_the_node_itself_teach_and_heed(nodes: Nodes) -> None:
    later.__module__ = "__main__"
    with nodes.connect("oak") as fleet:
        assert direct(fleet, later, 1).result(60) == "oak"
        failed = direct(fleet, later, 8)
        assert isinstance(failed.exception(60), ModuleNotFoundError)
        assert "ran directly" in " ".join(fleet.query("explain", task=failed.id)["lines"])
        until(lambda: len(told(nodes, "ash", "list")) == 1, 60, "the lesson")
        assert {fleet.submit(later, 9).result(60) for _ in range(8)} <= {"ash", "elm"}
