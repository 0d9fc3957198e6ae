"""How fast what waits gets less while there is enough of it, and what follows for who asks when to come back."""

from __future__ import annotations

SPAN_S = 2.0
"""A measurement that takes longer than this counts before it is over."""
LONG_S = 5 * SPAN_S
"""A measurement that takes longer is over, whatever has ended by then."""
STALE_S = 60.0
"""What was measured longer ago says nothing any more."""
LEAST_S = 0.01
"""A measurement over less time than this would tell how reports are bundled, not how fast they come."""


class Drain:
    """Measures how fast things end while more than can be under way at once is held.

    A rate over the clock would count the time in which there was nothing to do. Those who are told to come back when a slow rate
    suggests it leave the place idle until then, by which it would seem slower still. So a measurement begins when somebody is sent away
    (it is full then), and is over when half of what was held at that time has ended: until then there was enough to do.
    """

    __slots__ = ("_at", "_count", "_goal", "_rate", "_since")

    def __init__(self) -> None:
        self._rate, self._at = 0.0, 0.0
        self._since, self._count, self._goal = 0.0, 0, 0

    def full(self, now: float, held: int) -> None:
        """Somebody is sent away, and so many are held. A measurement begins, unless one is under way."""
        if self._goal and now - self._since >= LONG_S:  # what was held may have gone otherwise than by ending
            self._over(now)
        if not self._goal:
            self._since, self._count, self._goal = now, 0, max(1, held // 2)

    def ended(self, now: float, count: int) -> None:
        """So many have ended."""
        if self._goal:
            self._count += count
            if self._count >= self._goal and now - self._since >= LEAST_S:
                self._over(now)

    def rate(self, now: float) -> float:
        """How many end in a second; 0 when it is too early to say."""
        known, took_s = self._known(now), now - self._since
        if self._goal and (took_s >= SPAN_S or (not known and took_s >= SPAN_S / 8)):
            so_far = max(self._count, 1) / took_s
            return min(known, so_far) if known else so_far
        return known

    def after_s(self, now: float, count: float, least_s: float, most_s: float) -> float:
        """When so many more will have ended: within these bounds, and the lower one where nothing is known."""
        rate = self.rate(now)
        return least_s if rate <= 0.0 else min(most_s, max(least_s, count / rate))

    def _over(self, now: float) -> None:
        rate, known = max(self._count, 1) / (now - self._since), self._known(now)
        self._rate, self._at, self._goal = (known + rate) / 2 if known else rate, now, 0

    def _known(self, now: float) -> float:
        return self._rate if now - self._at < STALE_S else 0.0
