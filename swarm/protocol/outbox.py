"""What a membership machine says: effects to be taken, datagrams with rumours in the room that they leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swarm.protocol import membership_wire as wire
from swarm.protocol.effects import EMPTY, NO_LABELS, Address, Fact, MembershipEffect, SendDatagram
from swarm.protocol.gossip import Rumours
from swarm.protocol.member import Peer, Rng, Table
from swarm.protocol.membership_config import PAYLOAD_BYTES_MAX, UPDATES_MAX, MembershipConfig
from swarm.protocol.timers import Timer, Timers

_HEAD_OF_UPDATES_BYTES = 3
_ROUTINE_INTERVALS = 4
"""Gossip intervals between rounds when there are routine rumours only: more of them share a datagram."""
_NEVER = float("inf")


class Outbox:
    """Collects effects; sends to members with piggybacked rumours (SWIM, section 4.1)."""

    __slots__ = (
        "_config",
        "_effects",
        "_own",
        "_rng",
        "_round_at",
        "_rumours",
        "_slim",
        "_slim_of",
        "_table",
        "_timers",
    )

    def __init__(self, own: Peer, config: MembershipConfig, rng: Rng, table: Table, timers: Timers) -> None:
        self._own = own
        self._config = config
        self._rng = rng
        self._table = table
        self._timers = timers
        self._rumours = Rumours()
        self._effects: list[MembershipEffect] = []
        self._round_at = _NEVER
        self._slim = b""
        self._slim_of = (-1, -1)

    def take(self) -> list[MembershipEffect]:
        """The effects since the last call."""
        effects = self._effects
        self._effects = []
        return effects

    def leave(self, effect: MembershipEffect) -> None:
        """Leaves an effect."""
        self._effects.append(effect)

    def fact(
        self,
        name: str,
        labels: Mapping[str, str] = NO_LABELS,
        fields: Mapping[str, object] = EMPTY,
        value: float = 1.0,
    ) -> None:
        """Leaves a fact."""
        self._effects.append(Fact(name, labels, fields, value))

    def own_news(self) -> bytes:
        """The own record without the certificate, packed."""
        stamp = (self._own.incarnation, self._own.version)
        if self._slim_of != stamp:
            self._slim = wire.record(self._own, whole=False)
            self._slim_of = stamp
        return self._slim

    def send(
        self,
        peer: Peer,
        kind: int,
        body: object,
        first: Sequence[bytes] = (),
        address: Address | None = None,
        rumours: bool = True,
    ) -> None:
        """One datagram to a member: the updates that must be in it, own news that it was not told, then rumours."""
        own = self._own
        head = wire.head(kind, body)
        updates = list(first)
        room = PAYLOAD_BYTES_MAX - len(head) - _HEAD_OF_UPDATES_BYTES
        for update in updates:
            room -= len(update)
        assert room >= 0, (kind, room)
        if rumours:
            stamp = (own.incarnation, own.version)
            if peer.told != stamp:
                news = self.own_news()
                if len(news) <= room:
                    room -= len(news)
                    updates.append(news)
                    peer.told = stamp
            if self._rumours:
                updates += self._rumours.take(room, UPDATES_MAX - len(updates), 1, self._retransmits)
        self._effects.append(SendDatagram(address or peer.route, peer.id, wire.finish(head, updates)))

    def send_openly(self, address: Address, kind: int, body: object, updates: list[bytes]) -> None:
        """One datagram to somebody whose key is not known, under the fleet's secret alone."""
        self._effects.append(SendDatagram(address, None, wire.finish(wire.head(kind, body), updates)))

    def spread(self, now: float, subject: bytes, packed: bytes, routine: bool = False) -> None:
        """Starts a rumour about a subject in place of the older one."""
        self._rumours.add(subject, packed, routine)
        interval_s = self._config.gossip_interval_s * (_ROUTINE_INTERVALS if routine else 1)
        if self._round_at > now + interval_s:
            self._plan_round(now + interval_s * self._rng.random())

    def hush(self, subject: bytes) -> None:
        """Ends the rumour about a subject."""
        self._rumours.drop(subject)

    def gossip(self, now: float, instant: float) -> None:
        """One round of push gossip to a few random members, if it is the one that was planned last."""
        if instant != self._round_at:
            return
        self._round_at = _NEVER
        targets = sample(self._rng, self._table.live, self._config.gossip_fanout)
        if targets:
            head = wire.head(wire.GOSSIP, None)
            room = PAYLOAD_BYTES_MAX - len(head) - _HEAD_OF_UPDATES_BYTES
            updates = self._rumours.take(room, UPDATES_MAX, len(targets), self._retransmits)
            payload = wire.finish(head, updates)
            for id in targets:
                self._effects.append(SendDatagram(self._table.at(id).route, id, payload))
            if self._rumours:
                intervals = 1 if self._rumours.urgent else _ROUTINE_INTERVALS
                self._plan_round(now + intervals * self._config.gossip_interval_s)

    def _plan_round(self, instant: float) -> None:
        self._round_at = instant
        self._timers.at(instant, Timer.GOSSIP, instant)

    @property
    def _retransmits(self) -> int:
        return self._config.retransmits(len(self._table.live) + 1)


def sample(rng: Rng, ids: Sequence[bytes], count: int, without: bytes = b"") -> list[bytes]:
    """Up to `count` different ids, each set as likely, never `without`."""
    if len(ids) <= count + 1:
        chosen = [id for id in ids if id != without]
        for last in range(len(chosen) - 1, 0, -1):
            other = int(rng.random() * (last + 1))
            chosen[last], chosen[other] = chosen[other], chosen[last]
        return chosen[:count]
    chosen = []
    while len(chosen) < count:
        id = ids[int(rng.random() * len(ids))]
        if id != without and id not in chosen:
            chosen.append(id)
    return chosen
