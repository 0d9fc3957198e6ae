"""What `kernels.passes` does in virtual time, in readable Python: who is called when, in which order, and what follows.

`tick(cohort, row, now_ns)` says what each tick comes to: (outcome, wake_ns).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

IDLE, WORKED, SLEEP, FAILED, DONE = range(5)
Tick = Callable[[int, int, int], tuple[int, int]]


@dataclass
class Cohort:
    """Rows of a kind that share a rate; `periods` where each has its own."""

    kind: int
    period: int
    next: int | None
    awake: list[int]
    periods: dict[int, int] = field(default_factory=dict)
    ticks: int = 0


@dataclass
class Passes:
    """A schedule; `calls` is what was called: (instant, cohort, rows)."""

    tick: Tick
    resolution: int = 1
    now: int = 0
    made: int = 0
    cohorts: list[Cohort] = field(default_factory=list)
    waiting: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    """(kind, row) -> (instant, cohort)"""
    calls: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)
    events: list[tuple[int, int, int, int]] = field(default_factory=list)

    def ceil(self, at: int) -> int:
        """The next multiple of the resolution."""
        return -(-at // self.resolution) * self.resolution

    def add(self, kind: int, rows: Sequence[int], period: int = 0, periods: Sequence[int] | None = None) -> int:
        """A cohort; with `periods` its first instants are spread over each agent's own."""
        number, at = len(self.cohorts), self.ceil(self.now)
        if periods is None:
            period = max(self.ceil(period), self.resolution) if period else 0
            self.cohorts.append(Cohort(kind, period, at if period else None, list(rows)))
            return number
        own = {row: max(self.ceil(each), self.resolution) for row, each in zip(rows, periods, strict=True)}
        self.cohorts.append(Cohort(kind, 0, None, [], own))
        for place, row in enumerate(rows):
            self.waiting[(kind, row)] = (at + self.ceil(own[row] * place // len(rows)), number)
        return number

    def run(self, until: int) -> None:
        """Make every pass before an instant."""
        while True:
            instants = [c.next for c in self.cohorts if c.next is not None] + [at for at, _ in self.waiting.values()]
            at = min(instants, default=until)
            if at >= until:
                self.now = until
                return
            self.now = at
            self._wake()
            for number, cohort in enumerate(self.cohorts):
                if cohort.next is not None and cohort.next <= at:
                    cohort.next += cohort.period
                    self._call(number, list(cohort.awake), together=True)
            self.made += 1

    def _wake(self) -> None:
        """Call those whose instant has come, cohorts that follow each other in the order of rows together."""
        due = sorted((kind, row, cohort) for (kind, row), (at, cohort) in self.waiting.items() if at <= self.now)
        runs: list[tuple[int, list[int]]] = []
        for kind, row, cohort in due:
            del self.waiting[(kind, row)]
            if runs and runs[-1][0] == cohort:
                runs[-1][1].append(row)
            else:
                runs.append((cohort, [row]))
        for number, rows in runs:
            it = self.cohorts[number]
            if not it.periods and it.next is not None and it.next <= self.now:
                it.awake = sorted([*it.awake, *rows])
            else:
                self._call(number, rows, together=False)

    def _call(self, number: int, rows: list[int], *, together: bool) -> None:
        if not rows:
            return
        it = self.cohorts[number]
        self.calls.append((self.now, number, tuple(rows)))
        it.ticks += len(rows)
        for row in rows:
            outcome, wake = self.tick(number, row, self.now)
            if outcome not in range(5):
                outcome = FAILED
            if outcome in (IDLE, WORKED):
                if it.periods:
                    self.waiting[(it.kind, row)] = (self.now + it.periods[row], number)
                elif not together:
                    it.awake = sorted([*it.awake, row])
                continue
            if together:
                it.awake.remove(row)
            if outcome == SLEEP:
                self.waiting[(it.kind, row)] = (self.ceil(max(wake, self.now + 1)), number)
            else:
                self.events.append((number, row, self.now, outcome))
