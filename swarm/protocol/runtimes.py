"""Running averages of how long tasks take, a spec at a time: they size slices and windows."""

from __future__ import annotations

from collections import OrderedDict

KEPT_MAX = 4096
WEIGHT = 0.25
"""Weight of the newest observation. Observations are batches of outcomes, so a few of them say enough."""


class Runtimes:
    """Exponentially weighted mean run time, in seconds, by spec bytes; the least recently seen are forgotten."""

    def __init__(self) -> None:
        self._mean_s: OrderedDict[bytes, float] = OrderedDict()

    def told(self, spec: bytes, expected_s: float | None) -> None:
        """Take in how long such tasks take, as who submits them knows. What is seen of them counts more."""
        if expected_s is None or spec in self._mean_s:
            return
        self._mean_s[spec] = expected_s
        if len(self._mean_s) > KEPT_MAX:
            self._mean_s.popitem(last=False)

    def observe(self, spec: bytes, total_us: int, count: int) -> None:
        """Take in that `count` tasks took `total_us` microseconds together."""
        if count <= 0:
            return
        mean = total_us / count * 1e-6
        known = self._mean_s.pop(spec, None)
        if known is not None:
            # A rise is believed at once: too long a slice delays everything behind it, too short a one costs little.
            mean = mean if mean > 4 * known else known + WEIGHT * (mean - known)
        self._mean_s[spec] = mean
        if len(self._mean_s) > KEPT_MAX:
            self._mean_s.popitem(last=False)

    def mean_s(self, spec: bytes) -> float | None:
        """Mean run time in seconds; what was told of it while none has ended yet, or None."""
        return self._mean_s.get(spec)

    def count_within(self, spec: bytes, horizon_s: float, most: int) -> int:
        """How many tasks fit into `horizon_s` seconds: at least 1, at most `most`; 1 while nothing is known."""
        mean = self._mean_s.get(spec)
        if mean is None:
            return 1
        return max(1, min(most, int(horizon_s / max(mean, 1e-7))))
