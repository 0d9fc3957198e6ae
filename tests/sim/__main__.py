"""Runs random fault schedules: ``python -m tests.sim --seeds 100 [--start 0] [--kind NAME]``.

Prints one line a scenario, and for a failure how to repeat it. One commit, one kind and one seed are one run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from tests.sim.scenarios import SCENARIOS, run


def commit() -> str:
    """The commit of the working tree, if it is one."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"


def main() -> int:
    """Exit status 1 if any run failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="runs of each kind (default 20)")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--kind", choices=sorted(SCENARIOS), action="append", help="only this kind; may be repeated")
    arguments = parser.parse_args()
    failures = 0
    for kind in arguments.kind or SCENARIOS:
        began = time.perf_counter()
        events, simulated_s, traces = 0, 0.0, 0
        for seed in range(arguments.start, arguments.start + arguments.seeds):
            try:
                outcome = run(kind, seed)
            except AssertionError as error:
                failures += 1
                print(f"FAILED {kind}: {error}")
                print(f"  repeat at commit {commit()}: python -m tests.sim --kind {kind} --start {seed} --seeds 1")
                continue
            events += outcome.events
            simulated_s += outcome.simulated_s
            traces ^= outcome.trace
        wall_s = time.perf_counter() - began
        print(
            f"{kind:10} {arguments.seeds} seeds  {simulated_s:8.0f} simulated s  {events:9} events  "
            f"{events / max(wall_s, 1e-9):8.0f} events/s  trace {traces:08x}",
            flush=True,
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
