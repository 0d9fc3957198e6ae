"""Membership: SWIM with Lifeguard as a pure state machine.

Sources: Das, Gupta, Motivala: SWIM (DSN 2002); Dadgar, Phillips, Currey: Lifeguard (DSN-W 2018); push-pull and the
treatment of hearsay about the dead as HashiCorp's memberlist does it. What is our own:

* Only a certificate makes a member. Under the fleet's secret alone nothing but HELLO is heard, and it makes its sender
  known (`Introduced`), not a member: that takes a datagram which proves that it holds the key.
* Whoever hears of a suspicion looks for itself, soon and once (as many of a large fleet as are needed), so a real death
  is confirmed within a period and the shortest suspicion nearly always applies.
* Time in which the node itself did not run (a stopped process, a sleeping laptop) counts against nobody: what was
  pending is postponed by the gap, and the own health is poorer for it.
* A fleet cut in two finds itself again: dead members are tried now and then, fleet-wide at one rate.
* Hearsay in a push-pull kills nobody, it only raises suspicion: else a healed cut would bury the living.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from blake3 import blake3

from swarm.protocol import membership_wire as wire
from swarm.protocol import pushpull
from swarm.protocol.contacts import Contacts
from swarm.protocol.effects import (
    Address,
    Changed,
    Died,
    Introduced,
    Joined,
    Left,
    MembershipEffect,
    Noticed,
    PersistIncarnation,
    Suspected,
)
from swarm.protocol.member import Member, Peer, Rng, State, Table, mark_of, pick
from swarm.protocol.membership_config import (
    ADDRESSES_MAX,
    CERTIFICATE_BYTES_MAX,
    DEFAULT,
    INCARNATION_MAX,
    INFO_BYTES_MAX,
    NOTICE_BYTES_MAX,
    MembershipConfig,
)
from swarm.protocol.outbox import Outbox, sample
from swarm.protocol.probing import Prober
from swarm.protocol.suspicion import LocalHealth, Suspicion
from swarm.protocol.timers import Timer, Timers

_GOODBYES_MAX = 64
_INTRODUCED_MAX = 256
_ABOUT = {wire.SUSPECT: "suspect", wire.DEAD: "dead", wire.LEFT: "left"}
_JUDGING = frozenset((Timer.PROBE_HELP, Timer.PROBE_END, Timer.SUSPICION))
"""Timers that end with something being held against another member."""


class Verified(Protocol):
    """What a valid certificate says of its holder."""

    @property
    def id(self) -> bytes: ...
    @property
    def role(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Own:
    """The own node, as it starts."""

    id: bytes
    name: str
    certificate: bytes
    addresses: tuple[Address, ...]
    boot: bytes
    """8 bytes, fresh at each start."""
    incarnation: int = 0
    """The last one that was persisted; this start is above it."""
    info: Mapping[str, object] | None = None


class Membership:
    """One node's view of who is a member. `verify` returns what a certificate says or raises any exception; `notice_ok`
    says whether a notice is worth passing on."""

    def __init__(
        self,
        own: Own,
        rng: Rng,
        verify: Callable[[bytes], Verified],
        config: MembershipConfig = DEFAULT,
        notice_ok: Callable[[bytes], bool] = lambda blob: False,
    ) -> None:
        self._config = config
        self._rng = rng
        self._verify = verify
        self._notice_ok = notice_ok
        self._own = Peer(own.id)
        self._own.name = own.name
        self._own.certificate = own.certificate
        self._own.boot = own.boot
        self._own.incarnation = own.incarnation + 1
        self._set_addresses(own.addresses)
        self._set_info(own.info or {})
        assert len(own.certificate) <= CERTIFICATE_BYTES_MAX, len(own.certificate)
        self._reserved = 0
        self._table = Table()
        self._timers = Timers()
        self._health = LocalHealth(config)
        self._suspicions: dict[bytes, Suspicion] = {}
        self._outbox = Outbox(self._own, config, rng, self._table, self._timers)
        self._prober = Prober(config, rng, self._table, self._outbox, self._timers, self._health, self._suspicions)
        self._wants = pushpull.Wants(config, rng, self._table, self._outbox, self._timers)
        self._contacts = Contacts(self._own, config, rng, self._table, self._outbox, self._timers)
        self._introduced: dict[bytes, Any] = {}
        """Records of nodes that said hello and have not proved themselves yet, the oldest first."""
        self._notices: dict[bytes, bytes] = {}
        self._notices_digest = 0
        self._sync_at = float("inf")
        self._sync_pause_s = config.sync_interval_s
        self._info_at = float("-inf")
        self._info_pending = False
        self._leaving = False
        self._now = float("-inf")

    # What the shell asks.

    @property
    def me(self) -> Member:
        """The own node as a member."""
        return self._own.snapshot()

    @property
    def health(self) -> int:
        """The local health score; 0 is well."""
        return self._health.score

    @property
    def count(self) -> int:
        """Live members, the own node included."""
        return len(self._table.live) + 1

    def members(self) -> list[Member]:
        """All other members that are not forgotten, sorted by id, the dead and those that left included."""
        return [peer.snapshot() for peer in self._table]

    def live(self) -> list[Member]:
        """All other members that are alive or suspected, sorted by id."""
        return [self._table.at(id).snapshot() for id in self._table.live]

    def state(self, id: bytes) -> State | None:
        """A member's state, or None if it is not known."""
        if id == self._own.id:
            return self._own.state
        peer = self._table.get(id)
        return None if peer is None else peer.state

    def digest(self) -> int:
        """64 bits over who lives in which incarnation: equal among members that agree."""
        return self._table.digest ^ mark_of(self._own.id, self._own.incarnation)

    def next_deadline(self) -> float | None:
        """When `on_timer` wants to be called; None before the start."""
        return self._timers.next_deadline()

    def take_effects(self) -> list[MembershipEffect]:
        """The effects since the last call, in order."""
        return self._outbox.take()

    # What the shell tells.

    def start(self, now: float) -> None:
        """Begins to probe. Call once, before anything else."""
        self._now = now
        self._reserve()
        self._timers.at(now + self._config.period_s * self._rng.random(), Timer.PROBE)
        self._plan_sync(now + self._config.sync_interval_s * self._rng.random())
        self._timers.at(now + self._config.dead_contact_interval_s * self._rng.random(), Timer.DEAD_CONTACT)

    def add_hint(self, now: float, address: Address, id: bytes | None = None, lasting: bool = False) -> None:
        """A member may listen at `address`: from mDNS or a cache, or a configured seed (`lasting`: never given up)."""
        self._enter(now)
        self._contacts.add(now, address, id, lasting)

    def peer_reset(self, now: float, id: bytes) -> None:
        """A connection to this member was reset: it is probed at once."""
        self._enter(now)
        peer = self._table.get(id)
        if peer is not None and peer.live:
            self._prober.probe(now, peer)

    def update_self(
        self,
        now: float,
        info: Mapping[str, object] | None = None,
        addresses: Sequence[Address] | None = None,
        certificate: bytes | None = None,
    ) -> None:
        """Says something new of the own node. Info goes out with the next probes, and by gossip now and then; new
        addresses or a new certificate make a new incarnation. ValueError if info takes over `INFO_BYTES_MAX` packed."""
        self._enter(now)
        if info is not None and dict(info) != self._own.info:
            self._set_info(info)
            self._own.version += 1
            if not self._info_pending:
                self._info_pending = True
                self._timers.at(max(now, self._info_at + self._info_interval_s), Timer.INFO)
        if addresses is not None and tuple(addresses) != self._own.addresses:
            self._set_addresses(addresses)
            self._renew(now, self._own.incarnation + 1)
        if certificate is not None and certificate != self._own.certificate:
            assert len(certificate) <= CERTIFICATE_BYTES_MAX, len(certificate)
            self._own.certificate = certificate
            self._renew(now, self._own.incarnation + 1, whole=True)

    def publish(self, now: float, blob: bytes) -> None:
        """Spreads a notice to all members, those that come later included."""
        self._enter(now)
        assert 0 < len(blob) <= NOTICE_BYTES_MAX, len(blob)
        self._notice(now, blob)

    def expel(self, now: float, id: bytes) -> None:
        """A certificate was revoked: its holder is dead here, and forgotten."""
        self._enter(now)
        peer = self._table.get(id)
        if peer is not None:
            if peer.live:
                self._bury(now, peer, State.DEAD)
            self._outbox.hush(id)
            self._table.forget(peer)

    def leave(self, now: float) -> None:
        """Says goodbye. Go on for `goodbye_s` so that it is heard, then stop."""
        self._enter(now)
        self._leaving = True
        self._own.state = State.LEFT
        packed = wire.left(self._own.id, self._own.incarnation)
        for id in sample(self._rng, self._table.live, _GOODBYES_MAX):
            self._outbox.send(self._table.at(id), wire.GOSSIP, None, [packed])
        self._outbox.spread(now, self._own.id, packed)

    @property
    def goodbye_s(self) -> float:
        """How long to go on after `leave`, seconds."""
        return self._config.spread_s(self.count) if self._table.live else 0.0

    def on_unreadable(self, now: float, source: Address) -> None:
        """A datagram under the fleet's secret came from a node whose key is not known: let it introduce itself."""
        self._enter(now)
        self._contacts.ask(now, source)

    def on_datagram(self, now: float, source: Address, sender: bytes | None, payload: bytes) -> None:
        """A datagram came; `sender` is the id whose key authenticated it, None if only the fleet's secret did."""
        self._enter(now)
        try:
            kind, body, updates = wire.decode(payload)
            if kind == wire.HELLO:
                self._hello(now, source, body[0], updates)
                return
            if sender is None:
                raise wire.WireError("unauthenticated")
            if sender == self._own.id:
                raise wire.WireError("own-id")
            for update in updates:
                if not self._known(update):
                    self._apply(now, update, sender)
        except wire.WireError as error:
            self._outbox.fact("membership.rejected", {"reason": str(error)}, {"source": source})
            return
        peer = self._table.get(sender)
        if peer is None or not peer.live:
            peer = self._admit(now, sender) or peer
        if peer is None:
            self._contacts.ask(now, source)
            return
        if source != peer.route and source in peer.addresses:
            peer.route = source
        self._dispatch(now, source, peer, kind, body)
        self._wants.ask(now)

    def on_timer(self, now: float) -> None:
        """The instant of `next_deadline` has come, or has passed."""
        self._enter(now)
        while (due := self._timers.pop(now)) is not None:
            self._fire(now, *due)

    # Inside.

    def _enter(self, now: float) -> None:
        assert now >= self._now, (now, self._now)
        deadline = self._timers.next_deadline()
        if deadline is not None:
            gap = now - max(deadline, self._now)
            if gap > 0.5 * self._config.period_s:
                self._slept(now, gap)
        self._now = now

    def _slept(self, now: float, gap: float) -> None:
        self._timers.postpone(_JUDGING, gap)
        for id in sorted(self._suspicions):
            self._suspicions[id].began += gap
        self._health.worse(2 if gap > self._config.period_s else 1)
        self._outbox.fact("membership.late", value=gap)
        if gap > 2 * self._config.period_s:
            # The fleet may have come to a verdict about this node meanwhile: ask two, and refute it.
            for id in sample(self._rng, self._table.live, 2):
                self._sync(self._table.at(id))

    def _fire(self, now: float, kind: int, argument: Any) -> None:
        if kind == Timer.PROBE:
            self._prober.tick(now)
        elif kind == Timer.PROBE_HELP:
            self._prober.help(now, argument)
        elif kind == Timer.PROBE_END:
            failed = self._prober.end(argument)
            if failed is not None:
                peer = self._table.at(failed)
                self._accuse(now, peer, [self._own.id])
        elif kind == Timer.RELAY_NACK:
            self._prober.relay_nack(argument)
        elif kind == Timer.RELAY_END:
            self._prober.relay_end(argument)
        elif kind == Timer.GOSSIP:
            self._outbox.gossip(now, argument)
        elif kind == Timer.CONFIRM:
            if argument in self._suspicions:
                self._prober.probe(now, self._table.at(argument))
        elif kind == Timer.SUSPICION:
            self._suspicion_due(now, argument)
        elif kind == Timer.SYNC:
            self._sync_due(now, argument)
        elif kind == Timer.DEAD_CONTACT:
            self._contact_dead(now)
        elif kind == Timer.HELLO:
            self._contacts.tick(now, argument)
        elif kind == Timer.WANT:
            self._wants.tick(now)
        else:
            assert kind == Timer.INFO, kind
            self._info_pending = False
            self._info_at = now
            if not self._leaving:
                self._outbox.spread(now, self._own.id, self._outbox.own_news(), routine=True)

    def _dispatch(self, now: float, source: Address, peer: Peer, kind: int, body: Any) -> None:
        if kind == wire.PING:
            if body[1] == self._own.id:
                self._prober.pinged(peer, body[0])
        elif kind == wire.ACK:
            if self._prober.acked(now, peer, body[0]):
                peer.route = source
        elif kind == wire.PING_REQ:
            self._prober.requested(now, peer, body[0], body[1])
        elif kind == wire.NACK:
            self._prober.nacked(peer, body[0])
        elif kind == wire.SYNC:
            peer.route = source if peer.live else peer.route
            self._synced(peer, body)
        elif kind == wire.ROWS:
            self._rows(now, peer, *body)
        elif kind == wire.WANT:
            pushpull.answer(self._outbox, self._table, self._own, peer, body[0])
        if not peer.live and kind in (wire.PING, wire.SYNC, wire.GOSSIP):
            # It does not know that it is held dead, and refutes that when it hears.
            self._outbox.send(peer, wire.GOSSIP, None, [self._statement(peer)], rumours=False)

    # The own record.

    def _set_addresses(self, addresses: Sequence[Address]) -> None:
        assert len(addresses) <= ADDRESSES_MAX, addresses
        for address in addresses:
            wire.write_address(address)
        self._own.addresses = tuple(addresses)
        if addresses:
            self._own.route = addresses[0]

    def _set_info(self, info: Mapping[str, object]) -> None:
        packed = wire.write_info(dict(info))
        if len(packed) > INFO_BYTES_MAX:
            raise ValueError(f"info takes {len(packed)} bytes, at most {INFO_BYTES_MAX} fit")
        self._own.info_packed = packed
        self._own.info = dict(info)

    @property
    def _info_interval_s(self) -> float:
        return max(self._config.info_interval_s, self._config.info_interval_per_member_s * self.count)

    def _reserve(self) -> None:
        if self._own.incarnation >= self._reserved:
            self._reserved = self._own.incarnation + self._config.incarnation_block
            self._outbox.leave(PersistIncarnation(self._reserved))

    def _renew(self, now: float, incarnation: int, whole: bool = False) -> None:
        """A new incarnation of the own node, told to all; with the certificate if that is new."""
        if incarnation >= INCARNATION_MAX:
            self._outbox.fact("membership.rejected", {"reason": "incarnation"})
            return
        self._own.incarnation = incarnation
        self._outbox.renewed()
        self._reserve()
        if not self._leaving:
            packed = wire.record(self._own, whole=True) if whole else self._outbox.own_news()
            self._outbox.spread(now, self._own.id, packed)

    def _refute(self, now: float, incarnation: int, about: str) -> None:
        if incarnation < self._own.incarnation or self._leaving:
            return
        self._health.worse()
        self._renew(now, incarnation + 1)
        self._outbox.fact("membership.refuted", {"about": about}, {"incarnation": self._own.incarnation})
        if about in ("dead", "rows"):
            self._doubt(now)

    def _doubt(self, now: float) -> None:
        """This node was out of touch, so it was perhaps its own fault that it heard nothing of those it suspects; and
        those it accused meanwhile were told to ignore it, so they never refuted. All of it starts anew, and verdicts
        that are still being passed on are not: who is dead indeed is found so by others."""
        for id in self._table.lost:
            self._outbox.hush(id)
        for id in sorted(self._suspicions):
            suspicion = self._suspicions[id]
            suspicion.began = now
            suspicion.accusers = [self._own.id]
            self._outbox.hush(id)
            self._timers.at(suspicion.deadline, Timer.SUSPICION, id)
            self._prober.probe(now, self._table.at(id))

    # Statements about members.

    def _apply(self, now: float, update: Any, sender: bytes) -> None:
        tag = wire.check_update(update)
        if tag == wire.NOTICE:
            self._notice(now, update[1])
            return
        id, incarnation = update[1], update[2]
        if tag == wire.ALIVE:
            if id == self._own.id:
                self._own_echo(now, incarnation, update[4])
            else:
                self._alive(now, update, sender)
            return
        if id == self._own.id:
            self._refute(now, incarnation, _ABOUT[tag])
            return
        peer = self._table.get(id)
        if peer is None or not peer.live or incarnation < peer.incarnation:
            return
        accuser = self._table.get(sender)
        if tag != wire.LEFT and accuser is not None and not accuser.live:
            # Whom nobody reaches reaches nobody: a node that only hears nothing would accuse all others.
            return
        if incarnation > peer.incarnation:
            self._outdated(peer, incarnation, sender)
        if tag == wire.SUSPECT:
            self._accuse(now, peer, update[3])
        elif tag == wire.DEAD:
            self._bury(now, peer, State.DEAD)
        else:
            self._bury(now, peer, State.LEFT)

    def _known(self, update: Any) -> bool:
        """Whether this is a record that is not newer than the one at hand: most of what gossip brings, so it is told
        before anything else of it is looked at."""
        if type(update) is not list or len(update) != 9 or update[0] != wire.ALIVE or type(update[1]) is not bytes:
            return False
        peer = self._table.get(update[1])
        if peer is None:
            return False
        incarnation = update[2]
        if type(incarnation) is not int or incarnation > peer.incarnation:
            return False
        if incarnation == peer.incarnation and (type(update[3]) is not int or update[3] > peer.version):
            return False
        if self._wants:
            self._wants.got(update[1])
        return True

    def _own_echo(self, now: float, incarnation: int, boot: bytes) -> None:
        if incarnation > self._own.incarnation or (incarnation == self._own.incarnation and boot != self._own.boot):
            # From a boot whose last incarnation did not reach the disk, or from a copy of this node's files.
            self._outbox.fact("membership.conflict", {}, {"incarnation": incarnation, "boot": boot})
            self._refute(now, incarnation, "boot")

    def _alive(self, now: float, update: Any, sender: bytes) -> None:
        _, id, incarnation, version, boot, name, addresses, info, certificate = update
        peer = self._table.get(id)
        if peer is not None:
            if (incarnation, version) <= (peer.incarnation, peer.version):
                return
            if incarnation == peer.incarnation and not peer.live:
                return
        if certificate is None and peer is None:
            self._wants.add(id, sender)
            return
        recertified = False
        if certificate is not None and (peer is None or certificate != peer.certificate):
            if not self._valid(id, certificate):
                self._wants.got(id)
                return
            recertified = True
        elif peer is not None:
            certificate = peer.certificate
        details = wire.read_info(info)
        readable = tuple(wire.read_address(address) for address in addresses)
        if peer is None:
            if len(self._table) >= self._config.members_max and not self._table.forget_oldest():
                self._outbox.fact("membership.rejected", {"reason": "members-max"})
                return
            peer = Peer(id)
            known, rose, rebooted = False, True, False
        else:
            known, rose, rebooted = True, not peer.live, boot != peer.boot
        newborn = incarnation > peer.incarnation
        peer.name = name
        peer.certificate = certificate
        if readable != peer.addresses or rebooted or rose:
            peer.addresses = readable
            if peer.route not in readable and readable:
                peer.route = readable[0]
        peer.incarnation = incarnation
        peer.version = version
        peer.boot = boot
        peer.info = details
        peer.info_packed = info
        self._wants.got(id)
        if newborn or not known:
            self._sync_soon(now)
        if not known:
            peer.since = now
            self._table.add(peer)
            self._prober.add(id)
        elif newborn:
            self._suspicions.pop(id, None)
            self._table.move(peer, State.ALIVE, now)
            if rose:
                self._prober.add(id)
        # Who does not know it yet fetches the certificate once, rather than being sent it by many.
        whole = known and recertified
        self._outbox.spread(now, id, wire.record(peer, whole), routine=known and not newborn)
        if rose or rebooted:
            peer.told = (0, 0)
            self._outbox.leave(Joined(peer.snapshot()))
        else:
            self._outbox.leave(Changed(peer.snapshot()))

    def _valid(self, id: bytes, certificate: bytes) -> bool:
        try:
            identity = self._verify(certificate)
        except Exception as error:
            reason = getattr(error, "reason", "invalid")
            self._outbox.fact("membership.refused", {"reason": str(reason)}, {"member": id})
            return False
        if identity.id != id or identity.role != "node":
            reason = "foreign-id" if identity.id != id else "role"
            self._outbox.fact("membership.refused", {"reason": reason}, {"member": id})
            return False
        return True

    def _outdated(self, peer: Peer, incarnation: int, sender: bytes) -> None:
        """A statement is about a newer incarnation than the record at hand: it counts, and the record is fetched."""
        peer.incarnation = incarnation
        peer.version = -1
        self._table.remark(peer)
        self._wants.add(peer.id, sender)

    def _accuse(self, now: float, peer: Peer, accusers: Sequence[bytes]) -> None:
        suspicion = self._suspicions.get(peer.id)
        if suspicion is not None and suspicion.incarnation != peer.incarnation:
            suspicion = None
        began = suspicion is None
        if suspicion is None:
            count = self.count
            needed = min(self._config.confirmations, max(count - 2, 0))
            shortest = self._config.suspicion_min_s(count)
            longest = shortest * self._config.suspicion_max_factor
            suspicion = Suspicion(peer.incarnation, now, needed, shortest, longest)
            self._suspicions[peer.id] = suspicion
        news = False
        for accuser in accusers:
            if suspicion.accuse(accuser):
                news = True
        if began:
            self._table.move(peer, State.SUSPECT, now)
            self._outbox.leave(Suspected(peer.snapshot()))
            self._outbox.fact("membership.suspected", {}, {"member": peer.id, "accusers": tuple(accusers)})
            if self._own.id not in suspicion.accusers:
                wanted = 2 * (self._config.confirmations + 1) / max(self.count - 2, 1)
                if self._rng.random() < wanted:
                    delay = self._config.period(self.count) * self._config.probe_timeout_fraction * self._rng.random()
                    self._timers.at(now + delay, Timer.CONFIRM, peer.id)
        if news:
            self._timers.at(suspicion.deadline, Timer.SUSPICION, peer.id)
            self._outbox.spread(now, peer.id, wire.suspect(peer.id, peer.incarnation, suspicion.accusers))

    def _suspicion_due(self, now: float, id: bytes) -> None:
        suspicion = self._suspicions.get(id)
        if suspicion is None:
            return
        if suspicion.deadline > now + 1e-6:
            self._timers.at(suspicion.deadline, Timer.SUSPICION, id)
            return
        peer = self._table.at(id)
        self._bury(now, peer, State.DEAD)
        # It may only be cut off one way, or stopped: when it wakes it finds this and refutes.
        self._outbox.send(peer, wire.GOSSIP, None, [self._statement(peer)], rumours=False)

    def _bury(self, now: float, peer: Peer, state: State) -> None:
        self._suspicions.pop(peer.id, None)
        self._table.move(peer, state, now)
        self._sync_soon(now)
        self._outbox.spread(now, peer.id, self._statement(peer))
        self._outbox.leave(Died(peer.snapshot()) if state == State.DEAD else Left(peer.snapshot()))

    def _statement(self, peer: Peer) -> bytes:
        if peer.state == State.LEFT:
            return wire.left(peer.id, peer.incarnation)
        assert peer.state == State.DEAD
        return wire.dead(peer.id, peer.incarnation, self._own.id)

    def _notice(self, now: float, blob: bytes) -> None:
        key = blake3(blob).digest(8)
        if key in self._notices:
            return
        if len(self._notices) >= self._config.notices_max or not self._notice_ok(blob):
            self._outbox.fact("membership.rejected", {"reason": "notice"})
            return
        self._notices[key] = blob
        self._notices_digest ^= int.from_bytes(key, "big")
        self._outbox.spread(now, b"notice" + key, wire.notice(blob))
        self._outbox.leave(Noticed(blob))

    # First contact, push-pull, and the dead.

    def _hello(self, now: float, source: Address, wanted: bool, updates: list[Any]) -> None:
        if len(updates) != 1 or wire.check_update(updates[0]) != wire.ALIVE or updates[0][8] is None:
            raise wire.WireError("hello")
        id, certificate = updates[0][1], updates[0][8]
        if id == self._own.id:
            self._contacts.forget(source)
            return
        if not self._valid(id, certificate):
            return
        peer = self._table.get(id)
        if peer is None or not peer.live or peer.certificate != certificate:
            self._outbox.leave(Introduced(id, certificate, source))
            if len(self._introduced) >= _INTRODUCED_MAX:
                del self._introduced[next(iter(self._introduced))]
            self._introduced[id] = updates[0]
        if wanted:
            self._contacts.hello(source, wanted=False)
        elif not self._leaving:
            stranger = Peer(id)
            stranger.route = source
            self._sync(peer if peer is not None and peer.route == source else stranger)

    def _admit(self, now: float, id: bytes) -> Peer | None:
        """Whoever introduced itself has now proved that it holds its key: what it said of itself counts."""
        update = self._introduced.pop(id, None)
        if update is not None:
            self._alive(now, update, id)
        return self._table.get(id)

    def _sync(self, peer: Peer) -> None:
        if self._leaving:
            return
        first = [wire.record(self._own, whole=True)]
        if not peer.live:
            first = [self._statement(peer), *first]
        peer.told = (self._own.incarnation, self._own.version)
        self._outbox.send(peer, wire.SYNC, [self.digest(), self._notices_digest], first)

    def _synced(self, peer: Peer, body: list[int]) -> None:
        if body[0] != self.digest():
            pushpull.send_pages(self._outbox, self._table, self._own, peer)
        if body[1] != self._notices_digest:
            for key in sorted(self._notices):
                self._outbox.send(peer, wire.GOSSIP, None, [wire.notice(self._notices[key])], rumours=False)

    def _rows(self, now: float, sender: Peer, low: bytes, high: bytes, rows: list[Any]) -> None:
        offers: list[pushpull.Row] = []
        named = set()
        for id, incarnation, version, state in rows:
            named.add(id)
            if id == self._own.id:
                if state != State.ALIVE:
                    self._refute(now, incarnation, "rows")
                elif incarnation > self._own.incarnation:
                    self._refute(now, incarnation, "boot")
                elif pushpull.newer(self._own, incarnation, version, state):
                    offers.append(pushpull.row_of(self._own))
                continue
            peer = self._table.get(id)
            if peer is None:
                if state < State.DEAD:
                    self._wants.add(id, sender.id)
            elif pushpull.newer(peer, incarnation, version, state):
                offers.append(pushpull.row_of(peer))
            elif state < State.DEAD:
                if (incarnation, version) > (peer.incarnation, peer.version):
                    self._wants.add(id, sender.id)
            elif peer.live:
                if incarnation > peer.incarnation:
                    self._outdated(peer, incarnation, sender.id)
                if state == State.LEFT:
                    self._bury(now, peer, State.LEFT)
                else:
                    self._accuse(now, peer, [sender.id])
                    self._prober.probe(now, peer)
        if high:
            for id in self._table.live:
                if low <= id < high and id not in named:
                    offers.append(pushpull.row_of(self._table.at(id)))
            if low <= self._own.id < high and self._own.id not in named:
                offers.append(pushpull.row_of(self._own))
        if offers:
            pushpull.send_offers(self._outbox, sender, offers)

    def _contact_dead(self, now: float) -> None:
        lost = self._table.lost
        ratio = max(1.0, (len(self._table.live) + 1) / max(len(lost), 1))
        pause = self._config.dead_contact_interval_s
        self._timers.at(now + pause * (0.5 + self._rng.random()), Timer.DEAD_CONTACT)
        if not lost or self._rng.random() * ratio >= 1.0:
            return
        peer = self._table.at(pick(self._rng, lost))
        if now - peer.since > self._config.forget_s:
            self._table.forget(peer)
            return
        self._sync(peer)

    def _plan_sync(self, instant: float) -> None:
        self._sync_at = instant
        self._timers.at(instant, Timer.SYNC, instant)

    def _sync_soon(self, now: float) -> None:
        """The table changed: compare it when gossip should have told all, then ever more rarely."""
        self._sync_pause_s = 2 * self._config.spread_s(self.count)
        if self._sync_at > now + 1.5 * self._sync_pause_s:
            self._plan_sync(now + self._sync_pause_s * (0.5 + self._rng.random()))

    def _sync_due(self, now: float, instant: float) -> None:
        if instant != self._sync_at:
            return
        scale = self._config.period(self.count) / self._config.period_s
        self._sync_pause_s = min(2 * self._sync_pause_s, scale * self._config.sync_interval_s)
        self._plan_sync(now + self._sync_pause_s * (0.75 + 0.5 * self._rng.random()))
        if self._table.live:
            self._sync(self._table.at(pick(self._rng, self._table.live)))
