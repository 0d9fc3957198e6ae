"""Two members with the bulk lane between them, of either reach."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.contract.conftest import Fleet
from transport.bulk import BulkFailed, Memory, Route, Verb, Wire
from transport.bulk_client import BulkClient, Transfer
from transport.bulk_server import BulkServer
from transport.identity import Identity
from transport.memory_wires import MemoryWireNetwork, MemoryWires
from transport.tls_wires import TlsWires

HOST = "127.0.0.1"


class Side:
    """One process' worth of the lane."""

    def __init__(self, pair: Pair, name: str, **client: Any) -> None:
        self.credentials = pair.fleet.credentials(name)
        self.identity = self.credentials.identity
        self.trust = pair.fleet.trust()
        self.refused: list[str] = []
        self.notes: list[str] = []
        self.read: list[bytes] = []
        self.wires: Any = (
            MemoryWires(self.credentials, pair.network)
            if pair.reach == "memory"
            else TlsWires(self.credentials, refused=lambda reason, facts: self.refused.append(reason))
        )
        self.now = [1000.0]
        self.server = BulkServer(
            self._welcome, lambda reason, peer: self.notes.append(reason), self.read.append, lambda: self.now[0]
        )
        self.client = BulkClient(self.wires, self._welcome, **client)
        self.port = self.wires.listen(HOST, 0, self.server.serve)

    def _welcome(self, peer: Identity) -> bool:
        return not self.trust.revoked(peer.id, peer.serial)

    def close(self) -> None:
        self.server.close()
        self.client.close()
        self.wires.close()


class Pair:
    """A holder of blobs and one who asks for them."""

    def __init__(self, reach: str, directory: Path, **client: Any) -> None:
        self.reach = reach
        self.directory = directory
        self.fleet = Fleet()
        self.network = MemoryWireNetwork()
        self.holder, self.asker = Side(self, "holder"), Side(self, "asker", **client)
        self.sides = [self.holder, self.asker]

    def third(self) -> Side:
        """Another member."""
        self.sides.append(Side(self, "third"))
        return self.sides[-1]

    def route(self, asker: Side | None = None, *, wires: Any = None) -> Route:
        """What the holder would say on the control link."""
        asker = asker or self.asker
        door = self.holder.wires.admit(asker.identity, (wires or asker.wires).announcement())
        return Route(self.holder.identity, ((HOST, self.holder.port),), door, self.holder.wires.announcement())

    def file(self, size: int, data: bytes | None = None) -> Path:
        path = self.directory / os.urandom(4).hex()
        path.write_bytes(os.urandom(size) if data is None else data)
        return path

    def offer(self, path: Path, asker: Side | None = None) -> bytes:
        return self.holder.server.offer((asker or self.asker).identity.id, path, path.stat().st_size)

    def reading(self, path: Path, *, hashed: bool = True) -> tuple[Transfer, memoryview]:
        """A transfer of a file from the holder, begun."""
        memory, view = Memory.fresh(path.stat().st_size)
        transfer = Transfer(Verb.READ, memory, hashed=hashed)
        transfer.aim(self.route(), self.offer(path))
        self.asker.client.start(transfer)
        return transfer, view

    def dial(self) -> Wire:
        """A connection by hand."""
        wire: Wire = self.asker.wires.dial(self.route())
        wire.wait_s(60)
        return wire

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While it lasts the holder sends nothing of what it is asked for."""
        gate = threading.Event()
        server = self.holder.server
        wanted = server._wanted

        def wait(wire: Wire, ticket: bytes) -> None:
            gate.wait(60)
            wanted(wire, ticket)

        server._wanted = wait  # type: ignore[method-assign]
        try:
            yield
        finally:
            gate.set()
            server._wanted = wanted  # type: ignore[method-assign]

    def close(self) -> None:
        for side in self.sides:
            side.close()
        until(lambda: not [one.name for one in threading.enumerate() if one.name.startswith("swarm-bulk")])


class Cutting:
    """Wires whose connections end after some bytes have come or gone, once each."""

    def __init__(self, wires: Any, after: list[int]) -> None:
        self._wires = wires
        self._after = after
        self.dialled = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wires, name)

    def dial(self, route: Route) -> Wire:
        self.dialled += 1
        wire: Wire = self._wires.dial(route)
        return CutWire(wire, self._after.pop(0)) if self._after else wire


class CutWire:
    """A connection that ends after so many bytes."""

    def __init__(self, wire: Wire, left: int) -> None:
        self._wire = wire
        self._left = left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)

    def _count(self, moved: int) -> None:
        self._left -= moved
        if self._left <= 0:
            self._wire.abort()
            raise BulkFailed("cut", "cut by the test")

    def receive(self, view: memoryview) -> int:
        got = self._wire.receive(view)
        self._count(got)
        return got

    def send(self, view: memoryview | bytes) -> None:
        self._count(len(view))
        self._wire.send(view)


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)
