"""A snapshot is verified, every byte of it, and what is damaged is taken from another copy."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from blake3 import blake3

from swarm.errors import NotFound
from swarm.snapshots.errors import SnapshotDamaged, SnapshotError, SnapshotMalformed
from swarm.snapshots.format import HEADER_BYTES, Entry, Header, file_name, root_of, unpack_entry
from swarm.snapshots.manifest import MANIFEST, MANIFEST_BYTES_MAX, Manifest, ShardLine, decode
from swarm.snapshots.mapping import Mapped, read_table
from swarm.snapshots.publishing import sync
from swarm.snapshots.snapshot import Snapshot, Trusted, read_manifest
from swarm.transactions.whole_writes import write_all

BATCH_BYTES: Final = 2 << 20
"""What one thread hashes at a time."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What is not as it must be. ``chunk`` is its number in the shard; None for a header, a table or a whole file."""

    shard: str
    file: str
    what: str
    offset: int
    size_bytes: int
    chunk: int | None = None
    hash: bytes = b""
    root: bytes = b""


@dataclass(slots=True)
class Report:
    """What verifying has found."""

    folder: Path
    manifest: Manifest | None
    files: int = 0
    bytes: int = 0
    chunks: int = 0
    damage: list[Damage] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    """Files in the folder that do not belong to the snapshot. They harm nobody."""

    @property
    def whole(self) -> bool:
        """Whether every byte is what the manifest says it is."""
        return not self.damage


class Copy(Protocol):
    """Another copy of a snapshot, near or far. Each answers None for what it has not got; what comes is checked by who asked."""

    def manifest(self) -> bytes | None:
        """The bytes of the manifest."""
        ...

    def head(self, shard: str, root: bytes) -> bytes | None:
        """Header and table of the file with this root, one behind the other."""
        ...

    def chunk(self, hash: bytes) -> bytes | None:
        """A chunk as it is stored, by its hash."""
        ...


