"""The bytes of a shard's file: header, chunks, table. Specified for others in docs/reference/snapshot-format.md.

A file is ``header | chunks | entries | files | keys``. The header has the hash of all behind the chunks, an entry has the hash of a
chunk, and the manifest has the hash of the header: a Merkle tree (Merkle, 1987) of three levels with wide nodes, of which opening
reads the upper two. BLAKE3's own tree does not serve here: its inner nodes are of fixed 1 KiB leaves, while chunks end where their
content says so and stand in several files.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from blake3 import blake3

from kernels.packing import PROBES_MAX, SLOT_BYTES, TABLE_CHUNK_BYTES, VALUE_BYTES_MAX
from swarm.snapshots.errors import SnapshotMalformed

MAGIC: Final = b"SWRMSNAP"
VERSION: Final = 1
HASH_BYTES: Final = 32
SALT_BYTES: Final = 16
HEADER: Final = struct.Struct("<8sHHIQQQQIIIIQQQ16s64s32s16s40s")
HEADER_BYTES: Final = 256
ENTRY: Final = struct.Struct("<32s32sQIIIHBBII")
ENTRY_BYTES: Final = 96
ENCRYPTED: Final = 1
"""Flag of a header, and of the form of a chunk."""
COMPRESSED: Final = 2
"""Form of a chunk."""
DATA: Final = 0
TABLE: Final = 1
KEYS: Final = 2
"""Kinds of what is sealed: chunks of records, chunks of the table of keys, and the first keys of all chunks."""
CHUNK_RAW_BYTES_MAX: Final = VALUE_BYTES_MAX + (1 << 20)
CHUNK_STORED_BYTES_MAX: Final = CHUNK_RAW_BYTES_MAX + 64
FILES_MAX: Final = 64
"""Files that one shard's chunks may stand in, its own among them."""
FILE_BYTES_MAX: Final = 1 << 60
KEYS_BYTES_MAX: Final = 1 << 30
SHARD_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
SUFFIX: Final = ".shard"

assert HEADER.size == HEADER_BYTES and ENTRY.size == ENTRY_BYTES


class Header(NamedTuple):
    """The first 256 bytes of a shard's file. Offsets and sizes in bytes."""

    encrypted: bool
    table_offset: int
    """Where the entries begin: behind the last chunk."""
    records: int
    slots: int
    """Of the table of keys; 0 when there are no records."""
    data_chunks: int
    table_chunks: int
    files: int
    """Other files in which chunks of this shard stand."""
    probes: int
    """Slots from its home in which a key has to be looked for, at most."""
    keys_bytes: int
    """The first keys of all chunks, as stored."""
    keys_raw_bytes: int
    raw_bytes: int
    """All chunks, as they were before compression and encryption."""
    salt: bytes
    shard: str
    table_hash: bytes
    key_check: bytes

    @property
    def chunks(self) -> int:
        """Of records and of the table."""
        return self.data_chunks + self.table_chunks

    @property
    def table_bytes(self) -> int:
        """All that is behind the chunks."""
        return self.chunks * ENTRY_BYTES + self.files * HASH_BYTES + self.keys_bytes

    @property
    def file_bytes(self) -> int:
        """The whole file."""
        return self.table_offset + self.table_bytes

    def pack(self) -> bytes:
        """256 bytes."""
        return HEADER.pack(
            MAGIC, VERSION, ENCRYPTED if self.encrypted else 0, HEADER_BYTES, self.table_offset, self.table_bytes,
            self.records, self.slots, self.data_chunks, self.table_chunks, self.files, self.probes, self.keys_bytes,
            self.keys_raw_bytes, self.raw_bytes, self.salt, self.shard.encode("ascii"), self.table_hash, self.key_check,
            b"",
        )  # fmt: skip


class Entry(NamedTuple):
    """What the table says of one chunk."""

    stored_hash: bytes
    """BLAKE3 of the chunk as it stands in the file."""
    content_hash: bytes
    """BLAKE3 of what is in it, keyed where it is encrypted: the same content has the same one, whatever its form."""
    offset: int
    stored_bytes: int
    raw_bytes: int
    records: int
    """In a chunk of the table: used slots are not counted, so 0."""
    file: int
    """0 is the shard's own file, n the n-th of the others."""
    form: int
    kind: int
    key_offset: int
    """Where the first key of the chunk stands among the keys."""
    key_bytes: int


