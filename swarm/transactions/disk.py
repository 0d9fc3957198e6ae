"""The directory of a transaction as the commit sees it: every system call of a commit and of a recovery is made here.

Names are relative to the directory, with "/" between their parts. No symbolic link is ever followed: each part is opened
by itself with O_NOFOLLOW, so that a link that somebody puts there in the meantime leads nowhere.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from .whole_writes import write_synced

PRIVATE = ".swarm-transaction"
"""The folder inside the directory in which transactions keep what is theirs."""

STAGE = PRIVATE + "/stage"
"""New versions of files, until they are put in their places."""
VAULT = PRIVATE + "/vault"
"""Originals, until the commit is over."""
JOURNAL = PRIVATE + "/journal"
"""Is there exactly while a commit is being applied."""
JOURNAL_MAKING = PRIVATE + "/journal.making"
COMMITTED = PRIVATE + "/committed"
"""Which tasks have committed here; replaced as part of a commit."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
_BLOCK_BYTES = 1 << 20


def parent_of(name: str) -> str:
    """The name of the folder that a name is in; "" is the directory itself."""
    return name.rpartition("/")[0]


def digest_of(data: bytes) -> str:
    """The checksum used in journals: BLAKE2b of 16 bytes, in hex (RFC 7693)."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Disk:
    """A directory, opened once. OSError is what the system says."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._fd = os.open(root, _FOLDER)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @contextmanager
    def _folder(self, name: str) -> Iterator[int]:
        """A descriptor of a folder."""
        fd = self._fd
        try:
            for part in name.split("/") if name else ():
                inner = os.open(part, _FOLDER, dir_fd=fd)
                if fd != self._fd:
                    os.close(fd)
                fd = inner
            yield fd
        finally:
            if fd != self._fd:
                os.close(fd)

    @contextmanager
    def _two(self, one: str, other: str) -> Iterator[tuple[int, int]]:
        with self._folder(parent_of(one)) as first, self._folder(parent_of(other)) as second:
            yield first, second

    def stat(self, name: str) -> os.stat_result | None:
        """What is at a name, links not followed; None when there is nothing."""
        try:
            if not name:
                return os.fstat(self._fd)
            with self._folder(parent_of(name)) as fd:
                return os.stat(name.rpartition("/")[2], dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def is_there(self, name: str) -> bool:
        """Whether there is anything at a name."""
        return self.stat(name) is not None

    def is_folder(self, name: str) -> bool:
        """Whether there is a folder at a name."""
        found = self.stat(name)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def is_same(self, one: str, other: str) -> bool:
        """Whether both names are of one file."""
        first, second = self.stat(one), self.stat(other)
        return (
            first is not None and second is not None and (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
        )

    def names(self, name: str) -> list[str]:
        """What is in a folder, sorted."""
        with self._folder(name) as fd:
            return sorted(os.listdir(fd))

    def rename(self, old: str, new: str) -> None:
        """rename(2): what was at `new` is replaced at once."""
        with self._two(old, new) as (source, target):
            os.rename(old.rpartition("/")[2], new.rpartition("/")[2], src_dir_fd=source, dst_dir_fd=target)

    def link(self, old: str, new: str) -> bool:
        """A second name for a file; False where the filesystem has none."""
        with self._two(old, new) as (source, target):
            try:
                os.link(
                    old.rpartition("/")[2], new.rpartition("/")[2],
                    src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False,
                )  # fmt: skip
            except OSError as error:
                if error.errno in _NO_LINKS:
                    return False
                raise
        return True

    def unlink(self, name: str) -> None:
        """Take a name away; nothing happens when there is none."""
        try:
            with self._folder(parent_of(name)) as fd:
                os.unlink(name.rpartition("/")[2], dir_fd=fd)
        except FileNotFoundError:
            pass

    def mkdir(self, name: str, mode: int) -> None:
        """Make a folder with exactly this mode."""
        with self._folder(parent_of(name)) as fd:
            os.mkdir(name.rpartition("/")[2], 0o700, dir_fd=fd)
        self.chmod(name, mode)

    def rmdir(self, name: str) -> None:
        """Remove an empty folder."""
        with self._folder(parent_of(name)) as fd:
            os.rmdir(name.rpartition("/")[2], dir_fd=fd)

    def chmod(self, name: str, mode: int) -> None:
        """Set the mode of a folder."""
        with self._folder(parent_of(name)) as fd:
            os.chmod(name.rpartition("/")[2], mode, dir_fd=fd)

    def sync(self, name: str) -> None:
        """fsync a folder: the names in it are on the disk then. One that is not there any more has nothing to sync."""
        try:
            with self._folder(name) as fd:
                os.fsync(fd)
        except OSError as error:
            if error.errno not in (*_GONE, errno.EACCES):  # a folder that was closed to its owner just now
                raise

    def write(self, name: str, data: bytes) -> None:
        """Write a file anew and fsync it."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._folder(parent_of(name)) as folder:
            fd = os.open(name.rpartition("/")[2], flags, 0o600, dir_fd=folder)
        try:
            write_synced(fd, (data,))
        finally:
            os.close(fd)

    def read(self, name: str, bytes_max: int) -> bytes:
        """A file's contents; at most `bytes_max` and one."""
        parts = []
        fd = self._open(name)
        try:
            left = bytes_max + 1
            while left > 0 and (part := os.read(fd, min(left, _BLOCK_BYTES))):
                parts.append(part)
                left -= len(part)
        finally:
            os.close(fd)
        return b"".join(parts)

    def checked(self, name: str) -> tuple[int, str]:
        """A file's (size, digest)."""
        fd = self._open(name)
        try:
            return _sum(fd)
        finally:
            os.close(fd)

    def settle(self, name: str, mode: int | None) -> tuple[int, str]:
        """Put a file on the disk, with this mode if one is given. Its (size, digest)."""
        fd = self._open(name)
        try:
            found = _sum(fd)
            if mode is not None:
                os.fchmod(fd, mode)
            os.fsync(fd)
        finally:
            os.close(fd)
        return found

    def copy(self, old: str, new: str) -> None:
        """Copy a file and fsync the copy; whoever sees `new` sees all of it."""
        making = new + ".making"
        source = self._open(old)
        try:
            self.unlink(making)
            with self._folder(parent_of(new)) as folder:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                target = os.open(making.rpartition("/")[2], flags, 0o600, dir_fd=folder)
            try:
                os.fchmod(target, stat.S_IMODE(os.fstat(source).st_mode))
                write_synced(target, iter(lambda: os.read(source, _BLOCK_BYTES), b""))
            finally:
                os.close(target)
        finally:
            os.close(source)
        self.rename(making, new)

    def _open(self, name: str) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not hold us up
        with self._folder(parent_of(name)) as folder:
            return os.open(name.rpartition("/")[2], flags, dir_fd=folder)


def _sum(fd: int) -> tuple[int, str]:
    hashed, size = hashlib.blake2b(digest_size=16), 0
    while block := os.read(fd, _BLOCK_BYTES):
        hashed.update(block)
        size += len(block)
    return size, hashed.hexdigest()
