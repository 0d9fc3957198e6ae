"""What a node keeps: nothing that somebody holds goes, nothing that nobody holds stays, and pages are used again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodes.blobs import LINGER_BYTES_MAX, LINGER_S, POOL_BYTES_MAX, POOL_IDLE_S, UNCLAIMED_S, BlobStore, open_store
from swarm.errors import SystemRefused

MIB = 1 << 20


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> BlobStore:
    (tmp_path / "store").mkdir()
    return BlobStore(tmp_path / "store", 1 << 30, clock)


def files(store: BlobStore) -> set[Path]:
    return set(store.directory.iterdir())


def test_a_segment_is_there_while_somebody_holds_it(store: BlobStore, clock: Clock) -> None:
    name, path = store.alloc(MIB, "client")
    path.write_bytes(b"x" * MIB)
    store.hold(name, 7)
    store.hold(name, 7)
    store.let_go(name, "client")
    store.let_go(name, 7)
    store.let_go(name, "somebody else")
    clock.now += 10 * UNCLAIMED_S
    store.tidy()
    assert store.open(name) == (path, MIB) and store.bytes == MIB
    assert store.read(name, MIB - 2, 10) == b"xx"
    assert store.holders() == {7}
    store.let_go_all(7)
    assert store.open(name) is not None, "for a moment, another may ask for it"
    clock.now += LINGER_S
    assert not store.tidy()
    assert store.open(name) is None and store.bytes == 0 and store.pooled_bytes == MIB


def test_a_result_waits_for_who_asks_for_it(store: BlobStore, clock: Clock) -> None:
    name, _ = store.alloc(MIB, 7)
    store.let_go(name, 7, unclaimed=True)
    clock.now += UNCLAIMED_S - 1
    store.tidy()
    assert store.open(name) is not None
    store.hold(name, "client")
    store.let_go(name, "client")
    clock.now += LINGER_S
    store.tidy()
    assert store.open(name) is None
    early, _ = store.alloc(MIB, 7)
    store.hold(early, "client")  # it read the outcome before this node heard of the writer
    store.let_go(early, "client")
    store.let_go(early, 7, unclaimed=True)
    clock.now += LINGER_S
    store.tidy()
    assert store.open(early) is None
    forgotten, _ = store.alloc(MIB, 7)
    store.let_go(forgotten, 7, unclaimed=True)
    clock.now += UNCLAIMED_S
    store.tidy()
    assert store.open(forgotten) is None


def test_an_argument_that_is_a_result_outlives_its_task(store: BlobStore, clock: Clock) -> None:
    name, _ = store.alloc(MIB, "client")
    store.hold(name, 7)
    store.share(name)
    store.let_go(name, 7)
    store.let_go(name, "client")
    clock.now += LINGER_S
    store.tidy()
    assert store.open(name) is not None


def test_the_pages_of_one_are_those_of_the_next(store: BlobStore, clock: Clock) -> None:
    places = {}
    for holder in ("client", 7):
        name, places[holder] = store.alloc(8 * MIB, holder)
        store.let_go(name, holder)
    clock.now += LINGER_S
    store.tidy()
    assert store.alloc(7 * MIB, 7)[1] == places[7], "what it has mapped already"
    assert store.alloc(2 * MIB, 7)[1] not in places.values(), "not a small one in a large file"
    assert store.alloc(8 * MIB, 9)[1] == places["client"]
    assert store.pooled_bytes == 0


def test_what_lingers_and_what_is_pooled_is_bounded_and_given_back(store: BlobStore, clock: Clock) -> None:
    size = 64 * MIB
    names = []
    for _ in range(POOL_BYTES_MAX // size // 2):
        name, _ = store.alloc(size, 7)
        names.append(name)
    for name in names:
        store.let_go(name, 7)
    assert store.bytes <= LINGER_BYTES_MAX and store.pooled_bytes <= POOL_BYTES_MAX
    assert store.open(names[0]) is None and store.open(names[-1]) is not None
    clock.now += LINGER_S
    store.tidy()
    assert store.bytes == 0 and store.tidies and files(store)
    clock.now += POOL_IDLE_S
    assert store.tidy(), "workers that have these mapped are to be told"
    assert not files(store) and not store.tidies and store.pooled_bytes == 0


def test_room_is_made_of_what_nobody_holds(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = BlobStore(tmp_path / "store", 4 * MIB)
    held, _ = store.alloc(MIB, "client")
    unclaimed, _ = store.alloc(MIB, 7)
    store.let_go(unclaimed, 7, unclaimed=True)
    digest = store.put(b"y" * MIB)
    store.alloc(2 * MIB, "client")
    assert store.open(unclaimed) is None and store.open(digest) is not None and store.open(held) is not None
    store.alloc(MIB, "client")
    assert store.open(digest) is None
    with pytest.raises(SystemRefused, match="in use"):
        store.alloc(MIB, "client")
    with pytest.raises(SystemRefused, match="more than this node keeps"):
        store.alloc(5 * MIB, "client")
    store.let_go_all("client")
    store.alloc(4 * MIB, "client")
    store.close()
    assert not (tmp_path / "store").exists()


def test_content_is_found_by_its_digest(store: BlobStore, tmp_path: Path) -> None:
    digest = store.put(b"content")
    assert store.put(b"content") == digest and store.bytes == 7
    source = tmp_path / "source"
    source.write_bytes(b"of a file")
    by_file, size = store.put_file(source)
    assert store.read(by_file, 0, 100) == b"of a file" and size == 9
    path = store.begin(3)
    store.abandon(path, 3)
    assert not path.exists() and store.bytes == 16
    path = store.begin(3)
    path.write_bytes(b"seg")
    store.finish(bytes(32), path, 3, segment=True)
    assert store.bytes == 19 and store.hold(bytes(32), "client") == (path, 3)
    again = store.begin(3)
    store.finish(bytes(32), again, 3, segment=True)
    assert store.bytes == 19 and not again.exists()
    assert store.is_segment(bytes(32)) and not store.is_segment(digest)


def test_what_killed_nodes_of_other_homes_left_is_cleared_away(tmp_path: Path) -> None:
    mine = f"swarm-{os.getuid()}-"
    used = open_store(tmp_path / f"{mine}used", "oak", MIB)
    left = tmp_path / f"{mine}left" / "fir-1-0"
    left.mkdir(parents=True)
    (left / "lock").touch()
    (left / "00000001").write_bytes(b"x")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "lock").touch()
    (tmp_path / f"{mine}link").symlink_to(tmp_path / "others")
    store = open_store(tmp_path / f"{mine}new", "elm", MIB)
    assert not left.parent.exists()
    assert used.directory.exists() and store.directory.exists() and (tmp_path / "others" / "lock").exists()


def test_what_is_kept_without_need_is_a_part_of_what_there_is_room_for(
    store: BlobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_free", lambda: 24 * MIB - sum(path.stat().st_size for path in files(store)))
    for _ in range(40):
        name, path = store.alloc(MIB, 7)
        path.write_bytes(b"x" * MIB)
        store.let_go(name, 7)
        assert sum(one.stat().st_size for one in files(store)) <= 12 * MIB


def test_where_room_is_short_what_nobody_needs_is_given_back_at_once(
    store: BlobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled, pooled_path = store.alloc(MIB, 7)
    pooled_path.write_bytes(b"p" * MIB)
    store.let_go(pooled, 7)
    clock.now += LINGER_S
    store.tidy()
    lingering, _ = store.alloc(3 * MIB, 7)
    unclaimed, _ = store.alloc(3 * MIB, 7)
    held, _ = store.alloc(3 * MIB, 7)
    store.let_go(lingering, 7)
    store.let_go(unclaimed, 7, unclaimed=True)
    with open(pooled_path, "rb") as mapped:  # a process that keeps it mapped does not keep its pages
        monkeypatch.setattr(store, "_free", lambda: 0)
        store.alloc(9 * MIB, 8)
        assert os.fstat(mapped.fileno()).st_size == 0
    assert store.pooled_bytes == 0
    assert store.open(lingering) is None
    assert store.open(unclaimed) is not None
    assert store.open(held) is not None
