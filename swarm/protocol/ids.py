"""Ids of batches and tasks, and the text people see.

A batch key is 12 bytes: the session (8 random bytes of the client) and a u32 batch number, big-endian. A task id is the
batch key and the task's u32 index. Neighbouring tasks differ only in their last bytes, so the text form is a permutation
of the id (a four-round Feistel network, Luby and Rackoff 1988, over a public constant): short prefixes of it differ, and
it can be turned back into the id.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from blake3 import blake3

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: no i, l, o, u, so that nothing is misread."""

SESSION_BYTES = 8
BATCH_KEY_BYTES = 12
TASK_ID_BYTES = 16
LOG_TAG_BYTES = 3
"""With so many bytes the key of a durable batch names its home log."""
TEXT_LENGTH = 26

_ALL_BITS = (1 << 64) - 1
_INDEX = struct.Struct(">I")
_DECODE = {character: value for value, character in enumerate(ALPHABET)} | {"i": 1, "l": 1, "o": 0}
_ROUNDS = 4


def batch_key(session: bytes, number: int) -> bytes:
    """The key of batch `number` (u32) of a session (8 bytes)."""
    assert len(session) == 8, session
    return session + _INDEX.pack(number)


def task_id(batch: bytes, index: int) -> bytes:
    """The id of the task at `index` in a batch."""
    assert len(batch) == BATCH_KEY_BYTES, batch
    return batch + _INDEX.pack(index)


def split(task: bytes) -> tuple[bytes, int]:
    """A task id as (batch key, index)."""
    assert len(task) == TASK_ID_BYTES, task
    return task[:BATCH_KEY_BYTES], _INDEX.unpack_from(task, BATCH_KEY_BYTES)[0]


def child_session(parent: bytes, attempt: int, token: Sequence[int], connection: int) -> bytes:
    """The session of what an attempt of a task submits over one of its connections, counted from 1.

    Attempts have their number and their fencing token in it. The number alone is not enough: of a task whose client went to another
    node, both that node and the one before may run an attempt of the same number for a while.
    """
    numbers = (attempt, connection, *token)
    packed = b"".join((number & _ALL_BITS).to_bytes(8, "big") for number in numbers)
    return blake3(parent + packed, derive_key_context="nanoswarm child session v2").digest(SESSION_BYTES)


def child_key(parent: bytes, name: bytes) -> bytes:
    """The key of a durable batch that a task submits: derived from the task's id and the batch's name within it, and not
    from the attempt, so that whoever runs the task again finds what it submitted. It begins as the task's own id does,
    and so names the same home log."""
    assert len(parent) == TASK_ID_BYTES, parent
    hasher = blake3(parent, derive_key_context="nanoswarm child batch v1")
    return parent[:LOG_TAG_BYTES] + hasher.update(name).digest(BATCH_KEY_BYTES - LOG_TAG_BYTES)


def encode32(raw: bytes) -> str:
    """Base 32 of bytes, without padding, most significant bits first."""
    bits = len(raw) * 8
    length = -(-bits // 5)
    number = int.from_bytes(raw, "big") << (length * 5 - bits)
    return "".join(ALPHABET[(number >> shift) & 31] for shift in range((length - 1) * 5, -1, -5))


def decode32(text: str, size: int) -> bytes:
    """The inverse of `encode32` for `size` bytes. ValueError for a foreign character or a wrong length."""
    bits = size * 8
    length = -(-bits // 5)
    if len(text) != length:
        raise ValueError(f"{text!r} has {len(text)} characters, not {length}")
    number = 0
    for character in text.lower():
        value = _DECODE.get(character)
        if value is None:
            raise ValueError(f"{character!r} does not occur in an id")
        number = number << 5 | value
    return (number >> (length * 5 - bits)).to_bytes(size, "big")


BATCH_INDEX = 0xFFFF_FFFF
"""The index that stands for a batch as a whole, where ids of tasks are written."""


def batch_text(batch: bytes) -> str:
    """The text of a batch: that of a task which it never has, so that one text names either the one or the other."""
    return text(task_id(batch, BATCH_INDEX))


def parse_any(full_text: str) -> tuple[bytes, int | None]:
    """(batch key, index) of the full text of a task; index None for that of a batch. ValueError if it is neither."""
    key, index = split(parse(full_text))
    return key, None if index == BATCH_INDEX else index


def _half(round_number: int, half: bytes) -> int:
    return int.from_bytes(blake3(bytes((round_number,)) + half).digest(8), "big")


def text(task: bytes) -> str:
    """The text of a task id: 26 characters, any 4 to 6 of the first of which usually tell one task from the others."""
    left, right = int.from_bytes(task[:8], "big"), int.from_bytes(task[8:], "big")
    for number in range(_ROUNDS):
        left, right = right, left ^ _half(number, right.to_bytes(8, "big"))
    return encode32(left.to_bytes(8, "big") + right.to_bytes(8, "big"))


def parse(full_text: str) -> bytes:
    """The task id of a full text. ValueError if it is none."""
    raw = decode32(full_text, TASK_ID_BYTES)
    left, right = int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big")
    for number in reversed(range(_ROUNDS)):
        left, right = right ^ _half(number, left.to_bytes(8, "big")), left
    return left.to_bytes(8, "big") + right.to_bytes(8, "big")
