"""The runs that an executor has, by number and by their owners' dispatch, and how many of their tasks are not reported yet."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from swarm.protocol.executor.orphans import Orphans
from swarm.protocol.executor.runs import Run
from swarm.protocol.states import Priority


class RunTable:
    """Every run, in the order in which it came; with counts of tasks that are here: all, by owner, and the urgent ones by owner."""

    def __init__(self) -> None:
        self.by_number: dict[int, Run] = {}
        self._by_dispatch: dict[tuple[bytes, int], Run] = {}
        self._last = 0
        self._here = 0
        self._of: dict[bytes, int] = {}
        self._urgent_of: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self.by_number)

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self.by_number.values()))

    def __contains__(self, run: Run) -> bool:
        return run.number in self.by_number

    def find(self, owner: bytes, dispatch: int) -> Run | None:
        """The run of an owner's dispatch."""
        return self._by_dispatch.get((owner, dispatch))

    def next_number(self) -> int:
        """The number of a run that is to be added."""
        self._last += 1
        return self._last

    def add(self, run: Run) -> None:
        """A run came; none of it is reported."""
        self.by_number[run.number] = run
        self._by_dispatch[run.owner, run.dispatch] = run
        run.left = 0
        self.count_in(run, run.calls.count)

    def forget(self, run: Run) -> None:
        """A run is over, or nobody wants it."""
        if self.by_number.pop(run.number, None) is not None and run.left:
            self.gone(run, 0)
        self._by_dispatch.pop((run.owner, run.dispatch), None)

    def hand_over(self, run: Run, owner: bytes, dispatch: int) -> None:
        """A run is another owner's from now on, under a number of its own."""
        self._by_dispatch.pop((run.owner, run.dispatch), None)
        left = run.left
        self.gone(run, 0)
        run.owner, run.dispatch = owner, dispatch
        if run in self:
            self._by_dispatch[owner, dispatch] = run
        self.count_in(run, left)

    def of_class(self, run: Run, priority: int, nice: int) -> None:
        """The class of a whole run is another from now on."""
        left = run.left
        self.gone(run, 0)
        run.priority, run.nice = priority, nice
        self.count_in(run, left)

    # --- counts -------------------------------------------------------------------------------------------------------

    def of(self, owner: bytes) -> int:
        """Tasks of an owner that are not reported."""
        return self._of.get(owner, 0)

    def others(self, owner: bytes) -> int:
        """Tasks that are not of this owner."""
        return self._here - self._of.get(owner, 0)

    def urgent_of(self, owner: bytes) -> int:
        """Tasks of an owner that others make way for."""
        return self._urgent_of.get(owner, 0)

    @property
    def any_urgent(self) -> bool:
        """Whether there are tasks that others make way for."""
        return bool(self._urgent_of)

    def gone(self, run: Run, left: int | None = None) -> None:
        """Count out what of a run is over; `left` of its tasks are not, by default those not reported."""
        if left is None:
            left = run.calls.count - run.columns.done
        gone, run.left = run.left - left, left
        self._here -= gone
        _count_out(self._of, run.owner, gone)
        if run.priority >= Priority.HIGH:
            _count_out(self._urgent_of, run.owner, gone)

    def count_in(self, run: Run, count: int) -> None:
        """So many tasks of a run are here again."""
        if not count:
            return
        run.left += count
        self._here += count
        self._of[run.owner] = self._of.get(run.owner, 0) + count
        if run.priority >= Priority.HIGH:
            self._urgent_of[run.owner] = self._urgent_of.get(run.owner, 0) + count

    # --- what owners and logs ask ---------------------------------------------------------------------------------------

    def held(self, owner: bytes) -> dict[int, list[tuple[int, int]]]:
        """What is not reported yet of an owner's runs: dispatch -> ranges."""
        return {run.dispatch: run.pending() for run in self.by_number.values() if run.owner == owner}

    def held_of(
        self, batches: Collection[bytes], orphans: Orphans
    ) -> list[tuple[bytes, bytes, int, list[int], list[tuple[int, int]]]]:
        """What is not reported of durable batches, whoever handed it over: (batch, owner, dispatch, token, ranges)."""
        found = []
        for run in (*self, *(each.run for each in orphans if each.run not in self)):
            token = run.token if run.batch in batches else None
            if token is not None:
                orphan = orphans.find(run.owner, run.dispatch)
                ranges = run.pending() if orphan is None else orphan.held()
                if ranges:
                    found.append((run.batch, run.owner, run.dispatch, list(token), ranges))
        return found


def _count_out(of: dict[bytes, int], owner: bytes, count: int) -> None:
    left = of.get(owner, 0) - count
    if left:
        of[owner] = left
    else:
        of.pop(owner, None)
