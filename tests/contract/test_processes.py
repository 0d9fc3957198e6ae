"""Links to other processes that die, stop and come back. The in-memory twin has a cable to cut instead."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Peer, World, until

from transport.links import HandshakeFailed, LinkSettings

Run = Callable[..., Any]
MakeWorld = Callable[[], contextlib.AbstractAsyncContextManager[World]]
USUAL = LinkSettings(linger_s=0.2)
"""A process that only waits for its turn is silent for longer than a second where much else runs."""
BRIEF = LinkSettings(keepalive_idle_s=0.2, keepalive_silence_s=0.8, keepalive_tick_s=0.05, linger_s=0.2)
HERE = Path(__file__).parent


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    children: list[subprocess.Popen[bytes]] = []

    def starter(w: World, credentials: Any, endpoint: str, key: bytes, *, listen: bool) -> Any:
        child = subprocess.Popen(
            [sys.executable, str(HERE / "child.py"), w.reach, endpoint, key.hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{HERE.parent.parent}:{HERE}"},
        )
        children.append(child)
        assert child.stdin is not None
        child.stdin.write(pickle.dumps((bytes(w.fleet.admin), credentials, listen)))
        child.stdin.close()
        return child

    yield starter
    for child in children:
        child.kill()
        child.wait()


async def _said(child: subprocess.Popen[bytes]) -> str:
    assert child.stdout is not None
    line = await asyncio.get_running_loop().run_in_executor(None, child.stdout.readline)
    return line.decode().strip()


@pytest.mark.parametrize("dialled", [True, False], ids=["dialler", "listener"])
def test_a_killed_peer_is_noticed_at_once(run: Run, world: MakeWorld, reach: str, start: Any, dialled: bool) -> None:
    """``dialled``: whether the one who is killed had dialled."""

    async def memory() -> None:
        async with world() as w:
            far, near, _, _ = await w.pair()
            victim, other = (near, far) if dialled else (far, near)
            victim.links.kill()
            await until(lambda: other.seen.down)
            assert other.seen.down[0][1] == "disconnected"

    async def main() -> None:
        async with world() as w:
            peer, link, child = await _with_child(w, start, dialled)
            link.send(b"ping")
            await until(lambda: peer.seen.messages == [b"ping"])
            child.send_signal(signal.SIGKILL)
            await until(lambda: peer.seen.down)
            assert peer.seen.down == [(link, "disconnected")]
            assert not link.up

    run(memory() if reach == "memory" else main())


@pytest.mark.parametrize("dialled", [True, False], ids=["dialler", "listener"])
def test_a_stopped_peer_is_silent_and_dropped(
    run: Run, world: MakeWorld, reach: str, start: Any, dialled: bool
) -> None:
    async def memory() -> None:
        async with world() as w:
            far, near, _, _ = await w.pair(settings=BRIEF)
            w.network.cut = True
            await until(lambda: far.seen.down and near.seen.down)
            assert (far.seen.down[0][1], near.seen.down[0][1]) == ("silent", "silent")

    async def main() -> None:
        async with world() as w:
            peer, link, child = await _with_child(w, start, dialled, BRIEF)
            child.send_signal(signal.SIGSTOP)
            await until(lambda: peer.seen.down)
            assert peer.seen.down[0][1] in ("silent", "disconnected")
            assert peer.seen.down[0][0] is link
            child.send_signal(signal.SIGCONT)

    run(memory() if reach == "memory" else main())


async def _with_child(w: World, start: Any, dialled: bool, settings: LinkSettings = USUAL) -> tuple[Peer, Any, Any]:
    credentials = w.fleet.credentials("child")
    if dialled:
        peer = await w.listening("anna", settings=settings)
        child = start(w, credentials, peer.endpoint, peer.key, listen=False)
        assert await _said(child) == "up"
        await until(lambda: peer.seen.links)
        return peer, peer.seen.links[0], child
    peer = w.peer("anna", settings=settings)
    child = start(w, credentials, w.fresh_endpoint(), bytes(32), listen=True)
    child.endpoint = await _said(child)
    link = await peer.links.connect(child.endpoint, server_key=credentials.keys.curve_key, timeout_s=30)
    return peer, link, child


def test_a_listener_that_does_not_answer_is_given_up(run: Run, world: MakeWorld, reach: str, start: Any) -> None:
    async def main() -> None:
        async with world() as w:
            if reach == "memory":
                far = await w.listening("anna")
                endpoint, key = far.endpoint, far.key
                w.network.cut = True
            else:
                _, link, child = await _with_child(w, start, dialled=False)
                child.send_signal(signal.SIGSTOP)
                endpoint, key = child.endpoint, link.identity.curve_key
            near = w.peer("bert")
            with pytest.raises(HandshakeFailed) as caught:
                await near.links.connect(endpoint, server_key=key, timeout_s=0.5)
            assert caught.value.reason == "timeout"
            assert "0.5 s" in str(caught.value)

    run(main())


@pytest.mark.parametrize("reach", ["stream", "zmq"])
def test_a_listener_that_was_killed_can_be_replaced(run: Run, world: MakeWorld, reach: str, start: Any) -> None:
    """Its socket file or port is taken over by the next process."""

    async def main() -> None:
        async with world() as w:
            peer, _, child = await _with_child(w, start, dialled=False)
            child.kill()
            await until(lambda: peer.seen.down)
            credentials = w.fleet.credentials("heir")
            heir = start(w, credentials, child.endpoint, bytes(32), listen=True)
            assert await _said(heir) == child.endpoint
            link = await peer.links.connect(child.endpoint, server_key=credentials.keys.curve_key, timeout_s=30)
            link.send(b"back again")
            await until(lambda: peer.seen.messages == [b"back again"])

    run(main())