def verify(
    folder: Path,
    *,
    trusted: Trusted | None = None,
    threads: int | None = None,
    deep: bool = False,
    key: bytes | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Hash every byte of a snapshot, on several threads. Needs no key: the hashes are of what is stored.

    ``deep`` also reads all records and looks each of them up, which tells a faulty writer from a good one; that needs the ``key`` of
    an encrypted one. ``progress`` is told how many bytes were hashed so far. NotFound, SnapshotUntrusted, OSError; all else is in the report.
    """
    try:
        manifest = read_manifest(folder, trusted=trusted)
    except (SnapshotDamaged, SnapshotMalformed) as error:
        size = (folder / MANIFEST).stat().st_size
        return Report(folder, None, damage=[Damage("", MANIFEST, str(error), 0, size)])
    report = Report(folder, manifest, files=1, bytes=(folder / MANIFEST).stat().st_size)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, "verify") as pool:
        for line in manifest.shards:
            _Check(report, line, pool, progress).run()
    known = {MANIFEST, *(name for line in manifest.shards for name in _names(line))}
    report.strange = sorted(path.name for path in folder.iterdir() if path.name not in known)
    if deep and report.whole:
        with Snapshot.open(folder, trusted=trusted, key=key) as snapshot:
            for name in snapshot.names:
                _look_up_all(snapshot, name, report)
    return report


def repair(
    folder: Path, copy: Copy, *, trusted: Trusted | None = None, report: Report | None = None
) -> tuple[list[Damage], Report]:
    """Take all that is damaged from another copy: (what was repaired, the report of verifying afterwards).

    ``report`` is one of `verify`, where there is one; else that is done first. Nothing is believed: a chunk must have the hash it is
    asked for by, a header the one that the manifest names. A file is repaired in its place, so that all snapshots that share it are.
    Raises what `verify` raises, and OSError.
    """
    found = verify(folder, trusted=trusted) if report is None else report
    repaired: list[Damage] = []
    for _ in range(3):  # manifest, then headers and tables, then chunks: each shows what was hidden behind it
        progress = False
        for damage in found.damage:
            if _repaired(folder, damage, copy, trusted):
                repaired.append(damage)
                progress = True
        if not progress:
            return repaired, found
        found = verify(folder, trusted=trusted)
        if found.whole:
            break
    return repaired, found


class _Check:
    """All files of one shard."""

    def __init__(
        self, report: Report, line: ShardLine, pool: ThreadPoolExecutor, progress: Callable[[int], None] | None
    ) -> None:
        self._report = report
        self._line = line
        self._pool = pool
        self._progress = progress

    def run(self) -> None:
        """Add to the report."""
        line, folder = self._line, self._report.folder
        checked: dict[bytes, set[tuple[int, int, bytes]]] = {}
        mapped: dict[bytes, Mapped] = {}
        tables: dict[bytes, tuple[Header, memoryview]] = {}
        for root, size in [(line.root, line.file_bytes), *line.files]:
            name = file_name(line.name, root)
            try:
                mapped[root] = Mapped(folder / name)
                tables[root] = read_table(mapped[root], root)
            except (FileNotFoundError, SnapshotDamaged, SnapshotMalformed) as error:
                # all but chunks comes from elsewhere in one piece; how much it is, is known once its header is there
                what = (
                    "it is not there"
                    if isinstance(error, FileNotFoundError)
                    else str(error).removeprefix(f"{folder / name}: ")
                )
                self._add(name, what, 0, size, root=root)
                continue
            self._report.files += 1
            self._report.bytes += mapped[root].size
            header, table = tables[root]
            if header.file_bytes != size:
                self._add(name, f"it has {header.file_bytes} bytes, and the manifest says {size}", 0, size, root=root)
            checked[root] = self._own_chunks(name, header, table, mapped[root])
        if line.root in tables:
            self._shared_chunks(*tables[line.root], mapped, checked)
        for table_of in tables.values():
            table_of[1].release()
        for each in mapped.values():
            each.close()

    def _own_chunks(self, name: str, header: Header, table: memoryview, mapped: Mapped) -> set[tuple[int, int, bytes]]:
        """Those that stand in this file, which have to fill it; what was looked at."""
        own: list[tuple[int, Entry]] = []
        end = HEADER_BYTES
        for number, entry in _entries(header, table, name):
            if entry.file == 0:
                if entry.offset != end:
                    self._add(
                        name,
                        f"chunk {number} does not stand behind the one before it",
                        entry.offset,
                        entry.stored_bytes,
                        number,
                    )
                end = entry.offset + entry.stored_bytes
                own.append((number, entry))
        if end != header.table_offset:
            self._add(
                name, "there is something between the last chunk and the table", end, abs(header.table_offset - end)
            )
        self._hash(name, mapped, own)
        return {(entry.offset, entry.stored_bytes, entry.stored_hash) for _, entry in own}

    def _shared_chunks(
        self,
        header: Header,
        table: memoryview,
        mapped: dict[bytes, Mapped],
        checked: dict[bytes, set[tuple[int, int, bytes]]],
    ) -> None:
        """Those of the shard that stand in other files, unless they were looked at there."""
        roots = [root for root, _ in self._line.files]
        name = file_name(self._line.name, self._line.root)
        rest: dict[bytes, list[tuple[int, Entry]]] = {}
        for number, entry in _entries(header, table, name):
            if not entry.file:
                continue
            if entry.file > len(roots):
                self._add(name, f"chunk {number} stands in a file that the manifest does not name", 0, 0, number)
                continue
            root = roots[entry.file - 1]
            if (entry.offset, entry.stored_bytes, entry.stored_hash) not in checked.get(root, ()):
                rest.setdefault(root, []).append((number, entry))
        for root, entries in rest.items():
            if root in mapped:
                self._hash(file_name(self._line.name, root), mapped[root], entries)

    def _hash(self, name: str, mapped: Mapped, entries: list[tuple[int, Entry]]) -> None:
        def whole(entry: Entry) -> bool:
            try:
                return blake3(mapped.read(entry.offset, entry.stored_bytes)).digest() == entry.stored_hash
            except SnapshotDamaged:
                return False  # the disk cannot read it

        def hashed(batch: list[tuple[int, Entry]]) -> list[tuple[int, Entry]]:
            first, last = batch[0][1], batch[-1][1]
            span = last.offset + last.stored_bytes - first.offset
            if first.offset <= last.offset and span <= BATCH_BYTES:
                # side by side, as they mostly are: one read into memory that is there already
                if not hasattr(local, "buffer"):
                    local.buffer = memoryview(bytearray(BATCH_BYTES))
                if mapped.read_into(local.buffer[:span], first.offset):
                    return [each for each in batch if not fits(local.buffer, first.offset, span, each[1])]
            return [(number, entry) for number, entry in batch if not whole(entry)]

        def fits(buffer: memoryview, start: int, span: int, entry: Entry) -> bool:
            at = entry.offset - start
            if at < 0 or at + entry.stored_bytes > span:
                return whole(entry)
            return blake3(buffer[at : at + entry.stored_bytes]).digest() == entry.stored_hash

        local = threading.local()
        done = 0
        for batch, bad in zip(_batches(entries), self._pool.map(hashed, _batches(entries)), strict=True):
            for number, entry in bad:
                self._add(
                    name, f"chunk {number} is damaged", entry.offset, entry.stored_bytes, number, hash=entry.stored_hash
                )
            done += sum(entry.stored_bytes for _, entry in batch)
            self._report.chunks += len(batch)
            if self._progress is not None:
                self._progress(self._report.bytes - mapped.size + done)

    def _add(
        self,
        file: str,
        what: str,
        offset: int,
        size: int,
        chunk: int | None = None,
        *,
        hash: bytes = b"",
        root: bytes = b"",
    ) -> None:
        self._report.damage.append(Damage(self._line.name, file, what, offset, size, chunk, hash, root))


def _entries(header: Header, table: memoryview, name: str) -> Iterator[tuple[int, Entry]]:
    for number in range(header.chunks):
        yield number, unpack_entry(table, number, header, name)


def _batches(entries: list[tuple[int, Entry]]) -> Iterator[list[tuple[int, Entry]]]:
    batch: list[tuple[int, Entry]] = []
    size = 0
    for number, entry in entries:
        if batch and size + entry.stored_bytes > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((number, entry))
        size += entry.stored_bytes
    if batch:
        yield batch


def _names(line: ShardLine) -> Iterator[str]:
    yield file_name(line.name, line.root)
    for root, _ in line.files:
        yield file_name(line.name, root)


def _look_up_all(snapshot: Snapshot, name: str, report: Report) -> None:
    path = ""
    try:
        shard = snapshot.shard(name)
        path = Path(shard.where).name
        count = 0
        for key, value in shard:
            count += 1
            if shard.get(key) != value:
                raise SnapshotMalformed(f"the key {key[:40]!r} is not found by the table of keys")
        if count != len(shard):
            raise SnapshotMalformed(f"there are {count} records, and it says {len(shard)}")
    except (SnapshotMalformed, SnapshotDamaged) as error:
        report.damage.append(Damage(name, path, str(error), 0, 0))


def _repaired(folder: Path, damage: Damage, copy: Copy, trusted: Trusted | None) -> bool:
    """Whether this could be taken from the copy."""
    path = folder / damage.file
    if damage.file == MANIFEST:
        data = copy.manifest()
        if data is None or len(data) > MANIFEST_BYTES_MAX:
            return False
        try:
            decode(data, "the manifest of the other copy", trusted)
        except SnapshotError:
            return False
        # not in its place: a half of it would be none
        other = path.with_name(f".{MANIFEST}.new")
        other.write_bytes(data)
        sync(other)
        os.rename(other, path)
        sync(folder)
        return True
    if damage.chunk is None:
        head = copy.head(damage.shard, damage.root) if damage.root else None
        header = checked_head(head, damage.root, damage.file)
        if header is None or head is None:
            return False
        _write(path, [(0, head[:HEADER_BYTES]), (header.table_offset, head[HEADER_BYTES:])], header.file_bytes)
        return True
    chunk = copy.chunk(damage.hash) if damage.hash else None
    if chunk is None or len(chunk) != damage.size_bytes or blake3(chunk).digest() != damage.hash:
        return False
    _write(path, [(damage.offset, chunk)], None)
    return True


def checked_head(head: bytes | None, root: bytes, where: str) -> Header | None:
    """The header of what another copy gave as header and table, when both are what they must be."""
    from swarm.snapshots.format import unpack_header

    if head is None or root_of(head[:HEADER_BYTES]) != root:
        return None
    try:
        header = unpack_header(head, where)
    except SnapshotMalformed:
        return None
    table = memoryview(head)[HEADER_BYTES:]
    return header if len(table) == header.table_bytes and blake3(table).digest() == header.table_hash else None


def _write(path: Path, parts: list[tuple[int, bytes]], size: int | None) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if size is not None and os.fstat(fd).st_size != size:
            os.ftruncate(fd, size)
        for offset, data in parts:
            write_all(fd, data, offset)
        os.fsync(fd)
    finally:
        os.close(fd)
    sync(path.parent)


def manifest_of(folder: Path) -> bytes:
    """The bytes of a folder's manifest. NotFound."""
    try:
        return (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise NotFound(
            f"{folder} is no snapshot: there is no manifest in it", hint="`swarm snapshot list` shows what there is"
        ) from None
