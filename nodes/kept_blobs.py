"""Blobs beside the logs of a node: what is too large for a log is on the disks of its members, before the log names it.

`swarm.protocol.ledger.copying` and `mending` decide; this shell carries. A voter that is asked to keep something fetches it as
blobs are fetched everywhere, checks it by its digest, syncs it, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from nodes.kept_disk import KeptDisk
from nodes.kept_files import KeptFiles, NoRoom
from nodes.kept_learners import KeptLearners
from nodes.lane import Lane
from nodes.queries import AskFailed, Switchboard
from swarm.errors import SwarmError, UsageError
from swarm.protocol.effects import Fact
from swarm.protocol.ledger.copying import Answer, AskVoter, Copied, Copying, NotCopied, TakeIn
from swarm.protocol.ledger.effects import Named, Reason, Refusal
from swarm.protocol.ledger.ledger import Ledger
from swarm.protocol.ledger.mending import Fetch, Mending, Remove
from swarm.protocol.ledger.records import KEPT_MAX, KeptBlob, kept_of
from swarm.protocol.owner.batches import Keep, KeepNoMore
from swarm.protocol.ownership import Ownership
from transport.links import Link

MOVES_MAX = 4
"""Blobs that are written or fetched at once."""
ASK_S, WAIT_S = 40.0, 20.0
"""How long an answer of a voter is waited for; how long it waits itself before it says that something is still coming."""
LOOK_S = 0.25
METHOD = "blobs.keep"


class Sources(Protocol):
    """Where blobs of this node's tasks and clients are: the workshop."""

    lane: Lane

    def hold_here(self, id: bytes) -> tuple[Path, int] | bytes | None:
        """Code, or (path, bytes) of a blob that is held until `let_go_here`; None where it is neither."""

    def let_go_here(self, id: bytes) -> None:
        """It is read."""

    async def fetch(self, blob_id: bytes, first: bytes | None = None) -> object:
        """Bring a blob here. SwarmError."""


class Around(Protocol):
    """What is needed of the rest of the node."""

    def connect(self, node: bytes) -> None:
        """Open a link to a member."""

    def fact(self, fact: Fact) -> None:
        """Something worth knowing."""


class _Place:
    """A file that a blob is fetched into, in place of the store of what tasks use."""

    def __init__(self, files: KeptFiles, size: int | None = None) -> None:
        self._files = files
        self.size = size
        self.path: Path | None = None

    def begin(self, size: int) -> Path:
        if self.size is not None and size != self.size:
            raise AskFailed(f"the blob has {size} bytes there, and {self.size} where it is named")
        return self._files.begin(size)

    def finish(self, blob_id: bytes, path: Path, size: int, *, segment: bool) -> None:
        self.path, self.size = path, size

    def abandon(self, path: Path, size: int) -> None:
        self._files.abandon(path, size)


