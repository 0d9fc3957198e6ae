"""Large arguments and results of a client: through shared memory on the node's host, else over the link."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from swarm.payload import Ref
from transport.bounds import BULK_INLINE_BYTES_MAX
from transport.bulk import File, Memory, Region

if TYPE_CHECKING:
    from swarm.client.bulk import ClientBulk

CHUNK_BYTES = 1 << 20

Ask = Callable[..., tuple[Any, bytes]]


class Buffers:
    """Both a BlobSink and a BlobSource of a client. `ask` is `Engine.query`, `reach` tells how the node is linked."""

    def __init__(
        self,
        ask: Ask,
        reach: Callable[[], str],
        release: Callable[[bytes], None],
        lane: Callable[[], ClientBulk],
    ) -> None:
        """`lane` is the way to nodes of other hosts, for what is too large for a message of the link."""
        self._lane = lane
        self._ask = ask
        self._reach = reach
        self._release = release

    def put(self, buffer: memoryview) -> Ref:
        """Give a buffer to the node; one copy on the same host."""
        raw = buffer.cast("B") if buffer.format != "B" or buffer.ndim != 1 else buffer
        if self._reach() != "host":
            if raw.nbytes > BULK_INLINE_BYTES_MAX:
                return self._give(Memory(raw), None)
            digest = blake3(raw).digest()
            self._ask("blob.put", {"id": digest}, bytes(raw))
            return Ref(digest, raw.nbytes, 0)
        place, _ = self._ask("segment.alloc", {"size": raw.nbytes})
        descriptor = os.open(place["path"], os.O_RDWR | os.O_CLOEXEC)
        try:
            with mmap.mmap(descriptor, 0) as mapped, memoryview(mapped) as view:
                view[: raw.nbytes] = raw
        finally:
            os.close(descriptor)
        self._ask("segment.seal", {"id": place["id"]})
        return Ref(bytes(place["id"]), raw.nbytes, int(place["flags"]))

    def put_file(self, path: Path) -> Ref:
        """Give a file to the node by the digest of its content."""
        size = path.stat().st_size
        if size <= BULK_INLINE_BYTES_MAX:
            return self.put_content(path.read_bytes())
        # Not mapped: a file that is cut short meanwhile would end this process.
        hasher = blake3()
        with open(path, "rb", buffering=0) as file:
            while part := file.read(CHUNK_BYTES):
                hasher.update(part)
        return self._give(File(path, size), hasher.digest())

    def put_content(self, data: bytes) -> Ref:
        """Give bytes to the node by their digest: what it has already is not sent again."""
        if len(data) > BULK_INLINE_BYTES_MAX:
            return self._give(Memory(data), blake3(data, max_threads=blake3.AUTO).digest())
        digest = blake3(data).digest()
        known, _ = self._ask("blob.has", {"id": digest})
        if not known["has"]:
            self._ask("blob.put", {"id": digest}, data)
        return Ref(digest, len(data), 0)

    def _give(self, region: Region, digest: bytes | None) -> Ref:
        blob_id, flags = self._lane().put(region, digest, by_link=self._reach() != "lan")
        return Ref(blob_id, region.size, flags)

    def open(self, ref: Ref) -> memoryview:
        """A read-only view of a blob. On the node's host it is mapped, and given back when nobody looks at it."""
        if ref.size == 0:
            return memoryview(b"")
        if self._reach() == "host":
            place, _ = self._ask("blob.open", {"id": ref.id})
            descriptor = os.open(place["path"], os.O_RDONLY | os.O_CLOEXEC)
            try:
                mapped = mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ)
            finally:
                os.close(descriptor)
            if ref.flags & 1:
                weakref.finalize(mapped, self._release, ref.id)
            return memoryview(mapped)[: ref.size]
        if ref.size <= BULK_INLINE_BYTES_MAX:
            return memoryview(self.read(ref.id, ref.size))
        data = self._lane().get(ref.id, ref.size)
        if ref.flags & 1:
            if isinstance(data.obj, mmap.mmap):
                weakref.finalize(data.obj, self._release, ref.id)
            else:
                self._release(ref.id)  # it is all here
        return data

    def read(self, blob_id: bytes, size: int) -> bytes:
        """The bytes of a blob."""
        if size > BULK_INLINE_BYTES_MAX and self._reach() == "lan":
            return bytes(self._lane().get(blob_id, size))
        parts = []
        at = 0
        while at < size:
            _, part = self._ask("blob.get", {"id": blob_id, "offset": at, "size": CHUNK_BYTES})
            if not part:
                raise KeyError(f"the blob {blob_id.hex()[:12]} ends after {at} of {size} bytes")
            parts.append(part)
            at += len(part)
        return b"".join(parts)
