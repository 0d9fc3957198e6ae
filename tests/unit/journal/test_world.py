"""Consensus under every fault, on this journal: the same seeds, the same properties, and real bytes on the disks."""

from __future__ import annotations

from tests.sim.raft.plan import draw
from tests.unit.journal.world import JournalDisk, JournalWorld

SEEDS = 10


def test_a_handful_of_seeds() -> None:
    damage = refused = 0
    for seed in range(SEEDS):
        world = JournalWorld(draw(seed))
        world.run()
        for disk in world.disks.values():
            assert isinstance(disk, JournalDisk)
            damage += disk.damage
            refused += disk.refused
    assert damage, "bits have flipped"
