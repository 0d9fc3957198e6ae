"""The bytes of a journal: segment headers, commits, records. Bytes in, bytes out; all numbers are little endian.

A segment is a file: its header, twice, in a block each, then commits, each from a block's beginning on.

    commit   = header (64 bytes) | table: one row of 112 bytes a record | the records' contents | stamps (see `stamps`)
               (of version 1: rows of 96 bytes, which is said by 0 where the header has the bytes of a row)
    record   = one `Write` of one group; its row says all but the snapshot and the entries themselves
    contents = snapshot (MessagePack) | entries, in columns: terms, kinds, lengths, data

Header, table and each record's contents have a checksum each (blake3, 8 bytes), so that rot in a record is the damage of its group
alone. A commit names its segment, its number and the checksum of the commit before it: what an earlier use of the same space
left there is never taken for a new one.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, repeat
from operator import itemgetter
from struct import Struct
from typing import Final, NamedTuple

import msgpack
from blake3 import blake3

from nodes.journal.stamps import BLOCK, extent, put_stamps
from swarm.protocol.raft.entries import Entry, Members, Snapshot, Vote

VERSION: Final = 2
SEGMENT_MAGIC: Final = b"SWARMJNL"
COMMIT_MAGIC: Final = b"SWJc"
HEADER_BYTES: Final = 2 * BLOCK
"""Of a segment."""
CHECK_BYTES: Final = 8
COMMIT_BYTES_MAX: Final = 1 << 30

_SEGMENT = Struct("<8sIII32s16s16sQQ8s")
_COMMIT = Struct("<4sIIIQQQ8s8s")
COMMIT_HEADER_BYTES: Final = 64
_ROW_1 = Struct("<32s16sQQQIIIBBBx8s")
_ROW = Struct("<32s16sQQQQQIIIBBBx8s")
ROW_BYTES: Final = 112
assert _COMMIT.size + CHECK_BYTES == COMMIT_HEADER_BYTES and _ROW.size == ROW_BYTES
_CANDIDATE_BYTES: Final = 16
_UNIFORM_TERMS: Final = 1
_UNIFORM_KINDS: Final = 2


class FormatError(ValueError):
    """Bytes that are not what they should be."""


class NewerError(FormatError):
    """It was written by a later version."""


class Flag:
    """What a record has: bits."""

    VOTE: Final = 1
    CANDIDATE: Final = 2
    SNAPSHOT: Final = 4
    RESET: Final = 8
    """The snapshot stands for the whole log."""
    REPAIRED: Final = 16
    DAMAGED: Final = 32
    """The group's log has lost what was once synced."""
    MOVED: Final = 64
    """A copy of what stands in an earlier segment: it takes its place, and truncates nothing."""


@dataclass(frozen=True, slots=True)
class JournalId:
    """Whose journal it is."""

    fleet: bytes
    """At most 32 bytes."""
    node: bytes
    """16 bytes."""

    def __post_init__(self) -> None:
        assert len(self.fleet) <= 32 and len(self.node) == 16

    @property
    def key(self) -> tuple[bytes, bytes]:
        """As it stands in files."""
        return self.fleet.ljust(32, b"\0"), self.node


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself."""

    fleet: bytes
    node: bytes
    number: int
    salt: bytes
    """16 random bytes, part of the checksum of each commit's header: what tasks have in their data is no commit."""
    first: int
    """The number of its first commit."""
    base: bool
    """It is part of a copy of the whole journal, which counts once the copy is complete."""

    def pack(self) -> bytes:
        """Both copies."""
        head = _SEGMENT.pack(
            SEGMENT_MAGIC, VERSION, self.base, 0, self.fleet, self.node, self.salt, self.number, self.first, b""
        )[:-CHECK_BYTES]
        return (head + check(head)).ljust(BLOCK, b"\0") * 2

    @classmethod
    def unpack(cls, data: bytes) -> SegmentHeader:
        """From a file's first blocks. FormatError if neither copy is whole; NewerError if a later version wrote them."""
        for at in (0, BLOCK):
            copy = data[at : at + _SEGMENT.size]
            if (
                len(copy) < _SEGMENT.size
                or copy[:8] != SEGMENT_MAGIC
                or copy[-CHECK_BYTES:] != check(copy[:-CHECK_BYTES])
            ):
                continue
            _, version, base, _, fleet, node, salt, number, first, _ = _SEGMENT.unpack(copy)
            if version > VERSION:  # these bytes and their checksum are the same in all versions
                raise NewerError("a later version")
            return cls(fleet, node, number, salt, first, bool(base))
        raise FormatError("no header of a segment")


