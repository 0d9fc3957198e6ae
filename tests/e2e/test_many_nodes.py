"""Several nodes on one machine: they find each other, share work, and one that dies takes nothing along."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.fleets import Nodes, until


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path / "m")
    yield nodes
    nodes.stop_all()


def _where(index: int) -> str:
    time.sleep(0.03)
    return os.path.basename(os.environ["SWARM_NODE_SOCKET"]).removesuffix(".sock")


def _meets(index: int, there: str, count: int) -> str:
    """Where it runs; not before it was begun on so many nodes."""
    Path(there, _where(index)).touch()
    deadline = time.monotonic() + 60
    while len(os.listdir(there)) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return _where(index)


def _alive(nodes: Nodes, count: int) -> bool:
    said = nodes.cli("members", "--json")
    if said.returncode:
        return False
    members = json.loads(said.stdout)
    members = members["members"] if isinstance(members, dict) else members
    return sum(1 for member in members if member["state"] == "alive") == count


def test_three_nodes_share_work_and_one_is_killed(nodes: Nodes, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    for name in ("oak", "elm", "fir"):
        nodes.start(name, "--workers", "1")
    with nodes.connect("oak") as fleet:
        until(lambda: sum(m["state"] == "alive" for m in fleet.members()) == 3, 60, "three members")
        where = Counter(fleet.map(partial(_meets, there=str(there), count=3), range(45)))
        assert set(where) == {"oak", "elm", "fir"} and where.total() == 45, where
        futures = [fleet.submit(_where, index) for index in range(120)]
        time.sleep(0.5)
        nodes.kill("fir")
        where = Counter(future.result(60) for future in futures)
        assert where.total() == 120
        until(lambda: next(m["state"] for m in fleet.members() if m["name"] == "fir") == "dead", 60, "known dead")


def test_what_may_not_be_repeated_is_lost_with_its_node_not_run_twice(nodes: Nodes, tmp_path: Path) -> None:
    import swarm

    nodes.start("oak", "--workers", "1", "--label", "home")
    nodes.start("fir", "--workers", "1", "--label", "away")
    marks = tmp_path / "marks"
    marks.mkdir()
    with nodes.connect("oak") as fleet:
        until(lambda: sum(m["state"] == "alive" for m in fleet.members()) == 2, 60, "two members")

        def leaves_a_mark(directory: str) -> None:
            import tempfile

            tempfile.mkstemp(dir=directory)
            time.sleep(30)

        once = fleet.submit(leaves_a_mark, str(marks), rerun=False, labels=["away"])
        until(lambda: list(marks.iterdir()), 60, "it runs")
        nodes.kill("fir")
        with pytest.raises(swarm.TaskLost):
            once.result(60)
        assert len(list(marks.iterdir())) == 1


def test_a_client_goes_on_with_another_node(nodes: Nodes) -> None:
    nodes.start("oak", "--workers", "1")
    nodes.start("elm", "--workers", "1")
    with nodes.connect("oak") as fleet:
        until(lambda: sum(m["state"] == "alive" for m in fleet.members()) == 2, 60, "two members")
        futures = [fleet.submit(_where, index) for index in range(60)]
        time.sleep(0.4)
        nodes.kill("oak")
        assert {future.result(60) for future in futures} <= {"oak", "elm"}


def test_a_stopped_node_leaves_nothing_behind(nodes: Nodes) -> None:
    nodes.start("oak", "--workers", "2")
    until(lambda: _alive(nodes, 1), 60, "it answers")
    pid = nodes.processes["oak"].pid
    assert nodes.stop("oak") == 0
    left = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit() and _session_of(entry) == pid]
    assert left == []
    assert list(nodes.home.runtime.glob("*")) == []


def _session_of(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[3])
    except (OSError, IndexError):
        return 0
