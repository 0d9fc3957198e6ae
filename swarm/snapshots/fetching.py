"""A snapshot comes from several copies at once, each chunk checked, and can be read before it is complete."""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from swarm.errors import NotFound
from swarm.snapshots.checking import Copy, checked_head
from swarm.snapshots.copies import AnyCopy, FolderCopy
from swarm.snapshots.errors import SnapshotDamaged
from swarm.snapshots.format import HEADER_BYTES, TABLE, Entry, Header, file_name, unpack_entry
from swarm.snapshots.manifest import MANIFEST, Manifest, ShardLine, decode
from swarm.snapshots.mapping import Mapped, damaged
from swarm.snapshots.publishing import link_or_copy, publishing_on, write_file
from swarm.snapshots.reading import Shard
from swarm.snapshots.snapshot import Trusted
from swarm.transactions.whole_writes import write_all

STREAMS: Final = 4
"""Chunks that are asked for at a time, of each copy."""
FAILURES_MAX: Final = 16
"""A copy that so often had not what it was asked for, or had something else, is not asked any more."""


@dataclass(slots=True)
class Progress:
    """How far it is. ``reused_bytes`` were here already."""

    chunks: int = 0
    chunks_total: int = 0
    bytes: int = 0
    bytes_total: int = 0
    reused_bytes: int = 0
    """Of files and chunks that other snapshots here have."""
    kept_bytes: int = 0
    """Of chunks that had come before an interruption."""
    wrong: int = 0
    """Answers that were not what was asked for."""


