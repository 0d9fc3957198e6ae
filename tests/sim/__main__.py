"""Runs random fault schedules: ``python -m tests.sim --seeds 100 [--start 0] [--kind NAME]``.

Kinds are those of membership (`tests.sim.scenarios`) and, as ``tasks-NAME``, those of the task fabric
(`tests.sim.fabric.scenarios`), consensus, ``raft`` (`tests.sim.raft`), and the
ledger above it, ``ledger`` (`tests.sim.ledger`), by itself and, ``durable``, with the owners of tasks over it; and the log of what
the fleet knows, ``knowledge`` (`tests.sim.knowledge`). Prints one line a kind, and for a failure how to repeat it. One commit, one kind and one
seed are one run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

from tests.sim import scenarios
from tests.sim.durable import runs as durable
from tests.sim.fabric import scenarios as fabric
from tests.sim.knowledge import runs as knowledge
from tests.sim.ledger import runs as ledger
from tests.sim.raft import runs as raft
from tests.sim.scenarios import Outcome

KINDS: dict[str, Callable[[int], Outcome]] = {kind: partial(scenarios.run, kind) for kind in scenarios.SCENARIOS} | {
    f"tasks-{kind}": partial(fabric.run, kind) for kind in fabric.SCHEDULES
}
KINDS |= {
    "raft-3": partial(raft.run, members=3),
    "raft-5": partial(raft.run, members=5),
    "raft": raft.run,
    "ledger": ledger.run,
    "durable": durable.run,
    "knowledge": knowledge.run,
}


def commit() -> str:
    """The commit of the working tree, if it is one; with a mark when files were changed since."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=, with changes"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"


def main() -> int:
    """Exit status 1 if any run failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="runs of each kind (default 20)")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="only this kind; may be repeated")
    arguments = parser.parse_args()
    failures = 0
    for kind in arguments.kind or KINDS:
        began = time.perf_counter()
        events, simulated_s, traces = 0, 0.0, 0
        for seed in range(arguments.start, arguments.start + arguments.seeds):
            try:
                outcome = KINDS[kind](seed)
            except Exception as error:
                failures += 1
                print(f"FAILED {kind}, seed {seed}: {error if isinstance(error, AssertionError) else ''}")
                if not isinstance(error, AssertionError):
                    traceback.print_exc(file=sys.stdout)
                print(f"  repeat at commit {commit()}: python -m tests.sim --kind {kind} --start {seed} --seeds 1")
                continue
            events += outcome.events
            simulated_s += outcome.simulated_s
            traces ^= outcome.trace
        wall_s = time.perf_counter() - began
        print(
            f"{kind:13} {arguments.seeds} seeds  {simulated_s:8.0f} simulated s  {events:9} events  "
            f"{events / max(wall_s, 1e-9):8.0f} events/s  trace {traces:08x}",
            flush=True,
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
