"""The knowledge log among the parts of a node: links and members on one side, the desk's thread on the other.

Nodes say in their gossiped record in how many shards they keep knowledge (`INFO_KEY`). Who says nothing, or another number, gets no message
about it: an earlier release, or a node on which it is off.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from nodes.knowledge.authors import UNKNOWN_MAX, Authors
from nodes.knowledge.desk import Desk, Job, Settled
from nodes.queries import AskFailed, Switchboard
from nodes.settings import KnowledgeSection
from swarm.errors import NotFound
from swarm.protocol.effects import Fact
from swarm.protocol.knowledge.bounds import SHARDS
from swarm.protocol.knowledge.keeper import Keeper, KeeperConfig
from swarm.protocol.knowledge.replicas import Replication, holders
from swarm.protocol.member import Member
from swarm.protocol.messages import Kind, encode
from transport.identity import Credentials, Trust, Untrusted
from transport.links import Link, LinkClosed, LinkOverflow

INFO_KEY: Final = "K"
SPREAD_KEY: Final = "Kr"
"""On how many nodes a part is, and up to how many nodes each holds all."""
AUTHORS_METHOD: Final = "knowledge.authors"
ASK_AGAIN_S: Final = 1.0
"""How often peers are asked for certificates of authors."""
ASK_S: Final = 5.0
LINK_S: Final = 10.0


class Around(Protocol):
    """What is needed of the rest of the node."""

    def connect(self, node: bytes) -> None:
        """Open a link to a member."""

    def fact(self, fact: Fact) -> None:
        """Something worth knowing."""


class KnowledgeShell:
    """One node's knowledge. Its methods are for the node's loop."""

    def __init__(
        self,
        directory: Path,
        credentials: Credentials,
        trust: Trust,
        settings: KnowledgeSection,
        switchboard: Switchboard,
        links: Mapping[bytes, Link],
        around: Around,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
    ) -> None:
        self._links = links
        self.around = around
        self._loop = loop
        self.now = now
        self._switchboard = switchboard
        self.authors = Authors(trust, credentials.identity, credentials.certificate)
        self.shards = SHARDS
        self.id = credentials.id
        self._replication = Replication(settings.replicas, settings.whole_nodes)
        self._spread = [settings.replicas, settings.whole_nodes]
        self._otherwise: set[bytes] = set()
        """Members whose settings are others, which was said."""
        self._partners: dict[bytes, Member] = {}
        self._holders: dict[int, list[bytes]] = {}
        """Of each shard who holds it; empty while this node holds all, as in a small fleet."""
        self._others: dict[int, list[bytes]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._stirred: set[asyncio.Future[None]] = set()
        self._closing = False
        self.holding = False
        """What peers compare is left unread: it comes in one go."""
        self.joins = False
        """It had nothing when it began, and what it will have comes from others."""
        self.met = False
        """Whether another node that keeps knowledge was known since the start."""
        self.desk = Desk(
            directory, credentials.id, credentials.sign, self.authors, self.shards, settings.bytes, now,
            self._settled_in_thread, KeeperConfig(sync_every_s=settings.sync_every_s),
            replication=self._replication,
        )  # fmt: skip
        switchboard.serve(AUTHORS_METHOD, self._tell_authors)

    def start(self) -> None:
        """Read what is on disk, and begin."""
        self.desk.start()

    async def close(self) -> None:
        """What was handed over is done; nothing is told any more."""
        self._closing = True
        if self._asking is not None:
            self._asking.cancel()
        self.stir()
        await asyncio.to_thread(self.desk.close)

    @property
    def closing(self) -> bool:
        """Nothing new is told any more."""
        return self._closing

    def halt(self) -> None:
        """From now on nothing is told: another process speaks for this node."""
        self._closing = True

    def info(self) -> dict[str, object]:
        """What goes into this node's own record."""
        return {INFO_KEY: self.shards, SPREAD_KEY: self._spread}

    # --- members and links ----------------------------------------------------------------------------------------------

    def member_seen(self, member: Member) -> None:
        """A member is known, or said something new of itself."""
        speaks = member.info.get(INFO_KEY) == self.shards
        known = self._partners.get(member.id)
        if speaks and (known is None or known.certificate != member.certificate):
            self.learn([member.certificate])
        theirs = member.info.get(SPREAD_KEY, self._spread)
        if speaks and theirs != self._spread and member.id not in self._otherwise:
            self._otherwise.add(member.id)
            self.around.fact(
                Fact("knowledge.otherwise", {}, {"name": member.name, "theirs": theirs, "own": self._spread})
            )
        if speaks:
            self._partners[member.id] = member
        elif known is not None:
            del self._partners[member.id]
        if speaks != (known is not None):
            self._tell_members()

    def member_lost(self, node: bytes) -> None:
        """A member is dead, has left, or was revoked."""
        if self._partners.pop(node, None) is not None:
            self._tell_members()

    def revoked(self, author: bytes) -> None:
        """Somebody was revoked: what it said goes."""
        self.desk.post(partial(_revoke, author=author, authors=self.authors))

    def link_up(self, link: Link) -> None:
        """A link to a member: what differs is found soon."""
        if link.identity.role == "node":
            self.desk.post(lambda keeper: keeper.hurry(self.now()))

    def receive(self, source: bytes, payload: memoryview) -> None:
        """A message of a peer."""
        if self.holding and b"fresh" not in bytes(payload[:16]):
            return
        if not self._closing and not self.desk.heard(source, bytes(payload)):
            self.around.fact(Fact("knowledge.left_out"))

    def holders(self, shard: int) -> list[bytes]:
        """Who holds a shard that this node does not hold, the first to be asked first; empty if this node holds it."""
        return self._holders.get(shard, [])

    def link_to(self, node: bytes) -> Link | None:
        """A link to a member that is up; None, and one is opened, if there is none."""
        link = self._links.get(node)
        if link is not None and link.up:
            return link
        if node in self._partners:
            self.around.connect(node)
        return None

    def partners(self) -> list[bytes]:
        """The members that keep knowledge, but for this one."""
        return sorted(node for node in self._partners if node != self.id)

    def release(self) -> None:
        """Compare with others from now on."""
        self.holding = False
        self.desk.post(lambda keeper: keeper.hurry(self.now()))

    def is_partner(self, node: bytes) -> bool:
        """Whether a member keeps knowledge as this node does."""
        return node in self._partners

    async def linked(self, node: str, timeout_s: float = LINK_S) -> Link:
        """A link to the member of this name or id, made if there is none. NotFound where there is no such member, AskFailed where it is not
        reached in time."""
        found = [one for one in self._partners.values() if node in (one.name, one.id.hex())]
        if not found:
            names = ", ".join(sorted(one.name for one in self._partners.values())) or "none"
            raise NotFound(f"there is no other node {node} that keeps knowledge", hint=f"there are: {names}")
        deadline = self.now() + timeout_s
        while (link := self._links.get(found[0].id)) is None or not link.up:
            if self.now() > deadline:
                raise AskFailed(f"{found[0].name} is not reached", hint="is it running? `swarm members`")
            self.around.connect(found[0].id)
            await asyncio.sleep(0.05)
        return link

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The node's."""
        return self._loop

    def _tell_members(self) -> None:
        nodes = sorted(self._partners)
        known = {*nodes, self.id}
        self._holders = {}
        if len(known) > self._replication.whole_nodes_max:
            for shard in range(self.shards):
                there = holders(shard, known, self._replication)
                if self.id not in there:
                    self._holders[shard] = there
        held = [shard for shard in range(self.shards) if shard not in self._holders]
        self._others = {}
        self.desk.post(lambda keeper: keeper.members(self.now(), nodes))
        if nodes:
            self.met = self.met or nodes != [self.id]
            self.desk.post(partial(_holds, self.desk, held))

    def others(self, shard: int) -> list[bytes]:
        """The members beside this node that hold a shard that it holds."""
        found = self._others.get(shard)
        if found is None:
            there = holders(shard, {*self._partners, self.id}, self._replication)
            found = self._others[shard] = [node for node in there if node != self.id]
        return found

    def is_linked(self, node: bytes) -> bool:
        """Whether there is a link to a member; none is made."""
        link = self._links.get(node)
        return link is not None and link.up

    def name_of(self, node: bytes) -> str:
        """How people call a member."""
        known = self._partners.get(node)
        return node.hex() if known is None else known.name

    # --- asking ---------------------------------------------------------------------------------------------------------

    def ask(self, job: Job, says: bool = False) -> asyncio.Future[Any]:
        """Has something done in the desk's thread: its value."""
        return asyncio.wrap_future(self.desk.ask(job, says), loop=self._loop)

    def stirred(self) -> asyncio.Future[None]:
        """Ends when something is known that was not, or the node closes."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._stirred.add(future)
        future.add_done_callback(self._stirred.discard)
        if self._closing:
            future.set_result(None)
        return future

    def stir(self) -> None:
        """Whoever waits for news looks."""
        for future in list(self._stirred):
            if not future.done():
                future.set_result(None)

    # --- what the thread tells ------------------------------------------------------------------------------------------

    def _settled_in_thread(self, settled: Settled) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settled, settled)
        except RuntimeError:
            pass  # the loop is closed: nobody is told any more

    def _settled(self, settled: Settled) -> None:
        for fact in settled.facts:
            self.around.fact(fact)
        if settled.certificates:
            self.learn(settled.certificates)
        if not self._closing:
            for node, message in settled.messages:
                self._send(node, message)
            for violation in settled.violations:
                link = self._links.get(violation.peer)
                if link is not None:
                    facts = {"peer": link.identity.name, "error": violation.why}
                    self.around.fact(Fact("peer.violation", {"role": link.identity.role}, facts))
                    link.close(f"violation: {violation.why}"[:200])
            if settled.unknown and self._asking is None:
                self._asking = self._loop.create_task(self._ask_authors(settled.unknown))
        for answer, value, error in settled.answers:
            _answer(answer, value, error)
        if settled.news:
            self.stir()

    def _send(self, node: bytes, message: bytes) -> None:
        link = self._links.get(node)
        if link is None or not link.up:
            if node in self._partners:
                self.around.connect(node)
            return
        try:
            link.send(encode(Kind.KNOWLEDGE, {}), message)
        except (LinkClosed, LinkOverflow):
            self.around.fact(Fact("knowledge.unsent"))  # it is compared again later

    # --- whose word it is -----------------------------------------------------------------------------------------------

    def learn(self, certificates: list[Any]) -> bool:
        """Whether one of these was news."""
        news = False
        for certificate in certificates:
            try:
                news |= self.authors.learn(certificate, time.time())
            except Untrusted as error:
                self.around.fact(Fact("knowledge.author_refused", {"reason": error.reason}))
        return news

    async def _ask_authors(self, unknown: list[bytes]) -> None:
        """Has a peer or two say who these are."""
        try:
            peers = [link for node, link in self._links.items() if node in self._partners and link.up]
            for link in random.sample(peers, min(2, len(peers))):
                try:
                    answer, _ = await self._switchboard.asked(link, AUTHORS_METHOD, {"ids": unknown}, timeout_s=ASK_S)
                except AskFailed:
                    continue
                found = answer.get("certificates") if isinstance(answer, dict) else None
                if isinstance(found, list) and len(found) <= UNKNOWN_MAX and self.learn(found):
                    self.desk.post(lambda keeper: keeper.hurry(self.now()))
            await asyncio.sleep(ASK_AGAIN_S)
        finally:
            self._asking = None

    def _tell_authors(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        ids = args["ids"]
        if not isinstance(ids, list) or len(ids) > UNKNOWN_MAX or not all(type(id) is bytes for id in ids):
            raise ValueError(f"ids are not a list of at most {UNKNOWN_MAX}")
        return {"certificates": sorted(self.authors.certificates(ids).values())}


def _holds(desk: Desk, shards: list[int], keeper: Keeper) -> None:
    assert desk.store is not None
    desk.store.holds(shards, time.time_ns() // 1_000_000)


def _revoke(keeper: Keeper, author: bytes, authors: Authors) -> None:
    known = authors.certificates((author,)).get(author)
    if authors.revoked(author, known):
        keeper.revoked(author)


def _answer(future: Future[Any], value: Any, error: BaseException | None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)
