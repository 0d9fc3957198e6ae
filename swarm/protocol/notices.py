"""Notices: opaque blobs that vouch for themselves (a signed revocation) and reach every member, later ones included."""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from swarm.protocol import membership_wire as wire
from swarm.protocol.effects import Noticed
from swarm.protocol.member import Peer, Rng
from swarm.protocol.membership_config import NOTICE_BYTES_MAX, NOTICE_DATAGRAMS_MAX, PAYLOAD_BYTES_MAX, MembershipConfig
from swarm.protocol.outbox import Outbox

_ROOM_BYTES = PAYLOAD_BYTES_MAX - 16


class Notices:
    """A set that only grows, up to a bound. Gossip spreads a new one; push-pull brings what was missed."""

    __slots__ = ("_blobs", "_config", "_outbox", "_rng", "_welcome", "digest")

    def __init__(self, config: MembershipConfig, rng: Rng, outbox: Outbox, welcome: Callable[[bytes], bool]) -> None:
        self._config = config
        self._rng = rng
        self._outbox = outbox
        self._welcome = welcome
        """Whether a blob is genuine: others are not passed on."""
        self._blobs: dict[bytes, bytes] = {}
        self.digest = 0

    def add(self, now: float, blob: bytes) -> None:
        """Takes in a notice and passes it on, once."""
        assert 0 < len(blob) <= NOTICE_BYTES_MAX, len(blob)
        key = blake3(blob).digest(8)
        if key in self._blobs:
            return
        if len(self._blobs) >= self._config.notices_max or not self._welcome(blob):
            self._outbox.fact("membership.rejected", {"reason": "notice"})
            return
        self._blobs[key] = blob
        self.digest ^= int.from_bytes(key, "big")
        self._outbox.spread(now, b"notice" + key, wire.notice(blob))
        self._outbox.leave(Noticed(blob))

    def send(self, peer: Peer) -> None:
        """Sends a member that has not the same all of them, several a datagram; of many so much that it fits a socket's
        usual receive buffer, from a random one on: the next comparison brings others."""
        keys = sorted(self._blobs)
        start = int(self._rng.random() * len(keys))
        updates: list[bytes] = []
        room, sent = _ROOM_BYTES, 0
        for key in keys[start:] + keys[:start]:
            packed = wire.notice(self._blobs[key])
            if len(packed) > room:
                self._outbox.send(peer, wire.GOSSIP, None, updates, rumours=False)
                updates, room, sent = [], _ROOM_BYTES, sent + 1
                if sent == NOTICE_DATAGRAMS_MAX:
                    return
            updates.append(packed)
            room -= len(packed)
        if updates:
            self._outbox.send(peer, wire.GOSSIP, None, updates, rumours=False)
