"""Any moment again: a snapshot, and of the log behind it the entries up to that moment."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from swarm.errors import SwarmError
from swarm.snapshots.ordering import Record


class LogEntry(NamedTuple):
    """One change: ``value`` None takes the key away. ``stamp`` is of whatever kind orders the log; ``kind`` of entries do not matter here."""

    stamp: int
    shard: str
    key: bytes
    value: bytes | None


class OutOfRetention(SwarmError, LookupError):
    """The moment cannot be restored: it is before the snapshot (``earliest``)."""


def replay(
    shard: str, records: Iterable[Record], entries: Iterable[LogEntry], *, since: int, until: int
) -> Iterator[Record]:
    """The records of a shard as they were at ``until``, that entry included, by ascending key.

    ``records`` are those of the snapshot that was made at ``since``, ascending. ``entries`` come in any order and may begin before it
    and go on after ``until``; of several of a key the greatest stamp counts, and of equal stamps the last that came. What is taken
    into memory is one value for each key that changed. OutOfRetention when ``until`` is before ``since``.
    """
    if until < since:
        raise OutOfRetention(
            f"the snapshot was made after the moment that is asked for ({since} and {until})", hint="take an earlier snapshot",
            earliest=since,
        )  # fmt: skip
    changed: dict[bytes, LogEntry] = {}
    for entry in entries:
        if entry.shard != shard or not since < entry.stamp <= until:
            continue
        known = changed.get(entry.key)
        if known is None or known.stamp <= entry.stamp:
            changed[entry.key] = entry
    fresh = ((key, 0, changed[key].value) for key in sorted(changed))
    for key, order, value in heapq.merge(((key, 1, value) for key, value in records), fresh, key=lambda each: each[:2]):
        if (order == 0 or key not in changed) and value is not None:
            yield key, value
