"""Twin of :mod:`kernels.clock`."""

from __future__ import annotations

import time


def monotonic_ns() -> int:
    """Nanoseconds on CLOCK_MONOTONIC."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def boottime_ns() -> int:
    """Nanoseconds on CLOCK_BOOTTIME; CLOCK_MONOTONIC where there is none."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
