"""Rings of 64-byte lines between two processes of one host, over files of memory.

A file holds one ring for one direction: one process puts, one gets, and two files make a pair. The file has no name (memfd):
who shall take part inherits the descriptor, or gets it over a Unix socket, and nobody else can reach it. It is sealed against
shrinking, so that neither side can make the other fault.

What the other process wrote is not trusted: both counters are checked against the capacity before an index is made of them,
and an index is masked into the ring. A process that is killed at any moment leaves a ring that goes on: lines are published
by one store after they were written, so that what was not published yet is all that is lost; lines that a killed reader
had copied out but not yet released are read again by its successor. Which end is taken is a lock of the open file, which the
kernel takes back from the dead.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
import sys
import tempfile
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

from kernels.lanes import Span, SpscLane
from transport import bounds

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

LINE: Final = SpscLane.LINE

_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid
_LINUX: Final = sys.platform == "linux" and sys.maxsize > 2**32 and hasattr(os, "memfd_create")
_BYTE_OF: Final = {"put": 0, "get": 1}
_OTHER: Final = {"put": "get", "get": "put"}


def lane_file(lines: int) -> int:
    """The descriptor of a new file with an empty ring for this many lines, a power of two; close it when it is passed on.

    ValueError for another number, or one over LANE_LINES_MAX. OSError when there is no memory for it.
    """
    if not 1 <= lines <= bounds.LANE_LINES_MAX or lines & (lines - 1):
        raise ValueError(f"a lane has a power of two of lines up to {bounds.LANE_LINES_MAX}, not {lines}")
    size = SpscLane.nbytes(lines)
    fd = _anonymous_file()
    try:
        # Taken now: a full memory shall be said here, and not by SIGBUS at the first line that is written.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            os.ftruncate(fd, size)
        if _LINUX:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        with mmap.mmap(fd, size) as memory:
            SpscLane.create(memory)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _anonymous_file() -> int:
    if _LINUX:
        return os.memfd_create("swarm-lane", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class MappedLane:
    """One end of the ring in a file: `end` is "put" or "get".

    The descriptor is not needed afterwards. BlockingIOError while another holds this end and lives; ValueError when the file
    holds no ring, could be shrunk, or has damaged counters. After a fork() without exec() the child holds the end as well.

    Where the system has no locks of open files (others than 64-bit Linux), nobody is kept from taking an end twice, and the
    peer counts as alive.
    """

    def __init__(self, fd: int, end: Literal["put", "get"]) -> None:
        if end not in _BYTE_OF:
            raise ValueError(f'an end of a lane is "put" or "get", not {end!r}')
        self.end = end
        self._lane: SpscLane | None = None
        self._memory: mmap.mmap | None = None
        # Opened anew: locks belong to the open file, which a passed descriptor shares with who passed it.
        self._file = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC) if _LINUX else os.dup(fd)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        size = os.fstat(self._file).st_size
        if size > SpscLane.nbytes(bounds.LANE_LINES_MAX):
            raise ValueError(f"a file of {size} bytes holds no lane: it has {bounds.LANE_LINES_MAX} lines at most")
        if size < SpscLane.nbytes(1):
            raise ValueError(f"a file of {size} bytes holds no lane")
        if _LINUX:
            if not self._sealed():
                raise ValueError("not the file of a lane: it could be shrunk under who reads it")
            try:
                self._lock(fcntl.F_OFD_SETLK, self.end)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                raise BlockingIOError(errno.EAGAIN, f"the {self.end} end of this lane is held already") from None
        self._memory = mmap.mmap(self._file, size)
        self._lane = SpscLane(self._memory)

    def _sealed(self) -> bool:
        try:
            return bool(fcntl.fcntl(self._file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
        except OSError:
            return False

    def _lock(self, command: int, end: str) -> int:
        """Take the lock of an end, or look at it; returns its type afterwards."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _BYTE_OF[end], 1, 0)
        return int(_FLOCK.unpack(fcntl.fcntl(self._file, command, asked))[0])

    @property
    def peer_alive(self) -> bool:
        """Whether somebody holds the other end."""
        self._opened()
        return not _LINUX or self._lock(fcntl.F_OFD_GETLK, _OTHER[self.end]) != fcntl.F_UNLCK

    @property
    def capacity(self) -> int:
        """Lines that the ring holds."""
        return self._opened().capacity

    @property
    def waiting(self) -> int:
        """Lines that wait to be taken, just now."""
        return self._opened().waiting

    @property
    def lane(self) -> SpscLane:
        """The ring, for loops that run without the GIL. ValueError when it is closed."""
        return self._opened()

    def _opened(self) -> SpscLane:
        if self._lane is None:
            raise ValueError("the lane is closed")
        return self._lane

    def _as(self, end: str) -> SpscLane:
        if self.end != end:
            raise ValueError(f"this is the {self.end} end of the lane")
        return self._opened()

    def put(self, line: ReadableBuffer) -> bool:
        """Append a line of 64 bytes; False when the ring is full. ValueError when the counters are damaged."""
        return self._as("put").put(line)

    def put_many(self, lines: ReadableBuffer) -> int:
        """Append as many of these lines as there is room for, published together; how many. ValueError as put()."""
        return self._as("put").put_many(lines)

    def get(self) -> bytes | None:
        """The oldest line, or None. ValueError when the counters are damaged."""
        return self._as("get").get()

    def get_many(self, into: WriteableBuffer) -> int:
        """Take as many lines as there are, or as this writable buffer holds; how many. ValueError as get()."""
        return self._as("get").get_many(into)

    def claim(self, lines: int) -> Span:
        """Up to so many free lines, written where they lie inside a `with` and published together at its end. ValueError as put()."""
        return self._as("put").claim(lines)

    def peek(self, lines: int) -> Span:
        """Up to so many waiting lines, read where they lie inside a `with` and released at its end. ValueError as get()."""
        return self._as("get").peek(lines)

    def close(self) -> None:
        """Give the end up: another may take it."""
        self._lane = None
        if self._memory is not None:
            with contextlib.suppress(BufferError):  # somebody is inside just now: it goes with the last who uses it
                self._memory.close()
            self._memory = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