class Arriving:
    """A snapshot that is being fetched. `shard` opens any of its shards at once; what has not come yet is fetched when it is asked for."""

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        copies: Sequence[Copy],
        key: bytes | None,
        told: Callable[[Progress], None] | None = None,
    ) -> None:
        self.manifest = manifest
        self.progress = Progress()
        self.complete = False
        self._folder = folder
        self._copies = list(copies)
        self._failures = [0] * len(copies)
        self._key = key
        self._files: dict[bytes, _File] = {}
        self._lock = threading.Lock()
        self._told = told
        self.near: Copy | None = None
        """What is here already: asked before all others."""
        self._turns = itertools.count()

    def shard(self, name: str) -> Shard:
        """A shard, to be read by one thread. NotFound; SnapshotDamaged where no copy has what is needed."""
        try:
            line = self.manifest.shard(name)
        except KeyError:
            raise NotFound(f"the snapshot has no shard {name!r}") from None
        own = self.file(line, line.root)
        chunks = _ArrivingChunks(self, [own, *(self.file(line, root) for root, _ in line.files)])
        return Shard(own.header, memoryview(own.head)[HEADER_BYTES:], chunks, where=str(own.path), key=self._key)

    def file(self, line: ShardLine, root: bytes) -> _File:
        """A file with its header and table, its chunks to come. SnapshotDamaged when no copy has them."""
        with self._lock:
            if root not in self._files:
                self._files[root] = self._begun(line, root, dict(line.files).get(root, line.file_bytes))
            return self._files[root]

    def fetch(self, hash: bytes, size: int, first: int = 0) -> bytes | None:
        """A chunk, checked, from any copy, that in place ``first`` asked before the others."""
        for turn in range(len(self._copies)):
            at = (first + turn) % len(self._copies)
            if self._failures[at] >= FAILURES_MAX or not self._may_have(at, hash):
                continue
            found = self._asked(at, lambda copy: copy.chunk(hash))
            if found is not None and len(found) == size and blake3(found).digest() == hash:
                return found
            if found is not None:
                self.progress.wrong += 1
            self._failures[at] += 1
        return None

    def expect(self) -> None:
        """Have all tables, so that copies know what they will be asked for. SnapshotDamaged."""
        lines = [
            (line, root) for line in self.manifest.shards for root in (line.root, *(root for root, _ in line.files))
        ]
        files = [self.file(line, root) for line, root in lines]
        self._expect([(file, entry) for file in files for entry in file.entries() if not file.has(entry)])
        self.progress.bytes_total = sum(entry.stored_bytes for file in files for entry in file.entries())

    def _expect(self, wanted: list[tuple[_File, Entry]]) -> None:
        for at, copy in enumerate(self._copies):
            want: Callable[[list[tuple[bytes, int]]], None] | None = getattr(copy, "want", None)
            if want is None:
                continue
            try:
                want([(entry.stored_hash, entry.stored_bytes) for _, entry in wanted])
            except OSError:  # it does not answer
                self._failures[at] = FAILURES_MAX

    def turn(self) -> int:
        """Which copy is to be asked first: each in its turn."""
        return next(self._turns)

    def _may_have(self, at: int, hash: bytes) -> bool:
        """A copy that knows what it has not, as that of another snapshot, is not asked for it."""
        has: Callable[[bytes], bool] | None = getattr(self._copies[at], "has", None)
        return has is None or has(hash)

    def fetch_all(self, have: Sequence[Path] = (), threads: int | None = None) -> None:
        """Fetch what is missing, the tables of keys first, so that keys are found. SnapshotDamaged when no copy has a chunk."""
        wanted: list[tuple[_File, Entry]] = []
        for line in self.manifest.shards:
            for root, size in [(line.root, line.file_bytes), *line.files]:
                if self._reused(line, root, size, have):
                    continue
                file = self.file(line, root)
                wanted += [(file, entry) for entry in file.entries() if not file.has(entry)]
        wanted.sort(key=lambda each: each[1].kind != TABLE)
        self._expect(wanted)
        self.progress.chunks_total = self.progress.chunks + len(wanted)
        self.progress.bytes_total = self.progress.bytes + sum(entry.stored_bytes for _, entry in wanted)
        ahead: queue.SimpleQueue[tuple[_File, Entry]] = queue.SimpleQueue()
        for each in wanted:
            ahead.put(each)
        failed: list[BaseException] = []
        workers = [
            threading.Thread(target=self._work, args=(ahead, number, failed), name="snapshot-fetch")
            for number in range(threads or STREAMS * max(1, len(self._copies)))
        ]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                worker.join()
        except BaseException as error:  # interrupted: what has come is kept
            failed.append(error)
            for worker in workers:
                worker.join()
        if failed:
            raise failed[0]
        self.complete = True

    def close(self) -> None:
        """Give the files back."""
        for file in self._files.values():
            file.close()

    def _work(self, ahead: queue.SimpleQueue[tuple[_File, Entry]], number: int, failed: list[BaseException]) -> None:
        try:
            while not failed:
                try:
                    file, entry = ahead.get_nowait()
                except queue.Empty:
                    return
                file.have(entry, self, number)
        except BaseException as error:
            failed.append(error)

    def here(self, entry: Entry) -> bytes | None:
        """A chunk that another snapshot here has."""
        found = self.near.chunk(entry.stored_hash) if self.near is not None else None
        if found is None or len(found) != entry.stored_bytes:
            return None
        with self._lock:
            self.progress.reused_bytes += len(found)
            self.progress.bytes_total -= len(found)
            self.progress.chunks_total -= 1
        return found

    def came(self, entry: Entry) -> None:
        """A chunk was fetched."""
        with self._lock:
            self.progress.chunks += 1
            self.progress.bytes += entry.stored_bytes
            if self._told is not None:
                self._told(self.progress)

    def _asked(self, at: int, ask: Callable[[Copy], bytes | None]) -> bytes | None:
        try:
            return ask(self._copies[at])
        except OSError:  # a copy that does not answer; any other error is a mistake of ours
            return None

    def _begun(self, line: ShardLine, root: bytes, size: int) -> _File:
        path = self._folder / file_name(line.name, root)
        for at in range(len(self._copies)):
            head = self._asked(at, lambda copy: copy.head(line.name, root))
            header = checked_head(head, root, str(path))
            if head is not None and header is not None and (header.shard, header.file_bytes) == (line.name, size):
                file = _File(path, header, head)
                self.progress.kept_bytes += file.kept_bytes
                return file
            self._failures[at] += head is not None
        raise damaged(str(path), "no copy has its header and table", shard=line.name, offset=0, bytes=0)

    def _reused(self, line: ShardLine, root: bytes, size: int, have: Sequence[Path]) -> bool:
        """Whether the very file is in another snapshot here: its name is its hash."""
        path = self._folder / file_name(line.name, root)
        if root in self._files:
            return False
        if path.exists():
            if path.stat().st_size == size and _whole(path, root):
                return True
            if path.stat().st_nlink > 1:  # another snapshot's, which is damaged: that one is not to be written to
                path.unlink()
            return False
        for folder in have:
            there = folder / path.name
            if there.is_file() and there.stat().st_size == size and _whole(there, root):
                link_or_copy(there, path)
                self.progress.reused_bytes += size
                return True
        return False


