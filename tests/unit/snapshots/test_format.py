"""The format as docs/reference/snapshot-format.md has it: its vectors are made and read, and a second reader, written from that page
alone, reads what the writer writes."""

from __future__ import annotations

import random
import re
from pathlib import Path

import msgpack
import nacl.bindings
import pytest
import zstandard
from blake3 import blake3

from swarm.snapshots import Snapshot, create
from swarm.snapshots.checking import verify
from swarm.snapshots.format import DATA, slots_for
from swarm.snapshots.sealing import Sealer

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "snapshot-format.md"
VECTORS = [bytes.fromhex(block) for block in re.findall(r"```text\n([0-9a-f\n]+)```", PAGE.read_text())]
PEOPLE = {b"ann": 1, b"bob": {"age": 7}, b"eve": None}
KEY = bytes(range(32))


class SecondReader:
    """Reads one shard; imports nothing of ours. Trusting: it is the writer that is tried here."""

    def __init__(self, folder: Path, name: str, key: bytes = b"") -> None:
        self.folder, self.name = folder, name
        body, signer, signature = msgpack.unpackb((folder / "manifest").read_bytes())
        assert signer or signature == blake3(body).digest()
        line = next(line for line in msgpack.unpackb(body)["shards"] if line[0] == name)
        self.file = self.read(line[1])
        assert (
            blake3(self.file[:256]).digest() == line[1] and len(self.file) == line[2] and self.file[:8] == b"SWRMSNAP"
        )
        start = self.number(self.file, 16, 8)
        self.slots, self.data, self.tables, others, self.probes = (
            self.number(self.file, at, size) for at, size in ((40, 8), (48, 4), (52, 4), (56, 4), (60, 4))
        )
        self.salt = self.file[88:104]
        table = self.file[start:]
        assert blake3(table).digest() == self.file[168:200]
        self.keys = {
            use: blake3(key + name.encode(), derive_key_context=f"swarm snapshots 2026-11 {use}").digest()
            for use in ("encryption", "nonce", "content", "check")
        }
        count = self.data + self.tables
        self.entries = [table[96 * i : 96 * i + 96] for i in range(count)]
        roots = [table[96 * count + 32 * i :][:32] for i in range(others)]
        self.files = [self.file, *map(self.read, roots)]
        encrypted = self.number(self.file, 10, 2)
        assert not encrypted or self.file[200:216] == self.keys["check"][:16]
        self.first_keys = self.opened(table[96 * count + 32 * others :], encrypted, 2)
        self.chunks = [self.chunk(entry) for entry in self.entries]

    @staticmethod
    def number(data: bytes, at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    def read(self, root: bytes) -> bytes:
        return (self.folder / f"{self.name}-{root.hex()[:32]}.shard").read_bytes()

    def chunk(self, entry: bytes) -> bytes:
        at, size, raw, file = (self.number(entry, at, size) for at, size in ((64, 8), (72, 4), (76, 4), (84, 2)))
        stored = self.files[file][at : at + size]
        assert blake3(stored).digest() == entry[:32]
        content = self.opened(stored, entry[86], entry[87])
        keyed = {"key": self.keys["content"]} if entry[86] & 1 else {}
        assert len(content) == raw and blake3(content, **keyed).digest() == entry[32:64]
        return content

    def opened(self, stored: bytes, form: int, kind: int) -> bytes:
        if form & 1:
            nonce = stored[:24]
            stored = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                stored[24:], bytes([kind, form]), nonce, self.keys["encryption"]
            )
            assert nonce == blake3(bytes([kind, form]) + stored, key=self.keys["nonce"]).digest()[:24]
        return zstandard.ZstdDecompressor().decompress(stored) if form & 2 else stored

    def siphash(self, key: bytes) -> int:
        k = self.number(self.salt, 0, 8), self.number(self.salt, 8, 8)
        a, b, c, d = (
            x ^ k[i & 1]
            for i, x in enumerate((0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573))
        )
        mask = 2**64 - 1

        def turned(x: int, by: int) -> int:
            return (x << by | x >> 64 - by) & mask

        def mixed(a: int, b: int, c: int, d: int, rounds: int) -> tuple[int, int, int, int]:
            for _ in range(rounds):
                a, c = a + b & mask, c + d & mask
                b, d = turned(b, 13) ^ a, turned(d, 16) ^ c
                a = turned(a, 32)
                c, a = c + b & mask, a + d & mask
                b, d = turned(b, 17) ^ c, turned(d, 21) ^ a
                c = turned(c, 32)
            return a, b, c, d

        padded = key + bytes(-(len(key) + 1) % 8) + bytes([len(key) % 256])
        for at in range(0, len(padded), 8):
            word = self.number(padded, at, 8)
            a, b, c, d = mixed(a, b, c, d ^ word, 2)
            a ^= word
        a, b, c, d = mixed(a, b, c ^ 255, d, 4)
        return a ^ b ^ c ^ d

    def records(self) -> dict[bytes, bytes]:
        found = {}
        for entry, chunk in zip(self.entries[: self.data], self.chunks, strict=False):
            at, first = 8, self.number(entry, 88, 4)
            count = self.number(chunk, 0, 4)
            assert count == self.number(entry, 80, 4)
            for number in range(count):
                k, v = self.number(chunk, at, 2), self.number(chunk, at + 2, 4)
                key, value = chunk[at + 6 : at + 6 + k], chunk[at + 6 + k : at + 6 + k + v]
                assert number or key == self.first_keys[first : first + self.number(entry, 92, 4)]
                found[key] = value
                at += 6 + k + v
            assert at == len(chunk) - 4 * self.number(chunk, 4, 4)
        return found

    def get(self, key: bytes) -> bytes | None:
        h, table = self.siphash(key), b"".join(self.chunks[self.data :])
        home = h * self.slots >> 64
        for slot in range(home, home + self.probes):
            half, number = self.number(table, 8 * slot, 4), self.number(table, 8 * slot + 4, 4)
            if not number:
                return None
            if half == h % 2**32:
                chunk = self.chunks[number - 1]
                m = self.number(chunk, 4, 4)
                at = half * m >> 32
                while slot := self.number(chunk, len(chunk) - 4 * m + 4 * at, 4):
                    offset, tag = slot % 2**20, slot >> 20
                    k, v = self.number(chunk, offset, 2), self.number(chunk, offset + 2, 4)
                    if chunk[offset + 6 : offset + 6 + k] == key:
                        assert tag == h >> 32 & 0xFFF
                        return chunk[offset + 6 + k : offset + 6 + k + v]
                    at = (at + 1) % m
        return None


