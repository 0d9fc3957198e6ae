"""Files of others: whatever they hold, with hashes that fit or not, the answer is a clear error or what is there, in bounded memory."""

from __future__ import annotations

import struct
import tempfile
import tracemalloc
from pathlib import Path

import msgpack
import pytest
import zstandard
from blake3 import blake3
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swarm.snapshots import Snapshot, SnapshotDamaged, SnapshotError, SnapshotMalformed, create
from swarm.snapshots.checking import verify
from swarm.snapshots.format import ENTRY, ENTRY_BYTES, HEADER, HEADER_BYTES, Entry, file_name, unpack_header
from swarm.snapshots.manifest import Manifest, ShardLine, decode, encode

RECORDS = {b"key %03d" % i: b"value %d" % i for i in range(40)}
MEMORY_MAX = 100 << 20
"""A chunk may have 65 MiB; beside it nothing large is taken."""


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> bytes:
    folder = create(tmp_path_factory.mktemp("s") / "s", {"s": RECORDS.items()}, created_ms=0, compress=False).folder
    return next(folder.glob("*.shard")).read_bytes()


class Forged:
    """A file of which everything can be said, with hashes that fit."""

    def __init__(self, data: bytes) -> None:
        self.header = unpack_header(data, "")
        header = self.header
        self.entries = [
            Entry(*ENTRY.unpack_from(data, header.table_offset + i * ENTRY_BYTES)) for i in range(header.chunks)
        ]
        self.chunks = [data[e.offset : e.offset + e.stored_bytes] for e in self.entries]
        self.keys = data[header.table_offset + header.chunks * ENTRY_BYTES :]
        self.fields: dict[str, object] = {}

    def put(self, number: int, chunk: bytes, **entry: int) -> None:
        self.chunks[number] = chunk
        self.entries[number] = self.entries[number]._replace(stored_bytes=len(chunk), raw_bytes=len(chunk), **entry)

    def data(self) -> bytes:
        offset, entries = HEADER_BYTES, []
        for entry, chunk in zip(self.entries, self.chunks, strict=True):
            changed = {"offset": offset} if entry.offset < 1 << 30 else {}
            entries.append(entry._replace(stored_hash=blake3(chunk).digest(), **changed))
            offset += len(chunk)
        table = b"".join(ENTRY.pack(*entry) for entry in entries) + self.keys
        header = self.header._replace(table_offset=offset, table_hash=blake3(table).digest())._replace(**self.fields)
        return header.pack() + b"".join(self.chunks) + table


def written(folder: Path, data: bytes) -> Path:
    """A snapshot with this file, and a manifest that vouches for it."""
    root = blake3(data[:HEADER_BYTES]).digest()
    (folder / file_name("s", root)).write_bytes(data)
    (folder / "manifest").write_bytes(encode(Manifest(0, (ShardLine("s", root, len(data), len(RECORDS), 0),))))
    return folder


def used(folder: Path) -> dict[bytes, bytes] | None:
    """All that can be done with it; None when it was refused."""
    tracemalloc.start()
    try:
        verify(folder, deep=True)
        with Snapshot.open(folder) as snapshot:
            shard = snapshot.shard("s")
            found = {key: shard.get(key) for key in [*RECORDS, b"", b"none"]}
            return found | dict(shard) | dict(shard.range(b"key 01", b"key 02"))
    except SnapshotError as error:
        assert error.message and error.hint
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY_MAX


def test_what_is_forged_well_is_as_good(small, tmp_path):
    assert Forged(small).data() == small
    assert {key: value for key, value in used(written(tmp_path, small)).items() if value is not None} == RECORDS


HEADER_FIELDS = {
    "records": 64, "slots": 64, "data_chunks": 32, "table_chunks": 32, "files": 32, "probes": 32, "keys_bytes": 64,
    "keys_raw_bytes": 64, "raw_bytes": 64, "table_offset": 64,
}  # fmt: skip
ENTRY_FIELDS = {
    "offset": 64, "stored_bytes": 32, "raw_bytes": 32, "records": 32, "file": 16, "form": 8, "kind": 8, "key_offset": 32,
    "key_bytes": 32,
}  # fmt: skip


def numbers(bits: int) -> st.SearchStrategy[int]:
    return st.one_of(
        st.integers(0, min(300, 2**bits - 1)),
        st.integers(0, 2**bits - 1),
        st.sampled_from([2**bits - 1, 2 ** (bits - 1), 65535 % 2**bits]),
    )


def a_field(fields: dict[str, int]) -> st.SearchStrategy[tuple[str, int]]:
    return st.sampled_from(sorted(fields)).flatmap(lambda name: st.tuples(st.just(name), numbers(fields[name])))


