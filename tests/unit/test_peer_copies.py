"""A peer's snapshot as a copy: over the control link where there is no bulk lane, from peers that lie, lack and leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodes.knowledge.lending import _Index, _read
from nodes.knowledge.peer_copies import PeerCopy
from nodes.queries import AskFailed
from swarm.snapshots import SnapshotDamaged, create
from swarm.snapshots.checking import verify
from swarm.snapshots.copies import FolderCopy
from swarm.snapshots.fetching import pull

RECORDS = {b"k%05d" % i: b"%d" % i * 60 for i in range(3000)}


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    create(tmp_path / "shelf" / "one", {"s": RECORDS.items()}, created_ms=1)
    create(
        tmp_path / "shelf" / "two", {"s": (RECORDS | {b"k00001": b"new"}).items()}, created_ms=2,
        base=tmp_path / "shelf" / "one",
    )  # fmt: skip
    return tmp_path / "shelf"


class Peer:
    """Answers as `Lending` does, but for what `wrong` makes of it."""

    def __init__(self, shelf: Path, wrong: Callable[[str, Any, bytes], tuple[Any, bytes]] | None = None) -> None:
        self.shelf = shelf
        self.index = _Index()
        self.wrong = wrong or (lambda method, value, body: (value, body))
        self.asked_for: list[str] = []

    async def asked(
        self, link: Any, method: str, args: Mapping[str, Any], body: bytes = b"", timeout_s: float = 0.0
    ) -> tuple[Any, bytes]:
        self.asked_for.append(method)
        return self.wrong(method, *self.answer(method, args, body))

    def answer(self, method: str, args: Mapping[str, Any], body: bytes) -> tuple[Any, bytes]:
        if method == "snapshot.manifest":
            return {}, (self.shelf / args["name"] / "manifest").read_bytes()
        if method == "snapshot.head":
            heads = (FolderCopy(each).head(args["shard"], args["root"]) for each in sorted(self.shelf.iterdir()))
            found = next((head for head in heads if head is not None), None)
            return {"found": found is not None}, found or b""
        if method == "snapshot.find":
            places = self.index.find(self.shelf, [body[at : at + 32] for at in range(0, len(body), 32)])
            return {"places": [None if place is None else [0, place[1]] for place in places], "tickets": []}, b""
        assert method == "snapshot.part"
        (place,) = self.index.find(self.shelf, [args["hash"]])
        return {"found": place is not None}, b"" if place is None else _read(*place)


def copy_of(loop: asyncio.AbstractEventLoop, peer: Peer, name: str | None = None) -> PeerCopy:
    copy = PeerCopy(loop, peer, SimpleNamespace(port=0), SimpleNamespace())  # type: ignore[arg-type]
    copy.name = name
    return copy


def test_over_the_control_link_and_each_chunk_but_once(loop: Any, shelf: Path, tmp_path: Path) -> None:
    peer, other = Peer(shelf), Peer(shelf)
    copies = [copy_of(loop, peer, "two"), copy_of(loop, other)]
    _, progress = pull(tmp_path / "here", copies)
    assert verify(tmp_path / "here", deep=True).whole
    parts = peer.asked_for.count("snapshot.part") + other.asked_for.count("snapshot.part")
    assert parts == progress.chunks and progress.wrong == 0
    assert sum(copy.control_bytes for copy in copies) == progress.bytes and copies[0].bulk_bytes == 0


def flipped(method: str, value: Any, body: bytes) -> tuple[Any, bytes]:
    return value, bytes([body[0] ^ 1]) + body[1:] if method == "snapshot.part" and body else body


def places_of_nothing(method: str, value: Any, body: bytes) -> tuple[Any, bytes]:
    return ({"places": 7, "tickets": []} if method == "snapshot.find" else value), body


def no_map(method: str, value: Any, body: bytes) -> tuple[Any, bytes]:
    return 7, body


def gone(method: str, value: Any, body: bytes) -> tuple[Any, bytes]:
    raise AskFailed("the link is down", kind="link")


@pytest.mark.parametrize("wrong", [flipped, places_of_nothing, no_map, gone])
def test_who_lies_or_is_gone_is_done_without(loop: Any, shelf: Path, tmp_path: Path, wrong: Any) -> None:
    good = copy_of(loop, Peer(shelf), "one")
    pull(tmp_path / "here", [good, copy_of(loop, Peer(shelf, wrong))])
    assert verify(tmp_path / "here", deep=True).whole
    raw = (shelf / "one" / "manifest").read_bytes()
    alone = copy_of(loop, Peer(shelf, wrong))
    alone.manifest = lambda: raw  # type: ignore[method-assign]
    with pytest.raises(SnapshotDamaged):
        pull(tmp_path / "there", [alone])
    assert not (tmp_path / "there").exists()


def test_who_has_a_part_is_asked_for_that(loop: Any, shelf: Path, tmp_path: Path) -> None:
    create(tmp_path / "less" / "x", {"s": list(RECORDS.items())[:1500]}, created_ms=5)
    part = Peer(tmp_path / "less")
    for attempt in range(50):  # it may be that the other was quick enough to be asked for everything
        here = tmp_path / f"here{attempt}"
        _, progress = pull(here, [copy_of(loop, Peer(shelf), "one"), copy_of(loop, part)])
        assert verify(here).whole and progress.wrong == 0
        asked = part.asked_for.count("snapshot.part")
        assert asked < progress.chunks * (attempt + 1)
        if asked:
            return
    raise AssertionError("it was never asked")


def test_the_index_follows_what_comes_and_goes(shelf: Path) -> None:
    import shutil

    index = _Index()
    hashes = list(FolderCopy(shelf / "two")._listed())
    assert all(index.find(shelf, hashes))
    shutil.rmtree(shelf / "one")
    places = index.find(shelf, hashes)
    assert all(place is not None and place[0].exists() for place in places)
    create(shelf / "three", {"t": [(b"a", b"b")]}, created_ms=9)
    assert all(index.find(shelf, list(FolderCopy(shelf / "three")._listed())))
    assert index.find(shelf, [bytes(32)]) == [None]
