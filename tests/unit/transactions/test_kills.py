"""Killed at any system call of a transaction, of its commit and of the recovery after it: all or nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from swarm.transactions import StateTransaction
from tests.unit.transactions.places import (
    CALLS,
    CHANGING,
    before_and_after,
    change,
    fill,
    folder,
    image,
    killed,
    private,
)

ALL = bool(os.environ.get("SWARM_TEST_ALL"))
"""Every call; else those that change something (others lead to no other state), and of recoveries every sixth state."""


def transact(root: Path) -> None:
    with StateTransaction(root) as tx:
        change(tx)


def test_killed_at_every_call_of_a_transaction_it_is_all_or_nothing() -> None:
    with folder() as place:
        before, after = before_and_after(place / "dir")
        outcomes, at = [], 0
        alive = False
        while not alive:
            at += 1
            root = place / "dir"
            fill(root)
            alive = not killed(lambda: transact(root), at, CALLS if ALL else CHANGING)  # noqa: B023 - called at once
            said = StateTransaction.recover(root)
            found = image(root)
            assert found in (before, after), f"killed at call {at}, then {said}"
            outcomes.append(found == after)
            assert StateTransaction.recover(root) == "nothing"
            shutil.rmtree(root)
        # there is one moment, before which it is nothing and after which it is all
        assert outcomes == sorted(outcomes) and outcomes[-1] and not outcomes[0]
        assert at > (700 if ALL else 80), f"only {at} calls were counted"


def test_killed_at_every_call_of_a_recovery_it_is_still_all_or_nothing() -> None:
    with folder() as place:
        before, after = before_and_after(place / "dir")
        seen, at, recoveries = set(), 0, 0
        root, kept = place / "dir", place / "kept"
        alive = False
        while not alive:
            at += 1
            fill(kept)
            alive = not killed(lambda: transact(kept), at, CHANGING)
            # what is there decides what recovery does; calls that change nothing lead to no other state
            state = (str(image(kept)), str(private(kept)))
            if not alive and state not in seen and (kept / ".swarm-transaction" / "journal").exists():
                seen.add(state)
                inner, over = 0, not ALL and bool(len(seen) % 6)
                while not over:
                    inner += 1
                    shutil.copytree(kept, root, symlinks=True)
                    _same_inodes(kept, root)
                    over = not killed(lambda: StateTransaction.recover(root) and None, inner, CHANGING)
                    StateTransaction.recover(root)
                    assert image(root) == after, f"killed at change {at}, in its recovery at {inner}"
                    recoveries += 1
                    shutil.rmtree(root)
            shutil.rmtree(kept)
        assert len(seen) > 15 and recoveries > (1000 if ALL else 50), (len(seen), recoveries)


def _same_inodes(source: Path, target: Path) -> None:
    """What is one file under two names in the source is one in the copy."""
    first: dict[int, str] = {}
    for path in sorted(source.rglob("*")):
        if path.is_file() and not path.is_symlink():
            name = str(path.relative_to(source))
            known = first.setdefault(path.stat().st_ino, name)
            if known != name:
                os.unlink(target / name)
                os.link(target / known, target / name)


def test_what_a_killed_transaction_staged_is_gone_at_the_next_opening() -> None:
    with folder() as place:
        root = place / "dir"
        fill(root)
        killed(lambda: transact(root), 150)
        with StateTransaction(root) as tx:
            tx.write_text("x", "1")
        assert sorted(os.listdir(root / ".swarm-transaction")) == ["lock"]
