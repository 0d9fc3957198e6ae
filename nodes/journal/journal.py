"""The journal: commits go in and are synced, what nothing needs any more goes away. Of one thread, but for promises of room."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nodes.journal.errors import JournalRefused, Reason
from nodes.journal.files import LOCK, NO_SPACE, Files, segment_name
from nodes.journal.format import HEADER_BYTES, Flag, JournalId, Record
from nodes.journal.moving import RottenGroup, all_of, copy_all, give_up_dead, moving, worth_moving
from nodes.journal.space import Slot, Space
from nodes.journal.state import State
from nodes.journal.store import Rotten, Store, batches, need_of, record_of
from nodes.journal.survey import Survey, survey, unreadable
from nodes.journal.track import Track
from nodes.journal.votes import StateFiles
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Recovered, Snapshot, Vote

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class JournalConfig:
    """How much."""

    bytes_max: int = 1024 * MIB
    """Of all files of the journal, but the two state files."""
    segment_bytes: int = 16 * MIB
    move_bytes: int = MIB
    """Of what is copied on in one commit, before a segment is given up."""

    def __post_init__(self) -> None:
        assert self.segment_bytes >= 4 * HEADER_BYTES and self.segment_bytes % HEADER_BYTES == 0
        assert self.bytes_max >= 4 * self.segment_bytes, "one is written, one is spare, one is given up"

    @property
    def commit_bytes(self) -> int:
        """What is written and synced at once, if it can be told apart: so a segment is used up but for a quarter."""
        return self.segment_bytes // 4

    @property
    def votes_bytes(self) -> int:
        """What snapshots leave for votes on a full disk."""
        return self.segment_bytes // 8


DEFAULT: Final = JournalConfig()


def random_salt() -> bytes:
    """For the checksums of one segment."""
    return os.urandom(16)


class Journal:
    """Made by `open`. `commit` writes; what was written is on the disk when it returns."""

    def __init__(self, files: Files, id: JournalId, config: JournalConfig, salt: Callable[[], bytes]) -> None:
        self.id = id
        self.config = config
        self.full = False
        """Entries were refused; `try_again` says when there is space."""
        self.damaged_at_start: tuple[bytes, ...] = ()
        """Groups of which damage was found for the first time."""
        self.torn_at_start = False
        """The last write of the process before broke off: nobody was told of it."""
        self._files = files
        self._salt = salt
        self._space = Space(files, config.segment_bytes, config.bytes_max)
        self._store: Store
        self._recovered: Mapping[bytes, Recovered] = {}
        self._rotten: set[bytes] = set()
        self._moving: Iterator[None] | None = None

    # Opening.

    @classmethod
    def open(
        cls,
        files: Files,
        id: JournalId,
        config: JournalConfig = DEFAULT,
        *,
        create: bool = True,
        salt: Callable[[], bytes] = random_salt,
    ) -> Journal:
        """Opens the journal of a directory, or makes one where there is none.

        What is found is on the disk for certain when this returns. JournalRefused when it is not this node's, or cannot be
        judged: then nothing was changed.
        """
        try:
            files.lock()
        except OSError as error:
            if error.errno == errno.EROFS:
                raise _read_only(error) from error
            raise unreadable(error, LOCK) from None
        try:
            found = survey(files, id)
            if found is None and not create:
                raise JournalRefused(
                    Reason.MISSING, "there is no journal", hint="a node that has lost its journal needs a new identity"
                )
            return cls(files, id, config, salt)._opened(found)
        except OSError as error:
            files.close()
            raise unreadable(error, "the journal") from None
        except BaseException:
            files.close()
            raise

    def _opened(self, found: Survey | None) -> Journal:
        try:
            if found is None:
                fleet, node = self.id.key
                self._begin(StateFiles.make(self._files, State(fleet, node)), {})
                self._first_segment()
            else:
                self._take_over(found)
            self._space.refill()
        except OSError as error:
            if error.errno in NO_SPACE:
                raise JournalRefused(
                    Reason.NO_SPACE, "there is no space for the journal", hint="free some, or raise its bound"
                ) from error
            raise _read_only(error) from error
        return self

    def _begin(self, states: StateFiles, tracks: dict[bytes, Track]) -> None:
        self._store = Store(self._space, states, self.id, tracks, self._salt)

    def _first_segment(self) -> None:
        if not self._store.next_segment(0, last=True):
            raise OSError(errno.ENOSPC, "no space for a segment")

    def _take_over(self, found: Survey) -> None:
        state = found.state
        states = StateFiles(self._files, state, found.states.index(state))
        states.reach()
        self._begin(states, found.tracks)
        store = self._store
        ends = [segment.end for segment in found.segments.values()]
        store.number = max([state.commit + 1, *(end.number for end in ends)])
        for number, segment in found.segments.items():
            file = self._files.open(segment_name(number), write=True)
            slot = Slot(segment.header, file, segment.size, segment.end.offset)
            self._space.slots[number] = self._space.active = slot
        self._sync_again(found)
        for name in found.leftover:  # before a segment of the same number is begun
            self._files.remove(name)
        self._files.sync()
        self._recovered = found.recovered()
        self.damaged_at_start, self.torn_at_start = tuple(found.damaged), found.torn
        self._space.keep(found.spares)
        state.last = max([state.last, *found.segments])
        previous = ends[-1].previous if ends else bytes(8)
        if found.damaged or found.missing or previous is None:
            copy_all(store, self.config.move_bytes)
        else:
            store.previous = previous
            store.write_state(both=True)
        for track in store.tracks.values():
            track.drop_contents()
        if self._space.active is None:
            self._first_segment()
        self._repeat_votes()
        give_up_dead(store)

    def _sync_again(self, found: Survey) -> None:
        """After a sync that failed, a process has ended, and the page cache may show what no disk has. That can only be so of
        the last commit: it is written once more, and synced. A torn end is wiped, so that it is none at the next start."""
        active = self._space.active
        if active is None:
            return
        active.file.write(0, active.header.pack())
        if found.last_commit:
            active.file.write(found.last_offset, found.last_commit)
        if found.torn:
            active.file.write(active.at, bytes(active.room))
        active.file.sync()
        self._files.sync()

    def _repeat_votes(self) -> None:
        """Votes that only the state files have are written to the log, too, once there is space."""
        lacking = [track for _, track in sorted(self._store.tracks.items()) if not track.vote_segment]
        records = [Record(track.group, track.vote, Flag.MOVED) for track in lacking if track.vote != Vote()]
        if records and self._fit(records, last=True):
            self._store.append(records)

    def take_recovered(self) -> Mapping[bytes, Recovered]:
        """What was found of each group; it is not kept."""
        recovered, self._recovered = self._recovered, {}
        return recovered

    # Writing.

    def commit(self, writes: Sequence[Write]) -> dict[bytes, Recovered]:
        """Writes and syncs all of it at once.

        Returns the groups that have to begin anew, with what is on disk of them: there was no space for what was to be written,
        and of that nothing was, or its beginning; or what they had has rotted. OSError: nothing is known, and the process has to
        end.
        """
        refused: set[bytes] = set()
        for batch in batches([record_of(write) for write in writes], self.config.commit_bytes):
            refused |= self._commit([record for record in batch if record.group not in refused])
        if refused:
            self.full = True
        self._rotten |= {group for group in refused if not self._store.readable(group)}
        return {group: self._store.read(group) for group in sorted(refused - self._rotten)} | self._take_rotten()

    def _commit(self, records: list[Record]) -> set[bytes]:
        """What there is no space for is left out: entries first, then snapshots. Votes have space kept for them, and when
        that is used up they go to both state files, which are two places, too."""
        refused: set[bytes] = set()
        for needy in (_has_entries, _has_more_than_a_vote, None):
            if not records:
                return refused
            last = not any(map(_has_entries, records))
            if self._fit(records, last=last):
                try:
                    self._store.append(records)
                    return refused
                except OSError as error:
                    if error.errno not in NO_SPACE:
                        raise
            if needy is not None:
                refused |= {record.group for record in records if needy(record)}
                records = [record for record in records if record.group not in refused]
        self.full = True
        self._store.vote_in_states(records)
        return refused

    def _fit(self, records: list[Record], *, last: bool) -> bool:
        """Sees to a segment in which they have room."""
        need = need_of(records)
        left = self.config.votes_bytes if any(map(_has_snapshot, records)) and last else 0
        if need + (left if self.full else 0) <= self._store.room:
            return True
        give_up_dead(self._store)
        self._tidy()
        if need + (left if self.full else 0) <= self._store.room:
            return True
        return self._store.next_segment(need + left, last=last)

    def _tidy(self) -> None:
        """Copies on what the oldest segment has, if that is worth it: in steps from here on, or at once when space is short."""
        for _ in range(len(self._space.slots)):
            pressed = self._space.bytes + 2 * self.config.segment_bytes > self.config.bytes_max or self.full
            if self._rotten or not worth_moving(self._store, pressed=pressed):
                return
            if not pressed:
                self._moving = self._moving or moving(self._store, self.config.move_bytes)
                return
            # What is refused already would be so for ever, if a large snapshot lay before all that nothing needs.
            self._moving = moving(self._store, self.config.move_bytes, beyond=self.full)
            while self._moving is not None:
                self._move_on()

    def _move_on(self) -> None:
        """A step of what `_tidy` has begun."""
        if self._moving is None:
            return
        try:
            next(self._moving)
        except StopIteration:
            self._moving = None
            self._store.forget_latest()
        except RottenGroup as error:
            self._moving = None
            self._store.forget_latest()
            self._rotten.add(error.group)

    def _take_rotten(self) -> dict[bytes, Recovered]:
        """Groups of which rot was found: their logs begin anew on disk, marked as damaged, with what can be read."""
        begun: dict[bytes, Recovered] = {}
        for group in sorted(self._rotten):
            begun[group] = self._store.read(group)
            track = self._store.tracks[group]
            records = list(all_of(self._store, track))
            if not self._fit_plain(records):  # all that it has is in doubt: without it there is the mark, at least
                records = [Record(group, track.vote, Flag.RESET | Flag.DAMAGED | Flag.MOVED)]
                begun[group] = Recovered(track.vote, Snapshot(), (), True)
                if not self._fit_plain(records):
                    raise OSError(errno.ENOSPC, "no space for the mark of damage")
            self._store.append(records)
        self._rotten.clear()
        return begun

    def _fit_plain(self, records: list[Record]) -> bool:
        need = need_of(records)
        return need <= self._store.room or self._store.next_segment(need, last=True)

    def settle(self) -> dict[bytes, Recovered]:
        """What could wait until those who wait for a commit were told: a step of giving up space. As `commit` otherwise."""
        self._move_on()
        return self._take_rotten()

    def idle(self) -> dict[bytes, Recovered]:
        """Nothing is to be written for a moment: notes that all is synced, and makes spares. As `commit` otherwise."""
        if self._store.states.state.commit != self._store.number - 1:
            self._store.write_state()
        give_up_dead(self._store)
        self._move_on()
        self._space.refill()
        return self._take_rotten()

    def try_again(self) -> bool:
        """Whether there is space again after entries were refused."""
        give_up_dead(self._store)
        self._tidy()
        if self._space.refill():
            self.full = False
            self._repeat_votes()
        return not self.full

    def compact(self) -> None:
        """Writes all that is needed anew and removes the rest. Rotten or OSError: nothing was done, and it is to be closed."""
        copy_all(self._store, self.config.move_bytes)

    # Room.

    def promise(self, size: int) -> int:
        """Promises room for so many bytes; 0: there is none. What it returns is given back by `give_back`. Of any thread."""
        return self._space.promise(size)

    def give_back(self, cost: int) -> None:
        """Of any thread."""
        self._space.give_back(cost)

    # Looking.

    def read(self, group: bytes) -> Recovered:
        """What is on disk of a group."""
        return self._store.read(group)

    @property
    def where(self) -> str:
        """For people."""
        return "files"

    @property
    def groups(self) -> list[bytes]:
        """Of which something is on disk, sorted."""
        return sorted(self._store.tracks)

    @property
    def bytes(self) -> int:
        """That are taken from the file system."""
        return self._space.bytes

    @property
    def segments_bytes(self) -> int:
        """Of the segments alone, without the spares."""
        return sum(slot.size for slot in self._space.slots.values())

    @property
    def live_bytes(self) -> int:
        """That are needed."""
        return self._store.live_bytes

    def close(self) -> None:
        """Notes that all is synced, and unlocks."""
        try:
            if self._store.states.state.commit != self._store.number - 1:
                self._store.write_state()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Closes all files as they are."""
        self._space.close()
        self._store.states.close()
        self._files.close()


def _read_only(error: OSError) -> JournalRefused:
    return JournalRefused(
        Reason.READ_ONLY,
        f"the journal can not be written: {error.strerror or error}",
        hint="make its directory writable",
    )


def _has_entries(record: Record) -> bool:
    return record.count > 0


def _has_more_than_a_vote(record: Record) -> bool:
    return record.flags != 0


def _has_snapshot(record: Record) -> bool:
    return bool(record.flags & Flag.SNAPSHOT)


__all__ = ["DEFAULT", "Journal", "JournalConfig", "Rotten", "random_salt"]
