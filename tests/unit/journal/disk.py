"""A disk, byte by byte: what is not synced is lost in any part, sectors come in any order and torn, bits flip, syncs fail."""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random

from nodes.journal.errors import JournalRefused, Reason

SECTOR = 512


class Power(Exception):
    """The power went off, or the process was killed, in the middle of a call."""


class Inode:
    """A file: what is on the disk, and what the page cache shows."""

    def __init__(self, size: int = 0) -> None:
        self.durable = bytearray(size)
        self.shown = bytearray(size)
        self.pending: list[tuple[int, bytes]] = []
        """Writes that were not synced, in order."""
        self.unreadable: set[int] = set()
        """Sectors that the disk does not give."""

    def write(self, offset: int, data: bytes) -> None:
        self.pending.append((offset, data))
        end = offset + len(data)
        if len(self.shown) < end:
            self.shown.extend(bytes(end - len(self.shown)))
        self.shown[offset:end] = data
        self.unreadable -= set(range(offset // SECTOR, -(-end // SECTOR)))

    def sync(self) -> None:
        for offset, data in self.pending:
            self._harden(offset, data)
        self.pending.clear()

    def _harden(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if len(self.durable) < end:
            self.durable.extend(bytes(end - len(self.durable)))
        self.durable[offset:end] = data

    def lose(self, rng: Random, torn: int | None) -> None:
        """What was not synced is lost: all but the first `torn` bytes; or else of each sector it is left to chance."""
        for offset, data in self.pending:
            if torn is not None:
                self._harden(offset, data[:torn])
                torn = max(0, torn - len(data))
                continue
            share = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
            for at in range(0, len(data), SECTOR):
                if rng.random() < share:
                    piece = data[at : at + SECTOR]
                    if rng.random() < 0.1:
                        piece = piece[: rng.randrange(len(piece) + 1)]
                    self._harden(offset + at, piece)
        self.pending.clear()
        self.shown = bytearray(self.durable)

    def flip(self, bit: int) -> None:
        for image in (self.durable, self.shown):
            if bit // 8 < len(image):
                image[bit // 8] ^= 1 << bit % 8


class Disk:
    """Files by their names, and names that are not on the disk yet."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self.shown: dict[str, Inode] = {}
        self.pending: list[Callable[[dict[str, Inode]], None]] = []
        self.bytes_max: int | None = None
        """What it has; None: enough."""
        self.sync_fails = False
        self.read_only = False
        self.cut: int | None = None
        """So many bytes are written yet, then the power goes off."""
        self.synced: Callable[[], None] | None = None
        """Called before each sync."""
        self.locked = False
        self.count = 0

    def name(self, operation: Callable[[dict[str, Inode]], None]) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, "read-only file system")
        operation(self.shown)
        self.pending.append(operation)

    @property
    def used(self) -> int:
        return sum(len(inode.shown) for inode in self.shown.values())

    def spend(self, size: int) -> int:
        """How many of so many bytes are still written."""
        if self.cut is None:
            return size
        done = min(size, self.cut)
        self.cut -= done
        return done

    def killed(self) -> None:
        """The process is gone; what it wrote is shown to the next."""
        self.locked, self.cut, self.sync_fails = False, None, False

    def power(self, rng: Random, torn: int | None = None) -> None:
        """The power was off. Of names that were not synced some beginning is there."""
        self.killed()
        for operation in self.pending[: rng.randrange(len(self.pending) + 1)]:
            operation(self.names)
        self.pending.clear()
        for inode in {id(inode): inode for inode in (*self.shown.values(), *self.names.values())}.values():
            inode.lose(rng, torn)
        self.shown = dict(self.names)


class SimFile:
    """An open file."""

    def __init__(self, disk: Disk, inode: Inode, writable: bool) -> None:
        self.disk, self.inode, self.writable = disk, inode, writable

    def read(self, offset: int, size: int) -> bytes:
        if self.inode.unreadable & set(range(offset // SECTOR, -(-(offset + size) // SECTOR))):
            raise OSError(errno.EIO, "input/output error")
        return bytes(self.inode.shown[offset : offset + size])

    def write(self, offset: int, data: bytes | bytearray) -> None:
        assert self.writable
        if self.disk.read_only:
            raise OSError(errno.EROFS, "read-only file system")
        disk, grown = self.disk, offset + len(data) - len(self.inode.shown)
        if grown > 0 and disk.bytes_max is not None and disk.used + grown > disk.bytes_max:
            raise OSError(errno.ENOSPC, "no space left on device")
        done = disk.spend(len(data))
        self.inode.write(offset, bytes(data[:done]))
        if done < len(data):
            raise Power

    def sync(self) -> None:
        disk = self.disk
        disk.count += 1
        if disk.cut == 0:
            raise Power
        if disk.sync_fails:
            self.inode.pending.clear()  # the page cache shows it, and it will never be written
            raise OSError(errno.EIO, "input/output error")
        if disk.synced is not None:
            disk.synced()
        self.inode.sync()

    def size(self) -> int:
        return len(self.inode.shown)

    def close(self) -> None:
        pass


class SimFiles:
    """The directory, for one process."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def lock(self) -> None:
        if self.disk.locked:
            raise JournalRefused(Reason.LOCKED, "locked")
        self.disk.locked = True

    def names(self) -> list[str]:
        return sorted(self.disk.shown)

    def create(self, name: str, size: int) -> SimFile:
        disk = self.disk
        if name in disk.shown:
            raise FileExistsError(errno.EEXIST, name)
        if disk.bytes_max is not None and disk.used + size > disk.bytes_max:
            raise OSError(errno.ENOSPC, "no space left on device")
        inode = Inode(size)
        disk.name(lambda names: names.__setitem__(name, inode))
        return SimFile(disk, inode, True)

    def open(self, name: str, write: bool) -> SimFile:
        if name not in self.disk.shown:
            raise FileNotFoundError(errno.ENOENT, name)
        return SimFile(self.disk, self.disk.shown[name], write)

    def rename(self, name: str, new: str) -> None:
        self.disk.name(lambda names: names.__setitem__(new, names.pop(name)) if name in names else None)

    def remove(self, name: str) -> None:
        self.disk.name(lambda names: names.pop(name, None))

    def sync(self) -> None:
        disk = self.disk
        if disk.cut == 0:
            raise Power
        if disk.sync_fails:
            raise OSError(errno.EIO, "input/output error")
        for operation in disk.pending:
            operation(disk.names)
        disk.pending.clear()

    def free(self) -> int:
        disk = self.disk
        return 1 << 40 if disk.bytes_max is None else disk.bytes_max - disk.used

    def close(self) -> None:
        self.disk.locked = False
