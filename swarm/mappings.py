"""Files of shared memory as a process has them mapped: kept from one use to the next, with their pages at hand.

Mapping 64 MiB anew costs a page fault every 4 KiB, which takes longer than writing them. So mappings are kept, and are
made with their pages in place (MAP_POPULATE). What is read is mapped read-only.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from kernels.windows import Window, address_of, copy_into

FILES_MAX = 64
SHARED_COPY_BYTES_MIN = 16 << 20
"""From so many bytes on two threads copy."""
_POPULATED = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)

Identity = tuple[int, int, int]


class Mappings:
    """The files that one process has mapped, at most so many for each of reading and writing. From any thread."""

    def __init__(self, files_max: int = FILES_MAX) -> None:
        self._files_max = files_max
        self._mapped: dict[bool, OrderedDict[str, tuple[Identity, mmap.mmap]]] = {
            False: OrderedDict(),
            True: OrderedDict(),
        }
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(map(len, self._mapped.values()))

    def write(self, path: str, offset: int, raw: memoryview) -> None:
        """Copy a buffer of bytes into a file. OSError without room."""
        mapped = self._of(path, True)
        half = raw.nbytes // 2
        if raw.nbytes < SHARED_COPY_BYTES_MIN or not _has_cores() or offset + raw.nbytes > len(mapped):
            copy_into(mapped, offset, raw)
            return
        # One core does not use all that the memory gives.
        other = threading.Thread(target=copy_into, args=(mapped, offset + half, raw[half:]), name="swarm-copy")
        other.start()
        try:
            copy_into(mapped, offset, raw[:half])
        finally:
            other.join()

    def window(self, path: str, offset: int, size: int, ended: Callable[[Any], object], token: Any) -> Window:
        """A read-only view into a file; `ended(token)` is called when nobody looks through it any more."""
        return Window(self._of(path, False), offset, size, ended, token)

    def forget(self, *, all_of_them: bool = True) -> None:
        """Keep no mapping any longer, or none of files that are gone. What somebody looks into stays mapped."""
        with self._lock:
            for mapped in self._mapped.values():
                for path in list(mapped):
                    if all_of_them or not os.path.exists(path):
                        del mapped[path]

    def _of(self, path: str, writes: bool) -> mmap.mmap:
        mapped = self._mapped[writes]
        about = os.stat(path)
        identity = (about.st_dev, about.st_ino, about.st_size)
        with self._lock:
            found = mapped.get(path)
            if found is not None and found[0] == identity:
                mapped.move_to_end(path)
                return found[1]
        made = _map(path, writes)
        with self._lock:
            mapped[path] = (identity, made)
            while len(mapped) > self._files_max:
                mapped.popitem(last=False)
        return made


def _has_cores() -> bool:
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) > 1


def _map(path: str, writes: bool) -> mmap.mmap:
    descriptor = os.open(path, (os.O_RDWR if writes else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        about = os.fstat(descriptor)
        if writes and about.st_blocks * 512 < about.st_size and hasattr(os, "posix_fallocate"):
            # Now, as an error: a write to a page for which there is no room would end the process (SIGBUS).
            try:
                os.posix_fallocate(descriptor, 0, about.st_size)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                from swarm.errors import SystemRefused  # not at the top: workers that need it not start without it

                raise SystemRefused(
                    f"no room for {about.st_size} bytes in {os.path.dirname(path)}",
                    hint="free some space there, or lower limits.blob_bytes",
                    size=about.st_size,
                ) from error
        return mmap.mmap(descriptor, 0, _POPULATED, mmap.PROT_READ | mmap.PROT_WRITE if writes else mmap.PROT_READ)
    finally:
        os.close(descriptor)


class Lent:
    """The windows that are open, so that a buffer which is passed on is not copied. From any thread and finalizer."""

    def __init__(self) -> None:
        self._at: dict[int, tuple[bytes, int]] = {}
        self._lock = threading.RLock()

    def add(self, window: Window, blob_id: bytes) -> None:
        """A window onto the whole of a blob is open."""
        with self._lock:
            self._at[window.address] = (blob_id, len(window))

    def find(self, raw: memoryview) -> bytes | None:
        """The blob that this buffer is the whole content of. Who asks has the buffer, so its window stays open."""
        if not raw.readonly:
            return None
        found = self._at.get(address_of(raw))
        return found[0] if found is not None and found[1] == raw.nbytes else None

    def ended(self, blob_id: bytes) -> None:
        """A window is closed."""
        with self._lock:
            for address in [address for address, known in self._at.items() if known[0] == blob_id]:
                del self._at[address]
