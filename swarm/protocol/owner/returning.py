"""A client that comes back after its lease, to a batch whose tasks may not be repeated and were ended for nobody's sake.

What has an outcome of its own keeps it. What the client had given up is CANCELLED, as it wanted. What may have begun, and was ended
where it ran since nobody was there to want it, is LOST: it was not cancelled by anybody, and may not begin again. All else has
not begun, and does so now.
"""

from __future__ import annotations

from bisect import bisect_right

from kernels.batch import OutcomeBuilder, Outcomes
from kernels.tasks import TaskColumns
from swarm.protocol.outbound import Bytes
from swarm.protocol.owner.batches import Batch, Holdings
from swarm.protocol.owner.words import ranges, said
from swarm.protocol.states import Status

_INDEX_END = 1 << 32


def leave(batch: Batch) -> None:
    """Nobody wants a batch any more: note what its client had given up, and what may have begun."""
    batch.given_up = list(batch.cancelled)
    columns = batch.columns
    unbegun = (TaskColumns.READY, TaskColumns.HELD)
    batch.may_start -= {index for index in batch.may_start if columns.state(index) in unbegun}


def came_back(batch: Batch, index: int) -> None:
    """A task of a batch that was left came back, and had not begun."""
    batch.may_start.discard(index)


def kept(batch: Batch) -> tuple[Outcomes, Bytes] | None:
    """The outcomes that stand when its client is back; None: nothing has begun."""
    builder, count = OutcomeBuilder(), 0
    lost = said(
        f"{batch.spec.name or 'the task'} was ended where it ran, since its client had been gone for too long",
        "it may have run in part, and may not be repeated; durability='node' keeps tasks whoever is there", batch.spec,
    )  # fmt: skip
    for report, _ in batch.outcomes:
        for row in range(report.count):
            index, status = report.index(row), report.status(row)
            payload = bytes(report.payload(row))
            if status == Status.CANCELLED and not _within(batch.given_up, index):
                if index not in batch.may_start:
                    continue
                status, payload = Status.LOST, lost
            builder.add(index, status, report.run_us(row), payload)
            count += 1
    if not count:
        return None
    body = builder.take()
    return Outcomes(body, count), body


def rows_of(report: Outcomes) -> list[tuple[int, int]]:
    """The tasks of a report, as ranges."""
    return ranges(sorted(report.index(row) for row in range(report.count)))


def put_back(holdings: Holdings, batch: Batch, report: Outcomes, body: Bytes) -> None:
    """Outcomes of the batch that this one goes on for are this one's."""
    batch.outcomes.append((report, body))
    batch.outcome_bytes += report.nbytes
    holdings.outcome_bytes += report.nbytes
    for row in range(report.count):
        status = report.status(row)
        batch.counts[status] = batch.counts.get(status, 0) + 1


def _within(parts: list[tuple[int, int]], index: int) -> bool:
    at = bisect_right(parts, (index, _INDEX_END)) - 1
    return at >= 0 and index < parts[at][1]
