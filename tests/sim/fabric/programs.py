"""What simulated tasks do: a task's payload is its program, so that it is the same wherever and however often it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

FINE = "fine"
FAILS = "fails"
RETRIES = "retries"
"""Raises an exception to be retried for, `times` times."""
CRASHES = "crashes"
"""Takes its worker down, `times` times."""
HANGS = "hangs"
NESTS = "nests"
"""Submits `times` tasks to the fleet, waits for them, and ends as they did."""
LACKS = "lacks"
"""Fails on the node of the number `times`, which lacks what it needs."""
COUNTS = "counts"
"""Takes `times` steps, with a safe point after each: it can be moved."""
STREAMS = "streams"
"""Yields `times` items."""


@dataclass(frozen=True, slots=True)
class Program:
    """What one task does."""

    what: str
    run_s: float
    times: int = 0

    def encode(self) -> bytes:
        """As a call payload."""
        return b"M" + bytes(msgpack.packb([self.what, self.run_s, self.times]))


def read_program(payload: Any) -> Program:
    """The program in a payload."""
    what, run_s, times = msgpack.unpackb(bytes(payload)[1:])
    return Program(what, run_s, times)
