"""What a journal has of one group: which records stand for its vote, its snapshot and its entries, and where they lie.

The same bookkeeping serves the replay at the start, which has the records' contents at hand, and the running journal, which has
to know what is still needed. Entries that were lost keep their place until something else takes it: an entry that was
overwritten, or that a snapshot stands for, is no loss.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Final, NamedTuple

from nodes.journal.format import ROW_BYTES, Flag, Row, unpack_entries, unpack_snapshot
from swarm.protocol.raft.entries import Entry, Recovered, Snapshot, Vote


class Where(NamedTuple):
    """A record's place."""

    segment: int
    offset: int
    """Of its commit."""
    row: int


NO_VOTE: Final = Vote()
NEVER: Final = 1 << 62


@dataclass(slots=True)
class Chunk:
    """Entries of one record that still stand."""

    first: int
    last: int
    where: Where
    row: Row
    contents: bytes | None = None
    """Of the whole record, while a journal is replayed."""
    lost: bool = False
    decoded: list[Entry] | None = None
    """In place of the contents."""

    @property
    def cost(self) -> int:
        """Bytes, if all that no longer stands were left out."""
        return self.row.entries_bytes * (self.last - self.first + 1) // self.row.entry_count + ROW_BYTES

    def decode(self) -> None:
        """Entries in place of the record's bytes: these are not needed any more."""
        if self.decoded is None and self.contents is not None:
            self.decoded = unpack_entries(self.contents[self.row.snapshot_bytes :], self.row.entry_count, self.row.form)
            self.contents = None

    def entries(self) -> list[Entry]:
        """Those that still stand."""
        self.decode()
        found, skip = self.decoded, self.first - self.row.first
        assert found is not None
        return (
            found
            if skip == 0 and len(found) == self.last - self.first + 1
            else found[skip : self.last - self.row.first + 1]
        )


