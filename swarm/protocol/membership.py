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
* Hearsay kills only whom this node has suspected itself for long enough to hear a refutation; else it raises suspicion,
  and this node looks for itself. Else a healed cut would bury the living: who was cut off has much to say of the dead.
* Nobody is buried on old evidence: an accuser looks once more before the suspicion ends. Whoever was cut off has a poor
  own health, and so probes too rarely to find out in time that those it suspects are there again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swarm.protocol import membership_wire as wire
from swarm.protocol.contacts import Contacts
from swarm.protocol.effects import Address, Introduced, MembershipEffect
from swarm.protocol.member import Member, Peer, Rng, State, Table
from swarm.protocol.membership_config import DEFAULT, MembershipConfig
from swarm.protocol.notices import Notices
from swarm.protocol.outbox import Outbox, sample
from swarm.protocol.own_record import Own, OwnRecord
from swarm.protocol.probing import Prober
from swarm.protocol.pushpull import PushPull, answer
from swarm.protocol.suspicion import LocalHealth, Suspicion
from swarm.protocol.timers import Timer, Timers
from swarm.protocol.verdicts import Verdicts, Verified
from swarm.protocol.wants import Wants

__all__ = ["Membership", "Own", "Verified"]

_GOODBYES_MAX = 64
_INTRODUCED_MAX = 256
_JUDGING = frozenset((Timer.PROBE_HELP, Timer.PROBE_END, Timer.SUSPICION))
"""Timers that end with something being held against another member."""


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
        peer = own.peer()
        self._table = Table()
        self._timers = Timers()
        self._health = LocalHealth(config)
        self._suspicions: dict[bytes, Suspicion] = {}
        self._outbox = Outbox(peer, config, rng, self._table, self._timers)
        self._own = OwnRecord(peer, config, self._table, self._outbox, self._timers)
        self._prober = Prober(config, rng, self._table, self._outbox, self._timers, self._health, self._suspicions)
        self._wants = Wants(config, rng, self._table, self._outbox, self._timers)
        self._contacts = Contacts(peer, config, rng, self._table, self._outbox, self._timers)
        self._notices = Notices(config, rng, self._outbox, notice_ok)
        self._verdicts = Verdicts(
            self._own,
            config,
            rng,
            verify,
            self._table,
            self._outbox,
            self._timers,
            self._health,
            self._suspicions,
            self._prober,
            self._wants,
            self._notices,
        )
        self._pushpull = PushPull(
            self._own,
            config,
            rng,
            self._table,
            self._outbox,
            self._timers,
            self._prober,
            self._wants,
            self._notices,
            self._verdicts,
        )
        self._introduced: dict[bytes, Any] = {}
        """Records of nodes that said hello and have not proved themselves yet, the oldest first."""
        self._now = float("-inf")

    # What the shell asks.

    @property
    def me(self) -> Member:
        """The own node as a member."""
        return self._own.peer.snapshot()

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
            return self._own.peer.state
        peer = self._table.get(id)
        return None if peer is None else peer.state

    def digest(self) -> int:
        """64 bits over who lives in which incarnation: equal among members that agree."""
        return self._pushpull.digest

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
        self._own.reserve()
        self._timers.at(now + self._config.period_s * self._rng.random(), Timer.PROBE)
        self._pushpull.plan(now + self._config.sync_interval_s * self._rng.random())
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
        self._own.update(now, info, addresses, certificate)

    def outlive(self, now: float, incarnation: int) -> None:
        """Another process spoke for this node, in this incarnation: what this one says is above that."""
        self._enter(now)
        self._verdicts.refute(now, max(incarnation, self._own.peer.incarnation), "twin")

    def publish(self, now: float, blob: bytes) -> None:
        """Spreads a notice to all members, those that come later included."""
        self._enter(now)
        self._notices.add(now, blob)

    def expel(self, now: float, id: bytes) -> None:
        """A certificate was revoked: its holder is dead here, and forgotten."""
        self._enter(now)
        peer = self._table.get(id)
        if peer is not None:
            if peer.live:
                self._verdicts.bury(now, peer, State.DEAD)
            self._outbox.hush(id)
            self._table.forget(peer)

    def leave(self, now: float) -> None:
        """Says goodbye. Go on for `goodbye_s` so that it is heard, then stop."""
        self._enter(now)
        self._own.leaving = True
        self._own.peer.state = State.LEFT
        packed = wire.left(self._own.id, self._own.peer.incarnation)
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
                if not self._verdicts.known(update):
                    self._verdicts.apply(now, update, sender)
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
        self._settle(now)

    def on_timer(self, now: float) -> None:
        """The instant of `next_deadline` has come, or has passed."""
        self._enter(now)
        while (due := self._timers.pop(now)) is not None:
            self._fire(now, *due)
        self._settle(now)

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
            self._suspicions[id].postpone(gap)
        self._health.worse(2 if gap > self._config.period_s else 1)
        self._outbox.fact("membership.late", value=gap)
        if gap > 2 * self._config.period_s:
            # The fleet may have come to a verdict about this node meanwhile: ask two, and refute it.
            for id in sample(self._rng, self._table.live, 2):
                self._pushpull.sync(self._table.at(id))

    def _settle(self, now: float) -> None:
        if self._verdicts.changed:
            self._verdicts.changed = False
            self._pushpull.soon(now)

    def _fire(self, now: float, kind: int, argument: Any) -> None:
        if kind == Timer.PROBE:
            self._prober.tick(now)
        elif kind == Timer.PROBE_HELP:
            self._prober.help(now, argument)
        elif kind == Timer.PROBE_END:
            failed = self._prober.end(argument)
            if failed is not None:
                peer = self._table.at(failed)
                self._verdicts.accuse(now, peer, [self._own.id])
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
            self._verdicts.suspicion_due(now, argument)
        elif kind == Timer.SYNC:
            self._pushpull.due(now, argument)
        elif kind == Timer.DEAD_CONTACT:
            self._pushpull.contact_dead(now)
        elif kind == Timer.HELLO:
            self._contacts.tick(now, argument)
        elif kind == Timer.WANT:
            self._wants.tick(now)
        else:
            assert kind == Timer.INFO, kind
            self._own.tell_info(now)

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
            self._pushpull.compare(peer, body)
        elif kind == wire.ROWS:
            self._pushpull.rows(now, peer, *body)
        elif kind == wire.WANT:
            answer(self._outbox, self._table, self._own.peer, peer, body[0])
        if not peer.live and kind in (wire.PING, wire.SYNC, wire.GOSSIP):
            # It does not know that it is held dead, and refutes that when it hears.
            self._outbox.send(peer, wire.GOSSIP, None, [self._verdicts.statement(peer)], rumours=False)

    def _hello(self, now: float, source: Address, wanted: bool, updates: list[Any]) -> None:
        if len(updates) != 1 or wire.check_update(updates[0]) != wire.ALIVE or updates[0][8] is None:
            raise wire.WireError("hello")
        wire.read_info(updates[0][7])
        id, certificate = updates[0][1], updates[0][8]
        if id == self._own.id:
            self._contacts.forget(source)
            return
        if not self._verdicts.valid(id, certificate):
            return
        peer = self._table.get(id)
        if peer is None or not peer.live or peer.certificate != certificate:
            self._outbox.leave(Introduced(id, certificate, source))
            if len(self._introduced) >= _INTRODUCED_MAX:
                del self._introduced[next(iter(self._introduced))]
            self._introduced[id] = updates[0]
        if wanted:
            self._contacts.hello(source, wanted=False)
        elif not self._own.leaving:
            stranger = Peer(id)
            stranger.route = source
            self._pushpull.sync(peer if peer is not None and peer.route == source else stranger)

    def _admit(self, now: float, id: bytes) -> Peer | None:
        """Whoever introduced itself has now proved that it holds its key: what it said of itself counts."""
        update = self._introduced.pop(id, None)
        if update is not None:
            self._verdicts.alive(now, update, id)
        return self._table.get(id)
