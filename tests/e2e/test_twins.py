"""A node's files are copied, and both run: the copy is refused, or both end, and both say why."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fleets import Nodes, until

NAMES = ("ash", "oak", "elm")
DENIED = 77
COPIES: list[Nodes] = []


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path / "home", settings={"SWARM_HTTP_ENABLED": "false"})
    for name in NAMES:
        made.start(name, "--workers", "1", "--ledger-zone", f"zone-{name}")
    for name in NAMES:
        until(lambda name=name: len(own_group(made, name).get("voters", ())) == 3, 60, made.log(name))
    yield made
    for copy in COPIES:
        for name in list(copy.processes):
            copy.kill(name)  # ended by itself, unless a test failed
    COPIES.clear()
    for process in made.processes.values():
        process.send_signal(signal.SIGCONT)
    made.stop_all()


def own_group(nodes: Nodes, name: str) -> dict[str, Any]:
    with nodes.connect(name) as fleet:
        groups = fleet.query("status")["ledger"]["groups"]
    return next((one for one in groups if one["home_name"] == name), {})


def copy_of(nodes: Nodes, name: str, root: Path) -> Nodes:
    """All files of this home as they are now, as on a machine that was cloned; of its nodes only one is started."""
    shutil.copytree(nodes.root, root, ignore=lambda directory, names: [one for one in names if one == "run"])
    for other in NAMES:
        if other != name:
            shutil.rmtree(root / "data" / "nodes" / other)
    copy = Nodes(root, settings={"SWARM_HTTP_ENABLED": "false"})
    COPIES.append(copy)
    # On one machine there is no multicast to find the others by.
    port = (nodes.root / "data" / "nodes" / "elm" / "port").read_text()
    copy.start(name, "--workers", "1", "--ledger-zone", f"zone-{name}", "--seed", f"127.0.0.1:{port}")
    return copy


def test_a_copy_that_comes_while_the_node_runs_is_refused_and_the_node_goes_on(nodes: Nodes, tmp_path: Path) -> None:
    with nodes.connect("ash") as fleet:
        before = fleet.submit(pow, 2, 10, durability="fleet")
        assert before.result(60) == 1024
        copy = copy_of(nodes, "ash", tmp_path / "copy")
        assert copy.processes["ash"].wait(60) == DENIED
        said = copy.log("ash")
        assert "another node with this identity" in said and "is running at 127.0.0.1:" in said and "since 20" in said
        assert "swarm fleet join" in said and str(tmp_path / "copy" / "data" / "nodes" / "ash") in said
        after = fleet.submit(pow, 3, 3, durability="fleet")
        assert after.result(60) == 27
        assert fleet.attach(before.id).result(60) == 1024
        assert "127.0.0.1" in fleet.query("status")["twin"]["at"]
    # It is heard again by those to whom the copy has spoken in its name: longer than silence is put up with.
    time.sleep(8)
    until(lambda: alive(nodes, "elm", "ash") and alive(nodes, "oak", "ash"), 60)
    until(lambda: own_group(nodes, "ash")["leads"], 60)


def alive(nodes: Nodes, asked: str, name: str) -> bool:
    with nodes.connect(asked) as fleet:
        return any(one["name"] == name and one["state"] == "alive" for one in fleet.members())


def test_two_that_were_both_heard_while_they_did_not_see_each_other_end_both(nodes: Nodes, tmp_path: Path) -> None:
    original = nodes.processes["ash"]
    original.send_signal(signal.SIGSTOP)
    copy = copy_of(nodes, "ash", tmp_path / "copy")
    until(lambda: own_group(copy, "ash").get("leads"), 60, copy.log("ash"))
    original.send_signal(signal.SIGCONT)
    assert original.wait(60) == DENIED and copy.processes["ash"].wait(60) == DENIED
    for log in (nodes.log("ash"), copy.log("ash")):
        assert "another node with this identity" in log and "both end" in log
    nodes.processes.pop("ash")