class _File:
    """A file of which chunks come one by one."""

    def __init__(self, path: Path, header: Header, head: bytes) -> None:
        self.path = path
        self.header = header
        self.head = head
        self._table = memoryview(head)[HEADER_BYTES:]
        self._here: set[int] = set()
        """Offsets of chunks that have come: they are checked, and need not be again."""
        self.kept_bytes = 0
        before = path.exists()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, header.file_bytes)
        os.posix_fallocate(self._fd, 0, header.file_bytes)
        os.pwrite(self._fd, head[:HEADER_BYTES], 0)
        write_all(self._fd, head[HEADER_BYTES:], header.table_offset)
        self._mapped = Mapped(path)
        if before:
            self._look()

    def _look(self) -> None:
        """What had come of it before."""
        for entry in self.entries():
            if blake3(self._mapped.read(entry.offset, entry.stored_bytes)).digest() == entry.stored_hash:
                self._here.add(entry.offset)
                self.kept_bytes += entry.stored_bytes

    def has(self, entry: Entry) -> bool:
        """Whether a chunk of this file is here."""
        return entry.offset in self._here

    def entries(self) -> Iterator[Entry]:
        """Of the chunks that stand in this file."""
        for number in range(self.header.chunks):
            entry = unpack_entry(self._table, number, self.header, str(self.path))
            if entry.file == 0:
                if entry.offset + entry.stored_bytes > self.header.table_offset:
                    raise damaged(
                        str(self.path), f"chunk {number} would stand behind its end", chunk=number, offset=entry.offset
                    )
                yield entry

    def have(self, entry: Entry, arriving: Arriving, first: int) -> memoryview:
        """A chunk of this file, fetched unless it has come. SnapshotDamaged."""
        stop = entry.offset + entry.stored_bytes
        if stop > self.header.table_offset:
            raise damaged(
                str(self.path), "a chunk would stand behind its end", offset=entry.offset, bytes=entry.stored_bytes
            )
        if entry.offset not in self._here:
            near = arriving.here(entry)
            found = near or arriving.fetch(entry.stored_hash, entry.stored_bytes, first)
            if found is None:
                raise damaged(
                    str(self.path), "no copy has one of its chunks", shard=self.header.shard, offset=entry.offset,
                    bytes=entry.stored_bytes, hash=entry.stored_hash,
                )  # fmt: skip
            write_all(self._fd, found, entry.offset)
            self._here.add(entry.offset)
            if near is None:
                arriving.came(entry)
        return self._mapped.view[entry.offset : stop]

    def close(self) -> None:
        """Synced later, by who publishes the folder."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _ArrivingChunks:
    def __init__(self, arriving: Arriving, files: list[_File]) -> None:
        self._arriving = arriving
        self._files = files

    def stored(self, number: int, entry: Entry) -> Any:
        return self._files[entry.file].have(entry, self._arriving, self._arriving.turn())

    def close(self) -> None:
        """The files are closed by who fetches."""


@contextmanager
def fetching(
    target: Path,
    manifest: bytes,
    copies: Sequence[Copy],
    *,
    trusted: Trusted | None = None,
    key: bytes | None = None,
    told: Callable[[Progress], None] | None = None,
) -> Iterator[Arriving]:
    """Fetch a snapshot by its manifest into the folder ``target``; inside the block it can be read, and `fetch_all` completes it.

    ``target`` appears, whole, when the block ends well, and everything is fetched by then at the latest. Nothing that a copy says is
    believed. When the block ends badly, or the process is killed, what has come is kept, and the next attempt at the same snapshot does
    not fetch it again. ``told`` is called, in any thread, as chunks come. SnapshotDamaged when no copy has something, SnapshotUntrusted, SnapshotMalformed, SnapshotExists, OSError.
    """
    said = decode(manifest, "the manifest that was given", trusted)
    with publishing_on(target, said.id.hex()[:16]) as folder:
        (folder / MANIFEST).unlink(missing_ok=True)
        arriving = Arriving(said, folder, copies, key, told)
        try:
            yield arriving
            if not arriving.complete:
                arriving.fetch_all()
            write_file(folder / MANIFEST, manifest)
        finally:
            arriving.close()


def pull(
    target: Path,
    copies: Sequence[Copy],
    *,
    trusted: Trusted | None = None,
    have: Sequence[Path] = (),
    told: Callable[[Progress], None] | None = None,
) -> tuple[Manifest, Progress]:
    """Fetch a snapshot from the first copy that has a manifest, and from all of them its chunks. ``have`` are folders of snapshots here
    whose files and chunks need not come again. Raises as `fetching`; NotFound when no copy has a manifest."""
    data = next((data for data in (copy.manifest() for copy in copies) if data is not None), None)
    if data is None:
        raise NotFound("no copy has a manifest", hint="`swarm snapshot list` shows what there is")
    near = AnyCopy([FolderCopy(folder) for folder in have])
    try:
        with fetching(target, data, copies, trusted=trusted, told=told) as arriving:
            arriving.near = near
            arriving.fetch_all(have)
    finally:
        near.close()
    return arriving.manifest, arriving.progress


def _whole(path: Path, root: bytes) -> bool:
    """Whether a file has that header, and all that is in it."""
    from swarm.snapshots.mapping import read_table

    mapped = Mapped(path)
    try:
        header, table = read_table(mapped, root)
        for number in range(header.chunks):
            entry = unpack_entry(table, number, header, str(path))
            if entry.file:
                continue
            if blake3(mapped.read(entry.offset, entry.stored_bytes)).digest() != entry.stored_hash:
                return False
        return True
    except SnapshotDamaged:
        return False
    finally:
        mapped.close()
