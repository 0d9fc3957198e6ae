"""Values over 64 KiB: a blob on the disk of each node that holds the entry, fetched from a peer where it is lacking or damaged.

Who holds a shard keeps the blobs that its entries name; what no entry names any more goes after a while. Of one author so many bytes are kept
(`AUTHOR_BLOB_BYTES_MAX`), the last said first: who names much more than that fills nobody's disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from nodes.knowledge.blob_files import BlobFiles, NoRoom
from nodes.knowledge.shell import KnowledgeShell
from nodes.queries import AskFailed, Switchboard
from swarm.errors import SwarmError
from swarm.protocol.effects import Fact
from swarm.protocol.knowledge.blobs import Reference, id_of, reference_in
from swarm.protocol.knowledge.bounds import BLOB_BYTES_MAX
from swarm.protocol.knowledge.crdts import winner
from swarm.protocol.knowledge.entries import shard_of
from swarm.protocol.knowledge.keeper import Keeper
from swarm.protocol.knowledge.kinds import KINDS, Crdt
from swarm.protocol.knowledge.knowledge import SaidTooMuch
from swarm.protocol.knowledge.views import Watch
from transport.links import Link

METHOD: Final = "knowledge.blob"
PART_BYTES: Final = 1 << 20
ASK_S: Final = 10.0
LINK_S: Final = 3.0
"""How long a link that is lacking is waited for."""
LOOK_S: Final = 5.0
"""How often, at least, it is seen what is lacking."""
SCRUB_S: Final = 60.0
"""How often one file is read and checked."""
GRACE_S: Final = 600.0
"""So long a blob stays that no entry names: it may have come before its entry."""
FETCHES_MAX: Final = 2
AUTHOR_BLOB_BYTES_MAX: Final = 256 << 20
REGISTERS: Final = tuple(sorted(kind.name for kind in KINDS.values() if kind.crdt is Crdt.REGISTER and not kind.beside))


class Named(NamedTuple):
    """Which blob an entry names, whose entry that is, and since when."""

    reference: Reference
    author: bytes
    time: int


class LargeValues:
    """The large values of one node."""

    def __init__(
        self,
        directory: Path,
        bytes_max: int,
        shell: KnowledgeShell,
        switchboard: Switchboard,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._shell = shell
        self._switchboard = switchboard
        self._loop = loop
        self.files = BlobFiles(directory, bytes_max)
        self._named: dict[tuple[str, str], Named] = {}
        """For the desk's thread."""
        self._watches: dict[str, Watch] = {}
        self._fetching: dict[bytes, asyncio.Task[bytes | None]] = {}
        self._free = asyncio.Semaphore(FETCHES_MAX)
        self._tending: asyncio.Task[None] | None = None
        self._scrubbed_at = loop.time()
        self._scrubs = 0
        self._unnamed: dict[bytes, float] = {}
        self._said_lacking: set[bytes] = set()
        self.holding = False
        """What lacks comes in one go: it is not fetched one by one."""
        self.kept: Callable[[bytes], bytes | None] | None = None
        """Where else a blob may be than on peers, for any thread."""
        switchboard.serve(METHOD, self._give)

    def start(self) -> None:
        """Keep what entries name from now on."""
        self._tending = self._loop.create_task(self._tend())

    async def close(self) -> None:
        """Fetch no more."""
        tasks = [task for task in (self._tending, *self._fetching.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- values ---------------------------------------------------------------------------------------------------------

    async def keep(self, raw: bytes) -> Reference:
        """Keeps a packed value, which an entry will name; on the disk when this returns. NoRoom, SaidTooMuch."""
        if len(raw) > BLOB_BYTES_MAX:
            raise SwarmError(
                f"a value of {len(raw)} bytes is more than the {BLOB_BYTES_MAX >> 20} MiB that may be known under one key",
                hint="put it into a file, and the file's name here",
            )
        said = await self._shell.ask(self._said_by_this_node)
        if said + len(raw) > AUTHOR_BLOB_BYTES_MAX:
            raise SaidTooMuch(
                f"this node has said large values of {said} bytes; {AUTHOR_BLOB_BYTES_MAX >> 20} MiB of one are kept",
                hint="drop some, or say them on another node",
            )
        return Reference(await asyncio.to_thread(self.files.put, raw), len(raw))

    async def value(self, reference: Reference) -> bytes:
        """The packed value of an entry: from the disk, or, where it is lacking or damaged there, from a peer. SwarmError if nobody has it."""
        was_here = reference.id in self.files
        raw = await asyncio.to_thread(self.files.read, reference.id)
        if raw is None:
            if was_here:
                self._shell.around.fact(Fact("knowledge.blob_damaged", {}, {"blob": reference.id.hex()}))
            raw = await self._fetched(reference)
        if raw is None:
            raise SwarmError(
                f"the value ({reference.size} bytes) is on no node that could be asked",
                hint="start the node on which it was put, or one that was there then",
            )
        return raw

    # --- from peers -----------------------------------------------------------------------------------------------------

    async def _fetched(self, reference: Reference) -> bytes | None:
        task = self._fetching.get(reference.id)
        if task is None:
            task = self._fetching[reference.id] = self._loop.create_task(self._fetch(reference))
            task.add_done_callback(lambda _: self._fetching.pop(reference.id, None))
        return await asyncio.shield(task)

    async def _fetch(self, reference: Reference) -> bytes | None:
        async with self._free:
            peers = self._shell.partners()
            linked = [peer for peer in peers if self._shell.link_to(peer) is not None]
            deadline = self._loop.time() + LINK_S
            for peer in linked + [peer for peer in peers if peer not in linked]:
                link = self._shell.link_to(peer)
                while link is None and self._loop.time() < deadline:
                    await asyncio.sleep(0.05)
                    link = self._shell.link_to(peer)
                raw = None if link is None else await self._from(link, reference)
                if raw is not None:
                    self._shell.around.fact(Fact("knowledge.blob_fetched"))
                    await self._put(raw)
                    return raw
        raw = None if self.kept is None else await asyncio.to_thread(self.kept, reference.id)
        if raw is not None:
            await self._put(raw)
        return raw

    async def _put(self, raw: bytes) -> None:
        try:
            await asyncio.to_thread(self.files.put, raw)
        except NoRoom as error:
            self._shell.around.fact(Fact("knowledge.blob_lacking", {}, {"error": str(error)}))

    async def _from(self, link: Link, reference: Reference) -> bytes | None:
        parts, got = list[bytes](), 0
        while got < reference.size:
            try:
                args = {"id": reference.id, "offset": got}
                _, part = await self._switchboard.asked(link, METHOD, args, timeout_s=ASK_S)
            except AskFailed:
                return None
            if not 0 < len(part) <= min(PART_BYTES, reference.size - got):
                return None
            parts.append(part)
            got += len(part)
        raw = b"".join(parts)
        return raw if id_of(raw) == reference.id else None

    async def _give(self, link: Link, args: Mapping[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        """A peer fetches a part. What is damaged is not given, and comes anew."""
        id, offset = args["id"], args["offset"]
        if type(id) is not bytes or type(offset) is not int or offset < 0:
            raise ValueError("a blob is asked for by its id and an offset")
        raw = await asyncio.to_thread(self.files.read, id)
        if raw is None or offset >= len(raw):
            raise SwarmError("this node does not have it")
        return {}, raw[offset : offset + PART_BYTES]

    # --- what entries name ----------------------------------------------------------------------------------------------

    def _said_by_this_node(self, keeper: Keeper) -> int:
        self._look(keeper)
        me = keeper.knowledge.author
        return sum({one.reference.id: one.reference.size for one in self._named.values() if one.author == me}.values())

    def _look(self, keeper: Keeper) -> None:
        """In the desk's thread: which blobs entries name, by what changed."""
        knowledge = keeper.knowledge
        for kind in REGISTERS:
            watch = self._watches.get(kind)
            if watch is None:
                watch = self._watches[kind] = knowledge.watch(kind)
                watch.lost = True
            changed = {change.key for change in knowledge.changes(watch)}
            if watch.lost:
                watch.lost = False
                changed |= {key for of, key in self._named if of == kind}
                changed.update(key for shard in knowledge.shards.values() for key in shard.keys(kind))
            for key in changed:
                # Of what is pruned, too: it may be brought back.
                shard = knowledge.shards.get(shard_of(kind, key, knowledge.shards_count))
                slot = None if shard is None else shard.slot(kind, key)
                said = None if slot is None else winner(slot)
                reference = None if said is None or said.op else reference_in(said.value)
                if reference is None or said is None:
                    self._named.pop((kind, key), None)
                else:
                    self._named[kind, key] = Named(reference, said.line.author, said.time)

    def wanted(self, keeper: Keeper) -> dict[bytes, Reference]:
        """In the desk's thread: what this node is to keep."""
        self._look(keeper)
        wanted: dict[bytes, Reference] = {}
        spent: dict[bytes, int] = {}
        for (kind, key), one in sorted(self._named.items(), key=lambda item: item[1].time, reverse=True):
            if one.reference.id in wanted or not keeper.holds(shard_of(kind, key, keeper.knowledge.shards_count)):
                continue
            spent[one.author] = spent.get(one.author, 0) + one.reference.size
            if spent[one.author] <= AUTHOR_BLOB_BYTES_MAX:
                wanted[one.reference.id] = one.reference
        return wanted

    async def _tend(self) -> None:
        while not self._shell.closing:
            stirred = self._shell.stirred()
            try:
                await self._keep_wanted(await self._shell.ask(self.wanted))
            except SwarmError as error:
                self._shell.around.fact(Fact("knowledge.blob_lacking", {}, {"error": str(error)}))
            await asyncio.wait((stirred,), timeout=LOOK_S)
            stirred.cancel()
            await asyncio.sleep(0.2)

    async def _keep_wanted(self, wanted: dict[bytes, Reference]) -> None:
        here, now = self.files.ids(), self._loop.time()
        for id in here:
            if id in wanted:
                self._unnamed.pop(id, None)
            elif self._unnamed.setdefault(id, now) + GRACE_S <= now:
                del self._unnamed[id]
                await asyncio.to_thread(self.files.remove, id)
        checked = [id for id in here if id in wanted]
        if checked and now - self._scrubbed_at >= SCRUB_S:
            self._scrubbed_at, self._scrubs = now, self._scrubs + 1
            await self.value(wanted[checked[self._scrubs % len(checked)]])
        if self.holding:
            return
        lacking = wanted.keys() - set(here)
        if not self._shell.partners():
            lacking -= self._said_lacking  # a snapshot here had it, or has it no more
        for id in sorted(lacking):
            if await self._fetched(wanted[id]) is not None:
                self._said_lacking.discard(id)
            elif id not in self._said_lacking and len(self._said_lacking) < 1000:
                self._said_lacking.add(id)
                self._shell.around.fact(Fact("knowledge.blob_lacking", {}, {"error": f"no peer has {id.hex()[:12]}"}))
