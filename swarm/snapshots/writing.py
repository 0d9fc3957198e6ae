"""The file of one shard is written: records are packed into chunks, these are sealed and hashed by several threads, and what an
earlier snapshot has already is not written again."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from blake3 import blake3

from kernels.packing import Layout, Packer
from swarm.snapshots.errors import SnapshotError
from swarm.snapshots.format import (
    DATA,
    ENTRY,
    FILES_MAX,
    HEADER_BYTES,
    KEYS,
    KEYS_BYTES_MAX,
    SALT_BYTES,
    SHARD_NAME,
    TABLE,
    Entry,
    Header,
    file_name,
    root_of,
    slots_for,
)
from swarm.snapshots.key_runs import RUN_KEYS, KeyRuns
from swarm.snapshots.ordering import Record
from swarm.snapshots.sealing import Sealer
from swarm.transactions.whole_writes import write_all

IN_FLIGHT_BYTES: Final = 64 << 20
GROUP_BYTES: Final = 1 << 20
PAGE_BYTES: Final = 4096
WRITE_BYTES: Final = 2 << 20
IOV_MAX: Final = 512
SYNC_BYTES: Final = 64 << 20
"""The disk is asked to begin with so much at a time, while the rest is still being made."""


class Base(Protocol):
    """The same shard in an earlier snapshot, of which chunks can be taken."""

    @property
    def salt(self) -> bytes: ...
    def shareable(self, check: bytes) -> dict[bytes, tuple[bytes, Entry]]:
        """Content hash -> (root of the file it stands in, entry), of chunks that a new snapshot may name."""
        ...

    def whole(self, entry: Entry) -> bool:
        """Whether such a chunk is still what it was."""
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """A shard's file that is on the disk, complete but not yet synced with its folder."""

    shard: str
    root: bytes
    path: Path
    file_bytes: int
    records: int
    raw_bytes: int
    chunks: int
    shared_chunks: int
    shared_bytes: int
    files: tuple[bytes, ...]
    """Roots of the other files that its chunks stand in."""


def salt_of(shard: str) -> bytes:
    """The salt of a shard's hashes where none is given: the same on every node, so that the same records make the same chunks."""
    return blake3(b"swarm snapshot salt 1\0" + shard.encode("ascii")).digest(length=SALT_BYTES)


def write_shard(
    folder: Path,
    shard: str,
    records: Iterable[Record],
    *,
    sealer: Sealer | None = None,
    salt: bytes | None = None,
    base: Base | None = None,
    threads: int | None = None,
) -> Written:
    """Write the file of a shard into a folder: ``records`` are (key, value), both bytes, with strictly ascending keys.

    ``salt`` (16 bytes) keys the hashes: by default that of ``base``, else one that follows from the shard's name. Give one that
    outsiders do not know where outsiders choose keys. Memory stays bounded: 64 MiB of chunks under way, and what the table takes.
    Raises ValueError for what is no record or does not ascend, OSError, and what ``records`` raises; the file is removed then.
    """
    if not SHARD_NAME.fullmatch(shard):
        raise ValueError(f"{shard!r} can not name a shard: up to 64 of a-z, 0-9, '.', '_' and '-'")
    sealer = sealer or Sealer(shard)
    salt = salt if salt is not None else base.salt if base is not None else salt_of(shard)
    path = folder / f"{shard}.writing"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    runs = KeyRuns(folder)
    try:
        with ThreadPoolExecutor((threads or os.cpu_count() or 1) + 1, "snapshot") as pool:
            out = _Chunks(fd, sealer, base, pool, threads or os.cpu_count() or 1)
            packer = Packer(records, salt)
            while (packed := packer.next_chunk()) is not None:
                out.add(*packed, DATA)
                if packer.entries >= RUN_KEYS:
                    runs.add(packer.take_entries())
            runs.add(packer.take_entries())
            out.drain()
            data_chunks = len(out.entries)
            slots, probes = slots_for(packer.records), 1
            if slots:
                layout = Layout(slots)
                for part in runs.parts():
                    for chunk in layout.put(part):
                        out.add(chunk, 0, b"", TABLE)
                for chunk in layout.finish():
                    out.add(chunk, 0, b"", TABLE)
                probes = layout.probes
            out.drain()
            header = out.finish(shard, salt, packer.records, slots, data_chunks, probes)
        root = root_of(header.pack())
        final = folder / file_name(shard, root)
        os.rename(path, final)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        runs.close()
        os.close(fd)
    return Written(
        shard, root, final, header.file_bytes, header.records, header.raw_bytes, header.chunks, out.shared, out.shared_bytes,
        tuple(out.files),
    )  # fmt: skip


class _Raw(NamedTuple):
    raw: bytes
    records: int
    first_key: bytes
    kind: int


