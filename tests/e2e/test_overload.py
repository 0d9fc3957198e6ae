"""More work than a node may hold, from several clients at once: it is refused, comes again, and ends; memory has a bound."""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from swarm import CRITICAL, LOW, NotAccepted
from swarm.client.futures import Future
from swarm.client.sync import Fleet
from tests.e2e.fleets import Nodes, until

QUEUE_TASKS = 400
ROW_BYTES = 16_000
CLIENTS, EACH = 3, 3_000
REFUSED = 'swarm_batches_refused_total{reason="full"}'


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    settings = {"SWARM_LEDGER_ENABLED": "false", "SWARM_LIMITS_QUEUE_TASKS": str(QUEUE_TASKS)}
    nodes = Nodes(tmp_path / "w", settings=settings)
    nodes.start("oak", "--workers", "2")
    yield nodes
    assert nodes.stop_all() == {"oak": 0}


def takes(data: bytes, number: int, gate: str = "") -> tuple[int, int]:
    """Some time, not much; not before a file is there, if one is named."""
    while gate and not os.path.exists(gate):
        time.sleep(0.01)
    time.sleep(0.0005)
    return len(data), number


def counted(fleet: Fleet, name: str) -> float:
    """A series of the node's metrics."""
    with urllib.request.urlopen(f"{fleet.query('status')['node']['http']}/metrics", timeout=60) as page:
        found = re.search(rf"^{re.escape(name)} (\S+)$", page.read().decode(), re.MULTILINE)
    return 0.0 if found is None else float(found[1])


class Flood(threading.Thread):
    """A client that hands over as fast as it may, and comes back when it is told to."""

    def __init__(self, fleet: Fleet, gate: Path) -> None:
        super().__init__(name="flood")
        self.fleet = fleet
        self.gate = gate
        """Nothing of it ends before this file is there, which it is when the node has refused some: however quick it is."""
        self.futures: list[Future] = []
        self.refused = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            data = bytes(ROW_BYTES)
            for number in range(EACH):
                while True:
                    try:
                        one = self.fleet.submit(takes, data, number, str(self.gate), priority=LOW, submit_timeout_s=0)
                    except NotAccepted as full:
                        assert full.retry_after_s > 0
                        self.refused += 1
                        time.sleep(min(full.retry_after_s, 0.2))
                    else:
                        self.futures.append(one)
                        break
        except BaseException as error:
            self.error = error


def test_a_flood_is_refused_and_all_of_it_ends_and_the_node_does_not_grow_with_it(nodes: Nodes, tmp_path: Path) -> None:
    node = psutil.Process(nodes.processes["oak"].pid)
    with nodes.connect("oak") as fleet:
        assert fleet.submit(takes, b"", 1).result(60) == (0, 1)
        before = node.memory_info().rss
        floods = [Flood(nodes.connect("oak"), tmp_path / "gate") for _ in range(CLIENTS)]
        for one in floods:
            one.start()
        most, unfinished = before, 0
        while any(one.is_alive() for one in floods):
            assert fleet.submit(takes, b"", 2, priority=CRITICAL).result(60) == (0, 2), "the last part is for it"
            most = max(most, node.memory_info().rss)
            unfinished = max(unfinished, int(fleet.query("status")["unfinished"]))
            if counted(fleet, REFUSED):
                (tmp_path / "gate").touch()
            time.sleep(0.05)
        until(lambda: counted(fleet, REFUSED), 60, "more than it may hold was handed over")
        (tmp_path / "gate").touch()
        for one in floods:
            one.join()
            assert one.error is None, one.error
            assert [future.result(120) for future in one.futures] == [(ROW_BYTES, number) for number in range(EACH)]
        refused = counted(fleet, REFUSED)
        print(f"{refused:.0f} batches refused, clients told {sum(one.refused for one in floods)} times;", most - before)
        assert unfinished <= QUEUE_TASKS
        # What was handed over is more than all that the node may hold of it by far; it never had the whole.
        assert most - before < CLIENTS * EACH * ROW_BYTES / 2
        for one in floods:
            one.fleet.close()


def test_an_endless_map_takes_no_more_than_its_window_whoever_reads_it(nodes: Nodes) -> None:
    taken = itertools.count(1)

    def items() -> Iterator[int]:
        for number in taken:
            yield number

    with nodes.connect("oak") as fleet:
        for window in (50, 300):
            before = next(taken)
            results = fleet.map(abs, items(), window=window)
            assert [next(results) for _ in range(10)] == list(range(before + 1, before + 11))
            assert next(taken) <= before + 10 + window + 1, "nobody took more than ten"
            results.close()  # type: ignore[attr-defined]
        assert fleet.submit(takes, b"", 3).result(60) == (0, 3)
