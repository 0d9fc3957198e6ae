"""The knowledge log of one node as a snapshot: a file a shard, keys in the order of the Merkle tree, signed by the node.

Records, all of them values in MessagePack:

    knowledge-NN   place in the tree (24 bytes) -> segment or proof, as it is told to peers
    past-NN        the same of what was let go -> [when, in milliseconds, segment]
    authors        id -> certificate, so that signatures can be checked when the author has left
    blobs          id (BLAKE3) -> the packed value over 64 KiB that an entry names; no such file where there is none

`about` of the manifest has, under ``knowledge``, ``stamp`` (all entries up to it that the node had are in), ``since_ms`` (from
when on the past is complete), ``shards``, ``node`` and ``digest`` (of what is in it: equal for equal content). ``lacking`` are, where there are some, the
numbers of shards that the node did not hold.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack

from nodes.knowledge.store import FILE, check, place_of
from nodes.snapshots import CERTIFICATE, Signing
from swarm.protocol.knowledge.blobs import id_of
from swarm.protocol.knowledge.bounds import SHARDS_MAX
from swarm.protocol.knowledge.entries import FormatError
from swarm.protocol.knowledge.stamps import ms_of
from swarm.snapshots.errors import SnapshotMalformed
from swarm.snapshots.manifest import Manifest
from swarm.snapshots.ordering import Record
from swarm.snapshots.snapshot import Created, Snapshot, create

ABOUT: Final = "knowledge"
AUTHORS: Final = "authors"
BLOBS: Final = "blobs"


@dataclass(frozen=True, slots=True)
class About:
    """What a manifest says of the knowledge in it."""

    stamp: int
    since_ms: int
    shards: int
    node: str
    digest: bytes
    lacking: frozenset[int] = frozenset()


@dataclass(slots=True)
class Contents:
    """What is to be in a snapshot, as of one moment."""

    stamp: int
    since_ms: int
    shards: int
    digest: bytes
    segments: dict[int, list[tuple[bytes, bytes]]]
    """Shard -> (place, payload), in order."""
    past: Callable[[int], Iterable[tuple[bytes, bytes, int]]] = lambda number: ()
    """Of a shard (place, payload, when), in order."""
    authors: Mapping[bytes, bytes] = field(default_factory=dict)
    blobs: Sequence[Record] = ()
    """Large values, each read when it is written."""
    lacking: Sequence[int] = ()

    @property
    def bytes(self) -> int:
        """Of all payloads."""
        return sum(len(payload) for rows in self.segments.values() for _, payload in rows)


def shard_name(number: int) -> str:
    """Of the file with what is held of a shard."""
    return f"knowledge-{number:02}"


def past_name(number: int) -> str:
    """Of the file with what was let go of a shard."""
    return f"past-{number:02}"


def records(contents: Contents) -> dict[str, Iterable[Record]]:
    """Name of a shard -> its records, in order, each to be gone through once."""
    shards: dict[str, Iterable[Record]] = {}
    for number in range(contents.shards):
        shards[shard_name(number)] = ((at, msgpack.packb(raw)) for at, raw in contents.segments.get(number, ()))
    for number in range(contents.shards):
        shards[past_name(number)] = ((at, msgpack.packb([gone, raw])) for at, raw, gone in contents.past(number))
    shards[AUTHORS] = ((id, msgpack.packb(contents.authors[id])) for id in sorted(contents.authors))
    if len(contents.blobs):
        shards[BLOBS] = contents.blobs
    return shards


def write(
    target: Path,
    contents: Contents,
    node: str,
    signing: Signing,
    *,
    base: Path | None = None,
    key: bytes | None = None,
    threads: int | None = None,
) -> Created:
    """Write it to the folder ``target``, whole or not at all. Raises as `swarm.snapshots.create`."""
    about = {
        CERTIFICATE: signing.certificate,
        ABOUT: {
            "stamp": contents.stamp, "since_ms": contents.since_ms, "shards": contents.shards, "node": node,
            "digest": contents.digest, **({"lacking": list(contents.lacking)} if contents.lacking else {}),
        },
    }  # fmt: skip
    return create(
        target, records(contents), created_ms=ms_of(contents.stamp), base=base, key=key, signer=(signing.public, signing.sign),
        about=about, in_order=True, threads=threads,
    )  # fmt: skip


def about(manifest: Manifest) -> About | None:
    """What it says of the knowledge in it; None if there is none."""
    said = manifest.about.get(ABOUT)
    if not isinstance(said, dict):
        return None
    stamp, since_ms, shards, node, digest = (
        said.get(name) for name in ("stamp", "since_ms", "shards", "node", "digest")
    )
    if (
        type(stamp) is not int or type(since_ms) is not int or type(shards) is not int or type(node) is not str
        or type(digest) is not bytes or not 0 < shards <= SHARDS_MAX or not 0 <= stamp < 1 << 64
    ):  # fmt: skip
        return None
    lacking = said.get("lacking", [])
    if not isinstance(lacking, list) or not all(type(number) is int for number in lacking):
        return None
    return About(stamp, since_ms, shards, node, digest, frozenset(lacking))


def payloads(snapshot: Snapshot, number: int) -> Iterator[bytes]:
    """What is held of a shard in a snapshot. SnapshotMalformed, SnapshotDamaged."""
    for at, value in snapshot.shard(shard_name(number)):
        yield segment_of(at, value)


def past_rows(snapshot: Snapshot, number: int) -> Iterator[tuple[bytes, int]]:
    """(payload, when) of what was let go of a shard."""
    return past_of(snapshot.shard(past_name(number)))


def past_of(records: Iterable[Record]) -> Iterator[tuple[bytes, int]]:
    """The same of its records. SnapshotMalformed."""
    for at, value in records:
        found = _unpacked(value)
        if not (
            isinstance(found, list)
            and len(found) == 2
            and type(found[0]) is int
            and type(found[1]) is bytes
            and found[1]
        ):
            raise _malformed(at)
        yield found[1], found[0]


def certificate_of(value: bytes) -> bytes | None:
    """What stands in a record of `AUTHORS`."""
    found = _unpacked(value)
    return found if type(found) is bytes else None


def blob_of(id: bytes, value: bytes) -> bytes:
    """The packed value of a record of `BLOBS`. SnapshotMalformed where it is another's."""
    found = _unpacked(value)
    if type(found) is not bytes or id_of(found) != id:
        raise _malformed(id)
    return found


