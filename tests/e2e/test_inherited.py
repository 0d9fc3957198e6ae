"""What a task submits is of the class that it has by then, however it runs: at home, under another interpreter, or as a command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import swarm
from tests.e2e.fleets import ROOT, Nodes, until


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path / "w", settings={"SWARM_LEDGER_ENABLED": "false", "SWARM_HTTP_ENABLED": "false"})
    yield nodes
    assert set(nodes.stop_all().values()) <= {0}


PARENT = """
import os, time, sys
import swarm

def mine():
    return swarm.current_task().priority

def parent(there):
    found = []
    with swarm.connect(timeout_s=60) as fleet:
        for step in ("begun", "later"):
            children = [fleet.submit(mine), fleet.submit(mine, priority=swarm.LOW)]
            found += [one.result(60) for one in children]
            with open(os.path.join(there, step + ".part"), "w") as file:
                file.write(" ".join(map(str, found)))
            os.rename(os.path.join(there, step + ".part"), os.path.join(there, step))
            while not os.path.exists(os.path.join(there, "go")):
                time.sleep(0.01)
    return "over"
"""


@pytest.mark.parametrize("how", ["home", "guest", "command"])
def test_children_have_the_class_that_their_parent_has_by_now(nodes: Nodes, tmp_path: Path, how: str) -> None:
    flags = ["--executor", f"other={sys.executable}"] if how == "guest" else []
    nodes.env["PYTHONPATH"] = str(ROOT)
    nodes.start("oak", "--workers", "2", *flags)
    there = tmp_path / "there"
    there.mkdir()
    with nodes.connect("oak") as fleet:
        if how == "command":
            script = tmp_path / "parent.py"
            script.write_text(PARENT + "\nparent(sys.argv[1])\n")
            env = {"SWARM_HOME": str(nodes.root), "PYTHONPATH": str(ROOT)}
            future = fleet.submit_command([sys.executable, str(script), str(there)], env=env, priority=swarm.STANDARD)
        else:
            namespace: dict[str, object] = {"__name__": "__main__"}
            exec(PARENT, namespace)
            options = {"python": "other"} if how == "guest" else {}
            future = fleet.submit(namespace["parent"], str(there), priority=swarm.STANDARD, **options)
        until((there / "begun").exists, 60, nodes.log("oak"))
        assert future.reprioritize(swarm.HIGH)
        (there / "go").touch()
        until((there / "later").exists, 60)
        assert (there / "later").read_text().split() == ["1", "0", "2", "0"]
        future.result(60)
