"""The listening side between hosts: one ROUTER with CURVE for all who connect.

ROUTER names each connection itself, with an id that is new for each, so a connection that ZeroMQ mended is a stranger
until its own hello. What it can not do is close one: `_Connections` follows its monitor, and shuts the TCP socket of
whoever has not shown a certificate in time or has been refused, so that nobody unverified holds a descriptor or fills
memory for long.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from dataclasses import dataclass

import zmq
from zmq.error import ZMQError

from transport import bounds, framing, zap
from transport.channel import Channel, Switch
from transport.links import Buffer, HandshakeFailed, JoinHandler
from transport.zmq_sockets import NOBLOCK, Drained, configure, in_parts, receive_tail, send_parts

_MONITORED = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
_IGNORED_MAX = 4096
_BACKLOG = 128
_ALL_OF_IPV6 = "tcp://[::]:"
_CUT_AFTER_S = 0.25
"""Time for the refusal to reach the peer before its connection is cut."""


@dataclass(slots=True)
class _Connection:
    """An accepted TCP connection, as the monitor tells of it."""

    number: int
    since: float
    wire: RoutedWire | None = None
    gone: bool = False


class Router:
    """The ROUTER of one node, and everyone who is connected to it."""

    def __init__(self, switch: Switch, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.switch = switch
        loop, settings = switch.loop, switch.settings
        self._rate = zap.ConnectionRate()
        self._zap = context.socket(zmq.ROUTER)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind(zap.ENDPOINT)
        self._socket = context.socket(zmq.ROUTER)
        configure(self._socket, settings)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.CURVE_SERVER, 1)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, switch.credentials.curve_secret)
        self._socket.setsockopt(zmq.ZAP_DOMAIN, zap.DOMAIN)
        self._monitor = self._socket.get_monitor_socket(_MONITORED)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._wires: dict[bytes, RoutedWire] = {}
        self._ignored: dict[bytes, None] = {}
        self._ports: set[int] = set()
        self._connections: dict[int, _Connection] = {}
        self._numbers = 0
        self._closed = False
        self._readers = [
            Drained(loop, self._zap, self._take_zap),
            Drained(loop, self._monitor, self._take_event),
            Drained(loop, self._socket, self._take_frame, switch.flush),
        ]
        switch.on_tick.append(self._tick)

    def bind(self, endpoint: str) -> str:
        """Listen at one more endpoint (``tcp://127.0.0.1:*``, ``tcp://[::]:4040``; the latter is IPv6 only, so that all
        of IPv4 can be listened at beside it). Raises OSError, for a port in use say."""
        self._socket.setsockopt(zmq.IPV6, 1 if "[" in endpoint else 0)
        listener = _listen_on_all_of_ipv6(endpoint) if endpoint.startswith(_ALL_OF_IPV6) else -1
        try:
            self._socket.setsockopt(zmq.USE_FD, listener)
            self._socket.bind(endpoint)
        except ZMQError as error:
            if listener >= 0:
                os.close(listener)
            raise OSError(error.errno, f"{os.strerror(error.errno or 0)}", endpoint) from None
        finally:
            self._socket.setsockopt(zmq.USE_FD, -1)
        actual = bytes(self._socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode("ascii")
        self._ports.add(int(actual.rpartition(":")[2]))
        return actual

    @property
    def connections(self) -> int:
        """TCP connections that are open now."""
        return len(self._connections)

    # -- out

    def send(self, routing_id: bytes, parts: list[Buffer]) -> None:
        """Raises zmq.Again (a full queue) or ZMQError (EHOSTUNREACH: the connection is gone); nothing was sent then."""
        if self._closed:
            raise ZMQError(zmq.EHOSTUNREACH)
        try:
            send_parts(self._socket, [routing_id, *parts])
        finally:
            self._readers[2].poke()

    # -- in

    def _take_zap(self) -> None:
        def refused(reason: str, address: str) -> None:
            self.switch.refuse(reason, address=address, reach="lan")

        zap.serve(self._zap, self._rate, self.switch.clock(), refused)

    def _take_frame(self) -> None:
        routing_id = self._socket.recv(NOBLOCK)
        head = self._socket.recv(NOBLOCK, copy=False)
        wire = self._wires.get(routing_id)
        tail: bytes | None = None
        try:
            key = str(head.get("User-Id"))
            if head.more:
                limit = self.switch.settings.message_bytes_max if wire is not None else 0
                tail = receive_tail(self._socket, limit)
        except ZMQError:
            key = ""
        except framing.Malformed as error:
            if wire is not None:
                wire.channel.violated("malformed", str(error))
            else:
                self._refuse(routing_id, head, HandshakeFailed("malformed", str(error)))
            return
        if wire is None:
            self._stranger(routing_id, head, key, tail)
        elif key != wire.key:
            wire.channel.violated("key-mismatch", "a message under another key than the link's")
        else:
            wire.channel.receive(head.buffer, tail)

    def _stranger(self, routing_id: bytes, head: zmq.Frame, key: str, tail: bytes | None) -> None:
        """The first frame of a connection: its hello, a request to join, or neither."""
        if routing_id in self._ignored:
            return
        switch = self.switch
        address = _address(head)
        if switch.closed:
            self._refuse(routing_id, head, HandshakeFailed("closed", "this node is shutting down"))
            return
        try:
            type, body = framing.read_unverified(head.buffer, 0 if tail is None else len(tail))
            if type == framing.JOIN:
                self._join(routing_id, head, body, address)
                return
            handshake = switch.handshake("acceptor", authenticated_key=bytes.fromhex(key))
            replies = handshake.receive(type, body, switch.wall())
        except (framing.Malformed, ValueError) as error:
            self._refuse(routing_id, head, HandshakeFailed("malformed", str(error)), address)
            return
        except HandshakeFailed as failure:
            self._refuse(routing_id, head, failure, address)
            return
        assert handshake.peer is not None, "on CURVE a good hello is all it takes"
        wire = RoutedWire(self, routing_id, key, self._connection(head))
        try:
            for reply in replies:
                self.send(routing_id, [reply])
        except ZMQError:
            return  # gone before it was answered
        self._wires[routing_id] = wire
        if wire.connection is not None:
            wire.connection.wire = wire
        wire.channel = Channel(switch, wire, handshake.peer, "lan", dialled=False)

    def _join(self, routing_id: bytes, head: zmq.Frame, body: bytes, address: str) -> None:
        handler = self.switch.handler
        reply = handler.join_request(body, address) if isinstance(handler, JoinHandler) else None
        if reply is None:
            self._refuse(routing_id, head, HandshakeFailed("not-accepted", "a request to join was refused"), address)
            return
        self._dismiss(routing_id, self._connection(head), framing.control(framing.JOINED, reply))

    def _refuse(self, routing_id: bytes, head: zmq.Frame, failure: HandshakeFailed, address: str = "") -> None:
        if not failure.remote:
            self.switch.refuse(failure.reason, detail=str(failure), address=address or _address(head), reach="lan")
        frame = None if failure.remote else self.switch.refusal(failure)
        self._dismiss(routing_id, self._connection(head), frame)

    def _dismiss(self, routing_id: bytes, connection: _Connection | None, frame: bytes | None) -> None:
        """Say a last word, hear nothing more, and cut the connection when the word had time to arrive."""
        self._ignored[routing_id] = None
        while len(self._ignored) > _IGNORED_MAX:
            del self._ignored[next(iter(self._ignored))]
        if frame is not None:
            try:
                self.send(routing_id, [frame])
            except ZMQError:
                return
        if connection is not None:
            self.switch.loop.call_later(_CUT_AFTER_S, self._cut, connection)

    def forget(self, wire: RoutedWire) -> None:
        """The channel of this wire is down."""
        if self._wires.pop(wire.routing_id, None) is not None:
            self._dismiss(wire.routing_id, wire.connection, None)

    # -- connections

    def _connection(self, head: zmq.Frame) -> _Connection | None:
        """The connection that a message came on."""
        fd = head.get(zmq.SRCFD)
        if fd not in self._connections:
            try:
                while True:
                    self._take_event()
            except zmq.Again:
                self._readers[1].later()
        return self._connections.get(int(fd))

    def _take_event(self) -> None:
        frames = self._monitor.recv_multipart(NOBLOCK)
        event, fd = struct.unpack("=Hi", frames[0])
        if event == zmq.EVENT_ACCEPTED:
            self._numbers += 1
            connection = _Connection(self._numbers, self.switch.clock())
            self._connections[fd] = connection
            unverified = sum(1 for other in self._connections.values() if other.wire is None)
            if unverified > bounds.UNVERIFIED_COUNT_MAX:
                self.switch.refuse("busy", detail=f"{unverified} connections have no hello yet", reach="lan")
                self._cut(connection)
        elif event == zmq.EVENT_DISCONNECTED:
            ended = self._connections.pop(fd, None)
            if ended is None:
                return
            ended.gone = True
            if ended.wire is not None and ended.wire.channel.up:
                self._readers[2].later()
                self.switch.loop.call_later(0.02, ended.wire.channel.lost, "disconnected")

    def _cut(self, connection: _Connection) -> None:
        """Shut the TCP connection. ZeroMQ sees the end of it and cleans up."""
        if connection.gone or self._closed:
            return
        fd = next((fd for fd, other in self._connections.items() if other is connection), None)
        if fd is None:
            return
        try:
            duplicate = socket.socket(fileno=os.dup(fd))
        except OSError:
            return
        with duplicate:
            try:
                # The number may have been used again for something else since; then it is not a connection to our port.
                if duplicate.getsockname()[1] in self._ports and duplicate.getpeername():
                    duplicate.shutdown(socket.SHUT_RDWR)
            except (OSError, IndexError, TypeError):
                return

    def _tick(self, now: float) -> None:
        timeout_s = self.switch.settings.handshake_timeout_s
        late = [c for c in self._connections.values() if c.wire is None and now - c.since >= timeout_s]
        for connection in late:
            self.switch.refuse("timeout", detail="no valid hello in time", reach="lan")
            connection.since = now
            self._cut(connection)
        for wire in list(self._wires.values()):
            wire.retry()

    def close(self) -> None:
        """Close all sockets; what was sent has `bounds.LINGER_S` to leave."""
        self._closed = True
        for reader in self._readers:
            reader.stop()
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._zap.close()


class RoutedWire:
    """The wire of one who connected to the ROUTER."""

    channel: Channel

    def __init__(self, router: Router, routing_id: bytes, key: str, connection: _Connection | None) -> None:
        self.routing_id = routing_id
        self.key = key
        self.connection = connection
        self._router = router
        self._held: deque[list[Buffer]] = deque()

    def transmit(self, parts: list[Buffer]) -> bool:
        """See `transport.channel.Wire`. A full queue (a peer that breaks the credit rules both ways) is tried again
        each tick."""
        parts = in_parts(parts)
        if self._held:
            self._held.append(parts)
            return False
        try:
            self._router.send(self.routing_id, parts)
        except zmq.Again:
            self._held.append(parts)
            return False
        except ZMQError:
            self._router.switch.loop.call_soon(self._lost)
            return False
        return True

    def retry(self) -> None:
        """Send what a full queue held back."""
        if not self._held:
            return
        try:
            while self._held:
                self._router.send(self.routing_id, self._held[0])
                self._held.popleft()
        except zmq.Again:
            return
        except ZMQError:
            self._held.clear()
            self._lost()
            return
        self.channel.wire_ready()

    def shut(self) -> None:
        """See `transport.channel.Wire`."""
        self._held.clear()
        self._router.forget(self)

    def _lost(self) -> None:
        self.channel.lost("disconnected")


def _listen_on_all_of_ipv6(endpoint: str) -> int:
    """A listening descriptor for ZeroMQ, which would take the port in IPv4 too. Raises OSError."""
    port = endpoint[len(_ALL_OF_IPV6) :]
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind(("::", 0 if port == "*" else int(port)))
        bound.listen(_BACKLOG)
        return bound.detach()


def _address(head: zmq.Frame) -> str:
    try:
        return str(head.get("Peer-Address"))
    except ZMQError:
        return ""
