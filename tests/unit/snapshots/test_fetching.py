"""Snapshots come from several copies, some of which lie, are slow or have but a part; and are read before they are complete."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from swarm.errors import NotFound
from swarm.snapshots import SnapshotDamaged, SnapshotError, SnapshotUntrusted, create
from swarm.snapshots.checking import verify
from swarm.snapshots.copies import FolderCopy
from swarm.snapshots.fetching import fetching, pull
from swarm.snapshots.publishing import sweep

RECORDS = {b"k%05d" % i: random.Random(i).randbytes(250) for i in range(6000)}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    create(folder / "1", {"s": RECORDS.items(), "t": [(b"a", b"b")]}, created_ms=0)
    create(
        folder / "2",
        {"s": (RECORDS | {b"k00000": b"new"}).items(), "t": [(b"a", b"b")]},
        created_ms=0,
        base=folder / "1",
    )
    return folder


class Asked(FolderCopy):
    """A copy that counts, and answers as it is told."""

    def __init__(self, folder, answer=lambda found: found):
        super().__init__(folder)
        self.answer = self.first = answer
        self.asked: list[bytes] = []
        self.counting = threading.Lock()

    def chunk(self, hash):
        found = super().chunk(hash)
        with self.counting:
            self.asked.append(hash)
            first = len(self.asked) == 1
        return self.answer(found) if not first else self.first(found)


def broken(_):
    raise ConnectionResetError("gone")


def test_chunks_come_from_all_copies_and_each_but_once(source, tmp_path):
    together = threading.Barrier(3)

    def first(found):
        together.wait(30)  # the first chunk of each comes when the others are asked, too: so one alone cannot give all
        return found

    copies = [Asked(source / "2") for _ in range(3)]
    for copy in copies:
        copy.first = first
    manifest, progress = pull(tmp_path / "s", copies)
    assert verify(tmp_path / "s", deep=True).whole and progress.wrong == 0
    asked = [hash for copy in copies for hash in copy.asked]
    assert len(asked) == progress.chunks == progress.chunks_total and all(copy.asked for copy in copies)
    assert manifest.records == len(RECORDS) + 1


@pytest.mark.parametrize("answer", [lambda found: None, lambda found: bytes(len(found)), lambda found: b"", broken])
def test_copies_that_lie_or_are_gone_are_done_without(source, tmp_path, answer):
    bad, good = Asked(source / "2", answer), Asked(source / "2")
    pull(tmp_path / "s", [bad, good])
    assert verify(tmp_path / "s", deep=True).whole
    with pytest.raises(SnapshotDamaged):
        pull(tmp_path / "t", [bad])
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".coming-by-swarm"] == ["s"]


def test_copies_that_have_but_a_part_make_a_whole_together(source, tmp_path):
    halves = [Asked(source / "2"), Asked(source / "2")]
    for number, half in enumerate(halves):
        inner = half.chunk
        half.chunk = lambda hash, inner=inner, number=number: inner(hash) if hash[0] % 2 == number else None
    pull(tmp_path / "s", halves)
    assert verify(tmp_path / "s", deep=True).whole


def test_it_is_read_before_it_is_complete(source, tmp_path):
    copy = Asked(source / "2")
    with fetching(tmp_path / "s", (source / "2" / "manifest").read_bytes(), [copy]) as arriving:
        shard = arriving.shard("s")
        assert not copy.asked
        assert shard.get(b"k03000") == RECORDS[b"k03000"] and shard.get(b"nothing") is None
        assert 1 <= len(copy.asked) <= 6, "only what was needed has come"
        assert [key for key, _ in shard.range(b"k00010", b"k00013")] == [b"k00010", b"k00011", b"k00012"]
        assert not (tmp_path / "s").exists()
        background = threading.Thread(target=arriving.fetch_all)
        background.start()
        for key in random.Random(1).sample(sorted(RECORDS), 200):
            assert shard.get(key) == (b"new" if key == b"k00000" else RECORDS[key])
        background.join()
    assert verify(tmp_path / "s", deep=True).whole


def test_what_is_here_does_not_come_again(source, tmp_path):
    pull(tmp_path / "1", [FolderCopy(source / "1")])
    copy = Asked(source / "2")
    _, progress = pull(tmp_path / "2", [copy], have=[tmp_path / "1"])
    assert progress.reused_bytes > 1_000_000 and len(copy.asked) <= 4
    assert verify(tmp_path / "2", deep=True).whole
    # what is here may be damaged: then it does come
    path = next((tmp_path / "1").glob("s-*"))
    data = bytearray(path.read_bytes())
    data[4000] ^= 1
    path.unlink()  # not in its place: the other snapshot has it, too
    path.write_bytes(data)
    _, progress = pull(tmp_path / "3", [FolderCopy(source / "2")], have=[tmp_path / "1"])
    assert 0 < progress.bytes < 300_000 and verify(tmp_path / "3", deep=True).whole


def test_only_what_is_signed_by_somebody_trusted_is_fetched(source, tmp_path):
    copy = Asked(source / "2")
    with pytest.raises(SnapshotUntrusted):
        pull(tmp_path / "s", [copy], trusted=lambda public: False)
    assert not copy.asked
    with pytest.raises(NotFound):
        pull(tmp_path / "s", [FolderCopy(tmp_path / "nowhere")])


def test_a_header_of_another_size_than_the_manifest_says_is_not_taken(source, tmp_path):
    class Other(Asked):
        def head(self, shard, root):
            return b"SWRMSNAP" + bytes(10_000)

    with pytest.raises(SnapshotError):
        pull(tmp_path / "s", [Other(source / "2")])
    assert not list(tmp_path.iterdir())


def test_what_had_come_before_an_interruption_is_not_fetched_again(source, tmp_path):
    came = 0

    def some(found):
        nonlocal came
        came += 1
        if came > 20:
            raise KeyError("a mistake of ours ends it at once")
        return found

    with pytest.raises(KeyError):
        pull(tmp_path / "here", [Asked(source / "2", some)])
    assert not (tmp_path / "here").exists()
    (coming,) = tmp_path.iterdir()
    # Of what is kept nothing is believed: a flipped bit, and a file that was cut, come again.
    for number, path in enumerate(sorted(coming.glob("s-*"))):
        data = bytearray(path.read_bytes())
        data[300] ^= 1
        path.write_bytes(data[: len(data) // 2] if number else data)
    again = Asked(source / "2")
    _, progress = pull(tmp_path / "here", [again])
    assert verify(tmp_path / "here", deep=True).whole
    assert progress.kept_bytes > 0 and progress.chunks == len(again.asked) == progress.chunks_total
    _, whole = pull(tmp_path / "other", [FolderCopy(source / "2")])
    assert progress.bytes + progress.kept_bytes + progress.reused_bytes == whole.bytes
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_two_do_not_fetch_into_one_place_at_once(source, tmp_path):
    with fetching(tmp_path / "here", (source / "1" / "manifest").read_bytes(), [FolderCopy(source / "1")]):
        with pytest.raises(SnapshotError, match="on its way"):
            pull(tmp_path / "here", [FolderCopy(source / "1")])
    assert verify(tmp_path / "here").whole


def test_what_nobody_goes_on_with_is_removed_in_time(source, tmp_path):
    with pytest.raises(SnapshotDamaged):
        pull(tmp_path / "here", [Asked(source / "1", lambda found: None)])
    (coming,) = tmp_path.iterdir()
    assert sweep(tmp_path) == []
    os.utime(coming, (0, 0))
    assert sweep(tmp_path) == [coming] and not list(tmp_path.iterdir())


def test_chunks_that_another_snapshot_here_has_do_not_come_again(source, tmp_path):
    # Of the same records, but with files of its own: made without the one that the other builds on.
    create(tmp_path / "own", {"s": RECORDS.items()}, created_ms=7)
    damaged = next((tmp_path / "own").glob("s-*"))
    data = bytearray(damaged.read_bytes())
    data[300] ^= 1
    damaged.write_bytes(data)
    there = Asked(source / "2")
    _, progress = pull(tmp_path / "here", [there], have=[tmp_path / "own"])
    assert verify(tmp_path / "here", deep=True).whole
    assert len(there.asked) == progress.chunks and progress.bytes < progress.reused_bytes
