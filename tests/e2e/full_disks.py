"""Scenarios in which space runs out, each for a process that may mount what it likes: see test_full_disks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import swarm
from swarm.errors import SwarmError
from tests.e2e.fleets import Nodes, until

MIB = 1 << 20
SHM_BYTES = 24 * MIB
JOURNAL_DISK_BYTES = 96 << 20
DISK_BYTES = 4 * MIB


def mount(where: Path, size: int) -> None:
    """A small file system in memory."""
    where.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "small", str(where)], check=True)


def fill(where: Path) -> Path:
    """A file that takes all the space there is."""
    filler = where / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (MIB // 4, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    free = os.statvfs(where)
    assert free.f_bavail == 0, free
    return filler


def refused(what: Callable[[], Any], *words: str) -> None:
    """It fails with an error of ours that says these words, and what to do."""
    try:
        value = what()
    except swarm.SwarmError as error:
        said = f"{error} / {error.hint}"
        assert error.hint and all(word in said for word in words), said
    else:
        raise AssertionError(f"it worked: {str(value)[:200]}")


def _later(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


def _later_bytes(path: str, size: int) -> bytes:
    while not os.path.exists(path):
        time.sleep(0.05)
    return bytes(size)


def _ones(size: int) -> Any:
    return np.ones(size, dtype=np.uint8)


def _total(array: Any) -> int:
    return int(array.sum())


def _there_is_room(fleet: swarm.Fleet) -> bool:
    try:
        return bool(fleet.submit(_total, _ones(4 * MIB)).result(60) == 4 * MIB)
    except swarm.SwarmError:
        return False


def shared_memory(root: Path) -> None:
    """A full /dev/shm: what is too large says so, there and back; all else goes on."""
    mount(Path("/dev/shm"), SHM_BYTES)
    nodes = Nodes(root / "home")
    nodes.start("oak", "--workers", "2")
    with nodes.connect("oak") as fleet:
        running = fleet.submit(_later, 4.0)
        assert fleet.submit(_total, _ones(4 * MIB)).result(60) == 4 * MIB
        refused(lambda: fleet.submit(_total, _ones(2 * SHM_BYTES)).result(60), "no room", "/dev/shm", "free some space")
        refused(lambda: fleet.submit(_ones, 2 * SHM_BYTES).result(60), "no room", "/dev/shm", "free some space")
        filler = fill(Path("/dev/shm"))
        refused(lambda: fleet.submit(_ones, 9 * MIB).result(60), "no room", "/dev/shm", "free some space")
        assert fleet.submit(pow, 2, 10).result(60) == 1024
        assert running.result(60) == "done"
        filler.unlink()
        until(lambda: _there_is_room(fleet), 60, "arrays are taken again")
        for _ in range(40):  # far more than there is room for, one after the other
            assert fleet.submit(_total, fleet.submit(_ones, MIB)).result(60) == MIB
    status = nodes.stop("oak")
    assert status == 0, f"{status}: {nodes.log('oak')}"
    assert not list(Path("/dev/shm").iterdir())


def full_shared_memory_at_the_start(root: Path) -> None:
    """A node that starts with a full /dev/shm."""
    mount(Path("/dev/shm"), SHM_BYTES)
    filler = fill(Path("/dev/shm"))
    nodes = Nodes(root / "home")
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        assert fleet.submit(pow, 2, 10).result(60) == 1024
        refused(lambda: fleet.submit(_ones, MIB).result(60), "no room", "/dev/shm", "free some space")
        filler.unlink()
        assert fleet.submit(_total, _ones(MIB)).result(60) == MIB
    status = nodes.stop("oak")
    assert status == 0, f"{status}: {nodes.log('oak')}"


def home(root: Path) -> None:
    """The disk of a node's home runs full while it works, and is full when it starts again."""
    disk = root / "disk"
    mount(disk, DISK_BYTES)
    nodes = Nodes(disk / "home", settings={"TMPDIR": str(root), "SWARM_LEDGER_ENABLED": "false"})
    nodes.start("oak", "--workers", "1")
    nodes.start("elm", "--workers", "1")
    with nodes.connect("oak") as fleet:
        until(lambda: sum(one["state"] == "alive" for one in fleet.members()) == 2, 60, "two members")
        before = sorted(one["id"] for one in fleet.members())
        running = fleet.submit(_later, 3.0)
        filler = fill(disk)
        assert list(fleet.map(abs, range(-100, 0))) == list(range(100, 0, -1))
        assert fleet.submit(_total, _ones(MIB)).result(60) == MIB
        done = nodes.cli("run", "--", "echo", "still here")
        assert (done.returncode, done.stdout) == (0, b"still here\n"), done.stderr
        nodes.kill("elm")
        until(lambda: any(one["state"] == "dead" for one in fleet.members()), 60, "a death is seen")
        assert running.result(60) == "done"
    status = nodes.stop("oak")
    assert status == 0, f"{status}: {nodes.log('oak')}"
    said = nodes.cli("node", "--name", "oak", timeout_s=60)
    _says_no(said, str(disk))
    filler.unlink()
    for name in ("oak", "elm"):
        nodes.start(name, "--workers", "1")
    with nodes.connect("oak") as fleet:
        until(lambda: sum(one["state"] == "alive" for one in fleet.members()) == 2, 60, "two members")
        assert sorted(one["id"] for one in fleet.members()) == before, "they are who they were"
        assert fleet.submit(pow, 2, 10).result(60) == 1024
    assert set(nodes.stop_all().values()) == {0}


