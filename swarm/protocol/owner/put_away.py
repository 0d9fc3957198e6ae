"""Putting away: a finished batch in as little memory as what may still be asked of it takes.

What is asked of a batch that has ended is its outcomes, and what happened to its tasks. While it runs both come in pieces: a report of
a worker's every millisecond, each with its buffers, and an entry for each range that was placed, with what was thought of every node.
Put away, the reports are one block of columns (a task takes 13 bytes and its payload), and the record is one string of bytes that is
read when somebody asks: nothing in it is an object that Python's collector would have to look at.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kernels.batch import Outcomes

if TYPE_CHECKING:
    from swarm.protocol.outbound import Bytes
    from swarm.protocol.owner.batches import Batch

TRACE_MAX = 64
"""Entries of the record that are put away: the first, and the latest."""
LESSONS_MAX = 16
"""Of these so many that tell of lessons: they come at the beginning, and say why it ran where it did."""
BATCH_BYTES = 3072
"""What a batch takes beside its outcomes and its record; measured: 2.9 KiB in Python 3.11."""
TASK_BYTES = 16
"""What it takes for each of its tasks, outcomes left out."""
JOINED_BYTES_MAX = 1 << 20
"""More than this is not copied to be one block: then there are few reports, or few such batches."""

Event = tuple[float, str, int, int, str, Any]


class PutAway:
    """The record of a batch that has ended: reads as the list of its events."""

    __slots__ = ("_packed",)

    def __init__(self, events: Iterable[Event]) -> None:
        kept = list(events)
        if len(kept) > TRACE_MAX:
            why = [at for at, event in enumerate(kept[1:-1], 1) if "lesson" in event[1]][:LESSONS_MAX]
            rest = range(len(kept) - (TRACE_MAX - 1 - len(why)), len(kept))
            kept = [kept[at] for at in sorted({0, *why, *rest})]
        self._packed = marshal.dumps([(*event[:5], _plain(event[5])) for event in kept])

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return len(self._packed)

    def append(self, event: Event) -> None:
        """Something happened after the end."""
        self._packed = PutAway([*self, event])._packed

    def _events(self) -> list[Event]:
        events: list[Event] = marshal.loads(self._packed)  # noqa: S302, our own bytes
        return events

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events())

    def __reversed__(self) -> Iterator[Event]:
        return reversed(self._events())

    def __len__(self) -> int:
        return len(self._events())

    def __getitem__(self, at: int) -> Event:
        return self._events()[at]

    def pop(self) -> Event:
        """The latest, taken out."""
        *rest, last = self
        self._packed = PutAway(rest)._packed
        return last


def put_away(batch: Batch) -> int:
    """A batch has ended: the bytes that it takes from now on."""
    batch.trace = PutAway(batch.trace)
    size = sum(report.nbytes for report, _ in batch.outcomes)
    if len(batch.outcomes) > 1 and size <= JOINED_BYTES_MAX:
        body = joined(batch.outcomes)
        batch.outcomes = [(Outcomes(body, sum(report.count for report, _ in batch.outcomes)), body)]
        batch.outcome_bytes = len(body)
    return batch.outcome_bytes + batch.trace.nbytes + BATCH_BYTES + TASK_BYTES * batch.calls.count


def joined(reports: list[tuple[Outcomes, Bytes]]) -> bytes:
    """Reports as one, in their order: the columns of each one after another (`kernels.batch`)."""
    indices, lengths, times, statuses, payloads = [], [], [], [], []
    for report, body in reports:
        n, view = report.count, memoryview(body).cast("B")
        indices.append(view[: 4 * n])
        lengths.append(view[4 * n : 8 * n])
        times.append(view[8 * n : 12 * n])
        statuses.append(view[12 * n : 13 * n])
        payloads.append(view[(13 * n + 3) // 4 * 4 :])
    total = sum(report.count for report, _ in reports)
    return b"".join((*indices, *lengths, *times, *statuses, bytes(-13 * total % 4), *payloads))


def _plain(detail: Any) -> Any:
    """What an event says, as plain values: rankings are read as people would get them now."""
    if detail is None or isinstance(detail, str | bytes | int | float):
        return detail
    if isinstance(detail, dict):
        return {str(key): _plain(value) for key, value in detail.items()}
    if isinstance(detail, tuple):
        return tuple(_plain(value) for value in detail)
    try:
        return [_plain(value) for value in detail]
    except TypeError:
        return str(detail)