class KeptBlobs:
    """The blobs that this node keeps for logs."""

    def __init__(
        self,
        files: KeptFiles,
        me: bytes,
        ledger: Ledger,
        ownership: Ownership,
        sources: Sources,
        switchboard: Switchboard,
        links: Mapping[bytes, Link],
        around: Around,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        turn: Callable[[], None],
    ) -> None:
        self.disk = KeptDisk(files, loop, self._named, self._damaged)
        self._me = me
        self._ledger = ledger
        self._ownership = ownership
        self._sources = sources
        self._switchboard = switchboard
        self._links = links
        self._around = around
        self._loop = loop
        self._now = now
        self._turn = turn
        self._copying = Copying(me, ledger.voters)
        self._mending = Mending(now(), files.ids)
        self._coming: dict[bytes, asyncio.Task[Answer]] = {}
        self._moves = asyncio.Semaphore(MOVES_MAX)
        self._look: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closing = False
        switchboard.serve(METHOD, self._asked)
        self._learners = KeptLearners(ledger, self._answer, loop, now)
        self.carry_out: dict[type, Callable[[Any], object]] = {
            Keep: self._keep, KeepNoMore: lambda it: self._copying.drop(it.ticket), Named: lambda it: self.look_later(),
        }  # fmt: skip

    async def close(self) -> None:
        """Nothing is fetched any more."""
        self._closing = True
        for timer in (self._timer, self._look):
            if timer is not None:
                timer.cancel()
        await self._learners.close()
        running = [*self._tasks, *self._coming.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def report(self) -> dict[str, int]:
        """For people: how much is kept, and how much of what logs name is not here."""
        return {"bytes": self.disk.files.bytes, "count": len(self.disk.files.ids), "missing": self._mending.missing}

    # --- what logs name -----------------------------------------------------------------------------------------------

    def _named(self, id: bytes) -> bytes | None:
        for group in self._ledger.groups:
            state = self._ledger.state(group)
            if state is not None and id in state.pins.blobs:
                return state.pins.blobs[id].digest
        return None

    def _damaged(self, id: bytes) -> None:
        """A file was not what it was: it is had again from others."""
        self._around.fact(Fact("kept.damaged", {}, {"blob": id.hex()}))
        self._mending.gone(self._now(), id)
        self._carry()

    def look_later(self) -> None:
        """Logs name something else than before. All names are looked at, so not with each of them."""
        if self._look is None and not self._closing:
            self._look = self._loop.call_later(LOOK_S, self._looked)

    def _looked(self) -> None:
        self._look = None
        found: dict[bytes, KeptBlob] = {}
        for group in self._ledger.groups:
            state = self._ledger.state(group)
            if state is not None:
                found.update(state.pins.blobs)
        self._mending.needed(self._now(), found)
        self._carry()

    # --- what the owner wants -----------------------------------------------------------------------------------------

    def _keep(self, it: Keep) -> None:
        self._copying.want(self._now(), it.ticket, it.group, it.ids, it.source)
        self._carry()

    async def _take_in(self, it: TakeIn) -> None:
        try:
            blobs = await asyncio.gather(*(self._own(id, it.source) for id in it.ids))
        except NoRoom as error:
            reason = Reason.TOO_LARGE if error.facts.get("never") else Reason.DISK_FULL
            self._copying.refused(self._now(), it.ticket, Refusal(reason, error.message))
        except OSError as error:
            self._copying.refused(self._now(), it.ticket, Refusal(Reason.DISK_FULL, f"the disk of this node: {error}"))
        except SwarmError as error:
            self._copying.refused(self._now(), it.ticket, Refusal(Reason.GONE, f"{error}"))
        else:
            self._copying.taken(self._now(), it.ticket, tuple(blobs))
        self._carry()

    async def _own(self, id: bytes, source: bytes | None) -> KeptBlob:
        """Have a blob on this node's own disk, from wherever it is."""
        coming = self._coming.get(id)
        if coming is not None:
            await asyncio.wait((coming,))
        if (found := await self.disk.read(id)) is None:
            here, link = self._sources.hold_here(id), self._links.get(source or b"")
            if here is None and (link is None or not await self._fetched(id, link)):
                await self._sources.fetch(id, source)
                here = self._sources.hold_here(id)
            if here is not None:
                try:
                    async with self._moves:
                        await self.disk.copy(id, here)
                finally:
                    self._sources.let_go_here(id)
            found = self.disk.files.open(id)
        if found is None:
            raise AskFailed(f"the blob {id.hex()[:12]} is gone from the disk")
        self._mending.here(self._now(), id)
        return KeptBlob(id, found[1], self.disk.digests[id])

    async def _fetched(self, id: bytes, link: Link) -> bool:
        """Fetch a blob from an executor, which vouches for it."""
        place = _Place(self.disk.files)
        async with self._moves:
            if not await self._sources.lane.fetch(link, id, place) or place.path is None or place.size is None:
                return False
            return await self.disk.seal(id, place.path, place.size)

    async def _ask(self, it: AskVoter) -> None:
        answer = await self._answer(it.voter, it.group, it.blobs)
        self._copying.answered(self._now(), it.ticket, it.voter, answer)
        self._carry()

    async def _answer(self, node: bytes, group: bytes, blobs: tuple[KeptBlob, ...]) -> Answer:
        """Ask a node to keep blobs, and wait for what it says."""
        link = self._links.get(node)
        if link is None or not link.up:
            self._around.connect(node)
            return Answer.FAILED
        for at in range(0, len(blobs), KEPT_MAX):
            args = {"group": group, "blobs": blobs[at : at + KEPT_MAX]}
            try:
                value, _ = await self._switchboard.asked(link, METHOD, args, timeout_s=ASK_S)
                answer = Answer(value.get("answer"))
            except AskFailed as error:
                return Answer.UNABLE if error.facts.get("kind") == "unknown-method" else Answer.FAILED
            except (ValueError, AttributeError):
                return Answer.FAILED  # it says something that means nothing here
            if answer is not Answer.KEPT:
                return answer
        return Answer.KEPT

    def _carry(self) -> None:
        """Carry out what the two want."""
        now, told = self._now(), False
        while effects := [*self._copying.take(), *self._mending.take()]:
            for effect in effects:
                match effect:
                    case TakeIn():
                        self._start(self._take_in(effect))
                    case AskVoter():
                        self._start(self._ask(effect))
                    case Copied():
                        told, holders = True, effect.holders
                        hosts = self._ledger.hosts(holders)
                        self._ownership.kept(now, effect.ticket, effect.blobs, len(holders), hosts)
                    case NotCopied():
                        told = True
                        self._around.fact(Fact("kept.refused", {}, {"reason": effect.refusal.hint}))
                        self._ownership.not_kept(now, effect.ticket, effect.refusal)
                    case Fetch():
                        self._bring(effect.blob, None)
                    case Remove():
                        self.disk.remove(effect.id)
        self._arm()
        if told:
            self._turn()

    def _start(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _arm(self) -> None:
        times = [at for at in (self._copying.next_deadline(), self._mending.next_deadline()) if at is not None]
        if not times or self._closing or (self._timer is not None and self._timer_at <= min(times)):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = min(times)
        self._timer = self._loop.call_later(max(0.0, self._timer_at - self._now()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._now()
        self._copying.tick(now)
        self._mending.tick(now)
        self._carry()

    # --- what others want ---------------------------------------------------------------------------------------------

    async def _asked(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """Who leads a log asks a voter of it to keep blobs."""
        group = bytes(args["group"])
        if link.identity.role != "node" or link.identity.id not in self._ledger.voters(group):
            raise UsageError("that is for those who vote in a log", hint="this node does not know you as one of them")
        blobs = kept_of(tuple(tuple(row) for row in args["blobs"]))
        tasks = [self._bring(blob, link.identity.id) for blob in blobs]
        if tasks:
            await asyncio.wait(tasks, timeout=WAIT_S)
        answers = [task.result() if task.done() and not task.cancelled() else Answer.COMING for task in tasks]
        for worst in (Answer.FULL, Answer.FAILED, Answer.COMING):
            if worst in answers:
                return {"answer": worst.value}
        return {"answer": Answer.KEPT.value}

    def _bring(self, blob: KeptBlob, first: bytes | None) -> asyncio.Task[Answer]:
        """Fetch a blob onto the disk, once for all who want it there."""
        task = self._coming.get(blob.id)
        if task is None:
            task = self._coming[blob.id] = self._loop.create_task(self._brought(blob, first))
            task.add_done_callback(lambda _: self._coming.pop(blob.id, None))
        return task

    async def _brought(self, blob: KeptBlob, first: bytes | None) -> Answer:
        answer = Answer.FAILED
        try:
            answer = await self._from_others(blob, first)
        except (NoRoom, OSError) as error:
            self._around.fact(Fact("kept.refused", {}, {"reason": str(error)}))
            answer = Answer.FULL
        except SwarmError:
            pass  # it is asked for again
        if answer is Answer.KEPT:
            self._mending.here(self._now(), blob.id)
        else:
            self._mending.failed(self._now(), blob.id)
        self._loop.call_soon(self._carry)
        return answer

    async def _from_others(self, blob: KeptBlob, first: bytes | None) -> Answer:
        if self.disk.digests.get(blob.id) == blob.digest and self.disk.has(blob.id):
            return Answer.KEPT
        if await self.disk.read(blob.id) is not None:
            if self.disk.digests[blob.id] == blob.digest:
                return Answer.KEPT
            self.disk.remove(blob.id)
        for link in self._holders(blob.id, first):
            place = _Place(self.disk.files, blob.size)
            async with self._moves:
                came = await self._sources.lane.fetch(link, blob.id, place)
                if not came or place.path is None:
                    continue
                if await self.disk.seal(blob.id, place.path, blob.size, blob.digest):
                    return Answer.KEPT
            self._around.fact(Fact("bulk.failed", {"reason": "content"}, {"peer": link.identity.name}))
        return Answer.FAILED

    def _holders(self, id: bytes, first: bytes | None) -> Iterable[Link]:
        """Who may have it: who asked for it, those who vote in a log that names it, and then anybody."""
        voters: set[bytes] = set()
        for group in self._ledger.groups:
            state = self._ledger.state(group)
            if state is not None and id in state.pins.blobs:
                voters.update(self._ledger.voters(group))
        for voter in sorted(voters - {self._me}):
            if voter not in self._links:
                self._around.connect(voter)
        nodes = sorted(self._links, key=lambda node: (node != first, node not in voters, node))
        return [link for node in nodes if (link := self._links.get(node)) is not None and link.up]
