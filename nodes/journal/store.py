"""What an open journal is made of, and the two things that are done with it: commits are appended, and records read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from nodes.journal.files import NO_SPACE
from nodes.journal.format import (
    COMMIT_HEADER_BYTES,
    Flag,
    JournalId,
    Record,
    SegmentHeader,
    pack_commit,
    pack_entries,
    pack_snapshot,
    slice_entries,
    unpack_entries,
)
from nodes.journal.scan import Commit, read_commit
from nodes.journal.space import Space
from nodes.journal.stamps import extent
from nodes.journal.track import Chunk, Track, Where
from nodes.journal.votes import StateFiles
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, Recovered, Vote


class Rotten(Exception):
    """What was synced cannot be read back."""


def record_of(write: Write) -> Record:
    """A write as a record."""
    flags = 0
    index, snapshot = 0, b""
    if write.snapshot is not None:
        flags |= Flag.SNAPSHOT
        index, snapshot = write.snapshot.index, pack_snapshot(write.snapshot)
    if write.reset:
        flags |= Flag.RESET
    if write.repaired:
        flags |= Flag.REPAIRED
    if not write.entries:
        return Record(write.group, write.vote, flags, index, snapshot)
    return Record(
        write.group, write.vote, flags, index, snapshot, write.first, len(write.entries), *pack_entries(write.entries)
    )


def need_of(records: list[Record]) -> int:
    """Bytes on disk of a commit."""
    return extent(COMMIT_HEADER_BYTES + sum(record.size for record in records))


def batches(records: list[Record], size_max: int) -> Iterator[list[Record]]:
    """What is committed at once, in order; a record with many entries goes in parts."""
    batch: list[Record] = []
    size = 0
    for record in records:
        for part in [record] if record.size <= size_max else _parts(record, size_max):
            if batch and size + part.size > size_max:
                yield batch
                batch, size = [], 0
            batch.append(part)
            size += part.size
    if batch:
        yield batch


def _parts(record: Record, size_max: int) -> list[Record]:
    """A record as several: first all but the entries, with `repaired` where the last is."""
    entries = unpack_entries(b"".join(record.entries), record.count, record.form) if record.count else []
    repaired = record.flags & Flag.REPAIRED
    parts: list[Record] = []
    if record.vote is not None or record.snapshot:
        parts.append(
            Record(record.group, record.vote, record.flags & ~repaired, record.snapshot_index, record.snapshot)
        )
    at = 0
    while at < len(entries):
        size, end = 0, at
        while end < len(entries) and (end == at or size + len(entries[end].data) + 16 <= size_max):
            size += len(entries[end].data) + 16
            end += 1
        parts.append(Record(record.group, None, 0, 0, b"", record.first + at, end - at, *pack_entries(entries[at:end])))
        at = end
    parts[-1].flags |= repaired
    return parts


class Store:
    """Segments, votes, and where everything lies."""

    def __init__(
        self, space: Space, states: StateFiles, id: JournalId, tracks: dict[bytes, Track], salt: Callable[[], bytes]
    ) -> None:
        self.space = space
        self.states = states
        self.tracks = tracks
        self.number = 1
        """Of the next commit."""
        self.previous = bytes(8)
        """The checksum of the last commit's header."""
        self._id = id
        self._salt = salt
        self._latest: tuple[tuple[int, int], Commit] | None = None
        """The commit that was read last, where it lies: what is copied on has thousands of its records one after the other, and
        to read all of it for each would take hours."""

    @property
    def live_bytes(self) -> int:
        """That are needed."""
        return sum(track.cost for track in self.tracks.values())

    @property
    def room(self) -> int:
        """Bytes that are left in the segment that is written to."""
        return 0 if self.space.active is None else self.space.active.room

    def append(self, records: list[Record]) -> None:
        """One commit, for which there is room; synced when this returns. OSError: nothing is known of it."""
        slot = self.space.active
        assert slot is not None
        number = self.number
        data, check = pack_commit(slot.header.number, slot.header.salt, number, self.previous, records)
        assert len(data) <= slot.room, (len(data), slot.room)
        try:
            slot.file.write(slot.at, data)
        except OSError as error:
            if error.errno in NO_SPACE:  # of a file system that takes space again for what is written again
                slot.file.write(slot.at, bytes(len(data)))
            raise
        slot.file.sync()
        at, slot.at = slot.at, slot.at + len(data)
        self.number, self.previous = number + 1, check
        voted = False
        segment = slot.header.number
        for place, record in enumerate(records):
            track = self.tracks.get(record.group)
            if track is None:
                track = self.tracks[record.group] = Track(record.group)
            track.apply(record.row, Where(segment, at, place), None)
            voted = voted or (record.vote is not None and not record.flags & Flag.MOVED)
        if voted:
            self.write_state()

    def vote_in_states(self, records: list[Record]) -> None:
        """Votes for which the log has no space: both state files have them when this returns."""
        for record in records:
            track = self.tracks.setdefault(record.group, Track(record.group))
            track.apply(record.row, Where(0, 0, 0), None)
            track.vote_segment = 0
        self.write_state(both=True)

    @property
    def votes(self) -> dict[bytes, Vote]:
        """Of all groups that ever had one."""
        return {group: track.vote for group, track in self.tracks.items() if track.vote != Vote()}

    def write_state(self, *, both: bool = False) -> None:
        """All commits so far are synced, and these are the votes."""
        state = self.states.state
        state.commit, state.votes = self.number - 1, self.votes
        if both:
            self.states.write_both()
        else:
            self.states.write()

    def next_segment(self, need: int, *, last: bool, base: bool = False, beyond: bool = False) -> bool:
        """Goes on in a new segment with room for `need` bytes; False: there is no space. For `last` and `beyond`, which goes with
        `base`, see `Space.take`."""
        spare = self.space.take(need, last=last, beyond=base or beyond)
        if spare is None:
            return False
        fleet, node = self._id.key
        state = self.states.state
        number = max([state.last, *self.space.slots]) + 1
        self.space.begin(spare, SegmentHeader(fleet, node, number, self._salt(), self.number, base))
        if not base:
            state.last = number
            self.write_state()
        return True

    # Reading.

    def read(self, group: bytes) -> Recovered:
        """What is on disk of a group. What has rotted is damage from here on."""
        track = self.tracks.get(group)
        if track is None:
            return Recovered()
        try:
            self._load(track)
            track.cut()
            return track.recovered()
        finally:
            track.drop_contents()

    def readable(self, group: bytes) -> bool:
        """Whether all that is on disk of a group can be read."""
        track = self.tracks.get(group)
        if track is None:
            return True
        try:
            self._load(track)
            return track.whole
        finally:
            track.drop_contents()

    def _load(self, track: Track) -> None:
        chunks = [chunk for chunk in (track.base_chunk, *track.chunks) if chunk is not None]
        commits: dict[tuple[int, int], list[Chunk]] = {}
        for chunk in chunks:
            commits.setdefault(chunk.where[:2], []).append(chunk)
        for where in sorted(commits):
            commit = self._read_commit(*where)
            for chunk in commits[where]:
                chunk.contents = None if commit is None else commit.contents[chunk.where.row]
                chunk.lost = chunk.contents is None

    def _read_commit(self, segment: int, offset: int) -> Commit | None:
        slot = self.space.slots[segment]
        return read_commit(slot.file, offset, slot.header.salt)

    def contents(self, chunk: Chunk) -> bytes:
        """A record's contents. Rotten if it cannot be read."""
        if chunk.contents is not None:
            return chunk.contents
        where = chunk.where[:2]
        if self._latest is None or self._latest[0] != where:
            self._latest = None  # never two of them in memory
            commit = self._read_commit(*where)
            if commit is None:
                raise Rotten(chunk.where)
            self._latest = (where, commit)
        contents = self._latest[1].contents[chunk.where.row]
        if contents is None:
            raise Rotten(chunk.where)
        return contents

    def forget_latest(self) -> None:
        """Nothing is read any more for the moment."""
        self._latest = None

    def snapshot_record(self, track: Track, flags: int) -> Record:
        """A copy of the record of a group's snapshot."""
        base = track.base_chunk
        assert base is not None
        contents = self.contents(base)[: base.row.snapshot_bytes]
        return Record(track.group, None, flags | Flag.SNAPSHOT, base.row.snapshot_index, contents)

    def entries_record(self, track: Track, run: list[Chunk], flags: int) -> Record:
        """A copy of what still stands of records of entries that follow each other, as one."""
        count = run[-1].last - run[0].first + 1
        if len(run) == 1 and run[0].decoded is None:
            row, first = run[0].row, run[0].first
            contents = self.contents(run[0])[row.snapshot_bytes :]
            packed = slice_entries(contents, row.entry_count, row.form, first - row.first, count)
        else:
            packed = pack_entries([entry for chunk in run for entry in self._entries(chunk)])
        return Record(track.group, None, flags, 0, b"", run[0].first, count, *packed)

    def _entries(self, chunk: Chunk) -> list[Entry]:
        if chunk.decoded is not None:
            return chunk.entries()
        return replace(chunk, contents=self.contents(chunk)).entries()
