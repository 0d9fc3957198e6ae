"""What a journal must show: groups as the simulator of consensus has them, and the worlds that are possible after a crash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from random import Random

from nodes.journal.format import JournalId
from nodes.journal.interface import AnyJournal
from nodes.journal.journal import Journal, JournalConfig
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, Members, Recovered, Snapshot, Vote
from tests.sim.raft.disk import Shelf
from tests.unit.journal.disk import Disk, Power, SimFiles

ID = JournalId(b"fleet".ljust(32, b"\0"), b"n" * 16)
NODES = tuple(b"%016d" % number for number in range(3))
SMALL = JournalConfig(bytes_max=12 * 65536, segment_bytes=65536, move_bytes=8192)


class Machine:
    """A node's journal over a disk, and what was acknowledged of it."""

    def __init__(self, seed: int, config: JournalConfig = SMALL) -> None:
        self.rng = Random(seed)
        self.config = config
        self.disk = Disk()
        self.shelves: dict[bytes, Shelf] = {}
        self.doubtful: list[Write] = []
        """Handed over and not acknowledged when the process ended: all of it is there, or nothing."""
        self.flips = 0
        self.damage = 0
        self.refused = 0
        self.history: dict[bytes, list[Recovered]] = {}
        self.open()

    def _salt(self) -> bytes:
        return self.rng.randbytes(16)

    def _opened(self) -> AnyJournal:
        return Journal.open(SimFiles(self.disk), ID, self.config, salt=self._salt)

    # A process.

    def open(self) -> None:
        """A process starts. What it finds is judged."""
        self.journal = self._opened()
        found = dict(self.journal.take_recovered())
        for write in self.doubtful:  # all of it is there, or a beginning, or nothing
            for parts in (None, *range(1, 3 + len(write.entries))):
                shelf = deepcopy(self.shelves.get(write.group, Shelf()))
                shelf.write(write, parts)
                self.remember(write.group, shelf)
                if write.group in found and not self._unlike(write.group, found[write.group], shelf):
                    self.shelves[write.group] = shelf
                    break
        for group in sorted({*found, *self.shelves}):
            complaint = self._unlike(group, found.get(group, Recovered()), self.shelves.get(group, Shelf()))
            assert not complaint, complaint
        self.doubtful = []
        for group, recovered in found.items():
            shelf = self.shelves[group] = Shelf()
            shelf.vote, shelf.snapshot, shelf.damaged = recovered.vote, recovered.snapshot, recovered.damaged
            shelf.entries = list(recovered.entries)
        self.damage += len(self.journal.damaged_at_start)
        self.flips = 0

    def _unlike(self, group: bytes, recovered: Recovered, shelf: Shelf) -> str:
        if recovered.vote != shelf.vote:
            return f"{group!r}: vote {recovered.vote}, not {shelf.vote}"
        if shelf.damaged and not recovered.damaged:
            return f"{group!r}: the mark of damage is gone"
        if recovered.damaged and not shelf.damaged and not self.flips:
            return f"{group!r}: damaged, and nothing has rotted"
        whole = Recovered(shelf.vote, shelf.snapshot, tuple(shelf.entries), recovered.damaged)
        if recovered != whole and not (self.flips and recovered.damaged and self.was(group, recovered)):
            return f"{group!r}: found {brief(recovered)}, not {brief(whole)}"
        return ""

    def remember(self, group: bytes, shelf: Shelf) -> None:
        """What a group's log was at some time."""
        self.history.setdefault(group, []).append(Recovered(Vote(), shelf.snapshot, tuple(shelf.entries)))

    def was(self, group: bytes, found: Recovered) -> bool:
        """Whether this is a beginning of what the log was at some time: nothing in it was invented, or put together."""
        if found.snapshot == Snapshot() and not found.entries:
            return True
        count = len(found.entries)
        return any(
            found.snapshot == state.snapshot and found.entries == state.entries[:count]
            for state in self.history.get(group, ())
        )

    def kill(self) -> None:
        """The process is killed; the page cache stays."""
        self.disk.killed()

    def power(self, torn: int | None = None) -> None:
        """The power goes off."""
        self.disk.power(self.rng, torn)

    def close(self) -> None:
        """An orderly end."""
        self.journal.close()

    # Writing.

    def commit(self, writes: Sequence[Write]) -> bool:
        """Whether it was acknowledged; if not, the process has ended."""
        self.doubtful = list(writes)
        try:
            again = self.journal.commit(writes)
        except (Power, OSError):
            return False
        self.doubtful = []
        for write in writes:
            shelf = self.shelves.setdefault(write.group, Shelf())
            for parts in range(3 + len(write.entries)) if self.flips and again else ():
                part = deepcopy(shelf)
                part.write(write, parts)
                self.remember(write.group, part)
            recovered = again.get(write.group)
            if recovered is None or (self._rotten(recovered, shelf) and recovered.vote != shelf.vote):
                shelf.write(write)
                self.remember(write.group, shelf)
            elif not recovered.damaged or shelf.damaged:
                self._begun(write, recovered)
        self._again(again)
        return self._does(self.journal.settle)

    def _begun(self, write: Write, recovered: Recovered) -> None:
        """There was no space: a beginning of it may be there."""
        for parts in range(3 + len(write.entries)):
            shelf = deepcopy(self.shelves[write.group])
            shelf.write(write, parts)
            if (recovered.vote, recovered.snapshot, recovered.entries) == (
                shelf.vote,
                shelf.snapshot,
                tuple(shelf.entries),
            ):
                self.shelves[write.group] = shelf
                self.remember(write.group, shelf)
                return

    def _rotten(self, recovered: Recovered, shelf: Shelf) -> bool:
        return bool(
            self.flips and recovered.damaged and (not shelf.damaged or len(recovered.entries) != len(shelf.entries))
        )

    def idle(self) -> bool:
        """As `commit`, with nothing to write."""
        return self._does(self.journal.idle)

    def _does(self, what: Callable[[], dict[bytes, Recovered]]) -> bool:
        try:
            self._again(what())
        except (Power, OSError):
            return False
        return True

    def _again(self, again: dict[bytes, Recovered]) -> None:
        for group, recovered in again.items():
            shelf = self.shelves.setdefault(group, Shelf())
            assert recovered.vote == shelf.vote, group
            if self._rotten(recovered, shelf):
                assert self.was(group, recovered), group
                shelf.snapshot, shelf.entries, shelf.damaged = recovered.snapshot, list(recovered.entries), True
                self.damage += 1
            else:
                assert (recovered.snapshot, recovered.entries) == (shelf.snapshot, tuple(shelf.entries)), (
                    group,
                    brief(recovered),
                    brief(Recovered(shelf.vote, shelf.snapshot, tuple(shelf.entries), shelf.damaged)),
                    self.flips,
                )
                self.refused += 1

    # What is written.

    def write(self, group: bytes, snapshots: float = 0.3) -> Write:
        """Something that consensus could want written of a group, as it stands."""
        rng = self.rng
        shelf = self.shelves.get(group, Shelf())
        vote = None
        if rng.random() < 0.3 or not shelf.vote.term:
            vote = Vote(shelf.vote.term + 1 + rng.randrange(3), rng.choice((None, *NODES)))
        elif shelf.vote.candidate is None and rng.random() < 0.2:
            vote = Vote(shelf.vote.term, rng.choice(NODES))
        term = (vote or shelf.vote).term
        snapshot, reset, base, last = None, False, shelf.snapshot.index, shelf.last
        if rng.random() < snapshots:
            reset = rng.random() < 0.2
            index = last + rng.randrange(1, 5) if reset else rng.randint(base, last)
            members = Members.of(rng.sample(NODES, 2))
            snapshot = Snapshot(index, term, members, rng.randbytes(rng.choice((0, 10, 3000))))
            if reset:
                last = index
            base = index
        entries: list[Entry] = []
        if rng.random() < 0.8:
            size = rng.choice((0, 20, 400, 5000))
            for _ in range(rng.choice((1, 1, 3, 20))):
                data = bytes(size) if rng.random() < 0.2 else rng.randbytes(size)
                entries.append(Entry(term - (rng.random() < 0.1 and term > 1), rng.randrange(3), data))
        first = 0
        if entries:
            first = last + 1 if rng.random() < 0.8 else rng.randint(base + 1, last + 1)
        repaired = shelf.damaged and rng.random() < 0.3
        if vote is None and snapshot is None and not entries and not repaired:
            vote = Vote(term + 1, None)
        return Write(group, vote, snapshot, reset, repaired, first, entries)


def brief(recovered: Recovered) -> str:
    """In few words."""
    snapshot = recovered.snapshot
    last = snapshot.index + len(recovered.entries)
    return (
        f"{recovered.vote} snapshot {snapshot.index} of {snapshot.term} entries to {last} damaged {recovered.damaged}"
    )
