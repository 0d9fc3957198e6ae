"""System calls that fail in a transaction, on real files: the disk is full, or broken. Nothing is applied, and it is told."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from swarm.transactions import PathRefused, StateTransaction, TransactionError, TransactionUndecided
from swarm.transactions.disk import Disk
from tests.unit.transactions.places import CHANGING, before_and_after, change, fill, folder, image, trapped


def failing(root: Path, at: int, code: int) -> tuple[str, str]:
    """In a child: what a transaction says whose `at`-th call fails; ("", "") when that call was never made."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = ("crash", "")
        try:
            real = {name: getattr(os, name) for name in CHANGING}

            def fail() -> None:
                raise OSError(code, os.strerror(code))

            count = trapped(CHANGING, at, fail)
            try:
                with StateTransaction(root) as tx:
                    change(tx)
                said = ("committed", "")
            except TransactionUndecided as error:
                said = ("undecided", str(error))
            except OSError as error:
                said = ("failed", str(error.errno))
            except TransactionError as error:
                said = ("failed", str(error))
            if count() < at:
                said = ("", "")
            for name, function in real.items():
                setattr(os, name, function)
        finally:
            os.write(writes, json.dumps(said).encode())
            os._exit(0)
    os.close(writes)
    os.waitpid(pid, 0)
    with os.fdopen(reads) as file:
        kind, text = json.loads(file.read())
    return kind, text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_whichever_call_fails_it_is_all_or_nothing_and_what_is_told_is_so(code: int) -> None:
    with folder() as place:
        root = place / "dir"
        before, after = before_and_after(root)
        kinds: dict[str, int] = {}
        at = 0
        while True:
            at += 1
            fill(root)
            kind, text = failing(root, at, code)
            if not kind:
                break
            kinds[kind] = kinds.get(kind, 0) + 1
            found = image(root)
            if kind == "failed":
                assert found == before, (at, text)
            elif kind == "committed":
                assert found == after, at
            else:
                assert kind == "undecided" and found in (before, after), (at, kind, text)
            StateTransaction.recover(root)
            assert image(root) == (before if kind == "failed" else after if kind == "committed" else image(root)), at
            assert image(root) in (before, after)
            shutil.rmtree(root)
        assert kinds["failed"] > 50, kinds


def test_a_disk_that_fails_in_the_commit_and_in_taking_it_back_is_left_to_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = before_and_after(tmp_path / "dir")
    fill(tmp_path / "dir")
    real, failing = Disk.rename, False

    def rename(disk: Disk, old: str, new: str) -> None:
        nonlocal failing
        failing = failing or new == "folder-to-file"  # most is in its place by then
        if failing:
            raise OSError(errno.EIO, "injected")
        real(disk, old, new)

    with monkeypatch.context() as broken:
        broken.setattr(Disk, "rename", rename)
        with pytest.raises(TransactionUndecided, match="taking it back") as told:
            with StateTransaction(tmp_path / "dir") as tx:
                change(tx)
    assert "recover" in told.value.hint
    assert image(tmp_path / "dir") not in (before, after), "half of it, until somebody opens it"
    with StateTransaction(tmp_path / "dir") as tx:
        assert tx.read_text("changed") == "new"
    assert image(tmp_path / "dir") == after


def test_what_is_on_another_filesystem_is_refused_before_anything_is_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "dir")
    before = image(tmp_path / "dir")
    real = Disk.stat

    def mounted(disk: Disk, name: str) -> os.stat_result | None:
        found = real(disk, name)
        if found is None or not name.startswith("closed"):
            return found
        return os.stat_result((found.st_mode, found.st_ino, found.st_dev + 1, *found[3:]))

    monkeypatch.setattr(Disk, "stat", mounted)
    for act in (lambda tx: tx.write_text("closed/x", "x"), lambda tx: tx.remove_tree("closed")):
        with pytest.raises(PathRefused, match="another filesystem"):
            with StateTransaction(tmp_path / "dir") as tx:
                tx.write_text("changed", "new")
                act(tx)
        assert image(tmp_path / "dir") == before


def test_errors_travel(tmp_path: Path) -> None:
    with pytest.raises(TransactionError) as told:
        StateTransaction(tmp_path / "gone").begin()
    again = pickle.loads(pickle.dumps(told.value))
    assert str(again) == str(told.value) and again.hint == told.value.hint
