"""MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md) of plain values, without extensions."""

from __future__ import annotations

import struct
from typing import Any

DEPTH_MAX = 40


class NotPlain(TypeError):
    """A value of a type that MessagePack does not carry unchanged."""


def pack(value: Any) -> bytes:
    """A plain value as MessagePack. NotPlain for any other."""
    out: list[bytes] = []
    _pack(value, out, DEPTH_MAX)
    return b"".join(out)


def _pack(value: Any, out: list[bytes], depth: int) -> None:
    kind = type(value)
    if value is None:
        out.append(b"\xc0")
    elif kind is bool:
        out.append(b"\xc3" if value else b"\xc2")
    elif kind is int:
        if 0 <= value < 128:
            out.append(bytes((value,)))
        elif -32 <= value < 0:
            out.append(struct.pack("b", value))
        elif -(1 << 63) <= value < 1 << 63:
            out.append(b"\xd3" + struct.pack(">q", value))
        elif 0 < value < 1 << 64:
            out.append(b"\xcf" + struct.pack(">Q", value))
        else:
            raise NotPlain("an int of more than 64 bits")
    elif kind is float:
        out.append(b"\xcb" + struct.pack(">d", value))
    elif kind is str:
        try:
            raw = value.encode()
        except UnicodeEncodeError:
            raise NotPlain("text with surrogates") from None
        head = bytes((0xA0 | len(raw),)) if len(raw) < 32 else b"\xdb" + struct.pack(">I", len(raw))
        out.append(head + raw)
    elif kind is bytes:
        out.append(b"\xc6" + struct.pack(">I", len(value)) + value)
    elif kind in (list, dict):
        if depth == 0:
            raise NotPlain("nested too deeply")
        small, large = (0x90, b"\xdd") if kind is list else (0x80, b"\xdf")
        out.append(bytes((small | len(value),)) if len(value) < 16 else large + struct.pack(">I", len(value)))
        for item in value:
            if kind is dict:
                if type(item) is not str:
                    raise NotPlain("a key that is not text")
                _pack(item, out, 0)
                item = value[item]
            _pack(item, out, depth - 1)
    else:
        raise NotPlain("a value of type " + kind.__qualname__)


def unpack(data: Any) -> Any:
    """The value of one MessagePack document. ValueError when it is malformed, too deep, or something follows it."""
    reader = _Reader(data)
    try:
        value = reader.value(DEPTH_MAX)
    except (struct.error, IndexError):
        raise ValueError("MessagePack ended early") from None
    if reader.at != len(data):
        raise ValueError("bytes after the end of a MessagePack document")
    return value


class _Reader:
    def __init__(self, data: Any) -> None:
        self.data = memoryview(data)
        self.at = 0

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise ValueError("MessagePack ended early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def value(self, depth: int) -> Any:
        head = self.number("B")
        if head < 0x80:
            return head
        if head >= 0xE0:
            return head - 256
        if head < 0x90:
            return self.items(head & 15, True, depth)
        if head < 0xA0:
            return self.items(head & 15, False, depth)
        if head < 0xC0:
            return str(self.take(head & 31), "utf-8")
        if head in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[head]
        if head in (0xCA, 0xCB):
            return self.number(">f" if head == 0xCA else ">d")
        if 0xCC <= head <= 0xD3:
            return self.number(">" + "BHIQbhiq"[head - 0xCC])
        if 0xC4 <= head <= 0xC6:
            return bytes(self.take(self.number(">" + "BHI"[head - 0xC4])))
        if 0xD9 <= head <= 0xDB:
            return str(self.take(self.number(">" + "BHI"[head - 0xD9])), "utf-8")
        if 0xDC <= head <= 0xDF:
            return self.items(self.number(">" + "HIHI"[head - 0xDC]), head >= 0xDE, depth)
        raise ValueError(f"unknown MessagePack type 0x{head:02x}")

    def items(self, count: int, pairs: bool, depth: int) -> Any:
        if depth == 0:
            raise ValueError("MessagePack nested too deeply")
        if count > len(self.data) - self.at:  # each item has at least a byte
            raise ValueError("MessagePack ended early")
        if not pairs:
            return [self.value(depth - 1) for _ in range(count)]
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(0)
            if not isinstance(key, str):
                raise ValueError("a MessagePack key that is not text")
            found[key] = self.value(depth - 1)
        return found
