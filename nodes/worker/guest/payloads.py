"""Payloads as swarm/payload.py says; large buffers go by the node's segments."""

from __future__ import annotations

import io
import mmap
import pickle
import types
from typing import Any

from .channel import Channel
from .plain import NotPlain, pack, unpack

OUT_OF_BAND_BYTES = 64 * 1024


class Payloads:
    """Reads and writes the payloads of one worker."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.where = (0, 0)

    def decode(self, payload: Any, granted: bool) -> Any:
        tag, body = bytes(payload[:1]), payload[1:]
        if tag == b"M":
            return unpack(body)
        if tag == b"R":
            return unpack(self.open(unpack(body)))
        if tag not in (b"P", b"B"):
            raise ValueError(f"unknown payload tag {tag!r}")
        if not granted:
            raise PermissionError("this payload is a pickle, and its author is not granted `code`")
        if tag == b"P":
            return pickle.loads(body)  # noqa: S301 - granted
        head, refs = unpack(body)
        buffers = [memoryview(ref) if isinstance(ref, bytes) else self.open(ref) for ref in refs]
        return pickle.loads(head if isinstance(head, bytes) else self.open(head), buffers=buffers)  # noqa: S301

    def open(self, ref: Any) -> Any:
        name, size, flags = ref
        place = self.channel.request("blob.open", name, flags)
        if place["size"] != size:
            raise ValueError(f"a blob has {place['size']} bytes where its ref says {size}")
        if not size:
            return memoryview(b"")
        with open(place["path"], "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(mapped)[place["offset"] : place["offset"] + size]

    def put(self, buffer: Any) -> list[Any]:
        place = self.channel.request("segment.alloc", len(buffer), *self.where)
        with open(place["path"], "r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0)
        with memoryview(mapped) as view:
            view[place["offset"] : place["offset"] + len(buffer)] = buffer
        mapped.close()
        sealed = self.channel.request("segment.seal", place["id"])
        known = sealed if isinstance(sealed, dict) else place
        return [bytes(known.get("id", place["id"])), len(buffer), known.get("flags", place.get("flags", 0))]

    def encode(self, value: Any) -> bytes:
        try:
            plain = pack(value)
            if len(plain) < OUT_OF_BAND_BYTES:
                return b"M" + plain
        except (NotPlain, RecursionError):
            pass
        if type(value) in (bytes, bytearray) and len(value) > OUT_OF_BAND_BYTES:
            value = _Aside(value)
        buffers: list[Any] = []
        body = dump(value, lambda buffer: self._inband(buffer, buffers))
        if not buffers and len(body) < OUT_OF_BAND_BYTES:
            return b"P" + body
        refs = [self.put(buffer) for buffer in buffers]
        head = body if len(body) <= OUT_OF_BAND_BYTES else self.put(memoryview(body))
        return b"B" + pack([head, refs])

    @staticmethod
    def _inband(buffer: Any, buffers: list[Any]) -> bool:
        raw = buffer.raw()
        if len(raw) <= OUT_OF_BAND_BYTES:
            return True
        buffers.append(raw)
        return False


class _Aside:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self.value), (pickle.PickleBuffer(self.value),)


class _ByValue(Exception):
    pass


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, types.FunctionType)) and obj.__module__ == "__main__":
            raise _ByValue(f"{obj.__qualname__} is defined in the script that sent this task")
        return NotImplemented


def dump(value: Any, callback: Any = None) -> bytes:
    """A pickle; cloudpickle's where it is installed and the standard one would not load elsewhere."""
    file = io.BytesIO()
    try:
        _Pickler(file, 5, buffer_callback=callback).dump(value)
    except Exception:
        try:
            import cloudpickle
        except ImportError:
            raise
        file = io.BytesIO()
        cloudpickle.Pickler(file, protocol=5, buffer_callback=callback).dump(value)
    return file.getvalue()
