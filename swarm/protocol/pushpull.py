"""Push-pull: two members compare their tables, a digest first, then rows of it, and fetch the records that differ.

It repairs what gossip missed, fills the table of a new member, and merges a fleet that was cut in two.
"""

from __future__ import annotations

from typing import Any

from swarm.protocol import membership_wire as wire
from swarm.protocol.member import Peer, Rng, State, Table, pick
from swarm.protocol.membership_config import PAYLOAD_BYTES_MAX, ROWS_MAX, MembershipConfig
from swarm.protocol.notices import Notices
from swarm.protocol.outbox import Outbox
from swarm.protocol.own_record import OwnRecord
from swarm.protocol.probing import Prober
from swarm.protocol.timers import Timer, Timers
from swarm.protocol.verdicts import Verdicts
from swarm.protocol.wants import Wants

_RECORDS_ROOM_BYTES = PAYLOAD_BYTES_MAX - 16
Row = list[object]


def rows_of(table: Table, own: Peer) -> list[tuple[bytes, bytes, list[Row]]]:
    """The pages (low, high, rows) of a table, dead members included; together they cover every id."""
    rows: list[Row] = []
    for peer in table:
        rows.append(row_of(peer))
    rows.append(row_of(own))
    rows.sort(key=lambda row: bytes(row[0]))  # type: ignore[call-overload]
    pages: list[tuple[bytes, bytes, list[Row]]] = []
    low = b""
    for start in range(0, len(rows), ROWS_MAX):
        page = rows[start : start + ROWS_MAX]
        following = rows[start + ROWS_MAX : start + ROWS_MAX + 1]
        high = bytes(following[0][0]) if following else b"\xff" * 17  # type: ignore[call-overload]
        pages.append((low, high, page))
        low = high
    return pages


def row_of(peer: Peer) -> Row:
    """A member as a row: id, incarnation, version, state."""
    return [peer.id, peer.incarnation, max(peer.version, 0), int(peer.state)]


def newer(peer: Peer, incarnation: int, version: int, state: int) -> bool:
    """Whether what is known here of a member is newer than a row about it."""
    if peer.incarnation != incarnation:
        return peer.incarnation > incarnation
    if peer.live != (state < State.DEAD):
        return not peer.live
    return peer.live and peer.version > version


def answer(outbox: Outbox, table: Table, own: Peer, asker: Peer, ids: list[bytes]) -> None:
    """Sends the records that a member wants, as many a datagram as fit."""
    updates: list[bytes] = []
    room = _RECORDS_ROOM_BYTES
    for id in ids:
        peer = own if id == own.id else table.get(id)
        if peer is None or not peer.live or peer.version < 0:
            continue
        packed = wire.record(peer, whole=True)
        if len(packed) > room:
            outbox.send(asker, wire.GOSSIP, None, updates, rumours=False)
            updates = []
            room = _RECORDS_ROOM_BYTES
        updates.append(packed)
        room -= len(packed)
    if updates:
        outbox.send(asker, wire.GOSSIP, None, updates, rumours=False)


def send_pages(outbox: Outbox, table: Table, own: Peer, peer: Peer) -> None:
    """Sends the whole table as rows."""
    for low, high, rows in rows_of(table, own):
        outbox.send(peer, wire.ROWS, [low, high, rows], rumours=False)


def send_offers(outbox: Outbox, peer: Peer, rows: list[Row]) -> None:
    """Sends rows that are newer here than there."""
    for start in range(0, len(rows), ROWS_MAX):
        outbox.send(peer, wire.ROWS, [b"", b"", rows[start : start + ROWS_MAX]], rumours=False)


