"""Copies of a snapshot that others take chunks from: a folder here is one, and over the network a node's is."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

from swarm.errors import NotFound
from swarm.snapshots.checking import Copy, manifest_of
from swarm.snapshots.errors import SnapshotError
from swarm.snapshots.format import HEADER_BYTES, file_name, root_of, unpack_entry
from swarm.snapshots.manifest import decode
from swarm.snapshots.mapping import Mapped, head_of, read_table


class FolderCopy:
    """A snapshot's folder, damaged itself perhaps: what it gives has the hash it was asked for by, or it gives None. In any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._chunks: dict[bytes, tuple[Mapped, int, int]] | None = None
        self._files: list[Mapped] = []

    def manifest(self) -> bytes | None:
        """The bytes of the manifest."""
        try:
            return manifest_of(self.folder)
        except (NotFound, OSError):
            return None

    def head(self, shard: str, root: bytes) -> bytes | None:
        """Header and table of the file with this root."""
        return head_of(self.folder / file_name(shard, root), root)

    def chunk(self, hash: bytes) -> bytes | None:
        """A chunk as it is stored."""
        with self._lock:
            if self._chunks is None:
                self._chunks = self._listed()
        place = self._chunks.get(hash)
        if place is None:
            return None
        mapped, offset, size = place
        try:
            found = mapped.read(offset, size)
        except SnapshotError:
            return None
        return found if blake3(found).digest() == hash else None

    def close(self) -> None:
        """Give the files back."""
        self._chunks = {}
        for mapped in self._files:
            mapped.close()

    def _listed(self) -> dict[bytes, tuple[Mapped, int, int]]:
        found: dict[bytes, tuple[Mapped, int, int]] = {}
        try:
            manifest = decode(manifest_of(self.folder), str(self.folder))
        except (NotFound, OSError, SnapshotError):
            return found
        for line in manifest.shards:
            for root in [line.root, *(root for root, _ in line.files)]:
                try:
                    mapped = Mapped(self.folder / file_name(line.name, root))
                    self._files.append(mapped)
                    header, table = read_table(mapped, root)
                    for number in range(header.chunks):
                        entry = unpack_entry(table, number, header, str(mapped.path))
                        if entry.file == 0:
                            found.setdefault(entry.stored_hash, (mapped, entry.offset, entry.stored_bytes))
                except (OSError, SnapshotError):
                    continue  # what can be had from the others is had from them
        return found


class AnyCopy:
    """Several copies as one: each is asked in turn until one has it. Those that fail are passed over."""

    def __init__(self, copies: Sequence[Copy]) -> None:
        self._copies = list(copies)

    def manifest(self) -> bytes | None:
        """Of the first that has one. They may be of other snapshots, so there is none where there is more than one copy."""
        return self._copies[0].manifest() if len(self._copies) == 1 else None

    def head(self, shard: str, root: bytes) -> bytes | None:
        """Header and table of the file with this root."""
        for copy in self._copies:
            try:
                found = copy.head(shard, root)
            except OSError:
                continue
            if found is not None and root_of(found[:HEADER_BYTES]) == root:
                return found
        return None

    def chunk(self, hash: bytes) -> bytes | None:
        """A chunk as it is stored."""
        for copy in self._copies:
            try:
                found = copy.chunk(hash)
            except OSError:
                continue
            if found is not None and blake3(found).digest() == hash:
                return found
        return None

    def close(self) -> None:
        """Give all of them back."""
        for copy in self._copies:
            close = getattr(copy, "close", None)
            if close is not None:
                close()
