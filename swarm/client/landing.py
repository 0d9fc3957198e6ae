"""Where results of other hosts land: memory of this process that is used again when nobody looks into it any more.

To touch fresh memory for the first time takes as long as to decrypt what comes into it. So buffers are files in memory
(``memfd_create``) that stay mapped for writing; what people get is a read-only mapping of their own, and the buffer is
free again when that is gone. Where the system has no such files, and for what is too large to be kept, each result has
memory of its own.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Callable
from typing import Final

from transport.bulk import Memory

KEPT_BYTES_MAX: Final = 256 << 20
KEPT_COUNT_MAX: Final = 8


class _Buffer:
    """A file in memory, mapped for writing."""

    def __init__(self, size: int) -> None:
        self.size = size
        descriptor = os.memfd_create("swarm-result", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            self.mapped = mmap.mmap(descriptor, size)
            self.descriptor = descriptor
        except OSError:
            os.close(descriptor)
            raise

    def close(self) -> None:
        os.close(self.descriptor)
        # The mapping goes with the last who looks into it.


class Landing:
    """The buffers of one client. For any thread."""

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max if hasattr(os, "memfd_create") else 0
        self._lock = threading.Lock()
        self._free: list[_Buffer] = []
        self._forks = 0
        self._resting = True
        _landings.add(self)

    def take(self, size: int) -> tuple[Memory, Callable[[], memoryview]]:
        """A place for `size` bytes, and what makes a read-only view of a mapping once they are there.

        Without a call of that the place is not used again: whoever writes into it may do so for a while.
        """
        if size > self._bytes_max:
            memory, view = Memory.fresh(size)
            return memory, view.toreadonly
        self._resting = False
        buffer = self._fitting(size) or _Buffer(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        memory = Memory(memoryview(buffer.mapped)[:size])
        return memory, lambda: self._given(buffer, size)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the buffers that are free."""
        with self._lock:
            return sum(one.size for one in self._free)

    def rest(self) -> None:
        """Nothing has come for a while: keep nothing until something does."""
        with self._lock:
            self._resting = True
            free, self._free = self._free, []
        for one in free:
            one.close()

    def close(self) -> None:
        """Keep nothing any more."""
        self._bytes_max = 0
        self.rest()

    def forked(self) -> None:
        """A fork is about to happen: what is looked into now may be looked into by the child for ever."""
        with self._lock:
            self._forks += 1

    def _fitting(self, size: int) -> _Buffer | None:
        with self._lock:
            fitting = [one for one in self._free if size <= one.size <= 2 * size]
            if not fitting:
                return None
            best = min(fitting, key=lambda one: one.size)
            self._free.remove(best)
            return best

    def _given(self, buffer: _Buffer, size: int) -> memoryview:
        given = mmap.mmap(buffer.descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ)
        weakref.finalize(given, self._back, buffer, self._forks).atexit = False
        return memoryview(given)

    def _back(self, buffer: _Buffer, forks: int) -> None:
        """Nobody looks into a buffer any more. Called by whoever looked last, anywhere: no lock is waited for."""
        if forks != self._forks or self._resting or not self._lock.acquire(blocking=False):
            buffer.close()
            return
        try:
            self._free.append(buffer)
            over = []
            while self._free and (
                sum(one.size for one in self._free) > self._bytes_max or len(self._free) > KEPT_COUNT_MAX
            ):
                over.append(self._free.pop(0))
        finally:
            self._lock.release()
        for one in over:
            one.close()


_landings: weakref.WeakSet[Landing] = weakref.WeakSet()


def _before_fork() -> None:
    for landing in list(_landings):
        landing.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
