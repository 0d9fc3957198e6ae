"""Processes that talk to each other in turns, each pair over a connection of its own: keys and addresses are given by who started them.

Each has a CURVE key pair made for this one purpose, and knows the public keys of all and a token: they came over the fleet's own
links. Who does not know the public key of a process cannot begin a handshake with it, and who does not show the token is not
answered. Messages of a pair are numbered, and each side keeps the last two that it sent: a pair that is in step is never further
apart, so what a broken connection loses is sent again.
"""

from __future__ import annotations

import hmac
import struct
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import zmq

HELLO: Final = b"mesh-1"
NUMBER: Final = struct.Struct("<Q")
AGAIN_S: Final = 1.0
"""How long a message is awaited before the own last ones are sent again: one of them may be what the other waits for."""
KEPT: Final = 2
TOKEN_BYTES: Final = 32


def key_pair() -> tuple[bytes, bytes]:
    """(public, secret), as ZeroMQ writes them."""
    public, secret = zmq.curve_keypair()
    return public, secret


class Mesh:
    """One of several processes, numbered from 0. It listens for those with higher numbers and connects to those with lower.

    `queued` bounds how many messages wait for a peer that takes none; 0 is no bound, for turns, which never are more than two.
    One thread uses it. OSError when no port can be had.
    """

    def __init__(self, me: int, publics: Sequence[bytes], secret: bytes, token: bytes, *, queued: int = 0) -> None:
        self.me = me
        self._queued = queued
        self._publics, self._secret, self._token = list(publics), secret, token
        self._context = zmq.Context(1)
        self._poller = zmq.Poller()
        self._router = self._socket(zmq.ROUTER)
        self._router.curve_server = True
        self._router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.port = self._router.bind_to_random_port("tcp://*")
        self._poller.register(self._router, zmq.POLLIN)
        self._routes: dict[int, bytes] = {}
        self._dealers: dict[int, Any] = {}
        self._welcome: set[int] = set()
        self._waiting: dict[int, list[tuple[int, list[Any]]]] = {peer: [] for peer in self.peers}
        self._sent: dict[int, list[tuple[int, list[bytes]]]] = {peer: [] for peer in self.peers}
        self._next: dict[int, int] = dict.fromkeys(self.peers, 0)
        self._thrown: list[Any] = []

    @property
    def peers(self) -> list[int]:
        """The numbers of the others."""
        return [number for number in range(len(self._publics)) if number != self.me]

    def _socket(self, kind: int) -> Any:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, self._queued)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.curve_publickey, socket.curve_secretkey = self._publics[self.me], self._secret
        return socket

    def connect(self, addresses: Mapping[int, str]) -> None:
        """Connect to those with lower numbers, by "host:port"."""
        for peer, address in addresses.items():
            if peer >= self.me or peer in self._dealers:
                continue
            dealer = self._socket(zmq.DEALER)
            dealer.curve_serverkey = self._publics[peer]
            dealer.setsockopt(zmq.ROUTING_ID, b"%d" % self.me)
            dealer.connect(f"tcp://{address}")
            self._dealers[peer] = dealer
            self._poller.register(dealer, zmq.POLLIN)
            dealer.send_multipart([HELLO, self._token])

    def reconnect(self, peer: int, address: str) -> None:
        """Connect to where a peer with a lower number is now."""
        dealer = self._dealers.pop(peer, None)
        if dealer is not None:
            self._poller.unregister(dealer)
            dealer.close()
        self._welcome.discard(peer)
        self.connect({peer: address})

    @property
    def joined(self) -> bool:
        """Whether every other one has been heard of."""
        return len(self._routes) + len(self._welcome) == len(self.peers)

    def join(self, timeout_s: float) -> bool:
        """Wait for the others; False when they are not all there in time."""
        ends = time.monotonic() + timeout_s
        while not self.joined and (left_s := ends - time.monotonic()) > 0:
            self._read(left_s)
        return self.joined

    def send(self, peer: int, number: int, parts: Sequence[Any]) -> None:
        """Send message `number` to a peer; they go up by one."""
        kept = self._sent[peer]
        kept.append((number, [bytes(part) for part in parts]))
        del kept[:-KEPT]
        self._send(peer, *kept[-1])

    def throw(self, peer: int, body: Any) -> bool:
        """Send something that is not numbered and not sent again; False when it is lost here already."""
        return self._out(peer, [b"", bytes(body)])

    def catch(self, timeout_s: float) -> list[Any]:
        """What peers threw since the last time; waits for it for so long."""
        if not self._thrown:
            self._read(timeout_s)
        caught, self._thrown = self._thrown, []
        return caught

    def _send(self, peer: int, number: int, parts: Sequence[bytes]) -> None:
        self._out(peer, [NUMBER.pack(number), *parts])  # what is lost is sent again when no answer comes

    def _out(self, peer: int, frames: Sequence[bytes]) -> bool:
        route, dealer = self._routes.get(peer), self._dealers.get(peer)
        try:
            if route is not None:
                self._router.send_multipart([route, *frames], zmq.DONTWAIT)
            elif dealer is not None:
                dealer.send_multipart(frames, zmq.DONTWAIT)
            else:
                return False
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        return True

    def receive(self, peer: int, number: int, timeout_s: float) -> list[Any] | None:
        """The parts of message `number` of a peer, or None when it does not come in time."""
        ends = time.monotonic() + timeout_s
        again = time.monotonic() + AGAIN_S
        waiting = self._waiting[peer]
        while True:
            while waiting:
                found, parts = waiting.pop(0)
                if found == number:
                    self._next[peer] = number + 1
                    return parts
            now = time.monotonic()
            if now >= ends:
                return None
            if now >= again:
                again = now + AGAIN_S
                for each in self._sent[peer]:
                    self._send(peer, *each)
            self._read(min(ends, again) - now)

    def _read(self, timeout_s: float) -> None:
        for socket, _ in self._poller.poll(max(0, int(timeout_s * 1000) + 1)):
            while True:
                try:
                    frames = socket.recv_multipart(zmq.DONTWAIT)
                except zmq.Again:
                    break
                self._heard(socket, frames)

    def _heard(self, socket: Any, frames: list[bytes]) -> None:
        if socket is self._router:
            route, *frames = frames
            peer = int(route) if route.isdigit() and len(route) < 4 else -1
            if peer not in self._waiting or peer < self.me or not frames:
                return
            if frames[0] == HELLO:
                if len(frames) == 2 and hmac.compare_digest(frames[1], self._token):
                    self._routes[peer] = route
                    self._router.send_multipart([route, HELLO, self._token])
                return
            if peer not in self._routes:
                return
        else:
            peer = next(number for number, dealer in self._dealers.items() if dealer is socket)
            if frames[0] == HELLO:
                if len(frames) == 2 and hmac.compare_digest(frames[1], self._token):
                    self._welcome.add(peer)
                return
        if not frames[0] and len(frames) == 2:
            self._thrown.append(frames[1])
        if len(frames[0]) != NUMBER.size:
            return
        (number,) = NUMBER.unpack(frames[0])
        waiting = self._waiting[peer]
        # one that came before is not wanted twice; who is in step is never two ahead
        if self._next[peer] <= number <= self._next[peer] + KEPT and all(number != there for there, _ in waiting):
            waiting.append((number, frames[1:]))
            waiting.sort(key=lambda each: each[0])

    def close(self) -> None:
        """Let go of the connections."""
        for dealer in self._dealers.values():
            dealer.close()
        self._router.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
