"""Large buffers of payloads, in a worker: the node gives places in shared memory, the worker maps them.

Requests: ``segment.alloc [size, run, index]`` -> {"id": 32 bytes, "path", "offset", "flags"?}, a place to write to;
``blob.open [id, flags]`` -> {"path", "offset", "size"}, a place to read from, held until it is given back. Told without
an answer: ``segment.seal [id]``, it is written; ``segment.share [id]``, what was read is a result, too;
``segment.release [ids]``, nothing of the task's looks into these any more.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from kernels.windows import Window
from swarm.mappings import Lent, Mappings
from swarm.payload import Ref


class Node(Protocol):
    """Whom is asked and told: the channel."""

    def request(self, method: str, *args: object) -> dict[str, object]: ...
    def tell(self, method: str, *args: object) -> None: ...


class Segments:
    """Both a BlobSink and a BlobSource, over a channel."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._mappings = Mappings()
        self._lent = Lent()
        self._given_back: deque[bytes] = deque()
        self.run = 0
        self.index = 0

    def put(self, buffer: memoryview) -> Ref:
        """Copy a buffer into a segment; the one copy on the way out. OSError when the node has no place for it."""
        raw = buffer.cast("B") if buffer.format != "B" or buffer.ndim != 1 else buffer
        known = self._lent.find(raw)
        if known is not None:
            # An argument as it came: it is there already.
            self._node.tell("segment.share", known)
            return Ref(known, raw.nbytes, 1)
        self.give_back()
        place = self._node.request("segment.alloc", raw.nbytes, self.run, self.index)
        name, offset = _bytes(place["id"]), _int(place["offset"])
        self._mappings.write(str(place["path"]), offset, raw)
        self._node.tell("segment.seal", name)
        return Ref(name, raw.nbytes, _int(place.get("flags", 0)))

    def open(self, ref: Ref) -> memoryview | Window:
        """A read-only view of a blob, without a copy; it is held as long as somebody looks into it."""
        self.give_back()
        place = self._node.request("blob.open", ref.id, ref.flags)
        offset, size = _int(place["offset"]), _int(place["size"])
        window = (
            self._mappings.window(str(place["path"]), offset, size, self._ended, ref.id) if size else memoryview(b"")
        )
        if isinstance(window, Window) and ref.flags & 1:
            self._lent.add(window, ref.id)
        return window

    def path(self, ref: Ref) -> tuple[str, int, int]:
        """Where a blob is: path, offset and size in bytes. It is held until the worker ends."""
        place = self._node.request("blob.open", ref.id, ref.flags)
        return str(place["path"]), _int(place["offset"]), _int(place["size"])

    def give_back(self) -> None:
        """Tell the node what nobody looks into any more."""
        ids = []
        while self._given_back:
            ids.append(self._given_back.popleft())
        if ids:
            self._node.tell("segment.release", ids)

    def drop(self) -> None:
        """Forget all mappings. What values still look into stays mapped until they are gone."""
        self._mappings.forget()

    def _ended(self, name: bytes) -> None:
        # Wherever the last view went, a collection in the middle of sending included: told at the next opportunity.
        self._lent.ended(name)
        self._given_back.append(name)


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value
