"""Large values as records of snapshots: as the format's page says, one in memory at a time, each under its own id."""

from __future__ import annotations

import random
import re
from pathlib import Path

import msgpack
import pytest

from kernels.plain import decode_plain, encode_plain
from nodes.knowledge import snapshot_files
from nodes.knowledge.blob_files import DIRECTORY, BlobFiles
from nodes.knowledge.blob_records import BlobRecords
from nodes.knowledge.rebuilding import Rebuilt
from nodes.knowledge.snapshot_files import BLOBS, blob, blob_of
from swarm.protocol.knowledge.blobs import id_of
from swarm.snapshots.checking import repair, verify
from swarm.snapshots.errors import SnapshotMalformed
from swarm.snapshots.snapshot import Snapshot, create

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "snapshot-format.md"


def values(count: int) -> list[bytes]:
    rng = random.Random(1)
    found = [encode_plain(rng.randbytes(30_000 + 9000 * number), 1 << 30) for number in range(count)]
    return [raw for raw in found if raw is not None]


def test_the_vector_of_the_page() -> None:
    id, value = (bytes.fromhex(block) for block in re.findall(r"```text\n([0-9a-f]+)\n```", PAGE.read_text())[-2:])
    assert decode_plain(blob_of(id, value)) == "hello"
    assert msgpack.packb(encode_plain("hello")) == value and id_of(encode_plain("hello") or b"") == id
    for wrong in (b"", b"\xc0", value[:-1], value[:-1] + b"x", msgpack.packb(b""), b"\xc1"):
        with pytest.raises(SnapshotMalformed):
            blob_of(id, wrong)


def test_records_are_those_that_are_there(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path, 1 << 30)
    ids = sorted(files.put(raw) for raw in values(6))
    records = BlobRecords(files)
    assert len(records) == 6 and [id for id, _ in records] == ids
    assert [id for id, _ in records[2:4]] == ids[2:4] and records[0][0] == ids[0]
    (tmp_path / DIRECTORY / ids[1].hex()).write_bytes(b"rot")
    assert [id for id, _ in records] == [ids[0], *ids[2:]]
    with pytest.raises(LookupError):
        records[1]


def test_a_snapshot_has_them_and_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path, 1 << 30)
    every = values(8)
    for raw in every:
        files.put(raw)
    folder = tmp_path / "one"
    create(folder, {BLOBS: BlobRecords(files), "other": [(b"k", b"\x01")]}, created_ms=1, in_order=True)
    with Snapshot.open(folder) as snapshot:
        assert [blob(snapshot, id_of(raw)) for raw in every] == every
        assert blob(snapshot, bytes(32)) is None
    (path,) = folder.glob(f"{BLOBS}-*")
    whole = path.read_bytes()
    path.write_bytes(whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:])
    report = verify(folder)
    assert not report.whole
    files.put(encode_plain("one more" * 20_000, 1 << 30) or b"")
    rebuilt = Rebuilt(folder, ".made", report, {BLOBS: BlobRecords(files)}, bytes(32))
    _, after = repair(folder, rebuilt, report=report)
    rebuilt.close()
    assert after.whole and path.read_bytes() == whole


def test_one_of_an_earlier_release_has_none(tmp_path: Path) -> None:
    contents = snapshot_files.Contents(1, 0, 2, b"", {0: [(b"p", b"x")]})
    shards = snapshot_files.records(contents)
    assert BLOBS not in shards
    create(tmp_path / "old", {name: list(rows) for name, rows in shards.items()}, created_ms=1, in_order=True)
    with Snapshot.open(tmp_path / "old") as snapshot:
        assert blob(snapshot, bytes(32)) is None
