"""Clocks, in nanoseconds. See clock_gettime(2)."""

from libc.stdint cimport int64_t

cdef extern from "clock.h" nogil:
    int64_t clock_monotonic_ns() noexcept
    int64_t clock_boottime_ns() noexcept


def monotonic_ns():
    """Nanoseconds on CLOCK_MONOTONIC, which stands still while the machine sleeps."""
    return clock_monotonic_ns()


def boottime_ns():
    """Nanoseconds on CLOCK_BOOTTIME, which runs on while the machine sleeps; CLOCK_MONOTONIC where there is none."""
    return clock_boottime_ns()
