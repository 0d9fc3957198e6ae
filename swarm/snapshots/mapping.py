"""Files of shards, mapped: nothing is read before it is asked for."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

from blake3 import blake3

from swarm.snapshots.errors import SnapshotDamaged
from swarm.snapshots.format import (
    ENTRY_BYTES,
    HASH_BYTES,
    HEADER_BYTES,
    Entry,
    Header,
    file_name,
    malformed,
    root_of,
    unpack_header,
)

PAGE_BYTES: Final = mmap.PAGESIZE
_WILL_NEED: Final[int | None] = getattr(mmap, "MADV_WILLNEED", None)


class Mapped:
    """A file, read-only in memory. It must not be cut while it is open: files of snapshots are never changed in their length."""

    def __init__(self, path: Path) -> None:
        """OSError; SnapshotDamaged when it is empty."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size < HEADER_BYTES:
                raise SnapshotDamaged(
                    f"{path} is cut off: it has no whole header", hint="`swarm snapshot repair` takes it from another copy",
                    path=str(path), file=path.name, chunk=None, offset=0,
                )  # fmt: skip
            self._map = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)
        self.view = memoryview(self._map)
        self.path = path

    def part(self, offset: int, size: int) -> memoryview:
        """Bytes that are about to be read: they are asked for from the disk in one go, instead of page by page."""
        if size > PAGE_BYTES and _WILL_NEED is not None:
            start = offset // PAGE_BYTES * PAGE_BYTES
            try:
                self._map.madvise(_WILL_NEED, start, offset + size - start)
            except (OSError, ValueError):
                pass  # advice is all it is
        return self.view[offset : offset + size]

    def close(self) -> None:
        """Give the memory back, as soon as nobody looks at it any more."""
        try:
            self.view.release()
            self._map.close()
        except BufferError:
            pass  # a chunk is still looked at: the last view that goes takes the map along


def read_table(mapped: Mapped, root: bytes | None) -> tuple[Header, memoryview]:
    """(header, table) of a shard's file, both checked: the header against ``root`` where one is given, and the table against the
    header. SnapshotMalformed, SnapshotDamaged."""
    view, path = mapped.view, str(mapped.path)
    head = bytes(view[:HEADER_BYTES])
    if root is not None and root_of(head) != root:
        raise damaged(path, "its header is not the one that is expected", offset=0, bytes=HEADER_BYTES, part="header")
    header = unpack_header(head, path)
    if len(view) < header.file_bytes:
        raise damaged(
            path, f"it has {len(view)} bytes of {header.file_bytes}", offset=len(view), bytes=header.file_bytes - len(view),
            part="end",
        )  # fmt: skip
    table = mapped.part(header.table_offset, header.table_bytes)
    if blake3(table, max_threads=blake3.AUTO).digest() != header.table_hash:
        raise damaged(
            path, "its table is not what it was", offset=header.table_offset, bytes=header.table_bytes, part="table"
        )
    if len(view) > header.file_bytes:
        raise malformed(path, f"has {len(view) - header.file_bytes} bytes behind its end")
    return header, table


class MappedChunks:
    """The stored chunks of one shard, in its file and the others of the folder that it names."""

    def __init__(self, folder: Path, shard: str, own: Mapped, header: Header, table: memoryview) -> None:
        start = header.chunks * ENTRY_BYTES
        self.folder = folder
        self.roots = [
            bytes(table[at : at + HASH_BYTES]) for at in range(start, start + header.files * HASH_BYTES, HASH_BYTES)
        ]
        self._shard = shard
        self._files: list[Mapped | None] = [own, *[None] * header.files]

    def path(self, file: int) -> Path:
        """Of a file, by its number in entries."""
        own = self._files[0]
        assert own is not None
        return self.folder / file_name(self._shard, self.roots[file - 1]) if file else own.path

    def stored(self, number: int, entry: Entry) -> memoryview:
        """A chunk as it stands in its file, unchecked. SnapshotDamaged when that is too short, or not there."""
        mapped = self._files[entry.file]
        if mapped is None:
            path = self.path(entry.file)
            try:
                mapped = self._files[entry.file] = Mapped(path)
            except FileNotFoundError:
                raise damaged(
                    str(path), f"it is not there, and chunk {number} of {self._shard} stands in it", offset=entry.offset,
                    bytes=entry.stored_bytes, shard=self._shard, chunk=number, hash=entry.stored_hash,
                ) from None  # fmt: skip
        if entry.offset + entry.stored_bytes > len(mapped.view):
            raise damaged(
                str(mapped.path), f"it ends before chunk {number} of {self._shard} does", offset=entry.offset,
                bytes=entry.stored_bytes, shard=self._shard, chunk=number, hash=entry.stored_hash,
            )  # fmt: skip
        return mapped.part(entry.offset, entry.stored_bytes)

    def close(self) -> None:
        """Give the files back."""
        for each in self._files:
            if each is not None:
                each.close()


def damaged(path: str, what: str, **facts: object) -> SnapshotDamaged:
    """Bytes of a file are not what they must be."""
    facts.setdefault("chunk", None)
    return SnapshotDamaged(
        f"{path}: {what}", hint="`swarm snapshot repair` takes what is damaged from another copy", path=path,
        file=Path(path).name, **facts,
    )  # fmt: skip