@dataclass(slots=True)
class Track:
    """One group."""

    group: bytes
    vote: Vote = NO_VOTE
    vote_segment: int = 0
    """The segment of the last record that has the vote; 0: there is none."""
    base: int = 0
    """The index of the snapshot."""
    base_chunk: Chunk | None = None
    """The record of the snapshot; None: the empty log."""
    chunks: list[Chunk] = field(default_factory=list)
    """Sorted, and none overlaps another."""
    damaged: bool = False
    damage_segment: int = 0
    """The segment of the record that says so."""
    unknown: bool = False
    """What followed is not known: until the log begins anew, nothing that comes can be put in its place."""

    entries_cost: int = 0
    """Bytes of all chunks."""

    @property
    def oldest(self) -> int:
        """The oldest segment in which there is something that is needed."""
        oldest = min(
            self.base_chunk.where.segment if self.base_chunk is not None else NEVER,
            self.vote_segment or NEVER,
            self.damage_segment or NEVER,
        )
        for chunk in self.chunks:
            oldest = min(oldest, chunk.where.segment)
            if not chunk.row.flags & Flag.MOVED:
                break  # what comes after it was written after it
        return oldest

    @property
    def cost(self) -> int:
        """Bytes of all that stands."""
        return ROW_BYTES + self.entries_cost + (self.base_chunk.row.snapshot_bytes if self.base_chunk else 0)

    def apply(self, row: Row, where: Where, contents: bytes | None, lost: bool = False) -> None:
        """A record, in the order of the journal."""
        if row.vote is not None and is_later(row.vote, self.vote):
            self.vote = row.vote
            self.vote_segment = where.segment
        elif row.vote is not None and row.vote == self.vote:
            self.vote_segment = max(self.vote_segment, where.segment)
        if row.flags & Flag.DAMAGED:
            self.damaged = True
            self.damage_segment = where.segment
        if row.flags & Flag.RESET:
            self.base, self.base_chunk = 0, None
            self._remove(0, len(self.chunks))
            self.unknown = False
        if self.unknown:
            return
        if row.flags & Flag.SNAPSHOT and (row.flags & Flag.RESET or row.snapshot_index >= self.base):
            self.base = row.snapshot_index
            self.base_chunk = Chunk(0, 0, where, row, contents, lost)
            self._drop_below(self.base + 1)
        if row.entry_count:
            chunk = Chunk(row.first, row.first + row.entry_count - 1, where, row, contents, lost)
            if not row.flags & Flag.MOVED:
                self._truncate(row.first)
            if chunk.last > self.base:
                chunk.first = max(chunk.first, self.base + 1)
                self._place(chunk)
        if row.flags & Flag.REPAIRED:
            self.damaged = False
            self.damage_segment = 0

    def forget_rest(self) -> None:
        """Records that cannot be told apart are lost; some may have been this group's."""
        self.unknown = True

    @property
    def whole(self) -> bool:
        """Nothing is missing of what stands."""
        at = self.base + 1
        for chunk in self.chunks:
            if chunk.lost or chunk.first != at:
                return False
            at = chunk.last + 1
        return not self.unknown and not (self.base_chunk is not None and self.base_chunk.lost)

    def cut(self) -> None:
        """Leaves what comes before the first loss, and marks the group damaged if there is one."""
        if self.whole:
            return
        self.damaged = True
        self.unknown = False
        if self.base_chunk is not None and self.base_chunk.lost:
            self.base, self.base_chunk = 0, None
            self._remove(0, len(self.chunks))
            return
        at = self.base + 1
        for number, chunk in enumerate(self.chunks):
            if chunk.lost or chunk.first != at:
                self._remove(number, len(self.chunks))
                return
            at = chunk.last + 1

    def recovered(self) -> Recovered:
        """What is on disk: `cut` was called, and contents are at hand."""
        snapshot = Snapshot()
        if self.base_chunk is not None:
            assert self.base_chunk.contents is not None
            snapshot = unpack_snapshot(self.base_chunk.contents[: self.base_chunk.row.snapshot_bytes])
        entries: list[Entry] = []
        for chunk in self.chunks:
            entries += chunk.entries()
        return Recovered(self.vote, snapshot, tuple(entries), self.damaged)

    def decode(self) -> None:
        """Entries are made of what stands so far, while its bytes are near."""
        for chunk in reversed(self.chunks):
            if chunk.decoded is not None:
                break
            chunk.decode()

    def drop_contents(self) -> None:
        """The contents are not needed any more."""
        for chunk in self.chunks:
            chunk.contents = chunk.decoded = None
        if self.base_chunk is not None:
            self.base_chunk.contents = None

    def _remove(self, start: int, stop: int) -> None:
        self.entries_cost -= sum(chunk.cost for chunk in self.chunks[start:stop])
        del self.chunks[start:stop]

    def _truncate(self, first: int) -> None:
        chunks = self.chunks
        keep = len(chunks)
        while keep and chunks[keep - 1].first >= first:
            keep -= 1
        self._remove(keep, len(chunks))
        if chunks and chunks[-1].last >= first:
            self._clip(chunks[-1], chunks[-1].first, first - 1)

    def _drop_below(self, first: int) -> None:
        chunks = self.chunks
        gone = 0
        while gone < len(chunks) and chunks[gone].last < first:
            gone += 1
        self._remove(0, gone)
        if chunks and chunks[0].first < first:
            self._clip(chunks[0], first, chunks[0].last)

    def _clip(self, chunk: Chunk, first: int, last: int) -> None:
        self.entries_cost -= chunk.cost
        chunk.first, chunk.last = first, last
        self.entries_cost += chunk.cost

    def _place(self, new: Chunk) -> None:
        """In the place of what it has of others."""
        chunks = self.chunks
        if not chunks or chunks[-1].last < new.first:
            start = stop = len(chunks)
        else:
            start = bisect_left(chunks, new.first, key=_last)
            stop = bisect_right(chunks, new.last, key=_first)
        placed = [new]
        if start < stop and chunks[start].first < new.first:
            placed.insert(0, replace(chunks[start], last=new.first - 1))
        if start < stop and chunks[stop - 1].last > new.last:
            placed.append(replace(chunks[stop - 1], first=new.last + 1))
        self.entries_cost += sum(chunk.cost for chunk in placed) - sum(chunk.cost for chunk in chunks[start:stop])
        chunks[start:stop] = placed


_first, _last = attrgetter("first"), attrgetter("last")


def is_later(vote: Vote, than: Vote) -> bool:
    """Whether a vote was given after another one."""
    return (vote.term, vote.candidate is not None, vote.left) > (than.term, than.candidate is not None, than.left)
