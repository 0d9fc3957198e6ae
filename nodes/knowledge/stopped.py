"""A snapshot of what a node knows that does not run: read from its folder, and signed with its key."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nodes.knowledge import snapshot_files
from nodes.knowledge.blob_files import BlobFiles
from nodes.knowledge.blob_records import BlobRecords
from nodes.knowledge.shelf import AUTOMATIC, FOLDER, content_digest, newest
from nodes.knowledge.snapshot_files import Contents, PastFile
from nodes.knowledge.store import FILE, Store
from nodes.machine import lock
from nodes.snapshots import Signing, key_of
from swarm.errors import NotFound, SystemRefused
from swarm.paths import Home, checked_name, private_directory
from swarm.protocol.knowledge.bounds import SHARDS
from swarm.protocol.knowledge.merkle import Tree
from swarm.protocol.knowledge.stamps import time_of
from swarm.snapshots.snapshot import Created
from transport.certificates import read_certificate
from transport.fleet import CERTIFICATE_FILE, Fleet, enroll
from transport.private_files import read_private

BLOBS_BYTES_MAX: Final = 1 << 60
"""What is there is within the bound of the node."""


def create(
    home: Home, node: str, name: str | None = None, *, full: bool = False, encrypt: bool = False
) -> tuple[Created, Path | None]:
    """Take it into the folder of the node's snapshots: (what was made, on what it is based). NotFound when there is no such node,
    SystemRefused when it runs, or where the disk takes it not; what `swarm.snapshots.create` raises."""
    directory = home.node_dir(node)
    if not (directory / FILE).is_file():
        raise NotFound(f"there is no node {node} with knowledge in this home", hint=f"{directory / FILE} is not there")
    name = checked_name(name) if name else AUTOMATIC + datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    release = lock(directory / "lock", node)
    try:
        fleet = Fleet.load(home.fleet_dir)
        own = enroll(fleet, directory, "node", node, _grants(directory), time.time())
        folder = private_directory(directory / FOLDER)
        base = None if full else newest(folder)
        store, past = Store(directory), PastFile(directory)
        try:
            contents = _contents(store)
            files = BlobFiles(directory, BLOBS_BYTES_MAX)
            contents.digest = content_digest(contents.digest, past, files.ids())
            contents.blobs = BlobRecords(files)
            contents.past = past.rows
            created = snapshot_files.write(
                folder / name, contents, node, Signing.of(own), base=base[0] if base else None,
                key=key_of(fleet) if encrypt else None,
            )  # fmt: skip
        except OSError as error:
            raise SystemRefused(
                f"the snapshot {name} could not be written: {error.strerror or error}",
                hint=f"free some space where {folder} is; what was there before is there still",
            ) from error
        finally:
            past.close()
            store.close(in_order=store.begin())  # it stopped as it did before
    finally:
        release()
    return created, base[0] if base else None


def _grants(directory: Path) -> tuple[str, ...]:
    """Those that the node has: nothing is to be issued anew."""
    return tuple(sorted(read_certificate(read_private(directory / CERTIFICATE_FILE, "certificate"))[0].grants))


def _contents(store: Store) -> Contents:
    segments: dict[int, list[tuple[bytes, bytes]]] = {}
    for row in store.rows():
        if row.payload is not None and row.shard < SHARDS:
            segments.setdefault(row.shard, []).append((row.place, row.payload))
    wall_ms = time.time_ns() // 1_000_000
    digests = []
    for number in range(SHARDS):
        tree = Tree()
        for place, _ in segments.get(number, ()):
            tree.add(place)
        digests.append(tree.root if number in segments else b"")
    held = store.held()
    lacking = set[int]() if held is None else set(range(SHARDS)) - held
    return Contents(
        max(store.clock(), time_of(wall_ms) - 1), store.since_ms(wall_ms, set(range(SHARDS)) - lacking), SHARDS, b"".join(digests), segments,
        authors=store.authors(), lacking=sorted(lacking),
    )  # fmt: skip
