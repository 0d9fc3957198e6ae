"""What an entry of the ledger's log says: records, many of which may be packed into one entry.

An entry is ``u8 format`` and records one after the other. A record is ``u8 kind | u8 version | u16 0 | u32 header length |
u32 body length | header | body``, little endian; the header is a MessagePack map with short text keys of which unknown ones
are ignored, the body is raw. A record of a kind or version that is not known here stands for itself as bytes
(`Unknown`): it is kept, and means nothing.

=========== ==== ============================================================================== =====================
kind        no.  header                                                                         body
=========== ==== ============================================================================== =====================
SUBMITTED   1    b key, a author, g may run code, n count, s length of the spec, w wall clock,  spec, call columns
                 r retention (seconds), l durability, h digest, d [task id…], x [blob id…],
                 y [[blob id, size, digest]…]
GRANTED     2    b key, r [[start, stop]…], t [epoch, number]
ENDED       3    b key, n rows, t [epoch, number] or nil, w wall clock                          outcome columns
COUNTED     4    b key, c [[index, crashes, retries]…]
CANCELLED   5    b key, r [[start, stop]…], k end those that run
FORGOTTEN   6    b [key…]
BLOB        7    x blob id                                                                      its content
KEPT        8    b key, y [[blob id, size, digest]…]
REPRIORIT.  9    b key, r [[start, stop]…], p class, n nice
SAVED       10   b key, i row, m how often it was moved, t [epoch, number]                      state
=========== ==== ============================================================================== =====================
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgpack
from blake3 import blake3

from swarm.protocol.ids import BATCH_KEY_BYTES, TASK_ID_BYTES
from swarm.protocol.spec import SPEC_BYTES_MAX

FORMAT: Final = 1
"""Of an entry."""
VERSION: Final = 1
"""Of each kind of record."""
DIGEST_BYTES: Final = 32
BLOB_ID_BYTES: Final = 32
RANGES_MAX: Final = 1 << 16
"""Ranges, rows or keys that one header lists."""
AUTHOR_CHARACTERS_MAX: Final = 256
NUMBER_MAX: Final = 1 << 62
KEPT_MAX: Final = 1 << 14
"""Blobs beside the log that one record names."""
_PREFIX: Final = struct.Struct("<BBHII")
PREFIX_BYTES: Final = _PREFIX.size
_U32_MAX: Final = (1 << 32) - 1

Bytes = bytes | memoryview
Ranges = tuple[tuple[int, int], ...]
"""(start, stop) of rows, ascending and without overlaps."""


class Kind(IntEnum):
    """Kinds of records; the number is on disk and never used again for another."""

    SUBMITTED = 1
    GRANTED = 2
    ENDED = 3
    COUNTED = 4
    CANCELLED = 5
    FORGOTTEN = 6
    BLOB = 7
    KEPT = 8
    REPRIORITIZED = 9
    SAVED = 10


class Durability(IntEnum):
    """What a receipt stands for."""

    NONE = 0
    """Nothing on a disk. Such batches are in no ledger."""
    NODE = 1
    """On the disk of the home node alone."""
    FLEET = 2
    """On the disks of a majority of the home's group."""


class Token(NamedTuple):
    """A fencing token: the term in which its leader leads, and a number that grows in it. Later ones are greater."""

    epoch: int
    number: int


class KeptBlob(NamedTuple):
    """A blob that is too large for the log: a file beside it on its members' disks. `digest` is the BLAKE3 of its content,
    which is its id too unless that is random."""

    id: bytes
    size: int
    digest: bytes


class RecordError(ValueError):
    """Bytes that are no record; the text is one of few, so that it can label a count."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A batch was accepted. `wall` is the ledger's time, seconds since 1970; `retention_s` 0 keeps outcomes until they are
    delivered and acknowledged."""

    key: bytes
    author: str
    granted: bool
    raw: bytes
    count: int
    columns: Bytes
    wall: float
    retention_s: float
    durability: int
    digest: bytes
    deps: tuple[bytes, ...] = ()
    refs: tuple[bytes, ...] = ()
    """Blobs that its tasks need, or are made of."""
    kept: tuple[KeptBlob, ...] = ()
    """Those of them that are beside the log, as long as a task has no outcome."""


