"""The bulk lane within one process: the same transfers, over a pair of sockets of the kernel, with doors but without TLS.
For tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import weakref
from collections.abc import Callable

from transport.bulk import DOOR_BYTES, BulkFailed, Route, Wire
from transport.identity import Credentials, Identity, Untrusted


class MemoryWire:
    """One end of a pair."""

    def __init__(self, connection: socket.socket, peer: Identity) -> None:
        self._connection = connection
        self._peer = peer

    @property
    def peer(self) -> Identity:
        return self._peer

    def wait_s(self, timeout_s: float) -> None:
        self._connection.settimeout(timeout_s)

    def receive(self, view: memoryview) -> int:
        try:
            return self._connection.recv_into(view, min(len(view), 16384))  # as much as one record of TLS
        except OSError as error:
            raise _failed(error) from None

    def send(self, view: memoryview | bytes) -> None:
        try:
            self._connection.sendall(view)
        except OSError as error:
            raise _failed(error) from None

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.abort()
        self._connection.close()


def _failed(error: OSError) -> BulkFailed:
    return BulkFailed("timeout" if isinstance(error, TimeoutError) else "cut", str(error))


class MemoryWireNetwork:
    """Where listeners are found by address."""

    def __init__(self) -> None:
        self.listeners: dict[tuple[str, int], tuple[MemoryWires, Callable[[Wire], None]]] = {}
        self.ports = itertools.count(1000)


class MemoryWires:
    """Makes and takes pairs. An announcement is the certificate of the member."""

    def __init__(self, credentials: Credentials, network: MemoryWireNetwork) -> None:
        self._credentials = credentials
        self._network = network
        self._doors: dict[bytes, Identity] = {}
        self._wires: weakref.WeakSet[MemoryWire] = weakref.WeakSet()
        self._closed = False

    def listen(self, host: str, port: int, serve: Callable[[Wire], None]) -> int:
        """Be found at an address."""
        port = port or next(self._network.ports)
        if (host, port) in self._network.listeners:
            raise OSError(f"{host}:{port} is in use")
        self._network.listeners[host, port] = (self, serve)
        return port

    def announcement(self) -> bytes:
        return self._credentials.certificate

    def admit(self, peer: Identity, announcement: object) -> bytes:
        if type(announcement) is not bytes or not announcement:
            raise Untrusted("malformed", "no announcement")
        door = os.urandom(DOOR_BYTES)
        self._doors[door] = peer
        return door

    def dial(self, route: Route) -> Wire:
        for address in route.addresses:
            found = self._network.listeners.get((address[0], address[1]))
            if found is not None:
                break
        else:
            raise BulkFailed("unreachable")
        server, serve = found
        if server._credentials.id != route.peer.id or server.announcement() != route.announcement:
            raise BulkFailed("untrusted")
        admitted = server._doors.pop(route.door, None)
        if admitted is None or admitted.id != self._credentials.id:
            raise BulkFailed("untrusted")
        here, there = socket.socketpair()
        near, far = MemoryWire(here, route.peer), MemoryWire(there, admitted)
        self._wires.add(near)
        server._wires.add(far)
        threading.Thread(target=serve, args=(far,), name="swarm-bulk-serve", daemon=True).start()
        return near

    def close(self) -> None:
        self._closed = True
        for address in [address for address, found in self._network.listeners.items() if found[0] is self]:
            del self._network.listeners[address]
        for wire in list(self._wires):
            wire.abort()
