"""64 MiB between hosts, encrypted: the real thing beside pyzmq with CURVE, interleaved in one run.

A node and a client of another home (so that nothing goes by shared memory) on this machine's LAN address, or loopback
where there is none; TCP crosses the loopback interface either way.

``curve``     pyzmq DEALER/ROUTER with CURVE, two processes, one message there and the same one back, zero-copy
``lane``      a blob to the node's store and one back, by the bulk lane alone
``argument``  a task with that argument
``task``      a task with that argument, which returns it: to a worker, and the result back from it

Run it: ``python -m benchmarks.bulk [--rounds N] [--mib N]``. Figures are medians; bytes both ways over the time of both.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy
import zmq

import swarm

READY_TIMEOUT_S = 30.0


def size_of(array: Any) -> int:
    """The task with a large argument."""
    return int(array.nbytes)


def same(array: Any) -> Any:
    """The task with a large argument and a large result."""
    return array


def serve_curve(ready: Connection, public: bytes, secret: bytes) -> None:
    """Send every message back."""
    router = zmq.Context().socket(zmq.ROUTER)
    router.curve_server, router.curve_publickey, router.curve_secretkey = True, public, secret
    ready.send(router.bind_to_random_port("tcp://127.0.0.1"))
    while True:
        who, message = router.recv_multipart(copy=False)
        router.send_multipart([who.bytes, message.buffer], copy=False)


class Curve:
    """The peer's way."""

    def __init__(self) -> None:
        public, secret = zmq.curve_keypair()
        here, there = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        self._process = spawn.Process(target=serve_curve, args=(there, public, secret), daemon=True)
        self._process.start()
        assert here.poll(READY_TIMEOUT_S), "the CURVE server did not start"
        self._dealer = zmq.Context().socket(zmq.DEALER)
        self._dealer.curve_serverkey = public
        self._dealer.curve_publickey, self._dealer.curve_secretkey = zmq.curve_keypair()
        self._dealer.connect(f"tcp://127.0.0.1:{here.recv()}")

    def both_ways(self, data: Any) -> None:
        self._dealer.send(data, copy=False)
        assert len(self._dealer.recv(copy=False).buffer) == data.nbytes

    def close(self) -> None:
        self._dealer.close(0)
        self._process.kill()
        self._process.join()


class Fleet:
    """A node in one home, and a client of another home that came in by a token."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="swarm-bench-"))
        self.homes = [self.root / "node", self.root / "client"]
        for home in self.homes:
            home.mkdir()
        with open(self.root / "log", "wb") as log:
            self.node = subprocess.Popen(
                [*SWARM, "node", "--name", "bench", "--workers", "1"], env=self._env(0), stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not list(self.homes[0].glob("run/*.sock")):
            assert time.monotonic() < deadline, (self.root / "log").read_text()
            time.sleep(0.02)
        token = self._said(0, "fleet", "token")
        self._said(1, "fleet", "join", token.strip())
        seeds = (self.homes[1] / "data" / "fleet" / "seeds").read_text().split()
        self.client = swarm.connect(self.homes[1], seeds=seeds, timeout_s=READY_TIMEOUT_S)

    def _env(self, home: int) -> dict[str, str]:
        return {**os.environ, "SWARM_HOME": str(self.homes[home])}

    def _said(self, home: int, *words: str) -> str:
        return subprocess.run([*SWARM, *words], env=self._env(home), check=True, capture_output=True, text=True).stdout

    def lane(self, data: Any) -> None:
        """A blob there, and one back."""
        buffers = self.client._buffers
        ref = buffers.put(memoryview(data))
        assert buffers.open(ref).nbytes == data.nbytes

    def argument(self, data: Any) -> None:
        assert self.client.submit(size_of, data).result(60) == data.nbytes

    def task(self, data: Any) -> None:
        assert self.client.submit(same, data).result(60).nbytes == data.nbytes

    def close(self) -> None:
        self.client.close()
        self.node.send_signal(signal.SIGTERM)
        self.node.wait(30)
        shutil.rmtree(self.root, ignore_errors=True)


SWARM = [sys.executable, "-m", "nodes.cli"]


def measure(rounds: int, mib: int) -> dict[str, float]:
    """Medians in MB/s (10^6 bytes a second), by contender."""
    data = numpy.frombuffer(os.urandom(mib << 20), dtype="u1")
    curve, fleet = Curve(), Fleet()
    try:
        ways: dict[str, tuple[int, Callable[[Any], None]]] = {
            "curve": (2, curve.both_ways),
            "lane": (2, fleet.lane),
            "argument": (1, fleet.argument),
            "task": (2, fleet.task),
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, (times, way) in ways.items():
                began = time.perf_counter()
                way(data)
                if number:  # the first round warms up
                    took[name].append(times * data.nbytes / 1e6 / (time.perf_counter() - began))
    finally:
        fleet.close()
        curve.close()
    return {name: statistics.median(rates) for name, rates in took.items()}


LABELS = {
    "lane": "a blob there and back, by the bulk lane",
    "argument": "a task with it as its argument",
    "task": "a task with it as its argument and its result",
}


def rows(rounds: int, mib: int) -> None:
    """Measure, and print."""
    rates = measure(rounds, mib)
    base = rates["curve"]
    print(f"{mib} MiB between hosts, encrypted; medians of {rounds} interleaved rounds")
    print(f"{'  pyzmq with CURVE, there and back':<58} {base:>11,.0f} MB/s")
    for name, label in LABELS.items():
        print(f"{'  ' + label:<58} {rates[name]:>11,.0f} MB/s {rates[name] / base:>15.1f} x CURVE", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mib", type=int, default=64)
    arguments = parser.parse_args()
    rows(arguments.rounds, arguments.mib)


if __name__ == "__main__":
    main()
