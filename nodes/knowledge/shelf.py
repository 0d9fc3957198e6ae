"""The snapshots of one node: taken when asked and every so often, checked now and then, the oldest of the automatic ones removed.

What is to be in one is listed in the desk's thread, which takes a moment; it is written in a thread of its own, while the node
goes on. A disk that takes nothing is told, what was begun is removed, and all that was there before stays.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from blake3 import blake3

from nodes.knowledge import snapshot_files
from nodes.knowledge.blob_files import BlobFiles
from nodes.knowledge.blob_records import BlobRecords
from nodes.knowledge.desk import Desk
from nodes.knowledge.rebuilding import Rebuilt
from nodes.knowledge.shell import KnowledgeShell
from nodes.knowledge.snapshot_files import Contents, PastFile
from nodes.settings import KnowledgeSection
from nodes.snapshots import Signing, listed
from swarm.errors import NotFound, SwarmError, SystemRefused
from swarm.paths import checked_name, private_directory
from swarm.protocol.effects import Fact
from swarm.protocol.knowledge.keeper import Keeper
from swarm.protocol.knowledge.stamps import time_of
from swarm.snapshots.checking import Report, repair, verify
from swarm.snapshots.copies import AnyCopy, FolderCopy
from swarm.snapshots.errors import SnapshotError, SnapshotExists
from swarm.snapshots.manifest import Manifest
from swarm.snapshots.ordering import Record
from swarm.snapshots.publishing import sweep
from swarm.snapshots.snapshot import Snapshot

FOLDER: Final = "snapshots"
AUTOMATIC: Final = "auto-"
"""What the names of those begin with that nobody asked for."""
RETRY_S: Final = 60.0
FIRST_S: Final = 30.0
"""How long after its start a node looks whether a snapshot is due, at most."""
THREADS: Final = 1

GOING: Final = ".going-by-swarm"
T = TypeVar("T")

Helped = Callable[[Report], Awaitable[list[Any]]]
"""Copies of which what is damaged can be had."""


class Shelf:
    """One node's folder of snapshots. For the node's loop; what takes time is done in threads."""

    def __init__(
        self,
        directory: Path,
        name: str,
        shell: KnowledgeShell,
        signing: Signing,
        key: Callable[[], bytes],
        settings: KnowledgeSection,
        fact: Callable[[Fact], None],
        blobs: BlobFiles,
    ) -> None:
        self.folder = private_directory(directory / FOLDER)
        self._directory = directory
        self._name = name
        self._shell = shell
        self._signing = signing
        self.key = key
        """The fleet's, for those that are encrypted."""
        self._settings = settings
        self._fact = fact
        self._blobs = blobs
        self._busy = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self.helped: Helped | None = None
        """Where what is damaged is asked for, beside the other snapshots here."""
        self.count = 0
        self.newest_ms = 0
        """For metrics: how many there are, and when the last was made."""

    def meant(self, node: object) -> None:
        """NotFound where another node is meant: a client whose node is gone asks the next one."""
        if node is not None and node != self._name:
            raise NotFound(f"this is {self._name}, and {node} is not reached", hint="is it running? `swarm members`")

    def start(self) -> None:
        """Take snapshots, and check them, from now on."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._take_them())]
        if self._settings.check_every_s:
            self._tasks.append(loop.create_task(self._check_them()))

    async def close(self) -> None:
        """Begin nothing more; what is being written is finished or gone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._busy:
            pass

    # --- taking -----------------------------------------------------------------------------------------------------------

    async def contents(self) -> Contents:
        """What the node knows at this moment, to an entry of its log."""
        desk = self._shell.desk
        found: Contents = await self._shell.ask(partial(_listed, desk))
        found.authors = self._shell.authors.all()
        found.blobs = BlobRecords(self._blobs)
        return found

    async def create(
        self, name: str | None = None, *, full: bool = False, encrypt: bool = False, unless_same: bool = False
    ) -> dict[str, Any]:
        """Take one, encrypted where that is asked for or the setting of all; what it is. With `unless_same` the newest one where nothing is
        known that is not in it.

        SnapshotExists, ConfigError for a bad name, SystemRefused where the disk takes it not.
        """
        automatic = name is None
        encrypt = encrypt or self._settings.snapshot_encrypt
        name = (
            checked_name(name) if name is not None else AUTOMATIC + datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
        )
        async with self._busy:
            began = time.monotonic()
            contents = await self.contents()
            result = await _in_thread(partial(self._write, name, contents, full, encrypt, unless_same))
            if result["new"]:
                took_s = time.monotonic() - began
                facts = {"snapshot": name, "records": result["records"], "bytes": result["new_bytes"], "took_s": took_s}
                self._fact(Fact("snapshot.created", {"why": "automatic" if automatic else "asked"}, facts, took_s))
            return result

    def _write(self, name: str, contents: Contents, full: bool, encrypt: bool, unless_same: bool) -> dict[str, Any]:
        """In a thread."""
        base = None if full else newest(self.folder)
        past = PastFile(self._directory)
        try:
            contents.past = past.rows
            contents.digest = content_digest(contents.digest, past, self._blobs.ids())
            if base is not None and unless_same:
                said = snapshot_files.about(base[1])
                if said is not None and said.digest == contents.digest:
                    return _result(base[0], base[1], None, 0, 0, new=False)
            created = snapshot_files.write(
                self.folder / name, contents, self._name, self._signing,
                base=base[0] if base is not None else None, key=self.key() if encrypt else None, threads=THREADS,
            )  # fmt: skip
        except SnapshotExists:
            raise
        except SnapshotError:
            if base is None:
                raise
            # The one before is damaged, or of another key: this one shares nothing with it.
            return self._write(name, contents, True, encrypt, False)
        except (OSError, sqlite3.DatabaseError) as error:
            raise SystemRefused(
                f"the snapshot {name} could not be written: {getattr(error, 'strerror', None) or error}",
                hint=f"free some space where {self.folder} is; what was there before is there still",
            ) from error
        finally:
            past.close()
        shared = sum(each.shared_bytes for each in created.written)
        return _result(created.folder, created.manifest, base[0] if base else None, created.new_bytes, shared, new=True)

    def blob(self, id: bytes) -> bytes | None:
        """A packed value over 64 KiB that one of the snapshots here has, the newest first. In any thread."""
        for path, _ in reversed(self.all()):
            try:
                with Snapshot.open(path, key=self.key()) as snapshot:
                    found = snapshot_files.blob(snapshot, id)
            except (SwarmError, OSError):
                continue
            if found is not None:
                return found
        return None

    def all(self) -> list[tuple[Path, Manifest]]:
        """All whose manifest can be read, oldest first. In any thread."""
        return [(path, found) for path, found in listed(self.folder) if isinstance(found, Manifest)]

    async def _take_them(self) -> None:
        every_s, keep = self._settings.snapshot_every_s, self._settings.snapshot_keep
        await _in_thread(partial(_clear, self.folder))
        await self._look()
        delay_s = min(FIRST_S, every_s or FIRST_S) * random.random()
        while every_s:
            await asyncio.sleep(delay_s)
            age_s = time.time() - self.newest_ms / 1000
            if 0 <= age_s < every_s:
                delay_s = every_s - age_s
                continue
            delay_s = every_s
            try:
                await self.create(unless_same=True)
                await _in_thread(partial(_remove_oldest, self.folder, keep))
            except SwarmError as error:
                self._fact(Fact("snapshot.failed", {}, {"error": str(error), "hint": error.hint}))
                delay_s = min(every_s, RETRY_S)
            await self._look()

    async def _look(self) -> None:
        there = await _in_thread(self.all)
        self.count = len(there)
        self.newest_ms = max((manifest.created_ms for _, manifest in there), default=0)

    # --- checking ---------------------------------------------------------------------------------------------------------

    async def _check_them(self) -> None:
        every_s = self._settings.check_every_s
        delay_s = every_s * random.random()
        while True:
            await asyncio.sleep(delay_s)
            delay_s = every_s
            try:
                await self.check()
            except (SwarmError, OSError, sqlite3.DatabaseError) as error:
                self._fact(Fact("snapshot.failed", {}, {"error": str(error), "hint": getattr(error, "hint", "")}))

    async def check(self) -> list[dict[str, Any]]:
        """Read every byte of every snapshot here, and of the log's file; what is damaged is told and mended. What was found."""
        found: list[dict[str, Any]] = []
        async with self._busy:
            for path in await _in_thread(partial(_folders, self.folder)):
                try:
                    report = await _in_thread(partial(verify, path, threads=THREADS))
                except SwarmError:
                    continue  # it was removed meanwhile
                if not report.whole:
                    found.append(await self._mend(path, report))
        found += await self._mend_log()
        return found

    async def _mend(self, path: Path, report: Report) -> dict[str, Any]:
        facts = {"snapshot": path.name, "chunks": len(report.damage), "what": report.damage[0].what}
        self._fact(Fact("snapshot.damaged", {}, facts))
        near = [FolderCopy(other) for other in await _in_thread(partial(_folders, self.folder)) if other != path]
        far = await self.helped(report) if self.helped is not None else []
        copies = AnyCopy([*near, *far])
        try:
            repaired, after = await _in_thread(partial(repair, path, copies, report=report))
        finally:
            await _in_thread(copies.close)
        if not after.whole:
            contents = await self.contents()
            made, after = await _in_thread(partial(self._rebuilt, path, after, contents))
            repaired += made
        if repaired:
            came = sum(getattr(copy, "bulk_bytes", 0) + getattr(copy, "control_bytes", 0) for copy in far)
            done = {"snapshot": path.name, "chunks": len(repaired), "left": len(after.damage), "from_peers_bytes": came}
            self._fact(Fact("snapshot.repaired", {}, done, float(len(repaired))))
        if not after.whole:
            self._fact(Fact("snapshot.unrepaired", {}, {"snapshot": path.name, "chunks": len(after.damage)}))
        return {
            "snapshot": path.name,
            "damaged": len(report.damage),
            "repaired": len(repaired),
            "left": len(after.damage),
        }

    def _rebuilt(self, path: Path, report: Report, contents: Contents) -> tuple[list[Any], Report]:
        """In a thread: what nobody has is made again from the log."""
        past = PastFile(self._directory)
        try:
            contents.past = past.rows
            damaged = {each.shard for each in report.damage}
            known: dict[str, Sequence[Record]] = {
                name: list(rows)
                for name, rows in snapshot_files.records(contents).items()
                if name in damaged and name != snapshot_files.BLOBS
            }
            if snapshot_files.BLOBS in damaged:
                known[snapshot_files.BLOBS] = contents.blobs
        finally:
            past.close()
        rebuilt = Rebuilt(path, GOING, report, known, self.key())
        try:
            return repair(path, rebuilt, report=report)
        finally:
            rebuilt.close()

    async def _mend_log(self) -> list[dict[str, Any]]:
        """What has rotted in the log's own file is written again, from what is known in memory."""
        damaged = await _in_thread(partial(_damaged_rows, self._directory))
        if not damaged:
            return []
        mended = await self._shell.ask(partial(_rewrite, self._shell.desk, damaged))
        self._fact(Fact("snapshot.damaged", {}, {"snapshot": "the log", "chunks": len(damaged), "what": "segments"}))
        self._fact(Fact("snapshot.repaired", {}, {"snapshot": "the log", "chunks": mended}, float(mended)))
        return [{"snapshot": "", "damaged": len(damaged), "repaired": mended, "left": len(damaged) - mended}]


