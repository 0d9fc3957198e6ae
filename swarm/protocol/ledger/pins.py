"""What a log names of blobs beside it: those that are too large for an entry, and are files on the disks of its members."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from swarm.protocol.ledger.records import KeptBlob

NAME_BYTES = 96
"""What a name takes in a snapshot, at most."""


class Pins:
    """Names, each as often as something in the log needs it. The same on every replica, entry by entry."""

    def __init__(self) -> None:
        self._blobs: dict[bytes, KeptBlob] = {}
        self._named: dict[bytes, int] = {}
        self.changes = 0
        """How often something came or went: who has seen as many has nothing to look at."""

    @property
    def blobs(self) -> Mapping[bytes, KeptBlob]:
        """By id, what has to be there."""
        return self._blobs

    def add(self, blobs: Iterable[KeptBlob]) -> int:
        """Something needs these; what their names take, in bytes."""
        count = 0
        for blob in blobs:
            self._blobs.setdefault(blob.id, blob)
            self._named[blob.id] = self._named.get(blob.id, 0) + 1
            count += 1
        self.changes += count > 0
        return count * NAME_BYTES

    def drop(self, blobs: Iterable[KeptBlob]) -> int:
        """It needs them no longer; what their names took, in bytes."""
        count = 0
        for blob in blobs:
            left = self._named[blob.id] - 1
            if left:
                self._named[blob.id] = left
            else:
                del self._named[blob.id], self._blobs[blob.id]
            count += 1
        self.changes += count > 0
        return count * NAME_BYTES
