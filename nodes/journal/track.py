"""What a journal has of one group: which records stand for its vote, its snapshot and its entries, and where they lie.

The same bookkeeping serves the replay at the start, which has the records' contents at hand, and the running journal, which has
to know what is still needed. Entries that were lost keep their place until something else takes it: an entry that was
overwritten, or that a snapshot stands for, is no loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from nodes.journal.format import Flag, Row, unpack_entries, unpack_snapshot
from swarm.protocol.raft.entries import Entry, Recovered, Snapshot, Vote


class Where(NamedTuple):
    """A record's place."""

    segment: int
    offset: int
    """Of its commit."""
    row: int


NO_VOTE: Final = Vote()


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
        return self.row.entries_bytes * (self.last - self.first + 1) // self.row.entry_count + 96

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

    @property
    def oldest(self) -> int:
        """The oldest segment in which there is something that is needed."""
        segments = [chunk.where.segment for chunk in self.chunks]
        if self.base_chunk is not None:
            segments.append(self.base_chunk.where.segment)
        if self.vote_segment:
            segments.append(self.vote_segment)
        if self.damage_segment:
            segments.append(self.damage_segment)
        return min(segments, default=1 << 62)

    @property
    def cost(self) -> int:
        """Bytes of all that stands."""
        return (
            96
            + sum(chunk.cost for chunk in self.chunks)
            + (self.base_chunk.row.snapshot_bytes if self.base_chunk else 0)
        )

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
            self.chunks.clear()
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
            self.chunks.clear()
            return
        at = self.base + 1
        for number, chunk in enumerate(self.chunks):
            if chunk.lost or chunk.first != at:
                del self.chunks[number:]
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

    def _truncate(self, first: int) -> None:
        chunks = self.chunks
        while chunks and chunks[-1].first >= first:
            chunks.pop()
        if chunks and chunks[-1].last >= first:
            chunks[-1].last = first - 1

    def _drop_below(self, first: int) -> None:
        chunks = self.chunks
        gone = 0
        while gone < len(chunks) and chunks[gone].last < first:
            gone += 1
        del chunks[:gone]
        if chunks and chunks[0].first < first:
            chunks[0].first = first

    def _place(self, new: Chunk) -> None:
        chunks = self.chunks
        if not chunks or chunks[-1].last < new.first:
            chunks.append(new)
            return
        kept: list[Chunk] = []
        for old in chunks:
            if old.last < new.first or old.first > new.last:
                kept.append(old)
                continue
            if old.first < new.first:
                kept.append(Chunk(old.first, new.first - 1, old.where, old.row, old.contents, old.lost, old.decoded))
            if old.last > new.last:
                kept.append(Chunk(new.last + 1, old.last, old.where, old.row, old.contents, old.lost, old.decoded))
        kept.append(new)
        kept.sort(key=lambda chunk: chunk.first)
        self.chunks = kept


def is_later(vote: Vote, than: Vote) -> bool:
    """Whether a vote was given after another one."""
    return (vote.term, vote.candidate is not None) > (than.term, than.candidate is not None)
