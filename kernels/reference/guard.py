"""Twin of :mod:`kernels.guard`: it keeps every measurement. Which agents are sampled is for the kernel alone."""

from __future__ import annotations

from kernels.reference.histogram import Histogram
from kernels.reference.ticks import Calibration


class Guard:
    """Counts how long ticks take, and those over a budget."""

    def __init__(self, clock: Calibration, budget_ns: int | None = None) -> None:
        self._clock = clock
        self._budget = None if budget_ns is None else clock.of_ns(budget_ns)
        self.times = Histogram()
        self.measured = self.violations = self.backwards = self.worst_ns = 0

    def take(self, ticks: int, agents: int = 1) -> bool:
        """Count that agents took so many ticks together; tells whether that is over their budget."""
        if agents == 0:
            return False
        if ticks >= 2**63:
            self.backwards += 1
            ticks = 0
        each, more = divmod(ticks, agents)
        self.times.record(self._clock.duration_ns(each), agents - more)
        self.times.record(self._clock.duration_ns(each + 1), more)
        self.measured += agents
        self.worst_ns = max(self.worst_ns, self._clock.duration_ns(-(-ticks // agents)))
        over = self._budget is not None and ticks > self._budget * agents
        if over:
            self.violations += agents
        return over
