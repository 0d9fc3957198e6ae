"""Large buffers of payloads, in a worker: the node gives places in shared memory, the worker maps them.

Requests: ``segment.alloc [size, run, index]`` -> {"id": 32 bytes, "path", "offset", "flags"?}, a place to write to;
``segment.seal [id]`` when it is written; ``blob.open [id, flags]`` -> {"path", "offset", "size"}, a place to read from.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from swarm.payload import Ref

MAPPINGS_MAX = 64
"""Files kept mapped for reading, beyond those that values still look into."""


class Segments:
    """Both a BlobSink and a BlobSource, over the requests of a channel."""

    def __init__(self, request: Callable[..., Any]) -> None:
        self._request = request
        self._read: OrderedDict[str, tuple[tuple[int, int, int], mmap.mmap]] = OrderedDict()
        self._write: OrderedDict[str, tuple[tuple[int, int, int], mmap.mmap]] = OrderedDict()
        self.run = 0
        self.index = 0

    def put(self, buffer: memoryview) -> Ref:
        """Copy a buffer into a segment; the one copy on the way out. OSError when the node has no place for it."""
        raw = buffer.cast("B") if buffer.format != "B" or buffer.ndim != 1 else buffer
        place = self._request("segment.alloc", raw.nbytes, self.run, self.index)
        mapped = self._mapped(self._write, str(place["path"]), mmap.PROT_READ | mmap.PROT_WRITE)
        offset = int(place["offset"])
        with memoryview(mapped) as view:
            view[offset : offset + raw.nbytes] = raw
        sealed = self._request("segment.seal", place["id"])
        # the store may know it by another id once it is sealed
        known = sealed if isinstance(sealed, dict) else place
        return Ref(bytes(known.get("id", place["id"])), raw.nbytes, int(known.get("flags", place.get("flags", 0))))

    def open(self, ref: Ref) -> memoryview:
        """A read-only view of a blob, without a copy; the mapping lives as long as somebody looks into it."""
        place = self._request("blob.open", ref.id, ref.flags)
        offset, size = int(place["offset"]), int(place["size"])
        if size == 0:
            return memoryview(b"")
        mapped = self._mapped(self._read, str(place["path"]), mmap.PROT_READ)
        return memoryview(mapped)[offset : offset + size]

    def path(self, ref: Ref) -> tuple[str, int, int]:
        """Where a blob is: path, offset and size in bytes."""
        place = self._request("blob.open", ref.id, ref.flags)
        return str(place["path"]), int(place["offset"]), int(place["size"])

    def drop(self) -> None:
        """Forget all mappings. What values still look into stays mapped until they are gone."""
        self._read.clear()
        self._write.clear()

    @staticmethod
    def _mapped(
        cache: OrderedDict[str, tuple[tuple[int, int, int], mmap.mmap]], path: str, protection: int
    ) -> mmap.mmap:
        stat = os.stat(path)
        identity = (stat.st_dev, stat.st_ino, stat.st_size)
        found = cache.get(path)
        if found is not None and found[0] == identity:
            cache.move_to_end(path)
            return found[1]
        descriptor = os.open(path, (os.O_RDWR if protection & mmap.PROT_WRITE else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            mapped = mmap.mmap(descriptor, 0, mmap.MAP_SHARED, protection)
        finally:
            os.close(descriptor)
        cache[path] = (identity, mapped)
        while len(cache) > MAPPINGS_MAX:
            cache.popitem(last=False)
        return mapped
