"""Large arguments and results on one host: by shared memory, which is used again and given back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.blobs import shared_memory_directory
from swarm.client.sync import Fleet
from tests.e2e.fleets import ROOT, Nodes, until

pytestmark = pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no /dev/shm here")

SIZE = 4 << 20


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path_factory.mktemp("s"))
    nodes.start("oak", "--workers", "1", "--limits-blob-bytes", "64MiB")
    yield nodes
    assert nodes.stop_all() == {"oak": 0}
    assert not stores(nodes)


@pytest.fixture(scope="module")
def fleet(nodes: Nodes) -> Iterator[Fleet]:
    with nodes.connect("oak") as fleet:
        yield fleet


def stores(nodes: Nodes) -> list[Path]:
    """The directories of shared memory of these nodes."""
    parent = shared_memory_directory(nodes.home.runtime)
    return list(parent.iterdir()) if parent.exists() else []


def files(nodes: Nodes) -> list[Path]:
    return [path for store in stores(nodes) for path in store.iterdir() if path.name != "lock"]


@pytest.mark.parametrize("kind", ["array", "bytes", "bytearray"])
def test_there_and_back_more_often_than_there_is_room_for_at_once(fleet: Fleet, nodes: Nodes, kind: str) -> None:
    def turned(some: Any, number: int) -> Any:
        return some + number if not isinstance(some, bytes | bytearray) else some[:-1] + bytes([number])

    for number in range(40):
        sent: Any = np.full(SIZE // 8, float(number)) if kind == "array" else bytes(SIZE)
        sent = bytearray(sent) if kind == "bytearray" else sent
        back = fleet.submit(turned, sent, number).result(60)
        assert type(back) is type(sent)
        assert back[-1] == (2 * number if kind == "array" else number) and len(back) == len(sent)
        assert kind != "array" or not back.flags.writeable
    # 40 arguments and 40 results in what a few of each take.
    assert sum(path.stat().st_size for path in files(nodes)) <= 64 << 20


def test_what_is_kept_keeps_its_content(fleet: Fleet) -> None:
    kept = [fleet.submit(np.full, SIZE // 8, float(number)).result(60) for number in range(6)]
    for number in range(20):
        fleet.submit(np.full, SIZE // 8, -1.0 - number).result(60)
    assert [(float(one.min()), float(one.max())) for one in kept] == [(float(n), float(n)) for n in range(6)]


def test_what_a_task_keeps_keeps_its_content(fleet: Fleet) -> None:
    def keep(array: Any) -> None:
        import builtins

        builtins.swarm_kept = array  # type: ignore[attr-defined]

    def look() -> tuple[float, float]:
        import builtins

        kept = builtins.swarm_kept  # type: ignore[attr-defined]
        return float(kept.min()), float(kept.max())

    fleet.submit(keep, np.full(SIZE // 8, 3.0)).result(60)
    for number in range(30):
        fleet.submit(len, np.full(SIZE // 8, float(-number))).result(60)
    assert fleet.submit(look).result(60) == (3.0, 3.0)


def test_a_result_goes_on_to_the_next_task(fleet: Fleet) -> None:
    ones = fleet.submit(np.ones, SIZE // 8).result(60)
    same = fleet.submit(lambda array: array, ones)
    del ones
    assert float(same.result(60).sum()) == SIZE // 8
    later = fleet.submit(np.add, fleet.submit(np.ones, SIZE // 8), 1.0)
    assert float(later.result(60).sum()) == SIZE // 4


def test_the_memory_of_a_task_that_failed_is_used_again(fleet: Fleet) -> None:
    def fails(array: Any) -> None:
        raise ValueError("no")

    for _ in range(30):
        with pytest.raises(ValueError, match="no"):
            fleet.submit(fails, np.zeros(SIZE // 8)).result(60)
        with pytest.raises(ValueError, match="no"):
            fleet.submit(fails, np.zeros(SIZE // 8)).result(60)


def test_workers_and_clients_that_are_killed_leave_nothing_in_use(fleet: Fleet, nodes: Nodes) -> None:
    for _ in range(6):
        crash = fleet.submit(lambda array: os._exit(1), np.zeros(2 * SIZE // 8), rerun=False)
        assert crash.exception(60) is not None
    script = (
        "import numpy as np, os, swarm, time\n"
        "fleet = swarm.connect(timeout_s=60)\n"
        f"kept = [fleet.submit(np.ones, {SIZE // 8}).result(60) for _ in range(8)]\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    env = nodes.env | {"SWARM_NODE_SOCKET": str(nodes.home.node_socket("oak"))}
    other = subprocess.Popen([sys.executable, "-c", script], env=env, cwd=ROOT, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"ready\n"
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()

    def held() -> int:
        return int(fleet._engine.query("status", {})[0]["blob_bytes"])

    until(lambda: held() == 0, 60, "what the killed client held")
    assert float(fleet.submit(np.add, np.ones(SIZE // 8), 1.0).result(60)[0]) == 2.0


def test_a_node_that_was_killed_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    nodes.start("elm", "--workers", "1")
    with nodes.connect("elm") as fleet:
        kept = fleet.submit(np.ones, SIZE // 8).result(60)
        before = stores(nodes)
        assert before and files(nodes)
        nodes.kill("elm")
        assert float(kept.sum()) == SIZE // 8, "what is mapped stays"
        fleet.close(cancel=True)
    nodes.start("fir", "--workers", "1")
    assert not any(path.exists() for path in before)
    assert nodes.stop("fir") == 0
    assert not stores(nodes)
