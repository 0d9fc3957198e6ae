"""A journal over a disk with every fault, against a model: what was synced is found again or said to be damaged."""

from __future__ import annotations

import contextlib
from random import Random

import pytest

from nodes.journal.errors import JournalRefused, Reason
from nodes.journal.store import Rotten
from tests.unit.journal.model import Machine

SEEDS = 8
"""Of each part, in CI; `python -m tests.unit.journal --seeds 10000` runs many."""
GROUPS = tuple(b"group %d" % number for number in range(4))


def run(seed: int, steps: int = 60) -> Machine:
    """One life of a node, with crashes and at most one flipped bit between two starts."""
    rng = Random(seed)
    machine = Machine(rng.randrange(1 << 30))
    disk = machine.disk
    rots = rng.random() < 0.7
    for _ in range(steps):
        what = rng.random()
        alive = True
        if what < 0.6:
            groups = rng.sample(GROUPS, rng.randint(1, len(GROUPS)))
            if rng.random() < 0.08:
                disk.cut = rng.randrange(20_000)
            elif rng.random() < 0.03:
                disk.sync_fails = True
            alive = machine.commit([machine.write(group) for group in groups])
        elif what < 0.7:
            alive = machine.idle()
        elif what < 0.75:
            disk.bytes_max = None if disk.bytes_max else disk.used + rng.choice((0, 65536, 200_000))
        elif what < 0.8 and rots and not machine.flips:
            inode = disk.shown[rng.choice(sorted(disk.shown))]
            machine.flips = 1
            if rng.random() < 0.1:
                inode.unreadable = {rng.randrange(len(inode.shown) // 512)}
            else:
                inode.flip(rng.randrange(8 * min(len(inode.shown), rng.choice((9000, 30_000, 1 << 30)))))
        elif what < 0.83 and not disk.bytes_max:
            try:
                machine.journal.compact()
            except Rotten:
                assert machine.flips
                alive = False
        elif what < 0.9:
            with contextlib.suppress(OSError):  # the sync that was to fail
                machine.close()
            alive = False
        elif what < 0.93:
            alive = False
        if not alive or disk.cut is not None:
            disk.bytes_max = None
            if rng.random() < 0.6:
                machine.power(rng.choice((None, rng.randrange(20_000))))
            else:
                machine.kill()
            while True:  # a start may be cut off, too
                if rng.random() < 0.1:
                    disk.cut = rng.randrange(100_000)
                try:
                    machine.open()
                    disk.cut = None
                    break
                except Exception as error:
                    if disk.cut != 0:
                        raise
                    assert type(error).__name__ in ("Power", "JournalRefused"), error
                    machine.power() if rng.random() < 0.5 else machine.kill()
    return machine


@pytest.mark.parametrize("part", range(6))
def test_what_was_synced_is_found_or_said_to_be_damaged(part: int) -> None:
    damage = refused = 0
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        try:
            machine = run(seed)
        except JournalRefused as error:
            assert error.reason is Reason.LOST
            continue
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        damage += machine.damage
        refused += machine.refused
    assert damage and refused  # the faults were there
