"""Snapshots between nodes: what is damaged here is had from peers without being asked, and whole ones are fetched and sent when asked.

A transfer goes on where it was interrupted: what has come is kept under the id of the snapshot, checked again, and not sent twice.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from nodes.knowledge.peer_copies import PeerCopy
from nodes.knowledge.shelf import Shelf
from nodes.knowledge.shell import KnowledgeShell
from nodes.queries import AskFailed, Switchboard
from nodes.snapshots import require_member
from swarm.errors import NotFound, SwarmError, SystemRefused
from swarm.paths import checked_name
from swarm.protocol.effects import Fact
from swarm.snapshots.checking import Copy, Report
from swarm.snapshots.fetching import Progress, pull
from swarm.snapshots.manifest import decode
from swarm.units import format_bytes
from transport.fleet import Fleet
from transport.links import Link

PEERS_MAX: Final = 8
NEWEST_S: Final = 120.0
PENDING_MAX: Final = 16
KEPT_MAX: Final = 64
"""Transfers that are over, and of which it can still be asked how they went."""
POLL_S: Final = 0.1
Id = bytes


@dataclass(slots=True)
class Transfer:
    """How far one is."""

    name: str
    bytes: int = 0
    bytes_total: int = 0
    kept_bytes: int = 0
    reused_bytes: int = 0
    wrong: int = 0
    done: bool = False
    error: list[str] = field(default_factory=list)
    """[message, hint] where it failed."""
    folder: str = ""
    id: Id = b""


class Peers:
    """One node's dealings in snapshots with others. For its loop."""

    def __init__(
        self,
        shelf: Shelf,
        shell: KnowledgeShell,
        fleet: Fleet,
        switchboard: Switchboard,
        links: Mapping[bytes, Link],
        copy_of: Callable[[Link], PeerCopy],
        fact: Callable[[Fact], None],
    ) -> None:
        self._shelf = shelf
        self._shell = shell
        self._fleet = fleet
        self._switchboard = switchboard
        self._links = links
        self._copy_of = copy_of
        self._fact = fact
        self._numbers = itertools.count(1)
        self._transfers: dict[int, Transfer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        shelf.helped = self.helped
        switchboard.serve("snapshot.fetch", self._begin_fetch)
        switchboard.serve("snapshot.send", self._begin_send)
        switchboard.serve("snapshot.progress", self._progress)

    async def close(self) -> None:
        """What has come is kept."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _linked(self) -> list[Link]:
        found = [link for link in self._links.values() if link.up and link.identity.role == "node"]
        return sorted(found, key=lambda link: link.identity.id)[:PEERS_MAX]

    # --- mending ----------------------------------------------------------------------------------------------------------

    async def helped(self, report: Report) -> list[Copy]:
        """Peers that may have what is damaged. Where none has a chunk each takes a snapshot anew: of the same log come the same chunks."""
        wanted = [(each.hash, each.size_bytes) for each in report.damage if each.hash]
        copies = [self._copy_of(link) for link in self._linked()]
        for attempt in (1, 2):
            for copy in copies:
                try:
                    await asyncio.to_thread(copy.want, wanted)
                except OSError:
                    continue
            if attempt == 2 or all(any(copy.has(hash) for copy in copies) for hash, _ in wanted):
                break
            asked = (
                self._switchboard.asked(copy.link, "snapshot.newest", {"fresh_s": 0.0}, timeout_s=NEWEST_S)
                for copy in copies
            )
            await asyncio.gather(*asked, return_exceptions=True)
        return list(copies)

    # --- fetching and sending ---------------------------------------------------------------------------------------------

    async def _begin_fetch(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """Fetch a snapshot of a node that is named, or of the node that asks."""
        self._shelf.meant(args.get("of"))
        node = args.get("node")
        source = link if node is None else await self._shell.linked(str(node))
        if source.identity.role != "node":
            raise ValueError("a client has no snapshots: which node is meant?")
        name = checked_name(str(args.get("as") or args["name"]))
        transfer, number = self._begun(name)
        self._start(transfer, self._fetch(transfer, source, str(args["name"]), args.get("any_signer") is True))
        return {"transfer": number}

    async def _begin_send(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """Have another node fetch a snapshot of this one."""
        self._shelf.meant(args.get("of"))
        target = await self._shell.linked(str(args["node"]))
        transfer, number = self._begun(str(args["name"]))
        self._start(transfer, self._send(transfer, target))
        return {"transfer": number}

    def _progress(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        transfer = self._transfers.get(int(args["transfer"]))
        if transfer is None:
            raise NotFound("there is no such transfer", hint="begin it again: what has come is kept")
        return asdict(transfer)

    def _begun(self, name: str) -> tuple[Transfer, int]:
        if sum(not each.done for each in self._transfers.values()) >= PENDING_MAX:
            raise SwarmError(f"{PENDING_MAX} snapshots are on their way already", hint="wait for one of them")
        over = [number for number, each in self._transfers.items() if each.done]
        for number in over[: max(0, len(over) - KEPT_MAX)]:
            del self._transfers[number]
        number = next(self._numbers)
        transfer = self._transfers[number] = Transfer(name)
        return transfer, number

    def _start(self, transfer: Transfer, work: Any) -> None:
        async def run() -> None:
            try:
                await work
            except (SwarmError, OSError) as error:
                transfer.error = [str(error), getattr(error, "hint", "")]
                self._fact(Fact("snapshot.failed", {}, {"snapshot": transfer.name, "error": str(error)}))
            except BaseException as error:
                transfer.error = [
                    f"the node is closing, or made a mistake: {error!r}",
                    "begin it again: what has come is kept",
                ]
                raise
            finally:
                transfer.done = True

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch(self, transfer: Transfer, source: Link, name: str, any_signer: bool) -> None:
        first = self._copy_of(source)
        first.name = name
        # The others may have chunks of it, too: of the same log, or since they have fetched it themselves.
        copies = [first, *(self._copy_of(link) for link in self._linked() if link is not source)]

        def told(progress: Progress) -> None:
            _note(transfer, progress)
            if self._closing:
                raise SwarmError("this node is closing", hint="begin it again: what has come is kept")

        def work() -> None:
            raw = first.manifest()
            if raw is None:
                raise NotFound(f"{source.identity.name} has no snapshot {name}", hint="`swarm snapshot list` there")
            manifest = decode(raw, f"the snapshot of {source.identity.name}")
            target = self._shelf.folder / transfer.name
            if not any_signer:
                require_member(manifest, self._fleet, Path(f"{name} of {source.identity.name}"))
            size = sum(line.file_bytes for line in manifest.shards)
            free = shutil.disk_usage(self._shelf.folder).free
            if size > free:
                raise SystemRefused(
                    f"{transfer.name} has {format_bytes(size)}, and there are {format_bytes(free)} free",
                    hint=f"free some space where {self._shelf.folder} is",
                )
            _, progress = pull(target, copies, have=[path for path, _ in self._shelf.all()], told=told)
            _note(transfer, progress)
            transfer.folder, transfer.id = str(target), manifest.id

        task = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait((task,))
            raise
        finally:
            for copy in copies:
                await asyncio.to_thread(copy.close)

    async def _send(self, transfer: Transfer, target: Link) -> None:
        answer, _ = await self._switchboard.asked(target, "snapshot.fetch", {"name": transfer.name}, timeout_s=NEWEST_S)
        number = answer["transfer"]
        while True:
            try:
                said, _ = await self._switchboard.asked(target, "snapshot.progress", {"transfer": number})
            except AskFailed as error:
                raise SwarmError(
                    f"{target.identity.name} tells no more how far it is: {error}",
                    hint="send it again: what has come is kept there",
                ) from error
            for name in ("bytes", "bytes_total", "kept_bytes", "reused_bytes", "wrong"):
                setattr(transfer, name, int(said[name]))
            if said["done"]:
                if said["error"]:
                    raise SwarmError(f"{target.identity.name}: {said['error'][0]}", hint=said["error"][1])
                transfer.folder, transfer.id = str(said["folder"]), bytes(said["id"])
                return
            await asyncio.sleep(POLL_S)


def _note(transfer: Transfer, progress: Progress) -> None:
    transfer.bytes, transfer.bytes_total = progress.bytes, progress.bytes_total
    transfer.kept_bytes, transfer.reused_bytes, transfer.wrong = (
        progress.kept_bytes,
        progress.reused_bytes,
        progress.wrong,
    )