class PushPull:
    """When to compare tables with whom, and what to do with what comes of it."""

    __slots__ = (
        "_at",
        "_config",
        "_notices",
        "_outbox",
        "_own",
        "_pause_s",
        "_prober",
        "_rng",
        "_table",
        "_timers",
        "_verdicts",
        "_wants",
    )

    def __init__(
        self,
        own: OwnRecord,
        config: MembershipConfig,
        rng: Rng,
        table: Table,
        outbox: Outbox,
        timers: Timers,
        prober: Prober,
        wants: Wants,
        notices: Notices,
        verdicts: Verdicts,
    ) -> None:
        self._own = own
        self._config = config
        self._rng = rng
        self._table = table
        self._outbox = outbox
        self._timers = timers
        self._prober = prober
        self._wants = wants
        self._notices = notices
        self._verdicts = verdicts
        self._at = float("inf")
        self._pause_s = config.sync_interval_s

    @property
    def digest(self) -> int:
        """64 bits over who lives in which incarnation, the own node included."""
        return self._table.digest ^ self._own.mark

    @property
    def _count(self) -> int:
        return len(self._table.live) + 1

    def plan(self, instant: float) -> None:
        """The next push-pull with a random member is at this instant."""
        self._at = instant
        self._timers.at(instant, Timer.SYNC, instant)

    def soon(self, now: float) -> None:
        """The table changed: compare it when gossip should have told all, then ever more rarely."""
        self._pause_s = 2 * self._config.spread_s(self._count)
        if self._at > now + 1.5 * self._pause_s:
            self.plan(now + self._pause_s * (0.5 + self._rng.random()))

    def due(self, now: float, instant: float) -> None:
        """Compares with a random member, if this is the instant that was planned last."""
        if instant != self._at:
            return
        scale = self._config.period(self._count) / self._config.period_s
        self._pause_s = min(2 * self._pause_s, scale * self._config.sync_interval_s)
        self.plan(now + self._pause_s * (0.75 + 0.5 * self._rng.random()))
        if self._table.live:
            self.sync(self._table.at(pick(self._rng, self._table.live)))

    def sync(self, peer: Peer) -> None:
        """Tells a member the digest of the own table, and who the own node is; a dead one, that it is held dead."""
        if self._own.leaving:
            return
        own = self._own.peer
        first = [wire.record(own, whole=True)]
        if not peer.live:
            first = [self._verdicts.statement(peer), *first]
        peer.told = (own.incarnation, own.version)
        self._outbox.send(peer, wire.SYNC, [self.digest, self._notices.digest], first)

    def compare(self, peer: Peer, body: list[int]) -> None:
        """A member told its digests: sends it the table if that differs, and the notices if they do."""
        if body[0] != self.digest:
            send_pages(self._outbox, self._table, self._own.peer, peer)
        if body[1] != self._notices.digest:
            self._notices.send(peer)

    def rows(self, now: float, sender: Peer, low: bytes, high: bytes, rows: list[Any]) -> None:
        """A page of a member's table: wants what is newer there, offers what is newer here or lacking there."""
        offers: list[Row] = []
        named = set()
        for id, incarnation, version, state in rows:
            named.add(id)
            if id == self._own.id:
                if state != State.ALIVE:
                    self._verdicts.refute(now, incarnation, "rows")
                elif incarnation > self._own.peer.incarnation:
                    self._verdicts.refute(now, incarnation, "boot")
                elif newer(self._own.peer, incarnation, version, state):
                    offers.append(row_of(self._own.peer))
                continue
            peer = self._table.get(id)
            if peer is None:
                if state < State.DEAD:
                    self._wants.add(id, sender.id)
            elif newer(peer, incarnation, version, state):
                offers.append(row_of(peer))
            elif state < State.DEAD:
                if (incarnation, version) > (peer.incarnation, peer.version):
                    self._wants.add(id, sender.id)
            elif peer.live:
                if incarnation > peer.incarnation:
                    self._verdicts.outdated(peer, incarnation, sender.id)
                if state == State.LEFT:
                    self._verdicts.bury(now, peer, State.LEFT)
                else:
                    self._verdicts.accuse(now, peer, [sender.id])
                    self._prober.probe(now, peer)
        if high:
            for id in self._table.live:
                if low <= id < high and id not in named:
                    offers.append(row_of(self._table.at(id)))
            if low <= self._own.id < high and self._own.id not in named:
                offers.append(row_of(self._own.peer))
        if offers:
            send_offers(self._outbox, sender, offers)

    def contact_dead(self, now: float) -> None:
        """Now and then tries to reach a dead member, each about as often fleet-wide whatever the fleet's size."""
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
        self.sync(peer)
