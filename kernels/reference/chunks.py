"""Twin of :mod:`kernels.chunks`, by the msgpack library: the arguments of many calls in one payload, and their loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import msgpack

from kernels.reference.plain import decode_plain, is_plain

WIDTH_MAX = 127
VALUE_BYTES = 65536


def pack(
    items: Iterable[Any], width: int, count_max: int, bytes_max: int, limit_ns: int = 0
) -> tuple[bytes, int, list[Any]]:
    """(payload, count, left over) of what was taken from the items."""
    if not 1 <= width <= WIDTH_MAX or count_max < 1 or not 1 <= bytes_max < 2**31:
        raise ValueError(f"a chunk of {count_max} items of {width} arguments in {bytes_max} bytes")
    ends = time.monotonic_ns() + limit_ns
    body = b""
    count = 0
    left: list[Any] = []
    for item in iter(items):
        if width > 1 and (type(item) is not tuple or len(item) != width):
            raise ValueError(f"an item that is no tuple of {width}")
        arguments = (item,) if width == 1 else item
        written = b"".join(bytes(msgpack.packb(one)) for one in arguments) if all(map(is_plain, arguments)) else None
        if written is None or len(body) + len(written) > bytes_max + VALUE_BYTES:
            left = [item]
            break
        body += written
        count += 1
        slow = limit_ns and (not count & (count - 1) or not count & 63) and time.monotonic_ns() >= ends
        if count >= count_max or len(body) >= bytes_max or slow:
            break
    return b"M\x91\x92\xc6" + len(body).to_bytes(4, "big") + body + bytes([width]), count, left


def unpack(items: bytes | bytearray | memoryview, width: int) -> list[Any]:
    """The items of a chunk again."""
    if not 1 <= width <= WIDTH_MAX:
        raise ValueError(f"calls of {width} arguments")
    data, values, at = bytes(items), [], 0
    reader = msgpack.Unpacker()
    reader.feed(data)
    while at < len(data):
        try:
            reader.skip()
        except (ValueError, msgpack.OutOfData, msgpack.UnpackException) as error:
            raise ValueError(f"malformed payload: {error}") from None
        values.append(decode_plain(b"M" + data[at : reader.tell()]))
        at = reader.tell()
    if len(values) % width:
        raise ValueError("malformed payload: a call without all of its arguments")
    return values if width == 1 else [tuple(values[at : at + width]) for at in range(0, len(values), width)]


def call_each(
    fn: Callable[..., Any], items: bytes | bytearray | memoryview | Iterable[Any], width: int, values: list[Any]
) -> None:
    """Call `fn` with each item in turn, appending to `values`."""
    if isinstance(items, bytes | bytearray | memoryview):
        items = unpack(items, width)
    item: Any
    for item in items:
        values.append(fn(item) if width == 1 else fn(*item))
