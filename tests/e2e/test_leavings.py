"""A task that is over is over with all that it has started, and with its directory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import swarm
from swarm.client.sync import Fleet
from tests.e2e.fleets import Nodes, until

MARK = "LEAVINGS_OF_TEST"
"""In the environment of a node under test, and of all that its tasks start."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    (tmp_path / "tmp").mkdir()
    nodes = Nodes(tmp_path / "home", settings={"TMPDIR": str(tmp_path / "tmp"), MARK: str(tmp_path)})
    nodes.start("oak", "--workers", "1")
    yield nodes
    nodes.stop_all()


@pytest.fixture
def fleet(nodes: Nodes) -> Iterator[Fleet]:
    with nodes.connect("oak") as fleet:
        yield fleet


def sleepers(tmp_path: Path) -> list[int]:
    """Processes `sleep` that tasks of this test's node have started."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                words = (directory / "cmdline").read_bytes().split(b"\0")
                environment = (directory / "environ").read_bytes()
            except OSError:
                continue
            if words[0] == b"sleep" and os.fsencode(tmp_path) in environment:
                found.append(int(directory.name))
    return found


def command_directories(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "tmp").rglob("swarm-*") if path.parent.name.isdigit()]


def test_a_command_that_is_ended_takes_all_it_started_along(fleet: Fleet, tmp_path: Path) -> None:
    script = "touch here; trap '' TERM; setsid sleep 300 & (setsid sh -c 'sleep 300; true' &); sleep 300"
    env = {MARK: str(tmp_path)}
    late = fleet.submit_command(["sh", "-c", script], env=env, timeout_s=4.0)
    until(lambda: len(sleepers(tmp_path)) == 3, 60, "it has started what it starts")
    assert len(command_directories(tmp_path)) == 1
    with pytest.raises(swarm.TaskTimeout):
        late.result(60)
    until(lambda: not sleepers(tmp_path), 60, "its processes are gone")
    until(lambda: not command_directories(tmp_path), 60, "its directory is gone")
    cancelled = fleet.submit_command(["sh", "-c", script], env=env)
    until(lambda: len(sleepers(tmp_path)) == 3, 60, "it has started what it starts")
    cancelled.cancel()
    until(lambda: not sleepers(tmp_path), 60, "its processes are gone")
    until(lambda: not command_directories(tmp_path), 60, "its directory is gone")
    assert fleet.submit(pow, 2, 3).result(60) == 8


def test_what_a_callable_leaves_in_the_background_lives_as_long_as_its_worker(
    fleet: Fleet, nodes: Nodes, tmp_path: Path
) -> None:
    def leaves() -> int:
        subprocess.run(["sh", "-c", "setsid sleep 300 </dev/null >/dev/null 2>&1 &"], check=True)
        return os.getpid()

    worker = fleet.submit(leaves).result(60)
    until(lambda: len(sleepers(tmp_path)) == 1, 60, "it runs")
    stat = Path(f"/proc/{sleepers(tmp_path)[0]}/stat").read_text()
    assert int(stat.rpartition(")")[2].split()[1]) == worker, "whoever orphans it, it comes to the worker"
    with pytest.raises(swarm.WorkerCrashed):
        fleet.submit(os._exit, 1, rerun=False).result(60)
    until(lambda: not sleepers(tmp_path), 60, "it went with its worker")
    fleet.submit(leaves).result(60)
    assert nodes.stop("oak") == 0
    assert not sleepers(tmp_path)
    assert not list((tmp_path / "tmp").iterdir())
