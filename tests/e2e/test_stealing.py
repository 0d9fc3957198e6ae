"""Stealing between real nodes: what waits behind long tasks on one of them is pulled by those that are idle."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.client.futures import Future
from swarm.client.sync import Fleet
from swarm.errors import NotFound
from tests.e2e.fleets import Nodes, until


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(
        tmp_path / "w",
        settings={"SWARM_LEDGER_ENABLED": "false"},
    )
    yield nodes
    assert set(nodes.stop_all().values()) <= {0}


def waits_for(path: str, number: int) -> str:
    """Where it ran; not before a file is there, if one is named."""
    while path and not os.path.exists(path):
        time.sleep(0.01)
    return os.environ["SWARM_NODE"]


def test_idle_nodes_pull_what_waits_behind_long_tasks(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        for turn in itertools.count():
            go = tmp_path / f"go{turn}"
            futures = behind_long_ones(fleet, go)
            if all_are_there(fleet):
                break
            # Something else kept this machine busy, so that the short ones took long, and few are sent ahead.
            go.touch()
            assert {one.result(60) for one in futures} == {"oak"} and turn < 20
        # Up to eight have not been handed out yet, and go to these two at once: they have slots for more.
        nodes.start("elm", "--workers", "5")
        nodes.start("ash", "--workers", "5")
        try:
            until(lambda: stolen(fleet, futures), 60, "some are stolen")
            told = next(text for text in (explained(fleet, one.id) for one in futures) if "stolen" in text)
            assert "stolen on elm" in told or "stolen on ash" in told, told
            assert "it waited on oak" in told and "had a free slot" in told, told
        finally:
            go.touch()
        where = [one.result(60) for one in futures]
        assert all(one["speed"] > 0 and one["withheld"] == 0 for one in fleet.query("status")["members"])
        assert {"elm", "ash"} & set(where)
        (line,) = re.findall(r"^swarm_tasks_stolen_total ([0-9.]+)$", metrics(fleet), re.MULTILINE)
        assert float(line) >= 1


def behind_long_ones(fleet: Fleet, go: Path) -> list[Future]:
    """Short tasks are sent far ahead; then come long ones of the same kind, to the only node that there is."""
    for _ in range(3):
        assert {one.result(60) for one in [fleet.submit(waits_for, "", number) for number in range(100)]} == {"oak"}
    return [fleet.submit(waits_for, str(go), number) for number in range(30)]


def all_are_there(fleet: Fleet) -> bool:
    """Whether most of them come to wait in the hands of the node."""
    with contextlib.suppress(AssertionError):
        until(lambda: queued(fleet, "oak") > 20, 5)
        return True
    return False


def queued(fleet: Fleet, name: str) -> int:
    return int(next(one["queued"] for one in fleet.query("status")["members"] if one["name"] == name))


def stolen(fleet: Fleet, futures: list[Future]) -> bool:
    return any("stolen" in explained(fleet, one.id) for one in futures)


def explained(fleet: Fleet, task: str) -> str:
    """What is told of a task; nothing as long as it is still on its way to the node."""
    with contextlib.suppress(NotFound):
        return "\n".join(fleet.query("explain", task=task)["lines"])
    return ""


def metrics(fleet: Fleet) -> str:
    with urllib.request.urlopen(f"{fleet.query('status')['node']['http']}/metrics", timeout=60) as answer:
        return str(answer.read().decode())
