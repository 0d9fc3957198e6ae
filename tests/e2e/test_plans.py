"""`swarm plan` on real nodes: what it says is what then happens, and by itself nothing does."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import swarm
from swarm import CRITICAL
from swarm.exit_codes import ExitCode
from tests.e2e.fleets import Nodes, until
from tests.e2e.test_urgent import holds, low_work, standing


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path / "w", settings={"SWARM_LEDGER_ENABLED": "false", "SWARM_HTTP_ENABLED": "false"})
    yield nodes
    assert set(nodes.stop_all().values()) <= {0}


def planned(nodes: Nodes, *words: str) -> tuple[int, dict[str, Any]]:
    """The status and the answer."""
    ran = nodes.cli("plan", "--json", *words)
    assert not ran.stderr, ran.stderr
    return ran.returncode, json.loads(ran.stdout)


def test_a_plan_says_who_makes_way_and_makes_nobody(nodes: Nodes, tmp_path: Path) -> None:
    for name in ("oak", "elm"):
        nodes.start(name, "--workers", "1")
    with nodes.connect("oak") as fleet:
        until(lambda: sum(one["state"] == "alive" for one in fleet.members()) == 2, 60)
        futures, processes = low_work(fleet, 2, tmp_path)
        plan: dict[str, Any] = {}

        def both_yield() -> bool:
            status, answer = planned(nodes, "-p", "critical", "--count", "2")
            plan.update(answer)
            return status == ExitCode.OK and all(node["displaced"] for node in plan["nodes"])

        until(both_yield, 60, "both are known to yield")
        assert plan["at_once"] == 2 and plan["begins"] == "at once" and plan["begins_s"] == 0.0
        assert {node["name"] for node in plan["nodes"] if node["tasks"] == 1} == {"oak", "elm"}
        displaced = [task for node in plan["nodes"] for task in node["displaced"]]
        assert {task["id"] for task in displaced} == {future.id for future in futures}
        assert all(task["priority"] == "low" and task["name"] == "counts" and task["run_s"] > 0 for task in displaced)

        status, plan = planned(nodes, "-p", "standard")
        assert status == ExitCode.BUSY and plan["at_once"] == 0 and plan["begins_s"] is None
        assert "--priority high" in plan["hint"]

        # A node that has no time to answer is not counted on for a moment.
        def two_of_three() -> bool:
            shown = nodes.cli("plan", "-p", "critical", "--count", "3")
            text = shown.stdout.decode()
            assert shown.returncode == ExitCode.BUSY and "makes way (LOW)" in text and "counts" in text, text
            return "2 would begin at once, 1 would wait" in text

        until(two_of_three, 60, "one more than there are slots would wait")

        def nowhere() -> bool:
            status, plan = planned(nodes, "--label", "attic")
            assert status == ExitCode.REFUSED and plan["begins"] == "never"
            return {node["why"] for node in plan["nodes"]} == {"has no label attic"}

        until(nowhere, 60, "it would run nowhere, and why is said")

        assert not standing(processes) and len(fleet.query("tasks")["tasks"]) == 2, "nothing has happened"
        urgent = [fleet.submit(holds, str(tmp_path / "go"), priority=CRITICAL) for _ in range(2)]
        until(lambda: len(standing(processes)) == 2, 60, "as was said")
        (tmp_path / "go").touch()
        assert [one.result(60) for one in urgent] == ["held"] * 2
        (tmp_path / "stop").touch()
        assert len([one.result(60) for one in futures]) == 2


def test_what_there_is_not_is_refused(nodes: Nodes) -> None:
    nodes.start("oak", "--workers", "1")
    ran = nodes.cli("plan", "--count", "100000")
    assert ran.returncode == ExitCode.USAGE and b"100000" in ran.stderr, ran.stderr
    assert nodes.cli("plan").returncode == ExitCode.OK


def hungry() -> int:
    return 1


def test_python_asks_for_the_same_plan(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        futures, processes = low_work(fleet, 1, tmp_path)
        until(lambda: fleet.plan(priority=CRITICAL)["begins"] == "at once", 60, "it is known to yield")
        plan = fleet.plan(swarm.task(priority=CRITICAL, needs={"memory": "1MB"})(hungry), count=2)
        (node,) = plan["nodes"]
        assert (plan["priority"], plan["count"], plan["at_once"], plan["begins"]) == ("critical", 2, 1, "later")
        assert plan["needs"] == {"cpu": 1.0, "memory": 1e6} and node["displaced"][0]["id"] == futures[0].id
        assert fleet.plan("standard:tasks")["begins"] == "later", "nothing makes way for what is STANDARD"
        assert fleet.plan(labels="attic")["begins"] == "never" and fleet.plan(python="other")["begins"] == "never"

        async def at_once() -> dict[str, Any]:
            async with swarm.connect_async(nodes.home, timeout_s=60) as other:
                return await other.plan(hungry, priority=CRITICAL)

        os.environ["SWARM_NODE_SOCKET"] = str(nodes.home.node_socket("oak"))
        try:
            said = asyncio.run(at_once())
        finally:
            del os.environ["SWARM_NODE_SOCKET"]
        assert said["begins"] == "at once" and said["nodes"][0]["displaced"]
        for wrong in ({"prioritty": 1}, {"count": 0}, {"priority": "soon"}, {"needs": {"cpu": "many"}}):
            with pytest.raises(swarm.ConfigError):
                fleet.plan(**wrong)
        assert not standing(processes)
        (tmp_path / "stop").touch()
        assert len([one.result(60) for one in futures]) == 1
