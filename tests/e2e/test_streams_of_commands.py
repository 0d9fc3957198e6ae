"""What goes into a command, and what comes out of it, is whole however much it is and however slowly it is taken."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.fleets import ROOT, Nodes, until

SIZE = 160 << 20
"""More than a link holds for a peer that does not read (`bounds.OUTSTANDING_BYTES_MAX`)."""
SPARE_BYTES = 80 << 20
"""How much a process may grow by it, at most: windows, and the allocator's slack."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path / "m")
    nodes.start("oak", "--workers", "0")
    nodes.start("elm", "--workers", "1")
    with nodes.connect("oak") as fleet:
        until(lambda: sum(member["slots"] for member in fleet.members()) == 1, 60, "elm's worker is known")
    yield nodes
    assert nodes.stop_all() == {"oak": 0, "elm": 0}


def run(nodes: Nodes, stdin: object, *command: str) -> subprocess.Popen[bytes]:
    """`swarm run` at the node that has no workers, so that all crosses a link between nodes."""
    return subprocess.Popen(
        [sys.executable, "-m", "nodes.cli", "run", "--", *command],
        env={**nodes.env, "PYTHONPATH": str(ROOT), "SWARM_NODE_SOCKET": str(nodes.home.node_socket("oak"))},
        stdin=stdin,  # type: ignore[arg-type]
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def grown(nodes: Nodes, before: dict[str, int]) -> dict[str, int]:
    """By how much the nodes have grown, in bytes."""
    return {name: size(process.pid) - before.get(name, 0) for name, process in nodes.processes.items()}


def size(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def test_a_large_input_waits_for_a_command_that_does_not_read_yet(nodes: Nodes, tmp_path: Path) -> None:
    before, gate = grown(nodes, {}), tmp_path / "gate"
    with subprocess.Popen(["head", "-c", str(SIZE), "/dev/zero"], stdout=subprocess.PIPE) as zeros:
        command = run(nodes, zeros.stdout, "sh", "-c", f"until [ -e {gate} ]; do sleep 0.05; done; wc -c")
        assert zeros.stdout is not None
        zeros.stdout.close()
        time.sleep(2)  # time to run full, for whoever would take what nobody reads
        assert zeros.poll() is None, "the writer waits"
        most = grown(nodes, before)
        gate.touch()
        said, complaint = command.communicate(timeout=110)
    assert (command.returncode, said.strip(), complaint) == (0, str(SIZE).encode(), b"")
    assert max(most.values()) < SPARE_BYTES, most


def test_a_large_output_waits_for_a_reader_that_does_not_read_yet(nodes: Nodes) -> None:
    before = grown(nodes, {})
    command = run(nodes, subprocess.DEVNULL, "head", "-c", str(SIZE), "/dev/zero")
    time.sleep(6)  # longer than a link may be silent: nobody reads, and nobody is taken for dead
    most = grown(nodes, before)
    assert command.poll() is None, "the command waits"
    count = 0
    assert command.stdout is not None and command.stderr is not None
    while data := os.read(command.stdout.fileno(), 1 << 20):
        count += len(data)
    assert (command.wait(60), count, command.stderr.read()) == (0, SIZE, b"")
    command.stdout.close()
    command.stderr.close()
    assert max(most.values()) < SPARE_BYTES, most


def test_jobs_whose_output_is_not_read_yet_wait_and_lose_nothing(nodes: Nodes) -> None:
    size = 1 << 20
    jobs = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "nodes.cli",
            "map",
            "--ungroup",
            f"head -c {size} /dev/zero; : {{}}",
            ":::",
            "1",
            "2",
            "3",
        ],
        env={**nodes.env, "PYTHONPATH": str(ROOT), "SWARM_NODE_SOCKET": str(nodes.home.node_socket("oak"))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(8)  # longer than a client may be silent
    out, err = jobs.communicate(timeout=100)
    assert (jobs.returncode, len(out), err) == (0, 3 * size, b"")
    assert "silent" not in nodes.log("oak")
