"""Where a client finds its fleet: a node of this home first, then nodes it heard of, then the LAN."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from swarm.errors import FleetNotFound
from swarm.paths import Home
from transport.fleet import Fleet, enroll, host_name
from transport.hints import Hint
from transport.identity import Credentials, Trust
from transport.links import HandshakeFailed, Link, LinkHandler
from transport.private_files import FleetError, last_written_s
from transport.stream_links import StreamLinks

DIAL_TIMEOUT_S = 2.0
ROUND_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Place:
    """A node that a client may use."""

    id: bytes | None
    addresses: tuple[tuple[str, int], ...]
    curve_key: bytes


def client_credentials(home: Home) -> tuple[Fleet, Credentials]:
    """What this user proves itself with. FleetNotFound when this home is in no fleet."""
    try:
        fleet = Fleet.load(home.fleet_dir)
        # A node here that runs was let in before it made its socket, whatever the clock says now.
        fleet.trust.saw(last_written_s(home.fleet_dir, home.data / "client", home.runtime))
        return fleet, enroll(fleet, home.data / "client", "client", user_name(), ("code",), time.time())
    except FleetError as error:
        if error.reason in ("missing", "not-enrolled"):
            raise FleetNotFound(
                "no fleet is known here",
                hint="`swarm node` starts one on this machine, `swarm fleet join TOKEN` enters one",
                home=str(home.fleet_dir),
            ) from error
        raise FleetNotFound(str(error), hint=error.hint) from error


def user_name() -> str:
    """What the user of this home is called as a client."""
    import getpass

    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = host_name()
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)[:32] or "user"


class Finder:
    """Opens links to nodes, trying what is nearest first."""

    def __init__(
        self,
        home: Home,
        fleet: Fleet,
        credentials: Credentials,
        handler: LinkHandler,
        boot: bytes,
        seeds: Iterable[str],
        info: Mapping[str, object],
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._home = home
        self._fleet = fleet
        self._credentials = credentials
        self._handler = handler
        self._boot = boot
        self._seeds = tuple(seeds)
        self._info = info
        self._env = os.environ if env is None else env
        self._streams: StreamLinks | None = None
        self._tcp: Any = None
        self._discovery: Any = None
        self.places: dict[bytes, Place] = {}
        self.reached: dict[bytes, str] = {}
        """The host by which a node was reached last, by the node's id."""
        self.tried: list[str] = []

    @property
    def credentials(self) -> Credentials:
        """What this client proves itself with."""
        return self._credentials

    @property
    def trust(self) -> Trust:
        """Whom it believes."""
        return self._fleet.trust

    async def find(self, deadline: float, avoid: bytes | None = None) -> Link:
        """A link to a node; another than `avoid` if there is one. FleetNotFound at the deadline (loop's clock)."""
        loop = asyncio.get_running_loop()
        self.tried = []
        while True:
            for attempt in self._attempts(avoid):
                if loop.time() >= deadline:
                    break
                try:
                    link: Link = await attempt(min(DIAL_TIMEOUT_S, max(0.05, deadline - loop.time())))
                    if avoid is None or link.identity.id != avoid:
                        return link
                    self.tried.append(f"{link.identity.name} stops")
                    link.close("another node is wanted")
                except HandshakeFailed as error:
                    self.tried.append(f"{error.reason}: {error}")
                except (OSError, ValueError) as error:
                    self.tried.append(str(error))
            if loop.time() >= deadline:
                break
            await self._listen_to_lan()
            avoid = None
            await asyncio.sleep(ROUND_PAUSE_S)
        last = f" ({self.tried[-1]})" if self.tried else ""
        raise FleetNotFound(
            f"no node of {self._fleet.name} was reached{last}",
            hint="is a node running? `swarm node` starts one. Without multicast, name one: --seed HOST:PORT",
            tried=self.tried[-8:],
        )

    def _attempts(self, avoid: bytes | None) -> list[Callable[[float], Any]]:
        attempts: list[Callable[[float], Any]] = []
        named = self._env.get("SWARM_NODE_SOCKET")
        sockets = [Path(named)] if named else []
        sockets += [path for path in sorted(self._home.runtime.glob("*.sock")) if path not in sockets]
        attempts += [partial(self._by_socket, path) for path in sockets]
        for place in list(self.places.values()):
            if place.id is None or place.id != avoid:
                attempts.append(partial(self._by_tcp, place))
        return attempts

    async def _by_socket(self, path: Path, timeout_s: float) -> Link:
        if self._streams is None:
            self._streams = StreamLinks(
                self._credentials, self._fleet.trust, self._handler, info=self._info, boot=self._boot
            )
        return await self._streams.connect(str(path), timeout_s=timeout_s)

    async def _by_tcp(self, place: Place, timeout_s: float) -> Link:
        if self._tcp is None:
            from transport.zmq_links import ZmqLinks

            self._tcp = ZmqLinks(self._credentials, self._fleet.trust, self._handler, info=self._info, boot=self._boot)
        failure: HandshakeFailed | None = None
        for host, port in place.addresses:
            endpoint = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
            try:
                link: Link = await self._tcp.connect(
                    endpoint, server_key=place.curve_key, expect=place.id, timeout_s=timeout_s / len(place.addresses)
                )
                self.reached[link.identity.id] = host
                return link
            except HandshakeFailed as error:
                failure = error
        raise failure or HandshakeFailed("unreachable", "the node has no address")

    def learn(self, nodes: Iterable[Mapping[str, Any]]) -> None:
        """Nodes that a node told of."""
        for node in nodes:
            addresses = tuple((str(host), int(port)) for host, port in node["addresses"])
            self.places[bytes(node["id"])] = Place(bytes(node["id"]), addresses, bytes(node["curve_key"]))

    def _hinted(self, hint: Hint) -> None:
        if hint.curve_key is not None:
            key = hint.id or hint.curve_key[:16]
            addresses = tuple((host, hint.port) for host in hint.addresses)
            self.places[key] = Place(hint.id, addresses, hint.curve_key)

    async def _listen_to_lan(self) -> None:
        """No node here: see whom multicast, presence files and remembered peers tell of."""
        if self._discovery is not None:
            return
        from transport.discovery import Discovery
        from transport.peer_cache import PeerCache

        self._discovery = Discovery(
            self._fleet.trust.tag,
            self._hinted,
            lan=True,
            seeds=self._seeds,
            cache=PeerCache(self._home.state / "peers"),
            directory=self._home.runtime if self._home.runtime.is_dir() else None,
        )
        await self._discovery.open()

    async def close(self) -> None:
        """Close every link."""
        if self._discovery is not None:
            await self._discovery.close()
        for links in (self._streams, self._tcp):
            if links is not None:
                await links.close()
