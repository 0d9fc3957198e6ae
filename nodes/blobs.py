"""Blobs of a node: large buffers and files, by id, in shared memory where there is room for them.

An id is the blake3 digest of the content (it can be fetched from anybody and is verified), or 32 random bytes for a
*segment*: a buffer that a process of this host has written for another one of it, whose content nobody needs to hash.
Files are 0600 in a 0700 directory, so they are guarded by the user's id; the directory goes when the node does.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from nodes import locked_directory
from swarm.errors import StoreFull, SystemRefused

ID_BYTES = 32
SEGMENT = 1
"""Flag of a reference: the id is random, and known to this host's nodes only until somebody asks for the digest."""
POOL_FILES_MAX = 64
POOL_BYTES_MAX = 1 << 30
POOLED_BYTES_MIN = 64 << 10
POOL_IDLE_S = 30.0
"""A file of the pool that nobody wanted for so long is given back."""
LINGER_S = 5.0
LINGER_BYTES_MAX = 128 << 20
"""A segment that nobody holds any more is still found for so long, and as long as there are not more bytes of such."""
UNCLAIMED_S = 900.0
"""A result that nobody asked for is kept for so long, as its outcome is."""
KEPT_SHARE = 4
"""What is kept for who may want it is at most this part of what the file system could still take: 64 MiB are common."""
PAGE = 4096
TIDY_EVERY_S = 5.0


Holder = Hashable
"""Who needs a blob: a client's process, a worker."""


