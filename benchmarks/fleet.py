"""`make bench`: our figures beside those of peers and of the wire, in one run. Prints; asserts nothing.

Machines are noisy: compare the ratios, which come from rounds that were interleaved, not the absolute figures.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import psutil
import zmq

import swarm

ROUNDS = 3
IN_FLIGHT = 5_000
TASKS = 100_000


def noop() -> None:
    """The task of most lines below."""


def double(x: int) -> int:
    """The task of the lines about map."""
    return x * 2


def raw_echo_per_s(seconds: float = 1.0) -> float:
    """pyzmq DEALER/ROUTER echo over loopback, blocking, without encryption, 64 bytes, one message at a time in flight 512."""
    context = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    dealer.connect(f"tcp://127.0.0.1:{port}")

    def serve() -> None:
        while True:
            frames = router.recv_multipart()
            if frames[-1] == b"end":
                return
            router.send_multipart(frames)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    payload, count, began = b"x" * 64, 0, time.perf_counter()
    for _ in range(512):
        dealer.send(payload)
    while time.perf_counter() - began < seconds:
        for _ in range(100):
            dealer.recv()
            dealer.send(payload)
        count += 100
    rate = count / (time.perf_counter() - began)
    for _ in range(512):
        dealer.recv()
    dealer.send(b"end")
    thread.join()
    context.destroy(linger=0)
    return rate


def raw_round_trips_us(count: int = 2000) -> list[float]:
    """Round trips of the same echo, one at a time, microseconds."""
    context = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    dealer.connect(f"tcp://127.0.0.1:{port}")

    def serve() -> None:
        for _ in range(count):
            router.send_multipart(router.recv_multipart())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    took = []
    for _ in range(count):
        began = time.perf_counter()
        dealer.send(b"x" * 64)
        dealer.recv()
        took.append((time.perf_counter() - began) * 1e6)
    thread.join(2)
    context.destroy(linger=0)
    return took


class Node:
    """One node with two workers in a home of its own."""

    def __init__(self) -> None:
        self.home = tempfile.mkdtemp(prefix="swarm-bench-")
        os.environ["SWARM_HOME"] = self.home
        self.began = time.perf_counter()
        with open(Path(self.home) / "log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nodes.cli", "node", "--name", "bench", "--workers", "2"], stdout=log, stderr=log
            )

    def close(self) -> None:
        """Stop it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        shutil.rmtree(self.home, ignore_errors=True)


def connected() -> swarm.Fleet:
    """A client, as soon as the node has made its fleet and listens."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return swarm.connect(timeout_s=0.2)
        except swarm.FleetNotFound:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def in_flight_per_s(submit: Callable[..., object], tasks: int) -> float:
    """Tasks a second with `IN_FLIGHT` of them under way."""
    waiting: deque[concurrent.futures.Future[None]] = deque()
    began = time.perf_counter()
    for _ in range(tasks):
        waiting.append(submit(noop))  # type: ignore[arg-type]
        if len(waiting) >= IN_FLIGHT:
            waiting.popleft().result()
    while waiting:
        waiting.popleft().result()
    return tasks / (time.perf_counter() - began)


def round_trips_us(submit: Callable[..., object], count: int) -> list[float]:
    """Round trips of one no-op at a time, microseconds."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        submit(noop).result()  # type: ignore[attr-defined]
        took.append((time.perf_counter() - began) * 1e6)
    return took


def median(values: list[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def line(what: str, value: str, ratio: str = "") -> None:
    """One row."""
    print(f"{what:<58} {value:>16} {ratio:>24}", flush=True)


def main() -> None:
    """Everything, about a minute."""
    node = Node()
    try:
        fleet = connected()
        fleet.submit(noop).result(20)
        cold = time.perf_counter() - node.began
        line("cold start of node and client to the first result", f"{cold:.2f} s")
        parent = psutil.Process(node.process.pid)
        workers = [child.memory_info().rss / 1e6 for child in parent.children()]
        line("resident memory: node / an idle worker", f"{parent.memory_info().rss / 1e6:.0f} / {max(workers):.0f} MB")
        for _ in range(500):
            fleet.submit(noop).result()
        spawn = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(2, spawn)
        apart = concurrent.futures.ProcessPoolExecutor(1, spawn)  # the raw sockets, in a process of their own
        pool.submit(noop).result()
        raw, ours, theirs = [], [], []
        for _ in range(ROUNDS):
            raw.append(apart.submit(raw_echo_per_s).result())
            ours.append(in_flight_per_s(fleet.submit, TASKS))
            theirs.append(in_flight_per_s(pool.submit, 10_000))
        line("raw pyzmq DEALER/ROUTER echo, blocking", f"{median(raw):,.0f}/s")
        line(
            f"submit, no-op, {IN_FLIGHT:,} in flight",
            f"{median(ours):,.0f}/s",
            f"{median(ours) / median(raw):.1f} x raw echo",
        )
        line("  ProcessPoolExecutor", f"{median(theirs):,.0f}/s", f"ours is {median(ours) / median(theirs):.1f} x")
        trips, raw_trips, pool_trips = [], [], []
        for _ in range(ROUNDS):
            trips += round_trips_us(fleet.submit, 1000)
            raw_trips += apart.submit(raw_round_trips_us, 1000).result()
            pool_trips += round_trips_us(pool.submit, 300)
        for name, part in (("p50", 0.5), ("p99", 0.99)):
            ours_us, raw_us, pool_us = (sorted(one)[int(len(one) * part)] for one in (trips, raw_trips, pool_trips))
            line(
                f"round trip of one task {name}", f"{ours_us:,.0f} us", f"{ours_us / raw_us:.1f} x raw {raw_us:,.0f} us"
            )
            line("  ProcessPoolExecutor", f"{pool_us:,.0f} us", f"ours is {ours_us / pool_us:.2f} x")
        mapped, pool_mapped = [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            assert sum(fleet.map(double, range(200_000), chunksize=2000)) == 199_999 * 200_000
            mapped.append(200_000 / (time.perf_counter() - began))
            began = time.perf_counter()
            assert sum(pool.map(double, range(200_000), chunksize=2000)) == 199_999 * 200_000
            pool_mapped.append(200_000 / (time.perf_counter() - began))
        line(
            "map, 2,000 items a task",
            f"{median(mapped):,.0f}/s",
            f"{median(mapped) / median(pool_mapped):.2f} x its map",
        )
        blob, sizes = b"x" * (64 << 20), []
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            assert len(fleet.submit(bytes, blob).result()) == len(blob)
            sizes.append(time.perf_counter() - began)
        line("64 MiB argument and result, same host, warm", f"{median(sizes[1:]) * 1e3:,.0f} ms")
        pool.shutdown()
        apart.shutdown()
        fleet.close()
    finally:
        node.close()
