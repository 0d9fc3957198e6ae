"""The own node's record: what it says of itself, and the incarnation that is on disk before it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarm.protocol import membership_wire as wire
from swarm.protocol.effects import Address, PersistIncarnation
from swarm.protocol.member import Peer, Table, mark_of
from swarm.protocol.membership_config import (
    ADDRESSES_MAX,
    CERTIFICATE_BYTES_MAX,
    INCARNATION_MAX,
    INFO_BYTES_MAX,
    MembershipConfig,
)
from swarm.protocol.outbox import Outbox
from swarm.protocol.timers import Timer, Timers


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

    def peer(self) -> Peer:
        """The record of this start."""
        peer = Peer(self.id)
        peer.name = self.name
        peer.boot = self.boot
        peer.incarnation = self.incarnation + 1
        set_certificate(peer, self.certificate)
        set_addresses(peer, self.addresses)
        set_info(peer, self.info or {})
        return peer


def set_certificate(peer: Peer, certificate: bytes) -> None:
    """The own certificate, which fits its bound."""
    assert len(certificate) <= CERTIFICATE_BYTES_MAX, len(certificate)
    peer.certificate = certificate


def set_addresses(peer: Peer, addresses: Sequence[Address]) -> None:
    """The own addresses. ValueError if one is not an IP address and a port."""
    assert len(addresses) <= ADDRESSES_MAX, addresses
    for address in addresses:
        wire.write_address(address)
    peer.addresses = tuple(addresses)
    if addresses:
        peer.route = addresses[0]


def set_info(peer: Peer, info: Mapping[str, object]) -> None:
    """The own info. ValueError if it takes over `INFO_BYTES_MAX` packed."""
    packed = wire.write_info(dict(info))
    if len(packed) > INFO_BYTES_MAX:
        raise ValueError(f"info takes {len(packed)} bytes, at most {INFO_BYTES_MAX} fit")
    peer.info_packed = packed
    peer.info = dict(info)


class OwnRecord:
    """Renews the own record and tells it."""

    __slots__ = ("_config", "_info_at", "_info_pending", "_outbox", "_reserved", "_table", "_timers", "leaving", "peer")

    def __init__(self, peer: Peer, config: MembershipConfig, table: Table, outbox: Outbox, timers: Timers) -> None:
        self.peer = peer
        self.leaving = False
        """Said goodbye: nothing is refuted any more."""
        self._config = config
        self._table = table
        self._outbox = outbox
        self._timers = timers
        self._reserved = 0
        self._info_at = float("-inf")
        self._info_pending = False

    @property
    def id(self) -> bytes:
        """The own id."""
        return self.peer.id

    @property
    def mark(self) -> int:
        """What the own record contributes to a digest."""
        return mark_of(self.peer.id, self.peer.incarnation)

    def update(
        self,
        now: float,
        info: Mapping[str, object] | None,
        addresses: Sequence[Address] | None,
        certificate: bytes | None,
    ) -> None:
        """Takes over what is new and tells it."""
        peer = self.peer
        if info is not None and dict(info) != peer.info:
            set_info(peer, info)
            peer.version += 1
            if not self._info_pending:
                self._info_pending = True
                count = len(self._table.live) + 1
                pause_s = max(self._config.info_interval_s, self._config.info_interval_per_member_s * count)
                self._timers.at(max(now, self._info_at + pause_s), Timer.INFO)
        if addresses is not None and tuple(addresses) != peer.addresses:
            set_addresses(peer, addresses)
            self.renew(now, peer.incarnation + 1)
        if certificate is not None and certificate != peer.certificate:
            set_certificate(peer, certificate)
            self.renew(now, peer.incarnation + 1, whole=True)

    def tell_info(self, now: float) -> None:
        """Gossips the info of now."""
        self._info_pending = False
        self._info_at = now
        if not self.leaving:
            self._outbox.spread(now, self.peer.id, self._outbox.own_news(), routine=True)

    def reserve(self) -> None:
        """Has a block of incarnations written to disk when the last one is used up."""
        if self.peer.incarnation >= self._reserved:
            self._reserved = self.peer.incarnation + self._config.incarnation_block
            self._outbox.leave(PersistIncarnation(self._reserved))

    def renew(self, now: float, incarnation: int, whole: bool = False) -> None:
        """A new incarnation, told to all; with the certificate if that is new."""
        if incarnation >= INCARNATION_MAX:
            self._outbox.fact("membership.rejected", {"reason": "incarnation"})
            return
        self.peer.incarnation = incarnation
        self.reserve()
        if not self.leaving:
            packed = wire.record(self.peer, whole=True) if whole else self._outbox.own_news()
            self._outbox.spread(now, self.peer.id, packed)
