"""What workers and clients are given to work with: code by value, blobs, places in shared memory.

A blob that is not here is fetched from a peer that has it, in parts, once for all who wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from blake3 import blake3

from kernels.batch import Calls, Outcomes
from nodes.blobs import SEGMENT, TIDY_EVERY_S, open_store, shared_memory_directory
from nodes.fabric import Fabric
from nodes.incoming import client_key
from nodes.lane import Lane, Place
from nodes.prefetch import Prefetch, needs_of, outputs_of
from nodes.queries import AskFailed, Switchboard
from nodes.settings import LimitsSection
from swarm.errors import SwarmError
from swarm.paths import Home
from swarm.protocol.effects import Fact
from swarm.protocol.executor.suspension import class_of
from swarm.protocol.outbound import Bytes
from swarm.protocol.spec import Spec, parse_spec
from transport.bulk import Wires
from transport.hints import Address
from transport.identity import Trust
from transport.links import Link

CODE_BYTES_MAX = 64 << 20
LOGGED_BYTES_MAX = 1 << 20
"""Of one file or buffer that goes into a log with the batch that needs it."""
CODE_KEPT_BYTES_MAX = 256 << 20
CHUNK_BYTES = 1 << 20
CLIENT_GRACE_S = 10.0
FAR_CLIENT_GRACE_S = 300.0
"""What a client of this host, or of another, holds is kept for so long when it has no link."""


ABSENT_S = 30.0
"""So long what no node has is looked for while some nodes cannot be asked."""
AGAIN_S = 0.5

_T = TypeVar("_T")
_KEEPING = "keeping"
"""Who holds what is being copied to where it is kept."""
_REF = re.compile(b"\xc4\x20")
"""How the id of a blob begins wherever a payload has one: 32 bytes of MessagePack."""


class Kept(Protocol):
    """What is kept beside logs: `nodes.kept_disk`."""

    def has(self, id: bytes) -> bool: ...
    def code(self, id: bytes) -> bytes | None: ...
    async def into(self, id: bytes, place: Place) -> bool: ...


class NotHere(SwarmError):
    """A blob or a piece of code that neither this node nor its peers have."""


class CodeStore:
    """Callables by value, by digest; the least recently used go when there are too many bytes."""

    def __init__(self, bytes_max: int = CODE_KEPT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._code: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0

    def put(self, code: bytes) -> bytes:
        """Keep code; its digest."""
        digest = blake3(code).digest()
        if digest not in self._code:
            self._code[digest] = code
            self._bytes += len(code)
            while self._bytes > self._bytes_max and len(self._code) > 1:
                _, oldest = self._code.popitem(last=False)
                self._bytes -= len(oldest)
        return digest

    def get(self, digest: bytes) -> bytes | None:
        """The code of a digest, if it is here."""
        code = self._code.get(digest)
        if code is not None:
            self._code.move_to_end(digest)
        return code


class Workshop:
    """Answers workers' requests and clients' queries about code and blobs."""

    def __init__(
        self,
        directory: Path,
        name: str,
        home: Home,
        fabric: Fabric,
        switchboard: Switchboard,
        loop: asyncio.AbstractEventLoop,
        trust: Trust,
        limits: LimitsSection,
        wires: Wires,
        addresses: Callable[[int], Sequence[Address]],
        fact: Callable[[Fact], None],
    ) -> None:
        self.code = CodeStore()
        self.unheard: Callable[[], bool] = lambda: False
        """Whether there are nodes that cannot be asked now, and may be again."""
        self.logged: Callable[[bytes], bytes | None] = lambda digest: None
        """What the logs have that this node keeps copies of."""
        self.kept: Kept | None = None
        """What is kept here for logs."""
        self.store = open_store(shared_memory_directory(home.runtime), name, limits.blob_bytes)
        self._fabric = fabric
        self._switchboard = switchboard
        self._loop = loop
        self._tidying: asyncio.TimerHandle | None = None
        self._gone: dict[bytes, float] = {}
        self._near: set[bytes] = set()
        self._fetching: dict[bytes, asyncio.Future[bool]] = {}
        self._wanted: dict[bytes, list[Callable[[], int]]] = {}
        """Blobs that are being brought -> how urgent they are to each who waits for them."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.lane = Lane(
            wires, trust, self.store, switchboard, loop,
            addresses=addresses, fact=fact, look=self.fetch, from_log=self.from_log,
        )  # fmt: skip
        self._prefetch = Prefetch(
            self.fetch, lambda blob_id: self.store.open(blob_id) is not None, fabric.execution.holds,
            limits.blob_bytes, loop, lambda owner, dispatch: 2 * fabric.execution.class_of_run(owner, dispatch),
        )  # fmt: skip
        fabric.requests = self
        serve = switchboard.serve
        serve("code.put", self._code_put)
        serve("code.get", lambda link, args, body: ({}, self._code_get(bytes(args["digest"]))))
        serve("blob.has", lambda link, args, body: {"has": self.store.open(bytes(args["id"])) is not None})
        serve("blob.get", self._blob_get)
        serve("blob.put", self._blob_put)
        serve("blob.open", self._blob_open)
        serve("segment.alloc", self._segment_alloc)
        serve("segment.hold", self._segment_hold)
        serve("segment.release", self._segment_release)

    async def close(self) -> None:
        """Remove every blob."""
        if self._tidying is not None:
            self._tidying.cancel()
        await self._prefetch.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.lane.close()
        self.store.close()

    # --- workers ------------------------------------------------------------------------------------------------------

    def worker_request(self, worker: int, number: int, method: str, args: list[Any]) -> None:
        """Answer a worker, at once where it can be."""
        reply = self._fabric.pool.reply
        if method == "blob.open" and args:
            self._prefetch.opened(args[0])
        try:
            if method == "segment.alloc":
                blob_id, path = self.store.alloc(int(args[0]), worker)
                self._tidy_later()
                reply(worker, number, {"id": blob_id, "path": str(path), "offset": 0, "flags": SEGMENT})
            elif method == "segment.seal":
                # Written: from here on it waits for who asks for it.
                self.store.let_go(args[0], worker, unclaimed=True)
                if number:
                    reply(worker, number, {"id": args[0], "flags": SEGMENT})
            elif method == "segment.share":
                self.store.share(args[0])
            elif method == "segment.release":
                for blob_id in args[0]:
                    self.store.let_go(blob_id, worker)
            elif method == "blob.open" and (found := self.store.hold(args[0], worker)) is not None:
                self._tidy_later()
                reply(worker, number, {"path": str(found[0]), "offset": 0, "size": found[1]})
            elif method == "blob.put_file":
                digest, size = self.store.put_file(Path(args[0]))
                reply(worker, number, {"id": digest, "size": size, "flags": 0})
            elif method == "code.get" and (code := self._any_code(args[0])) is not None:
                reply(worker, number, code)
            elif method in ("blob.open", "code.get"):
                task = self._loop.create_task(self._later(worker, number, method, args))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._refuse(worker, number, f"this node does not know the request {method!r}", "")
        except SwarmError as error:
            self._refuse(worker, number, str(error), error.hint)
        except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
            self._refuse(worker, number, f"{method}: {type(error).__name__}: {error}", "")

    def queued(self, owner: bytes, dispatch: int, spec: Spec, calls: Calls, extra: Mapping[str, Any]) -> None:
        """Tasks came that wait for a slot: bring what they need meanwhile."""
        self._prefetch.queued(owner, dispatch, spec, calls, extra)

    def with_needs(self, raw: bytes, count: int, columns: memoryview, then: Callable[[], None]) -> None:
        """Do something as soon as all that a batch needs is here, or is nowhere: its code, its files, its large arguments."""
        try:
            missing = [
                id for id, size in self._needs(parse_spec(raw), Calls(columns, count)).items() if not self._is_here(id)
            ]
        except ValueError:
            missing = []  # it is refused, with the reason
        if not missing:
            then()
            return
        task = self._loop.create_task(self._when_here(missing, then))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _when_here(self, missing: list[bytes], then: Callable[[], None]) -> None:
        # Whatever goes wrong, whoever waits hears of it: what is not here is refused.
        for id in missing:
            with contextlib.suppress(SwarmError, OSError, ValueError):
                await self._fetch_code(id)
                continue
            with contextlib.suppress(SwarmError, OSError, ValueError):
                await self.fetch(id)
        then()
        self._fabric.turn()

    @staticmethod
    def _needs(spec: Spec, calls: Calls) -> dict[bytes, int]:
        # What is durable is looked at more closely than what only may be brought early: all of it, where there is anything.
        refers = spec.kind == "command" or (calls.count and _REF.search(calls.slice(0, calls.count)[1]))
        needs = needs_of(spec, calls) if refers else {}
        if spec.fn is not None and spec.fn[0] == "blob" and isinstance(spec.fn[1], bytes):
            needs[spec.fn[1]] = 0
        return needs

    def is_here(self, id: bytes) -> bool:
        """Whether code or a blob is on this machine."""
        return self._is_here(id)

    def refers_to(self, spec: Spec, calls: Calls) -> dict[bytes, int]:
        """The blobs that calls refer to, with their sizes."""
        return {id: size for id, size in self._needs(spec, calls).items() if size}

    def _is_here(self, id: bytes) -> bool:
        here = self._code_here(id) is not None or self.store.open(id) is not None
        return here or (self.kept is not None and self.kept.has(id))

    def needs(self, spec: Spec, calls: Calls) -> tuple[bytes, ...]:
        """By their ids, what a batch needs beside its arguments."""
        return tuple(self._needs(spec, calls))

    def content(self, id: bytes) -> bytes | None:
        """Code or a blob that is here; None for what is not, or is too large for a log."""
        code = self._code_here(id)
        if code is not None:
            return code if len(code) <= LOGGED_BYTES_MAX else None
        found = self.store.open(id)
        if found is None or found[1] > LOGGED_BYTES_MAX:
            return None
        return self.store.read(id, 0, found[1])

    def fits(self, id: bytes) -> bool | None:
        """Whether what is here is small enough for a log; None for what is not here."""
        code, found = self._code_here(id), self.store.open(id)
        if code is not None or found is not None:
            return (len(code) if code is not None else found[1] if found is not None else 0) <= LOGGED_BYTES_MAX
        return False if self.kept is not None and self.kept.has(id) else None

    def refs_of(self, spec: Spec, report: Outcomes, body: Bytes) -> dict[int, tuple[bytes, ...]]:
        """Which rows of outcomes refer to which blobs. Cheap where none does."""
        if _REF.search(body) is None:
            return {}
        found: dict[int, tuple[bytes, ...]] = {}
        for row in range(report.count):
            ids = outputs_of(spec, report.payload(row))
            if ids:
                found[row] = ids
        return found

    def hold_here(self, id: bytes) -> tuple[Path, int] | bytes | None:
        """Code, or (path, bytes) of a blob that is held until `let_go_here`; None where it is neither."""
        return self._code_here(id) or self.store.hold(id, _KEEPING)

    def let_go_here(self, id: bytes) -> None:
        """It is read."""
        self.store.let_go(id, _KEEPING)

    def _any_code(self, digest: bytes) -> bytes | None:
        code = self._code_here(digest)
        if code is None and self.kept is not None and (code := self.kept.code(digest)) is not None:
            self.code.put(code)
        return code

    def _code_here(self, digest: bytes) -> bytes | None:
        """Code that this node was given, or that a log has of which it keeps a copy."""
        return self.code.get(digest) or self.logged(digest)

    def worker_gone(self, worker: int) -> None:
        """What it held is free."""
        self.store.let_go_all(worker)

    async def _later(self, worker: int, number: int, method: str, args: list[Any]) -> None:
        try:
            id, rank = bytes(args[0]), self._rank_for(worker)
            if method == "code.get":
                code = await self._patiently(lambda: self._code_of(id), self.unheard)
                self._fabric.pool.reply(worker, number, code)
            else:
                # What is lost can be made again, so it is told soon: only who is cut off from all others cannot know.
                path, size = await self._patiently(
                    lambda: self.fetch(id, rank=lambda: rank), lambda: not self._holders() and self.unheard()
                )
                if worker in self._fabric.pool.pids():
                    self.store.hold(id, worker)
                    self._tidy_later()
                self._fabric.pool.reply(worker, number, {"path": str(path), "offset": 0, "size": size})
        except SwarmError as error:
            self._refuse(worker, number, str(error), error.hint)

    async def _patiently(self, find: Callable[[], Awaitable[_T]], unsure: Callable[[], bool]) -> _T:
        """What a task that has begun needs. While nodes cannot be asked nobody knows that it is gone for good: a cut may end, and who
        died comes again with its logs; meanwhile the task may be given to another node. NotHere."""
        until = self._loop.time() + ABSENT_S
        while True:
            try:
                return await find()
            except NotHere:
                if not unsure() or self._loop.time() >= until:
                    raise
            await asyncio.sleep(AGAIN_S)

    async def _code_of(self, digest: bytes) -> bytes:
        code = self._any_code(digest)
        return await self._fetch_code(digest) if code is None else code

    def _refuse(self, worker: int, number: int, message: str, hint: str) -> None:
        self._fabric.pool.reply(worker, number, {"message": message, "hint": hint}, failed=True)

    # --- from peers ---------------------------------------------------------------------------------------------------

    def _holders(self) -> list[Link]:
        links = self._fabric.node_links
        return [links[node] for node in sorted(links) if links[node].up]

    async def _fetch_code(self, digest: bytes) -> bytes:
        for link in self._holders():
            try:
                _, code = await self._switchboard.asked(link, "code.get", {"digest": digest})
            except AskFailed:
                continue
            if blake3(code).digest() == digest:
                self.code.put(code)
                return code
        raise NotHere(
            f"no node has the code {digest.hex()[:12]}", hint="the node it was given to may be gone; submit it again"
        )

    async def fetch(
        self, blob_id: bytes, first: bytes | None = None, rank: Callable[[], int] = lambda: 0
    ) -> tuple[Path, int]:
        """A blob from wherever it is; the node `first` is asked first. NotHere when nobody has it. It comes before what is of a lower
        `rank`: twice the class of the task that needs it, and one more once that has begun."""
        while (found := self.store.open(blob_id)) is None:
            wanted = self._wanted.setdefault(blob_id, [])
            wanted.append(rank)
            try:
                came = await self._come(blob_id, first)
            finally:
                wanted.remove(rank)
                if not wanted and self._wanted.get(blob_id) is wanted:
                    del self._wanted[blob_id]
            if not came:
                raise NotHere(
                    f"no node has the blob {blob_id.hex()[:12]}", hint="the node that held it may be gone; submit again"
                )
        return found

    async def _come(self, blob_id: bytes, first: bytes | None) -> bool:
        """Whether a blob came, brought for whoever asked first."""
        waiting = self._fetching.get(blob_id)
        if waiting is None:
            waiting = self._fetching[blob_id] = self._loop.create_future()
            try:
                waiting.set_result(await self._fetch_from_any(blob_id, first))
            finally:
                del self._fetching[blob_id]
                if not waiting.done():
                    waiting.set_result(False)
        return await asyncio.shield(waiting)  # who gives up waiting gives up for himself alone

    def _rank_of(self, blob_id: bytes) -> int:
        """Of those who wait for a blob now, how urgent it is to whom it is most urgent. In any thread."""
        return max((rank() for rank in tuple(self._wanted.get(blob_id, ()))), default=0)

    def _rank_for(self, worker: int) -> int:
        it = self._fabric.execution.workers.get(worker)
        return 0 if it is None else 2 * class_of(it) + 1

    def from_log(self, blob_id: bytes) -> bool:
        """Take a blob out of a log into the store, if a log has it of which a copy is here."""
        content = self.logged(blob_id)
        if content is None:
            return False
        path = self.store.begin(len(content))
        try:
            with open(path, "r+b") as file:
                file.write(content)
        except OSError:
            self.store.abandon(path, len(content))
            raise
        self.store.finish(blob_id, path, len(content), segment=blake3(content).digest() != blob_id)
        return True

    async def _fetch_from_any(self, blob_id: bytes, first: bytes | None) -> bool:
        if self.from_log(blob_id) or (self.kept is not None and await self.kept.into(blob_id, self.store)):
            return True
        for link in sorted(self._holders(), key=lambda one: one.identity.id != first):
            if await self.lane.fetch(link, blob_id, rank=partial(self._rank_of, blob_id)):
                return True
        return False

    def _code_put(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        if "code" not in link.identity.grants:
            raise NotHere(
                "code of one's own is not taken from you", hint="it takes a certificate with the grant 'code'"
            )
        if len(body) > CODE_BYTES_MAX:
            raise NotHere(
                f"{len(body)} bytes of code; at most {CODE_BYTES_MAX} are taken", hint="pass data as arguments"
            )
        return {"digest": self.code.put(bytes(body))}

    def _code_get(self, digest: bytes) -> bytes:
        code = self._any_code(digest)
        if code is None:
            raise NotHere(f"the code {digest.hex()[:12]} is not here")
        return code

    async def _blob_get(self, link: Link, args: Mapping[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        blob_id = bytes(args["id"])
        found = self.store.open(blob_id)
        if found is None and self.from_log(blob_id):
            found = self.store.open(blob_id)
        if found is None and link.identity.role != "node":
            found = await self.fetch(blob_id)
        elif found is None and self.kept is not None and await self.kept.into(blob_id, self.store):
            found = self.store.open(blob_id)
        if found is None:
            raise NotHere(f"the blob {blob_id.hex()[:12]} is not here")
        part = self.store.read(blob_id, max(0, int(args["offset"])), min(CHUNK_BYTES, int(args["size"])))
        # A random id is no digest of anything: the channel that it comes by vouches for it.
        return {"size": found[1], "segment": self.store.is_segment(blob_id)}, part or b""

    def _blob_put(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """A blob from a client elsewhere, in one part (at most a message)."""
        digest = self.store.put(body)
        if digest != bytes(args["id"]):
            raise NotHere("the blob is not what its digest says", hint="send it again")
        self._held(link, digest)
        return {"id": digest}

    async def _blob_open(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        self._same_host(link)
        path, size = await self.fetch(bytes(args["id"]))
        self._held(link, bytes(args["id"]))
        return {"path": str(path), "offset": 0, "size": size}

    def _segment_alloc(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        self._same_host(link)
        blob_id, path = self.store.alloc(int(args["size"]), client_key(link))
        self._tidy_later()
        return {"id": blob_id, "path": str(path), "offset": 0, "flags": SEGMENT}

    def _segment_release(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        for one in args["ids"]:
            self.store.let_go(bytes(one), client_key(link))
        return {}

    def _segment_hold(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        for one in args["ids"]:
            self._held(link, bytes(one))
        return {}

    def _held(self, link: Link, blob_id: bytes) -> None:
        self.store.hold(blob_id, client_key(link))
        self._tidy_later()

    # --- giving back --------------------------------------------------------------------------------------------------

    def _tidy_later(self) -> None:
        if self._tidying is None:
            self._tidying = self._loop.call_later(TIDY_EVERY_S, self._tidy)

    def _tidy(self) -> None:
        """Give back what is not used any more, and what clients held that have been gone for a while."""
        self._tidying = None
        now = self._loop.time()
        clients = {holder for holder in self.store.holders() if isinstance(holder, bytes)}
        gone = clients - self._fabric.client_links.keys()
        self._gone = {client: self._gone.get(client, now) for client in gone}
        self._near &= clients
        for client, since in self._gone.items():
            if now - since >= (CLIENT_GRACE_S if client in self._near else FAR_CLIENT_GRACE_S):
                self.store.let_go_all(client)
        if self.store.tidy():
            for worker in self._fabric.pool.pids():
                self._fabric.pool.drop_mappings(worker)
        if clients or self.store.tidies:
            self._tidy_later()

    def _same_host(self, link: Link) -> None:
        if link.reach == "lan":
            raise NotHere("shared memory is for processes of this host", hint="use blob.get")
        self._near.add(client_key(link))
