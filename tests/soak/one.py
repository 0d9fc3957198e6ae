"""One scenario in a process of its own: what is held is compared from when it has settled to the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.soak.held import Held, held
from tests.soak.scenarios import PLANTED, SCENARIOS

ROOT = Path(__file__).parents[2]
EXACT = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
"""Without it malloc counts what a thread's cache keeps of freed blocks, up to 0.25 MB, as given out."""
WARM = 0.25
"""Of the events, before what is held counts: buffers grow to what they need, once."""


@dataclass(frozen=True, slots=True)
class Soaked:
    """What came of it; `grown` says what is held more than before."""

    name: str
    events: int
    took_s: float
    before: Held
    after: Held
    grown: list[str]


def soak(name: str, events: int) -> Soaked:
    """Here, until so many events have happened."""
    life = (SCENARIOS | PLANTED)[name]()  # held to the end: what it holds itself counts
    began, before, happened = time.monotonic(), None, 0
    for happened in life:
        if before is None and happened >= WARM * events:
            before = held()
            assert happened < events, f"{happened} events before the first look at {events}"
        if happened >= events:
            break
    assert before is not None
    after = held()
    life.close()
    return Soaked(name, happened, time.monotonic() - began, before, after, after.more_than(before))


def soaked(name: str, events: int, timeout_s: float) -> Soaked:
    """The same in a fresh process. RuntimeError with what it said when it failed."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.soak.one", name, str(events)], capture_output=True, text=True, cwd=ROOT,
        timeout=timeout_s, env={**os.environ, **EXACT},
    )  # fmt: skip
    if run.returncode:
        raise RuntimeError(f"{name}: {run.stderr}")
    said = json.loads(run.stdout)
    return Soaked(**{**said, "before": Held(**said["before"]), "after": Held(**said["after"])})


if __name__ == "__main__":
    from dataclasses import asdict

    print(json.dumps(asdict(soak(sys.argv[1], int(sys.argv[2])))))
