"""Push-pull: two members compare their tables, a digest first, then rows of it, and fetch the records that differ.

It repairs what gossip missed, fills the table of a new member, and merges a fleet that was cut in two.
"""

from __future__ import annotations

from swarm.protocol import membership_wire as wire
from swarm.protocol.member import Peer, Rng, State, Table
from swarm.protocol.membership_config import PAYLOAD_BYTES_MAX, ROWS_MAX, WANTS_MAX, MembershipConfig
from swarm.protocol.outbox import Outbox, sample
from swarm.protocol.timers import Timer, Timers

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


class Wants:
    """Records that others have and this node lacks: a few are asked for at a time, others of others when they fail."""

    __slots__ = ("_asked", "_config", "_outbox", "_rng", "_table", "_ticking", "_timers", "_wanted")

    def __init__(self, config: MembershipConfig, rng: Rng, table: Table, outbox: Outbox, timers: Timers) -> None:
        self._config = config
        self._rng = rng
        self._table = table
        self._outbox = outbox
        self._timers = timers
        self._wanted: dict[bytes, tuple[bytes, int]] = {}
        """Id to (who has it, how often it was asked for)."""
        self._asked: dict[bytes, float] = {}
        self._ticking = False

    def __len__(self) -> int:
        return len(self._wanted)

    def add(self, id: bytes, source: bytes) -> None:
        """Wants the record of `id`, which `source` has."""
        if id not in self._wanted and len(self._wanted) < self._config.members_max:
            self._wanted[id] = (source, 0)

    def got(self, id: bytes) -> None:
        """The record of `id` came, one way or another."""
        if self._wanted:
            self._wanted.pop(id, None)
            self._asked.pop(id, None)

    def ask(self, now: float) -> None:
        """Asks for as many as the window allows."""
        if not self._wanted or len(self._asked) >= self._config.want_window:
            return
        by_source: dict[bytes, list[bytes]] = {}
        for id in sorted(self._wanted):
            if len(self._asked) >= self._config.want_window:
                break
            if id in self._asked:
                continue
            source, tries = self._wanted[id]
            if tries >= self._config.want_tries:
                del self._wanted[id]
                continue
            if tries % 2 and self._table.live:
                source = sample(self._rng, self._table.live, 1)[0]
            self._wanted[id] = (source, tries + 1)
            if self._table.get(source) is not None:
                self._asked[id] = now
                by_source.setdefault(source, []).append(id)
        for source in sorted(by_source):
            ids = by_source[source]
            for start in range(0, len(ids), WANTS_MAX):
                self._outbox.send(self._table.at(source), wire.WANT, [ids[start : start + WANTS_MAX]])
        if self._wanted and not self._ticking:
            self._ticking = True
            self._timers.at(now + self._config.want_retry_s, Timer.WANT)

    def tick(self, now: float) -> None:
        """Asks again for what did not come in time."""
        self._ticking = False
        overdue = now - self._config.want_retry_s * 0.999
        for id in [id for id, asked in self._asked.items() if asked <= overdue]:
            del self._asked[id]
        self.ask(now)


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
