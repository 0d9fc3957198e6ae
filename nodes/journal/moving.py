"""Giving up space: the oldest segments go when nothing needs them, and what slow groups still need of them is copied on."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from nodes.journal.format import Flag, Record
from nodes.journal.store import Rotten, Store, need_of
from nodes.journal.track import Chunk, Track
from swarm.protocol.raft.entries import Vote

SEGMENTS_MIN = 3
"""With fewer there is nothing to be gained."""


def give_up_dead(store: Store) -> bool:
    """Removes the oldest segments if nothing needs them. Whether there were any."""
    active = store.space.active
    assert active is not None
    if min(store.space.slots) == active.header.number:
        return False
    keep = min([active.header.number, *(track.oldest for track in store.tracks.values())])
    gone = [number for number in sorted(store.space.slots) if number < keep]
    if not gone:
        return False
    store.states.state.first = keep
    store.write_state(both=True)
    store.space.remove(gone)
    return True


def worth_moving(store: Store, *, pressed: bool) -> bool:
    """Whether to copy on what the oldest segment has: half of all is not needed; or a fifth, and two segments or more, when
    space is short."""
    slots = store.space.slots
    if len(slots) < SEGMENTS_MIN:
        return False
    written = sum(slot.at for slot in slots.values())
    gain = written - store.live_bytes
    if pressed and gain > max(written // 5, 2 * store.space.segment_bytes):
        return True
    return 2 * gain > written


def move_oldest(store: Store, move_bytes: int) -> bool:
    """Copies on what is needed of the oldest segment and removes it. False: there is no space. Rotten: it cannot be read."""
    oldest = min(store.space.slots)
    records: list[Record] = []
    size = 0
    for group in sorted(store.tracks):
        track = store.tracks[group]
        if track.oldest > oldest:
            continue
        for record in _needed(store, track, oldest, move_bytes):
            records.append(record)
            size += record.size
            if size >= move_bytes:
                if not _move(store, records):
                    return False
                records, size = [], 0
    if records and not _move(store, records):
        return False
    return give_up_dead(store)


def _move(store: Store, records: list[Record]) -> bool:
    need = need_of(records)
    if need > store.room and not store.next_segment(need, last=True):
        return False
    store.append(records)
    return True


def _needed(store: Store, track: Track, segment: int, size_max: int) -> list[Record]:
    """All that a segment has of a group and that is still needed, as records that take its place."""
    found: list[Record] = []
    try:
        if segment == track.vote_segment:
            found.append(Record(track.group, track.vote, Flag.MOVED))
        if segment == track.damage_segment:
            found.append(Record(track.group, None, Flag.MOVED | Flag.DAMAGED))
        if track.base_chunk is not None and track.base_chunk.where.segment == segment:
            found.append(store.snapshot_record(track, Flag.MOVED))
        for run in _runs(track, segment, size_max):
            found.append(store.entries_record(track, run, Flag.MOVED))
    except Rotten:
        raise RottenGroup(track.group) from None
    return found


def _runs(track: Track, segment: int, size_max: int) -> Iterator[list[Chunk]]:
    """Entries that lie in a segment: those that follow each other become one record, up to a size."""
    run: list[Chunk] = []
    size = 0
    for chunk in list(track.chunks):
        if chunk.where.segment != segment:
            continue
        if run and (run[-1].last + 1 != chunk.first or size + chunk.cost > size_max):
            yield run
            run, size = [], 0
        run.append(chunk)
        size += chunk.cost
    if run:
        yield run


class RottenGroup(Exception):
    """What was synced of a group cannot be read."""

    def __init__(self, group: bytes) -> None:
        super().__init__(group)
        self.group = group


def all_of(store: Store, track: Track) -> Iterator[Record]:
    """Records that stand for all that a group has, and for nothing else."""
    flags = Flag.RESET | Flag.MOVED | (Flag.DAMAGED if track.damaged else 0)
    vote = track.vote if track.vote != Vote() else None
    if track.base_chunk is None:
        yield Record(track.group, vote, flags)
    else:
        head = store.snapshot_record(track, flags)
        head.vote = vote
        yield head
    for chunk in track.chunks:
        yield store.entries_record(track, [chunk], Flag.MOVED)


def copy_all(store: Store, move_bytes: int) -> None:
    """Writes all that is needed into new segments and removes the old ones: compaction at once, and the end of rot in the
    middle of the journal. All of it counts or nothing: until both state files say so, the new segments do not.

    For a moment the journal may be larger than its bound. OSError or Rotten: nothing was done, the journal is to be closed.
    """
    old = sorted(store.space.slots)
    if not store.next_segment(0, last=True, base=True):
        raise OSError(errno.ENOSPC, "no space for a copy of the journal")
    first = max(store.space.slots)
    batch: list[Record] = []
    size = 0
    try:
        for group in sorted(store.tracks):
            for record in list(all_of(store, store.tracks[group])):
                batch.append(record)
                size += record.size
                if size >= move_bytes:
                    _copy(store, batch)
                    batch, size = [], 0
        if batch:
            _copy(store, batch)
    except (OSError, Rotten):
        store.space.remove([number for number in store.space.slots if number >= first])
        raise
    state = store.states.state
    state.first, state.last = first, max(store.space.slots)
    store.write_state(both=True)
    store.space.remove(old)


def _copy(store: Store, records: list[Record]) -> None:
    need = need_of(records)
    if need > store.room and not store.next_segment(need, last=True, base=True):
        raise OSError(errno.ENOSPC, "no space for a copy of the journal")
    store.append(records)
