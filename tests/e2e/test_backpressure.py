"""Bounds from end to end: large arguments by the hundred through a small store, and a client that does not read what it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from swarm import CRITICAL, NotAccepted
from swarm.client.sync import Fleet
from swarm.errors import StoreFull
from tests.e2e.fleets import Nodes, until

MIB = 1 << 20
STORE = 16 * MIB
SETTINGS = {
    "SWARM_LEDGER_ENABLED": "false",
    "SWARM_HTTP_ENABLED": "false",
    "SWARM_LIMITS_BLOB_BYTES": str(STORE),
    "SWARM_LIMITS_OUTCOME_BYTES": str(MIB),
}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path / "w", settings=SETTINGS)
    nodes.start("oak", "--workers", "2")
    yield nodes
    assert nodes.stop_all() == {"oak": 0}


def size(data: bytes) -> int:
    """Of a large argument."""
    return len(data)


def sizes(*data: bytes) -> int:
    """Of several."""
    return sum(map(len, data))


def holds(until_there: str, data: bytes = b"") -> int:
    """Keeps its argument until a file is there."""
    while not os.path.exists(until_there):
        time.sleep(0.005)
    return len(data)


def test_large_arguments_wait_for_room_and_all_are_handed_over(nodes: Nodes) -> None:
    with nodes.connect("oak") as fleet:
        futures = [fleet.submit(size, bytes(MIB)) for _ in range(10 * STORE // MIB)]
        assert [one.result(60) for one in futures] == [MIB] * len(futures)


def test_a_map_of_large_items_takes_what_there_is_room_for(nodes: Nodes) -> None:
    taken = 0

    def items() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(MIB)

    with nodes.connect("oak") as fleet:
        results = fleet.map(size, items(), window=1000)
        for _ in range(4 * STORE // MIB):
            assert next(results) == MIB
            assert fleet.query("status")["blob_bytes"] <= STORE, "the window is wider than the store"
        assert taken >= 4 * STORE // MIB
        results.close()  # type: ignore[attr-defined]


def full(fleet: Fleet, go: Path) -> list[object]:
    """Takes all of the store by tasks that wait."""
    held: list[object] = []
    with pytest.raises(NotAccepted) as refused:
        for _ in range(2 * STORE // MIB):
            held.append(fleet.submit(holds, str(go), bytes(MIB), submit_timeout_s=0))
    assert refused.value.retry_after_s > 0 and "limits.blob_bytes" in refused.value.hint
    return held


def test_who_does_not_wait_is_told_and_may_come_back(nodes: Nodes, tmp_path: Path) -> None:
    with nodes.connect("oak") as fleet:
        held = full(fleet, tmp_path / "go")
        before = time.monotonic()
        with pytest.raises(NotAccepted):
            fleet.submit(size, bytes(MIB), submit_timeout_s=0.3)
        assert time.monotonic() - before >= 0.3
        assert fleet.submit(sizes, b"small", priority=CRITICAL).result(60) == 5, "what is small needs no room there"
        (tmp_path / "go").touch()
        assert fleet.submit(size, bytes(MIB)).result(60) == MIB, "it waits"
        assert [one.result(60) for one in held] == [MIB] * len(held)  # type: ignore[attr-defined]


def test_others_wait_too_for_what_one_client_has(nodes: Nodes, tmp_path: Path) -> None:
    with nodes.connect("oak") as fleet, nodes.connect("oak") as other:
        held = full(fleet, tmp_path / "go")
        with pytest.raises(NotAccepted):
            other.submit(size, bytes(MIB), submit_timeout_s=0.1)
        (tmp_path / "go").touch()
        assert [one.result(60) for one in held] == [MIB] * len(held)  # type: ignore[attr-defined]
        assert other.submit(size, bytes(MIB)).result(60) == MIB


def test_a_call_that_is_larger_than_the_store_is_told_so(nodes: Nodes) -> None:
    with nodes.connect("oak") as fleet:
        with pytest.raises(StoreFull, match="in use"):
            fleet.submit(sizes, *(bytes(MIB) for _ in range(2 * STORE // MIB)))
        assert fleet.submit(sizes, bytes(MIB), bytes(MIB)).result(60) == 2 * MIB, "what it had put there is given back"


COUNT, EACH = 2000, 8000
CLIENT = f"""
import sys, swarm
from tests.e2e.test_backpressure import leaves_a_mark
with swarm.connect(timeout_s=60, direct=False, durability="none") as fleet:
    rows = [fleet.submit(leaves_a_mark, sys.argv[1]) for _ in range({COUNT})]
    for row in rows:
        row.receipt.result(60)
    rows[0].result(60)
    print("begun", flush=True)
    print(sum(len(row.result(120)) for row in rows), flush=True)
"""


def leaves_a_mark(where: str) -> bytes:
    """A result of some KiB, and a byte in a file for each run."""
    with open(where, "ab", buffering=0) as file:
        file.write(b".")
    time.sleep(0.0005)
    return bytes(EACH)


def test_a_client_that_does_not_read_costs_what_it_asked_for_and_has_all_of_it_later(
    nodes: Nodes, tmp_path: Path
) -> None:
    node, marks = psutil.Process(nodes.processes["oak"].pid), tmp_path / "marks"
    env = {
        **nodes.env,
        "SWARM_NODE_SOCKET": str(nodes.home.node_socket("oak")),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with nodes.connect("oak") as fleet:
        assert fleet.submit(size, b"").result(60) == 0
        before = node.memory_info().rss
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(marks)], env=env, stdout=subprocess.PIPE, text=True
        )
        assert client.stdout is not None and client.stdout.readline() == "begun\n"
        client.send_signal(signal.SIGSTOP)
        try:
            until(lambda: marks.stat().st_size >= COUNT, 60, "all of it runs, read or not")
            for number in range(200):  # more than `limits.outcome_bytes` has room for, from somebody who does read
                assert len(fleet.submit(leaves_a_mark, str(tmp_path / "others")).result(60)) == EACH, number
            assert node.memory_info().rss - before < 4 * COUNT * EACH
        finally:
            client.send_signal(signal.SIGCONT)
        assert client.communicate(timeout=60)[0] == f"{COUNT * EACH}\n"
        assert client.returncode == 0
    assert marks.stat().st_size == COUNT, "nothing was forgotten and run again"
