"""A node: its parts put together, opened in order, closed in reverse.

A node composes identity, links, membership, discovery, the task fabric, blobs, telemetry and HTTP. Each part gets what it
uses and nothing else; no part knows the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import random
import shutil
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nodes import releases, waiting
from nodes.answers import Answers
from nodes.direct import DirectSlots
from nodes.discovering import Discovering
from nodes.epochs import next_epoch
from nodes.fabric import Fabric, boottime_s
from nodes.gauges import watch_all
from nodes.leavings import Leavings, scratch_directory
from nodes.listening import Listening
from nodes.machine import (
    SaidOnLinks,
    capacity_from,
    capacity_of,
    fitted,
    host_id,
    info_of,
    load_from,
    lock,
    own_name,
    suspended_bytes_of,
    user_name,
    worker_environment,
)
from nodes.neighbourhood import Neighbourhood
from nodes.offering import Offering
from nodes.pool import PoolConfig
from nodes.pulse import Pulse
from nodes.queries import Switchboard
from nodes.saved_states import SavedStates
from nodes.settings import NodeSettings
from nodes.stealing import Stealing
from nodes.telemetry import Telemetry
from nodes.twin import Twin, end_process
from nodes.workshop import Workshop
from swarm.errors import SystemRefused
from swarm.paths import Home, private_directory
from swarm.protocol.effects import Fact
from swarm.protocol.execution import Execution, ExecutionConfig
from swarm.protocol.ledger.config import VOTERS
from swarm.protocol.ledger.homes import fleet_group
from swarm.protocol.member import Member, State
from swarm.protocol.owner.relief_bounds import ReliefBounds
from swarm.protocol.ownership import Ownership, OwnershipConfig
from transport.fleet import Fleet, create_fleet, enroll
from transport.hints import Address, Hint
from transport.identity import Credentials, Untrusted
from transport.links import Link
from transport.private_files import last_written_s
from transport.stream_links import StreamLinks
from transport.tls_wires import TlsWires
from transport.tokens import TokenBook
from transport.zmq_links import ZmqLinks

if TYPE_CHECKING:
    from nodes.kept_blobs import KeptBlobs
    from nodes.knowledge.parts import KnowledgeParts
    from nodes.ledger import LedgerShell

GRANTS = ("code",)
"""What a home that administers its fleet grants its own node and user."""
DRAIN_POLL_S = 0.02
ZONE_BYTES = 8
HAND_OVER_S = 3.0
"""The longest that a stop waits for others to take over leadership: those who do not would be waited for in vain."""


class Node:
    """One running node. `open` and `close` it, or use `serve`."""

    def __init__(
        self, settings: NodeSettings, home: Home, loop: asyncio.AbstractEventLoop, *, owns_process: bool = False
    ) -> None:
        self.settings = settings
        self._owns_process = owns_process
        self.home = home
        self.loop = loop
        self.boot = os.urandom(8)
        self.started_at = boottime_s()
        self.http_address: tuple[str, int] | None = None
        self.draining = False
        self.ready = False
        self._stack = AsyncExitStack()
        self.pulse = Pulse(loop)
        self._beside: set[asyncio.Task[object]] = set()
        self.ledger: LedgerShell | None = None
        self._releases: dict[bytes, int] = {}
        """Of members that are not of this node's own."""
        self.kept: KeptBlobs | None = None
        self.knowledge: KnowledgeParts | None = None
        self._finished = asyncio.Event()

    # --- opening ------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open every part. SwarmError when one cannot; what was opened is closed again."""
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _open(self) -> None:
        settings, home = self.settings, self.home
        self.name = settings.node.name or own_name(home)
        private_directory(home.runtime)
        self.directory = private_directory(home.node_dir(self.name))
        self._stack.callback(lock(self.directory / "lock", self.name))
        releases.check(self.directory)
        self.telemetry = Telemetry(settings.log, node=self.name)
        self.fleet: Fleet = create_fleet(home.fleet_dir)
        # A clock that was set back between two starts must not make strangers of members whom this node knew.
        self.fleet.trust.saw(last_written_s(home.fleet_dir, self.directory))
        self.credentials: Credentials = enroll(self.fleet, self.directory, "node", self.name, GRANTS, time.time())
        if self.fleet.is_admin:
            # The user of this home is a client of the fleet; made here so that the first script finds it.
            enroll(self.fleet, home.data / "client", "client", user_name(), GRANTS, time.time())
        self.tokens = TokenBook(self.fleet)

        self.switchboard = Switchboard(self.loop, self._method_crashed)
        self._stack.push_async_callback(self.switchboard.close)
        capacity = capacity_of(settings, self.name)
        limits = settings.limits
        self.fabric = Fabric(
            self.credentials.id,
            Ownership(
                OwnershipConfig(
                    tasks_max=limits.queue_tasks,
                    bytes_max=limits.queue_bytes,
                    retained_bytes_max=limits.outcome_bytes,
                    durable_retention_s=settings.ledger.retention_s,
                    shares=settings.node.shares,
                    relief=ReliefBounds() if settings.node.move_tasks else None,
                ),
                self.credentials.id,
                self.name,
                capacity,
                epoch=next_epoch(self.directory),
            ),
            Execution(
                ExecutionConfig(
                    capacity=capacity,
                    recycle_tasks=limits.worker_tasks,
                    recycle_age_s=limits.worker_age_s,
                    worker_memory_bytes_max=limits.worker_memory_bytes,
                    spare_workers=settings.node.spare_workers,
                    shares=settings.node.shares,
                    releasable=frozenset(("cpu", *settings.node.releasable)),
                    suspended_bytes_max=suspended_bytes_of(settings, capacity),
                ),
                self.credentials.id,
            ),
            PoolConfig(
                modules=settings.node.modules,
                pythons=settings.node.executors,
                environment=worker_environment(home, self.name),
                result_bytes_max=limits.result_bytes,
                hold_s=settings.node.hold_s,
                leavings=Leavings(scratch_directory(self.name), self.loop, adopts=self._owns_process),
            ),
            self,
            self.loop,
        )
        self.offering = Offering(settings, self.fabric, self.loop, self.fact)
        self.fabric.queries = self.switchboard
        self.stealing = Stealing(self.fabric, self.switchboard, self.loop, random.Random())
        self.twin = Twin(self, self.loop, end_process if self._owns_process else None)
        self.fabric.door.standing, self.fabric.door.twin = self.twin.standing, self.twin.found
        # Workers take longest to be there; they load while the rest opens.
        self.fabric.start()
        self._stack.callback(self.fabric.close)

        info = SaidOnLinks({"host": host_id(), "name": self.name}, self.durability)
        self.listening = Listening(
            settings, home, self.directory, self.fleet.is_admin,
            lambda: ZmqLinks(self.credentials, self.fleet.trust, self, info=info, loop=self.loop, boot=self.boot), self.fact,
        )  # fmt: skip
        self._stack.push_async_callback(self.listening.close)
        self._discovery = Discovering(
            settings, home, self.directory, self.name, self.credentials, self.fleet.trust.tag, self.boot, self.listening, self.hint,
            self._addresses_changed, self.fact,
        )  # fmt: skip
        self.stream_links = StreamLinks(
            self.credentials, self.fleet.trust, self, info=info, loop=self.loop, boot=self.boot
        )
        self._stack.push_async_callback(self.stream_links.close)
        self.neighbourhood = Neighbourhood(
            self.fleet, self.credentials, self.directory, self.boot, self.listening.links, self, self.loop, boottime_s
        )
        self._stack.push_async_callback(self.neighbourhood.close)
        await self.listening.open(self.neighbourhood)
        wires = TlsWires(self.credentials, refused=lambda reason, facts: self.workshop.lane.refused(reason, facts))
        self.workshop: Workshop = Workshop(
            self.directory, self.name, home, self.fabric, self.switchboard, self.loop, self.fleet.trust, limits,
            wires, self.addresses, self.fact,
        )  # fmt: skip
        self._stack.push_async_callback(self.workshop.close)
        self.workshop.unheard = self.unheard
        self.stealing.is_here, self.stealing.blobs_of = self.workshop.is_here, self.workshop.refers_to
        states = SavedStates(
            self.fabric, self.workshop.store, self.workshop.fetch, self.switchboard, self.loop, self.fact
        )
        self._stack.push_async_callback(states.close)
        self.direct = DirectSlots(self.fabric, self.switchboard, home.node_socket(self.name), self.loop, boottime_s)
        self.listening.open_bulk(self.workshop.lane)
        self._open_ledger()
        self._open_knowledge()
        releases.note(self.directory)
        self.answers = Answers(self)
        await self.stream_links.listen(str(home.node_socket(self.name)))
        self.neighbourhood.start(self.addresses())
        if self.ledger is not None:
            self.ledger.watch(lambda: self.neighbourhood.members)
        await self._discovery.open()
        watch_all(self.telemetry, self.fabric, lambda: self.neighbourhood.live_count, self.kept, self.knowledge)
        self.pulse.beat()
        self.offering.feel()
        self.loop.call_soon(self._later_task)
        self.ready = True

    def _open_ledger(self) -> None:
        """The journal, and what is in it."""
        settings = self.settings.ledger
        if not settings.enabled:
            return
        from nodes.journal.errors import JournalRefused, Reason
        from nodes.kept_blobs import KeptBlobs
        from nodes.kept_files import KeptFiles
        from nodes.ledger import LedgerShell, journal_in, open_journal

        directory = self.directory / "journal"
        begun = journal_in(directory)
        try:
            journal = open_journal(
                directory, self.fleet.trust.tag, self.credentials.id, settings,
                lambda where: self.fact(Fact("journal.waits", {}, {"database": where})),
            )  # fmt: skip
        except JournalRefused as error:
            if error.reason is not Reason.NO_SPACE or begun:
                raise
            shutil.rmtree(directory, ignore_errors=True)
            # Nothing was ever promised here: it works as one that keeps nothing, until it is started with some space.
            self.fact(Fact("journal.refused", {}, {"error": str(error), "directory": str(directory)}))
            return
        self.ledger = LedgerShell(
            journal, self.credentials.id, self.name, self.boot, self._zone, self.fabric.ownership, self.fabric.node_links, self,
            self.loop, boottime_s, self.fabric.turn,
            lambda batches: self.fabric.execution.disown(boottime_s(), self.credentials.id, batches),
        )  # fmt: skip
        self._stack.push_async_callback(self.ledger.close)
        self.kept = KeptBlobs(
            KeptFiles(self.directory / "kept", settings.kept_bytes), self.credentials.id, self.ledger.ledger,
            self.fabric.ownership, self.workshop, self.switchboard, self.fabric.node_links, self, self.loop, boottime_s,
            self.fabric.turn,
        )  # fmt: skip
        self._stack.push_async_callback(self.kept.close)
        self.workshop.logged = self.ledger.blob
        self.workshop.kept, self.workshop.lane.kept = self.kept.disk, self.kept.disk.offered
        self.fabric.ownership.know_blobs(
            self.workshop.needs, self.workshop.content, self.ledger.has_blob, self.workshop.fits, self.workshop.refs_of
        )
        self.fabric.keep_ledger(self.ledger, self.kept)

    def _open_knowledge(self) -> None:
        """What the fleet knows."""
        if not self.settings.knowledge.enabled:
            return
        from nodes.knowledge.parts import KnowledgeParts

        self.knowledge = KnowledgeParts(
            self.directory, self.name, self.fleet, self.credentials, self.settings, self.fabric, self.workshop, self.switchboard,
            self, worker_environment(self.home, self.name), self.loop, self._stack,
        )  # fmt: skip
        self.neighbourhood.revoked = self.knowledge.shell.revoked
        self.twin.on_refused = self.knowledge.shell.halt
        self.knowledge.start()

    def durability(self) -> str:
        """What is kept of tasks of which their script says nothing."""
        if self.ledger is None:
            return "none"
        said = self.settings.ledger.durability
        if said != "auto":
            return said
        # Fewer than three could not go on without this one: nobody asked to wait for it.
        voters, _ = self.ledger.ledger.copies_to_expect(fleet_group(self.credentials.id))
        return "fleet" if voters >= VOTERS else "none"

    @cached_property
    def _zone(self) -> bytes:
        """What fails together with this node, as 8 bytes."""
        from blake3 import blake3

        zone = self.settings.ledger.zone
        if zone is None:
            return host_id()[:ZONE_BYTES]
        return blake3(zone.encode(), derive_key_context="nanoswarm zone v1").digest(ZONE_BYTES)

    def _later_task(self) -> None:
        self._start_beside(self._open_later())

    def _start_beside(self, work: Coroutine[Any, Any, object]) -> None:
        task = self.loop.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside_ended)

    def _beside_ended(self, task: asyncio.Task[object]) -> None:
        self._beside.discard(task)
        if not task.cancelled():
            task.result()  # a mistake there is told when it happens, not when the node ends

    async def _open_later(self) -> None:
        """What the first task need not wait for; nor do peers, who take a node for dead that imports for half a second."""
        await self.loop.run_in_executor(None, _import_what_is_slow)
        from nodes.http import HttpServer

        server = HttpServer(
            self.settings.http, metrics=self.telemetry.metrics, health=self.pulse.health, ready=self.readiness
        )
        try:
            self.http_address = await server.open()
        except SystemRefused as error:
            self.fact(Fact("http.refused", {}, {"error": str(error)}))
        self._stack.push_async_callback(server.close)
        self.telemetry.open()

    @property
    def port(self) -> int:
        """Of links and datagrams."""
        return self.listening.port

    @property
    def listens_on_lan(self) -> bool:
        """Whether other machines reach this node."""
        return self.listening.on_lan

    def addresses(self, port: int | None = None) -> tuple[Address, ...]:
        """Under which addresses peers reach a port of this node, that of its links when none is given."""
        return self.listening.addresses(port)

    async def open_lan(self) -> None:
        """A second machine is asked for: listen on the LAN too, on the same port.

        SystemRefused, and all as before, when another program has that port there.
        """
        if await self.listening.open_lan():
            await self._discovery.open()

    def _addresses_changed(self) -> None:
        self._start_beside(self.listening.listen_one_by_one())
        self.neighbourhood.set_addresses(self.addresses())

    # --- closing ------------------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing more, let what runs end, hand over what waits; whether all was done in time."""
        self.draining = True
        self.ready = False
        self.fabric.drain()
        self.neighbourhood.load_changed()
        if self.ledger is not None and self.neighbourhood.live_count > 1:
            # Before clients are sent away, so that who leads next knows of their batches.
            await self.ledger.drain(timeout_s=min(timeout_s, HAND_OVER_S))
        for link in list(self.fabric.client_links.values()):
            self._goodbye(link, "draining")
        deadline = time.monotonic() + timeout_s
        while not self.fabric.quiet and time.monotonic() < deadline:
            if not self.fabric.client_links and self.fabric.rests:
                break
            await asyncio.sleep(DRAIN_POLL_S)
        return self.fabric.quiet

    @staticmethod
    def _goodbye(link: Link, reason: str) -> None:
        from swarm.protocol.messages import Kind, encode

        with contextlib.suppress(Exception):
            link.send(encode(Kind.GOODBYE, {"reason": reason}))

    async def close(self) -> None:
        """Say goodbye and close every part."""
        self.ready = False
        self.twin.closing = True
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self._discovery.close()
        await self.neighbourhood.leave()
        await self._stack.aclose()

    # --- what links tell ----------------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        if link.identity.id == self.credentials.id:
            self.twin.link_up(link)
            return
        self.fact(Fact("link.up", {"reach": link.reach}, {"peer": link.identity.name, "role": link.identity.role}))
        self.fabric.link_up(link)
        if self.knowledge is not None:
            self.knowledge.link_up(link)

    def link_messages(self, link: Link, messages: list[bytes]) -> None:
        if link.identity.id == self.credentials.id:
            self.twin.messages(link, messages)
            return
        self.fabric.link_messages(link, messages)

    def link_waits(self, link: Link, before: deque[bytes], messages: list[bytes]) -> None:
        waiting.put(before, messages)

    def link_writable(self, link: Link) -> None:
        self.fabric.link_writable(link)

    def link_down(self, link: Link, reason: str) -> None:
        self.fact(Fact("link.down", {"reach": link.reach}, {"peer": link.identity.name, "reason": reason}))
        if link.identity.id == self.credentials.id:
            self.twin.link_down(link)
            return
        if reason in ("revoked", "expired"):
            self.workshop.lane.cut(link.identity.id)
        self.switchboard.link_down(link)
        if self.knowledge is not None:
            self.knowledge.link_down(link)
        self.fabric.link_down(link, reason)

    def refused(self, reason: str, facts: Mapping[str, object]) -> None:
        self.fact(Fact("link.refused", {"reason": reason}, facts))

    def join_request(self, message: bytes, peer_address: str) -> bytes | None:
        """Somebody wants to redeem a token."""
        answer = self.tokens.answer(message, time.time())
        if answer.reason:
            self.fact(Fact("join.refused", {"reason": answer.reason}, {"peer": peer_address}))
        for identity in answer.admitted:
            self.fact(Fact("join.admitted", {"role": identity.role}, {"name": identity.name, "peer": peer_address}))
        return answer.reply

    # --- what the neighbourhood tells and asks ------------------------------------------------------------------------

    def hint(self, hint: Hint) -> None:
        """Somebody may be there."""
        self.neighbourhood.hint(hint)

    def member_seen(self, member: Member) -> None:
        info = member.info
        release = info.get("n")
        if self._releases.get(member.id, releases.OWN) != release and isinstance(release, int):
            self._releases[member.id] = release
            if not releases.work_together(releases.OWN, release):
                facts = {"name": member.name, "release": releases.text_of(release)}
                self.fact(Fact("member.far", {}, facts))
        self.fabric.member_seen(member.id, member.name, capacity_from(info, member.name), load_from(info))
        if self.ledger is not None:
            self.ledger.members_changed()
        if self.knowledge is not None:
            self.knowledge.member_seen(member)
        try:
            identity = self.fleet.trust.verify(member.certificate, time.time())
        except Untrusted:
            return  # expired meanwhile: nothing to be remembered; its links and datagrams are refused with a reason
        hosts = tuple(host for host, _ in member.addresses)
        self._discovery.remember(Hint(hosts, member.port, member.id, identity.curve_key, "cache", member.name))

    def member_suspected(self, member: Member) -> None:
        self.fabric.ownership.executor_suspected(member.id)
        if self.ledger is not None:
            self.ledger.members_changed()

    def member_lost(self, node: bytes, why: str) -> None:
        self._releases.pop(node, None)
        self.fabric.member_lost(node, why)
        if self.knowledge is not None:
            self.knowledge.member_lost(node)
        if self.ledger is not None and why == "revoked":
            self.ledger.removed(node)
        elif self.ledger is not None:
            self.ledger.members_changed()

    def is_linked(self, node: bytes) -> bool:
        link = self.fabric.node_links.get(node)
        return link is not None and link.up

    def own_info(self) -> Mapping[str, object]:
        info = info_of(self.fabric.execution)
        if self.ledger is not None:
            info |= self.ledger.info() | {"z": self._zone}
        if self.knowledge is not None:
            info |= self.knowledge.info()
        return fitted(info)

    # --- what the fabric asks -----------------------------------------------------------------------------------------

    def connect(self, node: bytes) -> None:
        self.neighbourhood.connect(node)

    def peer_reset(self, node: bytes) -> None:
        self.neighbourhood.peer_reset(node)

    def unheard(self) -> bool:
        members = {member.id: member.state for member in self.neighbourhood.members}
        away = any(state in (State.SUSPECT, State.DEAD) for state in members.values())
        # The peers remembered are saved now and then, the journal at once.
        others = {*self._discovery.remembered(), *(() if self.ledger is None else self.ledger.partners())}
        return away or not others <= members.keys()

    def load_changed(self) -> None:
        if hasattr(self, "neighbourhood"):
            self.neighbourhood.load_changed()

    def fact(self, fact: Fact) -> None:
        self.telemetry.fact(fact)

    # --- health -------------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """One line for whoever looks after this service: what it is and what it does."""
        execution, members = self.fabric.execution, self.neighbourhood.live_count
        return (
            f"{'draining: ' if self.draining else ''}{self.name} of {self.fleet.name}, "
            f"{members} member{'s' if members != 1 else ''}, {execution.running} of {execution.slots} slots busy, "
            f"{self.fabric.ownership.unfinished} tasks"
        )

    def readiness(self) -> Any:
        """Whether this node takes work."""
        from nodes.http import Condition

        why = "" if self.ready else "draining" if self.draining else "starting"
        return Condition(self.ready, why, (("members", self.neighbourhood.live_count),))

    def _method_crashed(self, method: str, error: BaseException) -> None:
        self.fact(Fact("query.crashed", {}, {"method": method, "error": f"{type(error).__name__}: {error}"}))


def _import_what_is_slow() -> None:
    for name in ("nodes.http", "structlog", "prometheus_client"):
        importlib.import_module(name)
