"""The files of a journal: a small interface, and the real ones. Tests have a disk of their own, byte by byte."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from pathlib import Path
from typing import Final, Protocol

from nodes.journal.errors import JournalRefused, Reason
from nodes.journal.stamps import BLOCK
from swarm.paths import private_directory

LOCK: Final = "lock"
STATES: Final = ("state-a", "state-b")
SEGMENT: Final = re.compile(r"segment-(\d{12})")
SPARE: Final = re.compile(r"spare-(\d{12})")
WITNESS: Final = "postgres.json"
"""In place of all others, where the journal is in a database."""
NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT))


def segment_name(number: int) -> str:
    """The file of a segment."""
    return f"segment-{number:012}"


class File(Protocol):
    """An open file. All of it may raise OSError."""

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes."""

    def write(self, offset: int, data: bytes | bytearray) -> None:
        """All of it, or OSError."""

    def sync(self) -> None:
        """What was written is on the disk, the file's size included."""

    def size(self) -> int:
        """In bytes."""

    def close(self) -> None:
        """Does not sync."""


class Files(Protocol):
    """A directory with files. All of it may raise OSError."""

    def lock(self) -> None:
        """Of one process at a time. JournalRefused if another has it."""

    def names(self) -> list[str]:
        """What is there, sorted."""

    def create(self, name: str, size: int) -> File:
        """A new file whose space is on the disk for certain; it reads as zeros."""

    def open(self, name: str, write: bool) -> File:
        """A file that is there."""

    def rename(self, name: str, new: str) -> None:
        """In one step."""

    def remove(self, name: str) -> None:
        """Removes a file."""

    def sync(self) -> None:
        """Names are on the disk."""

    def free(self) -> int:
        """Bytes that the system would still give us."""

    def close(self) -> None:
        """Unlocks."""


def read_anyway(file: File, offset: int, size: int) -> bytes:
    """What a file has. Blocks that the disk does not give read as rot: what needs nothing of them is whole."""
    try:
        return file.read(offset, size)
    except OSError:
        parts: list[bytes] = []
        for at in range(offset, offset + size, BLOCK):
            count = min(BLOCK, offset + size - at)
            try:
                parts.append(file.read(at, count))
            except OSError:
                parts.append(b"\xff" * count)
        return b"".join(parts)


class RealFile:
    """A file of the operating system."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes."""
        parts: list[bytes] = []
        while size > 0:
            part = os.pread(self._descriptor, size, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: bytes | bytearray) -> None:
        """All of it, or OSError."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._descriptor, view, offset)
            view = view[count:]
            offset += count

    def sync(self) -> None:
        """`fdatasync`, which includes what is needed to read it back; on macOS to the medium itself."""
        full = getattr(fcntl, "F_FULLFSYNC", None)
        if full is not None:
            fcntl.fcntl(self._descriptor, full)
        else:
            os.fdatasync(self._descriptor)

    def size(self) -> int:
        """In bytes."""
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Does not sync."""
        os.close(self._descriptor)


class RealFiles:
    """A directory of this user alone. `read_only`: nothing is made, changed or locked for others to write."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self.directory = directory
        self._read_only = read_only
        self._lock: int | None = None

    def lock(self) -> None:
        """Locks the directory as long as this is open, or the process lives."""
        if self._read_only:
            if not self.directory.is_dir():
                raise JournalRefused(
                    Reason.MISSING, f"there is no journal in {self.directory}", hint="name the journal's directory"
                )
            flags = os.O_RDONLY
        else:
            private_directory(self.directory)
            flags = os.O_RDWR | os.O_CREAT
        try:
            descriptor = os.open(self.directory / LOCK, flags | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return  # nobody writes it: a journal that was copied from elsewhere
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if self._read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise JournalRefused(
                Reason.LOCKED,
                f"another process has the journal in {self.directory} open",
                hint="stop the node first, or look at a copy of the directory",
                path=str(self.directory),
            ) from None
        self._lock = descriptor

    def names(self) -> list[str]:
        """What is there, sorted."""
        return sorted(os.listdir(self.directory))

    def create(self, name: str, size: int) -> File:
        """Space is taken from the file system before anything is written to it."""
        path = self.directory / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                zeros = bytes(1 << 20)
                for at in range(0, size, len(zeros)):
                    os.pwrite(descriptor, zeros[: size - at], at)
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return RealFile(descriptor)

    def open(self, name: str, write: bool) -> File:
        """A file that is there."""
        return RealFile(os.open(self.directory / name, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC))

    def rename(self, name: str, new: str) -> None:
        """In one step."""
        os.rename(self.directory / name, self.directory / new)

    def remove(self, name: str) -> None:
        """Removes a file."""
        os.unlink(self.directory / name)

    def sync(self) -> None:
        """Names are on the disk."""
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free(self) -> int:
        """What the file system has for this user."""
        about = os.statvfs(self.directory)
        return about.f_bavail * about.f_frsize

    def close(self) -> None:
        """Unlocks."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
