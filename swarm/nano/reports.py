"""What a run came to: counts and durations, a line a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.nano.alerts import Raised
    from swarm.nano.anomalies import Anomaly


@dataclass(frozen=True, slots=True)
class Durations:
    """Counted durations: (middle of a bucket, count), ascending; within 1 %."""

    counts: Sequence[tuple[float, int]] = ()

    @property
    def count(self) -> int:
        """How many."""
        return sum(times for _, times in self.counts)

    def quantile(self, q: float) -> float:
        """The duration, ns, that the fraction q does not exceed; 0 when there is none."""
        wanted, seen = max(1.0, q * self.count), 0
        for middle, times in self.counts:
            seen += times
            if seen >= wanted:
                return middle
        return self.counts[-1][0] if self.counts else 0.0

    @property
    def mean(self) -> float:
        """ns; 0 when there is none."""
        return sum(middle * times for middle, times in self.counts) / self.count if self.counts else 0.0

    def since(self, before: Durations) -> Durations:
        """What came since an earlier state of the same counts."""
        was = dict(before.counts)
        return Durations([(at, n - was.get(at, 0)) for at, n in self.counts if n > was.get(at, 0)])


@dataclass(frozen=True, slots=True)
class CohortReport:
    """What the agents of one spawn did in a run."""

    cohort: int
    kind: str
    form: str
    group: str
    agents: int
    awake: int
    ticks: int
    idle: int
    worked: int
    slept: int
    failed: int
    done: int
    violations: int
    missed: int
    busy_ns: float
    budget_ns: float | None
    tick_ns: Durations = field(repr=False)
    late_ns: Durations = field(repr=False)
    jitter_ns: Durations = field(repr=False)
    """By how much the lateness of an instant differed from that of the one before."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did. `seconds` are the swarm's, `wall_s` those of the clock on the wall."""

    seconds: float
    wall_s: float
    passes: int
    ticks: int
    cohorts: tuple[CohortReport, ...]
    topics: dict[str, dict[str, int]] = field(default_factory=dict)
    alerts: tuple[Raised, ...] = ()
    """Alerts that were raised, or still lasted, in its time."""
    anomalies: tuple[Anomaly, ...] = ()
    """Changes of behaviour that were found in its time."""

    @property
    def ticks_per_s(self) -> float:
        """Ticks a second of the clock on the wall."""
        return self.ticks / self.wall_s if self.wall_s else 0.0

    @property
    def violations(self) -> int:
        """Ticks that were over their budget."""
        return sum(each.violations for each in self.cohorts)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: quantiles in place of the counts."""
        said = asdict(self) | {"ticks_per_s": self.ticks_per_s, "violations": self.violations}
        for cohort, each in zip(self.cohorts, said["cohorts"], strict=True):
            for name in ("tick_ns", "late_ns", "jitter_ns"):
                durations: Durations = getattr(cohort, name)
                each[name] = {
                    "p50": durations.quantile(0.5), "p99": durations.quantile(0.99), "p999": durations.quantile(0.999),
                    "mean": durations.mean, "count": durations.count,
                }  # fmt: skip
        return said
