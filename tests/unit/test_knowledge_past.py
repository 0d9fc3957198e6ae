"""What a node lets go of its log stays beside it: moved in one transaction, bounded, read while the node writes, and mended where it rots."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.knowledge.snapshot_files import PastFile
from nodes.knowledge.store import FILE, PAST_KEPT_MS, NotWritten, Store, place_of
from swarm.protocol.knowledge.bounds import FUTURE_MS, SHARDS
from swarm.protocol.knowledge.entries import Entry, Op, seal, shard_of
from swarm.protocol.knowledge.stamps import time_of

KEY = "k"
SHARD = shard_of("facts", KEY, SHARDS)
AUTHOR = bytes(16)


def payload(number: int, size: int = 10) -> bytes:
    entry = Entry(time_of(1000 + number), "facts", KEY, Op.PUT, "x" * size)
    return seal(AUTHOR, time_of(1000), SHARD, number, [entry], lambda message: bytes(64)).raw


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.close()


def past(tmp_path: Path) -> list[tuple[bytes, bytes, int]]:
    file = PastFile(tmp_path)
    try:
        return list(file.rows(SHARD))
    finally:
        file.close()


def test_what_is_let_go_is_in_the_past(store: Store, tmp_path: Path) -> None:
    payloads = [payload(number) for number in range(4)]
    store.add([(SHARD, each) for each in payloads], {}, 0)
    store.keep_only(SHARD, {place_of(payloads[3])}, 5000)
    assert [row.payload for row in store.rows()] == payloads[3:]
    assert past(tmp_path) == [(place_of(each), each, 5000) for each in payloads[:3]]
    # What comes again and is let go again is there once, by when it went last.
    store.add([(SHARD, payloads[0])], {}, 0)
    store.keep_only(SHARD, {place_of(payloads[3])}, 6000)
    assert {(each, gone) for _, each, gone in past(tmp_path)} == {
        (payloads[0], 6000), (payloads[1], 5000), (payloads[2], 5000),
    }  # fmt: skip
    # What rots is left out, of another's past what is here already counts.
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("UPDATE past SET checksum = x'00' WHERE gone_ms = 6000")
    db.close()
    store.add_past([(SHARD, payloads[1], 1), (SHARD, payload(9), 7000)])
    assert [(each, gone) for _, each, gone in past(tmp_path)] == [
        (payloads[1], 5000), (payloads[2], 5000), (payload(9), 7000),
    ]  # fmt: skip


def test_the_past_ends_in_time_and_has_a_bound(store: Store, tmp_path: Path) -> None:
    payloads = [payload(number, 1000) for number in range(1250)]
    assert store.since_ms(42) == 42 == store.since_ms(43)
    store.add([(SHARD, each) for each in payloads], {}, 0)
    places = [place_of(each) for each in payloads]
    for number in range(1200 // 50):
        store.keep_only(SHARD, set(places[(number + 1) * 50 :]), 10_000 + number)
    assert len(past(tmp_path)) == 1200
    store.trim_past(10_005 + PAST_KEPT_MS, 1 << 30)
    assert len(past(tmp_path)) == 1200 - 5 * 50 and store.since_ms(0) == 42, "by time: nothing that counts is lost"
    size = len(payloads[0])
    store.trim_past(10_005, 500 * size)
    left = past(tmp_path)
    assert 0 < len(left) <= 500 and min(gone for *_, gone in left) > 10_005
    assert store.since_ms(0) >= min(gone for *_, gone in left) - 1 + FUTURE_MS, "what lacks is said"


def test_rotten_segments_are_found_and_written_again(store: Store, tmp_path: Path) -> None:
    payloads = [payload(number) for number in range(3)]
    store.add([(SHARD, each) for each in payloads], {}, 0)
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("UPDATE segments SET payload = ? WHERE place = ?", (b"rot", place_of(payloads[1])))
    db.close()
    file = PastFile(tmp_path)
    try:
        assert file.damaged() == [(SHARD, place_of(payloads[1]))]
        store.mend(SHARD, payloads[1])
        assert file.damaged() == []
    finally:
        file.close()
    assert [row.payload for row in store.rows()] == payloads


def test_a_full_disk_takes_neither(store: Store, tmp_path: Path) -> None:
    payloads = [payload(number, 4000) for number in range(40)]
    store.add([(SHARD, each) for each in payloads], {}, 0)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(NotWritten):
        store.keep_only(SHARD, set(), 1)
    assert past(tmp_path) == [] and [row.payload for row in store.rows()] == payloads
    store._db.execute("PRAGMA max_page_count = 1000000")
    store.keep_only(SHARD, set(), 1)
    assert len(past(tmp_path)) == 40 and list(store.rows()) == []