def first_start(root: Path) -> None:
    """The first start of all on a full disk: nothing half made is in the way once there is room."""
    disk = root / "disk"
    mount(disk, DISK_BYTES)
    filler = fill(disk)
    nodes = Nodes(disk / "home", settings={"TMPDIR": str(root), "SWARM_LEDGER_ENABLED": "false"})
    _says_no(nodes.cli("node", "--name", "oak", timeout_s=60), str(disk))
    with open(filler, "r+b") as file, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]  # no start succeeds, each gets a little further
        for _ in range(8):
            file.truncate(filler.stat().st_size - 4096)
            said = nodes.cli("node", "--name", "oak", "--listen-port", str(port), timeout_s=60)
            assert said.returncode == 71 and b"Traceback" not in said.stderr, said.stderr
    filler.unlink()
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        assert fleet.submit(pow, 2, 10).result(60) == 1024
    assert nodes.stop("oak") == 0


def journal(root: Path) -> None:
    """The disk of a journal runs full: what is durable is not accepted, what runs goes on, and so does all once there is room."""
    disk = root / "disk"
    mount(disk, JOURNAL_DISK_BYTES)
    nodes = Nodes(disk / "home", settings={"TMPDIR": str(root)})
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        assert fleet.submit(pow, 2, 10, durability="node").result(60) == 1024
        filler = fill(disk)
        kept = []
        for _ in range(200):
            future = fleet.submit(len, os.urandom(500_000), durability="node")
            try:
                future.receipt.result(60)
            except SwarmError as error:
                assert "full" in f"{error} {error.hint}" or "space" in f"{error} {error.hint}", (str(error), error.hint)
                break
            kept.append(future)
        else:
            raise AssertionError("it was accepted for ever")
        assert kept and all(each.result(60) == 500_000 for each in kept)
        assert fleet.submit(pow, 2, 11).result(60) == 2048, "what is not durable needs no journal"
        filler.unlink()

        def accepted() -> bool:
            try:
                return fleet.submit(pow, 3, 3, durability="node").result(60) == 27
            except SwarmError:
                return False

        until(accepted, 60, "it is taken again")
    status = nodes.stop("oak")
    assert status == 0, f"{status}: {nodes.log('oak')}"


def kept(root: Path) -> None:
    """The disk runs full on which large arguments and results are kept: a task that needs more is not accepted, one that was is
    not lost, but has its outcome when there is room."""
    disk = root / "disk"
    mount(disk, JOURNAL_DISK_BYTES)
    nodes = Nodes(disk / "home", settings={"TMPDIR": str(root)})
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        assert fleet.submit(len, os.urandom(4 * MIB), durability="node").result(60) == 4 * MIB
        result = fleet.submit(_later_bytes, str(disk / "go"), 4 * MIB, durability="node")
        result.receipt.result(60)
        # Some of it, so that there is room for a journal, and none for more than that.
        filler = disk / "filler"
        with open(filler, "wb") as file:
            free = os.statvfs(disk)
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - 6 * MIB)
        (disk / "go").touch()
        refused(
            lambda: fleet.submit(len, os.urandom(4 * MIB), durability="node").result(60),
            "not accepted",
            "no room",
            "disk",
        )
        assert fleet.submit(pow, 2, 10, durability="node").result(60) == 1024, "what is small has room"
        assert fleet.submit(pow, 2, 10).result(60) == 1024
        time.sleep(1.0)
        assert not result.done(), "it has ended, but nobody may be told before it is kept"
        filler.unlink()
        assert result.result(60) == bytes(4 * MIB)
        assert fleet.submit(len, os.urandom(4 * MIB), durability="node").result(60) == 4 * MIB
    status = nodes.stop("oak")
    assert status == 0, f"{status}: {nodes.log('oak')}"


