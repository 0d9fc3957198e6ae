"""Work of every kind, given to a node that is about to be stopped."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from swarm.client.sync import Fleet
from tests.e2e.fleets import until

BLOB_BYTES = 4 << 20
GUEST = "other"
"""The name under which nodes here know an interpreter for guest workers."""
Given = Callable[[Fleet, random.Random, Path], Any]


def _nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def _spin(seconds: float) -> int:
    until, turns = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        turns += 1
    return turns


def _stubborn(seconds: float) -> None:
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(seconds)


def _with_children(seconds: float) -> None:
    # One in the worker's group, one in a session of its own: a node that ends takes both along.
    subprocess.Popen(["sleep", str(seconds)])
    subprocess.Popen(["sleep", str(seconds)], start_new_session=True)
    time.sleep(seconds)


def _with_a_daemon(seconds: float) -> None:
    # Forked twice, so that nobody below the worker is its parent.
    subprocess.run(["sh", "-c", f"setsid sleep {seconds} </dev/null >/dev/null 2>&1 &"], check=True)
    time.sleep(seconds)


async def _rest(seconds: float) -> float:
    import asyncio

    await asyncio.sleep(seconds)
    return seconds


async def _rest_deaf(seconds: float) -> None:
    import asyncio

    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.sleep(seconds)


def _crash(index: int) -> int:
    import os

    if index % 3 == 0:
        os._exit(7)
    return index


def _endless(bytes_each: int) -> Iterator[bytes]:
    while True:
        yield b"x" * bytes_each
        time.sleep(0.002)


def _double(array: Any) -> Any:
    return array * 2


def linked(fleet: Fleet, rng: random.Random, temporary: Path) -> Any:
    """A client that wants nothing."""
    return fleet.members()


def busy(fleet: Fleet, rng: random.Random, temporary: Path) -> Any:
    """Callables of all lengths: some end in time, some never would."""
    given = [fleet.submit(_nap, rng.random() * 0.2) for _ in range(rng.randrange(5, 80))]
    given += [fleet.submit(_spin, rng.random() * 0.2) for _ in range(rng.randrange(3))]
    return given + [fleet.submit(rng.choice((_nap, _stubborn, _with_children, _with_a_daemon)), 300)]


def short(fleet: Fleet, rng: random.Random, temporary: Path) -> Any:
    """Callables that all end soon."""
    return [fleet.submit(_nap, rng.random() * 0.1) for _ in range(rng.randrange(20, 80))]


def coroutines(fleet: Fleet, rng: random.Random, temporary: Path) -> Any:
    """Many coroutines at a time on the loops of workers, some of which do not end when they are told."""
    given = [fleet.submit(_rest, rng.random() * 0.3) for _ in range(rng.randrange(5, 200))]
    return given + [fleet.submit(rng.choice((_rest, _rest_deaf)), 300) for _ in range(rng.randrange(3))]


def command(fleet: Fleet, rng: random.Random, temporary: Path) -> Any:
    """Commands with children: in their group, in sessions of their own, and deaf to SIGTERM."""
    script = "touch here; sleep 300 & setsid sleep 300 & (setsid sh -c 'sleep 300; sleep 300' &) ; trap '' TERM INT; echo up; "
    said: list[bytes] = []
    given = fleet.submit_command(
        ["sh", "-c", script + "while :; do sleep 1; done"], on_output=lambda _, data: said.append(data)
    )
    if rng.random() < 0.7:
        until(lambda: b"".join(said) == b"up\n", 60, "the command runs")
    return given


def staged(fleet: Fleet, rng: random.Random, temporary: Path) -> Any:
    """Many short commands with files: the stop comes while directories are made, filled and removed."""
    source = temporary.parent / "input"
    source.write_bytes(b"line\n" * 50_000)
    script = "wc -l <input >count; mkdir sub; cp input sub"
    return [
        fleet.submit_command(["sh", "-c", script], files_in=[("input", source)], files_out=["count", "sub"])
        for _ in range(rng.randrange(4, 20))
    ]


def stream(fleet: Fleet, rng: random.Random, temporary: Path) -> Any:
    """A stream without an end, of which some is read."""
    items = fleet.stream(_endless, rng.choice((10, 100_000)))
    for _ in range(rng.randrange(20)):
        next(items)
    return items


def blobs(fleet: Fleet, rng: random.Random, temporary: Path) -> Any:
    """Arrays by way of shared memory; results stay mapped here while the node goes, others are under way."""
    array = np.arange(BLOB_BYTES // 8, dtype=np.float64)
    held = [fleet.submit(_double, array).result(30) for _ in range(rng.randrange(1, 3))]
    return held, [fleet.submit(_double, array + index) for index in range(rng.randrange(6))]


def guest(fleet: Fleet, rng: random.Random, temporary: Path) -> Any:
    """Tasks of another interpreter: starting, running, or waiting for it."""
    given = [fleet.submit(_nap, 0.02, python=GUEST) for _ in range(5)]
    if rng.random() < 0.7:
        given[0].result(30)
    return given + [fleet.submit(rng.choice((_nap, _with_children)), 300, python=GUEST)]


def crashing(fleet: Fleet, rng: random.Random, temporary: Path) -> Any:
    """Workers that die all the time: the stop comes while others are started in their place."""
    return [fleet.submit(_crash, index) for index in range(30)]


def lone(fleet: Fleet, rng: random.Random, temporary: Path) -> Any:
    """One call after the other: a worker's slot is the client's, or about to be, and perhaps the last call lasts."""
    for number in range(rng.randrange(3, 60)):
        if fleet.submit(abs, -number).result(30) != number:
            raise AssertionError(number)
    return fleet.submit(rng.choice((_nap, _stubborn, _with_children)), rng.choice((0.01, 300)))


KINDS: dict[str, Given] = {
    given.__name__: given for given in (linked, busy, coroutines, command, staged, stream, blobs, guest, crashing, lone)
}  # fmt: skip
GUEST_PYTHON = f"{GUEST}={sys.executable}"
