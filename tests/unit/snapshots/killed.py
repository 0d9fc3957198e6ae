"""A child that publishes a snapshot, restores one or repairs one, and dies before the n-th call to the system that changes a disk.

``python killed.py WORK FOLDER FIRST STEP`` does WORK in FOLDER again and again, each time in a fork that is ended (``os._exit``, as
SIGKILL would) before its n-th such call, for n = FIRST, FIRST + STEP, … until one comes through; it prints a line ``n exit`` for each.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import threading
from pathlib import Path

from nodes.record_files import write_records
from swarm.snapshots import Snapshot, create
from swarm.snapshots.checking import repair
from swarm.snapshots.copies import FolderCopy
from swarm.snapshots.fetching import pull
from swarm.snapshots.publishing import publishing

CALLS = (
    "open",
    "write",
    "pwrite",
    "fsync",
    "rename",
    "replace",
    "mkdir",
    "rmdir",
    "unlink",
    "link",
    "ftruncate",
    "posix_fallocate",
    "close",
)
KILLED = 86
BEFORE = {b"key %04d" % i: b"value %d" % i * 9 for i in range(2500)}
AFTER = BEFORE | {b"key 0007": b"changed", b"new": b""}


def die_before(n: int) -> None:
    """Let the process end before its n-th call."""
    lock, counts = threading.Lock(), itertools.count(1)

    def counted(call):
        def instead(*arguments, **options):
            with lock:
                if next(counts) == n:
                    os._exit(KILLED)
            return call(*arguments, **options)

        return instead

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def work(name: str, folder: Path) -> None:
    """What is done. The folder holds `base` already, a whole snapshot, and `damaged`, one that is not."""
    match name:
        case "create":
            create(
                folder / "new",
                {"a": AFTER.items(), "b": [(b"x", b"y")]},
                created_ms=2,
                base=folder / "base",
                run_bytes=50_000,
            )
        case "restore":
            with publishing(folder / "out") as out, Snapshot.open(folder / "base") as snapshot:
                for shard in snapshot:
                    write_records(out / f"{shard.name}.jsonl", shard)
        case "pull":
            pull(folder / "pulled", [FolderCopy(folder / "base")])
        case "repair":
            repair(folder / "damaged", FolderCopy(folder / "base"))


def prepare(folder: Path) -> None:
    """What `work` finds."""
    create(folder / "base", {"a": BEFORE.items()}, created_ms=1)
    shutil.copytree(folder / "base", folder / "damaged")
    path = next((folder / "damaged").glob("a-*"))
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    data[500] ^= 1
    data[-5] ^= 1
    path.write_bytes(data)
    (folder / "damaged" / "manifest").write_bytes(b"x")


def main() -> None:
    name, folder, first, step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    for n in itertools.count(first, step):
        child = os.fork()
        if child == 0:
            here = folder / str(n)
            here.mkdir()
            prepare(here)
            die_before(n)
            work(name, here)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(n, status, flush=True)
        if status != KILLED:
            return


if __name__ == "__main__":
    main()
