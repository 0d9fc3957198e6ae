"""Encrypted datagrams between members: the membership protocol's own way, beside the links, so that bulk data never
delays it.

On the wire (UDP, at most `bounds.DATAGRAM_BYTES_MAX`), all integers big-endian:

    nonce (24) | secretbox under the fleet's secret of:
        sender id (16) | form (1) | boot (8) | counter (8) | [length (2) | certificate] | inner

The fleet's layer (XSalsa20-Poly1305, as NaCl's secretbox) keeps out everybody who was never of the fleet at the cost of
one authenticator. The inner layer proves the sender among members, the revoked included: a box between the two CURVE
keys where the peer's certificate is known (form bit 0), and else an Ed25519 signature and the payload, readable by the
fleet. Form bit 1 says that the sender's certificate is in the datagram; it is sent until the peer seals its own
datagrams for us, and so proves that it has it. The inner nonce and the signature cover nonce and head, so nobody with
the fleet's secret can put a new counter on an old payload. Each counter is taken once (`ReplayWindow`).
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3
from nacl.bindings import (
    crypto_box_afternm,
    crypto_box_beforenm,
    crypto_box_open_afternm,
    crypto_secretbox,
    crypto_secretbox_open,
)
from nacl.exceptions import CryptoError

from transport import bounds
from transport.certificates import Identity
from transport.hints import Address
from transport.identity import Credentials, Trust
from transport.replay import ReplayWindow
from transport.signed import SIGNATURE_BYTES, Untrusted

_NONCE_BYTES: Final = 24
_SEALED: Final = 1
_CERTIFIED: Final = 2
_PURPOSE: Final = b"datagram\0"
_HEAD: Final = struct.Struct(">16sBQQ")

assert _HEAD.size == bounds.DATAGRAM_HEAD_BYTES

REFUSALS: Final = (
    *Untrusted.REASONS,
    "oversize",  # longer than any datagram of ours
    "foreign",  # not under this fleet's secret: another fleet, or noise
    "unknown-sender",  # a member as it seems, whose certificate we have not seen
    "forged",  # the inner proof does not hold
    "replayed",
    "unsent",  # ours: the system did not take it
)
"""Why a datagram was refused; each is a value of a metric's label."""


@dataclass(slots=True)
class _Peer:
    identity: Identity
    certificate: bytes
    kept: bool = False
    shared: bytes | None = field(default=None, repr=False)
    window: ReplayWindow = field(default_factory=ReplayWindow)
    sealed_s: float = float("-inf")  # when it last sealed something for us


