"""Links beside raw pyzmq: messages per second and round trips, between two processes of this machine, interleaved in
one run.

``raw``     pyzmq DEALER/ROUTER, blocking, no encryption, one message a send
``raw-uv``  the same sockets with CURVE, drained under uvloop by add_reader
``lan``     our links over ZeroMQ with CURVE, handshake, credit and batching
``host``    our links over a Unix stream socket

Run it: ``python -m benchmarks.links [--rounds N] [--messages N]``. Each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import uvloop
import zmq
from nacl.public import PrivateKey
from nacl.signing import SigningKey

from transport.certificates import Keys, fleet_of, issue
from transport.identity import Admin, AdminChain, Credentials, Trust
from transport.stream_links import StreamLinks
from transport.zmq_links import ZmqLinks

SIZE = 64
IN_FLIGHT = 512
Figures = dict[str, float]


class Fleet:
    """Two members with a common admin; the same for every process, from one seed."""

    def __init__(self, seed: bytes) -> None:
        self._admin = SigningKey(seed)
        self._founder = Admin(self._admin.verify_key.encode(), "admin")

    def trust(self) -> Trust:
        return Trust(AdminChain(self._founder), "bench", bytes(32))

    def member(self, name: str, number: int) -> Credentials:
        keys = Keys(bytes([number]) * 32, bytes([number + 100]) * 32)
        now = time.time()
        certificate = issue(
            self._admin,
            fleet_of(self._founder.key),
            name=name,
            role="node",
            grants=frozenset(),
            sign_key=keys.sign_key,
            curve_key=keys.curve_key,
            not_before_s=now - 60,
            expires_s=now + 3600,
        )
        return Credentials(self.trust().verify(certificate, now), certificate, keys)


class Echo:
    """A handler that sends everything back."""

    def link_up(self, link: Any) -> None: ...
    def link_writable(self, link: Any) -> None: ...
    def link_down(self, link: Any, reason: str) -> None: ...
    def refused(self, reason: str, facts: Mapping[str, object]) -> None:
        raise AssertionError((reason, facts))

    def link_messages(self, link: Any, messages: list[bytes]) -> None:
        for message in messages:
            link.send(message)


class Count(Echo):
    """A handler that hands the number of messages to whoever waits."""

    def __init__(self) -> None:
        self.on_messages: Callable[[int], None] = lambda count: None

    def link_messages(self, link: Any, messages: list[bytes]) -> None:
        self.on_messages(len(messages))


def _figures(trips: list[float], messages: int, took_s: float) -> Figures:
    trips.sort()
    return {
        "msg/s": messages / took_s,
        "p50 us": trips[len(trips) // 2] * 1e6,
        "p99 us": trips[int(len(trips) * 0.99)] * 1e6,
    }


# -- raw pyzmq


def _curve(secret: bytes) -> tuple[bytes, bytes]:
    return PrivateKey(secret).public_key.encode(), secret


def serve_raw(ready: Connection) -> None:
    router = zmq.Context().socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    ready.send(f"tcp://127.0.0.1:{port}")
    while True:
        router.send_multipart(router.recv_multipart())


def measure_raw(endpoint: str, trips: int, messages: int) -> Figures:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(endpoint)
    body = bytes(SIZE)
    times = []
    for i in range(trips + 200):
        began = time.perf_counter()
        dealer.send(body)
        dealer.recv()
        if i >= 200:
            times.append(time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(IN_FLIGHT):
        dealer.send(body)
    for i in range(messages):
        dealer.recv()
        if i < messages - IN_FLIGHT:
            dealer.send(body)
    took_s = time.perf_counter() - began
    dealer.close()
    context.term()
    return _figures(times, messages, took_s)


class RawReader:
    """A bare socket under a loop: what a minimal program would do."""

    def __init__(self, socket: zmq.Socket[bytes], take: Callable[[list[bytes]], None]) -> None:
        self._socket, self._take = socket, take
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(int(socket.getsockopt(zmq.FD)), self.drain)
        self._loop.call_soon(self.drain)

    def drain(self) -> None:
        for _ in range(256):
            try:
                self._take(self._socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                if not int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                    return
        self._loop.call_soon(self.drain)


def serve_raw_uv(ready: Connection) -> None:
    async def main() -> None:
        router = zmq.Context().socket(zmq.ROUTER)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, b"s" * 32)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        RawReader(router, router.send_multipart)
        ready.send(f"tcp://127.0.0.1:{port}")
        await asyncio.Event().wait()

    uvloop.run(main())


def measure_raw_uv(endpoint: str, trips: int, messages: int) -> Figures:
    async def main() -> Figures:
        context: Any = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.CURVE_SERVERKEY, _curve(b"s" * 32)[0])
        dealer.setsockopt(zmq.CURVE_PUBLICKEY, _curve(b"c" * 32)[0])
        dealer.setsockopt(zmq.CURVE_SECRETKEY, b"c" * 32)
        dealer.connect(endpoint)
        run = _Run(trips, messages, dealer.send, lambda: None)
        reader = RawReader(dealer, lambda frames: run.on_messages(1))
        run.poke = reader.drain  # a send may use up the edge
        figures = await run.result()
        asyncio.get_running_loop().remove_reader(dealer.getsockopt(zmq.FD))
        dealer.close()
        context.term()
        return figures

    return uvloop.run(main())


# -- ours


class _Run:
    """Round trips one by one, then a flood with a bounded number in flight; driven by the replies."""

    def __init__(self, trips: int, messages: int, send: Callable[[bytes], object], poke: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._trips, self._messages, self._send, self.poke = trips, messages, send, poke
        self._times: list[float] = []
        self._body = bytes(SIZE)
        self._got = 0
        self._sent = 0
        self._done: asyncio.Future[Figures] = self._loop.create_future()
        self._began = 0.0

    async def result(self) -> Figures:
        self._began = time.perf_counter()
        self._send(self._body)
        self.poke()
        return await asyncio.wait_for(self._done, 60)

    def on_messages(self, count: int) -> None:
        now = time.perf_counter()
        if len(self._times) < self._trips + 200:
            self._times.append(now - self._began)
            self._began = time.perf_counter()
            if len(self._times) < self._trips + 200:
                self._send(self._body)
            else:
                self._sent = IN_FLIGHT
                for _ in range(IN_FLIGHT):
                    self._send(self._body)
            return
        self._got += count
        for _ in range(min(count, self._messages - self._sent)):
            self._send(self._body)
            self._sent += 1
        if self._got >= self._messages and not self._done.done():
            self._done.set_result(_figures(self._times[200:], self._messages, time.perf_counter() - self._began))


def _links(kind: str, fleet: Fleet, name: str, number: int, handler: Any) -> Any:
    made = {"lan": ZmqLinks, "host": StreamLinks}[kind]
    return made(fleet.member(name, number), fleet.trust(), handler, info={"version": [1, 1]})


def serve_ours(kind: str, seed: bytes, where: str, ready: Connection) -> None:
    async def main() -> None:
        links = _links(kind, Fleet(seed), "server", 1, Echo())
        ready.send(await links.listen(where))
        await asyncio.Event().wait()

    uvloop.run(main())


def measure_ours(kind: str, seed: bytes, endpoint: str, trips: int, messages: int) -> Figures:
    async def main() -> Figures:
        fleet = Fleet(seed)
        count = Count()
        links = _links(kind, fleet, "client", 2, count)
        link = await links.connect(endpoint, server_key=fleet.member("server", 1).identity.curve_key)
        run = _Run(trips, messages, link.send, lambda: None)
        count.on_messages = run.on_messages
        figures = await run.result()
        await links.close()
        return figures

    return uvloop.run(main())


def _measure(which: str, endpoint: str, seed: bytes, trips: int, messages: int, out: Connection) -> None:
    if which == "raw":
        out.send(measure_raw(endpoint, trips, messages))
    elif which == "raw-uv":
        out.send(measure_raw_uv(endpoint, trips, messages))
    else:
        out.send(measure_ours(which, seed, endpoint, trips, messages))


def measure(rounds: int, trips: int, messages: int) -> dict[str, Figures]:
    """The medians over the rounds, by contender."""
    spawn = multiprocessing.get_context("spawn")
    seed = os.urandom(32)
    servers: list[Any] = []
    endpoints: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="sw-", dir="/tmp") as directory:
        os.chmod(directory, 0o700)
        targets: dict[str, tuple[Callable[..., None], tuple[object, ...]]] = {
            "raw": (serve_raw, ()),
            "raw-uv": (serve_raw_uv, ()),
            "lan": (serve_ours, ("lan", seed, "tcp://127.0.0.1:*")),
            "host": (serve_ours, ("host", seed, f"{directory}/s")),
        }
        try:
            for which, (target, arguments) in targets.items():
                here, there = spawn.Pipe()
                server = spawn.Process(target=target, args=(*arguments, there), daemon=True)
                server.start()
                servers.append(server)
                assert here.poll(30), f"the {which} server did not start"
                endpoints[which] = here.recv()
            rows: dict[str, list[Figures]] = {which: [] for which in targets}
            for _ in range(rounds):
                for which in targets:
                    here, there = spawn.Pipe()
                    client = spawn.Process(
                        target=_measure, args=(which, endpoints[which], seed, trips, messages, there)
                    )
                    client.start()
                    assert here.poll(120), f"{which} did not finish"
                    rows[which].append(here.recv())
                    client.join()
        finally:
            for server in servers:
                server.kill()
                server.join()
    return {
        which: {key: statistics.median(figures[key] for figures in rounds_) for key in rounds_[0]}
        for which, rounds_ in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trips", type=int, default=2000)
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    medians = measure(arguments.rounds, arguments.trips, arguments.messages)
    if arguments.json:
        print(json.dumps(medians))
        return
    base = medians["raw"]
    print(f"{SIZE} bytes, {IN_FLIGHT} in flight; medians of {arguments.rounds} interleaved rounds; (× raw)")
    for which, figures in medians.items():
        cells = [f"{key} {value:>10,.0f} ({value / base[key]:4.2f})" for key, value in figures.items()]
        print(f"{which:8}", "   ".join(cells))


if __name__ == "__main__":
    main()
