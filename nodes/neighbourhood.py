"""The node among its peers: membership over datagrams, hints about where peers are, and links to those it works with.

The membership machine decides who is alive; this shell sends its datagrams, keeps its timer, and opens links. Below
`EAGER_PEERS_MAX` peers a link to each is opened at once, so that the first task for it does not wait; in larger fleets
links are opened when there is work.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from swarm.protocol.effects import (
    Changed,
    Cloned,
    Died,
    Fact,
    Introduced,
    Joined,
    Left,
    Noticed,
    PersistIncarnation,
    SendDatagram,
    Suspected,
)
from swarm.protocol.member import Member, State
from swarm.protocol.membership import Membership, Own
from swarm.protocol.membership_config import PAYLOAD_BYTES_MAX
from transport import bounds
from transport.datagrams import Datagrams
from transport.fleet import Fleet
from transport.hints import Address, Hint
from transport.identity import Credentials, Identity, Untrusted
from transport.links import HandshakeFailed, Link, reconnect_delays
from transport.private_files import FleetError

EAGER_PEERS_MAX = 16
INFO_EVERY_S = 0.25
REFUSALS_BURST = 10.0
REFUSAL_EVERY_S = 5.0
"""After a burst, one refused datagram in so many seconds is told of each reason."""
TRUST_POLL_S = 0.25
"""How often the fleet's files are looked at for what another process of this home has written (a revocation)."""
NUMBER_MAX = 1 << 62
AHEAD_US_MAX = 366 * 86_400 * 10**6
"""How far the clock of another process with this identity may be ahead, for this one to be heard above it."""
INCARNATIONS_MAX = 1 << 20
"""No number of an earlier start is above it; what a damaged file says may be."""

assert PAYLOAD_BYTES_MAX <= bounds.DATAGRAM_PAYLOAD_BYTES_MAX, "what membership makes can be sent"


class Dialler(Protocol):
    """Who opens links to other hosts (`transport.zmq_links`)."""

    async def connect(
        self, endpoint: str, *, server_key: bytes | None, expect: bytes | None = None, timeout_s: float | None = None
    ) -> Link: ...


class PeerHandler(Protocol):
    """What the neighbourhood tells the node."""

    def member_seen(self, member: Member) -> None: ...
    def member_suspected(self, member: Member) -> None: ...
    def member_lost(self, node: bytes, why: str) -> None: ...
    def fact(self, fact: Fact) -> None: ...
    def own_info(self) -> Mapping[str, object]: ...
    def is_linked(self, node: bytes) -> bool: ...


