"""Entries and the signed segments in which they travel; what is read here may be hostile.

A segment is ``header | signature | body``. The header (`HEADER_BYTES` bytes, big-endian) is what the author signs: u8 version, u16 shard,
author (16 bytes), u64 life, u64 number of the first entry, u32 count, u64 stamp of the first, u64 stamp of the last entry, u32 length of
the body and its blake3 (32 bytes). The signature is Ed25519 (RFC 8032) over `SIGNED` and the header; so two headers alone prove that an
author contradicted itself. The body is a list in the plain MessagePack of `kernels.plain`, with one list for each entry: ``stamp, kind,
key, op, value`` and, where there are any, ``tags`` (a list or nil) and ``[task, attempt]``.

A line is (author, life): life is the stamp at which the line began.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from blake3 import blake3

from kernels.plain import decode_plain, encode_plain
from swarm.protocol.knowledge.bounds import (
    ATTEMPT_MAX,
    ID_BYTES,
    KEY_BYTES_MAX,
    KIND_BYTES_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENT_ENTRIES_MAX,
    SHARDS_MAX,
    SIGNATURE_BYTES,
    TAG_BYTES_MAX,
    TAGS_MAX,
    TASK_BYTES,
    VALUE_BYTES_MAX,
)
from swarm.protocol.knowledge.kinds import HELD_BY_ALL, KINDS, SPREAD_BY, WHOLE, Crdt, malformed

VERSION: Final = 1
SIGNED: Final = b"knowledge segment 1\0"
_HEADER: Final = struct.Struct(">BH16sQQIQQI32s")
HEADER_BYTES: Final = _HEADER.size
BODY_AT: Final = HEADER_BYTES + SIGNATURE_BYTES
_U64: Final = 1 << 64

Sign = Callable[[bytes], bytes]
"""The signature (64 bytes) of this author over these bytes."""


class FormatError(ValueError):
    """Bytes that are no segment, or no message of this protocol: whoever sent them breaks it."""


class Op(IntEnum):
    """What an entry does to its key."""

    PUT = 0
    DROP = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One statement. `time` is the number of its stamp (`stamps`)."""

    time: int
    kind: str
    key: str
    op: Op
    value: Any = None
    tags: tuple[str, ...] = ()
    task: bytes | None = None
    """The task in which it was learned (16 bytes)."""
    attempt: int = 0

    def row(self) -> list[Any]:
        """As it stands in a body."""
        row: list[Any] = [self.time, self.kind, self.key, int(self.op), self.value]
        if self.tags or self.task is not None:
            row.append(list(self.tags) or None)
        if self.task is not None:
            row.append([self.task, self.attempt])
        return row

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Entry:
        """The entry of a row that was checked (`Segment.rows`)."""
        tags = tuple(row[5]) if len(row) > 5 and row[5] else ()
        task, attempt = row[6] if len(row) > 6 else (None, 0)
        return cls(row[0], row[1], row[2], Op(row[3]), row[4], tags, task, attempt)


def shard_of(kind: str, key: str, shards: int) -> int:
    """In which of the fleet's shards a key is."""
    if kind in HELD_BY_ALL:
        return WHOLE
    return zlib.crc32(key.encode("utf-8", "surrogatepass"), start_of(kind)) % shards


def start_of(kind: str) -> int:
    """Where the checksum of a key of this kind begins."""
    return zlib.crc32(SPREAD_BY.get(kind, kind).encode())


class Segment:
    """Entries of one author under one signature, as the bytes that were signed. Not changed after it is made."""

    __slots__ = ("author", "count", "first", "first_time", "id", "last_time", "life", "raw", "shard")

    def __init__(self, raw: bytes, fields: tuple[Any, ...], id: bytes) -> None:
        self.raw = raw
        self.id = id
        """16 bytes: the head of blake3 of the header. The same entries under another signature are the same segment."""
        self.shard: int = fields[1]
        self.author: bytes = fields[2]
        self.life: int = fields[3]
        self.first: int = fields[4]
        """Number of its first entry on the line."""
        self.count: int = fields[5]
        self.first_time: int = fields[6]
        self.last_time: int = fields[7]

    def __repr__(self) -> str:
        return f"<Segment {self.author.hex()[:6]}/{self.life} {self.first}+{self.count} in {self.shard}>"

    @property
    def line(self) -> tuple[bytes, int]:
        """(author, life)."""
        return self.author, self.life

    @property
    def place(self) -> bytes:
        """24 bytes: where it is in the Merkle tree. Later segments come after earlier ones."""
        return self.last_time.to_bytes(8, "big") + self.id

    @property
    def proof(self) -> bytes:
        """Header and signature: what shows that the author said this, without saying what."""
        return self.raw[:BODY_AT]

    def rows(self) -> list[list[Any]]:
        """The entries as rows, each checked. FormatError if one is not what it should be."""
        body = self.raw[BODY_AT:]
        try:
            rows = decode_plain(body)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"the body of a segment: {error}") from None
        if not isinstance(rows, list) or len(rows) != self.count:
            raise FormatError(f"a segment does not have the {self.count} entries that it says")
        before = self.first_time - 1
        long = len(body) > VALUE_BYTES_MAX
        for row in rows:
            if type(row) is not list or not 5 <= len(row) <= 7:
                raise FormatError("an entry is not a list of 5 to 7")
            time, kind, key, op, value = row[:5]
            if type(time) is not int or time <= before:
                raise FormatError("the stamps within a segment do not rise")
            before = time
            if type(key) is not str or not 0 < len(key) <= KEY_BYTES_MAX:
                raise FormatError(f"a key is not a text of 1 to {KEY_BYTES_MAX} bytes")
            if not key.isascii() and len(key.encode()) > KEY_BYTES_MAX:
                raise FormatError(f"a key is longer than {KEY_BYTES_MAX} bytes")
            if type(op) is not int or op not in (0, 1):
                raise FormatError("an entry neither puts nor drops")
            known = KINDS.get(kind) if type(kind) is str else None
            if known is None:
                if type(kind) is not str or not 0 < len(kind.encode()) <= KIND_BYTES_MAX:
                    raise FormatError(f"a kind is not a name of 1 to {KIND_BYTES_MAX} bytes")
            elif known.crdt is not Crdt.REGISTER:
                wrong = malformed(known.crdt, op, value)
                if wrong:
                    raise FormatError(f"a value of kind {kind} {wrong}")
            if long and too_long(value):
                raise FormatError(f"a value is longer than {VALUE_BYTES_MAX} bytes")
            if len(row) > 5:
                _check_rest(row)
        if before != self.last_time or rows[0][0] != self.first_time:
            raise FormatError("the stamps of a segment are not those in its header")
        return rows

    def entries(self) -> list[Entry]:
        """The entries. FormatError as with `rows`."""
        return [Entry.of_row(row) for row in self.rows()]


