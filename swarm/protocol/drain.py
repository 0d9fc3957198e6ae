"""How fast what waits gets less: a rate over the last seconds, and what follows for who asks when to come back."""

from __future__ import annotations

SPAN_S = 2.0
"""The rate is that of the last one to two spans."""


class Drain:
    """Counts what ends. Two counters, whatever ends: of this span, and of the one before."""

    __slots__ = ("_before", "_count", "_since")

    def __init__(self) -> None:
        self._since: float | None = None
        self._count = 0
        self._before: int | None = None

    def ended(self, now: float, count: int) -> None:
        """So many have ended."""
        self._roll(now)
        self._count += count

    def rate(self, now: float) -> float:
        """How many end in a second; 0 when none has, or it is too early to say."""
        self._roll(now)
        if self._since is None:
            return 0.0
        over_s = now - self._since + (0.0 if self._before is None else SPAN_S)
        return ((self._before or 0) + self._count) / over_s if over_s >= SPAN_S / 8 else 0.0

    def after_s(self, now: float, count: float, least_s: float, most_s: float) -> float:
        """When so many more will have ended: within these bounds, and the lower one where nothing is known."""
        rate = self.rate(now)
        return least_s if rate <= 0.0 else min(most_s, max(least_s, count / rate))

    def _roll(self, now: float) -> None:
        if self._since is None:
            self._since = now
        elif now - self._since >= SPAN_S:
            recent = now - self._since < 2 * SPAN_S
            self._before, self._count = (self._count if recent else 0), 0
            self._since = self._since + SPAN_S if recent else now