def snapshots_of_knowledge(root: Path) -> None:
    """No room for a snapshot: that is said, in the log where nobody asked for it, and what was there stays."""
    every = {"SWARM_KNOWLEDGE_SNAPSHOT_EVERY_S": "0.5", "SWARM_WORKERS": "0"}
    nodes = Nodes(root / "home", settings=every)
    disk = nodes.home.node_dir("oak") / "snapshots"
    mount(disk, DISK_BYTES)
    nodes.start("oak")
    with nodes.connect("oak") as fleet:
        fleet.knowledge.put("facts", "a", 1)
        assert nodes.cli("snapshot", "create", "first").returncode == 0
        filler = fill(disk)
        for number in range(40):
            fleet.knowledge.put("facts", f"n{number}", os.urandom(4000))
        said = nodes.cli("snapshot", "create", "second")
        assert (
            said.returncode
            and b"could not be written: No space left" in said.stderr
            and b"hint: free some" in said.stderr
        )
        until(lambda: "snapshot.failed" in nodes.log("oak"), 60, "it is told")
        assert not [path for path in disk.iterdir() if path.name.startswith(".")], "nothing half done stays"
        assert nodes.cli("snapshot", "verify", "first").returncode == 0
        fleet.knowledge.put("facts", "b", 2)
        filler.unlink()
        assert nodes.cli("snapshot", "create", "second").returncode == 0
        assert nodes.cli("snapshot", "verify", "second").returncode == 0
    status = nodes.stop("oak")
    assert status == 0, f"{status}: {nodes.log('oak')}"


def directories_of_commands(root: Path) -> None:
    """A full TMPDIR: a command that needs room there fails and says why; others, and callables, run."""
    disk = root / "disk"
    mount(disk, DISK_BYTES)
    source = root / "input"
    source.write_bytes(bytes(MIB))
    nodes = Nodes(root / "home", settings={"TMPDIR": str(disk)})
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        running = fleet.submit_command(["sh", "-c", "sleep 3; echo done"])
        until(lambda: any("swarm-" in path.name for path in disk.glob("*/*/*/*")), 60, "it has its directory")
        filler = fill(disk)
        staged = fleet.submit_command(["cat", "input"], files_in=[("input", source)])
        refused(lambda: staged.result(60), "No space left on device", "could not be staged")
        assert running.result(60)["exit"] == 0
        writes = fleet.submit_command(["sh", "-c", f"head -c {MIB} /dev/zero >big"])
        assert writes.result(60)["exit"] == 1, "the command sees a full disk as it would anywhere"
        assert fleet.submit(pow, 2, 10).result(60) == 1024
        filler.unlink()
        assert fleet.submit_command(["cat", "input"], files_in=[("input", source)]).result(60)["exit"] == 0
    status = nodes.stop("oak")
    assert status == 0, f"{status}: {nodes.log('oak')}"
    assert not list(disk.iterdir())


def _says_no(said: subprocess.CompletedProcess[bytes], where: str) -> None:
    text = said.stderr.decode()
    assert said.returncode == 71, (said.returncode, text)
    assert "Traceback" not in text and "No space left" in text and where in text and "hint: " in text, text


SCENARIOS = (
    shared_memory,
    full_shared_memory_at_the_start,
    home,
    first_start,
    journal,
    kept,
    directories_of_commands,
    snapshots_of_knowledge,
)

if __name__ == "__main__":
    {scenario.__name__: scenario for scenario in SCENARIOS}[sys.argv[1]](Path(sys.argv[2]))
