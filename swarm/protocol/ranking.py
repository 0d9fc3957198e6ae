"""Rankings that are kept: what `swarm.protocol.placement.rank` says, without asking every executor anew for each decision.

Between two decisions few executors change: the one that was sent something, those that reported. Each says so to whoever keeps
a ranking (`Executor.watchers`), and only the rows of these are written again in the columns of `kernels.ranks`, which judges them, and
all of them when the mean run time of the tasks is another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from kernels.ranks import Ranked, Ranks
from swarm.protocol.executor.suspension import yields
from swarm.protocol.placement import (
    DEEP_BELOW_S,
    DRAINS,
    FULL,
    SILENT,
    WAY,
    WINDOW_HORIZON_S,
    WINDOW_TASKS_MAX,
    Executor,
    Verdict,
)  # fmt: skip
from swarm.protocol.resources import SLACK, Shape
from swarm.protocol.states import Priority

RANKINGS_KEPT_MAX = 4
"""Rankings for so many (shape, class); every change of an executor is noted in each of them."""
__all__ = ["RANKINGS_KEPT_MAX", "Ranked", "Ranking", "Rankings"]

YIELDING = (Priority.LOW, Priority.STANDARD, Priority.HIGH)
WORDS = ("", DRAINS, SILENT, FULL, *(WAY.format(running.name) for running in YIELDING))
"""What a row of the kernel may say, by its code."""


class Ranking:
    """Executors in the order in which they would get tasks of one kind."""

    __slots__ = ("_asked", "_by_row", "_counted", "_ids", "_ranks", "_rows", "_shape", "changed", "passed_over")

    def __init__(self, executors: Iterable[Executor], shape: Shape, priority: int) -> None:
        self._shape = shape
        self._counted = shape.counted
        ways = sum(1 << running for running in YIELDING if yields(running, priority))
        self._ranks = Ranks(shape.cpu, ways, WORDS, SLACK, DEEP_BELOW_S, WINDOW_HORIZON_S, WINDOW_TASKS_MAX)
        self._asked: set[Executor] | None = set() if priority >= Priority.HIGH else None
        """Those that are asked for their load when they are judged for urgent tasks: each time, as by `rank`."""
        self._ids: list[bytes] = []
        """By row, in their order."""
        self._by_row: list[Executor] = []
        self._rows: dict[Executor, int] = {}
        self.passed_over = False
        """Whether, in the decision just made, `unreached` would tell of any."""
        self.changed = set(executors)
        """Those whose rows are to be written before the next decision."""

    def best(self, mean_s: float | None, waiting: int, step_max: int) -> tuple[Executor | None, int, bool, Ranked]:
        """Who gets how many of so many waiting tasks of `mean_s` seconds each (None: unknown), whether others are suspended for
        them, and what was thought of the best. None: of those that can be reached nobody has room."""
        if self.changed or self._asked:
            self._refresh(mean_s)
        row, count, displaces, ranked = self._ranks.best(mean_s, waiting, step_max)
        self.passed_over = self._ranks.passed_over
        return None if row < 0 else self._by_row[row], count, displaces, ranked

    def unreached(self, best: Executor | None) -> list[Executor]:
        """Who would have come before this one in the decision just made, had he a link."""
        rows = self._ranks.unreached(-1 if best is None else self._rows[best])
        return [self._by_row[row] for row in rows]

    def sent(self, executor: Executor, count: int) -> None:
        """So many tasks were sent to whom this ranking just chose, and nothing else about him has changed."""
        self._ranks.sent(self._rows[executor], count)
        self.changed.discard(executor)

    def verdicts(self, mean_s: float | None) -> list[Verdict]:
        """What is thought of everybody, the best first."""
        self._refresh(mean_s)
        self._ranks.refresh(mean_s)
        found = []
        for row in self._ranks.order():
            it = self._by_row[row]
            found.append(Verdict(it.id, it.name, *self._ranks.verdict(row)))
        return found

    def drop(self, executor: Executor) -> None:
        """It is none any more."""
        self.changed.discard(executor)
        if self._asked:
            self._asked.discard(executor)
        row = self._rows.pop(executor, None)
        if row is not None:
            self._ranks.remove(row)
            del self._ids[row], self._by_row[row]
            self._number(row)

    def _refresh(self, mean_s: float | None) -> None:
        """Write the rows of who has changed."""
        changed, asked = self.changed, self._asked
        if asked:
            changed |= asked
        if not changed <= self._rows.keys():
            self._join(changed - self._rows.keys())
        while changed:
            executor = changed.pop()
            row = self._rows[executor]
            self._write(row, executor)
            if asked is None:
                continue
            if executor.ask_load is None:
                asked.discard(executor)
                continue
            asked.add(executor)
            if self._ranks.is_short(row, mean_s):
                executor.heard(executor.ask_load())
                self._ranks.give(row, executor.yielding)
            # Being asked for its load, as a part of being judged, counts as a change.
            changed.discard(executor)

    def _join(self, executors: Iterable[Executor]) -> None:
        first = len(self._ids)
        for executor in executors:
            row = bisect_left(self._ids, executor.id)
            self._ranks.insert(row)
            self._ids.insert(row, executor.id)
            self._by_row.insert(row, executor)
            first = min(first, row)
        self._number(first)

    def _number(self, first: int) -> None:
        for row in range(first, len(self._by_row)):
            self._rows[self._by_row[row]] = row

    def _write(self, row: int, it: Executor) -> None:
        never, fitting = it.fit(self._shape)
        self._ranks.put(
            row, it.name, never, it.linked, it.local, it.draining, it.suspect, fitting, it.blocked, it.withheld, it.others,
            it.ours, it.inflight.get(self._counted, 0), it.pace.speed, it.free, it.yielding,
        )  # fmt: skip


class Rankings:
    """The rankings of the kinds of tasks that were placed last."""

    def __init__(self, executors: Mapping[bytes, Executor]) -> None:
        self._executors = executors
        self._kept: OrderedDict[tuple[Shape, int], Ranking] = OrderedDict()
        self._watchers: list[set[Executor]] = []
        for executor in executors.values():
            self.joined(executor)

    def joined(self, executor: Executor) -> None:
        """There is one more."""
        executor.watchers = self._watchers
        executor.changed()

    def gone(self, executor: Executor) -> None:
        """There is one less."""
        executor.watchers = []
        for ranking in self._kept.values():
            ranking.drop(executor)

    def of(self, shape: Shape, priority: int) -> Ranking:
        """The ranking for tasks of a shape and class."""
        kind = (shape, priority)
        ranking = self._kept.get(kind)
        if ranking is None:
            ranking = self._kept[kind] = Ranking(self._executors.values(), shape, priority)
            if len(self._kept) > RANKINGS_KEPT_MAX:
                self._kept.popitem(last=False)
            self._watchers[:] = [one.changed for one in self._kept.values()]
        else:
            self._kept.move_to_end(kind)
        return ranking
