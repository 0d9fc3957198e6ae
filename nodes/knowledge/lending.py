"""What a node lends of its snapshots to members: manifests, tables, and chunks by their hashes, whichever snapshot they stand in.

The bytes go over the bulk lane: who asks for chunks (``snapshot.find``) is told where they stand, with a ticket for each file, and reads
them there. Where no connection can be made they come over the control link, one by one (``snapshot.part``).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nodes.knowledge import snapshot_files
from nodes.knowledge.shelf import Shelf, newest
from nodes.lane import Lane
from nodes.queries import Switchboard
from swarm.errors import NotFound, SwarmError
from swarm.snapshots.checking import manifest_of
from swarm.snapshots.errors import SnapshotError
from swarm.snapshots.format import HASH_BYTES, file_name, unpack_entry
from swarm.snapshots.manifest import SHARDS_MAX
from swarm.snapshots.mapping import Mapped, head_of, read_table
from transport.bounds import MESSAGE_BYTES_MAX
from transport.links import Link

FIND_MAX: Final = 4096
"""Chunks asked for at once."""
FILES_MAX: Final = 64
"""Tickets given for one question: the chunks of other files are asked for again."""
MADE_EVERY_S: Final = 5.0
"""A node takes no more snapshots than one in so long because others ask."""
FRESH_S: Final = 3600.0
ANSWER_BYTES_MAX: Final = MESSAGE_BYTES_MAX - (64 << 10)
"""Of what comes in one message."""


class Lending:
    """Registers the methods on a node's switchboard. For its loop."""

    def __init__(self, shelf: Shelf, lane: Lane, switchboard: Switchboard, bytes_held: Any) -> None:
        self._shelf = shelf
        self._lane = lane
        self._bytes_held = bytes_held
        self._index = _Index()
        self._made_at = float("-inf")
        self._making = asyncio.Lock()
        switchboard.serve("snapshot.newest", self._newest)
        switchboard.serve("snapshot.manifest", self._manifest)
        switchboard.serve("snapshot.head", self._head)
        switchboard.serve("snapshot.find", self._find)
        switchboard.serve("snapshot.part", self._part)

    async def _newest(self, link: Link, args: Mapping[str, Any], body: memoryview) -> Any:
        """The newest snapshot of what is known here; one is taken where there is none of late. Nothing where so little is known that
        it is told quicker than fetched."""
        if self._bytes_held() < int(args.get("least_bytes", 0)):
            return {"small": True}
        fresh_s = min(FRESH_S, max(0.0, float(args.get("fresh_s", FRESH_S))))
        async with self._making:
            found = await asyncio.to_thread(newest, self._shelf.folder)
            now = time.monotonic()
            stale = found is None or time.time() - found[1].created_ms / 1000 > fresh_s
            if found is None or (stale and now - self._made_at > MADE_EVERY_S):
                self._made_at = now
                await self._shelf.create(unless_same=True)
                found = await asyncio.to_thread(newest, self._shelf.folder)
        if found is None:
            raise NotFound("there is no snapshot here", hint="ask another node")
        path, manifest = found
        size = sum(line.file_bytes for line in manifest.shards)
        said = snapshot_files.about(manifest)
        stamp = 0 if said is None else said.stamp
        return {"name": path.name, "id": manifest.id, "bytes": size, "stamp": stamp}, await asyncio.to_thread(
            manifest_of, path
        )

    async def _manifest(self, link: Link, args: Mapping[str, Any], body: memoryview) -> Any:
        """Of a snapshot by its name."""
        for path, manifest in await asyncio.to_thread(self._shelf.all):
            if path.name == args["name"]:
                return {"name": path.name, "id": manifest.id}, await asyncio.to_thread(manifest_of, path)
        raise NotFound(f"there is no snapshot {str(args['name'])[:64]} on this node", hint="swarm snapshot list")

    async def _head(self, link: Link, args: Mapping[str, Any], body: memoryview) -> Any:
        """Header and table of a file."""
        name = file_name(str(args["shard"]), bytes(args["root"]))
        found = await asyncio.to_thread(self._read_head, name, bytes(args["root"]))
        return {"found": found is not None}, found or b""

    def _read_head(self, name: str, root: bytes) -> bytes | None:
        if "/" in name:
            return None
        heads = (head_of(folder / name, root, ANSWER_BYTES_MAX) for folder in _folders(self._shelf.folder))
        return next((head for head in heads if head is not None), None)

    async def _find(self, link: Link, args: Mapping[str, Any], body: memoryview) -> Any:
        """Where chunks stand: for each ``[file, offset]`` or nil, and a ticket for each file."""
        hashes = bytes(body)
        if len(hashes) % HASH_BYTES or len(hashes) > FIND_MAX * HASH_BYTES:
            raise ValueError(f"hashes of {HASH_BYTES} bytes each, at most {FIND_MAX}")
        wanted = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
        found = await asyncio.to_thread(self._index.find, self._shelf.folder, wanted)
        paths = list(dict.fromkeys(path for path, _, _ in filter(None, found)))[:FILES_MAX]
        numbers = {path: number for number, path in enumerate(paths)}
        places = [
            None if place is None or place[0] not in numbers else [numbers[place[0]], place[1]] for place in found
        ]
        return {"places": places, "tickets": self._lane.lend(link, paths) if args.get("bulk") is True else []}

    async def _part(self, link: Link, args: Mapping[str, Any], body: memoryview) -> Any:
        """One chunk."""
        (place,) = await asyncio.to_thread(self._index.find, self._shelf.folder, [bytes(args["hash"])])
        if place is None or place[2] > ANSWER_BYTES_MAX:
            return {"found": False}, b""
        return {"found": True}, await asyncio.to_thread(_read, *place)


class _Index:
    """Hash -> (file, offset, bytes) of all chunks of all snapshots of a folder. In any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[bytes, tuple[Path, int, int]] = {}
        self._seen: set[str] = set()
        """Names of files that were looked into: each means one content."""
        self._folders: list[Path] = []

    def find(self, folder: Path, hashes: list[bytes]) -> list[tuple[Path, int, int] | None]:
        """Of each chunk where it stands; None where it does not. What is there may have rotted."""
        with self._lock:
            folders = _folders(folder)
            if folders != self._folders:
                if not set(self._folders) <= set(folders):  # some were removed, and names with them
                    self._places, self._seen = {}, set()
                self._folders = folders
                for each in folders:
                    self._look(each)
            return [self._places.get(hash) for hash in hashes]

    def _look(self, folder: Path) -> None:
        for path in sorted(folder.glob("*.shard"))[: SHARDS_MAX * 4]:
            if path.name in self._seen:
                continue
            try:
                mapped = Mapped(path)
            except (OSError, SnapshotError):
                continue
            try:
                header, table = read_table(mapped, None)
                for number in range(header.chunks):
                    entry = unpack_entry(table, number, header, str(path))
                    if entry.file == 0:
                        self._places.setdefault(entry.stored_hash, (path, entry.offset, entry.stored_bytes))
                self._seen.add(path.name)
            except SnapshotError:
                continue
            finally:
                mapped.close()


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read(path: Path, offset: int, size: int) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(size)
    except FileNotFoundError:
        raise SwarmError("the snapshot was removed", hint="ask again") from None
