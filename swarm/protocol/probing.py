"""Probes: direct, then through others (SWIM, section 3.1), in a round-robin order that bounds the gap (section 4.3),
with nacks and a stretched pace while the own health is poor (Lifeguard, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.protocol import membership_wire as wire
from swarm.protocol.member import Peer, Rng, Table, shuffle
from swarm.protocol.membership_config import MembershipConfig
from swarm.protocol.outbox import Outbox, sample
from swarm.protocol.suspicion import LocalHealth, Suspicion
from swarm.protocol.timers import Timer, Timers

_RELAYS_MAX = 512


class Probe:
    """One question to one member that is waiting for its answer."""

    __slots__ = ("began", "helpers", "nacks", "target")

    def __init__(self, target: bytes, began: float) -> None:
        self.target = target
        self.began = began
        self.helpers: list[bytes] = []
        self.nacks = 0


class Prober:
    """Who is asked when, and what the answers mean."""

    __slots__ = (
        "_config",
        "_health",
        "_index",
        "_number",
        "_order",
        "_outbox",
        "_probes",
        "_probing",
        "_relays",
        "_rng",
        "_suspicions",
        "_table",
        "_timers",
    )

    def __init__(
        self,
        config: MembershipConfig,
        rng: Rng,
        table: Table,
        outbox: Outbox,
        timers: Timers,
        health: LocalHealth,
        suspicions: Mapping[bytes, Suspicion],
    ) -> None:
        self._config = config
        self._rng = rng
        self._table = table
        self._outbox = outbox
        self._timers = timers
        self._health = health
        self._suspicions = suspicions
        self._order: list[bytes] = []
        self._index = 0
        self._number = int(rng.random() * 2**31)
        self._probes: dict[int, Probe] = {}
        self._probing: dict[bytes, int] = {}
        self._relays: dict[int, tuple[bytes, int, bytes]] = {}

    def add(self, id: bytes) -> None:
        """A new member takes its turn at a random place of what remains of this round (SWIM, section 4.3)."""
        place = self._index + int(self._rng.random() * (len(self._order) - self._index + 1))
        self._order.insert(place, id)

    def tick(self, now: float) -> None:
        """Probes the next member in turn, and sets the timer of the next period."""
        period = self._period
        self._timers.at(now + period, Timer.PROBE)
        order = self._order
        for _ in range(2 * len(order) + 1):
            if self._index >= len(order):
                self._next_round()
                order = self._order
                if not order:
                    return
            id = order[self._index]
            self._index += 1
            peer = self._table.get(id)
            if peer is not None and peer.live and id not in self._probing:
                self.probe(now, peer)
                return

    def probe(self, now: float, peer: Peer) -> None:
        """Asks one member now, unless a question to it is already out."""
        if peer.id in self._probing:
            return
        number = self._next_number()
        self._probes[number] = Probe(peer.id, now)
        self._probing[peer.id] = number
        period = self._period
        self._timers.at(now + period * self._config.probe_timeout_fraction, Timer.PROBE_HELP, number)
        self._timers.at(now + period, Timer.PROBE_END, number)
        self._ping(peer, number)

    def insist(self, now: float, peer: Peer) -> None:
        """Asks one member now, although a question to it may be out already, and has others ask."""
        self.probe(now, peer)
        self.help(now, self._probing[peer.id])

    def help(self, now: float, number: int) -> None:
        """No answer in time: ask some others to ask, and ask again on another address of the target if it has one."""
        probe = self._probes.get(number)
        if probe is None:
            return
        peer = self._table.get(probe.target)
        if peer is None:
            return
        probe.helpers = sample(self._rng, self._table.live, self._config.indirect_probes, without=peer.id)
        for id in probe.helpers:
            self._outbox.send(self._table.at(id), wire.PING_REQ, [number, peer.id])
        others = [address for address in peer.addresses if address != peer.route]
        address = others[int(self._rng.random() * len(others))] if others else peer.route
        self._outbox.send(peer, wire.PING, [number, peer.id], self._accusation(peer), address)

    def end(self, number: int) -> bytes | None:
        """The time of a probe is over: the target if it did not answer. Missing nacks tell of trouble nearer by."""
        probe = self._probes.pop(number, None)
        if probe is None:
            return None
        self._probing.pop(probe.target, None)
        peer = self._table.get(probe.target)
        if peer is None or not peer.live:
            return None
        missing = len(probe.helpers) - probe.nacks if probe.helpers else 1
        self._health.worse(missing)
        self._outbox.fact("membership.probe", {"result": "failed"}, {"member": probe.target, "nacks": probe.nacks})
        return probe.target

    def pinged(self, peer: Peer, number: int) -> None:
        """Answers a probe."""
        self._outbox.send(peer, wire.ACK, [number])

    def requested(self, now: float, asker: Peer, number: int, target: bytes) -> None:
        """Probes a member for somebody else; says so when it does not answer either."""
        peer = self._table.get(target)
        if peer is None or len(self._relays) >= _RELAYS_MAX:
            self._outbox.send(asker, wire.NACK, [number])
            return
        relay = self._next_number()
        self._relays[relay] = (asker.id, number, target)
        period = self._config.period(len(self._table.live) + 1)
        self._timers.at(now + period * self._config.nack_fraction, Timer.RELAY_NACK, relay)
        self._timers.at(now + 2 * period, Timer.RELAY_END, relay)
        self._ping(peer, relay)

    def relay_nack(self, relay: int) -> None:
        """The target of a probe for somebody else has not answered yet."""
        entry = self._relays.get(relay)
        if entry is not None:
            asker = self._table.get(entry[0])
            if asker is not None:
                self._outbox.send(asker, wire.NACK, [entry[1]])

    def relay_end(self, relay: int) -> None:
        """An answer to a probe for somebody else would be too late from now on."""
        self._relays.pop(relay, None)

    def acked(self, now: float, sender: Peer, number: int) -> bool:
        """An answer. True if it came straight from a probed member: its address works."""
        probe = self._probes.get(number)
        if probe is not None:
            direct = sender.id == probe.target
            if not direct and sender.id not in probe.helpers:
                return False
            del self._probes[number]
            self._probing.pop(probe.target, None)
            self._health.better()
            result = "direct" if direct else "indirect"
            self._outbox.fact("membership.probe", {"result": result}, value=now - probe.began)
            return direct
        relay = self._relays.get(number)
        if relay is None or sender.id != relay[2]:
            return False
        del self._relays[number]
        asker = self._table.get(relay[0])
        if asker is not None:
            self._outbox.send(asker, wire.ACK, [relay[1]])
        return True

    def nacked(self, sender: Peer, number: int) -> None:
        """A helper is well, and the target has not answered it."""
        probe = self._probes.get(number)
        if probe is not None and sender.id in probe.helpers:
            probe.nacks = min(probe.nacks + 1, len(probe.helpers))

    @property
    def _period(self) -> float:
        return self._config.period(len(self._table.live) + 1) * self._health.factor

    def _ping(self, peer: Peer, number: int) -> None:
        self._outbox.send(peer, wire.PING, [number, peer.id], self._accusation(peer))

    def _accusation(self, peer: Peer) -> list[bytes]:
        # The buddy system (Lifeguard, section 4.3): who is suspected hears so from whoever probes it.
        suspicion = self._suspicions.get(peer.id)
        if suspicion is None:
            return []
        return [wire.suspect(peer.id, suspicion.incarnation, suspicion.accusers)]

    def _next_number(self) -> int:
        self._number = (self._number + 1) % 2**32
        return self._number

    def _next_round(self) -> None:
        """A new order: each half is shuffled by itself, so that nobody waits for more than one and a half rounds."""
        order = [id for id in self._order if (peer := self._table.get(id)) is not None and peer.live]
        middle = len(order) // 2
        shuffle(self._rng, order, 0, middle)
        shuffle(self._rng, order, middle, len(order))
        self._order = order
        self._index = 0
