"""A peer that speaks frames by hand, so that it can break every rule."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import Any

import zmq
from conftest import Peer, World, until
from nacl.public import PrivateKey

from transport import framing
from transport.handshake import Handshake, Hello
from transport.memory_links import _Pipe

REDIALS = 6


class RawPeer:
    """One connection to a listener. `heard` holds the frames that came back, `ended` says whether it was cut."""

    def __init__(self, w: World, far: Peer, name: str = "mallory") -> None:
        self.w, self.far = w, far
        self.credentials = w.fleet.credentials(name)
        self.heard: list[bytes] = []
        self.ended = False

    def hello(self, **changes: Any) -> Hello:
        fields: dict[str, Any] = {
            "versions": (1, 1),
            "certificate": self.credentials.certificate,
            "boot": b"8 bytes.",
            "nonce": os.urandom(32),
            "window": (1 << 20, 1000),
            "info": {},
        }
        return Hello(**{**fields, **changes})

    async def open(self) -> RawPeer:
        raise AssertionError("each reach has its own")

    def send(self, *parts: bytes) -> None:
        raise AssertionError("each reach has its own")

    def close(self) -> None:
        raise AssertionError("each reach has its own")

    async def shake_hands(self) -> None:
        """An honest handshake, so that what follows comes from a member."""
        key = None if self.w.reach == "stream" else self.far.key
        handshake = Handshake("initiator", self.hello(), self.credentials, self.w.fleet.trust(), authenticated_key=key)
        for frame in handshake.start():
            self.send(frame)
        while handshake.peer is None:
            await until(lambda: self.heard)
            type, body = framing.read_unverified(self.heard.pop(0))
            for frame in handshake.receive(type, body, time.time()):
                self.send(frame)
        await until(lambda: any(link.identity.id == self.credentials.id for link in self.far.seen.links))


class _Ear:
    """What the pipe of the listener takes for the other end."""

    def __init__(self, peer: RawPeer) -> None:
        self._peer = peer

    def arrive(self, frame: bytes) -> None:
        self._peer.heard.append(frame)

    def ended(self) -> None:
        self._peer.ended = True


class RawMemory(RawPeer):
    async def open(self) -> RawPeer:
        server = self.far.links
        key = self.credentials.keys.curve_key
        pipe = _Pipe(server, "acceptor", key)
        pipe.handshake = server.switch.handshake("acceptor", authenticated_key=key)
        pipe.timer = asyncio.get_running_loop().call_later(server.switch.settings.handshake_timeout_s, pipe.shut)
        pipe.other = _Ear(self)  # type: ignore[assignment]
        server.pipes.add(pipe)
        self.pipe = pipe
        return self

    def send(self, *parts: bytes) -> None:
        asyncio.get_running_loop().call_soon(self.pipe.arrive, b"".join(parts))

    def close(self) -> None:
        self.pipe.ended()


class RawStream(RawPeer):
    async def open(self) -> RawPeer:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.far.endpoint.removeprefix("unix://"))
        self.sock.settimeout(60)
        self.buffer = b""
        asyncio.get_running_loop().add_reader(self.sock.fileno(), self._read)
        return self

    def _read(self) -> None:
        try:
            data = self.sock.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self.ended = True
            asyncio.get_running_loop().remove_reader(self.sock.fileno())
        self.buffer += data
        while len(self.buffer) >= 4 and len(self.buffer) >= (size := 4 + int.from_bytes(self.buffer[:4], "little")):
            self.heard.append(self.buffer[:size])
            self.buffer = self.buffer[size:]

    def send(self, *parts: bytes) -> None:
        try:
            self.sock.sendall(b"".join(parts))
        except OSError:
            pass  # cut already, which is what the tests are about

    def close(self) -> None:
        if not self.ended:
            asyncio.get_running_loop().remove_reader(self.sock.fileno())
        self.sock.close()


class RawZmq(RawPeer):
    async def open(self) -> RawPeer:
        self.context: Any = zmq.Context()
        self.dealer = self.context.socket(zmq.DEALER)
        self.dealer.linger = 100
        self.dealer.immediate = 1
        self.dealer.reconnect_ivl = -1
        self.dealer.sndtimeo = 100
        secret = self.credentials.keys.curve_secret
        self.dealer.setsockopt(zmq.CURVE_SERVERKEY, self.far.key)
        self.dealer.setsockopt(zmq.CURVE_SECRETKEY, secret)
        self.dealer.setsockopt(zmq.CURVE_PUBLICKEY, PrivateKey(secret).public_key.encode())
        self.dealer.connect(self.far.endpoint)
        self.task = asyncio.ensure_future(self._read())
        for _ in range(REDIALS):
            # A listener that gave up on a slow handshake is dialled again by hand: what is cut later shall stay cut.
            with contextlib.suppress(AssertionError):
                await until(lambda: self.dealer.getsockopt(zmq.EVENTS) & zmq.POLLOUT, timeout_s=2)
                break
            self.dealer.disconnect(self.far.endpoint)
            self.dealer.connect(self.far.endpoint)
        else:
            raise AssertionError(f"{self.far.endpoint} took no connection")
        self.connected = True
        return self

    connected = False

    async def _read(self) -> None:
        while True:
            try:
                self.heard.append(b"".join(self.dealer.recv_multipart(zmq.NOBLOCK)))
            except zmq.Again:
                if self.connected and not self.dealer.getsockopt(zmq.EVENTS) & zmq.POLLOUT:
                    self.ended = True
                await asyncio.sleep(0.005)

    def send(self, *parts: bytes) -> None:
        try:
            self.dealer.send_multipart(parts)
        except zmq.Again:
            pass  # cut already

    def close(self) -> None:
        self.task.cancel()
        self.dealer.close()
        self.context.term()


def raw_peer(w: World, far: Peer, name: str = "mallory") -> RawPeer:
    """A raw peer of the world's reach."""
    return {"memory": RawMemory, "stream": RawStream, "zmq": RawZmq}[w.reach](w, far, name)
