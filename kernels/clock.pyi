"""Clocks, in nanoseconds. See clock_gettime(2)."""

def monotonic_ns() -> int:
    """Nanoseconds on CLOCK_MONOTONIC, which stands still while the machine sleeps."""

def boottime_ns() -> int:
    """Nanoseconds on CLOCK_BOOTTIME, which runs on while the machine sleeps; CLOCK_MONOTONIC where there is none."""
