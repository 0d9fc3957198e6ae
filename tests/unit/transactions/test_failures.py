"""System calls that fail in a transaction, on real files: the disk is full, or broken. Nothing is applied, and it is told."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from swarm.transactions import StateTransaction, TransactionError, TransactionUndecided
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


def test_errors_travel(tmp_path: Path) -> None:
    with pytest.raises(TransactionError) as told:
        StateTransaction(tmp_path / "gone").begin()
    again = pickle.loads(pickle.dumps(told.value))
    assert str(again) == str(told.value) and again.hint == told.value.hint
