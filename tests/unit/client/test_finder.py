"""Finding nodes: through sockets of the home, from what nodes tell, and saying what was tried."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest

import swarm
from swarm.client.finder import Finder, client_credentials
from swarm.errors import FleetNotFound
from swarm.paths import Home
from transport.fleet import create_fleet, enroll
from transport.links import Link
from transport.stream_links import StreamLinks


class Quiet:
    def link_up(self, link: Link) -> None: ...

    def link_messages(self, link: Link, messages: list[bytes]) -> None: ...

    def link_writable(self, link: Link) -> None: ...

    def link_down(self, link: Link, reason: str) -> None: ...

    def refused(self, reason: str, facts: object) -> None: ...


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.resolve({"SWARM_HOME": str(tmp_path)})


def test_without_a_fleet_it_says_how_to_get_one(home: Home) -> None:
    with pytest.raises(FleetNotFound) as caught:
        swarm.connect(home, timeout_s=0.1)
    assert "swarm node" in caught.value.hint


def test_without_a_node_it_gives_up_in_time_and_says_what_was_tried(home: Home) -> None:
    create_fleet(home.fleet_dir, "lab")
    home.runtime.mkdir(parents=True, mode=0o700)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(home.node_socket("gone")))
    stale.close()
    began = time.monotonic()
    with pytest.raises(FleetNotFound, match="lab") as caught:
        swarm.connect(home, timeout_s=0.3)
    assert time.monotonic() - began < 60
    assert caught.value.tried
    assert "--seed" in caught.value.hint


def test_the_nearest_socket_is_used_and_one_that_stops_is_passed_over(home: Home) -> None:
    async def main() -> None:
        fleet = create_fleet(home.fleet_dir, "lab")
        home.runtime.mkdir(parents=True, mode=0o700)
        nodes = {}
        for name in ("elm", "oak"):
            credentials = enroll(fleet, home.node_dir(name), "node", name, ("code",), time.time())
            nodes[name] = StreamLinks(credentials, fleet.trust, Quiet(), info={}, boot=name.encode().ljust(8))
            await nodes[name].listen(str(home.node_socket(name)))
        own, credentials = client_credentials(home)
        env = {"SWARM_NODE_SOCKET": str(home.node_socket("oak"))}
        finder = Finder(home, own, credentials, Quiet(), bytes(8), (), {"client": "test"}, env)
        loop = asyncio.get_running_loop()
        link = await finder.find(loop.time() + 60)
        assert link.identity.name == "oak", "a task's own node comes first"
        assert link.reach == "host"
        other = await finder.find(loop.time() + 60, avoid=link.identity.id)
        assert other.identity.name == "elm"
        await finder.close()
        for links in nodes.values():
            await links.close()

    asyncio.run(main())
