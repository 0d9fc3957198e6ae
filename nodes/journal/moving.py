"""Giving up space: the oldest segments go when nothing needs them, and what slow groups still need of them is copied on."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from nodes.journal.format import Flag, Record
from nodes.journal.store import Rotten, Store, need_of
from nodes.journal.track import Chunk, Track
from swarm.protocol.raft.entries import Vote

RECORDS_MAX = 64
"""Are read, or written, in one step of moving: milliseconds, for which writes wait."""
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


def moving(store: Store, move_bytes: int, *, beyond: bool = False) -> Iterator[None]:
    """Copies on what is needed of the oldest segment, a commit a step, and removes it in the end. It ends early if there is no
    space; with `beyond` the journal may be larger than its bound until then, by what the segment has. Between two steps anything may be written: each looks at what there is. RottenGroup: something cannot be read."""
    oldest = min(store.space.slots)
    batch: list[Record] = []
    size = 0
    for group in sorted(store.tracks):
        track = store.tracks[group]
        while track.oldest <= oldest:
            records, more = _needed(store, track, oldest, move_bytes)
            batch += records
            size += sum(record.size for record in records)
            if not more and size < move_bytes and len(batch) < RECORDS_MAX:
                break
            if not _move(store, batch, beyond):
                return
            batch, size = [], 0
            yield
    if batch and not _move(store, batch, beyond):
        return
    give_up_dead(store)


def _move(store: Store, records: list[Record], beyond: bool) -> bool:
    need = need_of(records)
    if need > store.room and not store.next_segment(need, last=True, beyond=beyond):
        return False
    store.append(records)
    return True


def _needed(store: Store, track: Track, segment: int, size_max: int) -> tuple[list[Record], bool]:
    """(what a segment has of a group and is still needed, as records that take its place; whether there is more)."""
    found: list[Record] = []
    try:
        if segment == track.vote_segment:
            found.append(Record(track.group, track.vote, Flag.MOVED))
        if segment == track.damage_segment:
            found.append(Record(track.group, None, Flag.MOVED | Flag.DAMAGED))
        if track.base_chunk is not None and track.base_chunk.where.segment == segment:
            found.append(store.snapshot_record(track, Flag.MOVED))
        run, more = _run(track, segment, size_max)
        if run:
            found.append(store.entries_record(track, run, Flag.MOVED))
    except Rotten:
        raise RottenGroup(track.group) from None
    return found, more


def _run(track: Track, segment: int, size_max: int) -> tuple[list[Chunk], bool]:
    """(the first entries of a segment that follow each other, which become one record; whether there are more)."""
    run: list[Chunk] = []
    size = 0
    for chunk in track.chunks:
        if chunk.where.segment != segment:
            if not chunk.row.flags & Flag.MOVED:
                break  # what comes after it was written after it
            continue
        if run and (run[-1].last + 1 != chunk.first or size + chunk.cost > size_max or len(run) == RECORDS_MAX):
            return run, True
        run.append(chunk)
        size += chunk.cost
    return run, False


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
    finally:
        store.forget_latest()
    state = store.states.state
    state.first, state.last = first, max(store.space.slots)
    store.write_state(both=True)
    store.space.remove(old)


def _copy(store: Store, records: list[Record]) -> None:
    need = need_of(records)
    if need > store.room and not store.next_segment(need, last=True, base=True):
        raise OSError(errno.ENOSPC, "no space for a copy of the journal")
    store.append(records)
