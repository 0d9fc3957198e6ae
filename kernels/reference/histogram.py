"""Twin of :mod:`kernels.histogram`, exact: it keeps every value."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable


class Histogram:
    """Durations in ns, kept one by one and in order."""

    def __init__(self) -> None:
        self._values: list[int] = []

    @property
    def count(self) -> int:
        """How many were recorded."""
        return len(self._values)

    @property
    def sum_ns(self) -> int:
        """Their sum, ns."""
        return sum(self._values)

    @property
    def min_ns(self) -> int:
        """The least, ns; 0 while there is none."""
        return self._values[0] if self._values else 0

    @property
    def max_ns(self) -> int:
        """The greatest, ns; 0 while there is none."""
        return self._values[-1] if self._values else 0

    def record(self, ns: int, times: int = 1) -> None:
        """Count one duration, as often as told."""
        at = bisect_right(self._values, ns)
        self._values[at:at] = [ns] * times

    def record_many(self, us: memoryview) -> None:
        """Count a column of u32 durations in µs."""
        for value in us:
            self.record(value * 1000)

    def quantile(self, q: float) -> int:
        """The value, ns, that the fraction q of what was recorded does not exceed."""
        if not 0 <= q <= 1:
            raise ValueError(f"quantile {q}; it lies between 0 and 1")
        if not self._values:
            return 0
        return self._values[max(1, math.ceil(q * self.count - 1e-6)) - 1]

    def buckets(self, bounds_ns: Iterable[int]) -> list[int]:
        """How many values are at or below each bound, ns."""
        return [bisect_right(self._values, bound) for bound in bounds_ns]

    def merge(self, other: Histogram) -> None:
        """Add what another one counted."""
        self._values = sorted(self._values + other._values)
