"""Every bit counts: one that is flipped, anywhere, is found; and what is damaged is taken from another copy."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from swarm.snapshots import Snapshot, SnapshotDamaged, SnapshotError, create
from swarm.snapshots.checking import repair, verify
from swarm.snapshots.copies import FolderCopy
from transport.signed import signed_bytes

STEP = int(os.environ.get("SNAPSHOT_FLIP_STEP", "6208"))
"""Bits from one flip to the next in the pair of snapshots that share files; the small one has each of its bits flipped."""
KEY = SigningKey(b"s" * 32)
SIGNER = (KEY.verify_key.encode(), lambda body: KEY.sign(signed_bytes("snapshot", body)).signature)
RECORDS = [(b"key %d" % i, b"value %d" % i) for i in range(3)]


def flips(folder: Path, step: int = 1):
    """Each bit of each file flipped, one at a time."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for bit in range(0, len(data) * 8, step):
            place, mask = bit // 8, 1 << (bit + bit // 8) % 8
            put(path, place, data[place] ^ mask)
            yield path, place
            put(path, place, data[place])


def put(path: Path, place: int, value: int) -> None:
    with path.open("r+b", buffering=0) as file:  # opened anew: what repairs may have put another file there
        file.seek(place)
        file.write(bytes([value]))


def read_all(folder: Path) -> tuple[dict[bytes, bytes | None], list[int]]:
    with Snapshot.open(folder, trusted=lambda public: public == SIGNER[0]) as snapshot:
        shard = snapshot.shard("s")
        return {key: shard.get(key) for key, _ in RECORDS} | dict(shard), shard.damaged


def test_every_flipped_bit_of_a_small_snapshot_is_found(tmp_path):
    folder = create(tmp_path / "s", {"s": RECORDS}, created_ms=0, signer=SIGNER).folder
    assert verify(folder).whole
    count = 0
    for path, place in flips(folder):
        report = verify(folder, threads=1)
        assert not report.whole, f"bit in byte {place} of {path.name}"
        named = {each.file for each in report.damage}
        assert named == {path.name}
        try:  # reading finds it, too, or does without: all of so small a one is touched
            found, damaged = read_all(folder)
            assert found == dict(RECORDS) and damaged, f"bit in byte {place} of {path.name}"
        except SnapshotError:
            pass
        count += 1
    assert count == 8 * sum(path.stat().st_size for path in folder.iterdir()) > 4000
    assert verify(folder).whole and read_all(folder) == (dict(RECORDS), [])


def test_flipped_bits_of_files_that_snapshots_share_are_found_and_repaired(tmp_path):
    records = {b"k%03d" % i: random.Random(i).randbytes(900) for i in range(90)}
    create(tmp_path / "1", {"s": records.items()}, created_ms=0)
    records[b"k000"] = b"changed"
    folder = create(tmp_path / "2", {"s": records.items()}, created_ms=0, base=tmp_path / "1").folder
    shutil.copytree(folder, tmp_path / "copy")
    assert len(list(folder.iterdir())) == 3
    copy = FolderCopy(tmp_path / "copy")
    for number, (path, place) in enumerate(flips(folder, STEP)):
        assert not verify(folder, threads=1).whole, f"bit in byte {place} of {path.name}"
        if number % 20 == 0:
            repaired, after = repair(folder, copy)
            assert after.whole and repaired and {each.file for each in repaired} == {path.name}
    copy.close()


def test_what_is_damaged_is_said_by_number_and_place_and_repaired(tmp_path):
    records = {b"k%05d" % i: random.Random(i).randbytes(200) for i in range(5000)}
    folder = create(tmp_path / "s", {"s": records.items()}, created_ms=0, signer=SIGNER).folder
    shutil.copytree(folder, tmp_path / "copy")
    with Snapshot.open(folder) as snapshot:
        entry = snapshot.shard("s").entry(3)
    path = next(folder.glob("*.shard"))
    data = bytearray(path.read_bytes())
    data[entry.offset + 9] ^= 4
    path.write_bytes(data)
    (damage,) = verify(folder).damage
    assert (damage.chunk, damage.offset, damage.size_bytes, damage.hash) == (
        3,
        entry.offset,
        entry.stored_bytes,
        entry.stored_hash,
    )

    class Liar:
        def manifest(self):
            return b"no manifest"

        def head(self, shard, root):
            return bytes(5000)

        def chunk(self, hash):
            return bytes(entry.stored_bytes)

    repaired, after = repair(folder, Liar())
    assert not repaired and not after.whole and path.read_bytes() == data, "what is no better is not taken"
    repaired, after = repair(folder, FolderCopy(tmp_path / "copy"))
    assert [each.chunk for each in repaired] == [3] and after.whole


