"""The reach between hosts: CURVE-encrypted ZeroMQ over TCP (RFC 26), plain pyzmq sockets drained from one reader
callback each.

A node has one ROUTER for all who connect to it (`transport.zmq_router`), and one DEALER for each peer it connects to.
A DEALER is one connection: it does not reconnect. When the connection ends, or ZeroMQ's heartbeats are not answered,
its link goes down, and its owner connects again when it wants to (`transport.links.reconnect_delays`). So a link
never silently becomes another one.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import zmq
from nacl.public import PrivateKey
from zmq.error import ZMQError

from transport import framing
from transport.channel import BOOT, Channel, Switch, arrived
from transport.handshake import Handshake
from transport.identity import Credentials, Trust
from transport.links import Buffer, HandshakeFailed, Link, LinkHandler, LinkSettings
from transport.zmq_router import Router
from transport.zmq_sockets import NOBLOCK, POLLOUT, Drained, configure, in_parts, receive_tail, send_parts

T = TypeVar("T")
_FAILURES = (
    zmq.EVENT_CLOSED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_CLOSE_POLL_S = 0.005


class ZmqLinks:
    """Links over TCP with CURVE. Endpoints are ZeroMQ's: ``tcp://127.0.0.1:*``, ``tcp://[fe80::1%eth0]:4040``."""

    def __init__(
        self,
        credentials: Credentials,
        trust: Trust,
        handler: LinkHandler,
        *,
        info: Mapping[str, object],
        settings: LinkSettings | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        boot: bytes = BOOT,
    ) -> None:
        self.switch = Switch(
            credentials, trust, handler, info=info, settings=settings, loop=loop, clock=clock, wall=wall, boot=boot
        )
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._router: Router | None = None
        self._dealers: set[_Dealer] = set()

    async def listen(self, endpoint: str) -> str:
        """Listen at an endpoint (call it again for more of them); returns it with the port that was chosen.

        Raises OSError, for a port in use or an address that this machine does not have.
        """
        if self._router is None:
            self._router = Router(self.switch, self._context)
        return self._router.bind(endpoint)

    async def connect(
        self, endpoint: str, *, server_key: bytes | None, expect: bytes | None = None, timeout_s: float | None = None
    ) -> Link:
        """Connect, and come back with a link that is up. ``server_key`` is the listener's CURVE key (32 bytes),
        ``expect`` its id.

        Raises HandshakeFailed, at the latest after ``timeout_s`` (`bounds.HANDSHAKE_TIMEOUT_S`).
        """
        if self.switch.closed:
            raise HandshakeFailed("closed", "these links are closed")
        if server_key is None:
            raise HandshakeFailed("no-key", f"the key of {endpoint} is not known", "ask it by datagram, or use a token")
        handshake = self.switch.handshake("initiator", authenticated_key=server_key, expect=expect)
        keys = (self.switch.credentials.identity.curve_key, self.switch.credentials.curve_secret)
        secret = keys[1]
        public = PrivateKey(secret).public_key.encode()
        dealer = _Dealer(self.switch.loop, self._context, self.switch.settings, endpoint, server_key, public, secret)
        wire = _DialledWire(self, dealer, handshake)
        self._dealers.add(dealer)
        try:
            dealer.open(wire.arrive, wire.ended, self.switch.flush, handshake.start())
            return await dealer.wait(wire.waiter, timeout_s)
        finally:
            if wire.channel is None:
                dealer.close()
                self._dealers.discard(dealer)

    async def join(self, endpoint: str, message: bytes, *, server_key: bytes, timeout_s: float | None = None) -> bytes:
        """Ask to join the fleet of whoever listens there; see `request_join`."""
        return await request_join(endpoint, message, server_key=server_key, timeout_s=timeout_s, context=self._context)

    def forget(self, dealer: _Dealer) -> None:
        """The dealer is closed."""
        self._dealers.discard(dealer)

    async def close(self) -> None:
        """Say goodbye and close everything. When it returns, every ``link_down`` was called and every descriptor is
        free."""
        self.switch.close("shutting down")
        for dealer in list(self._dealers):
            dealer.fail(HandshakeFailed("closed", "these links are closing"))
            dealer.close()
        self._dealers.clear()
        if self._router is not None:
            # Peers close when they hear the goodbye. If we went first, ZeroMQ at their end could drop it unread.
            deadline = time.monotonic() + self.switch.settings.linger_s
            while self._router.connections and time.monotonic() < deadline:
                await asyncio.sleep(_CLOSE_POLL_S)
            self._router.close()
            self._router = None
        if not self._context.closed:
            # Waits for what lingers, in a thread, so that the loop goes on.
            await self.switch.loop.run_in_executor(None, self._context.term)


