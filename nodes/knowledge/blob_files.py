"""Large values on a node's disk: a file for each blob, named by its hash, there whole and synced or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from swarm.errors import SwarmError
from swarm.paths import private_directory
from swarm.protocol.knowledge.blobs import ID_BYTES, id_of

DIRECTORY: Final = "knowledge-blobs"
_BEGUN: Final = ".part"


class NoRoom(SwarmError):
    """What is to be kept has no room: on the disk, or within the bound."""


class BlobFiles:
    """The files of one node, bounded in bytes. Its methods take as long as the disk does, and may be called from any thread."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        """SystemRefused when the directory cannot be made."""
        self._directory = private_directory(directory / DIRECTORY)
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._sizes: dict[bytes, int] = {}
        self._numbers = 0
        for path in sorted(self._directory.iterdir()):
            id = _id(path.name)
            if id is None:
                path.unlink(missing_ok=True)  # begun by a process that was killed
            else:
                self._sizes[id] = path.stat().st_size
        self.bytes = sum(self._sizes.values())

    def ids(self) -> list[bytes]:
        """What is here, in order."""
        with self._lock:
            return sorted(self._sizes)

    def __contains__(self, id: bytes) -> bool:
        return id in self._sizes

    def put(self, raw: bytes) -> bytes:
        """Keeps a blob; its id. It is on the disk when this returns. NoRoom."""
        id = id_of(raw)
        with self._lock:
            if id in self._sizes:
                return id
            if self.bytes + len(raw) > self._bytes_max:
                raise NoRoom(
                    f"this node keeps {self.bytes} of at most {self._bytes_max} bytes of large values, and {len(raw)} more do not fit",
                    hint="drop what is not needed, or raise knowledge.blob_bytes",
                )
            self.bytes += len(raw)
            self._sizes[id] = len(raw)
            self._numbers += 1
            begun = self._directory / f"{self._numbers}{_BEGUN}"
        try:
            with begun.open("wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            begun.rename(self._directory / id.hex())
            self._sync()
        except OSError as error:
            begun.unlink(missing_ok=True)
            self.remove(id)
            raise NoRoom(
                f"the disk of this node did not take {len(raw)} bytes in {self._directory}: {error.strerror or error}",
                hint="free some space there",
            ) from error
        return id

    def read(self, id: bytes) -> bytes | None:
        """A blob; None if it is not here, or is not what it was: then it is removed."""
        if id not in self._sizes:
            return None
        try:
            raw = (self._directory / id.hex()).read_bytes()
        except OSError:
            raw = b""
        if id_of(raw) == id:
            return raw
        self.remove(id)
        return None

    def remove(self, id: bytes) -> None:
        """Nobody needs it, or it is not what it was."""
        with self._lock:
            self.bytes -= self._sizes.pop(id, 0)
        (self._directory / id.hex()).unlink(missing_ok=True)

    def _sync(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _id(name: str) -> bytes | None:
    try:
        id = bytes.fromhex(name)
    except ValueError:
        return None
    return id if len(id) == ID_BYTES else None
