"""Twin of :mod:`kernels.ticks`: its arithmetic, over readings that somebody else made."""

from __future__ import annotations

SHIFT = 40
SLEW_PPM = 500
JUMP_NS = 1_000_000
SLOWEST_HZ = 1_000_000
FASTEST_HZ = 100_000_000_000

Pair = tuple[int, int, int]  # ticks, ns, width in ticks


def scaled(a: int, mult: int, shift: int) -> int:
    """a * mult / 2^shift, to the nearest (half up), modulo 2^64."""
    if not 1 <= shift <= 63:
        raise ValueError(f"a shift of {shift} bits; it is 1 to 63")
    return (a * mult + (1 << shift - 1) >> shift) % 2**64


class Calibration:
    """What a tick is, ns."""

    def __init__(self, first: Pair, last: Pair) -> None:
        ticks, ns = last[0] - first[0], last[1] - first[1]
        self.reason = ""
        self.base, self.base_ns, self.mult = first[0], first[1], 0
        if ticks <= 0 or ns <= 0 or not SLOWEST_HZ <= ticks * 10**9 // ns <= FASTEST_HZ:
            self.reason = f"the counter went {ticks} ticks in {ns} ns"
            self.base, self.base_ns, self.mult = 0, 0, 2**SHIFT
        else:
            self.mult = (ns * 2**SHIFT + ticks // 2) // ticks
        self._first, self._last = first, last

    def duration_ns(self, ticks: int) -> int:
        """How long so many ticks take."""
        return scaled(ticks, self.mult, SHIFT)

    def of_ns(self, ns: int) -> int:
        """How many ticks so many ns take."""
        return scaled(ns, 2 ** (2 * SHIFT) // self.mult, SHIFT)

    def to_ns(self, ticks: int) -> int:
        """The instant of a reading."""
        since = (ticks - self.base) % 2**64
        if since >= 2**63:
            return (self.base_ns - self.duration_ns(2**64 - since)) % 2**64
        return (self.base_ns + self.duration_ns(since)) % 2**64

    def refit(self, pair: Pair) -> float:
        """Correct the rate so that what was wrong is made good over as long a time again; ppm that it ran too slow."""
        if self.reason:
            return 0.0
        ticks, ns, width = pair
        went, passed = ticks - self._last[0], ns - self._last[1]
        if went <= 0 or passed <= 0:
            return 0.0
        told = self.to_ns(ticks)
        mult = (ns - self._first[1]) * 2**SHIFT // (ticks - self._first[0])
        lately = passed * 2**SHIFT // went
        doubt = (width + self._last[2]) * 2**SHIFT // went * passed // went
        if abs(lately - mult) > doubt + mult * SLEW_PPM // 10**6:
            self._first, mult = self._last, lately
        behind = ns - told
        self.base, self.base_ns = ticks, told
        if behind > JUMP_NS:
            self.base_ns, behind = ns, 0
        most = passed * SLEW_PPM // 10**6
        self.mult = mult + mult * max(-most, min(most, behind)) // passed
        self._last = pair
        return (ns - told) / passed * 1e6
