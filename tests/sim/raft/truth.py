"""What must hold of a group in every step: Raft's five properties, and what follows for those who use it."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, Recovered, Snapshot


class Broken(AssertionError):
    """A property does not hold. The first word is its name."""


def digest(before: int, index: int, entry: Entry) -> int:
    """The state after an entry: a hash over all entries up to it."""
    return crc32(b"%d %d %d " % (index, entry.term, entry.kind) + entry.data, before)


class Truth:
    """What has ever been seen of one group, by all of its members together."""

    def __init__(self, group: bytes) -> None:
        self.group = group
        self.leaders: dict[int, int] = {}
        self.entries: dict[tuple[int, int], tuple[int, Entry]] = {}
        """(index, term) -> (term of the entry before, entry), of every log there ever was."""
        self.committed: dict[int, int] = {}
        """index -> term, of all that was ever applied anywhere."""
        self.states: dict[int, int] = {0: 0}
        self.last = 0
        self.durable: dict[tuple[int, int], set[int]] = {}
        """Who ever had an entry on disk, as it was synced."""
        self.covered: dict[int, int] = {}
        """The last entry for which a snapshot on a node's disk stood."""
        self.acknowledged: dict[int, int] = {}
        self.floor = 0
        """The greatest index that an acknowledged write or a finished read has shown to somebody."""
        self.reads = 0

    def fail(self, name: str, text: str) -> None:
        """Raises."""
        raise Broken(f"{name}: group {self.group.decode()}: {text}")

    def leads(self, node: int, term: int, base: Snapshot, entries: Sequence[Entry]) -> None:
        """Election safety and leader completeness."""
        other = self.leaders.setdefault(term, node)
        if other != node:
            self.fail("election-safety", f"nodes {other} and {node} both lead in term {term}")
        last = base.index + len(entries)
        for index in range(base.index + 1, self.last + 1):
            committed = self.committed[index]
            if committed < term and (index > last or entries[index - base.index - 1].term != committed):
                self.fail(
                    "leader-completeness", f"node {node} leads in term {term} without entry {index} of {committed}"
                )

    def writes(self, node: int, write: Write, before: int) -> None:
        """Log matching: `before` is the term of the entry before the first."""
        for index, entry in enumerate(write.entries, write.first):
            known = self.entries.setdefault((index, entry.term), (before, entry))
            if known != (before, entry):
                self.fail("log-matching", f"node {node} has another entry {index} of term {entry.term}")
            before = entry.term

    def kept(self, node: int, index: int, term: int | None, was: int) -> None:
        """Leader append-only: the entry at `index` had the term `was` when this leader was looked at before."""
        if term != was:
            self.fail("leader-append-only", f"node {node} leads, and its entry {index} of term {was} is gone")

    def synced(self, node: int, write: Write) -> None:
        """A write is on disk."""
        for index, entry in enumerate(write.entries, write.first):
            self.durable.setdefault((index, entry.term), set()).add(node)
        if write.snapshot is not None:
            self.covered[node] = max(self.covered.get(node, 0), write.snapshot.index)

    def applies(self, node: int, index: int, entry: Entry) -> None:
        """State machine safety."""
        term = self.committed.get(index)
        if term is None:
            if index != self.last + 1:
                self.fail("order", f"node {node} applies entry {index} after {self.last}")
            self.committed[index] = entry.term
            self.states[index] = digest(self.states[index - 1], index, entry)
            self.last = index
        elif term != entry.term or digest(self.states[index - 1], index, entry) != self.states[index]:
            self.fail(
                "state-machine-safety", f"node {node} applies {entry.term} at {index}, another one applied {term}"
            )

    def found(self, node: int, recovered: Recovered) -> None:
        """A process starts on this: it is on disk, whether it was synced before the crash or not."""
        for index, entry in enumerate(recovered.entries, recovered.snapshot.index + 1):
            self.durable.setdefault((index, entry.term), set()).add(node)
        self.covered[node] = max(self.covered.get(node, 0), recovered.snapshot.index)

    def forgets(self, node: int) -> None:
        """A node that is no member any more has dropped its log."""
        for copies in self.durable.values():
            copies.discard(node)
        self.covered.pop(node, None)

    def commits(self, node: int, index: int, term: int, voters: Sequence[int]) -> None:
        """What a leader commits is on the disks of a majority."""
        copies = self.durable.get((index, term), set())
        count = sum(voter in copies or self.covered.get(voter, 0) >= index for voter in voters)
        if count <= len(voters) // 2:
            self.fail("durability", f"node {node} commits entry {index}, of voters {voters} {sorted(copies)} have it")

    def acknowledges(self, node: int, index: int, term: int) -> None:
        """Whoever proposed an entry is told that it is committed."""
        if self.committed.get(index) != term:
            self.fail("acknowledged", f"node {node} acknowledges entry {index} of {term}, not committed")
        self.acknowledged[index] = term
        self.floor = max(self.floor, index)

    def reads_at(self, node: int, index: int, floor: int) -> None:
        """Reads are linearizable: one sees all that was shown to anybody before it was asked for."""
        if index < floor:
            self.fail("linearizable-reads", f"node {node} reads at {index} what was {floor} before")
        self.floor = max(self.floor, index)
        self.reads += 1