def newest(folder: Path) -> tuple[Path, Manifest] | None:
    """The latest snapshot of knowledge in a folder."""
    for path, manifest in reversed(listed(folder)):
        if isinstance(manifest, Manifest) and snapshot_files.about(manifest) is not None:
            return path, manifest
    return None


def content_digest(shards: bytes, past: PastFile, blobs: list[bytes]) -> bytes:
    """What tells one content from another: the digests of the shards, how much of the past there is and when it ends, and which large
    values."""
    return blake3(shards + repr(past.extent()).encode() + b"".join(blobs)).digest(16)


def _result(
    folder: Path, manifest: Manifest, base: Path | None, new_bytes: int, shared_bytes: int, *, new: bool
) -> dict[str, Any]:
    said = snapshot_files.about(manifest)
    assert said is not None
    return {
        "name": folder.name, "folder": str(folder), "id": manifest.id, "stamp": said.stamp, "records": manifest.records,
        "created_ms": manifest.created_ms, "base": base.name if base is not None else None, "new_bytes": new_bytes,
        "shared_bytes": shared_bytes, "new": new,
    }  # fmt: skip


def _folders(folder: Path) -> list[Path]:
    return [path for path, _ in listed(folder)]


def _clear(folder: Path) -> None:
    """What a node that was killed had begun, or had begun to remove."""
    sweep(folder)
    for path in folder.glob(f".*{GOING}"):
        shutil.rmtree(path, ignore_errors=True)