def test_what_the_disk_cannot_read_is_damage_as_any_other(tmp_path, monkeypatch):
    records = {b"k%05d" % i: random.Random(i).randbytes(200) for i in range(5000)}
    folder = create(tmp_path / "s", {"s": records.items()}, created_ms=0, compress=False).folder
    shutil.copytree(folder, tmp_path / "copy")
    with Snapshot.open(folder) as snapshot:
        entry, first = snapshot.shard("s").entry(2), snapshot.shard("s").first_key(2)
    real, real_into, bad = os.pread, os.preadv, os.stat(next(folder.glob("*.shard"))).st_ino

    def pread(fd, size, offset):
        if os.fstat(fd).st_ino == bad and offset <= entry.offset < offset + size:
            raise OSError(5, "Input/output error")
        return real(fd, size, offset)

    def preadv(fd, buffers, offset):
        if os.fstat(fd).st_ino == bad and offset <= entry.offset < offset + sum(map(len, buffers)):
            raise OSError(5, "Input/output error")
        return real_into(fd, buffers, offset)

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(os, "preadv", preadv)
    (damage,) = verify(folder).damage
    assert damage.chunk == 2
    copy = FolderCopy(tmp_path / "copy")
    with Snapshot.open(folder) as snapshot, pytest.raises(SnapshotDamaged, match="cannot read"):
        snapshot.shard("s").get(first)
    with Snapshot.open(folder, repair=copy.chunk) as snapshot:
        assert dict(snapshot.shard("s")) == records and snapshot.shard("s").damaged == [2]
    copy.close()


def test_what_has_rotted_in_the_base_is_written_again(tmp_path):
    records = {b"k%05d" % i: random.Random(i).randbytes(200) for i in range(3000)}
    folder = create(tmp_path / "1", {"s": records.items()}, created_ms=0).folder
    with Snapshot.open(folder) as snapshot:
        entry = snapshot.shard("s").entry(1)
    path = next(folder.glob("*.shard"))
    data = bytearray(path.read_bytes())
    data[entry.offset] ^= 1
    path.write_bytes(data)
    created = create(tmp_path / "2", {"s": records.items()}, created_ms=0, base=folder)
    assert created.written[0].shared_chunks == created.written[0].chunks - 1
    with Snapshot.open(tmp_path / "2") as snapshot:
        assert dict(snapshot.shard("s")) == records, "every record of it can be read"
    assert [each.chunk for each in verify(tmp_path / "2").damage] == [1], (
        "the file that both have is still a damaged one"
    )
    repaired, after = repair(folder, FolderCopy(tmp_path / "2"))
    assert after.whole and len(repaired) == 1 and verify(tmp_path / "2").whole


@pytest.mark.parametrize("what", ["cut", "empty", "gone", "longer", "noise", "manifest", "all"])
def test_whole_files_come_again(tmp_path, what):
    records = {b"k%05d" % i: random.Random(i).randbytes(200) for i in range(3000)}
    folder = create(tmp_path / "s", {"s": records.items(), "t": RECORDS}, created_ms=0, signer=SIGNER).folder
    shutil.copytree(folder, tmp_path / "copy")
    path = next(folder.glob("s-*.shard"))
    data = path.read_bytes()
    match what:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "empty":
            path.write_bytes(b"")
        case "gone" | "all":
            path.unlink()
        case "longer":
            path.write_bytes(data + b"x")
        case "noise":
            path.write_bytes(random.Random(0).randbytes(len(data)))
    if what in ("manifest", "all"):
        (folder / "manifest").write_bytes(b"x")
    assert not verify(folder).whole
    _, after = repair(folder, FolderCopy(tmp_path / "copy"), trusted=lambda public: public == SIGNER[0])
    assert after.whole and verify(folder, deep=True).whole
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == {
        each.name: each.read_bytes() for each in (tmp_path / "copy").iterdir()
    }


def test_a_shared_file_that_is_gone_is_missed_by_the_chunks_that_stand_in_it(tmp_path):
    records = {b"k%05d" % i: random.Random(i).randbytes(200) for i in range(3000)}
    create(tmp_path / "1", {"s": records.items()}, created_ms=0)
    records[b"k00000"] = b"changed"
    folder = create(tmp_path / "2", {"s": records.items()}, created_ms=0, base=tmp_path / "1").folder
    with Snapshot.open(folder) as snapshot:
        shared = snapshot.shard("s").roots[0].hex()[:32]
    (folder / f"s-{shared}.shard").unlink()
    with Snapshot.open(folder) as snapshot:
        shard = snapshot.shard("s")
        assert shard.get(b"k00000") == b"changed", "found by order, where the table of keys is gone"
        with pytest.raises(SnapshotDamaged) as caught:
            dict(shard)
        assert caught.value.hash == shard.entry(caught.value.chunk).stored_hash
    _, after = repair(folder, FolderCopy(tmp_path / "1"))
    assert after.whole