class Datagrams:
    """The datagram sockets of one process. For the thread of its loop only.

    ``on_datagram(source, sender, payload)`` is called for each that is proven; an exception from it goes to the loop's
    handler. ``refused(reason, facts)`` is called for each that is not, with a reason out of `REFUSALS`. ``boot`` should
    be greater at each start than at the one before, or peers take what is sent for replays until they have not heard of
    this member for `bounds.DATAGRAM_SILENCE_S`. The wall clock in microseconds is, unless it was set back.
    """

    def __init__(
        self,
        credentials: Credentials,
        trust: Trust,
        on_datagram: Callable[[Address, Identity, bytes], None],
        refused: Callable[[str, Mapping[str, object]], None],
        *,
        boot: int | None = None,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = credentials
        self._trust = trust
        self._on_datagram = on_datagram
        self._refused = refused
        self._wall_clock = wall_clock
        self._clock = clock
        self._boot = int(wall_clock() * 1e6) if boot is None else boot
        self._counter = 0
        self._peers: dict[bytes, _Peer] = {}
        self._sockets: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self, hosts: Iterable[str], port: int = 0) -> int:
        """Bind a socket to each host (an IP address;

        ``0.0.0.0`` and ``::`` are all of a family) on one port, and start to read.

        Returns the port. A port of 0 takes one that is free on every host. IPv6 is left out where the machine has none,
        as long as another host remains. Raises OSError (address in use, not this machine's) with nothing left open.
        """
        assert not self._sockets, "opened twice"
        hosts = list(hosts)
        for attempt in range(8):
            try:
                self._sockets = _bind_all(hosts, port)
                break
            except OSError as error:
                # a free port of one family may be taken in the other
                if port or error.errno != errno.EADDRINUSE or attempt == 7:
                    raise
        self._loop = asyncio.get_running_loop()
        for bound in self._sockets:
            self._loop.add_reader(bound, self._drain, bound)
        return int(self._sockets[0].getsockname()[1])

    async def rebind(self, hosts: Iterable[str], port: int) -> None:
        """Read on the same port of other hosts from now on; what is known of peers stays, and the counters go on.

        Raises OSError when that cannot be, with the sockets of before open again.
        """
        before = [bound.getsockname()[0] for bound in self._sockets]
        self.close()  # of one port, an address and all addresses can not both be bound
        try:
            await self.open(hosts, port)
        except OSError:
            await self.open(before, port)
            raise

    def close(self) -> None:
        """Stop reading and sending. Safe to call again."""
        for bound in self._sockets:
            assert self._loop is not None
            self._loop.remove_reader(bound)
            bound.close()
        self._sockets = []

    @property
    def boot(self) -> int:
        """By what receivers tell what is sent now from replays of what was sent before."""
        return self._boot

    def renew(self, boot: int) -> None:
        """Go on as a later start, above what another process sent in this one's name."""
        assert boot > self._boot
        self._boot, self._counter = boot, 0

    @property
    def peers(self) -> int:
        """Whose keys are held."""
        return len(self._peers)

    def learn(self, id: bytes, certificate: bytes) -> Identity | None:
        """Keep this peer's keys until `forget`, so that what is sent to it is sealed for it alone.

        None (and refused) if it is untrusted.
        """
        peer = self._meet(certificate, {"id": id}, id)
        if peer is None:
            return None
        peer.kept = True
        return peer.identity

    def forget(self, id: bytes) -> None:
        """The peer's keys need not be kept any more."""
        if (peer := self._peers.get(id)) is not None:
            peer.kept = False

    def send(self, address: Address, to: bytes | None, payload: bytes) -> bool:
        """Send a payload (at most `bounds.DATAGRAM_PAYLOAD_BYTES_MAX` bytes) to an address; whether the system took it.

        ``to`` is the id it is for, or None at a first contact. Where that peer's certificate is not known, the payload
        is signed, and readable by the fleet. Nothing says whether it arrived.
        """
        assert len(payload) <= bounds.DATAGRAM_PAYLOAD_BYTES_MAX, len(payload)
        peer = None if to is None else self._peers.get(to)
        form = 0 if peer is None else _SEALED
        if peer is None or self._clock() - peer.sealed_s > bounds.DATAGRAM_INTRODUCE_S:
            certificate = self._credentials.certificate
            spare = bounds.DATAGRAM_PAYLOAD_BYTES_MAX - len(payload)
            if len(certificate) + 2 <= spare:
                form |= _CERTIFIED
            else:  # both do not fit into one: the certificate goes ahead, with nothing in it
                self._transmit(address, self._packed(form | _CERTIFIED, peer, b""))
        return self._transmit(address, self._packed(form, peer, payload))

    def _packed(self, form: int, peer: _Peer | None, payload: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        self._counter += 1
        head = _HEAD.pack(self._credentials.id, form, self._boot, self._counter)
        if form & _CERTIFIED:
            certificate = self._credentials.certificate
            head = b"%b%b%b" % (head, len(certificate).to_bytes(2, "big"), certificate)
        if peer is not None:
            inner = crypto_box_afternm(payload, _inner_nonce(nonce, head), self._shared(peer))
        else:
            inner = self._credentials.sign(_PURPOSE + nonce + head + payload) + payload
        return nonce + crypto_secretbox(head + inner, nonce, self._trust.secret)

    def _transmit(self, address: Address, packet: bytes) -> bool:
        try:
            bound, target = self._route(address)
            bound.sendto(packet, target)
        except (OSError, ValueError, OverflowError) as error:
            # no route, an interface gone, a full buffer, an address that cannot be: all are a lost datagram to the
            # layer above
            self._refused("unsent", {"address": address, "error": str(error)})
            return False
        return True

    def _route(self, address: Address) -> tuple[socket.socket, tuple[str, int] | tuple[str, int, int, int]]:
        host, port = address
        target: tuple[str, int] | tuple[str, int, int, int]
        if ":" in host:
            family = socket.AF_INET6
            bare, _, scope = host.partition("%")
            target = (bare, port, 0, _scope_id(scope) if scope else 0)
        else:
            family, bare, target = socket.AF_INET, host, (host, port)
        sockets = [bound for bound in self._sockets if bound.family == family]
        if not sockets:
            raise OSError(errno.EAFNOSUPPORT, "no socket of that family is open")
        if len(sockets) > 1:
            local = ipaddress.ip_address(bare).is_loopback
            fitting = [bound for bound in sockets if ipaddress.ip_address(bound.getsockname()[0]).is_loopback == local]
            sockets = fitting or sockets
        return sockets[0], target

    def _drain(self, bound: socket.socket) -> None:
        # readers are level-triggered: what is left is read at the next turn
        for _ in range(bounds.DATAGRAM_DRAIN_COUNT_MAX):
            try:
                packet, source = bound.recvfrom(bounds.DATAGRAM_BYTES_MAX + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # an error that the network reported for an earlier send
                self._refused("unsent", {"error": str(error)})
                continue
            self._receive(packet, _address(source))
            if bound.fileno() < 0:
                return  # closed from within

    def _receive(self, packet: bytes, source: Address) -> None:
        if len(packet) > bounds.DATAGRAM_BYTES_MAX:
            self._refused("oversize", {"source": source})
            return
        nonce = packet[:_NONCE_BYTES]
        try:
            plain = crypto_secretbox_open(packet[_NONCE_BYTES:], nonce, self._trust.secret)
        except (CryptoError, ValueError, TypeError):
            self._refused("foreign", {"source": source, "bytes": len(packet)})
            return
        if len(plain) < _HEAD.size:
            self._refused("malformed", {"source": source})
            return
        sender, form, boot, counter = _HEAD.unpack_from(plain)
        facts: dict[str, object] = {"source": source, "id": sender}
        if sender == self._credentials.id:
            return  # our own, by way of a seed or a broadcast: nothing is wrong
        if form > _SEALED | _CERTIFIED:
            self._refused("malformed", facts)
            return
        head_bytes, certificate = _HEAD.size, b""
        if form & _CERTIFIED:
            head_bytes += 2 + int.from_bytes(plain[_HEAD.size : _HEAD.size + 2], "big")
            certificate = plain[_HEAD.size + 2 : head_bytes]
        peer = self._proven(sender, form, certificate, nonce, plain, head_bytes, facts)
        if peer is None:
            return
        found, payload = peer
        now_s = self._clock()
        if not found.window.admit(boot, counter, now_s):
            self._refused("replayed", facts)
            return
        self._keep(found)  # not before: a replay must not bring back a certificate that was renewed
        if form & _SEALED:
            found.sealed_s = now_s
        elif form & _CERTIFIED:
            found.sealed_s = float("-inf")  # it does not know us: show it who we are, whatever it knew before
        if payload:
            self._on_datagram(source, found.identity, payload)

    def _proven(
        self,
        sender: bytes,
        form: int,
        certificate: bytes,
        nonce: bytes,
        plain: bytes,
        head_bytes: int,
        facts: dict[str, object],
    ) -> tuple[_Peer, bytes] | None:
        peer = self._peers.get(sender)
        if form & _CERTIFIED and (peer is None or peer.certificate != certificate):
            peer = self._candidate(certificate, facts, sender)
        elif peer is None:
            self._refused("unknown-sender", facts)
        elif not self._still_trusted(peer, facts):
            peer = None
        if peer is None:
            return None
        head, inner = plain[:head_bytes], plain[head_bytes:]
        if form & _SEALED:
            try:
                payload = crypto_box_open_afternm(inner, _inner_nonce(nonce, head), self._shared(peer))
            except (CryptoError, ValueError, TypeError):
                self._refused("forged", facts)
                return None
        else:
            signature, payload = inner[:SIGNATURE_BYTES], inner[SIGNATURE_BYTES:]
            if not peer.identity.signed(_PURPOSE + nonce + head + payload, signature):
                self._refused("forged", facts)
                return None
        return peer, payload

    def _still_trusted(self, peer: _Peer, facts: Mapping[str, object]) -> bool:
        try:
            self._trust.check(peer.identity, self._wall_clock())
        except Untrusted as error:
            self._refused(error.reason, {**facts, "name": peer.identity.name})
            return False
        return True

    def _meet(self, certificate: bytes, facts: Mapping[str, object], id: bytes) -> _Peer | None:
        peer = self._candidate(certificate, facts, id)
        if peer is not None:
            self._keep(peer)
        return peer

    def _candidate(self, certificate: bytes, facts: Mapping[str, object], id: bytes) -> _Peer | None:
        """The peer that this certificate makes, with what is known of its id already; not yet in the table."""
        try:
            identity = self._trust.verify(certificate, self._wall_clock())
            if identity.id != id:
                raise Untrusted("key-mismatch", "the certificate shown is that of another")
        except Untrusted as error:
            self._refused(error.reason, facts)
            return None
        known = self._peers.get(id)
        if known is None:
            return _Peer(identity, certificate)
        if known.certificate == certificate:
            return known
        # a renewed certificate: the counters go on
        return _Peer(identity, certificate, known.kept, window=known.window, sealed_s=known.sealed_s)

    def _keep(self, peer: _Peer) -> None:
        """Into the table, as the one heard last; somebody silent makes room."""
        if self._peers.pop(peer.identity.id, None) is None and len(self._peers) >= bounds.DATAGRAM_PEERS_COUNT_MAX:
            victim = next((id for id, other in self._peers.items() if not other.kept), None)
            del self._peers[next(iter(self._peers)) if victim is None else victim]
        self._peers[peer.identity.id] = peer

    def _shared(self, peer: _Peer) -> bytes:
        if peer.shared is None:
            # 90 µs, so once a peer: X25519 and HSalsa20 of both keys
            try:
                peer.shared = crypto_box_beforenm(peer.identity.curve_key, self._credentials.curve_secret)
            except (CryptoError, RuntimeError):
                # a certified key of low order shares nothing with anybody; what comes under a random one is refused
                # as forged
                peer.shared = os.urandom(32)
        return peer.shared


def _inner_nonce(nonce: bytes, head: bytes) -> bytes:
    """Unique because ``nonce`` is, and different for any other head."""
    return blake3(nonce + head).digest(length=_NONCE_BYTES)


def _bind_all(hosts: list[str], port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    refusal = OSError(errno.EADDRNOTAVAIL, "no host to bind to")
    try:
        for host in hosts:
            try:
                sockets.append(_bind(host, port))
            except OSError as error:
                # a kernel without IPv6 says the one or the other
                if host not in ("::", "::1") or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                refusal = error
            else:
                port = int(sockets[0].getsockname()[1])
        if not sockets:
            raise refusal
    except OSError:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def _bind(host: str, port: int) -> socket.socket:
    bare, _, scope = host.partition("%")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((bare, port, 0, _scope_id(scope) if scope else 0))
        else:
            bound.bind((bare, port))
        bound.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            bound.setsockopt(socket.SOL_SOCKET, option, bounds.DATAGRAM_SOCKET_BYTES)
    except OSError:
        bound.close()
        raise
    return bound


def _scope_id(scope: str) -> int:
    return int(scope) if scope.isdigit() else socket.if_nametoindex(scope)


def _address(source: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    host = source[0]
    if len(source) == 4 and source[3]:
        host = f"{host.partition('%')[0]}%{source[3]}"
    return host, source[1]
