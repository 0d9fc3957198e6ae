"""A behaviour that leaves its own history, found in counts a window: without thresholds, and without a model of the numbers."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import median
from typing import Any, Final

from swarm.nano.errors import NanoError

SLACK: Final = 0.5
"""By so many standard deviations of a rank a mean may be off for ever: half the shift that is looked for."""
HISTORY: Final = 240
"""Values against which a new one is ranked, at most."""
LEARN_MIN: Final = 10


@dataclass(frozen=True, slots=True)
class Anomalies:
    """What `NanoSwarm.watch` takes to flag cohorts and topics whose behaviour leaves its own history.

    Each of `metrics` (those of `Alert`; None for the usual ones) is looked at for each cohort and topic on its own, a value a
    window. A value's place among the last 240 is summed up, in either direction, by a CUSUM: McDonald, "A CUSUM procedure
    based on sequential ranks", Naval Research Logistics 37 (1990) 627-646. Ranks know nothing of the values' distribution, so
    neither outliers nor heavy tails alarm, and the rate of false alarms is the same for all: with the usual `threshold`, 5 in
    5,000,000 windows of independent values, normal and Cauchy ones. A shift beyond all of the history is found in 10 to 14
    windows, one of two standard deviations in 13 to 19 (medians, after 240 to 30 windows of history), one of a single one
    late or never. What drifts or swings slowly (over more than ten windows) does leave its history, and is flagged.

    `learn` windows are seen before the first judgement. A change of the median by less than the part `least` of it is let
    pass. After a change the new behaviour is the history.
    """

    metrics: Sequence[str] | None = None
    learn: int = 30
    least: float = 0.1
    threshold: float = 12.0

    def __post_init__(self) -> None:
        if not isinstance(self.learn, int) or not LEARN_MIN <= self.learn <= HISTORY:
            raise NanoError(f"learn={self.learn!r}", hint=f"from {LEARN_MIN} to {HISTORY} windows are learnt from")
        if not 0.0 <= self.least < 1e9 or not 1.0 <= self.threshold <= 1e6:
            raise NanoError(
                f"least={self.least!r}, threshold={self.threshold!r}",
                hint="least is a part of the median (0.1), the threshold is of a sum of ranks (12)",
            )


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A change of behaviour: when it began, as far as can be told, when it was found, and the medians before and since."""

    metric: str
    of: str
    """The kind, or the topic."""
    cohort: int | None
    from_ns: int
    found_ns: int
    before: float
    after: float

    def __str__(self) -> str:
        who = self.of if self.cohort is None else f"{self.of} (cohort {self.cohort})"
        way = "rose" if self.after > self.before else "fell"
        return f"{who}: {self.metric} {way} from {self.before:.6g} to {self.after:.6g} at {self.from_ns / 1e9:.6g} s"


@dataclass(slots=True)
class Change:
    """What `Detector.update` found: `since` is how many values ago it began, this one included."""

    since: int
    before: float
    after: float


@dataclass(slots=True)
class Detector:
    """One series of values: two one-sided CUSUMs of sequential ranks. Equal values share the mean of their places."""

    learn: int = 30
    least: float = 0.1
    threshold: float = 12.0
    up: float = 0.0
    down: float = 0.0
    up_since: int = 0
    """Values since the sum was last 0."""
    down_since: int = 0
    last: deque[float] = field(default_factory=deque)
    ordered: list[float] = field(default_factory=list)

    def update(self, value: float) -> Change | None:
        """Take a value; what has changed, if anything has."""
        score = self._score(value)
        self._keep(value)
        if len(self.last) <= self.learn:
            return None
        self.up = max(0.0, self.up + score - SLACK)
        self.down = max(0.0, self.down - score - SLACK)
        self.up_since = self.up_since + 1 if self.up else 0
        self.down_since = self.down_since + 1 if self.down else 0
        if self.up > self.threshold:
            return self._changed(self.up_since)
        if self.down > self.threshold:
            return self._changed(self.down_since)
        return None

    def _score(self, value: float) -> float:
        """Its place among the last and itself, from -sqrt(3) to sqrt(3): of mean 0 and variance 1 while all is as it was."""
        n = len(self.ordered) + 1
        if n < 3:
            return 0.0
        place = (bisect_left(self.ordered, value) + bisect_right(self.ordered, value)) / 2 + 1
        return (place / (n + 1) - 0.5) * sqrt(12 * (n + 1) / (n - 1))

    def _keep(self, value: float) -> None:
        self.last.append(value)
        insort(self.ordered, value)
        if len(self.last) > HISTORY:
            del self.ordered[bisect_left(self.ordered, self.last.popleft())]

    def _changed(self, since: int) -> Change | None:
        since = min(since, len(self.last) - 1)
        values = list(self.last)
        before, after = median(values[:-since]), median(values[-since:])
        self.up = self.down = 0.0
        self.up_since = self.down_since = 0
        self.last = deque(values[-since:])
        self.ordered = sorted(self.last)
        if abs(after - before) <= self.least * abs(before):
            return None
        return Change(since, before, after)

    def save(self) -> list[Any]:
        """What `restore` wants."""
        return [self.up, self.down, self.up_since, self.down_since, list(self.last)]

    def restore(self, saved: Sequence[Any]) -> None:
        """Go on as the one that was saved."""
        self.up, self.down, self.up_since, self.down_since = saved[:4]
        self.last = deque(saved[4])
        self.ordered = sorted(self.last)
