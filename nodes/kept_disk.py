"""Reading and writing the files beside the journal, in other threads: written, synced and named; hashed whenever they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from nodes.kept_files import KeptFiles, digest_of
from nodes.lane import Place

READS_MAX = 4
"""At once. Apart from what is fetched: two nodes that fetch from each other read for each other meanwhile."""


class KeptDisk:
    """The files of one node. `named` gives the digest that a log has for an id; `damaged` is told of a file that is not what
    it was, and has been removed."""

    def __init__(
        self,
        files: KeptFiles,
        loop: asyncio.AbstractEventLoop,
        named: Callable[[bytes], bytes | None],
        damaged: Callable[[bytes], None],
    ) -> None:
        self.files = files
        self._loop = loop
        self._named = named
        self._damaged = damaged
        self.digests: dict[bytes, bytes] = {}
        """Of files that were whole when this process wrote or read them last."""
        self._reads = asyncio.Semaphore(READS_MAX)

    def has(self, id: bytes) -> bool:
        """Whether it is here."""
        return self.files.open(id) is not None

    def remove(self, id: bytes) -> None:
        """Nobody needs it, or it is not what it was."""
        self.files.remove(id)
        self.digests.pop(id, None)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def read(self, id: bytes, put: Callable[[memoryview], object] | None = None) -> tuple[Path, int] | None:
        """(path, bytes) of a file that is here and is what it should be; its parts are given to `put`, in another thread."""
        found = self.files.open(id)
        if found is None:
            return None
        wanted = self._named(id) or self.digests.get(id)
        try:
            async with self._reads:
                digest = await self._loop.run_in_executor(None, digest_of, *found, put)
        except FileNotFoundError:
            digest = b""
        if digest and (wanted is None or digest == wanted):
            self.digests[id] = digest
            return found
        if self.has(id):
            self.remove(id)
            self._damaged(id)
        return None

    async def offered(self, id: bytes) -> tuple[Path, int, bool] | None:
        """(path, bytes, whether its id is random) of a file that is here and is what it should be."""
        found = await self.read(id)
        return None if found is None else (*found, self.digests[id] != id)

    async def into(self, id: bytes, place: Place) -> bool:
        """Copy a file that is here into the store of what tasks use. SystemRefused when that has no room."""
        found = self.files.open(id)
        if found is None:
            return False
        path = place.begin(found[1])
        done = False
        try:
            with open(path, "r+b") as file:
                done = await self.read(id, file.write) is not None
            if done:
                place.finish(id, path, found[1], segment=self.digests[id] != id)
        finally:
            if not done:
                place.abandon(path, found[1])
        return done

    def code(self, id: bytes) -> bytes | None:
        """Code that is here, and is what it should be."""
        found = self.files.open(id)
        if found is None:
            return None
        try:
            code = found[0].read_bytes()
        except OSError:
            code = b""
        if blake3(code).digest() == id:
            return code
        if (self._named(id) or self.digests.get(id)) == id:
            self.remove(id)
            self._damaged(id)
        return None

    # --- writing ------------------------------------------------------------------------------------------------------

    async def copy(self, id: bytes, source: tuple[Path, int] | bytes) -> None:
        """Keep bytes, or the first so many of a file. NoRoom, OSError."""
        size = len(source) if isinstance(source, bytes) else source[1]
        path = self.files.begin(size)
        await self.seal(id, path, size, write=lambda: _copied(source, path))

    async def seal(
        self, id: bytes, path: Path, size: int, want: bytes = b"", write: Callable[[], object] = lambda: None
    ) -> bool:
        """Write a file that was begun, sync it and give it its name; False when it is not what it should be. OSError."""

        def work() -> bytes:
            write()
            digest = self.files.written(path, size)
            if not want or digest == want:
                self.files.named(id, path)
            return digest

        done = False
        try:
            digest = await self._loop.run_in_executor(None, work)
            done = not want or digest == want
        finally:
            if not done:
                self.files.abandon(path, size)
        if done:
            self.files.finish(id, size)
            self.digests[id] = digest
        return done


def _copied(source: tuple[Path, int] | bytes, path: Path) -> None:
    with open(path, "r+b") as file:
        if isinstance(source, bytes):
            file.write(source)
        else:
            digest_of(*source, file.write)