class Row(NamedTuple):
    """What a commit's table says of a record."""

    group: bytes
    vote: Vote | None
    flags: int
    snapshot_index: int
    first: int
    entry_count: int
    snapshot_bytes: int
    entries_bytes: int
    form: int
    check: bytes

    @property
    def size(self) -> int:
        """Bytes of its contents."""
        return self.snapshot_bytes + self.entries_bytes


@dataclass(slots=True)
class Record:
    """A record that is to be written."""

    group: bytes
    vote: Vote | None = None
    flags: int = 0
    snapshot_index: int = 0
    snapshot: bytes = b""
    first: int = 0
    count: int = 0
    entries: Sequence[bytes] = ()
    """In pieces, which are put together once, where they are written."""
    entries_bytes: int = 0
    form: int = 0

    @property
    def size(self) -> int:
        """Bytes on disk, without what a commit of its own would add."""
        return ROW_BYTES + len(self.snapshot) + self.entries_bytes

    @property
    def row(self) -> Row:
        """What a commit's table says of it, but for the checksum."""
        return Row(
            self.group, self.vote, self.flags, self.snapshot_index, self.first, self.count, len(self.snapshot),
            self.entries_bytes, self.form, b"",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class CommitHeader:
    """The fixed part of a commit."""

    segment: int
    number: int
    rows: int
    row_bytes: int
    """Of each in the table."""
    size: int
    """Bytes of header, table and contents."""
    previous: bytes
    table_check: bytes
    check: bytes

    @property
    def extent(self) -> int:
        """Bytes on disk."""
        return extent(self.size)

    @property
    def contents_at(self) -> int:
        """Where the contents begin, in header, table and contents."""
        return COMMIT_HEADER_BYTES + self.rows * self.row_bytes

    @classmethod
    def unpack(cls, data: bytes | memoryview, salt: bytes) -> CommitHeader:
        """From the first bytes of a block. FormatError if there is no commit."""
        head = bytes(data[:COMMIT_HEADER_BYTES])
        if (
            len(head) < COMMIT_HEADER_BYTES
            or head[:4] != COMMIT_MAGIC
            or head[-CHECK_BYTES:] != check(head[:-CHECK_BYTES] + salt)
        ):
            raise FormatError("no header of a commit")
        _, rows, row_bytes, _, segment, number, size, previous, table = _COMMIT.unpack_from(head)
        row_bytes = row_bytes or _ROW_1.size
        if row_bytes not in (_ROW_1.size, _ROW.size):
            raise FormatError("a commit's rows")
        if size > COMMIT_BYTES_MAX or COMMIT_HEADER_BYTES + rows * row_bytes > size:
            raise FormatError("a commit's sizes")
        return cls(segment, number, rows, row_bytes, size, previous, table, head[-CHECK_BYTES:])


def check(data: bytes | bytearray | memoryview) -> bytes:
    """A checksum."""
    return blake3(data).digest(CHECK_BYTES)


def pack_commit(
    segment: int, salt: bytes, number: int, previous: bytes, records: Sequence[Record]
) -> tuple[bytearray, bytes]:
    """(what is written, the header's checksum): all records as one commit. What they have is copied once."""
    first = COMMIT_HEADER_BYTES + len(records) * ROW_BYTES
    pieces: list[bytes] = [bytes(first)]
    size = first
    for record in records:
        if record.snapshot:
            pieces.append(record.snapshot)
        pieces += record.entries
        size += len(record.snapshot) + record.entries_bytes
    pieces.append(bytes(extent(size) - size))
    written = bytearray().join(pieces)
    with memoryview(written) as view:
        row = COMMIT_HEADER_BYTES
        for record in records:
            end = first + len(record.snapshot) + record.entries_bytes
            flags, term, candidate, left = record.flags, 0, b"", (0, 0)
            if record.vote is not None:
                term, left = record.vote.term, record.vote.left
                flags |= Flag.VOTE
                if record.vote.candidate is not None:
                    candidate = record.vote.candidate
                    assert len(candidate) == _CANDIDATE_BYTES
                    flags |= Flag.CANDIDATE
            _ROW.pack_into(
                view, row, record.group, candidate, term, *left, record.first, record.snapshot_index, record.count,
                len(record.snapshot), record.entries_bytes, flags, len(record.group), record.form, check(view[first:end]),
            )  # fmt: skip
            row += ROW_BYTES
            first = end
        table = check(view[COMMIT_HEADER_BYTES:row])
        head = _COMMIT.pack(COMMIT_MAGIC, len(records), ROW_BYTES, 0, segment, number, size, previous, table)
        checksum = check(head + salt)
        view[:COMMIT_HEADER_BYTES] = head + checksum
    put_stamps(written, size)
    return written, checksum


def unpack_table(whole: bytes | bytearray | memoryview, header: CommitHeader) -> list[Row]:
    """The rows of a commit, stamps taken off. FormatError if the table is not whole."""
    table = bytes(whole[COMMIT_HEADER_BYTES : header.contents_at])
    if check(table) != header.table_check:
        raise FormatError("a commit's table")
    rows: list[Row] = []
    older = header.row_bytes != ROW_BYTES
    for fields in (_ROW_1 if older else _ROW).iter_unpack(table):
        if older:
            fields = (*fields[:3], 0, 0, *fields[3:])
        (
            group, candidate, term, left_term, left_index,
            first, index, count, snapshot_bytes, entries_bytes, flags, length, form, found,
        ) = fields  # fmt: skip
        vote = None
        if flags & Flag.VOTE:
            vote = Vote(term, candidate if flags & Flag.CANDIDATE else None, (left_term, left_index))
        rows.append(Row(group[:length], vote, flags, index, first, count, snapshot_bytes, entries_bytes, form, found))
    if header.contents_at + sum(row.size for row in rows) != header.size:
        raise FormatError("a commit's sizes")
    return rows


def pack_snapshot(snapshot: Snapshot) -> bytes:
    """A snapshot's bytes."""
    members = snapshot.members
    return bytes(msgpack.packb((snapshot.index, snapshot.term, members.voters, members.learners, snapshot.data)))


def unpack_snapshot(data: bytes) -> Snapshot:
    """The inverse of `pack_snapshot`."""
    index, term, voters, learners, state = msgpack.unpackb(data, max_bin_len=len(data))
    return Snapshot(index, term, Members(tuple(voters), tuple(learners)), state)


def _column(code: str, values: Sequence[int]) -> bytes:
    column = array(code, values)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _values(code: str, data: bytes) -> array[int]:
    column = array(code)
    column.frombytes(data)
    if sys.byteorder == "big":
        column.byteswap()
    return column


_U32: Final = next(code for code in "IL" if array(code).itemsize == 4)
_U64: Final = next(code for code in "LQ" if array(code).itemsize == 8)


_term, _kind, _data = itemgetter(0), itemgetter(1), itemgetter(2)


def pack_entries(entries: Sequence[Entry]) -> tuple[list[bytes], int, int]:
    """(pieces, their bytes, form) of one entry or more."""
    terms, kinds, data = list(map(_term, entries)), list(map(_kind, entries)), list(map(_data, entries))
    count = len(entries)
    form = 0
    if terms.count(terms[0]) == count:
        form, terms = _UNIFORM_TERMS, terms[:1]
    if kinds.count(kinds[0]) == count:
        form, kinds = form | _UNIFORM_KINDS, kinds[:1]
    lengths = list(map(len, data))
    head = _column(_U64, terms) + bytes(kinds) + _column(_U32, lengths)
    return [head, *data], len(head) + sum(lengths), form


def unpack_entries(data: bytes, count: int, form: int) -> list[Entry]:
    """The inverse of `pack_entries`. FormatError if it is none, which the checksum rules out."""
    wide = 8 * (1 if form & _UNIFORM_TERMS else count)
    terms = _values(_U64, data[:wide])
    narrow = wide + (1 if form & _UNIFORM_KINDS else count)
    kinds = data[wide:narrow]
    at = narrow + 4 * count
    lengths = _values(_U32, data[narrow:at])
    ends = list(accumulate(lengths, initial=at))
    if len(lengths) != count or ends[-1] != len(data):
        raise FormatError("a record's columns")
    pieces = [data[first:last] for first, last in pairwise(ends)]
    all_terms = repeat(terms[0], count) if form & _UNIFORM_TERMS else terms
    all_kinds = repeat(kinds[0], count) if form & _UNIFORM_KINDS else kinds
    # What `Entry._make` does, without its call.
    return list(map(tuple.__new__, repeat(Entry), zip(all_terms, all_kinds, pieces, strict=True)))


def slice_entries(data: bytes, count: int, form: int, skip: int, keep: int) -> tuple[list[bytes], int, int]:
    """As `pack_entries`: `keep` entries after the first `skip` of a record's."""
    if skip == 0 and keep == count:
        return [data], len(data), form
    return pack_entries(unpack_entries(data, count, form)[skip : skip + keep])
