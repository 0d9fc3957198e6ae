"""A disk as a journal shows it: writes that are lost until they are synced, torn, rotten, slow, failing, full.

What the journal will promise is modelled, not its bytes: checksums tell a torn tail, which was never acknowledged and is cut
off, from rot in what was synced, which is damage; the vote is kept twice and survives both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, Recovered, Snapshot, Vote


@dataclass
class Shelf:
    """What is on disk of one group."""

    vote: Vote = Vote()
    snapshot: Snapshot = field(default_factory=Snapshot)
    entries: list[Entry] = field(default_factory=list)
    damaged: bool = False
    rotten: int | None = None
    """The index of an entry in which a bit has flipped, that of the snapshot included."""

    def write(self, write: Write, parts: int | None = None) -> None:
        """Carries out a write, or only its first parts: the vote, the snapshot, then one entry each."""
        left = 1 << 30 if parts is None else parts
        if write.vote is not None and left > 0:
            self.vote = write.vote
            left -= 1
        if write.snapshot is not None and left > 0:
            gone = len(self.entries) if write.reset else write.snapshot.index - self.snapshot.index
            assert gone >= 0
            del self.entries[:gone]
            self.snapshot = write.snapshot
            if self.rotten is not None and (write.reset or self.rotten <= write.snapshot.index):
                self.rotten = None
            left -= 1
        for index, entry in enumerate(write.entries[: max(0, left)], write.first):
            at = index - self.snapshot.index - 1
            if at < 0:
                continue
            assert at <= len(self.entries), (index, self.snapshot.index, len(self.entries))
            del self.entries[at:]
            self.entries.append(entry)
            if self.rotten is not None and self.rotten >= index:
                self.rotten = None
        if write.repaired and parts is None:
            self.damaged = False

    @property
    def last(self) -> int:
        """The index of the last entry."""
        return self.snapshot.index + len(self.entries)

    def holds(self, index: int, term: int) -> bool:
        """Whether an entry is here, or a snapshot that stands for it."""
        if self.rotten is not None and index >= self.rotten:
            return False
        if index <= self.snapshot.index:
            return True
        at = index - self.snapshot.index - 1
        return at < len(self.entries) and self.entries[at].term == term

    def recover(self) -> Recovered:
        """What a process finds at its start."""
        if self.rotten is not None:
            self.damaged = True
            if self.rotten <= self.snapshot.index:
                self.snapshot = Snapshot()
                self.entries.clear()
            else:
                del self.entries[self.rotten - self.snapshot.index - 1 :]
            self.rotten = None
        return Recovered(self.vote, self.snapshot, tuple(self.entries), self.damaged)


class Disk:
    """One node's disk."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.shelves: dict[bytes, Shelf] = {}
        self.pending: deque[tuple[int, Sequence[Write]]] = deque()
        self.slow_until = 0.0
        self.fails = False
        """The next sync fails, which ends the process."""
        self.full = False
        self.syncing: int | None = None
        """The write up to which the sync that is under way goes (group commit: all that waited when it began)."""

    def shelf(self, group: bytes) -> Shelf:
        """What is here of a group."""
        return self.shelves.setdefault(group, Shelf())

    def begin(self, now: float) -> float:
        """Begins to sync all that waits. Seconds until that is done."""
        self.syncing = self.pending[-1][0]
        if now < self.slow_until:
            return 0.02 + 0.6 * self._rng.random() ** 2
        return 0.0002 + 0.003 * self._rng.random() ** 3

    def done(self) -> tuple[int, list[Write], list[bytes]]:
        """The sync is done: (its number, what was written, groups for which there was no space). Of these nothing more is
        under way."""
        number, self.syncing = self.syncing, None
        assert number is not None
        written: list[Write] = []
        refused: list[bytes] = []
        while self.pending and self.pending[0][0] <= number:
            for write in self.pending.popleft()[1]:
                if write.group in refused:
                    continue
                if self.full and (write.entries or write.snapshot is not None):
                    refused.append(write.group)
                else:
                    self.shelf(write.group).write(write)
                    written.append(write)
        if refused:
            self.pending = deque(
                (number, [write for write in writes if write.group not in refused]) for number, writes in self.pending
            )
        return number, written, refused

    def crash(self) -> None:
        """Power is lost: of what was not synced some beginning is there, perhaps with a torn end, which is cut off."""
        rng = self._rng
        while self.pending and rng.random() < 0.5:
            for write in self.pending.popleft()[1]:
                self.shelf(write.group).write(write)
        if self.pending and rng.random() < 0.5:
            for write in self.pending[0][1]:
                parts = int(rng.random() * (3 + len(write.entries)))
                self.shelf(write.group).write(write, parts)
                if parts < 2 + len(write.entries):
                    break
        self.pending.clear()
        self.syncing = None
        self.fails = False

    def rot(self, group: bytes, where: float) -> None:
        """A bit flips in what is on disk of a group: in the entry, or the snapshot, at `where` from 0 to 1."""
        shelf = self.shelf(group)
        first = shelf.snapshot.index + (0 if shelf.snapshot.index else 1)
        if shelf.last >= first and shelf.rotten is None:
            shelf.rotten = first + int(where * (shelf.last - first + 1))
