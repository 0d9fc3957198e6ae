"""The in-memory reach: the same frames, handshake and channel as between hosts, without a socket. For tests and
simulations.

Frames cross in order, each in a later turn of the loop. A `MemoryNetwork` is the namespace in which endpoints are
found, and can cut what crosses it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from nacl.public import PrivateKey

from transport import framing
from transport.channel import BOOT, Channel, Switch, arrived
from transport.handshake import Handshake
from transport.identity import Credentials, Trust
from transport.links import Buffer, HandshakeFailed, JoinHandler, Link, LinkHandler, LinkSettings

T = TypeVar("T")


class MemoryNetwork:
    """Where in-memory endpoints find each other. ``cut`` makes all that crosses it vanish, as an unplugged cable
    does."""

    def __init__(self) -> None:
        self.cut = False
        self.listeners: dict[str, MemoryLinks] = {}
        self._numbers = itertools.count(1)

    def name(self, endpoint: str) -> str:
        """The endpoint with ``*`` replaced by something that is free."""
        return endpoint.replace("*", str(next(self._numbers)))


class _Pipe:
    """One end of an in-memory connection."""

    def __init__(self, links: MemoryLinks, role: str, key: bytes) -> None:
        self.links = links
        self.other: _Pipe | None = None
        self.role = role
        self.key = key  # the CURVE key that the other side has proven, as the real thing would
        self.channel: Channel | None = None
        self.handshake: Handshake | None = None
        self.waiter: asyncio.Future[Channel] | None = None
        self.joining: asyncio.Future[bytes] | None = None
        self.open = True
        self.timer: asyncio.TimerHandle | None = None

    def transmit(self, parts: list[Buffer]) -> bool:
        other = self.other
        if other is not None and not self.links.network.cut:
            self.links.switch.loop.call_soon(other.arrive, b"".join(parts))
        return True

    def shut(self) -> None:
        """Close this end; the other end sees it after all that was sent before."""
        if not self.open:
            return
        self.open = False
        if self.timer is not None:
            self.timer.cancel()
        self.links.pipes.discard(self)
        other = self.other
        if other is not None and not self.links.network.cut:
            self.links.switch.loop.call_soon(other.ended)

    def ended(self) -> None:
        """The other end is gone."""
        if self.open:
            self.fail(HandshakeFailed("disconnected", "the peer closed the connection"), None)

    def fail(self, failure: HandshakeFailed, frame: bytes | None) -> None:
        """Give up, telling the peer if there is a frame for it."""
        if self.channel is not None:
            self.channel.lost(failure.reason)
            return
        if frame is not None:
            self.transmit([frame])
        self.shut()
        for waiter in (self.waiter, self.joining):
            if waiter is not None and not waiter.done():
                waiter.set_exception(failure)

    def arrive(self, frame: bytes) -> None:
        """One frame from the other end."""
        if not self.open:
            return
        if self.channel is not None:
            self.channel.receive(frame)
            self.links.switch.flush()
            return
        switch = self.links.switch
        try:
            type, body = framing.read_unverified(frame)
            if type == framing.JOIN and self.role == "acceptor":
                self._join(body)
                return
            if type == framing.JOINED and self.joining is not None:
                if not self.joining.done():
                    self.joining.set_result(body)
                self.shut()
                return
            assert self.handshake is not None
            for reply in self.handshake.receive(type, body, switch.wall()):
                self.transmit([reply])
        except framing.Malformed as error:
            self._refuse(HandshakeFailed("malformed", str(error)))
        except HandshakeFailed as error:
            self._refuse(error)
        else:
            self._finish()

    def _finish(self) -> None:
        assert self.handshake is not None
        if self.handshake.peer is None:
            return
        if self.timer is not None:
            self.timer.cancel()
        switch = self.links.switch
        self.channel = Channel(switch, self, self.handshake.peer, "memory", dialled=self.role == "initiator")
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(self.channel)

    def _refuse(self, failure: HandshakeFailed) -> None:
        if not failure.remote:
            self.links.switch.refuse(failure.reason, detail=str(failure), reach="memory")
        self.fail(failure, None if failure.remote else self.links.switch.refusal(failure))

    def _join(self, body: bytes) -> None:
        handler = self.links.switch.handler
        reply = handler.join_request(body, "memory") if isinstance(handler, JoinHandler) else None
        if reply is None:
            self._refuse(HandshakeFailed("not-accepted", "a request to join was refused"))
            return
        self.transmit([framing.control(framing.JOINED, reply)])
        self.shut()


DEFAULT_NETWORK = MemoryNetwork()


class MemoryLinks:
    """Links within one process. Arguments as for the other reaches; ``network`` is where endpoints are looked up."""

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
        network: MemoryNetwork = DEFAULT_NETWORK,
    ) -> None:
        self.switch = Switch(
            credentials, trust, handler, info=info, settings=settings, loop=loop, clock=clock, wall=wall, boot=boot
        )
        self.network = network
        self.pipes: set[_Pipe] = set()
        self._key = PrivateKey(credentials.curve_secret).public_key.encode()

    async def listen(self, endpoint: str) -> str:
        """Be found under a name (``memory://*`` picks a free one). Raises OSError if it is taken."""
        name = self.network.name(endpoint)
        if name in self.network.listeners:
            raise OSError(f"{name} is in use")
        self.network.listeners[name] = self
        return name

    async def connect(
        self,
        endpoint: str,
        *,
        server_key: bytes | None = None,
        expect: bytes | None = None,
        timeout_s: float | None = None,
    ) -> Link:
        """Raises HandshakeFailed. ``server_key`` is the CURVE key the peer must have, if it is given."""
        switch = self.switch
        server = self.network.listeners.get(endpoint)
        if switch.closed:
            raise HandshakeFailed("closed", "these links are closed")
        if server is None and not self.network.cut:
            raise HandshakeFailed("unreachable", f"nobody listens at {endpoint}")
        near = _Pipe(self, "initiator", b"" if server is None else server._key)
        self.pipes.add(near)
        if server is not None:
            if server_key is not None and server_key != server._key:
                near.shut()
                raise HandshakeFailed("disconnected", f"{endpoint} does not have the key that was expected there")
            far = _Pipe(server, "acceptor", self._key)
            server.pipes.add(far)
            near.other, far.other = far, near
            far.handshake = server.switch.handshake("acceptor", authenticated_key=self._key)
            far.timer = server.switch.loop.call_later(server.switch.settings.handshake_timeout_s, far.shut)
        near.handshake = switch.handshake("initiator", authenticated_key=near.key, expect=expect)
        near.waiter = switch.loop.create_future()
        for frame in near.handshake.start():
            near.transmit([frame])
        return await self._wait(near, near.waiter, endpoint, timeout_s)

    async def join(self, endpoint: str, message: bytes, *, server_key: bytes, timeout_s: float | None = None) -> bytes:
        """Ask to join the fleet of whoever listens there; the reply. Raises HandshakeFailed."""
        server = self.network.listeners.get(endpoint)
        if server is None:
            raise HandshakeFailed("unreachable", f"nobody listens at {endpoint}")
        if server_key != server._key:
            raise HandshakeFailed("disconnected", f"{endpoint} does not have the key that was expected there")
        near, far = _Pipe(self, "initiator", server._key), _Pipe(server, "acceptor", self._key)
        near.other, far.other = far, near
        near.handshake = self.switch.handshake("initiator", authenticated_key=near.key)
        self.pipes.add(near)
        server.pipes.add(far)
        near.joining = self.switch.loop.create_future()
        near.transmit([framing.control(framing.JOIN, message)])
        return await self._wait(near, near.joining, endpoint, timeout_s)

    async def _wait(self, near: _Pipe, waiter: asyncio.Future[T], endpoint: str, timeout_s: float | None) -> T:
        timeout_s = self.switch.settings.handshake_timeout_s if timeout_s is None else timeout_s
        try:
            return await arrived(waiter, timeout_s)
        except TimeoutError:
            raise HandshakeFailed("timeout", f"{endpoint} did not answer within {timeout_s:g} s") from None
        finally:
            if near.channel is None:
                near.shut()

    def kill(self) -> None:
        """End as a killed process does: no goodbye, but the connections are seen to be gone."""
        for pipe in list(self.pipes):
            if pipe.channel is not None:
                pipe.channel.lost("killed")
            pipe.shut()

    async def close(self) -> None:
        """Close every link. When it returns, every ``link_down`` has been called."""
        self.switch.close("shutting down")
        for name in [name for name, links in self.network.listeners.items() if links is self]:
            del self.network.listeners[name]
        for pipe in list(self.pipes):
            pipe.fail(HandshakeFailed("closed", "shutting down"), None)
        await asyncio.sleep(0)
