"""A worker that says much at once is heard in turns; what it says last is heard before its end."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from nodes import pool as pools
from nodes.pool import Pool, PoolConfig, _Process
from nodes.worker import channel as wire
from transport.bounds import TURN_S

FRAMES = 400


class Handler:
    """Notes what the pool tells, and in which iteration of the loop."""

    def __init__(self) -> None:
        self.slots: list[int] = []
        self.iterations: list[int] = []
        self.iteration = 0
        self.turns = 0
        self.exited: list[str] = []
        self.now = 0.0

    def worker_slice_done(self, worker: int, slot: int) -> None:
        self.slots.append(slot)
        self.iterations.append(self.iteration)
        self.now += TURN_S / 4

    def worker_turn(self) -> None:
        self.turns += 1

    def worker_exited(self, worker: int, why: str) -> None:
        self.exited.append(why)

    def count(self) -> None:
        self.iteration += 1
        asyncio.get_running_loop().call_soon(self.count)


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Handler:
    it = Handler()
    monkeypatch.setattr(pools.time, "monotonic", lambda: it.now)
    return it


@pytest.fixture
def ended() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has ended."""
    with subprocess.Popen(["true"], start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as it:
        it.wait()
        yield it


def with_worker(
    handler: Handler, popen: subprocess.Popen[bytes], what: Callable[[Pool, _Process, socket.socket], Any]
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = Pool(PoolConfig(), handler, loop)  # type: ignore[arg-type]
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            process = _Process(1, popen, ours, None, wire.Frames(), {})
            pool._processes[1] = process
            loop.add_reader(ours.fileno(), pool._readable, process)
            handler.count()
            await what(pool, process, theirs)
            if not process.closed:
                loop.remove_reader(ours.fileno())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 20))


SAID = b"".join(wire.pack(wire.DONE, slot=number % 16) for number in range(FRAMES))


def test_much_is_taken_in_turns_and_in_order(handler: Handler, ended: subprocess.Popen[bytes]) -> None:
    async def says(pool: Pool, process: _Process, theirs: socket.socket) -> None:
        theirs.sendall(SAID)
        while len(handler.slots) < FRAMES:
            await asyncio.sleep(0)
        theirs.sendall(wire.pack(wire.DONE, slot=15))
        while len(handler.slots) == FRAMES:
            await asyncio.sleep(0)

    with_worker(handler, ended, says)
    assert handler.slots == [number % 16 for number in range(FRAMES)] + [15]
    assert max(handler.iterations.count(one) for one in set(handler.iterations)) <= 5, "four make a turn"
    assert handler.turns >= FRAMES // 5, "what follows from a turn is done in it"


def test_what_it_said_last_is_heard_before_its_end(handler: Handler, ended: subprocess.Popen[bytes]) -> None:
    async def says(pool: Pool, process: _Process, theirs: socket.socket) -> None:
        theirs.sendall(SAID)
        while not handler.slots:
            await asyncio.sleep(0)
        theirs.sendall(SAID)
        assert process.unread, "some of the first waits"
        pool._ended(process)
        assert handler.slots == [number % 16 for number in range(FRAMES)] * 2
        assert handler.exited == ["exit 0"] and process.closed
        await asyncio.sleep(0)

    with_worker(handler, ended, says)


def test_of_one_that_says_nonsense_nothing_more_is_heard(
    handler: Handler, ended: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(pools.os, "killpg", lambda group, number: killed.append(number))

    async def says(pool: Pool, process: _Process, theirs: socket.socket) -> None:
        theirs.sendall(wire.pack(wire.DONE) + wire.pack(99) + SAID)
        while not killed:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not process.unread

    with_worker(handler, ended, says)
    assert handler.slots == [0] and killed[0] == signal.SIGKILL
