"""Peers that are the wire itself: raw pyzmq echoes, their two ends in two processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import zmq

PAYLOAD = b"x" * 64
AHEAD = 512
LAST_S = 120.0


def _blocking_server(pipe: Connection) -> None:
    router = zmq.Context().socket(zmq.ROUTER)
    pipe.send(router.bind_to_random_port("tcp://127.0.0.1"))
    while True:
        router.send_multipart(router.recv_multipart())


def _curve_server(pipe: Connection, public: bytes, secret: bytes) -> None:
    import uvloop

    router = zmq.Context().socket(zmq.ROUTER)
    router.curve_publickey, router.curve_secretkey, router.curve_server = public, secret, True

    def readable() -> None:
        while router.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            router.send_multipart(router.recv_multipart(zmq.NOBLOCK))

    async def serve() -> None:
        pipe.send(router.bind_to_random_port("tcp://127.0.0.1"))
        asyncio.get_running_loop().add_reader(router.getsockopt(zmq.FD), readable)
        await asyncio.sleep(LAST_S)

    uvloop.run(serve())


def _large_server(pipe: Connection, endpoint: str) -> None:
    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(endpoint)
    pipe.send(0)
    while True:
        router.send_multipart(router.recv_multipart(copy=False), copy=False)


class _Server:
    """The echoing end, in a process of its own."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        self.process = spawn.Process(target=target, args=(theirs, *args), daemon=True)
        self.process.start()
        self.port = ours.recv()

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()


def echo_per_s(seconds: float = 1.0) -> float:
    """DEALER/ROUTER echoes a second over loopback: blocking, not encrypted, 64 bytes, 512 under way."""
    with _Server(_blocking_server) as server:
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.connect(f"tcp://127.0.0.1:{server.port}")
        for _ in range(AHEAD):
            dealer.send(PAYLOAD)
        for _ in range(2 * AHEAD):
            dealer.recv()
            dealer.send(PAYLOAD)
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            for _ in range(100):
                dealer.recv()
                dealer.send(PAYLOAD)
            count += 100
        rate = count / (time.perf_counter() - began)
        context.destroy(linger=0)
        return rate


@contextmanager
def large_echo(size: int) -> Iterator[Callable[[], object]]:
    """Something that has a message of `size` bytes echoed over a Unix socket: DEALER/ROUTER, copy=False, not encrypted."""
    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as folder:
        endpoint = f"ipc://{folder}/echo"
        with _Server(_large_server, endpoint):
            context = zmq.Context()
            dealer = context.socket(zmq.DEALER)
            dealer.connect(endpoint)
            message = bytes(size)

            def echo() -> object:
                dealer.send(message, copy=False)
                frame = dealer.recv(copy=False)
                assert len(frame) == size
                return frame

            yield echo
            context.destroy(linger=0)


def round_trips_us(count: int = 1000) -> list[float]:
    """Round trips of one 64-byte message at a time, in microseconds: CURVE, both ends under uvloop with add_reader."""
    import uvloop

    public, secret = zmq.curve_keypair()
    took: list[float] = []
    with _Server(_curve_server, public, secret) as server:
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
        dealer.curve_serverkey = public
        dealer.connect(f"tcp://127.0.0.1:{server.port}")

        async def trips() -> None:
            loop = asyncio.get_running_loop()
            done = loop.create_future()
            began = 0.0

            def readable() -> None:
                nonlocal began
                while dealer.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                    dealer.recv(zmq.NOBLOCK)
                    took.append((time.perf_counter() - began) * 1e6)
                    if len(took) > count:
                        if not done.done():
                            done.set_result(None)
                        return
                    began = time.perf_counter()
                    dealer.send(PAYLOAD)

            loop.add_reader(dealer.getsockopt(zmq.FD), readable)
            began = time.perf_counter()
            dealer.send(PAYLOAD)
            readable()
            await done

        uvloop.run(trips())
        context.destroy(linger=0)
    return took[1:]  # the first one is the handshake
