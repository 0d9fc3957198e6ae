"""Large arguments and results of a client: through shared memory on the node's host, else over the link."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

from swarm.errors import PayloadTooLarge
from swarm.payload import Ref

PUT_BYTES_MAX = 24 << 20
"""A blob over a link to another host goes in one message; larger ones are a later version's."""
CHUNK_BYTES = 1 << 20

Ask = Callable[..., tuple[Any, bytes]]


class Buffers:
    """Both a BlobSink and a BlobSource of a client. `ask` is `Engine.query`, `reach` tells how the node is linked."""

    def __init__(self, ask: Ask, reach: Callable[[], str], release: Callable[[bytes], None]) -> None:
        self._ask = ask
        self._reach = reach
        self._release = release

    def put(self, buffer: memoryview) -> Ref:
        """Give a buffer to the node; one copy on the same host."""
        raw = buffer.cast("B") if buffer.format != "B" or buffer.ndim != 1 else buffer
        if self._reach() != "host":
            if raw.nbytes > PUT_BYTES_MAX:
                raise PayloadTooLarge(
                    f"a buffer of {raw.nbytes} bytes can not be sent to a node of another host",
                    hint=f"send parts of at most {PUT_BYTES_MAX} bytes, or run a node on this machine",
                    size_bytes=raw.nbytes,
                )
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
        data = path.read_bytes()
        return self.put_content(data)

    def put_content(self, data: bytes) -> Ref:
        """Give bytes to the node by their digest: what it has already is not sent again."""
        digest = blake3(data).digest()
        known, _ = self._ask("blob.has", {"id": digest})
        if not known["has"]:
            if len(data) > PUT_BYTES_MAX:
                raise PayloadTooLarge(
                    f"a file of {len(data)} bytes is more than is staged ({PUT_BYTES_MAX})",
                    hint="split it",
                    size_bytes=len(data),
                )
            self._ask("blob.put", {"id": digest}, data)
        return Ref(digest, len(data), 0)

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
        return memoryview(self.read(ref.id, ref.size))

    def read(self, blob_id: bytes, size: int) -> bytes:
        """The bytes of a blob, over the link."""
        parts = []
        at = 0
        while at < size:
            _, part = self._ask("blob.get", {"id": blob_id, "offset": at, "size": CHUNK_BYTES})
            if not part:
                raise KeyError(f"the blob {blob_id.hex()[:12]} ends after {at} of {size} bytes")
            parts.append(part)
            at += len(part)
        return b"".join(parts)
