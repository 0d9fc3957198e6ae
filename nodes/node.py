"""A node: its parts put together, opened in order, closed in reverse.

A node composes identity, links, membership, discovery, the task fabric, blobs, telemetry and HTTP. Each part gets what it
uses and nothing else; no part knows the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import os
import random
import shutil
import socket
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from nodes import releases, waiting
from nodes.answers import Answers
from nodes.direct import DirectSlots
from nodes.fabric import Fabric, boottime_s
from nodes.leavings import Leavings, scratch_directory
from nodes.machine import (
    SaidOnLinks,
    capacity_from,
    capacity_of,
    endpoint_of,
    fitted,
    host_id,
    info_of,
    interface_addresses,
    joined_by,
    load_from,
    lock,
    own_name,
    read_number,
    suspended_bytes_of,
    user_name,
    worker_environment,
)
from nodes.neighbourhood import Neighbourhood
from nodes.pool import PoolConfig
from nodes.queries import Switchboard
from nodes.saved_states import SavedStates
from nodes.sensors import Sensors
from nodes.settings import NodeSettings
from nodes.stealing import Stealing
from nodes.telemetry import Telemetry
from nodes.twin import Twin, end_process
from nodes.workshop import Workshop
from swarm.errors import SystemRefused
from swarm.paths import Home, private_directory
from swarm.protocol.effects import Fact
from swarm.protocol.execution import Execution, ExecutionConfig
from swarm.protocol.executor.offer import Offer, Rules
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
    from nodes.knowledge.answers import KnowledgeAnswers
    from nodes.knowledge.shell import KnowledgeShell
    from nodes.ledger import LedgerShell
    from nodes.lessons import Lessons

LOOPBACK = "127.0.0.1"
GRANTS = ("code",)
"""What a home that administers its fleet grants its own node and user."""
WATCHDOG_TICK_S = 0.5
FEEL_EVERY_S = 3.0
"""How often the machine's temperature, battery and load are read."""
LAG_UNHEALTHY_S = 5.0
LAN_MARK = "lan"
"""File in the fleet's directory: a second machine was asked for, so nodes of this home listen on the LAN."""
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
        self.port = 0
        self.http_address: tuple[str, int] | None = None
        self.draining = False
        self.ready = False
        self._stack = AsyncExitStack()
        self._lag_s = 0.0
        self._lan = False
        self._beside: set[asyncio.Task[object]] = set()
        self._one_by_one: set[str] | None = None
        """LAN addresses listened at, where the node listened on loopback first."""
        self._discovery: Any = None
        self.ledger: LedgerShell | None = None
        self._releases: dict[bytes, int] = {}
        """Of members that are not of this node's own."""
        self.kept: KeptBlobs | None = None
        self.knowledge: KnowledgeShell | None = None
        self.lessons: Lessons | None = None
        self.knowledge_answers: KnowledgeAnswers | None = None
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
                epoch=self._next_epoch(),
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
        self.offer = Offer(
            self.fabric.execution.slots,
            Rules(settings.node.hot_c, settings.node.battery_percent / 100, settings.node.yield_to_owner),
        )
        self.sensors = Sensors(watch_load=settings.node.yield_to_owner)
        self.fabric.queries = self.switchboard
        self.stealing = Stealing(self.fabric, self.switchboard, self.loop, random.Random())
        self.twin = Twin(self, self.loop, end_process if self._owns_process else None)
        self.fabric.door.standing, self.fabric.door.twin = self.twin.standing, self.twin.found
        # Workers take longest to be there; they load while the rest opens.
        self.fabric.start()
        self._stack.callback(self.fabric.close)

        info = SaidOnLinks({"host": host_id(), "name": self.name}, self.durability)
        self.zmq_links = ZmqLinks(self.credentials, self.fleet.trust, self, info=info, loop=self.loop, boot=self.boot)
        self._stack.push_async_callback(self.zmq_links.close)
        self.stream_links = StreamLinks(
            self.credentials, self.fleet.trust, self, info=info, loop=self.loop, boot=self.boot
        )
        self._stack.push_async_callback(self.stream_links.close)
        self.neighbourhood = Neighbourhood(
            self.fleet, self.credentials, self.directory, self.boot, self.zmq_links, self, self.loop, boottime_s
        )
        self._stack.push_async_callback(self.neighbourhood.close)
        await self._listen()
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
        self._listen_bulk()
        self._open_ledger()
        self._open_knowledge()
        releases.note(self.directory)
        self.answers = Answers(self)
        await self.stream_links.listen(str(home.node_socket(self.name)))
        self.neighbourhood.start(self.addresses())
        if self.ledger is not None:
            self.ledger.watch(lambda: self.neighbourhood.members)
        await self._discover()
        self._watch_metrics()
        self._beat()
        self._feel()
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
        """What the fleet knows. It is read in a thread of its own: a start does not wait for it."""
        settings = self.settings.knowledge
        if not settings.enabled:
            return
        from nodes.knowledge.answers import KnowledgeAnswers
        from nodes.knowledge.keeping import Keeping
        from nodes.knowledge.large import LargeValues
        from nodes.knowledge.shell import KnowledgeShell
        from nodes.knowledge.weighing import Weighing

        shell = KnowledgeShell(
            self.directory, self.credentials, self.fleet.trust, settings, self.switchboard, self.fabric.node_links, self,
            self.loop, boottime_s,
        )  # fmt: skip
        self._stack.push_async_callback(shell.close)
        self.knowledge = shell
        weighing = Weighing(shell, self.loop)
        self.large_values = large = LargeValues(self.directory, settings.blob_bytes, shell, self.switchboard, self.loop)
        self._stack.push_async_callback(large.close)
        self._stack.push_async_callback(weighing.close)
        self.knowledge_answers = KnowledgeAnswers(shell, self.switchboard, weighing, large)
        self.keeping = Keeping(
            self.directory, self.name, self.fleet, self.credentials, shell, self.knowledge_answers, settings,
            self.switchboard, self.workshop.lane, self.fabric.node_links, self.fact,
        )  # fmt: skip
        self._stack.push_async_callback(self.keeping.close)
        self.fabric.knowledge = shell.receive
        self.neighbourhood.revoked = shell.revoked
        self.twin.on_refused = shell.halt
        shell.start()
        self.keeping.start()
        weighing.start()
        large.start()
        if self.settings.lessons.mode != "off":
            from nodes.lessons import Lessons
            from swarm.protocol.lessons.heeding import Mode

            mode = Mode(self.settings.lessons.mode)
            self.lessons = Lessons(shell, self.fabric, mode, self, self.loop, worker_environment(self.home, self.name))
            self._stack.push_async_callback(self.lessons.close)
            self.lessons.start()

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
            self.settings.http, metrics=self.telemetry.metrics, health=self.health, ready=self.readiness
        )
        try:
            self.http_address = await server.open()
        except SystemRefused as error:
            self.fact(Fact("http.refused", {}, {"error": str(error)}))
        self._stack.push_async_callback(server.close)
        self.telemetry.open()

    async def _listen(self) -> None:
        """TCP and UDP on one port: the one asked for, the one of last time, or a free one."""
        kept = self.directory / "port"
        asked = self.settings.listen.port
        before = asked or read_number(kept)
        hosts = self.listen_hosts()
        for port in dict.fromkeys((before, *((0, 0, 0) if not asked else ()))):
            try:
                self.port = await self._bind(hosts, port)
                break
            except OSError as error:
                if asked or error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise SystemRefused(
                        f"can not listen on port {port} of {', '.join(hosts)}: {error.strerror or error}",
                        hint="is another node running there? Choose another port: --listen-port, or 0 for a free one",
                        port=port,
                    ) from error
        else:
            raise SystemRefused("no free port found", hint="choose one: --listen-port")
        with contextlib.suppress(OSError):
            kept.write_text(str(self.port))

    def _listen_bulk(self) -> None:
        """The bulk lane's port, on the same hosts: the one asked for, the one of last time, or a free one."""
        kept = self.directory / "bulk_port"
        asked = self.settings.listen.bulk_port
        hosts = self.listen_hosts()
        lane = self.workshop.lane
        for port in dict.fromkeys((asked or read_number(kept), *(() if asked else (0,)))):
            try:
                lane.listen(hosts[0], port)
                break
            except OSError as error:
                if asked or error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise SystemRefused(
                        f"can not listen on port {port} of {hosts[0]}: {error.strerror or error}",
                        hint="is another node running there? Choose another port: --listen-bulk-port, or 0 for a free one",
                        port=port,
                    ) from error
        for host in hosts[1:]:
            with contextlib.suppress(OSError):
                lane.listen(host, lane.port)
        with contextlib.suppress(OSError):
            kept.write_text(str(lane.port))

    async def _bind(self, hosts: list[str], port: int) -> int:
        for attempt in range(8):
            first = await self.zmq_links.listen(endpoint_of(hosts[0], port))
            chosen = int(first.rpartition(":")[2])
            try:
                for host in hosts[1:]:
                    await self._listen_also(host, chosen)
                await self.neighbourhood.open(hosts, chosen, ())
                return chosen
            except OSError:
                await self.zmq_links.close()
                info = SaidOnLinks({"host": host_id(), "name": self.name}, self.durability)
                self.zmq_links = ZmqLinks(
                    self.credentials, self.fleet.trust, self, info=info, loop=self.loop, boot=self.boot
                )
                self.neighbourhood.set_dialler(self.zmq_links)
                if port or attempt == 7:
                    raise
        raise AssertionError

    async def _listen_also(self, host: str, port: int) -> None:
        """Listen at one more address. OSError when the port is in use there; an address that can not be had (no IPv6
        here, gone again) is left out."""
        try:
            await self.zmq_links.listen(endpoint_of(host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            self.fact(Fact("listen.refused", {}, {"host": host, "port": port, "error": error.strerror or str(error)}))

    def listen_hosts(self) -> list[str]:
        """Where to listen, as addresses: loopback until a second machine is asked for."""
        asked = self.settings.listen.host
        if asked == "auto":
            # A home that came in by a token is the second machine; one that made its fleet waits to be asked for one.
            self._lan = (self.home.fleet_dir / LAN_MARK).exists() or not self.fleet.is_admin
        else:
            self._lan = asked not in ("loopback", LOOPBACK, "::1")
        if asked in ("auto", "lan"):
            return ["0.0.0.0", "::"] if self._lan and socket.has_ipv6 else ["0.0.0.0"] if self._lan else [LOOPBACK]  # noqa: S104
        return [LOOPBACK if asked == "loopback" else asked]

    def addresses(self, port: int | None = None) -> tuple[Address, ...]:
        """Under which addresses peers reach a port of this node, that of its links when none is given."""
        port = self.port if port is None else port
        if not self._lan:
            return ((LOOPBACK, port),)
        asked = self.settings.listen.host
        if asked not in ("auto", "lan"):
            return ((asked, port),)
        from transport.interfaces import InterfaceRule, announced, interfaces

        discovery = self.settings.discovery
        rule = InterfaceRule(tuple(discovery.interfaces_allow), tuple(discovery.interfaces_deny))
        found = announced(interfaces(rule))
        return tuple((host, port) for host in found[:6]) or ((LOOPBACK, port),)

    @property
    def listens_on_lan(self) -> bool:
        """Whether other machines reach this node."""
        return self._lan

    async def open_lan(self) -> None:
        """A second machine is asked for: listen on the LAN too, on the same port.

        SystemRefused, and all as before, when another program has that port there.
        """
        if self._lan or self.settings.listen.host != "auto":
            return
        (self.home.fleet_dir / LAN_MARK).touch(mode=0o600)
        hosts = self.listen_hosts()
        self._one_by_one = set()
        try:
            refusal = await self._listen_one_by_one()
            if refusal is not None:
                raise refusal
            await self.neighbourhood.rebind(hosts, self.port, self.addresses())
        except OSError as error:
            self._lan, self._one_by_one = False, None
            raise SystemRefused(
                f"can not listen on port {self.port} for other machines: {error.strerror or error}",
                hint="another program has that port there: start this node again, and it takes one that is free",
                port=self.port,
            ) from error
        await self._discover()

    async def _listen_one_by_one(self) -> OSError | None:
        """Listen at the LAN addresses that are new: where loopback is bound, all of them at once can not be.

        The refusal of the last one, when none of them can be had.
        """
        if self._one_by_one is None:
            return None
        refusal: OSError | None = None
        heard = 0
        for host in interface_addresses(self.settings):
            if host not in self._one_by_one:
                self._one_by_one.add(host)
                try:
                    await self._listen_also(host, self.port)
                    heard += 1
                except OSError as error:
                    refusal = error
                    self.fact(Fact("listen.refused", {}, {"host": host, "port": self.port, "error": str(error)}))
                try:
                    self.workshop.lane.listen(host, self.workshop.lane.port)
                except OSError as error:
                    port = self.workshop.lane.port
                    self.fact(Fact("listen.refused", {}, {"host": host, "port": port, "error": str(error)}))
        return None if heard else refusal

    def _addresses_changed(self) -> None:
        self._start_beside(self._listen_one_by_one())
        self.neighbourhood.set_addresses(self.addresses())

    async def _discover(self) -> None:
        from transport.discovery import Discovery
        from transport.interfaces import InterfaceRule
        from transport.peer_cache import PeerCache
        from transport.presence import Presence

        if self._discovery is not None:
            await self._discovery.close()
        settings = self.settings.discovery
        identity = self.credentials.identity
        tag = self.fleet.trust.tag
        presence = Presence(
            self.name, os.getpid(), identity.id, identity.curve_key, tag, self.port, self.boot,
            tuple(host for host, _ in self.addresses()) or (LOOPBACK,),
        )  # fmt: skip
        announcement = None
        if self._lan and settings.mdns:
            from transport.mdns import Announcement

            announcement = Announcement(identity.id, identity.curve_key, self.port, self.boot)
        self._discovery = Discovery(
            tag,
            self.hint,
            announcement=announcement,
            lan=self._lan and settings.mdns,
            rule=InterfaceRule(tuple(settings.interfaces_allow), tuple(settings.interfaces_deny)),
            seeds=(*settings.seeds, *joined_by(self.home)),
            cache=PeerCache(self.directory / "peers"),
            directory=self.home.runtime,
            presence=presence,
            on_addresses=lambda found: self._addresses_changed(),
            on_event=lambda name, facts: self.fact(Fact(f"discovery.{name}", {}, dict(facts))),
        )
        await self._discovery.open()

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
        if self._discovery is not None:
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
        if self.knowledge_answers is not None:
            self.knowledge_answers.link_down(link)
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
        if self._discovery is not None:
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
        if self.lessons is not None:
            info |= self.lessons.info()
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

    def _beat(self) -> None:
        at = self.loop.time() + WATCHDOG_TICK_S
        self._beat_timer = self.loop.call_at(at, self._beaten, at)

    def _beaten(self, due: float) -> None:
        self._lag_s = max(0.0, self.loop.time() - due)
        if self._lag_s < LAG_UNHEALTHY_S:
            self.service_alive()
        self._beat()

    def _feel(self) -> None:
        """See how the machine is, and offer what it can give."""
        before = self.offer.offered
        offered = self.offer.read(boottime_s(), self.sensors.read())
        if offered != before:
            slots, why = self.fabric.execution.slots, ", ".join(self.offer.why)
            self.fact(Fact("slots.offered", {}, {"offered": offered, "slots": slots, "why": why}, offered))
            self.fabric.execution.offer(boottime_s(), offered)
            self.fabric.turn()
        self._feel_timer = self.loop.call_later(FEEL_EVERY_S, self._feel)

    def service_alive(self) -> None:
        """The loop turns. Replaced by who has a service manager to tell."""

    def summary(self) -> str:
        """One line for whoever looks after this service: what it is and what it does."""
        execution, members = self.fabric.execution, self.neighbourhood.live_count
        return (
            f"{'draining: ' if self.draining else ''}{self.name} of {self.fleet.name}, "
            f"{members} member{'s' if members != 1 else ''}, {execution.running} of {execution.slots} slots busy, "
            f"{self.fabric.ownership.unfinished} tasks"
        )

    def health(self) -> Any:
        """Whether the loop turns."""
        from nodes.http import Condition

        facts = (("lag_s", round(self._lag_s, 3)),)
        return Condition(
            self._lag_s < LAG_UNHEALTHY_S, "" if self._lag_s < LAG_UNHEALTHY_S else "the loop is late", facts
        )

    def readiness(self) -> Any:
        """Whether this node takes work."""
        from nodes.http import Condition

        why = "" if self.ready else "draining" if self.draining else "starting"
        return Condition(self.ready, why, (("members", self.neighbourhood.live_count),))

    def _watch_metrics(self) -> None:
        self.telemetry.own_durations("swarm_task_run_seconds", self.fabric.run_times)
        for klass, waits in self.fabric.wait_times.items():
            self.telemetry.own_durations("swarm_task_wait_seconds", waits, **{"class": klass})
        execution, ownership, watch = self.fabric.execution, self.fabric.ownership, self.telemetry.watch
        watch("running", lambda: float(execution.running))
        watch("owned.tasks", lambda: float(ownership.unfinished))
        kept = self.kept
        if kept is not None:
            watch("kept.bytes", lambda: float(kept.disk.files.bytes))
            watch("kept.missing", lambda: float(kept.report()["missing"]))
        knowledge = self.knowledge
        if knowledge is not None:
            watch("knowledge.entries", lambda: float(knowledge.desk.entries))
            watch("lessons.known", lambda: float(len(ownership.heeding.known)))
            watch("knowledge.bytes", lambda: float(knowledge.desk.bytes))
            watch("knowledge.blob_bytes", lambda: float(self.large_values.files.bytes))
            shelf = self.keeping.shelf
            watch("snapshots.kept", lambda: float(shelf.count))
            watch("snapshots.newest", lambda: shelf.newest_ms / 1000)
        watch("members", lambda: float(self.neighbourhood.live_count), state="alive")
        for state in ("starting", "ready", "blocked", "suspended", "stopping"):
            watch("workers", partial(_count_state, execution, state), state=state)
        for reach in ("lan", "host"):
            watch("links", partial(_count_reach, self.fabric, reach), reach=reach)

    def _method_crashed(self, method: str, error: BaseException) -> None:
        self.fact(Fact("query.crashed", {}, {"method": method, "error": f"{type(error).__name__}: {error}"}))

    def _next_epoch(self) -> int:
        """A number above that of every earlier start; dispatch numbers (fencing tokens) begin with it."""
        path = self.directory / "epoch"
        epoch = read_number(path) + 1
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_text(str(epoch))
            temporary.replace(path)
        except OSError as error:
            raise SystemRefused(
                f"can not write {path}: {error.strerror or error}",
                hint="free some space; a node that forgets its epoch could give one token twice",
                path=str(path),
            ) from error
        return epoch


def _import_what_is_slow() -> None:
    for name in ("nodes.http", "structlog", "prometheus_client"):
        importlib.import_module(name)


def _count_state(execution: Execution, state: str) -> float:
    return float(sum(1 for one in execution.workers.values() if one.state == state))


def _count_reach(fabric: Fabric, reach: str) -> float:
    links = (*fabric.node_links.values(), *fabric.client_links.values())
    return float(sum(1 for link in links if link.reach == reach))