class Neighbourhood:
    """Membership, datagrams and links to peers of one node."""

    def __init__(
        self,
        fleet: Fleet,
        credentials: Credentials,
        directory: Path,
        boot: bytes,
        dialler: Dialler,
        handler: PeerHandler,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        rng: random.Random | None = None,
    ) -> None:
        self._fleet = fleet
        self._credentials = credentials
        self._incarnation_file = directory / "incarnation"
        self._boot_file = directory / "boot"
        self._boot = boot
        self._dialler = dialler
        self._handler = handler
        self._loop = loop
        self._now = now
        self._rng = rng or random.Random()
        self._datagrams = self._make_datagrams()
        self._membership: Membership | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._info_timer: asyncio.TimerHandle | None = None
        self._trust_timer: asyncio.TimerHandle | None = None
        self._dials: dict[bytes, asyncio.Task[None]] = {}
        self._clone_hunt: asyncio.Task[None] | None = None
        self._published: set[bytes] = set()
        self._cut: set[tuple[bytes, bytes | None]] = set()
        self._refusals: dict[str, tuple[float, float, int]] = {}
        """By reason: how many may be told now, since when, and how many were not told."""
        self._members: dict[bytes, Member] = {}
        self._closing = False
        self.revoked: Callable[[bytes], None] = lambda id: None
        """Told whom the fleet has turned away, members or not."""
        self.addresses: tuple[Address, ...] = ()

    # --- life ---------------------------------------------------------------------------------------------------------

    async def open(self, hosts: list[str], port: int, addresses: tuple[Address, ...]) -> int:
        """Bind the datagram sockets and begin; the port. OSError when it is taken."""
        port = await self._datagrams.open(hosts, port)
        self.addresses = addresses
        return port

    def start(self, addresses: tuple[Address, ...]) -> None:
        """Begin to probe, under these addresses."""
        self.addresses = addresses
        identity = self._credentials.identity
        own = Own(
            id=identity.id,
            name=identity.name,
            certificate=self._credentials.certificate,
            addresses=addresses,
            boot=self._boot,
            incarnation=self._load_incarnation(),
            info=self._handler.own_info(),
        )
        self._membership = Membership(own, self._rng, self._verify, notice_ok=self._fleet.trust.vouched)
        self._membership.start(self._now())
        self._cut.update((entry.id, entry.serial) for entry in self._fleet.trust.entries())
        for blob in self._fleet.trust.revocations():
            self._publish(blob)
        self._poll_trust()
        self._turn()

    async def rebind(self, hosts: list[str], port: int, addresses: tuple[Address, ...]) -> None:
        """Listen elsewhere, on the same port: the LAN was asked for. OSError, and all as before, when that cannot be."""
        await self._datagrams.rebind(hosts, port)
        self.set_addresses(addresses)

    @property
    def numbers(self) -> tuple[int, int]:
        """(that of this start's datagrams, incarnation): what another process with this identity has to be above."""
        return self._datagrams.boot, 0 if self._membership is None else self._membership.me.incarnation

    def outlive(self, number: int, incarnation: int) -> None:
        """Another process spoke for this node, under these numbers, and does no more: be heard again."""
        wall_us = int(time.time() * 1e6)
        self._datagrams.renew(self._next_boot(wall_us / 1e6, min(number, wall_us + AHEAD_US_MAX)))
        if self._membership is not None and not self._closing:
            self._membership.outlive(self._now(), min(incarnation, self._membership.me.incarnation + INCARNATIONS_MAX))
            self._turn()

    def set_addresses(self, addresses: tuple[Address, ...]) -> None:
        """Say under which addresses this node is reached now."""
        self.addresses = addresses
        if self._membership is not None:
            self._membership.update_self(self._now(), addresses=addresses)
            self._turn()

    async def leave(self) -> None:
        """Say goodbye to the fleet, and give that a moment to be heard."""
        self._closing = True
        membership = self._membership
        if membership is not None:
            membership.leave(self._now())
            self._turn()
            await asyncio.sleep(min(1.0, membership.goodbye_s))

    async def close(self) -> None:
        """Stop everything."""
        self._closing = True
        for handle in (self._timer, self._info_timer, self._trust_timer):
            if handle is not None:
                handle.cancel()
        dials = list(self._dials.values())
        for dial in dials:
            dial.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        self._datagrams.close()
        self._membership = None

    def set_dialler(self, dialler: Dialler) -> None:
        """Who opens links from now on."""
        self._dialler = dialler

    # --- what the node asks -------------------------------------------------------------------------------------------

    @property
    def members(self) -> list[Member]:
        """Every other member that is known, the dead included."""
        return [] if self._membership is None else self._membership.members()

    @property
    def live_count(self) -> int:
        """Live members, this node included."""
        return 1 if self._membership is None else self._membership.count

    @property
    def health(self) -> int:
        """Lifeguard's local health score; 0 is well."""
        return 0 if self._membership is None else self._membership.health

    @property
    def incarnation(self) -> int:
        """The own incarnation."""
        return 0 if self._membership is None else self._membership.me.incarnation

    def hint(self, hint: Hint) -> None:
        """Somebody may be there."""
        if self._membership is None or hint.id == self._credentials.id or self._closing:
            return
        now = self._now()
        for address in hint.addresses:
            self._membership.add_hint(now, (address, hint.port), hint.id, lasting=hint.source == "seed")
        self._turn()

    def load_changed(self) -> None:
        """The own load changed: say so with the next probes, not more often than every `INFO_EVERY_S`."""
        if self._info_timer is None and self._membership is not None and not self._closing:
            self._info_timer = self._loop.call_later(INFO_EVERY_S, self._tell_info)

    def peer_reset(self, node: bytes) -> None:
        """A link to a member broke."""
        if self._membership is not None and not self._closing:
            self._membership.peer_reset(self._now(), node)
            self._turn()

    def connect(self, node: bytes) -> None:
        """Open a link to a member, if there is none and none is being opened."""
        if node in self._dials or self._closing or self._handler.is_linked(node) or node not in self._members:
            return
        task = self._loop.create_task(self._dial(node))
        self._dials[node] = task
        task.add_done_callback(lambda _: self._dials.pop(node, None))

    # --- datagrams and the machine ------------------------------------------------------------------------------------

    def _make_datagrams(self) -> Datagrams:
        return Datagrams(
            self._credentials, self._fleet.trust, self._received, self._refused, boot=self._next_boot(time.time())
        )

    def _received(self, source: Address, sender: Identity, payload: bytes) -> None:
        if self._membership is None or not payload or sender.role != "node":
            return
        self._membership.on_datagram(self._now(), source, sender.id, payload)
        self._turn()

    def _refused(self, reason: str, facts: Mapping[str, object]) -> None:
        """Count a datagram that was turned away. Of a flood (and a revoked node goes on for ever) a few are told, each
        with how many it stands for."""
        now = self._now()
        tokens, at, untold = self._refusals.get(reason, (REFUSALS_BURST, now, 0))
        tokens = min(REFUSALS_BURST, tokens + (now - at) / REFUSAL_EVERY_S)
        if tokens < 1:
            self._refusals[reason] = (tokens, now, untold + 1)
            return
        self._refusals[reason] = (tokens - 1, now, 0)
        self._handler.fact(Fact("datagram.refused", {"reason": reason}, {**facts, "count": untold + 1}, untold + 1.0))

    def _turn(self) -> None:
        membership = self._membership
        if membership is None:
            return
        while (
            effects := membership.take_effects()
        ):  # to carry one out may have more follow: a revocation that came expels
            for effect in effects:
                self._carry_out(effect)
        at = membership.next_deadline()
        if at is not None and (self._timer is None or at < self._timer_at):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_later(max(0.0, at - self._now()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._membership is not None:
            self._membership.on_timer(self._now())
            self._turn()

    def _carry_out(self, effect: Any) -> None:
        match effect:
            case SendDatagram():
                self._datagrams.send(effect.address, effect.to, effect.payload)
            case Introduced():
                self._datagrams.learn(effect.id, effect.certificate)
            case Joined() | Changed():
                member = effect.member
                self._members[member.id] = member
                self._datagrams.learn(member.id, member.certificate)
                self._handler.member_seen(member)
                # One of the two dials, so that there is one link; when it fails, work makes the other dial too.
                if len(self._members) <= EAGER_PEERS_MAX and self._credentials.id < member.id:
                    self.connect(member.id)
                if isinstance(effect, Joined):
                    self._handler.fact(Fact("member.joined", {}, {"member": member.name, "id": member.id.hex()}))
            case Suspected():
                self._handler.member_suspected(effect.member)
                self._handler.fact(Fact("member.suspected", {}, {"member": effect.member.name}))
            case Died() | Left():
                why = "left" if isinstance(effect, Left) else "dead" if self._identity(effect.member) else "revoked"
                self._members.pop(effect.member.id, None)
                self._datagrams.forget(effect.member.id)
                self._handler.member_lost(effect.member.id, why)
                if why != "revoked":  # that was told when the revocation came
                    self._handler.fact(Fact(f"member.{why}", {}, {"member": effect.member.name}))
            case Noticed():
                self._noticed(effect.blob)
            case Cloned():
                self._clone_hunt = self._loop.create_task(self._meet_clone(effect))
            case PersistIncarnation():
                self._save_incarnation(effect.incarnation)
            case Fact():
                self._handler.fact(effect)
            case _:
                raise AssertionError(effect)

    def _verify(self, certificate: bytes) -> Identity:
        identity = self._fleet.trust.verify(certificate, time.time())
        if self._fleet.trust.revoked(identity.id, identity.serial):
            raise Untrusted("revoked", f"{identity.name} was revoked", "")
        return identity

    def _identity(self, member: Member) -> Identity | None:
        """What a member's certificate says, None if it counts no longer."""
        try:
            return self._verify(member.certificate)
        except Untrusted:
            return None

    def _tell_info(self) -> None:
        self._info_timer = None
        if self._membership is not None and not self._closing:
            self._membership.update_self(self._now(), info=self._handler.own_info())
            self._turn()

    # --- trust --------------------------------------------------------------------------------------------------------

    def _noticed(self, blob: bytes) -> None:
        """A revocation came by gossip."""
        try:
            self._fleet.trust.apply_revocation(blob)
        except Untrusted as error:
            self._handler.fact(Fact("notice.refused", {"reason": error.reason}, {}))
            return
        self._cut_off()

    def _cut_off(self) -> None:
        """Expel whoever is revoked by now; what was revoked is told once."""
        for entry in self._fleet.trust.entries():
            if (entry.id, entry.serial) in self._cut:
                continue
            self._cut.add((entry.id, entry.serial))
            self._handler.fact(Fact("member.revoked", {}, {"id": entry.id.hex(), "reason": entry.reason}))
            self.revoked(entry.id)
            member = self._members.get(entry.id)
            if self._membership is not None and (member is None or self._identity(member) is None):
                self._membership.expel(self._now(), entry.id)

    def _publish(self, blob: bytes) -> None:
        if self._membership is not None and blob not in self._published:
            self._published.add(blob)
            self._membership.publish(self._now(), blob)

    def trust_changed(self) -> None:
        """This very process revoked somebody."""
        self._cut_off()
        for blob in self._fleet.trust.revocations():
            self._publish(blob)
        self._turn()

    def _poll_trust(self) -> None:
        """Another process of this home (`swarm fleet revoke`) may have written something."""
        try:
            if self._fleet.refresh():
                self._cut_off()
        except FleetError as error:
            self._handler.fact(Fact("fleet.unreadable", {}, {"error": str(error)}))
        for blob in self._fleet.trust.revocations():
            self._publish(blob)
        self._turn()
        self._trust_timer = self._loop.call_later(TRUST_POLL_S, self._poll_trust)

    # --- numbers that outlive the process -----------------------------------------------------------------------------

    def _load_incarnation(self) -> int:
        incarnation, problem = _load_number(self._incarnation_file)
        if problem:
            # Refutation brings it above whatever the fleet remembers.
            self._handler.fact(Fact("incarnation.unreadable", {}, {"error": problem}))
        return incarnation

    def _save_incarnation(self, incarnation: int) -> None:
        if problem := _save_number(self._incarnation_file, incarnation):
            self._handler.fact(Fact("incarnation.unsaved", {}, {"error": problem}))

    def _next_boot(self, wall_s: float, above: int = 0) -> int:
        """What tells this start's datagrams from replays of an earlier one's: above them all, whatever the clock says.

        It is the clock, in microseconds, where nothing is known of earlier starts, or the clock is ahead of them.
        """
        last, problem = _load_number(self._boot_file)
        if problem:
            self._handler.fact(Fact("boot.unreadable", {}, {"error": problem}))
        boot = max(last + 1, above + 1, int(wall_s * 1e6))
        if problem := _save_number(self._boot_file, boot):
            self._handler.fact(Fact("boot.unsaved", {}, {"error": problem}))
        return boot

    # --- links --------------------------------------------------------------------------------------------------------

    async def _meet_clone(self, effect: Cloned) -> None:
        """Look whether somebody with this node's own keys is there. If so, the link that comes of it tells both of them."""
        identity = self._credentials.identity
        for host, port in effect.addresses:
            if (host, port) in self.addresses:
                continue
            endpoint = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
            try:
                await self._dialler.connect(endpoint, server_key=identity.curve_key, expect=identity.id, timeout_s=2.0)
                return
            except HandshakeFailed as error:
                self._handler.fact(
                    Fact("dial.failed", {"reason": error.reason}, {"member": "itself", "endpoint": endpoint})
                )

    async def _dial(self, node: bytes) -> None:
        """Try each address of a member, again and again, until there is a link or the member is gone."""
        delays = reconnect_delays(self._rng)
        while not self._closing and not self._handler.is_linked(node):
            member = self._members.get(node)
            if member is None or member.state not in (State.ALIVE, State.SUSPECT):
                return
            try:
                identity = self._verify(member.certificate)
            except Untrusted as error:
                self._handler.fact(Fact("dial.failed", {"reason": error.reason}, {"member": member.name}))
                return
            addresses = dict.fromkeys((member.address, *member.addresses))
            for host, port in addresses:
                endpoint = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
                try:
                    await self._dialler.connect(endpoint, server_key=identity.curve_key, expect=node, timeout_s=2.0)
                    return
                except HandshakeFailed as error:
                    self._handler.fact(
                        Fact("dial.failed", {"reason": error.reason}, {"member": member.name, "endpoint": endpoint})
                    )
                if self._handler.is_linked(node):
                    return
            await asyncio.sleep(next(delays))


def _load_number(file: Path) -> tuple[int, str]:
    """A number of an earlier start (0 if there is none), and what is wrong with its file."""
    try:
        return min(max(0, int(file.read_text())), NUMBER_MAX), ""
    except FileNotFoundError:
        return 0, ""
    except (OSError, ValueError) as error:
        return 0, str(error)


def _save_number(file: Path, number: int) -> str:
    """Keep a number for later starts; what went wrong, or the empty text."""
    temporary = file.with_suffix(".tmp")
    try:
        temporary.write_text(str(number))
        temporary.replace(file)
    except OSError as error:
        return str(error)
    return ""