@settings(max_examples=150)
@given(
    fields=st.lists(a_field(HEADER_FIELDS), max_size=2),
    entries=st.lists(st.tuples(st.integers(0, 1), a_field(ENTRY_FIELDS)), max_size=3),
    words=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 10_000), numbers(32)), max_size=4),
)
def test_a_signer_can_say_anything(small, fields, entries, words):
    forged = Forged(small)
    for number, (name, value) in entries:
        forged.entries[number] = forged.entries[number]._replace(**{name: value})
    for number, at, word in words:
        chunk = bytearray(forged.chunks[number])
        struct.pack_into("<I", chunk, at % (len(chunk) // 4) * 4, word)
        forged.chunks[number] = bytes(chunk)
    forged.fields = dict(fields)
    with tempfile.TemporaryDirectory() as name:
        try:
            data = forged.data()
        except struct.error:
            assume(False)  # the sum of what it says of itself has no room in the header
        used(written(Path(name), data))


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=4),
    st.integers(0, 5000),
    st.binary(max_size=40),
)
def test_files_that_are_cut_changed_and_longer(small, changes, cut, more):
    data = bytearray(small)
    for at, value in changes:
        data[at % len(data)] = value
    data = data[: len(data) - cut % len(data)] if cut % 3 else data
    with tempfile.TemporaryDirectory() as name:
        folder = written(Path(name), small)
        path = next(folder.glob("*.shard"))
        path.write_bytes(bytes(data) + more)
        found = used(folder)
        assert (
            bytes(data) + more == small or found is None or {k: v for k, v in found.items() if v is not None} == RECORDS
        )


@given(st.one_of(st.binary(max_size=300), st.recursive(
    st.one_of(st.none(), st.integers(-5, 2**63), st.binary(max_size=40), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=8), inner, max_size=6)),
).map(lambda value: msgpack.packb([msgpack.packb(value), b"", blake3(msgpack.packb(value)).digest()]))))  # fmt: skip
def test_any_manifest_is_one_or_is_refused(data):
    try:
        decode(data, "it")
    except (SnapshotMalformed, SnapshotDamaged):
        pass


@given(st.sampled_from(["v", "created_ms", "parent", "shards", "about"]), st.one_of(st.none(), st.integers(), st.text(max_size=3), st.lists(
    st.lists(st.one_of(st.integers(-3, 2**62), st.text(max_size=4), st.binary(min_size=31, max_size=33), st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=3)), min_size=5, max_size=7), max_size=3)))  # fmt: skip
def test_manifests_whose_fields_are_others(name, value):
    fields = {"v": 1, "created_ms": 5, "parent": b"", "shards": [], "about": {}} | {name: value}
    try:
        body = msgpack.packb(fields)
    except OverflowError:
        return
    try:
        decode(msgpack.packb([body, b"", blake3(body).digest()]), "it")
    except (SnapshotMalformed, SnapshotDamaged):
        pass


def test_lengths_that_nest_take_no_memory():
    bomb = b"\xdd\x00\xff\xff\xff" * 100_000
    tracemalloc.start()
    with pytest.raises(SnapshotMalformed):
        decode(bomb, "it")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("claimed", [100, 1 << 20, 1 << 26])
def test_a_chunk_that_would_grow_without_end_is_refused(small, tmp_path, claimed):
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    forged = Forged(small)
    forged.put(0, bomb)
    forged.entries[0] = forged.entries[0]._replace(form=2, raw_bytes=claimed)
    assert used(written(tmp_path, forged.data())) is None


@pytest.mark.parametrize("value", [8, 9, 0xFFFFFFFF, 0x7FFFFFFF, 600])
def test_slots_that_lead_in_circles_end(small, tmp_path, value):
    forged = Forged(small)
    chunk = bytearray(forged.chunks[0])
    slots = struct.unpack_from("<I", chunk, 4)[0]
    for i in range(slots):  # no slot is free: a key that is not there would be looked for for ever
        struct.pack_into("<I", chunk, len(chunk) - 4 * slots + 4 * i, value)
    forged.chunks[0] = bytes(chunk)
    table = bytearray(forged.chunks[1])
    for at in range(4, len(table), 8):
        struct.pack_into("<I", table, at, 1)
    forged.chunks[1] = bytes(table)
    used(written(tmp_path, forged.data()))


def test_names_lead_nowhere_else(tmp_path):
    for name in ("../x", "a/b", "", ".", "A", "a" * 65, "a\0b"):
        with pytest.raises(SnapshotMalformed, match="name"):
            decode(encode(Manifest(0, (ShardLine(name, bytes(32), 1, 0, 0),))), "it")


def test_a_later_version_is_said_to_be_one(small, tmp_path):
    head = list(HEADER.unpack(small[:HEADER_BYTES]))
    head[1] = 2
    folder = written(tmp_path, HEADER.pack(*head) + small[HEADER_BYTES:])
    with Snapshot.open(folder) as snapshot, pytest.raises(SnapshotMalformed, match="version 2"):
        snapshot.shard("s")
