"""The large values of a node as records of a snapshot: one is in memory at a time, and a part of them is such records again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import msgpack

from nodes.knowledge.blob_files import BlobFiles
from swarm.snapshots.ordering import Record


class BlobRecords(Sequence[Record]):
    """(id, packed value) in the order of ids. What went, or is not what it was, is passed over when all are gone through."""

    def __init__(self, files: BlobFiles, ids: Sequence[bytes] | None = None) -> None:
        self._files = files
        self.ids = files.ids() if ids is None else ids

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Record]:
        for id in self.ids:
            raw = self._files.read(id)
            if raw is not None:
                yield id, msgpack.packb(raw)

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: slice) -> BlobRecords: ...
    def __getitem__(self, at: int | slice) -> Record | BlobRecords:
        if isinstance(at, slice):
            return BlobRecords(self._files, self.ids[at])
        raw = self._files.read(self.ids[at])
        if raw is None:
            raise LookupError(f"the blob {self.ids[at].hex()} is not here any more")
        return self.ids[at], msgpack.packb(raw)