@dataclass(slots=True)
class _Blob:
    path: Path
    size: int
    segment: bool
    """Written by a process of this host under a random id; goes when nobody needs it."""
    holders: dict[Holder, int] = field(default_factory=dict)
    writer: Holder = None
    claimed: bool = False
    """Somebody has asked for it."""
    unclaimed: bool = False
    """A result that nobody has asked for yet."""
    since_s: float = 0.0
    """Since when nobody holds it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Spare:
    """A file of the pool."""

    size: int
    path: Path
    since_s: float
    writer: Holder


class BlobStore:
    """The blobs that this node holds, bounded in bytes; the longest unused go first, never one that somebody holds.

    A segment whose last holder let go stays for a moment, since another task may be about to ask for it, and then its
    file is kept in a pool: its pages are there already for who writes the next one, which saves more than the copy
    costs. The pool is bounded, and given back when nobody has used it for a while (`tidy`).
    """

    def __init__(self, directory: Path, bytes_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._clock = clock
        self._blobs: OrderedDict[bytes, _Blob] = OrderedDict()
        self._lingering: OrderedDict[bytes, _Blob] = OrderedDict()
        self._lingering_bytes = 0
        self._pool: list[_Spare] = []
        self.bytes = 0
        self._number = 0

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self._directory

    @property
    def pooled_bytes(self) -> int:
        """Bytes of the files that are kept for the next segments."""
        return sum(spare.size for spare in self._pool)

    def alloc(self, size: int, holder: Holder) -> tuple[bytes, Path]:
        """A place to write `size` bytes to, and the random id under which it is found; `holder` holds it.

        The file may be larger. It need not have its pages yet: who writes reserves them (posix_fallocate(3)).
        """
        self._make_room(size)
        blob_id = os.urandom(ID_BYTES)
        path = self._reused(size, holder)
        if path is None:
            self._ease(size)
            path = self._fresh(size, reserved=False)
        self._blobs[blob_id] = _Blob(path, size, True, {holder: 1}, holder)
        self.bytes += size
        return blob_id, path

    def hold(self, blob_id: bytes, holder: Holder) -> tuple[Path, int] | None:
        """As `open`, and it stays until `holder` has let go of it as often as it was held."""
        found = self.open(blob_id)
        if found is not None:
            blob = self._blobs[blob_id]
            blob.holders[holder] = blob.holders.get(holder, 0) + 1
            blob.claimed, blob.unclaimed = True, False
            self._linger_no_more(blob_id, blob)
        return found

    def let_go(self, blob_id: bytes, holder: Holder, *, unclaimed: bool = False) -> None:
        """Who held a blob needs it no more. An `unclaimed` segment is kept for who may ask for it."""
        blob = self._blobs.get(blob_id)
        if blob is None or holder not in blob.holders:
            return
        blob.holders[holder] -= 1
        if not blob.holders[holder]:
            del blob.holders[holder]
        # Its reader may have come, and gone, before its writer said that it is written: they speak by different ways.
        blob.unclaimed = blob.unclaimed or (unclaimed and not blob.claimed)
        if not blob.holders:
            self._nobody_holds(blob_id, blob)

    def share(self, blob_id: bytes) -> None:
        """A segment is the result of a task, too: it is kept for who may ask for it, whoever lets go of it meanwhile."""
        blob = self._blobs.get(blob_id)
        if blob is not None and blob.segment:
            blob.unclaimed = True

    def let_go_all(self, holder: Holder) -> None:
        """A holder is gone."""
        for blob_id, blob in list(self._blobs.items()):
            if blob.holders.pop(holder, 0) and not blob.holders:
                self._nobody_holds(blob_id, blob)

    def holders(self) -> set[Holder]:
        """Everybody who holds something."""
        return {holder for blob in self._blobs.values() for holder in blob.holders}

    def tidy(self) -> bool:
        """Give back what was not used for a while. Whether files were removed that somebody may have mapped."""
        now = self._clock()
        for blob_id, blob in list(self._lingering.items()):
            if now - blob.since_s >= (UNCLAIMED_S if blob.unclaimed else LINGER_S):
                self._retire(blob_id)
        old = [spare for spare in self._pool if now - spare.since_s >= POOL_IDLE_S]
        for spare in old:
            self._pool.remove(spare)
            _discard(spare.path)
        return bool(old)

    @property
    def tidies(self) -> bool:
        """Whether there is something that `tidy` will have to look at."""
        return bool(self._pool or self._lingering)

    def put(self, data: bytes | memoryview) -> bytes:
        """Keep bytes by their digest; the digest."""
        digest = blake3(data).digest()
        if digest not in self._blobs:
            self._make_room(len(data))
            path = self._fresh(len(data))
            with open(path, "r+b") as file:
                file.write(data)
            self._blobs[digest] = _Blob(path, len(data), False)
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
            self._blobs[digest] = _Blob(path, size, False)
            self.bytes += size
        return digest, size

    def begin(self, size: int) -> Path:
        """A place for a blob of `size` bytes that comes from elsewhere; `finish` takes it in, `abandon` gives it up."""
        self._make_room(size)
        path = self._reused(size, None) or self._fresh(size, reserved=False)
        self.bytes += size
        return path

    def finish(self, blob_id: bytes, path: Path, size: int, *, segment: bool) -> None:
        """Take in what has come, and been found to be what its id says. A `segment` waits for who asks for it."""
        if blob_id in self._blobs:
            self.abandon(path, size)
            return
        blob = self._blobs[blob_id] = _Blob(path, size, segment)
        blob.unclaimed = segment
        self._nobody_holds(blob_id, blob)

    def abandon(self, path: Path, size: int) -> None:
        """It does not come."""
        self.bytes -= size
        path.unlink(missing_ok=True)

    def open(self, blob_id: bytes) -> tuple[Path, int] | None:
        """(path, bytes) of a blob that is here."""
        blob = self._blobs.get(blob_id)
        if blob is None:
            return None
        self._blobs.move_to_end(blob_id)
        return blob.path, blob.size

    def is_segment(self, blob_id: bytes) -> bool:
        """Whether it has a random id, which vouches for nothing."""
        blob = self._blobs.get(blob_id)
        return blob is not None and blob.segment

    def read(self, blob_id: bytes, offset: int, size: int) -> bytes | None:
        """A part of a blob that is here."""
        found = self.open(blob_id)
        if found is None:
            return None
        with open(found[0], "rb") as file:
            file.seek(offset)
            return file.read(min(size, max(0, found[1] - offset)))

    def close(self) -> None:
        """Remove every file."""
        self._blobs.clear()
        self._lingering.clear()
        self._pool.clear()
        # The last node of a home takes the home's directory along.
        locked_directory.remove(self._directory)

    def _nobody_holds(self, blob_id: bytes, blob: _Blob) -> None:
        if not blob.segment:
            return  # content that may be asked for again: it goes when its room is needed
        blob.since_s = self._clock()
        self._lingering[blob_id] = blob
        self._lingering_bytes += blob.size
        while self._lingering_bytes > self._kept_max(LINGER_BYTES_MAX):
            known = next((one for one, it in self._lingering.items() if not it.unclaimed), None)
            if known is None:
                return
            self._retire(known)

    def _linger_no_more(self, blob_id: bytes, blob: _Blob) -> None:
        if self._lingering.pop(blob_id, None) is not None:
            self._lingering_bytes -= blob.size

    def _retire(self, blob_id: bytes) -> None:
        """Forget a segment, and keep its file."""
        blob = self._blobs.pop(blob_id)
        self._linger_no_more(blob_id, blob)
        self.bytes -= blob.size
        room = blob.path.stat().st_size if blob.path.exists() else 0
        most = self._kept_max(POOL_BYTES_MAX)
        if room >= POOLED_BYTES_MIN and self.pooled_bytes + room <= most and len(self._pool) < POOL_FILES_MAX:
            self._pool.append(_Spare(room, blob.path, self._clock(), blob.writer))
        else:
            _discard(blob.path)

    def _free(self) -> int:
        """Bytes that the file system can still take."""
        found = os.statvfs(self._directory)
        return found.f_bavail * found.f_frsize

    def _kept_max(self, most: int) -> int:
        return min(most, (self._free() + self.pooled_bytes + self._lingering_bytes) // KEPT_SHARE)

    def _ease(self, size: int) -> None:
        """Where the file system has no room for so much, give back what is kept for who may want it."""
        while self._pool and self._free() < size:
            _discard(self._pool.pop(0).path)
        for known in [blob_id for blob_id, blob in self._lingering.items() if not blob.unclaimed]:
            if self._free() >= size:
                return
            blob = self._blobs.pop(known)
            self._linger_no_more(known, blob)
            self.bytes -= blob.size
            _discard(blob.path)

    def _reused(self, size: int, writer: Holder) -> Path | None:
        fitting = [spare for spare in self._pool if size <= spare.size <= 2 * size]
        if not fitting:
            return None
        # Best one that the same process wrote before, since it has that mapped; then the smallest, and the warmest.
        best = min(fitting, key=lambda spare: (spare.writer != writer, spare.size, -spare.since_s))
        self._pool.remove(best)
        return best.path

    def _fresh(self, size: int, *, reserved: bool = True) -> Path:
        self._number += 1
        path = self._directory / f"{self._number:08x}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                if size and reserved:
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
            unused = next((known for known, blob in self._blobs.items() if not blob.holders), None)
            if unused is None:
                raise StoreFull(
                    f"the {self.bytes} bytes of blobs here are all in use",
                    hint="try again later, or raise limits.blob_bytes",
                )
            blob = self._blobs.pop(unused)
            self._linger_no_more(unused, blob)
            self.bytes -= blob.size
            blob.path.unlink(missing_ok=True)


def _discard(path: Path) -> None:
    """Remove the file of a segment that nobody holds.

    Cut short first, so that its pages are free now: processes that keep it mapped for the next one would hold them.
    """
    try:
        os.truncate(path, 0)
        path.unlink()
    except FileNotFoundError:
        pass


def open_store(parent: Path, name: str, bytes_max: int) -> BlobStore:
    """A store in a directory of its own under `parent`, which is cleared of those whose processes are gone.

    So are the places of this user's other homes beside it: a node that was killed may have been the last of its own.
    """
    directory = locked_directory.make(parent, name)
    beside = f"swarm-{os.getuid()}-"
    if parent.name.startswith(beside):
        for other in parent.parent.glob(f"{beside}*"):
            if other != parent:
                locked_directory.clear_stale(other)
    return BlobStore(directory, bytes_max)


def shared_memory_directory(runtime: Path) -> Path:
    """Where segments live: in /dev/shm under a name of this user and home, or beside the sockets where there is none."""
    shm = Path("/dev/shm")
    if shm.is_dir() and os.access(shm, os.W_OK):
        mark = blake3(str(runtime).encode()).hexdigest()[:8]
        return shm / f"swarm-{os.getuid()}-{mark}"
    return runtime / "blobs"
