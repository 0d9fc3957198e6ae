"""Runs seeds until one fails: ``python -m tests.sim.durable [--seeds 1000] [--start 0] [--fault NAME]``.

With ``--fault`` one of the planted faults is in the owner; then a seed that fails is what is wanted. Prints the steps that are
enough to make it fail, and what happened.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.sim.durable import faults


def main() -> int:
    """Exit status 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.durable", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--fault", choices=sorted(faults.FAULTS))
    parser.add_argument("--brief", action="store_true", help="only the first line of a failure")
    arguments = parser.parse_args()
    if arguments.fault:
        faults.plant(arguments.fault)
    from tests.sim.durable.world import DurableWorld
    from tests.sim.ledger import runs
    from tests.sim.raft.truth import Broken

    began = time.perf_counter()
    events = 0
    for seed in range(arguments.start, arguments.start + arguments.seeds):
        try:
            events += runs.run(seed, brief=arguments.brief, kind=DurableWorld).events
        except Broken as broken:
            took_s = time.perf_counter() - began
            print(f"FAILED after {seed - arguments.start + 1} seeds, {took_s:.1f} s: {broken}")
            return 1
    took_s = time.perf_counter() - began
    print(f"{arguments.seeds} seeds, {events} events, {took_s:.1f} s, {events / took_s:.0f} events/s: nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