def too_long(value: object) -> bool:
    """Whether a value belongs into a blob."""
    if value is None or isinstance(value, bool | int | float):
        return False
    return encode_plain(value, VALUE_BYTES_MAX) is None


def _check_rest(row: list[Any]) -> None:
    tags = row[5]
    if tags is not None:
        if type(tags) is not list or len(tags) > TAGS_MAX:
            raise FormatError(f"tags are not a list of at most {TAGS_MAX}")
        for tag in tags:
            if type(tag) is not str or not 0 < len(tag.encode()) <= TAG_BYTES_MAX:
                raise FormatError(f"a tag is not a text of 1 to {TAG_BYTES_MAX} bytes")
    if len(row) > 6:
        where = row[6]
        if type(where) is not list or len(where) != 2 or type(where[0]) is not bytes or len(where[0]) != TASK_BYTES:
            raise FormatError("where an entry was learned is not [task, attempt]")
        if type(where[1]) is not int or not 0 <= where[1] <= ATTEMPT_MAX:
            raise FormatError("the attempt in which an entry was learned is not a number")


def read(raw: bytes | memoryview) -> Segment:
    """The segment of these bytes. Its shape and hash are checked, its signature and its entries are not. FormatError."""
    raw = bytes(raw)
    if not BODY_AT < len(raw) <= SEGMENT_BYTES_MAX:
        raise FormatError(f"a segment of {len(raw)} bytes")
    fields = _HEADER.unpack_from(raw)
    check_header(fields)
    if fields[8] != len(raw) - BODY_AT or blake3(raw[BODY_AT:]).digest() != fields[9]:
        raise FormatError("the body of a segment is not what its author signed")
    return Segment(raw, fields, blake3(raw[:HEADER_BYTES]).digest(ID_BYTES))


def check_header(fields: tuple[Any, ...]) -> None:
    """FormatError unless these fields may be a header's."""
    version, shard, _, life, first, count, first_time, last_time, _, _ = fields
    if version != VERSION:
        raise FormatError(f"a segment of version {version}; this node knows {VERSION}")
    if not 0 < count <= SEGMENT_ENTRIES_MAX or shard >= SHARDS_MAX or first + count >= _U64:
        raise FormatError(f"a segment with entries {first}+{count} of shard {shard}")
    if not life <= first_time <= last_time or last_time - first_time < count - 1:
        raise FormatError("the stamps in a segment's header do not rise")


def read_proof(proof: bytes) -> Segment:
    """What a header and its signature tell: a segment without its body. FormatError."""
    if type(proof) is not bytes or len(proof) != BODY_AT:
        raise FormatError("a proof is not a header and a signature")
    fields = _HEADER.unpack_from(proof)
    check_header(fields)
    return Segment(proof, fields, blake3(proof[:HEADER_BYTES]).digest(ID_BYTES))


def seal(author: bytes, life: int, shard: int, first: int, entries: Sequence[Entry], sign: Sign) -> Segment:
    """The segment of these entries, numbered from `first`. Their stamps rise, all of them are of this shard. FormatError
    if one breaks a bound."""
    rows = [entry.row() for entry in entries]
    body = encode_plain(rows, SEGMENT_BYTES_MAX - BODY_AT)
    if body is None:
        raise FormatError(f"{len(rows)} entries are no plain values, or longer than {SEGMENT_BYTES_MAX} bytes together")
    fields = (
        VERSION, shard, author, life, first, len(rows), rows[0][0], rows[-1][0], len(body), blake3(body).digest(),
    )  # fmt: skip
    check_header(fields)
    header = _HEADER.pack(*fields)
    segment = Segment(header + sign(signed(header)) + body, fields, blake3(header).digest(ID_BYTES))
    segment.rows()
    return segment


def signed(header: bytes | memoryview) -> bytes:
    """What is put under the signature of a segment with this header (its first `HEADER_BYTES` bytes)."""
    return SIGNED + header[:HEADER_BYTES]


def signature_of(raw: bytes) -> bytes:
    """The signature of a segment or of a proof."""
    return raw[HEADER_BYTES:BODY_AT]
