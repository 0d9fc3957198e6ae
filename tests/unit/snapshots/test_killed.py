"""Killed at every call to the system: a snapshot is there whole or not at all, and what it left is cleared away by the next one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nodes.record_files import read_records
from swarm.errors import NotFound
from swarm.snapshots import Snapshot, create
from swarm.snapshots.checking import repair, verify
from swarm.snapshots.copies import FolderCopy
from swarm.snapshots.fetching import pull
from tests.unit.snapshots.killed import AFTER, BEFORE, KILLED, prepare, work

ROOT = Path(__file__).parents[3]
STEP = 1 if os.environ.get("SNAPSHOT_EVERY_CALL") else 3


def killed(name: str, folder: Path, step: int = STEP) -> list[Path]:
    """The folders that were left by processes that died, and the last one, whose came through."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.unit.snapshots.killed", name, str(folder), "1", str(step)],
        cwd=ROOT, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ends = [tuple(map(int, line.split())) for line in ran.stdout.splitlines()]
    assert ends[-1][1] == 0 and all(status == KILLED for _, status in ends[:-1]), ran.stdout + ran.stderr
    assert len(ends) * step > 10
    return [folder / str(n) for n, _ in ends]


def check_created(folder: Path) -> bool:
    assert verify(folder / "base", deep=True).whole
    there = (folder / "new").exists()
    if there:
        assert verify(folder / "new", deep=True).whole
        with Snapshot.open(folder / "new") as snapshot:
            assert dict(snapshot.shard("a")) == AFTER
    create(folder / "next", {"a": AFTER.items()}, created_ms=3, base=folder / "base")
    assert sorted(os.listdir(folder)) == ["base", "damaged", *["new"] * there, "next"], "nothing is left behind"
    return there


def test_create(tmp_path):
    there = [check_created(folder) for folder in killed("create", tmp_path)]
    assert there[-1] and there == sorted(there), "once it is there, it stays"


def test_restore(tmp_path):
    there = []
    for folder in killed("restore", tmp_path, 1):
        there.append((folder / "out").exists())
        if there[-1]:
            assert dict(read_records(folder / "out" / "a.jsonl")) == BEFORE
        else:
            work("restore", folder)
            assert sorted(os.listdir(folder)) == ["base", "damaged", "out"]
    assert there[-1] and not there[0]


def test_pull(tmp_path):
    there, kept = [], []
    for folder in killed("pull", tmp_path):
        there.append((folder / "pulled").exists())
        if there[-1]:
            assert verify(folder / "pulled", deep=True).whole
        else:
            with pytest.raises(NotFound):
                Snapshot.open(folder / "pulled")
            # It goes on where it was, and nothing of the first attempt is left.
            _, progress = pull(folder / "pulled", [FolderCopy(folder / "base")])
            kept.append(progress.kept_bytes)
            assert verify(folder / "pulled", deep=True).whole
            assert sorted(os.listdir(folder)) == ["base", "damaged", "pulled"]
    assert there[-1] and not there[0]
    assert max(kept) > 0


def test_repair_can_be_done_again(tmp_path):
    for folder in killed("repair", tmp_path):
        _, after = repair(folder / "damaged", FolderCopy(folder / "base"))
        assert after.whole and verify(folder / "damaged", deep=True).whole


INJECTED = [
    *(("create", call) for call in ("mkdir", "openat", "pwrite64", "write", "link", "rename", "fsync", "flock")),
    *(("restore", call) for call in ("openat", "write", "rename")),
]


def lacking(what: str) -> None:
    """Elsewhere the test is left out; where it counts, what it needs has to be there."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@pytest.mark.parametrize(("name", "call"), INJECTED)
def test_killed_by_the_kernel_itself(tmp_path, name, call):
    """The same with real signals at real calls, of the last ones of each kind: those before are the interpreter's."""
    strace = shutil.which("strace")
    if strace is None:
        lacking("no strace here")
    prepare(tmp_path)
    script = f"from tests.unit.snapshots.killed import work; from pathlib import Path; work({name!r}, Path({str(tmp_path)!r}))"
    command = [sys.executable, "-B", "-c", script]
    counted = subprocess.run(
        [strace, "-f", "-qq", "-e", f"trace={call}", "-o", str(tmp_path / "calls"), *command],
        cwd=ROOT,
        capture_output=True,
        timeout=100,
        check=False,
    )
    if counted.returncode:
        lacking("strace may not trace here")
    lines = (tmp_path / "calls").read_text().splitlines()
    (tmp_path / "calls").unlink()
    result = tmp_path / {"create": "new", "restore": "out"}[name]
    shutil.rmtree(result)
    total = len([line for line in lines if f"{call}(" in line])
    ours = [
        number
        for number, line in enumerate((line for line in lines if f"{call}(" in line), 1)
        if call != "openat" or str(tmp_path) in line
    ]
    for n in ours[-3:] if call != "pwrite64" else ours[:2] + ours[-1:]:
        # counted by thread: where several call, the signal may come later, or not at all
        subprocess.run(
            [strace, "-f", "-qq", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={n}", "-o", "/dev/null", *command],
            cwd=ROOT, capture_output=True, timeout=100, check=False,
        )  # fmt: skip
        assert n <= total
        if result.exists():
            if name == "create":
                assert verify(result, deep=True).whole
            else:
                assert dict(read_records(result / "a.jsonl")) == BEFORE
            shutil.rmtree(result)
        assert verify(tmp_path / "base").whole
