"""Runs of durable batches whose owner is gone: they go on, and what they report waits for the next leader of their log.

What is not durable ends with its owner's lease: nobody will ever ask for it. A durable run is granted by the log, not by
one node, so whoever leads the log next may adopt it under its old token (`swarm.protocol.owner.leading`). Until then its outcomes are kept
here, within bounds; a run that nobody adopts in time is ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kernels.batch import Outcomes
from swarm.protocol.executor.runs import Run
from swarm.protocol.outbound import Bytes

ADOPTED_WITHIN_S = 60.0
"""Elections take a second, and an executor that is cut off from all leaders for a minute has been given up by them."""
REPORTS_BYTES_MAX = 64 << 20


@dataclass(slots=True, eq=False)
class Orphan:
    """A run, since when it has no owner, and what it would have reported."""

    run: Run
    since: float
    reports: list[tuple[int, Bytes]] = field(default_factory=list)

    def rows(self) -> set[int]:
        """Tasks whose outcomes wait."""
        return {
            outcomes.index(row)
            for count, body in self.reports
            for outcomes in (Outcomes(body, count),)
            for row in range(count)
        }

    def held(self) -> list[tuple[int, int]]:
        """Ranges that are not reported: those that wait or run, and those whose outcomes are here."""
        rows = self.rows()
        for start, stop in self.run.pending():
            rows.update(range(start, stop))
        found: list[tuple[int, int]] = []
        for row in sorted(rows):
            if found and found[-1][1] == row:
                found[-1] = (found[-1][0], row + 1)
            else:
                found.append((row, row + 1))
        return found


class Orphans:
    """All runs without an owner, the oldest first."""

    def __init__(self) -> None:
        self._orphans: dict[int, Orphan] = {}
        self._bytes = 0

    def __contains__(self, run: Run) -> bool:
        return run.number in self._orphans

    def __iter__(self) -> Iterator[Orphan]:
        return iter(list(self._orphans.values()))

    def add(self, now: float, run: Run) -> None:
        """A run has no owner from now on."""
        self._orphans.setdefault(run.number, Orphan(run, now))

    def keep(self, run: Run, count: int, body: Bytes) -> bool:
        """What a run reports waits; False when there is no room for it."""
        if self._bytes + len(body) > REPORTS_BYTES_MAX:
            return False
        # A copy: the buffer of a worker is used again.
        self._orphans[run.number].reports.append((count, bytes(body)))
        self._bytes += len(body)
        return True

    def find(self, owner: bytes, dispatch: int) -> Orphan | None:
        """The run that this owner had handed over under this number."""
        for orphan in self._orphans.values():
            if orphan.run.owner == owner and orphan.run.dispatch == dispatch:
                return orphan
        return None

    def take(self, orphan: Orphan) -> list[tuple[int, Bytes]]:
        """It has an owner, or is given up: what waited."""
        if self._orphans.pop(orphan.run.number, None) is not None:
            self._bytes -= sum(len(body) for _, body in orphan.reports)
        reports, orphan.reports = orphan.reports, []
        return reports

    def of(self, owner: bytes) -> Iterable[Orphan]:
        """Those of one owner."""
        return [orphan for orphan in self._orphans.values() if orphan.run.owner == owner]

    def over(self, now: float) -> list[Orphan]:
        """Those whom nobody has adopted in time."""
        return [orphan for orphan in self._orphans.values() if orphan.since + ADOPTED_WITHIN_S <= now]

    def next_deadline(self) -> float | None:
        """When the first of them is over."""
        first = next(iter(self._orphans.values()), None)
        return None if first is None else first.since + ADOPTED_WITHIN_S