async def request_join(
    endpoint: str,
    message: bytes,
    *,
    server_key: bytes,
    timeout_s: float | None = None,
    settings: LinkSettings | None = None,
    context: zmq.Context[zmq.Socket[bytes]] | None = None,
) -> bytes:
    """Send one request to join to a listener with this CURVE key (32 bytes), under a throw-away key; returns its reply.

    The message and the reply are opaque here, each bounded (`bounds.JOIN_BYTES_MAX`, `bounds.JOIN_REPLY_BYTES_MAX`).
    Raises HandshakeFailed: ``unreachable``, ``timeout``, ``disconnected`` (another key than this one, maybe),
    ``not-accepted``, …
    """
    loop = asyncio.get_running_loop()
    own = zmq.Context(io_threads=1) if context is None else context
    secret = os.urandom(32)
    public = PrivateKey(secret).public_key.encode()
    dealer = _Dealer(loop, own, settings or LinkSettings(), endpoint, server_key, public, secret)
    waiter: asyncio.Future[bytes] = loop.create_future()

    def arrive(frame: Buffer, tail: bytes | None) -> None:
        try:
            type, body = framing.read_unverified(frame, 0 if tail is None else len(tail))
            if type == framing.REFUSED:
                reason, hint = framing.read_reason(body)
                code = reason if reason in HandshakeFailed.REASONS else "malformed"
                raise HandshakeFailed(code, f"the request to join was refused: {reason}", hint, remote=True)
            if type != framing.JOINED:
                raise HandshakeFailed("malformed", f"a frame of type {type} in reply to a request to join")
        except framing.Malformed as error:
            dealer.fail(HandshakeFailed("malformed", str(error)))
        except HandshakeFailed as failure:
            dealer.fail(failure)
        else:
            if not waiter.done():
                waiter.set_result(body)

    try:
        dealer.open(arrive, lambda: None, lambda: None, [framing.control(framing.JOIN, message)])
        return await dealer.wait(waiter, timeout_s)
    finally:
        dealer.close()
        if context is None:
            await loop.run_in_executor(None, own.term)


def _exhausted(code: int | None) -> HandshakeFailed:
    return HandshakeFailed("busy", os.strerror(code or 0), "raise the limit of open files (ulimit -n, LimitNOFILE=)")


