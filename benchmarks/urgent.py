"""How long a critical task waits on a fleet whose slots are all taken, beside the same fleet while it is idle.

``python -m benchmarks.urgent`` starts three nodes with one worker each, which share this machine's cores with the client. Latency is from
`submit` to the first line of the task; clocks are one machine's.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import swarm
from benchmarks.durable import NAMES, quantiles, three_nodes
from benchmarks.fleet import connected, line

SINGLES = 200
LOW_S = 3.0


def first_line() -> int:
    """The urgent task: when it began, ns."""
    return time.monotonic_ns()


def computes(for_s: float) -> tuple[int, float]:
    """Uses the processor for so many seconds of its own time; a sum that tells whether all steps were made, and its time by the
    clock."""
    began, used, steps, total = time.perf_counter(), time.process_time(), 0, 0
    while time.process_time() - used < for_s:
        steps += 1
        total += steps
    return total - steps * (steps + 1) // 2, time.perf_counter() - began


def to_first_line_ms(fleet: swarm.Fleet, count: int) -> list[float]:
    """From `submit` of a critical task to its first line, one after the other."""
    took = []
    for _ in range(count):
        began = time.monotonic_ns()
        took.append((fleet.submit(first_line, priority=swarm.CRITICAL).result(60) - began) / 1e6)
        time.sleep(0.01)
    return took


def rows() -> None:
    """Print the lines."""
    # Short, since names of sockets are.
    with tempfile.TemporaryDirectory(prefix="sw-", dir="/tmp") as folder, three_nodes(Path(folder)):
        connected().close()
        with swarm.connect(direct=False) as fleet:
            while sum(one["state"] == "alive" for one in fleet.members()) < len(NAMES):
                time.sleep(0.1)
            to_first_line_ms(fleet, 20)
            idle = quantiles(to_first_line_ms(fleet, SINGLES))
            low = [fleet.submit(computes, LOW_S, priority=swarm.LOW) for _ in NAMES]
            time.sleep(1.0)
            to_first_line_ms(fleet, 20)
            busy = quantiles(to_first_line_ms(fleet, SINGLES))
            wrong = sum(1 for one in low if one.result(120)[0])
            line("critical task to its first line, idle fleet, p50 / p99", f"{idle[0]:.2f} / {idle[1]:.2f}", "ms")
            line("the same, every slot taken by LOW tasks that compute", f"{busy[0]:.2f} / {busy[1]:.2f}", "ms")
            line("over idle", f"{busy[0] - idle[0]:+.2f} / {busy[1] - idle[1]:+.2f}", "ms")
            line("suspended tasks with a wrong result", f"{wrong} of {len(low)}", "")


if __name__ == "__main__":
    rows()
