"""Files beside the journal: blobs that logs name, by id, on the disk. Nothing here is evicted; who needs no file removes it.

A file has its name when all of it is written and synced. What a process that was killed had begun is removed at the next start.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from swarm.errors import SwarmError
from swarm.paths import private_directory

ID_BYTES = 32
PART_BYTES = 1 << 20
FREE_BYTES = 16 << 20
"""The file system keeps at least so much free: the journal is on it, too."""
_BEGUN = ".part"


class NoRoom(SwarmError):
    """What is to be kept has no room: on the disk, or within the bound."""


class KeptFiles:
    """The files of one node, bounded in bytes. Calls of one thread, but for `written` and `digest_of`, which take long."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        """SystemRefused when the directory cannot be made."""
        self._directory = private_directory(directory)
        self._bytes_max = bytes_max
        self._sizes: dict[bytes, int] = {}
        self._number = 0
        self.bytes = 0
        """Of all files, and of those that are being written."""
        for path in sorted(directory.iterdir()):
            if path.suffix == _BEGUN:
                path.unlink(missing_ok=True)
            elif (id := _id(path.name)) is not None:
                self._sizes[id] = path.stat().st_size
                self.bytes += self._sizes[id]

    @property
    def ids(self) -> list[bytes]:
        """What is here."""
        return list(self._sizes)

    def open(self, id: bytes) -> tuple[Path, int] | None:
        """(path, bytes) of a file that is here."""
        size = self._sizes.get(id)
        return None if size is None else (self._path(id), size)

    def begin(self, size: int) -> Path:
        """A place for `size` bytes, which are taken from the file system. NoRoom, OSError."""
        if size > self._bytes_max:
            raise NoRoom(
                f"{size} bytes are more than this node keeps for logs ({self._bytes_max})", hint="raise ledger.kept_bytes",
                never=True,
            )  # fmt: skip
        if self.bytes + size > self._bytes_max:
            raise NoRoom(
                f"this node keeps {self.bytes} of at most {self._bytes_max} bytes for logs, and {size} more do not fit",
                hint="raise ledger.kept_bytes; outcomes that are forgotten make room", never=False,
            )  # fmt: skip
        found = os.statvfs(self._directory)
        if found.f_bavail * found.f_frsize < size + FREE_BYTES:
            raise self._full(size)
        self._number += 1
        path = self._directory / f"{self._number}{_BEGUN}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                if size:
                    os.posix_fallocate(fd, 0, size)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(size) from error
            raise
        self.bytes += size
        return path

    def _full(self, size: int) -> NoRoom:
        return NoRoom(
            f"the disk of this node has no room for {size} bytes in {self._directory}", hint="make room on it", never=False
        )  # fmt: skip

    def abandon(self, path: Path, size: int) -> None:
        """It does not come."""
        self.bytes -= size
        path.unlink(missing_ok=True)

    def written(self, path: Path, size: int) -> bytes:
        """All of it is written: sync it. The digest of what is there. Takes long, in any thread; OSError."""
        digest = digest_of(path, size)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        return digest

    def named(self, id: bytes, path: Path) -> None:
        """Give a synced file its name, for good. Takes long, in any thread; OSError."""
        os.rename(path, self._path(id))
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def finish(self, id: bytes, size: int) -> None:
        """It has its name: it is here."""
        if id in self._sizes:
            self.bytes -= self._sizes[id]  # it took the place of the one that was there
        self._sizes[id] = size

    def remove(self, id: bytes) -> None:
        """Nobody needs it, or it is not what it was."""
        self.bytes -= self._sizes.pop(id, 0)
        self._path(id).unlink(missing_ok=True)

    def _path(self, id: bytes) -> Path:
        return self._directory / id.hex()


def digest_of(path: Path, size: int, put: Callable[[memoryview], object] | None = None) -> bytes:
    """The BLAKE3 digest of the first `size` bytes of a file; its parts are given to `put` on the way. Takes long, in any
    thread; OSError."""
    hasher = blake3()
    buffer = memoryview(bytearray(PART_BYTES))
    with open(path, "rb", buffering=0) as file:
        while size and (count := file.readinto(buffer[: min(size, PART_BYTES)])):
            size -= count
            hasher.update(buffer[:count])
            if put is not None:
                put(buffer[:count])
    return hasher.digest()


def _id(name: str) -> bytes | None:
    try:
        id = bytes.fromhex(name)
    except ValueError:
        return None
    return id if len(id) == ID_BYTES else None