class _Dealer:
    """One DEALER and its one connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        settings: LinkSettings,
        endpoint: str,
        server_key: bytes,
        public: bytes,
        secret: bytes,
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._endpoint = endpoint
        self._waiter: asyncio.Future[object] | None = None
        self._failure: HandshakeFailed | None = None
        self._first: list[bytes] | None = None
        self._reader: Drained | None = None
        self._events: Drained | None = None
        self.closed = False
        try:
            self._socket = context.socket(zmq.DEALER)
        except ZMQError as error:
            raise _exhausted(error.errno) from None
        configure(self._socket, settings)
        self._socket.setsockopt(zmq.IPV6, 1 if "[" in endpoint else 0)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self._socket.setsockopt(zmq.CONNECT_TIMEOUT, int(settings.handshake_timeout_s * 1000))
        self._socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)
        self._socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, secret)

    def open(
        self,
        arrive: Callable[[Buffer, bytes | None], None],
        ended: Callable[[], None],
        flush: Callable[[], None],
        first: list[bytes],
    ) -> None:
        """Connect; when that is done, send the first frames. ``ended`` is called when the connection is gone after
        that."""
        self._arrive, self._ended, self._flush, self._first = arrive, ended, flush, first
        try:
            self._monitor = self._socket.get_monitor_socket(_FAILURES)
        except ZMQError as error:
            raise _exhausted(error.errno) from None
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._events = Drained(self._loop, self._monitor, self._take_event)
        self._reader = Drained(self._loop, self._socket, self._take_frame, self._flush, self._idle)
        try:
            self._socket.connect(self._endpoint)
        except ZMQError as error:
            self.fail(HandshakeFailed("unreachable", f"{self._endpoint}: {os.strerror(error.errno or 0)}"))

    async def wait(self, waiter: asyncio.Future[T], timeout_s: float | None) -> T:
        """The result of the waiter. Raises HandshakeFailed."""
        timeout_s = self._settings.handshake_timeout_s if timeout_s is None else timeout_s
        self._waiter = waiter  # type: ignore[assignment]  # only its exception is ever set here
        if self._failure is not None:
            raise self._failure
        try:
            return await arrived(waiter, timeout_s)
        except TimeoutError:
            raise HandshakeFailed(
                "timeout", f"{self._endpoint} did not answer within {timeout_s:g} s", "is a firewall in between?"
            ) from None

    def fail(self, failure: HandshakeFailed) -> None:
        """The connection did not come about."""
        self._failure = self._failure or failure
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._failure)

    def established(self) -> None:
        """The handshake is done; the monitor, and its two descriptors, are not needed any more."""
        if self._events is not None:
            self._events.stop()
            self._events = None
            self._socket.disable_monitor()
            self._monitor.close()

    def send(self, parts: list[Buffer]) -> None:
        """Raises zmq.Again when there is no connection (any more)."""
        assert self._reader is not None
        try:
            send_parts(self._socket, parts)
        finally:
            self._reader.poke()

    def look(self) -> None:
        """Find out in the next turn whether the connection is still there."""
        if self._reader is not None:
            self._reader.later()

    def close(self) -> None:
        """Close the socket; what was sent has `bounds.LINGER_S` to leave."""
        if self.closed:
            return
        self.closed = True
        self.established()
        if self._reader is not None:
            self._reader.stop()
        self._socket.close()

    def _take_event(self) -> None:
        frames = self._monitor.recv_multipart(NOBLOCK)
        event, value = struct.unpack("=Hi", frames[0])
        if event in (zmq.EVENT_CLOSED, zmq.EVENT_CONNECT_RETRIED):
            failure = HandshakeFailed("unreachable", f"nobody listens at {self._endpoint}", "is the node running?")
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            failure = HandshakeFailed(
                "busy", f"{self._endpoint} refused the connection ({value})", "try again later", remote=True
            )
        else:
            failure = HandshakeFailed(
                "disconnected", f"{self._endpoint} ended the connection", "has it the key that was expected there?"
            )
        # A frame that says why may just have come in: it is read first.
        self.look()
        self._loop.call_soon(lambda: self._loop.call_soon(self.fail, failure))

    def _take_frame(self) -> None:
        head = self._socket.recv(NOBLOCK, copy=False)
        tail: bytes | None = None
        if head.more:
            try:
                tail = receive_tail(self._socket, self._settings.message_bytes_max)
            except framing.Malformed:
                self._arrive(
                    b"", None
                )  # too short for a frame, so it is counted and dropped as one that breaks the rules
                return
        self._arrive(head.buffer, tail)

    def _idle(self, events: int) -> None:
        """Everything that came in was read."""
        if self._first is not None:
            if events & POLLOUT:
                first, self._first = self._first, None
                for frame in first:
                    self.send([frame])
            return
        # IMMEDIATE makes a DEALER writable only as long as it is connected, and the window keeps its queue from
        # filling.
        if not events & POLLOUT:
            self._ended()


class _DialledWire:
    """The handshake on a DEALER, and then the wire of its channel."""

    def __init__(self, links: ZmqLinks, dealer: _Dealer, handshake: Handshake) -> None:
        self.channel: Channel | None = None
        self.waiter: asyncio.Future[Channel] = links.switch.loop.create_future()
        self._links = links
        self._dealer = dealer
        self._handshake = handshake

    def transmit(self, parts: list[Buffer]) -> bool:
        """See `transport.channel.Wire`."""
        if self._dealer.closed:
            return False
        try:
            self._dealer.send(in_parts(parts))
        except ZMQError:
            self._dealer.look()
            return False
        return True

    def shut(self) -> None:
        """See `transport.channel.Wire`."""
        self._dealer.close()
        self._links.forget(self._dealer)

    def arrive(self, frame: Buffer, tail: bytes | None) -> None:
        """One frame from the listener."""
        if self.channel is not None:
            self.channel.receive(frame, tail)
            return
        switch = self._links.switch
        try:
            type, body = framing.read_unverified(frame, 0 if tail is None else len(tail))
            replies = self._handshake.receive(type, body, switch.wall())
        except framing.Malformed as error:
            self._fail(HandshakeFailed("malformed", str(error)))
            return
        except HandshakeFailed as failure:
            self._fail(failure)
            return
        assert not replies, "on CURVE the initiator proves nothing more"
        if self._handshake.peer is not None:
            self._dealer.established()
            self.channel = Channel(switch, self, self._handshake.peer, "lan", dialled=True)
            if not self.waiter.done():
                self.waiter.set_result(self.channel)

    def ended(self) -> None:
        """The connection is gone."""
        if self.channel is not None:
            self.channel.lost("disconnected")
        else:
            self._dealer.fail(HandshakeFailed("disconnected", "the connection ended before the handshake did"))

    def _fail(self, failure: HandshakeFailed) -> None:
        if not failure.remote:
            self._links.switch.refuse(failure.reason, detail=str(failure), reach="lan")
            self.transmit([self._links.switch.refusal(failure)])
        self._dealer.fail(failure)