@dataclass(frozen=True, slots=True)
class Granted:
    """These rows are about to be sent out under this token, and what was out of them before is stale."""

    key: bytes
    ranges: Ranges
    token: Token


@dataclass(frozen=True, slots=True)
class Ended:
    """Outcomes, as columns of `kernels.batch`, of an attempt with this token, or the leader's own verdicts without one."""

    key: bytes
    token: Token | None
    rows: int
    columns: Bytes
    wall: float


@dataclass(frozen=True, slots=True)
class Counted:
    """How often rows crashed and were retried so far: (index, crashes, retries). Totals, so that a repetition does no harm."""

    key: bytes
    rows: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client gave rows up; with `kill` those that run are ended too."""

    key: bytes
    ranges: Ranges
    kill: bool


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The retention of these batches is over."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Blob:
    """What tasks need beside their arguments, code by value for one: kept as long as a batch names it among its `refs`. It comes
    before the first of these."""

    id: bytes
    content: Bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """Outcomes of a batch refer to these blobs, which are beside the log as long as the batch is in it. It comes before the
    outcomes do."""

    key: bytes
    blobs: tuple[KeptBlob, ...]


@dataclass(frozen=True, slots=True)
class Reprioritized:
    """Rows are of another class and nice from here on."""

    key: bytes
    ranges: Ranges
    priority: int
    nice: int


@dataclass(frozen=True, slots=True)
class Saved:
    """An attempt with this token ended at a safe point, with this state: whoever runs the row next goes on from there."""

    key: bytes
    index: int
    moved: int
    token: Token
    state: Bytes


@dataclass(frozen=True, slots=True)
class Unknown:
    """A record of a later version, or one that is malformed: `raw` is all of it."""

    kind: int
    version: int
    raw: Bytes


Record = Submitted | Granted | Ended | Counted | Cancelled | Forgotten | Blob | Kept | Reprioritized | Saved
AnyRecord = Record | Unknown


def digest_of(raw: bytes, count: int, columns: Bytes, deps: Iterable[bytes] = ()) -> bytes:
    """32 bytes over what a batch asks for: the same key with another digest is another batch, and refused."""
    hasher = blake3(derive_key_context="nanoswarm batch content v1")
    hasher.update(struct.pack("<QQQ", len(raw), count, len(columns)))
    hasher.update(raw)
    hasher.update(columns)
    for dep in deps:
        hasher.update(dep)
    return hasher.digest(DIGEST_BYTES)


# One packer for all: making one for each record costs more than the packing.
_packed: Final = msgpack.Packer(autoreset=True).pack


def _record(kind: Kind, header: dict[str, Any], *body: Bytes) -> bytes:
    packed = _packed(header)
    size = sum(len(part) for part in body)
    return b"".join((_PREFIX.pack(kind, VERSION, 0, len(packed), size), packed, *body))


def pack(record: Record) -> bytes:
    """A record as bytes."""
    match record:
        case Submitted():
            header = {
                "b": record.key, "a": record.author, "g": record.granted, "n": record.count, "s": len(record.raw),
                "w": record.wall, "r": record.retention_s, "l": int(record.durability), "h": record.digest,
            }  # fmt: skip
            if record.deps:
                header["d"] = record.deps
            if record.refs:
                header["x"] = record.refs
            if record.kept:
                header["y"] = record.kept
            return _record(Kind.SUBMITTED, header, record.raw, record.columns)
        case Granted():
            return _record(Kind.GRANTED, {"b": record.key, "r": record.ranges, "t": record.token})
        case Ended():
            header = {"b": record.key, "n": record.rows, "t": record.token, "w": record.wall}
            return _record(Kind.ENDED, header, record.columns)
        case Counted():
            return _record(Kind.COUNTED, {"b": record.key, "c": record.rows})
        case Cancelled():
            return _record(Kind.CANCELLED, {"b": record.key, "r": record.ranges, "k": record.kill})
        case Forgotten():
            return _record(Kind.FORGOTTEN, {"b": record.keys})
        case Blob():
            return _record(Kind.BLOB, {"x": record.id}, record.content)
        case Kept():
            return _record(Kind.KEPT, {"b": record.key, "y": record.blobs})
        case Reprioritized():
            header = {"b": record.key, "r": record.ranges, "p": record.priority, "n": record.nice}
            return _record(Kind.REPRIORITIZED, header)
        case Saved():
            header = {"b": record.key, "i": record.index, "m": record.moved, "t": record.token}
            return _record(Kind.SAVED, header, record.state)


def pack_entry(records: Iterable[bytes]) -> bytes:
    """An entry of packed records."""
    return b"".join((bytes((FORMAT,)), *records))


def split_entry(data: Bytes) -> list[memoryview]:
    """The records of an entry, each as all of its bytes. RecordError if it is none."""
    view = memoryview(data)
    if not len(view) or view[0] != FORMAT:
        raise RecordError("format")
    found = []
    at, end = 1, len(view)
    while at < end:
        if end - at < PREFIX_BYTES:
            raise RecordError("prefix")
        _, _, _, header, body = _PREFIX.unpack_from(view, at)
        size = PREFIX_BYTES + header + body
        if size > end - at:
            raise RecordError("length")
        found.append(view[at : at + size])
        at += size
    return found


def unpack(raw: Bytes) -> AnyRecord:
    """One record. Its columns are views of `raw`. RecordError if it is malformed."""
    view = memoryview(raw)
    if len(view) < PREFIX_BYTES:
        raise RecordError("prefix")
    kind, version, _, header_bytes, body_bytes = _PREFIX.unpack_from(view)
    if PREFIX_BYTES + header_bytes + body_bytes != len(view):
        raise RecordError("length")
    if version != VERSION or kind not in _READERS:
        return Unknown(kind, version, raw)
    try:
        header = msgpack.unpackb(
            view[PREFIX_BYTES : PREFIX_BYTES + header_bytes], use_list=False, max_array_len=RANGES_MAX, max_map_len=64
        )
    except Exception:
        raise RecordError("header") from None
    if type(header) is not dict:
        raise RecordError("header")
    return _READERS[kind](header, view[PREFIX_BYTES + header_bytes :])


def unpack_entry(data: Bytes) -> list[AnyRecord]:
    """The records of an entry. RecordError if it is none; a record in it that is malformed is `Unknown`."""
    records: list[AnyRecord] = []
    for raw in split_entry(data):
        try:
            records.append(unpack(raw))
        except RecordError:
            records.append(Unknown(raw[0], raw[1], raw))
    return records


# --- readers of headers


def _key(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != BATCH_KEY_BYTES:
        raise RecordError("key")
    return value


def _whole(value: Any, most: int = _U32_MAX) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise RecordError("number")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e12:
        raise RecordError("seconds")
    return float(value)


def _token(value: Any) -> Token:
    if type(value) is not tuple or len(value) != 2:
        raise RecordError("token")
    return Token(_whole(value[0], NUMBER_MAX), _whole(value[1], NUMBER_MAX))


def _ranges(value: Any) -> Ranges:
    if type(value) is not tuple or not value:
        raise RecordError("ranges")
    before = 0
    for item in value:
        if type(item) is not tuple or len(item) != 2 or not before <= _whole(item[0]) < _whole(item[1]):
            raise RecordError("ranges")
        before = item[1]
    return value


def _ids(value: Any, size: int) -> tuple[bytes, ...]:
    if type(value) is not tuple or not all(type(id) is bytes and len(id) == size for id in value):
        raise RecordError("ids")
    return value


def kept_of(value: Any) -> tuple[KeptBlob, ...]:
    """Names of blobs beside a log, as read from a header. RecordError if they are none."""
    if type(value) is not tuple or len(value) > KEPT_MAX:
        raise RecordError("kept")
    found = []
    for row in value:
        if type(row) is not tuple or len(row) != 3:
            raise RecordError("kept")
        id, digest = _ids((row[0], row[2]), BLOB_ID_BYTES)
        found.append(KeptBlob(id, _whole(row[1], NUMBER_MAX), digest))
    return tuple(found)


def _submitted(header: dict[str, Any], body: memoryview) -> Submitted:
    spec, author, durability = _whole(header.get("s"), SPEC_BYTES_MAX), header.get("a"), header.get("l")
    if spec > len(body) or type(author) is not str or len(author) > AUTHOR_CHARACTERS_MAX:
        raise RecordError("submitted")
    digest = header.get("h")
    if type(digest) is not bytes or len(digest) != DIGEST_BYTES:
        raise RecordError("submitted")
    return Submitted(
        _key(header.get("b")),
        author,
        header.get("g") is True,
        bytes(body[:spec]),
        _whole(header.get("n")),
        body[spec:],
        _seconds(header.get("w")),
        _seconds(header.get("r")),
        _whole(durability, 255),
        digest,
        _ids(header.get("d", ()), TASK_ID_BYTES),
        _ids(header.get("x", ()), BLOB_ID_BYTES),
        kept_of(header.get("y", ())),
    )


def _granted(header: dict[str, Any], body: memoryview) -> Granted:
    return Granted(_key(header.get("b")), _ranges(header.get("r")), _token(header.get("t")))


def _ended(header: dict[str, Any], body: memoryview) -> Ended:
    given = header.get("t")
    token = None if given is None else _token(given)
    return Ended(_key(header.get("b")), token, _whole(header.get("n")), body, _seconds(header.get("w")))


def _counted(header: dict[str, Any], body: memoryview) -> Counted:
    rows = header.get("c")
    if type(rows) is not tuple or not all(type(row) is tuple and len(row) == 3 for row in rows):
        raise RecordError("counts")
    return Counted(
        _key(header.get("b")),
        tuple((_whole(index), _whole(crashes), _whole(retries)) for index, crashes, retries in rows),
    )


def _cancelled(header: dict[str, Any], body: memoryview) -> Cancelled:
    return Cancelled(_key(header.get("b")), _ranges(header.get("r")), header.get("k") is True)


def _forgotten(header: dict[str, Any], body: memoryview) -> Forgotten:
    return Forgotten(_ids(header.get("b"), BATCH_KEY_BYTES))


def _blob(header: dict[str, Any], body: memoryview) -> Blob:
    return Blob(_ids((header.get("x"),), BLOB_ID_BYTES)[0], body)


def _kept(header: dict[str, Any], body: memoryview) -> Kept:
    return Kept(_key(header.get("b")), kept_of(header.get("y")))


def _reprioritized(header: dict[str, Any], body: memoryview) -> Reprioritized:
    priority, nice = header.get("p"), header.get("n")
    if type(priority) is not int or type(nice) is not int or not 0 <= priority <= 3 or not -20 <= nice <= 19:
        raise RecordError("reprioritized")
    return Reprioritized(_key(header.get("b")), _ranges(header.get("r")), priority, nice)


def _saved(header: dict[str, Any], body: memoryview) -> Saved:
    moved = _whole(header.get("m"))
    if not moved:
        raise RecordError("saved")
    return Saved(_key(header.get("b")), _whole(header.get("i")), moved, _token(header.get("t")), body)


_READERS: Final[dict[int, Callable[[dict[str, Any], memoryview], Record]]] = {
    int(Kind.SUBMITTED): _submitted,
    int(Kind.GRANTED): _granted,
    int(Kind.ENDED): _ended,
    int(Kind.COUNTED): _counted,
    int(Kind.CANCELLED): _cancelled,
    int(Kind.FORGOTTEN): _forgotten,
    int(Kind.BLOB): _blob,
    int(Kind.KEPT): _kept,
    int(Kind.REPRIORITIZED): _reprioritized,
    int(Kind.SAVED): _saved,
}


def split_ranges(ranges: Sequence[tuple[int, int]], most: int = RANGES_MAX) -> list[Ranges]:
    """Ranges in as many lists as records are needed for them."""
    return [tuple(ranges[at : at + most]) for at in range(0, len(ranges), most)]
