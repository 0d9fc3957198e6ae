"""``make soak N=1000000``: populations live and die until N events of each kind have happened; nothing may stay behind.

Events are deaths of agents, messages, agents saved and loaded, lines through rings. What malloc and Python's allocator
have given out, resident memory, files and mappings are compared from a quarter of the events on to the end.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.soak.one import soaked
from tests.soak.scenarios import SCENARIOS

TIMEOUT_S = 6 * 3600


def main() -> int:
    """Run them; 0 when nothing was left."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="of each scenario")
    parser.add_argument("--jobs", type=int, default=1, help="scenarios at a time")
    parser.add_argument("--only", choices=SCENARIOS, action="append", help="only this one")
    given = parser.parse_args()
    clean, names = 0, given.only or list(SCENARIOS)
    with ThreadPoolExecutor(given.jobs) as pool:
        for it in pool.map(lambda name: soaked(name, given.events, TIMEOUT_S), names):
            clean += not it.grown
            print(
                f"{'clean' if not it.grown else 'GROWN'}  {it.name:<31} {it.events:>9,} in {it.took_s:6.1f} s; native "
                f"{it.before.native_bytes:,} -> {it.after.native_bytes:,} B, objects {it.before.objects:,} -> "
                f"{it.after.objects:,}, resident {it.before.resident_bytes >> 20} -> {it.after.resident_bytes >> 20} MiB"
                + "".join(f"\n       {line}" for line in it.grown),
                flush=True,
            )
    print(f"{clean} of {len(names)} scenarios left nothing behind")
    return 0 if clean == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
