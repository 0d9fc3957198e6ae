"""Runs seeds until one fails: ``python -m tests.unit.journal [--seeds 1000] [--start 0] [--consensus]``.

Each is a life of a journal with every fault of a disk, held against a model; with ``--consensus`` a run of the simulator of consensus, on
journals.
"""

from __future__ import annotations

import argparse
import sys
import time

from nodes.journal.errors import JournalRefused, Reason


def main() -> int:
    """Exit status 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.unit.journal", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--consensus", action="store_true")
    arguments = parser.parse_args()
    from tests.sim.raft.plan import draw
    from tests.unit.journal.test_machine import run
    from tests.unit.journal.world import JournalDisk, JournalWorld

    began = time.perf_counter()
    damage = refused = 0
    for seed in range(arguments.start, arguments.start + arguments.seeds):
        try:
            if arguments.consensus:
                world = JournalWorld(draw(seed))
                world.run()
                disks = [disk for disk in world.disks.values() if isinstance(disk, JournalDisk)]
                damage += sum(disk.damage for disk in disks)
                refused += sum(disk.refused for disk in disks)
            else:
                machine = run(seed)
                damage += machine.damage
                refused += machine.refused
        except Exception as error:
            if isinstance(error, JournalRefused) and error.reason is Reason.LOST:
                continue
            print(f"seed {seed}: {error}", file=sys.stderr)
            raise
    took_s = time.perf_counter() - began
    print(
        f"{arguments.seeds} seeds, {took_s:.1f} s: nothing found; {damage} groups damaged by rot, {refused} without space"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
