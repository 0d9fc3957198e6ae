"""The bulk lane between hosts: TLS 1.3 over TCP, with the certificates that the two sides have announced to each other
and no others (`transport.tls`).

Who dials shows a door first, 16 random bytes that the listener made for it and that count once. Who has none is turned
away before TLS begins; the door proves nothing else.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from transport import bounds
from transport.bulk import DOOR_BYTES, BulkFailed, Route, Wire
from transport.identity import Credentials, Identity, Untrusted
from transport.tls import TlsIdentity, proven, read_announcement

CLOSE_TIMEOUT_S = 2.0
"""How long closing waits for the threads; they are daemons, and end by themselves."""

Note = Callable[[str, Mapping[str, object]], None]


class TlsWire:
    """One TLS connection to a proven peer."""

    def __init__(self, connection: ssl.SSLSocket, peer: Identity) -> None:
        self._connection = connection
        self._peer = peer
        self._aborted = False

    @property
    def peer(self) -> Identity:
        return self._peer

    def wait_s(self, timeout_s: float) -> None:
        with contextlib.suppress(OSError):
            self._connection.settimeout(timeout_s)

    def receive(self, view: memoryview) -> int:
        try:
            return self._connection.recv_into(view, len(view))
        except (OSError, ValueError) as error:
            raise self._failed(error) from None

    def send(self, view: memoryview | bytes) -> None:
        try:
            self._connection.sendall(view)
        except (OSError, ValueError) as error:
            raise self._failed(error) from None

    def abort(self) -> None:
        self._aborted = True
        with contextlib.suppress(OSError):
            # Of the socket itself: that of SSLSocket takes TLS away from under the thread that is using it.
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.close()

    def _failed(self, error: OSError | ValueError) -> BulkFailed:
        if isinstance(error, TimeoutError):
            return BulkFailed("timeout", "nothing moves on the connection")
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            # The first read after a handshake tells that the other side did not take our certificate.
            return BulkFailed("cut" if self._aborted else "untrusted", str(error))
        return BulkFailed("cut", str(error))


@dataclass(frozen=True, slots=True)
class _Door:
    peer: Identity
    certificate: bytes
    until: float


class TlsWires:
    """Makes and takes TLS connections. For any thread.

    `refused(reason, facts)` is told of those that were turned away, in a thread of the listener's.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        refused: Note = lambda reason, facts: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._tls = TlsIdentity(credentials, wall)
        self._refused = refused
        self._clock = clock
        self._lock = threading.Lock()
        self._doors: OrderedDict[bytes, _Door] = OrderedDict()
        self._listeners: list[socket.socket] = []
        self._threads: set[threading.Thread] = set()
        self._unproven: set[socket.socket] = set()
        self._wires: weakref.WeakSet[TlsWire] = weakref.WeakSet()
        self._closed = False

    # --- taking connections -------------------------------------------------------------------------------------------

    def listen(self, host: str, port: int, serve: Callable[[Wire], None]) -> int:
        """Take connections at an address of this machine. The port. OSError when it can not."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((host, port))
            listener.listen(64)
        except OSError:
            listener.close()
            raise
        with self._lock:
            self._listeners.append(listener)
        self._spawn(self._accept, listener, serve)
        return int(listener.getsockname()[1])

    def announcement(self) -> bytes:
        return self._tls.announcement()

    def admit(self, peer: Identity, announcement: object) -> bytes:
        certificate = read_announcement(announcement, peer)
        door, now = os.urandom(DOOR_BYTES), self._clock()
        with self._lock:
            for known in [known for known, one in self._doors.items() if one.until < now]:
                del self._doors[known]
            own = [known for known, one in self._doors.items() if one.peer.id == peer.id]
            if len(own) >= bounds.BULK_TICKETS_PER_PEER_MAX:
                del self._doors[own[0]]
            self._doors[door] = _Door(peer, certificate, now + bounds.BULK_DOOR_LIFE_S)
        return door

    def _accept(self, listener: socket.socket, serve: Callable[[Wire], None]) -> None:
        while not self._closed:
            try:
                connection, address = listener.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.1)  # out of descriptors, most likely
                continue
            with self._lock:
                full = len(self._unproven) >= bounds.BULK_UNPROVEN_COUNT_MAX or self._closed
                if not full:
                    self._unproven.add(connection)
            if full:
                connection.close()
                self._refused("busy", {"peer": address[0]})
            else:
                self._spawn(self._prove, connection, str(address[0]), serve)

    def _prove(self, connection: socket.socket, address: str, serve: Callable[[Wire], None]) -> None:
        """See who it is, and serve it."""
        try:
            wire = self._proven(connection)
        except (BulkFailed, OSError, ValueError) as error:
            reason = error.reason if isinstance(error, BulkFailed) else "untrusted"
            if not self._closed:
                self._refused(reason, {"peer": address, "error": str(error)})
            connection.close()
            return
        finally:
            with self._lock:
                self._unproven.discard(connection)
        try:
            serve(wire)
        finally:
            wire.close()

    def _proven(self, connection: socket.socket) -> TlsWire:
        until = self._clock() + bounds.BULK_HANDSHAKE_TIMEOUT_S
        shown = b""
        while len(shown) < DOOR_BYTES:
            connection.settimeout(max(0.01, until - self._clock()))
            more = connection.recv(DOOR_BYTES - len(shown))
            if not more:
                raise BulkFailed("malformed", "it closed without a word")
            shown += more
        with self._lock:
            door = self._doors.pop(shown, None)
        if door is None or door.until < self._clock():
            raise BulkFailed("unknown", "it has no door here")
        context = self._tls.context(door.certificate, server=True)
        return self._wrapped(connection, context, door.peer, door.certificate, server=True)

    # --- making connections -------------------------------------------------------------------------------------------

    def dial(self, route: Route) -> Wire:
        failure = BulkFailed("unreachable", f"{route.peer.name} has told no address")
        try:
            certificate = read_announcement(route.announcement, route.peer)
        except Untrusted as error:
            raise BulkFailed("untrusted", str(error)) from error
        until = self._clock() + 2 * bounds.BULK_DIAL_TIMEOUT_S
        for address in route.addresses:
            if self._closed:
                raise BulkFailed("closed")
            if self._clock() > until:
                break
            try:
                connection = socket.create_connection(address, bounds.BULK_DIAL_TIMEOUT_S)
            except OSError as error:
                reason = "timeout" if isinstance(error, TimeoutError) else "unreachable"
                failure = BulkFailed(reason, f"{address[0]}:{address[1]}: {error}")
                continue
            try:
                connection.settimeout(bounds.BULK_HANDSHAKE_TIMEOUT_S)
                connection.sendall(route.door)
                context = self._tls.context(certificate, server=False)
                wire = self._wrapped(connection, context, route.peer, certificate, server=False)
            except (OSError, ValueError, BulkFailed) as error:
                connection.close()
                # Somebody else may have this address: go on with the next one.
                failure = BulkFailed("untrusted", f"{address[0]}:{address[1]}: {error}")
                continue
            return wire
        raise failure

    def close(self) -> None:
        with self._lock:
            self._closed = True
            listeners, self._listeners = self._listeners, []
            ends = [*self._unproven]
            wires = list(self._wires)
            threads = list(self._threads)
        for listener in (*listeners, *ends):
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts, as closing does not
            listener.close()
        for wire in wires:
            wire.abort()
        until = time.monotonic() + CLOSE_TIMEOUT_S
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def _wrapped(
        self, connection: socket.socket, context: ssl.SSLContext, peer: Identity, certificate: bytes, *, server: bool
    ) -> TlsWire:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        wrapped = context.wrap_socket(connection, server_side=server, suppress_ragged_eofs=False)
        if not proven(wrapped, certificate):
            wrapped.close()
            raise BulkFailed("untrusted", "another certificate than the one announced")
        wire = TlsWire(wrapped, peer)
        with self._lock:
            self._wires.add(wire)
            late = self._closed
        if late:
            wire.close()
            raise BulkFailed("closed")
        return wire

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        def run() -> None:
            try:
                target(*args)
            finally:
                with self._lock:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name="swarm-bulk-serve", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()