def blob(snapshot: Snapshot, id: bytes) -> bytes | None:
    """A packed value, where the snapshot has it. SnapshotMalformed, SnapshotDamaged."""
    if BLOBS not in snapshot.names:
        return None
    value = snapshot.shard(BLOBS).get(id)
    return None if value is None else blob_of(id, value)


def segment_of(place: bytes, value: bytes) -> bytes:
    """The payload of a record. SnapshotMalformed where it does not belong there."""
    found = _unpacked(value)
    if type(found) is not bytes or not found:
        raise _malformed(place)
    try:
        if place_of(found) != place:
            raise _malformed(place)
    except FormatError:
        raise _malformed(place) from None
    return found


def _unpacked(value: bytes) -> Any:
    try:
        return msgpack.unpackb(value, max_ext_len=0)
    except (ValueError, msgpack.UnpackException):
        return None


def _malformed(place: bytes) -> SnapshotMalformed:
    return SnapshotMalformed(
        f"the record {place.hex()} of a snapshot is not what a node keeps of knowledge", hint="use another copy"
    )


class PastFile:
    """Reads the past out of a node's file, beside the node's own thread. sqlite3.DatabaseError; close it."""

    def __init__(self, directory: Path) -> None:
        self._db = sqlite3.connect(f"file:{directory / FILE}?mode=ro", uri=True, check_same_thread=False)

    def rows(self, number: int) -> Iterator[tuple[bytes, bytes, int]]:
        """(place, payload, when) of a shard, in order; what is damaged is left out."""
        for place, payload, checksum, gone_ms in self._db.execute(
            "SELECT place, payload, checksum, gone_ms FROM past WHERE shard = ? ORDER BY place", (number,)
        ):
            if type(payload) is bytes and check(payload) == checksum:
                yield place, payload, gone_ms

    def after(self, row: int, count: int) -> list[tuple[int, int, bytes, int]]:
        """(row, shard, place, when) of what was let go since a row was written, in the order in which it was."""
        return self._db.execute(
            "SELECT rowid, shard, place, gone_ms FROM past WHERE rowid > ? ORDER BY rowid LIMIT ?", (row, count)
        ).fetchall()

    def last_row(self) -> int:
        """0 if nothing was let go."""
        return int(self._db.execute("SELECT coalesce(max(rowid), 0) FROM past").fetchone()[0])

    def payload(self, number: int, place: bytes) -> tuple[bytes, int] | None:
        """(payload, when); None if it is not here, or damaged."""
        found = self._db.execute(
            "SELECT payload, checksum, gone_ms FROM past WHERE shard = ? AND place = ?", (number, place)
        ).fetchone()
        if found is None or type(found[0]) is not bytes or check(found[0]) != found[1]:
            return None
        return found[0], int(found[2])

    def damaged(self) -> list[tuple[int, bytes]]:
        """(shard, place) of segments that are not what was written."""
        return [
            (shard, place)
            for shard, place, payload, checksum in self._db.execute(
                "SELECT shard, place, payload, checksum FROM segments"
            )
            if type(payload) is not bytes or check(payload) != checksum
        ]

    def extent(self) -> tuple[int, int]:
        """(how many, last moment)."""
        found = self._db.execute("SELECT count(*), coalesce(max(gone_ms), 0) FROM past").fetchone()
        return int(found[0]), int(found[1])

    def close(self) -> None:
        """Give the file back."""
        self._db.close()
