"""Snapshots hold what they were given, find it by key and by range, share what did not change, and open without reading it."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from swarm.errors import NotFound
from swarm.snapshots import (
    Snapshot,
    SnapshotDamaged,
    SnapshotExists,
    SnapshotKeyNeeded,
    SnapshotMalformed,
    SnapshotUntrusted,
    create,
    read_manifest,
)
from swarm.snapshots.checking import verify
from swarm.snapshots.differences import differences
from swarm.snapshots.ordering import ordered
from swarm.snapshots.writing import write_shard
from transport.signed import signed_bytes

KEY = b"k" * 32
RECORDS = st.dictionaries(st.binary(max_size=6), st.binary(max_size=30), max_size=40)
FORMS = [{"compress": False}, {}, {"key": KEY}]


def many(count: int, seed: int = 1) -> dict[bytes, bytes]:
    draw = random.Random(seed)
    return {b"key:%06d" % i: draw.randbytes(30) + b"text " * 20 for i in range(count)}


def content(folder: Path, key: bytes | None = None) -> dict[str, dict[bytes, bytes]]:
    with Snapshot.open(folder, key=key) as snapshot:
        return {shard.name: dict(shard) for shard in snapshot}


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from(["facts", "lessons", "a-b.c_d"]), RECORDS, max_size=2),
    st.sampled_from(FORMS),
    RECORDS,
)
def test_what_was_put_in_comes_out(shards, form, other):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "s"
        given_order = {shard: list(records.items())[::-1] for shard, records in shards.items()}
        create(folder, given_order, created_ms=5, run_bytes=600, **form)
        assert content(folder, form.get("key")) == shards
        assert verify(folder, deep=True, key=form.get("key")).whole
        with Snapshot.open(folder, key=form.get("key")) as snapshot:
            for shard in snapshot:
                model = shards[shard.name]
                assert len(shard) == len(model) and list(shard) == sorted(model.items())
                for key in [*model, *other]:
                    assert shard.get(key) == model.get(key) and (key in shard) == (key in model)
                assert shard.get_many([*model, *other]) == [model.get(key) for key in [*model, *other]]
                for start in list(other)[:3]:
                    for stop in [*list(other)[:2], None]:
                        wanted = [k for k in sorted(model) if k >= start and (stop is None or k < stop)]
                        assert [key for key, _ in shard.range(start, stop)] == wanted


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_record_costs_a_chunk_or_two(tmp_path, form):
    records = many(20_000)
    whole = create(tmp_path / "0", {"facts": records.items()}, created_ms=0, **form)
    model = [records]
    draw = random.Random(2)
    for turn in range(1, 8):
        records = dict(records)
        records[draw.choice(list(records))] = b"changed %d" % turn
        if turn % 2:
            del records[draw.choice(list(records))]
            records[b"key:%06d.new" % draw.randrange(20_000)] = b"new"
        created = create(
            tmp_path / str(turn), {"facts": records.items()}, created_ms=turn, base=tmp_path / str(turn - 1), **form
        )
        assert created.manifest.parent == read_manifest(tmp_path / str(turn - 1)).id
        assert created.new_bytes < whole.new_bytes / 2
        model.append(records)
    for turn, records in enumerate(model):
        assert content(tmp_path / str(turn), form.get("key")) == {"facts": records}
        assert verify(tmp_path / str(turn)).whole
    # the files are shared, so any of the snapshots can go
    for path in (tmp_path / "0").iterdir():
        path.unlink()
    assert content(tmp_path / "7", form.get("key")) == {"facts": model[7]}


def test_what_is_hardly_used_any_more_is_written_again(tmp_path):
    records = many(10_000)
    create(tmp_path / "0", {"s": records.items()}, created_ms=0)
    for turn in range(1, 7):
        for i in range(1500):
            records[b"key:%06d" % (turn * 1500 + i)] = b"other %d" % turn
        create(tmp_path / str(turn), {"s": records.items()}, created_ms=0, base=tmp_path / str(turn - 1))
    last = read_manifest(tmp_path / "6").shards[0]
    first = read_manifest(tmp_path / "0").shards[0].root
    assert first not in [root for root, _ in last.files]
    assert content(tmp_path / "6") == {"s": records}


def test_the_same_records_make_the_same_file_in_any_order_and_by_any_number_of_threads(tmp_path):
    records = list(many(5000).items())
    random.Random(1).shuffle(records)
    one = create(tmp_path / "1", {"s": records}, created_ms=1, threads=1)
    two = create(tmp_path / "2", {"s": sorted(records)}, created_ms=1, threads=7, in_order=True)
    three = create(tmp_path / "3", {"s": iter(records)}, created_ms=1, run_bytes=100_000)
    assert one.manifest.shards == two.manifest.shards == three.manifest.shards


def test_of_several_records_with_one_key_the_last_counts(tmp_path):
    for run_bytes in (1, 500, 1 << 20):
        records = [(b"%d" % (i % 7), b"%d" % i) for i in range(100)]
        assert list(ordered(iter(records), tmp_path, run_bytes=run_bytes)) == sorted(dict(records).items())
    assert not list(tmp_path.iterdir())


def test_many_keys_are_found_as_one_by_one_whatever_was_touched_before(tmp_path):
    folder = create(tmp_path / "s", {"s": many(5000).items()}, created_ms=0).folder
    with Snapshot.open(folder) as snapshot:
        fresh = snapshot.shard("s")
        asked = [b"key:%06d" % i for i in range(0, 5000, 70)] + [b"none"]
        assert fresh.get_many(asked) == [fresh.get(key) for key in asked]
        assert None not in fresh.get_many(asked[:-1]) and fresh.get_many(asked)[-1] is None


def test_opening_reads_no_chunk(tmp_path):
    folder = create(tmp_path / "s", {"s": many(5000).items()}, created_ms=0, compress=False).folder
    path = next(folder.glob("*.shard"))
    data = bytearray(path.read_bytes())
    with Snapshot.open(folder) as snapshot:
        entries = list(snapshot.shard("s").entries())
    for entry in entries[1:5]:
        data[entry.offset + 100] ^= 1
    path.write_bytes(data)
    with Snapshot.open(folder) as snapshot:
        shard = snapshot.shard("s")
        first, after = shard.first_key(1), shard.first_key(5)
        assert shard.get(b"key:000000") is not None and shard.get(after) is not None
        with pytest.raises(SnapshotDamaged) as caught:
            shard.get(first)
        assert (caught.value.chunk, caught.value.offset, caught.value.shard) == (1, entries[1].offset, "s")
        assert shard.get(after) is not None, "all others can still be read"
        assert shard.damaged == [1]


def test_a_damaged_chunk_is_taken_from_elsewhere_when_it_is_touched(tmp_path):
    records = many(5000)
    folder = create(tmp_path / "s", {"s": records.items()}, created_ms=0).folder
    path = next(folder.glob("*.shard"))
    data = bytearray(path.read_bytes())
    with Snapshot.open(folder) as snapshot:
        good = {
            entry.stored_hash: bytes(data[entry.offset :][: entry.stored_bytes])
            for entry in snapshot.shard("s").entries()
        }
        entry = snapshot.shard("s").entry(2)
    data[entry.offset] ^= 128
    path.write_bytes(data)
    for answer in (lambda hash: None, lambda hash: b"wrong", lambda hash: good[hash][:-1]):
        with Snapshot.open(folder, repair=answer) as snapshot, pytest.raises(SnapshotDamaged):
            dict(snapshot.shard("s"))
    with Snapshot.open(folder, repair=good.get) as snapshot:
        assert dict(snapshot.shard("s")) == records and snapshot.shard("s").damaged == [2]


def test_chunks_that_were_opened_are_kept_within_bounds(tmp_path):
    records = many(20_000)
    create(tmp_path / "s", {"s": records.items()}, created_ms=0)
    with Snapshot.open(tmp_path / "s", cache_bytes_max=300_000) as snapshot:
        shard = snapshot.shard("s")
        draw = random.Random(0)
        for key in draw.sample(sorted(records), 300):
            assert shard.get(key) == records[key]
        assert shard._cache_bytes <= 300_000 or len(shard._cache) <= 4


def test_the_key_is_needed_and_has_to_be_the_right_one(tmp_path):
    secret = b"what nobody is to read"
    create(tmp_path / "s", {"s": [(b"name of it", secret)]}, created_ms=0, key=KEY, compress=False)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "s").iterdir())
    assert secret not in stored and b"name of it" not in stored
    assert verify(tmp_path / "s").whole, "that needs no key"
    for key in (None, b"x" * 32):
        with Snapshot.open(tmp_path / "s", key=key) as snapshot:
            for read in (lambda: snapshot.shard("s").get(b"name of it"), lambda: list(snapshot.shard("s"))):
                with pytest.raises(SnapshotKeyNeeded):
                    read()


def test_encrypted_chunks_that_did_not_change_are_shared_and_those_of_another_shard_are_not(tmp_path):
    records = many(5000)
    create(tmp_path / "1", {"a": records.items(), "b": records.items()}, created_ms=0, key=KEY)
    created = create(tmp_path / "2", {"a": records.items()}, created_ms=0, key=KEY, base=tmp_path / "1")
    assert created.written[0].shared_chunks == created.written[0].chunks
    with Snapshot.open(tmp_path / "1", key=KEY) as snapshot:
        hashes = [{entry.content_hash for entry in shard.entries()} for shard in snapshot]
        assert not hashes[0] & hashes[1]
    again = create(tmp_path / "3", {"a": records.items()}, created_ms=0, key=b"x" * 32, base=None)
    assert again.written[0].shared_chunks == 0


def test_who_signed_is_asked_for(tmp_path):
    key = SigningKey.generate()
    signer = (key.verify_key.encode(), lambda body: key.sign(signed_bytes("snapshot", body)).signature)
    create(tmp_path / "s", {"s": [(b"a", b"b")]}, created_ms=77, signer=signer, about={"node": "oak"})
    create(tmp_path / "unsigned", {"s": [(b"a", b"b")]}, created_ms=0)
    manifest = read_manifest(tmp_path / "s", trusted=lambda public: public == signer[0])
    assert (manifest.signer, manifest.created_ms, manifest.about) == (signer[0], 77, {"node": "oak"})
    for name in ("s", "unsigned"):
        with pytest.raises(SnapshotUntrusted):
            Snapshot.open(tmp_path / name, trusted=lambda public: public == b"x" * 32)


def test_there_is_a_snapshot_or_there_is_none(tmp_path):
    create(tmp_path / "s", {"s": [(b"a", b"b")]}, created_ms=0)
    with pytest.raises(SnapshotExists):
        create(tmp_path / "s", {"s": []}, created_ms=0)

    def failing():
        yield from many(3000).items()
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError):
        create(tmp_path / "t", {"a": [(b"1", b"")], "s": failing()}, created_ms=0)
    with pytest.raises(ValueError, match="ascend"):
        create(tmp_path / "t", {"s": [(b"b", b""), (b"a", b"")]}, created_ms=0, in_order=True)
    with pytest.raises(ValueError, match="name a shard"):
        create(tmp_path / "t", {"../s": []}, created_ms=0)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    with pytest.raises(NotFound):
        Snapshot.open(tmp_path / "t")
    with Snapshot.open(tmp_path / "s") as snapshot, pytest.raises(NotFound, match="no shard"):
        snapshot.shard("other")


def test_what_the_dead_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    left = tmp_path / ".old.123.begun-by-swarm"
    left.mkdir()
    (left / "a.shard").write_bytes(b"x")

    def records():
        create(tmp_path / "inner", {"s": [(b"1", b"")]}, created_ms=0)
        yield b"2", b""

    create(tmp_path / "outer", {"s": records()}, created_ms=0)
    assert sorted(os.listdir(tmp_path)) == ["inner", "outer"]
    assert content(tmp_path / "outer") == {"s": {b"2": b""}}


def test_differences_are_all_there_are(tmp_path):
    before, after = many(8000), many(8000)
    del after[b"key:000100"]
    after[b"key:005000"] = b"changed"
    after[b"new"] = b"1"
    create(tmp_path / "1", {"s": before.items(), "gone": [(b"x", b"y")]}, created_ms=0)
    create(tmp_path / "2", {"s": after.items(), "fresh": [(b"x", b"y")]}, created_ms=0, compress=False)
    with Snapshot.open(tmp_path / "1") as one, Snapshot.open(tmp_path / "2") as two:
        assert [(each.kind, each.shard, each.key) for each in differences(one, two)] == [
            ("added", "fresh", b"x"),
            ("removed", "gone", b"x"),
            ("removed", "s", b"key:000100"),
            ("changed", "s", b"key:005000"),
            ("added", "s", b"new"),
        ]
        assert not list(differences(one, one))


def test_a_value_as_large_as_may_be_and_empty_ones(tmp_path):
    records = {b"": b"", b"a": bytes(3 << 20), b"b" * 65535: b"x"}
    create(tmp_path / "s", {"s": records.items()}, created_ms=0)
    assert content(tmp_path / "s") == {"s": records}
    with pytest.raises(ValueError, match="a key of"):
        write_shard(tmp_path, "s", [(bytes(65536), b"")])
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_file_that_is_another_one_is_refused(tmp_path):
    create(tmp_path / "1", {"s": [(b"a", b"b")]}, created_ms=0)
    create(tmp_path / "2", {"s": [(b"a", b"c")]}, created_ms=0)
    one, two = next((tmp_path / "1").glob("*.shard")), next((tmp_path / "2").glob("*.shard"))
    one.write_bytes(two.read_bytes())
    with Snapshot.open(tmp_path / "1") as snapshot, pytest.raises(SnapshotDamaged, match="header"):
        snapshot.shard("s")
    one.write_bytes(b"")
    with Snapshot.open(tmp_path / "1") as snapshot, pytest.raises(SnapshotDamaged, match="cut off"):
        snapshot.shard("s")
    (tmp_path / "1" / "manifest").write_bytes(b"\x93\xc4\x00\xc4\x00\xc4\x00")
    with pytest.raises((SnapshotMalformed, SnapshotDamaged)):
        Snapshot.open(tmp_path / "1")
