"""Messages between clients, owners and executors: kinds, header, version.

A message is ``u8 kind | u8 version | u16 header length | header | body``, little endian. The header is a MessagePack map
with short text keys; keys that a reader does not know are ignored, so a later version may add some. The body is raw
bytes, most often the columns of `kernels.batch`, and is passed on without being read where that is possible.

===============  ====================  ================================================================  ==============
kind             who to whom           header                                                            body
===============  ====================  ================================================================  ==============
SUBMIT           client -> owner       b key, n count, s spec, w attempts so far (after a fail-over),    call columns
                                       d dependencies ([task id…], one-task batches), x blob refs,
                                       k [[start, stop]…] that have ended before (after a fail-over),
                                       D level of durability, F nobody asked for that level, R retention (seconds)
CANCEL           client -> owner       b key, r [[start, stop]…] or nil for all, k kill those running
QUERY            anyone -> node        q number, m method, a arguments                                   bytes
REPLY            node -> asker         q number, v value | e [kind, message, hint, facts]                bytes
OUTCOMES         owner -> client,      b key, n count; executor adds d dispatch, l load                  outcome columns
                 executor -> owner     s microseconds for which tasks of it stood still
EVENT            executor -> owner     b key, i index, e name, d dispatch (executor only), v value       bytes
                 -> client
INPUT            client -> owner ->    b key, i index, e "in" | "heard" | "again" | "signal" | "ack",    bytes
                 executor              v offset | number | items
ACCEPTED         owner -> client       b key, copies, hosts, e epoch, r retention (seconds)
REFUSED          owner -> client       b key, reason, message, hint, after (seconds)
ASK_START        owner -> client       b key, r [[start, stop]…]: may these, not repeatable, start?
GRANT_START      client -> owner       b key, r [[start, stop]…]
RELEASE          client -> owner       b key of a batch whose outcomes are all there, x [blob id…]
DISPATCH         owner -> executor     b key, d dispatch, a first index, n count, s spec, w attempts,    call columns
                                       g granted code, x facts (deps payloads, token [epoch, number],
                                       saved [[index, times moved, state]…]),
                                       u user for whom it is, y [class, nice] if changed
RECALL           owner -> executor     d dispatch, r [[start, stop]…] or nil, k kill those running,
                                       c those running end at their next safe point (false: no more)
STARTED          executor -> owner     d dispatch, i index, p pid
LOAD             node -> peers         l load map
MEMBERS          node -> client        m [[id, name, [endpoint…], curve key, state]…]
GOODBYE          anyone                reason
LEDGER           node -> node          (empty)                                                           a frame of
                                                                                                         `raft.wire`
TWIN             node -> node          q: who are you? | boot, since (wall clock), c counted, at
                                       [[host, port]…], d datagrams' number, i incarnation: I am |
                                       you, other: what two processes of one identity have said
KNOWLEDGE        node -> node          (empty)                                                           a message of
                                                                                                         `knowledge.keeper`
===============  ====================  ================================================================  ==============

Of durable batches a client's words may pass through the node that it is linked to, to who leads their log, and the answers
back (`nodes.relay`): SUBMIT, CANCEL, INPUT, RELEASE and OUTCOMES, EVENT, ACCEPTED, REFUSED between nodes then have ``o``, the
client's name at that node, and SUBMIT ``u``, its author, and ``g``, whether that may run code.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any

import msgpack

VERSION = 1
VERSION_OLDEST = 1
"""This version and the one before are spoken; there is none before the first."""

HEADER_BYTES_MAX = 0xFFFF
_PREFIX = struct.Struct("<BBH")


class Kind(IntEnum):
    """Message kinds; the number is on the wire and never used again for another."""

    SUBMIT = 1
    CANCEL = 2
    QUERY = 3
    REPLY = 4
    OUTCOMES = 5
    EVENT = 6
    INPUT = 7
    ACCEPTED = 8
    REFUSED = 9
    ASK_START = 10
    GRANT_START = 11
    RELEASE = 12
    DISPATCH = 13
    RECALL = 14
    STARTED = 15
    LOAD = 16
    MEMBERS = 17
    GOODBYE = 18
    LEDGER = 19
    TWIN = 20
    REPRIORITIZE = 26
    KNOWLEDGE = 27


class MessageError(ValueError):
    """A message that breaks the format: its sender is counted and dropped."""


_pack = msgpack.Packer(autoreset=True).pack


def encode(kind: int, header: dict[str, Any]) -> bytes:
    """The prefix and header of a message; its body follows as further parts of the same message."""
    packed = _pack(header)
    if len(packed) > HEADER_BYTES_MAX:
        # Too long a header is told by a length of zero and a u32 after the prefix: specs with many labels are rare.
        return _PREFIX.pack(kind, VERSION, 0) + len(packed).to_bytes(4, "little") + bytes(packed)
    return _PREFIX.pack(kind, VERSION, len(packed)) + bytes(packed)


LONG_HEADER_BYTES_MAX = 16 * 1024 * 1024


def decode(message: bytes | memoryview) -> tuple[int, dict[str, Any], memoryview]:
    """A message as (kind, header, body); the body is a view of `message`. MessageError if it is malformed."""
    view = memoryview(message)
    if len(view) < 4:
        raise MessageError(f"a message of {len(view)} bytes has no header")
    kind, version, length = _PREFIX.unpack_from(view)
    if not VERSION_OLDEST <= version <= VERSION:
        raise MessageError(f"message version {version}; this node speaks {VERSION_OLDEST} to {VERSION}")
    start = 4
    if length == 0:
        if len(view) < 8:
            raise MessageError("a message ends within its header's length")
        length = int.from_bytes(view[4:8], "little")
        start = 8
    if length > LONG_HEADER_BYTES_MAX or start + length > len(view):
        raise MessageError(f"a header of {length} bytes in a message of {len(view)}")
    try:
        header = msgpack.unpackb(view[start : start + length], strict_map_key=True)
    except Exception as error:
        raise MessageError(f"the header is not MessagePack: {type(error).__name__}") from None
    if not isinstance(header, dict):
        raise MessageError("the header is not a map")
    return kind, header, view[start + length :]


def field(header: dict[str, Any], key: str, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    """The header's value under `key`, of the type given. MessageError otherwise."""
    value = header.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise MessageError(f"header field {key!r} is {type(value).__name__}")
    return value
