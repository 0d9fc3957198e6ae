"""Where a node listens: on loopback until a second machine is asked for, then on the LAN, always on the same ports."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable
from pathlib import Path

from nodes.lane import Lane
from nodes.machine import endpoint_of, interface_addresses, read_number
from nodes.neighbourhood import Neighbourhood
from nodes.settings import NodeSettings
from swarm.errors import SystemRefused
from swarm.paths import Home
from swarm.protocol.effects import Fact
from transport.hints import Address
from transport.zmq_links import ZmqLinks

LOOPBACK = "127.0.0.1"
LAN_MARK = "lan"
"""File in the fleet's directory: a second machine was asked for, so nodes of this home listen on the LAN."""


class Listening:
    """The ports of a node, for links, datagrams and bulk, and the links of other hosts, since a port that is taken needs new ones.

    Opened in two steps: `open` with the neighbourhood, which uses `links`, then `open_bulk` with the lane, which says the addresses.
    """

    neighbourhood: Neighbourhood
    lane: Lane

    def __init__(
        self, settings: NodeSettings, home: Home, directory: Path, is_admin: bool, made: Callable[[], ZmqLinks],
        fact: Callable[[Fact], object],
    ) -> None:  # fmt: skip
        self._settings = settings
        self._home = home
        self._directory = directory
        self._is_admin = is_admin
        self._made = made
        self._fact = fact
        self._one_by_one: set[str] | None = None
        """LAN addresses listened at, where the node listened on loopback first."""
        self.links = made()
        self.port = 0
        self.on_lan = False
        """Whether other machines reach this node."""

    async def close(self) -> None:
        """Close the links."""
        await self.links.close()

    async def open(self, neighbourhood: Neighbourhood) -> None:
        """TCP and UDP on one port: the one asked for, the one of last time, or a free one."""
        self.neighbourhood = neighbourhood
        kept = self._directory / "port"
        asked = self._settings.listen.port
        before = asked or read_number(kept)
        hosts = self._hosts()
        for port in dict.fromkeys((before, *((0, 0, 0) if not asked else ()))):
            try:
                self.port = await self._bind(hosts, port)
                break
            except OSError as error:
                if asked or error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise SystemRefused(
                        f"can not listen on port {port} of {', '.join(hosts)}: {error.strerror or error}",
                        hint="is another node running there? Choose another port: --listen-port, or 0 for a free one",
                        port=port,
                    ) from error
        else:
            raise SystemRefused("no free port found", hint="choose one: --listen-port")
        with contextlib.suppress(OSError):
            kept.write_text(str(self.port))

    def open_bulk(self, lane: Lane) -> None:
        """The bulk lane's port, on the same hosts: the one asked for, the one of last time, or a free one."""
        self.lane = lane
        kept = self._directory / "bulk_port"
        asked = self._settings.listen.bulk_port
        hosts = self._hosts()
        for port in dict.fromkeys((asked or read_number(kept), *(() if asked else (0,)))):
            try:
                lane.listen(hosts[0], port)
                break
            except OSError as error:
                if asked or error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise SystemRefused(
                        f"can not listen on port {port} of {hosts[0]}: {error.strerror or error}",
                        hint="is another node running there? Choose another port: --listen-bulk-port, or 0 for a free one",
                        port=port,
                    ) from error
        for host in hosts[1:]:
            with contextlib.suppress(OSError):
                lane.listen(host, lane.port)
        with contextlib.suppress(OSError):
            kept.write_text(str(lane.port))

    async def _bind(self, hosts: list[str], port: int) -> int:
        for attempt in range(8):
            first = await self.links.listen(endpoint_of(hosts[0], port))
            chosen = int(first.rpartition(":")[2])
            try:
                for host in hosts[1:]:
                    await self._listen_also(host, chosen)
                await self.neighbourhood.open(hosts, chosen, ())
                return chosen
            except OSError:
                await self.links.close()
                self.links = self._made()
                self.neighbourhood.set_dialler(self.links)
                if port or attempt == 7:
                    raise
        raise AssertionError

    async def _listen_also(self, host: str, port: int) -> None:
        """Listen at one more address. OSError when the port is in use there; an address that can not be had (no IPv6
        here, gone again) is left out."""
        try:
            await self.links.listen(endpoint_of(host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            self._fact(Fact("listen.refused", {}, {"host": host, "port": port, "error": error.strerror or str(error)}))

    def _hosts(self) -> list[str]:
        """Where to listen, as addresses: loopback until a second machine is asked for."""
        asked = self._settings.listen.host
        if asked == "auto":
            # A home that came in by a token is the second machine; one that made its fleet waits to be asked for one.
            self.on_lan = (self._home.fleet_dir / LAN_MARK).exists() or not self._is_admin
        else:
            self.on_lan = asked not in ("loopback", LOOPBACK, "::1")
        if asked in ("auto", "lan"):
            return ["0.0.0.0", "::"] if self.on_lan and socket.has_ipv6 else ["0.0.0.0"] if self.on_lan else [LOOPBACK]  # noqa: S104
        return [LOOPBACK if asked == "loopback" else asked]

    def addresses(self, port: int | None = None) -> tuple[Address, ...]:
        """Under which addresses peers reach a port of this node, that of its links when none is given."""
        port = self.port if port is None else port
        if not self.on_lan:
            return ((LOOPBACK, port),)
        asked = self._settings.listen.host
        if asked not in ("auto", "lan"):
            return ((asked, port),)
        from transport.interfaces import InterfaceRule, announced, interfaces

        discovery = self._settings.discovery
        rule = InterfaceRule(tuple(discovery.interfaces_allow), tuple(discovery.interfaces_deny))
        found = announced(interfaces(rule))
        return tuple((host, port) for host in found[:6]) or ((LOOPBACK, port),)

    async def open_lan(self) -> bool:
        """A second machine is asked for: listen on the LAN too, on the same port. Whether that is new.

        SystemRefused, and all as before, when another program has that port there.
        """
        if self.on_lan or self._settings.listen.host != "auto":
            return False
        (self._home.fleet_dir / LAN_MARK).touch(mode=0o600)
        hosts = self._hosts()
        self._one_by_one = set()
        try:
            refusal = await self.listen_one_by_one()
            if refusal is not None:
                raise refusal
            await self.neighbourhood.rebind(hosts, self.port, self.addresses())
        except OSError as error:
            self.on_lan, self._one_by_one = False, None
            raise SystemRefused(
                f"can not listen on port {self.port} for other machines: {error.strerror or error}",
                hint="another program has that port there: start this node again, and it takes one that is free",
                port=self.port,
            ) from error
        return True

    async def listen_one_by_one(self) -> OSError | None:
        """Listen at the LAN addresses that are new: where loopback is bound, all of them at once can not be.

        The refusal of the last one, when none of them can be had.
        """
        if self._one_by_one is None:
            return None
        refusal: OSError | None = None
        heard = 0
        for host in interface_addresses(self._settings):
            if host not in self._one_by_one:
                self._one_by_one.add(host)
                try:
                    await self._listen_also(host, self.port)
                    heard += 1
                except OSError as error:
                    refusal = error
                    self._fact(Fact("listen.refused", {}, {"host": host, "port": self.port, "error": str(error)}))
                try:
                    self.lane.listen(host, self.lane.port)
                except OSError as error:
                    port = self.lane.port
                    self._fact(Fact("listen.refused", {}, {"host": host, "port": port, "error": str(error)}))
        return None if heard else refusal
