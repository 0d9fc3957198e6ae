"""Blobs of a node: large buffers and files, by id, in shared memory where there is room for them.

An id is the blake3 digest of the content (it can be fetched from anybody and is verified), or 32 random bytes for a
*segment*: a buffer that a process of this host has written for another one of it, whose content nobody needs to hash.
Files are 0600 in a 0700 directory, so they are guarded by the user's id; the directory goes when the node does.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from nodes import locked_directory
from swarm.errors import SystemRefused

ID_BYTES = 32
SEGMENT = 1
"""Flag of a reference: the id is random, and known to this host's nodes only until somebody asks for the digest."""
POOL_FILES_MAX = 16
POOL_BYTES_MAX = 1 << 30
PAGE = 4096


@dataclass(slots=True)
class _Blob:
    path: Path
    size: int
    sealed: bool
    pins: int = 0
    holds: int = 0
    """Transfers that read it; while there are any it neither goes nor is written to again."""
    doomed: bool = False
    """It goes when the last of them ends."""


class BlobStore:
    """The blobs that this node holds, bounded in bytes; the longest unused go first, never one that is pinned."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._blobs: OrderedDict[bytes, _Blob] = OrderedDict()
        self._pool: list[tuple[int, Path]] = []
        self.bytes = 0
        self._number = 0

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self._directory

    def alloc(self, size: int) -> tuple[bytes, Path]:
        """A place to write `size` bytes to, and the random id under which it is found once it is sealed."""
        self._make_room(size)
        blob_id = os.urandom(ID_BYTES)
        path = self._reused(size) or self._fresh(size)
        self._blobs[blob_id] = _Blob(path, size, False, pins=1)
        self.bytes += size
        return blob_id, path

    def seal(self, blob_id: bytes) -> None:
        """What was allocated is written, and will not change."""
        blob = self._blobs[blob_id]
        if not blob.sealed:
            blob.sealed = True

    def put(self, data: bytes | memoryview) -> bytes:
        """Keep bytes by their digest; the digest."""
        digest = blake3(data).digest()
        if digest not in self._blobs:
            self._make_room(len(data))
            path = self._fresh(len(data))
            with open(path, "r+b") as file:
                file.write(data)
            self._blobs[digest] = _Blob(path, len(data), True)
            self.bytes += len(data)
        return digest

    def put_file(self, source: Path) -> tuple[bytes, int]:
        """Keep a copy of a file by the digest of its content; (digest, bytes)."""
        hasher = blake3(max_threads=blake3.AUTO)
        hasher.update_mmap(source)
        digest = hasher.digest()
        size = source.stat().st_size
        if digest not in self._blobs:
            self._make_room(size)
            path = self._fresh(size)
            shutil.copyfile(source, path)
            self._blobs[digest] = _Blob(path, size, True)
            self.bytes += size
        return digest, size

    def begin(self, size: int) -> Path:
        """A place for a blob of `size` bytes that comes from elsewhere; `finish` takes it in, `abandon` gives it up."""
        self._make_room(size)
        path = self._reused(size) or self._fresh(size, whole=False)
        self.bytes += size
        return path

    def finish(self, blob_id: bytes, path: Path, size: int) -> None:
        """Take in what has come, and been found to be what its id says."""
        if blob_id in self._blobs:
            self.abandon(path, size)
        else:
            self._blobs[blob_id] = _Blob(path, size, True)

    def abandon(self, path: Path, size: int) -> None:
        """It does not come."""
        self.bytes -= size
        path.unlink(missing_ok=True)

    def hold(self, blob_id: bytes) -> tuple[Path, int] | None:
        """As `open`; it stays until `let_go`, whatever becomes of it meanwhile."""
        found = self.open(blob_id)
        if found is not None:
            self._blobs[blob_id].holds += 1
        return found

    def let_go(self, blob_id: bytes) -> None:
        """One who held it needs it no more."""
        blob = self._blobs.get(blob_id)
        if blob is not None and blob.holds:
            blob.holds -= 1
            if not blob.holds and blob.doomed:
                self._drop(blob_id)

    def open(self, blob_id: bytes) -> tuple[Path, int] | None:
        """(path, bytes) of a blob that is here."""
        blob = self._blobs.get(blob_id)
        if blob is None or not blob.sealed:
            return None
        self._blobs.move_to_end(blob_id)
        return blob.path, blob.size

    def read(self, blob_id: bytes, offset: int, size: int) -> bytes | None:
        """A part of a blob that is here."""
        found = self.open(blob_id)
        if found is None:
            return None
        with open(found[0], "rb") as file:
            file.seek(offset)
            return file.read(min(size, max(0, found[1] - offset)))

    def pin(self, ids: Iterable[bytes], by: int) -> None:
        """Keep blobs (1), or need them no more (-1); a segment that nobody needs goes back to the pool."""
        for blob_id in ids:
            blob = self._blobs.get(blob_id)
            if blob is not None:
                blob.pins = max(0, blob.pins + by)
                if blob.pins == 0 and by < 0:
                    if blob.holds:
                        blob.doomed = True
                    else:
                        self._drop(blob_id)

    def close(self) -> None:
        """Remove every file."""
        self._blobs.clear()
        self._pool.clear()
        # The last node of a home takes the home's directory along.
        locked_directory.remove(self._directory)

    def _drop(self, blob_id: bytes) -> None:
        blob = self._blobs.pop(blob_id)
        self.bytes -= blob.size
        room = blob.path.stat().st_size if blob.path.exists() else 0
        pooled = sum(size for size, _ in self._pool)
        if room and len(self._pool) < POOL_FILES_MAX and pooled + room <= POOL_BYTES_MAX:
            # Its pages stay: who writes into it next finds them there.
            self._pool.append((room, blob.path))
        else:
            blob.path.unlink(missing_ok=True)

    def _reused(self, size: int) -> Path | None:
        fitting = [entry for entry in self._pool if size <= entry[0] <= max(2 * size, 1 << 20)]
        if not fitting:
            return None
        best = min(fitting)
        self._pool.remove(best)
        return best[1]

    def _fresh(self, size: int, *, whole: bool = True) -> Path:
        """A new file. `whole`: with its room set aside, since it will be mapped, and a write to a mapping can not fail."""
        self._number += 1
        path = self._directory / f"{self._number:08x}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                if size and whole:
                    os.posix_fallocate(fd, 0, -(-size // PAGE) * PAGE if size > PAGE else size)
                    os.ftruncate(fd, size)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise SystemRefused(
                    f"no room for {size} bytes in {self._directory}",
                    hint="free some space, or lower limits.blob_bytes",
                    size=size,
                ) from error
            raise
        return path

    def _make_room(self, size: int) -> None:
        if size > self._bytes_max:
            raise SystemRefused(
                f"{size} bytes are more than this node keeps ({self._bytes_max})",
                hint="raise limits.blob_bytes",
                size=size,
            )
        while self.bytes + size > self._bytes_max:
            unused = next(
                (known for known, blob in self._blobs.items() if blob.sealed and not blob.pins and not blob.holds), None
            )
            if unused is None:
                raise SystemRefused(
                    f"the {self.bytes} bytes of blobs here are all in use",
                    hint="try again later, or raise limits.blob_bytes",
                )
            blob = self._blobs.pop(unused)
            self.bytes -= blob.size
            blob.path.unlink(missing_ok=True)


def open_store(parent: Path, name: str, bytes_max: int) -> BlobStore:
    """A store in a directory of its own under `parent`, which is cleared of those whose processes are gone."""
    return BlobStore(locked_directory.make(parent, name), bytes_max)


def shared_memory_directory(runtime: Path) -> Path:
    """Where segments live: in /dev/shm under a name of this user and home, or beside the sockets where there is none."""
    shm = Path("/dev/shm")
    if shm.is_dir() and os.access(shm, os.W_OK):
        mark = blake3(str(runtime).encode()).hexdigest()[:8]
        return shm / f"swarm-{os.getuid()}-{mark}"
    return runtime / "blobs"
