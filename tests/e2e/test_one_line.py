"""One line for all that waits for a node, whichever node it was handed to and whatever it asks for; with real nodes."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm import LOW
from swarm.client.sync import Fleet
from tests.e2e.fleets import Nodes, until

TAKES_S = 0.01
"""Short enough that some are sent ahead, so that whoever streams them leaves no free slot to be seen."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    settings = {"SWARM_LEDGER_ENABLED": "false", "SWARM_HTTP_ENABLED": "false"}
    nodes = Nodes(tmp_path / "w", settings=settings)
    yield nodes
    assert set(nodes.stop_all().values()) <= {0}


def short(number: int) -> int:
    time.sleep(TAKES_S)
    return number


class Stream:
    """Somebody who never stops."""

    def __init__(self, fleet: Fleet, **options: object) -> None:
        self.taken, self._over = 0, threading.Event()
        self._map = fleet.options(**options).map(short, itertools.count(), window=400, chunksize=1)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        for _ in self._map:
            self.taken += 1
            if self._over.is_set():
                return

    def __enter__(self) -> Stream:
        self._thread.start()
        until(lambda: self.taken > 100, 60, "it streams")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_who_hands_his_work_to_another_node_is_not_behind_an_endless_stream(nodes: Nodes) -> None:
    """The stream is of LOW tasks, and all that others want runs on the node of who streams."""
    nodes.start("oak", "--workers", "1", "--label", "lab")
    nodes.start("elm", "--workers", "1")
    with nodes.connect("oak") as ann, nodes.connect("elm") as bob:
        until(lambda: sum(one["state"] == "alive" for one in bob.members()) == 2, 60)
        with Stream(ann, labels=("lab",), priority=LOW) as stream:
            future = bob.submit(short, 7, labels=("lab",))
            assert future.result(60) == 7
            before = stream.taken
            assert [one.result(60) for one in [bob.submit(short, number, labels=("lab",)) for number in range(5)]] == [
                0, 1, 2, 3, 4,
            ]  # fmt: skip
            until(lambda: stream.taken > before, 60, "and it goes on")


def test_what_needs_something_or_takes_all_slots_is_not_behind_a_stream_of_what_needs_nothing(nodes: Nodes) -> None:
    nodes.start("oak", "--workers", "2")
    with nodes.connect("oak") as fleet, nodes.connect("oak") as other, Stream(fleet):
        assert other.submit(short, 1, needs={"memory": "1MB"}).result(60) == 1
        assert other.submit(short, 2, needs={"cpu": 2}).result(60) == 2
        assert fleet.submit(short, 3, needs={"cpu": 2}).result(60) == 3
