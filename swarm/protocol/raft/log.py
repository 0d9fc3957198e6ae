"""The log of one group in memory: entries after the last snapshot, and how far they are on disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from swarm.protocol.raft.entries import Entry, Snapshot


class Log:
    """Indices run from 1; entry `i` lies at `i - base.index - 1`."""

    __slots__ = ("_entries", "_pending", "base", "bytes", "stable", "unwritten")

    def __init__(self, base: Snapshot, entries: Sequence[Entry]) -> None:
        self.base = base
        self._entries = list(entries)
        self.bytes = sum(len(entry.data) for entry in self._entries)
        """Of all entries that are held here."""
        self.stable = self.last
        """Entries up to here are on disk and synced."""
        self.unwritten = self.last + 1
        """From here on entries have not been handed to the storage."""
        self._pending: deque[list[int]] = deque()
        """Writes under way: [number, index of the last entry in it that still stands]."""

    @property
    def last(self) -> int:
        """The index of the last entry."""
        return self.base.index + len(self._entries)

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self._entries[-1].term if self._entries else self.base.term

    def term(self, index: int) -> int | None:
        """The term of an entry; None if there is none, or if only the snapshot has it."""
        at = index - self.base.index - 1
        if 0 <= at < len(self._entries):
            return self._entries[at].term
        return self.base.term if at == -1 else None

    def entry(self, index: int) -> Entry:
        """An entry that is here."""
        at = index - self.base.index - 1
        assert at >= 0, (index, self.base.index)
        return self._entries[at]

    def slice(self, first: int, count: int, bytes_max: int) -> list[Entry]:
        """Entries from `first` on: at most `count`, at least one if there is any, no more once `bytes_max` is passed."""
        at = first - self.base.index - 1
        assert at >= 0, (first, self.base.index)
        found = self._entries[at : at + count]
        size = 0
        for number, entry in enumerate(found):
            size += len(entry.data)
            if size >= bytes_max:
                return found[: number + 1]
        return found

    def is_newer(self, index: int, term: int) -> bool:
        """Whether this log is more up to date than one whose last entry is (index, term) (Ongaro 2014, 3.6.1)."""
        return (self.last_term, self.last) > (term, index)

    def append(self, entries: Sequence[Entry]) -> None:
        """Adds entries at the end."""
        self._entries += entries
        self.bytes += sum(len(entry.data) for entry in entries)

    def truncate(self, first: int) -> None:
        """Drops all entries from `first` on; what was on its way to the disk of them does not count any more."""
        at = first - self.base.index - 1
        assert 0 <= at < len(self._entries), (first, self.base.index, self.last)
        self.bytes -= sum(len(entry.data) for entry in self._entries[at:])
        del self._entries[at:]
        self.unwritten = min(self.unwritten, first)
        self.stable = min(self.stable, first - 1)
        for pending in self._pending:
            pending[1] = min(pending[1], first - 1)

    def conflict(self, index: int, entries: Sequence[Entry]) -> int | None:
        """The first index from `index` on at which `entries` say something else or something more, or None."""
        for entry in entries:
            if self.term(index) != entry.term:
                return index
            index += 1
        return None

    def hint(self, index: int, term: int) -> tuple[int, int]:
        """The last entry at or before `index` whose term is at most `term`, as (index, term): where two logs may meet.

        It skips a whole term at a time (Ongaro and Ousterhout 2014, end of 5.3, as etcd refined it).
        """
        index = min(index, self.last)
        while index > self.base.index and self.entry(index).term > term:
            index -= 1
        return (index, self.term(index) or 0) if index >= self.base.index else (self.base.index, self.base.term)

    # Storage.

    def hand_over(self, number: int) -> tuple[int, list[Entry]]:
        """(first index, entries) that the storage has not got; they are part of its write `number` from now on."""
        first = self.unwritten
        entries = self._entries[first - self.base.index - 1 :]
        if entries:
            self._pending.append([number, self.last])
            self.unwritten = self.last + 1
        return first, entries

    def synced(self, number: int) -> None:
        """The storage has done its write `number`, and all before it."""
        pending = self._pending
        while pending and pending[0][0] <= number:
            self.stable = max(self.stable, min(pending.popleft()[1], self.last))

    def write_of(self, index: int) -> int | None:
        """The number of the write that brings `index` to disk; 0 if it is there, None if it is not handed over yet."""
        if index <= self.stable:
            return 0
        for number, last in self._pending:
            if last >= index:
                return number
        return None

    def compact(self, snapshot: Snapshot) -> None:
        """Drops the entries that a snapshot stands for; it is of this log."""
        count = snapshot.index - self.base.index
        assert 0 <= count <= len(self._entries), (snapshot.index, self.base.index, self.last)
        self.bytes -= sum(len(entry.data) for entry in self._entries[:count])
        del self._entries[:count]
        self.base = snapshot
        # What the snapshot stands for is on disk with it; the caller compacts no further than `stable`.
        self.unwritten = max(self.unwritten, snapshot.index + 1)

    def install(self, snapshot: Snapshot, number: int) -> None:
        """Puts a snapshot in place of the whole log; it is part of the storage's write `number`."""
        self._entries.clear()
        self.bytes = 0
        self.base = snapshot
        self.unwritten = snapshot.index + 1
        self._pending.clear()
        self.stable = 0
        self._pending.append([number, snapshot.index])
