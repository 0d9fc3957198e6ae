"""How urgent tasks are is changed while they wait, run and stand still: by hand on the command line, and in Python."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from swarm import CRITICAL, HIGH, LOW, STANDARD
from swarm.client.futures import Future
from swarm.client.sync import Fleet
from tests.e2e.fleets import Nodes, until


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path / "w", settings={"SWARM_LEDGER_ENABLED": "false", "SWARM_HTTP_ENABLED": "false"})
    yield nodes
    assert set(nodes.stop_all().values()) <= {0}


def holds(pid: str, until_there: str) -> str:
    """Says who it is, and waits for a file."""
    Path(pid).write_text(str(os.getpid()))
    while not os.path.exists(until_there):
        time.sleep(0.005)
    return "held"


class Held:
    """A task that runs until it is told to stop."""

    def __init__(self, fleet: Fleet, there: Path, name: str, priority: int) -> None:
        self._pid, self._go = there / f"{name}.pid", there / f"{name}.go"
        self.future: Future = fleet.submit(holds, str(self._pid), str(self._go), priority=priority)

    @property
    def began(self) -> bool:
        return self._pid.exists() and bool(self._pid.read_text())

    def begins(self) -> None:
        until(lambda: self.began, 60, "it begins")

    @property
    def stands(self) -> bool:
        return psutil.Process(int(self._pid.read_text())).status() == psutil.STATUS_STOPPED

    def ends(self) -> None:
        self._go.touch()
        assert self.future.result(60) == "held"


def test_what_waits_is_raised_and_takes_a_slot(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        low = Held(fleet, tmp_path, "low", LOW)
        low.begins()
        # One batch: they were submitted in one turn. Only the one that is named is raised.
        waiting = [Held(fleet, tmp_path, f"w{number}", STANDARD) for number in range(3)]
        said = nodes.cli("task", "nice", waiting[1].future.id, "--priority", "high", "--nice", "-5").stdout.decode()
        assert "HIGH, nice -5" in said, said
        waiting[1].begins()
        until(lambda: low.stands, 60, "the lower one makes way")
        assert not waiting[0].began and not waiting[2].began
        lines = nodes.cli("task", "explain", waiting[1].future.id).stdout.decode()
        assert "reprioritized" in lines and "HIGH, nice -5" in lines, lines
        for one in (waiting[1], low, waiting[0], waiting[2]):
            one.ends()
        assert not low.future.reprioritize(HIGH), "it has ended"


def test_what_runs_is_raised_and_makes_way_no_more(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("oak", "--workers", "2")
    with nodes.connect("oak") as fleet:
        first, second = (Held(fleet, tmp_path, name, LOW) for name in ("first", "second"))
        first.begins()
        second.begins()
        for raised, other in ((first, second), (second, first)):
            assert raised.future.reprioritize(HIGH) and other.future.reprioritize(STANDARD)
            urgent = Held(fleet, tmp_path, f"urgent{id(raised)}", CRITICAL)
            urgent.begins()
            until(lambda other=other: other.stands, 60, "the other one makes way")
            assert not raised.stands
            urgent.ends()
            until(lambda: not first.stands and not second.stands, 60, "it goes on")
        for one in (first, second):
            one.ends()


def test_what_runs_on_another_node_is_raised_and_lowered(nodes: Nodes, tmp_path: Path) -> None:
    for name in ("oak", "elm"):
        nodes.start(name, "--workers", "1")
    with nodes.connect("oak") as fleet:
        until(lambda: sum(one["state"] == "alive" for one in fleet.members()) == 2, 60)
        here = Held(fleet, tmp_path, "here", CRITICAL)
        here.begins()
        there = Held(fleet, tmp_path, "there", LOW)
        there.begins()
        with nodes.connect("elm") as other:  # any node finds it
            assert other.query("nice", task=there.future.id[:12], priority=int(HIGH))["priority"] == "high"
        high = Held(fleet, tmp_path, "high", HIGH)
        time.sleep(0.5)
        assert not high.began and not there.stands, "its equals do not displace it"
        assert "LOW, nice 0" in nodes.cli("task", "nice", there.future.id, "-p", "low").stdout.decode()
        high.begins()
        until(lambda: there.stands, 60, "it makes way again")
        for one in (high, here, there):
            one.ends()


def test_what_stands_still_is_raised_and_goes_on(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        low = Held(fleet, tmp_path, "low", LOW)
        low.begins()
        high = Held(fleet, tmp_path, "high", HIGH)
        high.begins()
        until(lambda: low.stands, 60)
        told = b"class  HIGH 1 running; LOW 1 suspended"
        until(lambda: told in nodes.cli("status").stdout, 60, "the status says so")
        batch = nodes.cli("batch", "nice", low.future.batch_id, "--priority", "critical").stdout.decode()
        assert "CRITICAL" in batch, batch
        until(lambda: not low.stands and high.stands, 60, "they change places")
        low.ends()
        until(lambda: not high.stands, 60)
        high.ends()


def waits_for_a_child(begun: str, go_on: str, child: str, end: str) -> str:
    """An urgent task that submits one of the lowest class, and waits for it."""
    import swarm

    Path(begun).touch()
    while not os.path.exists(go_on):
        time.sleep(0.005)
    with swarm.connect(timeout_s=60) as fleet:
        return str(fleet.submit(holds, child, end, priority=LOW).result(60))


def test_what_an_urgent_task_waits_for_goes_before_what_is_less_urgent(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        names = [str(tmp_path / name) for name in ("begun", "goon", "child.pid", "child.go")]
        parent = fleet.submit(waits_for_a_child, *names, priority=CRITICAL)
        until(lambda: Path(names[0]).exists(), 60)
        between = Held(fleet, tmp_path, "between", STANDARD)
        Path(names[1]).touch()
        until(lambda: Path(names[2]).exists() and Path(names[2]).read_text(), 60, "the child runs, although it is LOW")
        until(lambda: not between.began or between.stands, 60, "the other one waits, or makes way")
        Path(names[3]).touch()
        assert parent.result(60) == "held"
        between.begins()
        between.ends()
