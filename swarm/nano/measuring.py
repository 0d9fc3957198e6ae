"""What a swarm has done: counts and durations of its cohorts and topics, since the beginning or since a mark."""

from __future__ import annotations

import time as clocks
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kernels.passes import Passes
from kernels.topics import Bus
from swarm.nano.cohorts import Cohort
from swarm.nano.reports import CohortReport, Durations, Report
from swarm.nano.tracing import ticks_per_ns
from swarm.nano.watching import Watch


@dataclass(frozen=True, slots=True)
class Mark:
    """Counts of a swarm at a moment."""

    now_ns: int
    passes: int
    wall_ns: int
    counts: list[dict[str, int]]
    durations: list[tuple[Durations, ...]]
    topics: dict[str, tuple[int, int, int, int]]


class Measuring:
    """Reads the counts of one swarm."""

    def __init__(
        self, passes: Passes, bus: Bus, topics: Mapping[str, int], cohorts: Sequence[Cohort], window_ns: int
    ) -> None:
        self._passes = passes
        self._bus = bus
        self._topics = topics
        self._cohorts = cohorts
        self._window_ns = window_ns

    def counts(self, cohort: int) -> tuple[dict[str, float], float | None]:
        """Counts of a cohort since its beginning by name, "busy_ns" among them; and its budget, ns."""
        counts: dict[str, float] = dict(self._passes.statistics(cohort))
        budget = self._cohorts[cohort].budget
        return counts | {
            "busy_ns": counts["busy"] / ticks_per_ns(self._passes)
        }, budget.ns if budget is not None else None

    def durations(self, cohort: int) -> tuple[Durations, Durations, Durations]:
        """What ticks of a cohort took since its beginning, how late they were, and how much that differed; ns."""
        ns = 1.0 / ticks_per_ns(self._passes) / self._passes.statistics(cohort)["parts"]
        spent, late, jitter = (
            Durations(self._passes.durations(cohort, which)) for which in ("spent", "late", "jitter")
        )
        return Durations([(at * ns, times) for at, times in spent.counts]), late, jitter

    def mark(self) -> Mark:
        """Where its counts stand now, for a later `report`."""
        numbers = range(len(self._cohorts))
        return Mark(
            self._passes.now_ns, self._passes.made, clocks.perf_counter_ns(),
            [self._passes.statistics(number) for number in numbers],
            [self._durations(n) for n in numbers],
            {topic: self._bus.counters(number) for topic, number in self._topics.items()},
        )  # fmt: skip

    def _durations(self, number: int) -> tuple[Durations, ...]:
        return tuple(Durations(self._passes.durations(number, which)) for which in ("spent", "late", "jitter"))

    def report(self, since: Mark, watched: Watch | None) -> Report:
        """What was done since a mark."""
        ns_per = 1.0 / ticks_per_ns(self._passes)
        lines = []
        for number, each in enumerate(self._cohorts):
            now = self._passes.statistics(number)
            known = number < len(since.counts)
            was = since.counts[number] if known else dict.fromkeys(now, 0)
            spent, late, jitter = self._durations(number)
            if known:
                spent, late, jitter = (
                    these.since(those)
                    for these, those in zip((spent, late, jitter), since.durations[number], strict=True)
                )
            lines.append(CohortReport(
                cohort=number, kind=each.state.kind.__name__, form=each.form.name, group=each.group,
                agents=now["agents"], awake=now["awake"],
                **{name: now[name] - was[name] for name in ("ticks", "idle", "worked", "slept", "failed", "done", "missed")},
                violations=now["over"] - was["over"], busy_ns=(now["busy"] - was["busy"]) * ns_per,
                tick_ns=Durations([(at * ns_per / now["parts"], n) for at, n in spent.counts]),
                late_ns=late, jitter_ns=jitter, budget_ns=each.budget.ns if each.budget is not None else None,
            ))  # fmt: skip
        names = ("published", "dropped", "blocked", "delivered")
        said = {
            topic: {
                name: now - was
                for name, now, was in zip(
                    names, self._bus.counters(number), since.topics.get(topic, (0,) * 4), strict=True
                )
            }
            for topic, number in self._topics.items()
        }
        return Report(
            seconds=(self._passes.now_ns - since.now_ns) / 1e9, wall_s=(clocks.perf_counter_ns() - since.wall_ns) / 1e9,
            passes=self._passes.made - since.passes,
            ticks=sum(line.ticks for line in lines), cohorts=tuple(lines), topics=said,
            alerts=tuple(
                replace(each) for each in (watched.alerts if watched is not None else ())
                if each.to_ns is None or each.to_ns + self._window_ns > since.now_ns
            ),
            anomalies=tuple(
                each for each in (watched.anomalies if watched is not None else ()) if each.found_ns > since.now_ns
            ),
        )  # fmt: skip