class _Chunks:
    """Chunks on their way to the file, in their order."""

    def __init__(self, fd: int, sealer: Sealer, base: Base | None, pool: ThreadPoolExecutor, threads: int) -> None:
        self._fd = fd
        self._sealer = sealer
        self._base = base
        self._known = base.shareable(sealer.check) if base is not None else {}
        self._pool = pool
        self._group: list[_Raw] = []
        self._group_bytes = 0
        self._under_way: deque[tuple[Future[list[tuple[bytes, bytes, bytes, int] | bytes]], list[_Raw]]] = deque()
        self._under_way_bytes = 0
        self._count_max = 4 * threads
        self._ahead = [memoryview(bytes(HEADER_BYTES))]
        self._offset = HEADER_BYTES
        self._written = 0
        self._synced = 0
        self._syncing: Future[None] | None = None
        self._keys = bytearray()
        self._raw_bytes = 0
        self.entries: list[bytes] = []
        self.files: dict[bytes, int] = {}
        self.shared = 0
        self.shared_bytes = 0

    def add(self, raw: bytes, records: int, first_key: bytes, kind: int) -> None:
        """One more chunk."""
        self._group.append(_Raw(raw, records, first_key, kind))
        self._group_bytes += len(raw)
        if self._group_bytes >= GROUP_BYTES:
            self._submit()

    def drain(self) -> None:
        """Until all are in the file."""
        self._submit()
        while self._under_way:
            self._take()

    def _submit(self) -> None:
        """Give the chunks to a thread, together: to wake it takes longer than to hash one."""
        while self._under_way and (
            self._under_way_bytes + self._group_bytes > IN_FLIGHT_BYTES or len(self._under_way) >= self._count_max
        ):
            self._take()
        if self._group:
            self._under_way.append((self._pool.submit(self._seal_all, self._group), self._group))
            self._under_way_bytes += self._group_bytes
            self._group, self._group_bytes = [], 0

    def _seal_all(self, group: list[_Raw]) -> list[tuple[bytes, bytes, bytes, int] | bytes]:
        return [self._seal(each.raw, each.kind) for each in group]

    def _seal(self, raw: bytes, kind: int) -> tuple[bytes, bytes, bytes, int] | bytes:
        content_hash = self._sealer.content_hash(raw)
        known = self._known.get(content_hash)
        # what has rotted since is written anew: a snapshot is whole when it is made, whatever became of the one before
        if known is not None and self._base is not None and self._base.whole(known[1]):
            return content_hash
        stored, form = self._sealer.seal(raw, kind)
        stored_hash = blake3(stored).digest() if form else content_hash
        return content_hash, stored_hash, stored, form

    def _take(self) -> None:
        future, group = self._under_way.popleft()
        for sealed, each in zip(future.result(), group, strict=True):
            self._under_way_bytes -= len(each.raw)
            self._put(sealed, len(each.raw), each.records, each.first_key, each.kind)

    def _put(
        self, sealed: tuple[bytes, bytes, bytes, int] | bytes, raw_bytes: int, records: int, first_key: bytes, kind: int
    ) -> None:
        key_offset = len(self._keys)
        self._keys += first_key
        self._raw_bytes += raw_bytes
        if isinstance(sealed, bytes):
            root, entry = self._known[sealed]
            file = self.files.setdefault(root, len(self.files) + 1)
            entry = entry._replace(
                file=file, records=records, kind=kind, key_offset=key_offset, key_bytes=len(first_key)
            )
            self.shared += 1
            self.shared_bytes += entry.stored_bytes
        else:
            content_hash, stored_hash, stored, form = sealed
            entry = Entry(
                stored_hash, content_hash, self._offset, len(stored), raw_bytes, records, 0, form, kind, key_offset,
                len(first_key),
            )  # fmt: skip
            self._write(stored)
        self.entries.append(ENTRY.pack(*entry))

    def _write(self, data: bytes) -> None:
        self._ahead.append(memoryview(data))
        self._offset += len(data)
        if self._offset - self._written >= WRITE_BYTES:
            # whole pages only: a page that is on its way to the disk cannot be written to until it is there
            self._flush(self._offset // PAGE_BYTES * PAGE_BYTES)
        if self._written - self._synced >= SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            if self._syncing is not None:
                self._syncing.result()
            self._synced = self._written
            self._syncing = self._pool.submit(os.fsync, self._fd)

    def _flush(self, until: int) -> None:
        """Have the file written until there."""
        while self._written < until:
            parts, size = [], 0
            for view in self._ahead[:IOV_MAX]:
                parts.append(view[: until - self._written - size])
                size += len(parts[-1])
                if self._written + size == until:
                    break
            count = os.pwritev(self._fd, parts, self._written)
            self._written += count
            while count and count >= len(self._ahead[0]):
                count -= len(self._ahead.pop(0))
            if count:
                self._ahead[0] = self._ahead[0][count:]

    def finish(self, shard: str, salt: bytes, records: int, slots: int, data_chunks: int, probes: int) -> Header:
        """The table and the header, and all of it synced."""
        assert len(self.files) < FILES_MAX
        if len(self._keys) > KEYS_BYTES_MAX:
            raise SnapshotError(
                f"the shard {shard} has {len(self._keys)} bytes of first keys, and may have {KEYS_BYTES_MAX}",
                hint="divide it into several shards, or use shorter keys",
            )
        keys, _ = self._sealer.seal(bytes(self._keys), KEYS)
        table = b"".join([*self.entries, *self.files, keys])
        header = Header(
            self._sealer.encrypted, self._offset, records, slots, data_chunks, len(self.entries) - data_chunks,
            len(self.files), probes, len(keys), len(self._keys), self._raw_bytes, salt, shard,
            blake3(table, max_threads=blake3.AUTO).digest(), self._sealer.check,
        )  # fmt: skip
        self._ahead.append(memoryview(table))
        self._flush(header.file_bytes)
        if self._syncing is not None:
            self._syncing.result()
        write_all(self._fd, header.pack(), 0)
        os.fsync(self._fd)
        return header