def test_the_vectors_are_what_is_written(tmp_path):
    records = [(key, msgpack.packb(value)) for key, value in PEOPLE.items()]
    folder = create(tmp_path / "v", {"people": records}, created_ms=1_700_000_000_000, compress=False).folder
    (path,) = folder.glob("*.shard")
    assert path.name in PAGE.read_text()
    assert path.read_bytes() == VECTORS[0] and (folder / "manifest").read_bytes() == VECTORS[1]


def test_the_vectors_are_read_by_both(tmp_path):
    name = re.search(r"people-[0-9a-f]{32}\.shard", PAGE.read_text())[0]
    (tmp_path / name).write_bytes(VECTORS[0])
    (tmp_path / "manifest").write_bytes(VECTORS[1])
    assert verify(tmp_path, deep=True).whole
    with Snapshot.open(tmp_path) as snapshot:
        assert {key: msgpack.unpackb(value) for key, value in snapshot.shard("people")} == PEOPLE
    reader = SecondReader(tmp_path, "people")
    assert {key: msgpack.unpackb(value) for key, value in reader.records().items()} == PEOPLE
    assert msgpack.unpackb(reader.get(b"bob")) == PEOPLE[b"bob"] and reader.get(b"dan") is None


def test_the_vectors_of_encryption():
    stored, content, check = VECTORS[2:5]
    sealer = Sealer("people", KEY, compress=False)
    assert sealer.seal(b"hello", DATA) == (stored, 1)
    assert sealer.content_hash(b"hello") == content and sealer.check == check
    assert sealer.open(stored, 1, DATA, 5, "here") == b"hello"


@pytest.mark.parametrize(
    "form",
    [{"compress": False}, {}, {"key": KEY}, {"key": KEY, "compress": False}, {"salts": {"s": b"0123456789abcdef"}}],
)
def test_a_second_reader_reads_it(tmp_path, form):
    records = {b"%d" % i: random.Random(i).randbytes(i % 300) + bytes(i % 200) for i in range(2500)}
    create(tmp_path / "1", {"s": records.items()}, created_ms=0, **form)
    records[b"77"] = b"changed"
    create(tmp_path / "2", {"s": records.items()}, created_ms=0, base=tmp_path / "1", **form)
    reader = SecondReader(tmp_path / "2", "s", form.get("key", b""))
    assert len(reader.files) == 2 and reader.records() == records
    for key in [*list(records)[::25], b"77", b"none", b""]:
        assert reader.get(key) == records.get(key)


def test_slots_grow_in_steps():
    for records in [*range(3000), 10**6, 10**7, 2**40]:
        slots = slots_for(records)
        assert slots * 7 >= records * 10 and (records < 8 or slots <= records * 1.8)
        while slots > 8 and slots % 2 == 0:
            slots //= 2
        assert slots in (0, 2, 4, 5, 6, 7, 8)
    assert slots_for(1_000_000) == slots_for(1_000_500)
