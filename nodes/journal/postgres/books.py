"""What a journal knows of its rows without asking for them: which there are, what stands of each, what one more write changes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from nodes.journal.format import Flag, Row, check, pack_entries, pack_snapshot
from nodes.journal.postgres.schema import ROW_COST, Found
from nodes.journal.track import Chunk, Track, Where, is_later
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, Recovered, Snapshot

RUN_BYTES: Final = 1 << 20
"""Of a record, when all of a group is written anew."""


@dataclass(slots=True)
class Plan:
    """What one transaction does. The books show it as done."""

    records: dict[int, tuple[Row, bytes]] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)
    votes: set[bytes] = field(default_factory=set)
    """Groups of which the vote or the mark of damage is another."""
    touched: set[bytes] = field(default_factory=set)

    @property
    def has_entries(self) -> bool:
        """Whether it needs space for entries."""
        return any(row.entry_count for row, _ in self.records.values())


class Books:
    """Of one node. Of one thread, but for `bytes`, and for room that is promised."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.tracks: dict[bytes, Track] = {}
        self.sizes: dict[int, int] = {}
        """Of each record that is there."""
        self.bytes = 0
        self._number = 0
        self._lock = threading.Lock()
        self._promised = 0

    @property
    def over(self) -> bool:
        """They take more than they may."""
        return self.bytes > self.bytes_max

    # What is there.

    def take(self, found: Found, groups: Iterable[bytes] | None = None) -> dict[bytes, Recovered]:
        """It is as it was found, or these groups are; of these, what is on disk."""
        if groups is None:
            groups = found.tracks
        recovered: dict[bytes, Recovered] = {}
        for group in sorted(groups):
            if group in self.tracks:
                self.forget(numbers(self.tracks[group]))
            track = self.tracks[group] = found.tracks.get(group) or Track(group)
            recovered[group] = track.recovered()
            track.drop_contents()
        self._number = max([self._number, *found.sizes])
        with self._lock:
            self.sizes |= found.sizes
            self.bytes = sum(self.sizes.values())
        return recovered

    def forget(self, gone: Iterable[int]) -> None:
        """These records are not there any more."""
        with self._lock:
            for number in gone:
                self.bytes -= self.sizes.pop(number, 0)

    # What is to be done.

    def plan(self, writes: Sequence[Write]) -> Plan:
        """Writes as rows that come, rows that go, and votes."""
        plan = Plan()
        for write in writes:
            track = self.tracks.setdefault(write.group, Track(write.group))
            plan.touched.add(write.group)
            if write.vote is not None and is_later(write.vote, track.vote):
                track.vote = write.vote
                plan.votes.add(write.group)
            if write.reset:
                self._drop(plan, [*track.chunks, *_base(track)])
                track.apply(Row(write.group, None, Flag.RESET, 0, 0, 0, 0, 0, 0, b""), Where(0, 0, 0), None)
            snapshot = write.snapshot
            if snapshot is not None and snapshot.index >= track.base:
                self._drop(plan, [chunk for chunk in track.chunks if chunk.last <= snapshot.index])
                self._drop(plan, _base(track))
                self._put_snapshot(plan, track, snapshot)
            if write.entries:
                self._drop(plan, _tail(track, write.first))
                self._put_entries(plan, track, write.first, write.entries)
            if write.repaired and track.damaged:
                track.damaged = False
                plan.votes.add(write.group)
        return plan

    def anew(self, plan: Plan, group: bytes, recovered: Recovered) -> None:
        """All of a group in as few records as can be. Those that it had are in `plan.removed`."""
        track = self.tracks[group] = Track(group, recovered.vote, damaged=recovered.damaged)
        plan.touched.add(group)
        if recovered.snapshot != Snapshot():
            self._put_snapshot(plan, track, recovered.snapshot)
        at, base = 0, recovered.snapshot.index + 1
        while at < len(recovered.entries):
            run = recovered.entries[at : at + _run(recovered.entries, at)]
            self._put_entries(plan, track, base + at, run)
            at += len(run)

    def _put_snapshot(self, plan: Plan, track: Track, snapshot: Snapshot) -> None:
        contents = pack_snapshot(snapshot)
        row = Row(track.group, None, Flag.SNAPSHOT, snapshot.index, 0, 0, len(contents), 0, 0, check(contents))
        self._put(plan, track, row, contents)

    def _put_entries(self, plan: Plan, track: Track, first: int, entries: Sequence[Entry]) -> None:
        if first + len(entries) - 1 <= track.base:
            return
        pieces, size, form = pack_entries(entries)
        contents = b"".join(pieces)
        row = Row(track.group, None, 0, 0, first, len(entries), 0, size, form, check(contents))
        self._put(plan, track, row, contents)

    def _put(self, plan: Plan, track: Track, row: Row, contents: bytes) -> None:
        self._number += 1
        plan.records[self._number] = row, contents
        track.apply(row, Where(0, self._number, 0), None)
        with self._lock:
            self.sizes[self._number] = len(contents) + ROW_COST
            self.bytes += len(contents) + ROW_COST

    def _drop(self, plan: Plan, chunks: list[Chunk]) -> None:
        gone = [chunk.where.offset for chunk in chunks]
        self.forget(gone)
        plan.removed += [number for number in gone if plan.records.pop(number, None) is None]

    # Room.

    def promise(self, size: int) -> int:
        """As `AnyJournal.promise`."""
        cost = size + ROW_COST
        with self._lock:
            if self.bytes + self._promised + cost > self.bytes_max:
                return 0
            self._promised += cost
            return cost

    def give_back(self, cost: int) -> None:
        """As `AnyJournal.give_back`."""
        with self._lock:
            self._promised -= cost
            assert self._promised >= 0


def together(writes: Sequence[Write]) -> list[Write]:
    """The same with fewer writes: entries of a group that follow each other become one record."""
    found: list[Write] = []
    last: dict[bytes, int] = {}
    joined: dict[int, list[Entry]] = {}
    for write in writes:
        at = last.get(write.group)
        before = None if at is None else found[at]
        if (
            at is None
            or before is None
            or not (write.entries and before.entries)
            or write.vote is not None
            or write.snapshot is not None
            or write.reset
            or before.first + len(before.entries) != write.first
        ):
            last[write.group] = len(found)
            found.append(write)
            continue
        entries = joined.setdefault(at, [])
        entries += write.entries if entries else [*before.entries, *write.entries]
        found[at] = Write(
            before.group,
            before.vote,
            before.snapshot,
            before.reset,
            before.repaired or write.repaired,
            before.first,
            entries,
        )
    return found


def _run(entries: Sequence[Entry], first: int) -> int:
    """How many entries from one on make a record."""
    size, at = 0, first
    while at < len(entries) and (at == first or size + len(entries[at].data) <= RUN_BYTES):
        size += len(entries[at].data)
        at += 1
    return at - first


def _base(track: Track) -> list[Chunk]:
    return [] if track.base_chunk is None else [track.base_chunk]


def _tail(track: Track, first: int) -> list[Chunk]:
    """Those of which entries from an index on take the place."""
    at = len(track.chunks)
    while at and track.chunks[at - 1].first >= first:
        at -= 1
    return track.chunks[at:]


def numbers(track: Track) -> list[int]:
    """The records of which something of a group stands."""
    return [chunk.where.offset for chunk in (*track.chunks, *_base(track))]
