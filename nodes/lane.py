"""The node's end of the bulk lane: blobs to and from other hosts.

What a transfer is about is settled on the control link (`blob.offer`, `blob.accept`, `blob.arrived`); the bytes go over a
TLS connection of their own, in threads (`transport.bulk`). Where none can be made (a firewall that lets only the control
port through), they go over the control link in parts, slower.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from blake3 import blake3

from nodes.blobs import ID_BYTES, SEGMENT, BlobStore
from nodes.incoming import client_key
from nodes.queries import AskFailed, Switchboard
from swarm.errors import SwarmError
from swarm.protocol.effects import Fact
from transport import bounds
from transport.bulk import BulkFailed, File, Route, Verb, Wire, Wires, read_route
from transport.bulk_client import BulkClient, Transfer
from transport.bulk_server import BulkServer
from transport.hints import Address
from transport.identity import Identity, Trust, Untrusted
from transport.links import Link

ASK_TIMEOUT_S = 30.0
ATTEMPTS_MAX = 4
"""Attempts in a row that bring nothing new before another holder is asked, or the control link is used."""
PART_BYTES = 1 << 20
SWEEP_EVERY_S = 10.0
_TRANSFERS = "transfers"
"""Who holds what is being read for a peer."""


class Place(Protocol):
    """Where a blob is brought to: the store of what tasks use, as a rule."""

    def begin(self, size: int) -> Path:
        """A place for so many bytes. SwarmError when there is none."""

    def finish(self, blob_id: bytes, path: Path, size: int, *, segment: bool) -> None:
        """All of it is there."""

    def abandon(self, path: Path, size: int) -> None:
        """It does not come."""


class NotMoved(SwarmError):
    """A blob that could not be brought from, or to, another host."""


@dataclass(slots=True)
class _Incoming:
    """A blob that a client writes here."""

    path: Path
    size: int
    began: float


class Lane:
    """Moves blobs between this node's store and other hosts."""

    def __init__(
        self,
        wires: Wires,
        trust: Trust,
        store: BlobStore,
        switchboard: Switchboard,
        loop: asyncio.AbstractEventLoop,
        *,
        addresses: Callable[[int], Sequence[Address]],
        fact: Callable[[Fact], None],
        look: Callable[[bytes], Awaitable[object]],
        from_log: Callable[[bytes], bool],
    ) -> None:
        """`addresses` of a port are where others reach it; `look` brings a blob from wherever it is."""
        self._wires = wires
        self._trust = trust
        self._store = store
        self._switchboard = switchboard
        self._loop = loop
        self._addresses = addresses
        self._fact = fact
        self._look = look
        self._from_log = from_log
        self.kept: Callable[[bytes], Awaitable[tuple[Path, int, bool] | None]] = _nothing
        """(path, bytes, whether its id is random) of what is kept here for a log."""
        self._server = BulkServer(self._welcome, self._note, lambda ticket: self._soon(self._read, ticket))
        self._client = BulkClient(wires, self._welcome)
        self._offered: dict[bytes, bytes] = {}
        self._incoming: dict[bytes, _Incoming] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._prepared = False
        self.port = 0
        switchboard.serve("blob.offer", self._offer)
        switchboard.serve("blob.accept", self._accept)
        switchboard.serve("blob.door", self._door)
        switchboard.serve("blob.part", self._part)
        switchboard.serve("blob.arrived", self._arrived)

    def listen(self, host: str, port: int) -> int:
        """Take connections at an address. OSError when it can not."""
        self.port = self._wires.listen(host, port, self._server.serve)
        return self.port

    def cut(self, peer: bytes) -> None:
        """A peer is no member any more."""
        self._server.cut(peer)
        self._client.cut(peer)

    async def close(self) -> None:
        """End every transfer."""
        if self._sweep is not None:
            self._sweep.cancel()
        self._server.close()
        await self._loop.run_in_executor(None, self._close)

    def _close(self) -> None:
        self._client.close()
        self._wires.close()

    # --- from a peer --------------------------------------------------------------------------------------------------

    async def fetch(
        self, link: Link, blob_id: bytes, into: Place | None = None, rank: Callable[[], int] = lambda: 0
    ) -> bool:
        """Bring a blob that a peer has into the store, or `into` another place; False when it has none, or what came is not it. What
        is of a higher `rank`, which may change meanwhile, comes first.

        SystemRefused when there is no room for it.
        """
        store = self._store if into is None else into
        await self._prepare()
        path: Path | None = None
        size, transfer = 0, None
        began, idle = time.monotonic(), 0
        try:
            while True:
                answer, part = await self._asked(link, "blob.offer", {"id": blob_id, "tls": self._wires.announcement()})
                said, is_digest = _size(answer), not answer.get("segment")
                if path is None:
                    size, path = said, store.begin(said)
                elif said != size:
                    raise AskFailed("the blob changed its size")
                if "ticket" not in answer:
                    digest = blake3(part).digest()
                    await self._loop.run_in_executor(None, _write, path, part, size)
                    break
                if transfer is None:
                    transfer = Transfer(Verb.READ, File(path, size, writable=True), hashed=is_digest, rank=rank)
                before = transfer.progress.at
                failure = await self._attempt(transfer, link.identity, answer)
                if failure is None:
                    digest = transfer.progress.digest
                    break
                self._failed(failure, link.identity)
                idle = 0 if transfer.progress.at > before else idle + 1
                if not failure.passing or idle >= ATTEMPTS_MAX:
                    digest = await self._by_control(link, blob_id, path, size)
                    break
            if is_digest and digest != blob_id:
                self._fact(Fact("bulk.failed", {"reason": "content"}, {"peer": link.identity.name}))
                return False
            store.finish(blob_id, path, size, segment=not is_digest)
            path = None
            took_s = time.monotonic() - began
            self._fact(Fact("bulk.moved", {"direction": "in"}, {"bytes": size, "took_s": took_s}, took_s))
            return True
        except AskFailed:
            return False
        finally:
            if transfer is not None:
                transfer.cancel()
            if path is not None:
                store.abandon(path, size)

    async def _asked(self, link: Link, method: str, args: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        answer, body = await self._switchboard.asked(link, method, args, timeout_s=ASK_TIMEOUT_S)
        if not isinstance(answer, Mapping):
            raise AskFailed("the answer is not a map")
        return answer, body

    async def _attempt(self, transfer: Transfer, peer: Identity, answer: Mapping[str, Any]) -> BulkFailed | None:
        ended: asyncio.Future[BulkFailed | None] = self._loop.create_future()

        def settle(failure: BulkFailed | None) -> None:
            if not ended.done():
                ended.set_result(failure)

        transfer.done = lambda failure: self._soon(settle, failure)
        try:
            transfer.aim(read_route(peer, answer), bytes(answer["ticket"]))
        except BulkFailed as failure:
            return failure
        self._client.start(transfer)
        return await ended

    async def _by_control(self, link: Link, blob_id: bytes, path: Path, size: int) -> bytes:
        """Bring the blob over the control link; its digest."""
        hasher = blake3()
        with open(path, "r+b", buffering=0) as file:
            at = 0
            while at < size:
                _, part = await self._asked(link, "blob.get", {"id": blob_id, "offset": at, "size": PART_BYTES})
                if not part or len(part) > size - at:
                    raise AskFailed("the blob ends early, or late")
                file.write(part)
                hasher.update(part)
                at += len(part)
        return hasher.digest()

    # --- to a peer ----------------------------------------------------------------------------------------------------

    async def _offer(self, link: Link, args: Mapping[str, Any], body: memoryview) -> Any:
        """Where to read a blob from. A small one comes along; for a client it is looked for elsewhere too."""
        blob_id = bytes(args["id"])
        if self._store.open(blob_id) is None:
            self._from_log(blob_id)
        if link.identity.role != "node" and self._store.open(blob_id) is None:
            await self._look(blob_id)
        found = self._store.hold(blob_id, _TRANSFERS)
        segment = self._store.is_segment(blob_id)
        if found is None:
            kept = await self.kept(blob_id)
            if kept is None:
                raise NotMoved(f"the blob {blob_id.hex()[:12]} is not here")
            found, segment = kept[:2], kept[2]
        path, size = found
        if args.get("keep") and self._store.is_segment(blob_id):
            # A client's result: it may become the argument of another task as long as the client looks into it.
            self._store.hold(blob_id, client_key(link))
        about: dict[str, Any] = {"size": size, "segment": segment}
        if size <= bounds.BULK_INLINE_BYTES_MAX or not self.port:
            self._store.let_go(blob_id, _TRANSFERS)
            if size <= bounds.BULK_INLINE_BYTES_MAX:
                return about, _read(path, size)
            raise NotMoved("this node has no bulk lane")
        try:
            await self._prepare()
            way = self._way(link, args)
            ticket = self._server.offer(link.identity.id, path, size)
        except (BulkFailed, NotMoved, OSError) as error:
            self._store.let_go(blob_id, _TRANSFERS)
            raise NotMoved(f"the blob can not be sent: {error}", hint="try again in a moment") from error
        self._offered[ticket] = blob_id
        self._watch()
        return about | way | {"ticket": ticket}, b""

    async def _accept(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """Where to write a blob to. With its digest as `id`, what is here already is not taken again."""
        digest, size = args.get("id"), _size(args)
        if digest is not None and self._store.open(bytes(digest)) is not None:
            self._store.hold(bytes(digest), client_key(link))
            return {"has": True}
        way = await self._door(link, args, body) if self.port and "tls" in args else {}
        path = self._store.begin(size)
        try:
            ticket = self._server.accept(link.identity.id, path, size, hashed=digest is not None)
        except (BulkFailed, OSError) as error:
            self._store.abandon(path, size)
            raise NotMoved(f"the blob can not be taken: {error}", hint="try again in a moment") from error
        self._incoming[ticket] = _Incoming(path, size, time.monotonic())
        self._watch()
        return way | {"ticket": ticket}

    def _part(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """The next bytes of a blob whose client reaches only the control port; none, at -1: how many there are."""
        try:
            return {"at": self._server.feed(link.identity.id, bytes(args["ticket"]), int(args["offset"]), body)}
        except BulkFailed as failure:
            raise NotMoved(str(failure), hint="send it again from the start") from failure

    def _arrived(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """All of a blob is written, says its client: see whether it is, and take it into the store."""
        ticket, digest = bytes(args["ticket"]), args.get("id")
        try:
            at, got = self._server.arrived(link.identity.id, ticket)
        except BulkFailed as failure:
            raise NotMoved(str(failure), hint="send it again from the start") from failure
        self._server.withdraw(ticket)
        incoming = self._incoming.pop(ticket)
        if at != incoming.size or (digest is not None and got != bytes(digest)):
            self._store.abandon(incoming.path, incoming.size)
            self._fact(Fact("bulk.failed", {"reason": "content"}, {"peer": link.identity.name}))
            raise NotMoved("the blob that came is not what its digest says", hint="send it again")
        blob_id = bytes(digest) if digest is not None else os.urandom(ID_BYTES)
        self._store.finish(blob_id, incoming.path, incoming.size, segment=digest is None)
        self._store.hold(blob_id, client_key(link))
        took_s = time.monotonic() - incoming.began
        self._fact(Fact("bulk.moved", {"direction": "in"}, {"bytes": incoming.size, "took_s": took_s}, took_s))
        return {"id": blob_id, "flags": 0 if digest is not None else SEGMENT}

    async def _door(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """How to open one more connection."""
        await self._prepare()
        return self._way(link, args)

    async def _prepare(self) -> None:
        """Make the TLS key, the first time: what that needs takes a tenth of a second to import."""
        if not self._prepared:
            await self._loop.run_in_executor(None, self._wires.announcement)
            self._prepared = True

    def _way(self, link: Link, args: Mapping[str, Any]) -> dict[str, Any]:
        try:
            door = self._wires.admit(link.identity, args.get("tls"))
        except Untrusted as error:
            raise NotMoved(str(error), hint=error.hint) from error
        at = [list(address) for address in self._addresses(self.port)]
        return {"door": door, "at": at, "tls": self._wires.announcement()}

    # --- files that are no blobs ------------------------------------------------------------------------------------------

    def lend(self, link: Link, paths: Sequence[Path]) -> list[bytes]:
        """Let a peer read files, each by its ticket; it asks for a `door` by itself. NotMoved."""
        if not self.port:
            return []
        tickets = list[bytes]()
        try:
            for path in paths:
                tickets.append(self._server.offer(link.identity.id, path, path.stat().st_size))
                self._offered[tickets[-1]] = b""
        except (BulkFailed, OSError) as error:
            raise NotMoved(f"the file can not be lent: {error}", hint="try again in a moment") from error
        self._watch()
        return tickets

    def announcement(self) -> bytes:
        """What a peer has to know to take a connection from here. In any thread."""
        return self._wires.announcement()

    def dial(self, route: Route) -> Wire:
        """One more connection to a peer. BulkFailed. In any thread."""
        if not self._welcome(route.peer):
            raise BulkFailed("revoked")
        return self._wires.dial(route)

    # --- what is open -------------------------------------------------------------------------------------------------

    def _read(self, ticket: bytes) -> None:
        """A peer has read a blob to its end."""
        found = self._store.open(self._offered.get(ticket, b""))
        if found is not None:
            self._fact(Fact("bulk.moved", {"direction": "out"}, {"bytes": found[1]}, 0.0))
        self._sent(ticket)

    def _sent(self, ticket: bytes) -> None:
        self._server.withdraw(ticket)
        blob_id = self._offered.pop(ticket, None)
        if blob_id is not None:
            self._store.let_go(blob_id, _TRANSFERS)

    def _watch(self) -> None:
        if self._sweep is None:
            self._sweep = self._loop.call_later(SWEEP_EVERY_S, self._swept)

    def _swept(self) -> None:
        """Give up what nobody goes on with."""
        self._sweep = None
        for ticket in self._server.expire():
            self._sent(ticket)
            incoming = self._incoming.pop(ticket, None)
            if incoming is not None:
                self._store.abandon(incoming.path, incoming.size)
        if self._offered or self._incoming:
            self._watch()

    def _welcome(self, peer: Identity) -> bool:
        """Asked by many threads: reads of what is replaced as a whole."""
        return not self._trust.revoked(peer.id, peer.serial) and time.time() < peer.expires_s

    def _note(self, reason: str, peer: str) -> None:
        self._soon(self._fact, Fact("bulk.failed", {"reason": reason}, {"peer": peer}))

    def _failed(self, failure: BulkFailed, peer: Identity) -> None:
        self._fact(Fact("bulk.failed", {"reason": failure.reason}, {"peer": peer.name, "error": str(failure)}))

    def refused(self, reason: str, facts: Mapping[str, object]) -> None:
        """Somebody was turned away at the listener. From any thread."""
        self._soon(self._fact, Fact("bulk.refused", {"reason": reason}, dict(facts)))

    def _soon(self, function: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *args)


def _read(path: Path, size: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read(size)


async def _nothing(id: bytes) -> None:
    return None


def _size(said: Mapping[str, Any]) -> int:
    size = said.get("size")
    if type(size) is not int or not 0 <= size < 1 << 62:
        raise AskFailed("a blob without a size")
    return size


def _write(path: Path, data: bytes, size: int) -> None:
    if len(data) != size:
        raise AskFailed("a blob of another size than it says")
    with open(path, "r+b", buffering=0) as file:
        file.write(data)