def unpack_header(data: bytes, where: str) -> Header:
    """The header, each field within its bounds. SnapshotMalformed."""
    if len(data) < HEADER_BYTES or data[:8] != MAGIC:
        raise SnapshotMalformed(
            f"{where} is no file of a snapshot", hint="it does not begin as one; name another", path=where
        )
    (
        _, version, flags, header_bytes, table_offset, table_bytes, records, slots, data_chunks, table_chunks, files, probes,
        keys_bytes, keys_raw_bytes, raw_bytes, salt, name, table_hash, key_check, rest,
    ) = HEADER.unpack_from(data)  # fmt: skip
    if version != VERSION:
        raise SnapshotMalformed(
            f"{where} is of version {version} of the format, and this software reads {VERSION}",
            hint="read it with the version of swarm that wrote it, or a later one", path=where, version=version,
        )  # fmt: skip
    shard = name.rstrip(b"\0").decode("ascii", "replace")
    header = Header(
        bool(flags & ENCRYPTED), table_offset, records, slots, data_chunks, table_chunks, files, probes, keys_bytes,
        keys_raw_bytes, raw_bytes, salt, shard, table_hash, key_check,
    )  # fmt: skip
    if flags & ~ENCRYPTED or header_bytes != HEADER_BYTES or rest.strip(b"\0") or name.rstrip(b"\0") != shard.encode():
        raise malformed(where, "has a header with fields that this version does not know")
    if not SHARD_NAME.fullmatch(shard):
        raise malformed(where, "has a name that is none")
    if table_bytes != header.table_bytes or not HEADER_BYTES <= table_offset < FILE_BYTES_MAX:
        raise malformed(where, "has a table whose size does not fit what is to be in it")
    if files >= FILES_MAX or keys_bytes > KEYS_BYTES_MAX or keys_raw_bytes > KEYS_BYTES_MAX:
        raise malformed(
            where, f"names {files} other files and {keys_bytes} bytes of keys, which is more than there may be"
        )
    room = table_chunks * (TABLE_CHUNK_BYTES // SLOT_BYTES)
    if (
        not 1 <= probes <= PROBES_MAX
        or slots > room
        or bool(slots) != bool(records)
        or bool(table_chunks) != bool(records)
    ):
        raise malformed(where, f"has a table of {slots} slots for {records} records that cannot be one")
    if bool(data_chunks) != bool(records) or data_chunks > records:
        raise malformed(where, f"has {records} records in {data_chunks} chunks")
    return header


def unpack_entry(table: memoryview, number: int, header: Header, where: str) -> Entry:
    """One entry of the table, each field within its bounds. SnapshotMalformed."""
    entry = Entry(*ENTRY.unpack_from(table, number * ENTRY_BYTES))
    kind = DATA if number < header.data_chunks else TABLE
    if (
        entry.kind != kind or entry.form & ~(ENCRYPTED | COMPRESSED) or entry.file > header.files
        or bool(entry.form & ENCRYPTED) != header.encrypted or entry.raw_bytes > CHUNK_RAW_BYTES_MAX
        or not 0 < entry.stored_bytes <= CHUNK_STORED_BYTES_MAX or not HEADER_BYTES <= entry.offset < FILE_BYTES_MAX
        or (not entry.form and entry.stored_bytes != entry.raw_bytes)
        or entry.key_offset > header.keys_raw_bytes or entry.key_bytes > header.keys_raw_bytes - entry.key_offset
        or (kind == TABLE and entry.raw_bytes > TABLE_CHUNK_BYTES)
    ):  # fmt: skip
        raise malformed(where, f"says of chunk {number} what cannot be", chunk=number)
    return entry


def file_name(shard: str, root: bytes) -> str:
    """Files are named by their shard and the hash of their header, so that a file is the same under the same name everywhere."""
    return f"{shard}-{root.hex()[:32]}{SUFFIX}"


def root_of(header: bytes) -> bytes:
    """The root of a shard: the hash of its header, by which all of it is known."""
    return blake3(header).digest()


def slots_for(records: int) -> int:
    """Slots of the table: 4, 5, 6 or 7 times a power of two, so that a few more keys leave it as it is; at most 7 of 10 are used."""
    least = -(-records * 10 // 7)
    power = max(0, least.bit_length() - 3)
    return next(size << power for size in (4, 5, 6, 7, 8) if size << power >= least) if records else 0


def malformed(where: str, what: str, **facts: object) -> SnapshotMalformed:
    """It says of itself what cannot be."""
    return SnapshotMalformed(
        f"{where} {what}",
        hint="it was not written by this software, or by a faulty one: use another copy",
        path=where,
        **facts,
    )
