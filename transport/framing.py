"""What links put on the wire: frames, the same on every reach. Pure: bytes in, values out, and `Malformed` for
everything else.

::

    frame   u32 rest (bytes after this field) | u8 type | u8 0 | u16 0 | body          little endian
    DATA    u64 consumed bytes | u64 consumed messages | u32 count | u32 0 | u32 length[count] | the messages
    CREDIT  u64 consumed bytes | u64 consumed messages          PING and PONG carry the same
    HELLO, REFUSED, BYE          msgpack map
    PROOF   Ed25519 signature       JOIN, JOINED   opaque

The credit is what the sender of the frame has consumed since the link came up, so a later frame makes up for a lost
thought.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import msgpack

from transport import bounds
from transport.links import Buffer

HEAD: Final = struct.Struct("<IBBH")
_CREDIT: Final = struct.Struct("<IBBHQQ")
_DATA: Final = struct.Struct("<IBBHQQII")
CREDIT_BYTES: Final = _CREDIT.size
DATA_BYTES: Final = _DATA.size

HELLO: Final = 1
PROOF: Final = 2
REFUSED: Final = 3
BYE: Final = 4
JOIN: Final = 5
JOINED: Final = 6
DATA: Final = 16
CREDIT: Final = 17
PING: Final = 18
PONG: Final = 19

UNVERIFIED_BODY_MAX: Final = {
    HELLO: bounds.HELLO_BYTES_MAX,
    PROOF: 64,
    REFUSED: bounds.REFUSAL_BYTES_MAX,
    BYE: bounds.REFUSAL_BYTES_MAX,
    JOIN: bounds.JOIN_BYTES_MAX,
    JOINED: bounds.JOIN_REPLY_BYTES_MAX,
}
"""Largest body, by type, that is taken from a peer before its hello is verified."""
UNVERIFIED_FRAME_MAX: Final = HEAD.size + max(UNVERIFIED_BODY_MAX.values())

assert DATA_BYTES + 4 * bounds.BATCH_COUNT_MAX <= bounds.FRAME_HEAD_BYTES_MAX


class Malformed(Exception):
    """Bytes that no honest peer sends. The message says what is wrong with them."""


def control(type: int, body: bytes = b"") -> bytes:
    """A whole frame of a type with a plain body."""
    return HEAD.pack(HEAD.size - 4 + len(body), type, 0, 0) + body


def credit(type: int, consumed_bytes: int, consumed_count: int) -> bytes:
    """A CREDIT, PING or PONG frame."""
    return _CREDIT.pack(CREDIT_BYTES - 4, type, 0, 0, consumed_bytes, consumed_count)


def data(messages: Sequence[bytes], consumed_bytes: int, consumed_count: int) -> bytes:
    """A whole DATA frame with the messages copied into it."""
    count = len(messages)
    if count == 1:
        message = messages[0]
        size = len(message)
        return (
            _DATA.pack(DATA_BYTES + size, DATA, 0, 0, consumed_bytes, consumed_count, 1, 0)
            + size.to_bytes(4, "little")
            + message
        )
    lengths = [len(message) for message in messages]
    rest = DATA_BYTES - 4 + 4 * count + sum(lengths)
    head = _DATA.pack(rest, DATA, 0, 0, consumed_bytes, consumed_count, count, 0)
    return b"".join((head, struct.pack(f"<{count}I", *lengths), *messages))


def data_head(size: int, consumed_bytes: int, consumed_count: int) -> bytes:
    """The head of a DATA frame with one message of this size, whose parts follow uncopied."""
    head = _DATA.pack(DATA_BYTES + size, DATA, 0, 0, consumed_bytes, consumed_count, 1, 0)
    return head + size.to_bytes(4, "little")


def read_head(frame: Buffer, tail_bytes: int = 0) -> int:
    """The type of a whole frame (of which ``tail_bytes`` came apart). Raises Malformed."""
    if len(frame) < HEAD.size:
        raise Malformed("a frame shorter than its head")
    rest, type, _, _ = HEAD.unpack_from(frame)
    if rest != len(frame) - 4 + tail_bytes:
        raise Malformed("a frame whose length is not what it says")
    return int(type)


def read_unverified(frame: Buffer, tail_bytes: int = 0) -> tuple[int, bytes]:
    """Type and body of a frame from somebody whose hello is not verified yet. Raises Malformed."""
    type = read_head(frame, tail_bytes)
    limit = UNVERIFIED_BODY_MAX.get(type)
    if limit is None:
        raise Malformed(f"a frame of type {type} before the hello")
    if tail_bytes or len(frame) - HEAD.size > limit:
        raise Malformed(f"a frame of type {type} with more than {limit} bytes")
    return type, bytes(memoryview(frame)[HEAD.size :])


def read_credit(frame: Buffer) -> tuple[int, int]:
    """Consumed bytes and messages of a CREDIT, PING, PONG or DATA frame. Raises Malformed."""
    if len(frame) < CREDIT_BYTES:
        raise Malformed("a frame too short for its credit")
    _, _, _, _, consumed_bytes, consumed_count = _CREDIT.unpack_from(frame)
    return consumed_bytes, consumed_count


def read_data(frame: Buffer, tail: bytes | None, message_bytes_max: int) -> list[bytes]:
    """The messages of a DATA frame. ``tail`` is the one message, if it came apart from its head. Raises Malformed."""
    if len(frame) < DATA_BYTES:
        raise Malformed("a data frame shorter than its head")
    count = _DATA.unpack_from(frame)[6]
    if not 0 < count <= bounds.BATCH_COUNT_MAX:
        raise Malformed(f"a data frame of {count} messages")
    start = DATA_BYTES + 4 * count
    if len(frame) < start:
        raise Malformed("a data frame shorter than its lengths")
    if count == 1:
        size = int.from_bytes(frame[DATA_BYTES:start], "little")
        if size > message_bytes_max:
            raise Malformed(f"a message of {size} bytes, the limit is {message_bytes_max}")
        message = bytes(memoryview(frame)[start:]) if tail is None else tail
        if len(message) != size or (tail is not None and len(frame) != start):
            raise Malformed("a message whose length is not what it says")
        return [message]
    lengths = struct.unpack_from(f"<{count}I", frame, DATA_BYTES)
    if tail is not None or start + sum(lengths) != len(frame):
        raise Malformed("messages whose lengths are not what they say")
    if max(lengths) > message_bytes_max:
        raise Malformed(f"a message of {max(lengths)} bytes, the limit is {message_bytes_max}")
    body = bytes(memoryview(frame)[start:])
    stops = list(accumulate(lengths))
    begin = 0
    messages = []
    for stop in stops:
        messages.append(body[begin:stop])
        begin = stop
    return messages


def pack_reason(type: int, reason: str, hint: str = "", **facts: object) -> bytes:
    """A REFUSED or BYE frame. The hint is cut to what fits."""
    room = bounds.REFUSAL_BYTES_MAX - 128
    reason = reason.encode("utf-8", "replace")[: room // 2].decode("utf-8", "ignore")
    hint = hint.encode("utf-8", "replace")[: room // 2].decode("utf-8", "ignore")
    return control(type, bytes(msgpack.packb({"reason": reason, "hint": hint, **facts})))


def read_reason(body: Buffer) -> tuple[str, str]:
    """Reason and hint of a REFUSED or BYE frame, fit for one line. Never raises: it is the last that is heard of a
    peer."""
    try:
        if len(body) > bounds.REFUSAL_BYTES_MAX:
            return "malformed", ""
        fields = msgpack.unpackb(body, raw=False, strict_map_key=True)
        reason, hint = fields.get("reason", ""), fields.get("hint", "")
        if isinstance(reason, str) and isinstance(hint, str):
            return _line(reason) or "no reason given", _line(hint)
    except Exception:
        pass
    return "malformed", ""


def _line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
