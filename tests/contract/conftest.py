"""One world for every reach: a fleet of two admins' making, peers on it, and a handler that writes down what
happens."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop
from nacl.signing import SigningKey

from transport.certificates import Keys, fleet_of, issue
from transport.identity import Admin, AdminChain, Credentials, Trust
from transport.links import LinkSettings
from transport.memory_links import MemoryLinks, MemoryNetwork
from transport.revocation import revoke
from transport.stream_links import StreamLinks
from transport.zmq_links import ZmqLinks

SECRET = bytes(32)


class Fleet:
    """An admin and what it signs."""

    def __init__(self, seed: bytes | None = None) -> None:
        self.admin = SigningKey(seed or os.urandom(32))
        self.founder = self.admin.verify_key.encode()
        self.id = fleet_of(self.founder)

    def trust(self) -> Trust:
        return Trust(AdminChain(Admin(self.founder, "admin")), "test", SECRET)

    def credentials(self, name: str, role: str = "node", *, begins_s: float = -60, ends_s: float = 3600) -> Credentials:
        keys = Keys.create()
        now = time.time()
        certificate = issue(
            self.admin,
            self.id,
            name=name,
            role=role,
            grants=frozenset({"code"}),
            sign_key=keys.sign_key,
            curve_key=keys.curve_key,
            not_before_s=now + begins_s,
            expires_s=now + ends_s,
        )
        identity = self.trust().verify(certificate, now + (begins_s if begins_s > 0 else min(0, ends_s - 1)))
        return Credentials(identity, certificate, keys)

    def revoke(self, identity: Any) -> bytes:
        return revoke(self.admin, self.id, identity.id, at_s=time.time(), reason="test")


def with_other_keys(credentials: Credentials) -> Credentials:
    """Somebody else's certificate, shown by somebody who does not hold its keys."""
    forged = object.__new__(Credentials)
    for field in dataclasses.fields(credentials):
        object.__setattr__(forged, field.name, getattr(credentials, field.name))
    object.__setattr__(forged, "keys", Keys.create())
    return forged


class Recorder:
    """A handler that records; ``on_messages`` may be replaced."""

    def __init__(self) -> None:
        self.links: list[Any] = []
        self.messages: list[bytes] = []
        self.batches: list[int] = []
        self.down: list[tuple[Any, str]] = []
        self.writable: list[Any] = []
        self.refusals: list[tuple[str, Mapping[str, object]]] = []
        self.on_messages: Callable[[Any, list[bytes]], None] = lambda link, messages: None
        self.on_join: Callable[[bytes, str], bytes | None] = lambda message, address: None

    def link_up(self, link: Any) -> None:
        self.links.append(link)

    def link_messages(self, link: Any, messages: list[bytes]) -> None:
        assert link in self.links
        self.messages.extend(messages)
        self.batches.append(len(messages))
        self.on_messages(link, messages)

    def link_writable(self, link: Any) -> None:
        self.writable.append(link)

    def link_down(self, link: Any, reason: str) -> None:
        assert link in self.links
        self.down.append((link, reason))

    def refused(self, reason: str, facts: Mapping[str, object]) -> None:
        self.refusals.append((reason, facts))

    def join_request(self, message: bytes, peer_address: str) -> bytes | None:
        return self.on_join(message, peer_address)


async def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Let the loop turn until the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.005)


@dataclasses.dataclass
class Peer:
    """One process's worth of links."""

    links: Any
    seen: Recorder
    trust: Trust
    credentials: Credentials
    endpoint: str = ""

    @property
    def key(self) -> bytes:
        return self.credentials.keys.curve_key


class World:
    """Makes peers of one reach."""

    def __init__(self, reach: str, directory: Path) -> None:
        self.reach = reach
        self.fleet = Fleet()
        self.directory = directory
        self.network = MemoryNetwork()
        self._peers: list[Peer] = []

    def peer(
        self,
        name: str,
        *,
        fleet: Fleet | None = None,
        credentials: Credentials | None = None,
        info: Mapping[str, object] | None = None,
        said: Mapping[str, object] | None = None,
        settings: LinkSettings | None = None,
        **more: Any,
    ) -> Peer:
        fleet = fleet or self.fleet
        credentials = credentials or fleet.credentials(name)
        seen, trust = Recorder(), fleet.trust()
        if said is None:
            said = {"version": [1, 1], "host": b"h" * 16, "listen": [], **(info or {})}
        kinds: dict[str, Any] = {"memory": MemoryLinks, "stream": StreamLinks, "zmq": ZmqLinks}
        if self.reach == "memory":
            more["network"] = self.network
        links = kinds[self.reach](credentials, trust, seen, info=said, settings=settings, **more)
        peer = Peer(links, seen, trust, credentials)
        self._peers.append(peer)
        return peer

    async def listening(self, name: str = "anna", **more: Any) -> Peer:
        peer = self.peer(name, **more)
        peer.endpoint = await peer.links.listen(self.fresh_endpoint())
        return peer

    def fresh_endpoint(self) -> str:
        if self.reach == "memory":
            return "memory://*"
        if self.reach == "stream":
            return f"unix://{self.directory}/{len(self._peers)}.sock"
        return "tcp://127.0.0.1:*"

    def nobody(self) -> str:
        """An endpoint where nobody listens."""
        return {"memory": "memory://nobody", "stream": f"unix://{self.directory}/nobody", "zmq": "tcp://127.0.0.1:1"}[
            self.reach
        ]

    async def dial(self, near: Peer, far: Peer, **more: Any) -> Any:
        return await near.links.connect(far.endpoint, server_key=far.key, **more)

    async def pair(self, **more: Any) -> tuple[Peer, Peer, Any, Any]:
        """A listener, a dialler, and the link as each sees it (dialler's first)."""
        far, near = await self.listening("anna", **more), self.peer("bert", **more)
        link = await self.dial(near, far)
        await until(lambda: far.seen.links)
        return far, near, link, far.seen.links[0]

    async def close(self) -> None:
        for peer in self._peers:
            await asyncio.wait_for(peer.links.close(), 30)


@pytest.fixture(params=["memory", "stream", "zmq"])
def reach(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(params=["uvloop"])
def loop_kind(request: pytest.FixtureRequest) -> str:
    """What nodes run under; a test that asks for it runs under asyncio's own loop as well."""
    return str(request.param)


both_loops = pytest.mark.parametrize("loop_kind", ["uvloop", "asyncio"])


@pytest.fixture
def run(loop_kind: str) -> Callable[[Any], Any]:
    """Run a coroutine in a fresh loop, and fail for what the loop's exception handler is told."""

    def runner(coroutine: Any, *, expect_errors: int = 0) -> Any:
        errors: list[Any] = []

        async def main() -> Any:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
            return await asyncio.wait_for(coroutine, 40)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop_kind == "uvloop" else None) as loop:
            result = loop.run(main())
        assert len(errors) == expect_errors, errors
        return result

    return runner


@pytest.fixture
def world(reach: str, short_directory: Path) -> Callable[[], contextlib.AbstractAsyncContextManager[World]]:
    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[World]:
        made = World(reach, short_directory)
        try:
            yield made
        finally:
            await made.close()

    return make
