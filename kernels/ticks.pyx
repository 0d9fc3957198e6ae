"""The processor's time-stamp counter as a clock: what a tick is in ns, and whether it can be trusted.

Reading it takes some 10 ns less than asking the system. Ticks become ns by a multiplication and a shift, fitted against
CLOCK_MONOTONIC_RAW, as the system's own clock does it (Linux, Documentation/timers/timekeeping.rst). Where the counter
changes its rate with the core's, or differs between cores, or is not known, the system's clock takes its place and
`reason` says why.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stddef cimport size_t

import time

cdef extern from "ticks.h" nogil:
    const char* COUNTER "TICKS_COUNTER"
    uint32_t SHIFT "TICKS_SHIFT"
    uint64_t ticks_scaled_by_halves(uint64_t, uint64_t, uint32_t) noexcept

cdef extern from "warp.h" nogil:
    int ticks_invariant() noexcept
    int64_t ticks_warp() noexcept

cdef enum:
    TRIES = 16                          # of which the tightest is taken
    SLEW_PPM = 500                      # by so much refit() makes a clock run fast or slow, at most, as adjtime(3) does
    JUMP_NS = 1_000_000                 # by so much behind, it steps forward

SLOWEST_HZ = 1_000_000                  # cntvct_el0 has 1 to 50 MHz on old boards, 1 GHz by the Arm ARM since 8.6
FASTEST_HZ = 100_000_000_000


def read():
    """The counter, as it is."""
    return ticks_read()


def read_pair():
    """(ticks, ns, width): the counter, CLOCK_MONOTONIC_RAW at that tick, and how many ticks lay around asking it."""
    cdef uint64_t before, ns, after
    cdef uint64_t ticks = 0, at_ns = 0, width = <uint64_t> -1
    cdef int i
    for i in range(TRIES):
        before = ticks_read()
        ns = ticks_system()
        after = ticks_read()
        if after - before < width:
            width = after - before
            ticks = before + width // 2
            at_ns = ns
    return ticks, at_ns, width


def scaled(uint64_t a, uint64_t mult, uint32_t shift):
    """a * mult / 2^shift, to the nearest (half up), modulo 2^64; shift is 1 to 63."""
    if not 1 <= shift <= 63:
        raise ValueError(f"a shift of {shift} bits; it is 1 to 63")
    return ticks_scaled(a, mult, shift)


def scaled_by_halves(uint64_t a, uint64_t mult, uint32_t shift):
    """scaled() where the compiler has no integers of 128 bits."""
    if not 1 <= shift <= 63:
        raise ValueError(f"a shift of {shift} bits; it is 1 to 63")
    return ticks_scaled_by_halves(a, mult, shift)


def distrust(bint invariant, int64_t warp, counter=COUNTER.decode()):
    """Why the counter is not to be used as a clock, "" where it is. `warp` is -1 where it could not be looked for."""
    if not counter:
        return "no counter of this processor is known"
    if not invariant:
        return f"the {counter} changes its rate with the processor's (CPUID says it is not invariant)"
    if warp < 0:
        return f"the {counter} could not be compared between cores: no thread could be started"
    if warp > 0:
        return f"the {counter} of one core is {warp} ticks behind another's"
    return ""


cdef class Calibration:
    """What a tick is, ns. `source` is "tsc", "cntvct" or "clock_gettime", then `reason` says why.

    It takes window_s, mostly asleep, and is as exact as two readings so far apart are (uncertainty_ppm); refit() makes it
    better, as the readings are ever further apart. Kernels use the C struct `clock` (ticks.h) without the GIL.
    """

    def __init__(self, double window_s=0.01, *, bint counter=True):
        if not 0.0001 <= window_s <= 10.0:
            raise ValueError(f"a window of {window_s} s; it is 0.0001 to 10 s")
        self.fall_back("as asked")
        if not counter:
            return
        reason = distrust(ticks_invariant(), ticks_warp() if ticks_invariant() else 0)
        if reason:
            self.fall_back(reason)
            return
        first = read_pair()
        time.sleep(window_s)
        self.begin(first, read_pair())

    @classmethod
    def of(cls, first, last):
        """From two readings as read_pair() gives them, made by whomever: nothing is looked at here."""
        cdef Calibration self = cls.__new__(cls)
        self.begin(first, last)
        return self

    cdef fall_back(self, str reason):
        self.source = "clock_gettime"
        self.reason = reason
        self.clock.base = self.clock.base_ns = 0
        self.clock.shift = SHIFT
        self.clock.mult = self.clock.back_mult = <uint64_t> 1 << SHIFT
        self.clock.counter = 0
        self.first = self.last = None

    cdef begin(self, first, last):
        ticks, ns = last[0] - first[0], last[1] - first[1]
        if ticks <= 0 or ns <= 0 or not SLOWEST_HZ <= ticks * 10**9 // ns <= FASTEST_HZ:
            self.fall_back(f"the counter went {ticks} ticks in {ns} ns")
            return
        self.source = COUNTER.decode()
        self.reason = ""
        self.clock.counter = 1
        self.clock.shift = SHIFT
        self.clock.base, self.clock.base_ns = first[0], first[1]
        self.tell(((ns << SHIFT) + ticks // 2) // ticks)
        self.first, self.last = first, last
        self.uncertainty_ppm = (first[2] + last[2]) / 2 / ticks * 1e6

    cdef tell(self, mult):
        self.clock.mult = mult
        self.clock.back_mult = 2 ** (2 * <object> SHIFT) // mult

    @property
    def mult(self):
        """ns a tick, times 2^shift."""
        return self.clock.mult

    @property
    def shift(self):
        """See mult."""
        return self.clock.shift

    @property
    def hz(self):
        """Ticks a second."""
        return 1e9 * <double> (<uint64_t> 1 << self.clock.shift) / <double> self.clock.mult

    def ticks(self):
        """A reading of what this clock counts."""
        return ticks_now(&self.clock)

    def now_ns(self):
        """The instant, ns of CLOCK_MONOTONIC_RAW."""
        return ticks_to_ns(&self.clock, ticks_now(&self.clock))

    def to_ns(self, uint64_t ticks):
        """The instant of a reading, ns of CLOCK_MONOTONIC_RAW."""
        return ticks_to_ns(&self.clock, ticks)

    def duration_ns(self, uint64_t ticks):
        """How long so many ticks take, ns, to the nearest."""
        return ticks_duration_ns(&self.clock, ticks)

    def of_ns(self, uint64_t ns):
        """How many ticks so many ns take, to the nearest."""
        return ticks_of_ns(&self.clock, ns)

    def refit(self, pair=None):
        """Compare with CLOCK_MONOTONIC_RAW and correct the rate; returns by how many ppm it ran too slow since the last.

        What was wrong is made good by running faster or slower over as long a time again: an instant never comes before
        one that was told. Only a clock more than 1 ms behind steps forward. `pair` is a reading as of read_pair().
        """
        if not self.clock.counter:
            return 0.0
        pair = pair or read_pair()
        ticks, ns, width = pair
        elapsed = ns - self.last[1]
        if elapsed <= 0 or ticks <= self.last[0]:
            return 0.0
        told = ticks_to_ns(&self.clock, ticks)
        behind = ns - told
        mult = ((ns - self.first[1]) << SHIFT) // (ticks - self.first[0])
        lately = (elapsed << SHIFT) // (ticks - self.last[0])
        doubt = ((width + self.last[2]) << SHIFT) // (ticks - self.last[0]) * elapsed // (ticks - self.last[0])
        if abs(lately - mult) > doubt + mult * SLEW_PPM // 10**6:
            self.first, mult = self.last, lately        # another rate than it had before: forget what was before
        self.clock.base, self.clock.base_ns = ticks, told
        if behind > JUMP_NS:
            self.clock.base_ns = ns
            behind = 0
        most = elapsed * SLEW_PPM // 10**6
        self.tell(mult + mult * max(-most, min(most, behind)) // elapsed)
        self.drift_ppm = (ns - told) / elapsed * 1e6
        self.uncertainty_ppm = (self.first[2] + width) / 2 / (ticks - self.first[0]) * 1e6
        self.last = pair
        self.refits += 1
        return self.drift_ppm

    def back_to_back(self, out):
        """Fill a writable buffer of 8-byte items with the ticks between one reading and the next: the noise floor."""
        cdef uint64_t[::1] room = out
        cdef size_t i
        cdef size_t n = room.shape[0]
        cdef ticks_clock clock = self.clock
        cdef uint64_t before, now
        with nogil:
            before = ticks_now(&clock)
            for i in range(n):
                now = ticks_now(&clock)
                room[i] = now - before
                before = now


_SHARED = []


def shared():
    """The clock of this process, calibrated when it is first asked for; whoever tells durations to people refits it."""
    if not _SHARED:
        _SHARED.append(Calibration())
    return _SHARED[0]