def _remove_oldest(folder: Path, keep: int) -> None:
    """Automatic ones beyond so many; each is gone at once, whatever happens meanwhile."""
    for path in [path for path in _folders(folder) if path.name.startswith(AUTOMATIC)][:-keep]:
        going = path.with_name(f".{path.name}{GOING}")
        path.rename(going)
        shutil.rmtree(going, ignore_errors=True)


def _damaged_rows(directory: Path) -> list[tuple[int, bytes]]:
    past = PastFile(directory)
    try:
        return past.damaged()
    finally:
        past.close()


async def _in_thread(work: Callable[[], T]) -> T:
    """In a thread, to its end: whoever is cancelled meanwhile leaves nothing half done behind that goes on."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise


def _listed(desk: Desk, keeper: Keeper) -> Contents:
    """In the desk's thread."""
    knowledge, wall_ms = keeper.knowledge, time.time_ns() // 1_000_000
    segments: dict[int, list[tuple[bytes, bytes]]] = {}
    digests: list[bytes] = []
    for number in range(knowledge.shards_count):
        shard = knowledge.shards.get(number)
        if shard is None:
            digests.append(b"")
            continue
        segments[number] = [(at, shard.payload(at) or b"") for at in shard.tree.places()]
        digests.append(shard.digest)
    assert desk.store is not None
    # Of this millisecond there may be more to come.
    stamp = min(knowledge.sealed_until, max(knowledge.clock.last, time_of(wall_ms) - 1))
    held = [number for number in range(knowledge.shards_count) if keeper.holds(number)]
    lacking = [number for number in range(knowledge.shards_count) if not keeper.holds(number)]
    return Contents(
        stamp, desk.store.since_ms(wall_ms, held), knowledge.shards_count, b"".join(digests), segments, lacking=lacking
    )


def _rewrite(desk: Desk, damaged: list[tuple[int, bytes]], keeper: Keeper) -> int:
    """In the desk's thread: how many."""
    assert desk.store is not None
    count = 0
    for number, place in damaged:
        shard = keeper.knowledge.shards.get(number)
        payload = shard.payload(place) if shard is not None else None
        if payload is not None:
            desk.store.mend(number, payload)
            count += 1
    return count
