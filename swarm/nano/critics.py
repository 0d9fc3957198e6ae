"""Critics of a swarm: objects that look at its ticks between two passes."""

from __future__ import annotations

import time as clocks
from dataclasses import dataclass
from typing import Any

from kernels.passes import Passes
from swarm.nano.arrays import numpy
from swarm.nano.errors import BadTick, NanoError
from swarm.nano.numbers import real, whole
from swarm.nano.tracing import Tracing


@dataclass(slots=True)
class CriticRuns:
    """A critic of a swarm, and what its looks have cost."""

    critic: Any
    every: int
    budget_ns: float | None
    next_pass: int
    runs: int = 0
    busy_ns: int = 0
    over: int = 0
    """Looks that took longer than `budget_ns`."""
    lost: int = 0
    """Ticks that it did not see, since others had taken their place before it looked."""
    failed: int = 0
    """Looks that raised; the population goes on without what they would have found."""
    error: Exception | None = None
    """What the last of them raised."""


class Critics:
    """Those of one swarm, and when each is to look."""

    def __init__(self, passes: Passes, tracing: Tracing) -> None:
        self._passes = passes
        self.tracing = tracing
        self.runs: list[CriticRuns] = []

    def add(self, critic: Any, every: int, budget_ns: float | None, traces: int) -> Any:
        """One more, as `NanoSwarm.spawn_critic` says. NanoError or BadTick for what cannot be one."""
        every, traces = whole(every), whole(traces)
        if not isinstance(every, int) or every < 1 or not isinstance(traces, int) or traces < 1:
            raise NanoError(f"every={every!r}, traces={traces!r}", hint="both are whole numbers above 0")
        if budget_ns is not None and (not real(budget_ns) or not budget_ns > 0):
            raise NanoError(f"budget_ns={budget_ns!r}", hint="a budget is a positive number of nanoseconds a look")
        it = critic() if isinstance(critic, type) else critic
        if not callable(getattr(it, "observe", None)) or not callable(getattr(it, "reflect", None)):
            raise BadTick(f"{it!r} is no critic", hint="a critic has observe(traces) and reflect(now_ns)")
        self.runs.append(CriticRuns(it, every, budget_ns, self._passes.made + every))
        self.tracing.keep_ticks(traces)
        return it

    def look(self) -> None:
        """Show the critics what was traced, and have those reflect whose passes have gone by."""
        from swarm.nano.minds.traces import TRACE

        if all(each.next_pass > self._passes.made for each in self.runs):
            return
        raw, lost = self._passes.take_traces()
        seen = numpy().frombuffer(raw, dtype=TRACE)
        for each in self.runs:
            began = clocks.perf_counter_ns()
            each.lost += lost
            try:
                each.critic.observe(seen)
                if each.next_pass <= self._passes.made:
                    each.next_pass = self._passes.made + each.every
                    each.critic.reflect(self._passes.now_ns)
                    each.runs += 1
            except Exception as error:
                each.next_pass = max(each.next_pass, self._passes.made + 1)
                each.failed, each.error = each.failed + 1, error
            spent_ns = clocks.perf_counter_ns() - began
            each.busy_ns += spent_ns
            each.over += each.budget_ns is not None and spent_ns > each.budget_ns

    def carry_on(self, other: Critics) -> None:
        """What looked at another swarm looks at this one from now on, which has as many traces kept for it."""
        for each in other.runs:
            each.next_pass = self._passes.made + each.every
            self.runs.append(each)
        if other.runs:
            self.tracing.keep_ticks(other.tracing.ticks)
