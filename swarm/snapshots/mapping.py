"""Files of shards, mapped: nothing is read before it is asked for."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

from blake3 import blake3

from swarm.snapshots.errors import SnapshotDamaged, SnapshotError
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


class Mapped:
    """A file, read-only in memory. It must not be cut while it is open: files of snapshots are never changed in their length.

    What has not been looked at before is read by calls, not through the mapping: a disk that cannot read is an error then, and not the
    end of the process (SIGBUS). Afterwards it is in memory, and the mapping shows it.
    """

    def __init__(self, path: Path) -> None:
        """OSError; SnapshotDamaged when it is shorter than a header."""
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.size = os.fstat(self._fd).st_size
            if self.size < HEADER_BYTES:
                raise SnapshotDamaged(
                    f"{path} is cut off: it has no whole header", hint="`swarm snapshot repair` takes it from another copy",
                    path=str(path), file=path.name, chunk=None, offset=0,
                )  # fmt: skip
            self._map = mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(self._fd)
            raise
        self.view = memoryview(self._map)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the file, in any thread; fewer at its end. SnapshotDamaged when the disk cannot read them."""
        parts = []
        size = min(size, self.size - offset)  # what is not there is not to cost memory
        try:
            while size > 0 and (part := os.pread(self._fd, size, offset)):
                parts.append(part)
                offset += len(part)
                size -= len(part)
        except OSError as error:
            raise damaged(
                str(self.path), f"the disk cannot read it ({error.strerror})", offset=offset, bytes=size
            ) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, buffer: memoryview, offset: int) -> bool:
        """Fill a buffer with what stands there, in any thread; whether there was so much, and the disk could read it."""
        try:
            while buffer and (count := os.preadv(self._fd, [buffer], offset)):
                buffer = buffer[count:]
                offset += count
        except OSError:
            return False
        return not buffer

    def close(self) -> None:
        """Give the memory back, as soon as nobody looks at it any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        try:
            self.view.release()
            self._map.close()
        except BufferError:
            pass  # a chunk is still looked at: the last view that goes takes the map along


def read_table(mapped: Mapped, root: bytes | None) -> tuple[Header, memoryview]:
    """(header, table) of a shard's file, both checked: the header against ``root`` where one is given, and the table against the
    header. SnapshotMalformed, SnapshotDamaged."""
    path = str(mapped.path)
    head = mapped.read(0, HEADER_BYTES)
    if root is not None and root_of(head) != root:
        raise damaged(path, "its header is not the one that is expected", offset=0, bytes=HEADER_BYTES, part="header")
    header = unpack_header(head, path)
    if mapped.size < header.file_bytes:
        raise damaged(
            path, f"it has {mapped.size} bytes of {header.file_bytes}", offset=mapped.size, bytes=header.file_bytes - mapped.size,
            part="end",
        )  # fmt: skip
    table = memoryview(mapped.read(header.table_offset, header.table_bytes))
    if blake3(table, max_threads=blake3.AUTO).digest() != header.table_hash:
        raise damaged(
            path, "its table is not what it was", offset=header.table_offset, bytes=header.table_bytes, part="table"
        )
    if mapped.size > header.file_bytes:
        raise malformed(path, f"has {mapped.size - header.file_bytes} bytes behind its end")
    return header, table


def head_of(path: Path, root: bytes, bytes_max: int | None = None) -> bytes | None:
    """Header and table of a shard's file, both checked, as another takes them over; None where it is not there, is not whole, or where both
    together have more than ``bytes_max``."""
    try:
        mapped = Mapped(path)
    except (OSError, SnapshotError):
        return None
    try:
        header, table = read_table(mapped, root)
        if bytes_max is not None and HEADER_BYTES + header.table_bytes > bytes_max:
            return None
        return mapped.read(0, HEADER_BYTES) + bytes(table)
    except SnapshotError:
        return None
    finally:
        mapped.close()


class MappedChunks:
    """The stored chunks of one shard, in its file and the others of the folder that it names."""

    def __init__(self, folder: Path, shard: str, own: Mapped, header: Header, table: memoryview) -> None:
        start = header.chunks * ENTRY_BYTES
        self.folder = folder
        self.roots = [
            bytes(table[at : at + HASH_BYTES]) for at in range(start, start + header.files * HASH_BYTES, HASH_BYTES)
        ]
        self._shard = shard
        self._lock = threading.Lock()
        self._files: list[Mapped | None] = [own, *[None] * header.files]

    def path(self, file: int) -> Path:
        """Of a file, by its number in entries."""
        own = self._files[0]
        assert own is not None
        return self.folder / file_name(self._shard, self.roots[file - 1]) if file else own.path

    def stored(self, number: int, entry: Entry) -> bytes:
        """A chunk as it stands in its file, unchecked. SnapshotDamaged when that is too short, not there, or cannot be read."""
        facts = {
            "shard": self._shard, "chunk": number, "offset": entry.offset, "bytes": entry.stored_bytes, "hash": entry.stored_hash,
        }  # fmt: skip
        try:
            found = self._file(entry).read(entry.offset, entry.stored_bytes)
        except FileNotFoundError:
            what = f"it is not there, and chunk {number} of {self._shard} stands in it"
            raise damaged(str(self.path(entry.file)), what, **facts) from None
        except SnapshotDamaged as error:
            raise damaged(str(self.path(entry.file)), str(error), **facts) from None
        if len(found) < entry.stored_bytes:
            raise damaged(str(self.path(entry.file)), f"it ends before chunk {number} of {self._shard} does", **facts)
        return found

    def view(self, entry: Entry) -> memoryview:
        """The same in the mapping, once `stored` has given it."""
        return self._file(entry).view[entry.offset : entry.offset + entry.stored_bytes]

    def _file(self, entry: Entry) -> Mapped:
        with self._lock:
            found = self._files[entry.file]
            if found is None:
                found = self._files[entry.file] = Mapped(self.path(entry.file))
            return found

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
