"""Large arguments and results of a client: through shared memory on the node's host, else over the link."""

from __future__ import annotations

import concurrent.futures
import mmap
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from kernels.windows import Window
from swarm.errors import SystemRefused
from swarm.mappings import Lent, Mappings
from swarm.payload import Ref
from transport.bounds import BULK_INLINE_BYTES_MAX
from transport.bulk import File, Memory, Region

if TYPE_CHECKING:
    from swarm.client.bulk import ClientBulk

CHUNK_BYTES = 1 << 20
MAPPED_IDLE_S = 10.0
"""How long files are kept mapped that were not used."""

Ask = Callable[..., tuple[Any, bytes]]
Post = Callable[[str, dict[str, Any]], None]
Later = Callable[[float, Callable[[], None]], None]
Patiently = Callable[[Callable[[], Ref], bool], Ref]


class Buffers:
    """Both a BlobSink and a BlobSource of a client.

    `ask` is `Engine.query`, `post` tells the node something, `later` has the loop call something after so many seconds,
    `reach` tells how the node is linked.
    """

    def __init__(
        self, ask: Ask, post: Post, later: Later, reach: Callable[[], str], lane: Callable[[], ClientBulk],
        patiently: Patiently = lambda put, holds: put(),
    ) -> None:  # fmt: skip
        """`lane` is the way to nodes of other hosts, for what is too large for a message of the link; `patiently` waits for room in
        the node's store (`Storing.put`)."""
        self._lane = lane
        self.patiently = patiently
        self._ask = ask
        self._post = post
        self._later = later
        self._reach = reach
        self._mappings = Mappings()
        self._lent = Lent()
        self._used_at = 0.0
        self._watched = False

    def put(self, buffer: memoryview, *, by_content: bool = False) -> Ref:
        """Give a buffer to the node; one copy on the same host. It is held there until `release`. `by_content`: under the
        digest of its content, which is the same for whoever puts it."""
        raw = buffer.cast("B") if buffer.format != "B" or buffer.ndim != 1 else buffer
        if by_content or self._reach() != "host":
            if raw.nbytes > BULK_INLINE_BYTES_MAX:
                return self._give(Memory(raw), blake3(raw, max_threads=blake3.AUTO).digest() if by_content else None)
            digest = blake3(raw).digest()
            self._ask("blob.put", {"id": digest}, bytes(raw))
            return Ref(digest, raw.nbytes, 0)
        known = self._lent.find(raw)
        if known is not None:
            # A result as it came: it is there already.
            self._post("segment.hold", {"ids": [known]})
            return Ref(known, raw.nbytes, 1)
        place, _ = self._ask("segment.alloc", {"size": raw.nbytes})
        try:
            self._mappings.write(place["path"], 0, raw)
        except SystemRefused:
            self._post("segment.release", {"ids": [bytes(place["id"])]})
            raise
        self._used()
        return Ref(bytes(place["id"]), raw.nbytes, int(place["flags"]))

    def lend(self, *, by_content: bool = False) -> Lending:
        """A sink for the arguments of one task."""
        return Lending(self, by_content)

    def release(self, ids: list[bytes]) -> None:
        """Buffers are not needed any more. From any thread, and finalizers."""
        self._post("segment.release", {"ids": ids})

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

    def open(self, ref: Ref) -> memoryview | Window:
        """A read-only view of a blob. On the node's host it is mapped, and given back when nobody looks at it."""
        if ref.size == 0:
            return memoryview(b"")
        if self._reach() == "host":
            place, _ = self._ask("blob.open", {"id": ref.id})
            window = self._mappings.window(place["path"], int(place["offset"]), ref.size, self._ended, ref.id)
            if ref.flags & 1:
                self._lent.add(window, ref.id)
            self._used()
            return window
        if ref.size <= BULK_INLINE_BYTES_MAX:
            return memoryview(self.read(ref.id, ref.size))
        data = self._lane().get(ref.id, ref.size, keep=bool(ref.flags & 1))
        if ref.flags & 1:
            if isinstance(data.obj, mmap.mmap):
                weakref.finalize(data.obj, self.release, [ref.id])
            else:
                self.release([ref.id])  # it is all here
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

    def _ended(self, blob_id: bytes) -> None:
        self._lent.ended(blob_id)
        self.release([blob_id])

    def _used(self) -> None:
        self._used_at = time.monotonic()
        if not self._watched:
            self._watched = True
            self._later(MAPPED_IDLE_S, self._look)

    def _look(self) -> None:
        """In the loop: let go of what is mapped, when it was not used for a while."""
        idle_s = time.monotonic() - self._used_at
        self._mappings.forget(all_of_them=idle_s >= MAPPED_IDLE_S)
        self._watched = len(self._mappings) > 0
        if self._watched:
            self._later(MAPPED_IDLE_S, self._look)


class Lending:
    """A sink that knows what it was given, so that it can be given back when the task has its outcome."""

    def __init__(self, buffers: Buffers, by_content: bool = False) -> None:
        self._buffers = buffers
        self._by_content = by_content
        self._ids: list[bytes] = []

    def put(self, buffer: memoryview) -> Ref:
        """As `Buffers.put`."""
        buffers, by_content = self._buffers, self._by_content
        ref = buffers.patiently(lambda: buffers.put(buffer, by_content=by_content), bool(self._ids))
        self._ids.append(ref.id)
        return ref

    def until_done(self, future: concurrent.futures.Future[Any]) -> None:
        """Give back what was put when the task of this future has ended."""
        if self._ids:
            future.add_done_callback(lambda _: self.give_back())

    def give_back(self) -> None:
        """Give back what was put."""
        ids, self._ids = self._ids, []
        if ids:
            self._buffers.release(ids)
