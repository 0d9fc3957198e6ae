"""The simulator of consensus with this journal under it: its modelled disks give way to real bytes on simulated ones."""

from __future__ import annotations

from random import Random

from nodes.journal.format import COMMIT_HEADER_BYTES, ROW_BYTES
from nodes.journal.journal import Journal, JournalConfig
from nodes.journal.scan import Commit, Scan
from nodes.journal.survey import Survey, survey
from nodes.journal.track import Chunk
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Recovered
from tests.sim.raft import disk as modelled
from tests.sim.raft.plan import Plan
from tests.sim.raft.world import World
from tests.unit.journal.disk import Disk as Bytes
from tests.unit.journal.disk import Power, SimFiles
from tests.unit.journal.model import ID

CONFIG = JournalConfig(bytes_max=1 << 20, segment_bytes=1 << 17, move_bytes=1 << 14)


class JournalDisk(modelled.Disk):
    """What a node has on disk is what its journal says; `shelves` is a copy of that, for those who look at it."""

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self.bytes = Bytes()
        self.journal: Journal | None = None
        self.damage = 0
        self.refused = 0

    def start(self) -> None:
        """A process opens the journal. What it finds is what there was, or damage where a bit has flipped."""
        began = not self.bytes.shown
        self.journal = Journal.open(SimFiles(self.bytes), ID, CONFIG, salt=lambda: self._rng.randbytes(16))
        found = self.journal.take_recovered()
        if began:  # the groups that it begins with
            first = [Write(group, None, shelf.snapshot, True, False, 0, ()) for group, shelf in self.shelves.items()]
            assert not self.journal.commit(first) if first else True
            return
        expected = {group: shelf.recover() for group, shelf in self.shelves.items()}
        assert dict(found) == expected
        self.damage += len(self.journal.damaged_at_start)

    def _copy(self, found: dict[bytes, Recovered]) -> None:
        for group, recovered in found.items():
            shelf = self.shelf(group)
            shelf.vote, shelf.snapshot, shelf.damaged = recovered.vote, recovered.snapshot, recovered.damaged
            shelf.entries, shelf.rotten = list(recovered.entries), None

    def done(self) -> tuple[int, list[Write], list[bytes]]:
        """All that waited when the sync began, as one commit."""
        number, self.syncing = self.syncing, None
        assert number is not None and self.journal is not None
        self.bytes.bytes_max = self.bytes.used if self.full else None
        if not self.full and self.journal.full:
            self.journal.try_again()
        batch = [write for at, writes in self.pending if at <= number for write in writes]
        again = self.journal.commit(batch)
        assert not self.journal.settle()
        if not self.full:
            assert not self.journal.idle()
        while self.pending and self.pending[0][0] <= number:
            self.pending.popleft()
        written = [write for write in batch if write.group not in again]
        for write in written:
            self.shelf(write.group).write(write)
        assert not any(recovered.damaged and not self.shelf(group).damaged for group, recovered in again.items())
        self._copy(again)
        self.refused += len(again)
        if again:
            self.pending = modelled.deque(
                (at, [write for write in writes if write.group not in again]) for at, writes in self.pending
            )
        return number, written, sorted(again)

    def crash(self) -> None:
        """A write is cut off anywhere, or its sync fails; then the power goes, or the process alone."""
        rng, disk = self._rng, self.bytes
        if self.journal is not None:
            if self.pending and rng.random() < 0.7:
                count = rng.randrange(len(self.pending)) + 1
                batch = [write for _, writes in list(self.pending)[:count] for write in writes]
                if self.fails:
                    disk.sync_fails = True
                else:
                    disk.cut = rng.randrange(20_000)
                try:
                    self.journal.commit(batch)
                except (Power, OSError):
                    pass
            disk.power(rng, rng.choice((None, rng.randrange(10_000)))) if rng.random() < 0.7 else disk.killed()
            self.journal = None
            found = self._survey()
            self._copy(dict(found.recovered()))
        self.pending.clear()
        self.syncing = None
        self.fails = False

    def _survey(self) -> Survey:
        found = survey(SimFiles(self.bytes), ID)
        assert found is not None
        return found

    def rot(self, group: bytes, where: float) -> None:
        """A bit flips in what the journal has of the entry, or of the snapshot, at `where` from 0 to 1."""
        shelf = self.shelf(group)
        first = shelf.snapshot.index + (0 if shelf.snapshot.index else 1)
        if shelf.last < first or shelf.rotten is not None or self.journal is not None:
            return
        index = first + int(where * (shelf.last - first + 1))
        track = self._survey().tracks[group]
        chunks = [chunk for chunk in track.chunks if chunk.first <= index <= chunk.last]
        chunk = chunks[0] if chunks else track.base_chunk
        assert chunk is not None
        self._flip(chunk)
        hurt = [other.first for other in track.chunks if other.where == chunk.where]
        if track.base_chunk is not None and track.base_chunk.where == chunk.where:
            hurt = [shelf.snapshot.index]
        shelf.rotten = min(hurt)

    def _flip(self, chunk: Chunk) -> None:
        found = self._survey()
        segment = found.segments[chunk.where.segment]
        inode = self.bytes.shown[f"segment-{chunk.where.segment:012}"]
        scan = Scan(bytes(inode.shown), segment.header.number, segment.header.salt, segment.header.first, None, 1 << 60)
        commit = next(each for each in scan if isinstance(each, Commit) and each.offset == chunk.where.offset)
        row = chunk.where.row
        at = commit.offset + COMMIT_HEADER_BYTES + len(commit.rows) * ROW_BYTES
        at += sum(other.size for other in commit.rows[:row])
        while True:
            byte = at + self._rng.randrange(commit.rows[row].size)
            if byte % 512 != 511:  # a stamp, of which the byte is kept elsewhere
                inode.flip(8 * byte + self._rng.randrange(8))
                return


class JournalWorld(World):
    """A run on such disks."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)

    def _new_node(self, number: int) -> None:
        super()._new_node(number)
        self.disks[number] = JournalDisk(Random(f"disk {self.seed} {number}"))

    def start(self, number: int) -> None:
        """A process starts on what is on its disk."""
        if self.members[number] is None and number not in self.wiped:
            disk = self.disks[number]
            assert isinstance(disk, JournalDisk)
            disk.start()
        super().start(number)
