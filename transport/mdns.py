"""Announcing a node on the LAN and hearing of others, by multicast DNS (RFC 6762) and DNS service discovery (RFC 6763).

The service is ``_swarm._tcp.local.``, the instance is named after the node's id. That name comes from the node's key,
so two nodes cannot want the same one, and probing for it (RFC 6762, 8.1: three quarters of a second) is left out. What
is announced is public: a tag by which only members tell the fleet (``f``), the protocol's version (``v``), the CURVE
key (``k``), a mark of this start (``b``), and the addresses.
"""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from zmq.utils import z85

from transport import bounds
from transport.certificates import id_from_text, id_text
from transport.hints import Hint, is_port
from transport.interfaces import Interface, announced, useful

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

SERVICE: Final = "_swarm._tcp.local."
VERSION: Final = 1
_QUERY_TIMEOUT_MS: Final = 1500


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node says of itself:

    id (16 bytes), CURVE key (32 raw bytes), TCP and UDP port; ``boot`` differs each start.
    """

    id: bytes
    curve_key: bytes
    port: int
    boot: bytes


class Mdns:
    """One set of multicast sockets, on the interfaces of the moment. Where those change, another is made.

    ``on_hint`` is called for each node of this fleet that is new, moved or started again; ``on_gone(id)`` for one that
    said goodbye or whose announcement ran out.
    """

    def __init__(
        self,
        tag: bytes,
        announcement: Announcement | None,
        on_hint: Callable[[Hint], None],
        on_gone: Callable[[bytes], None],
    ) -> None:
        self._tag = tag.hex().encode()
        self._announcement = announcement
        self._on_hint = on_hint
        self._on_gone = on_gone
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._info: AsyncServiceInfo | None = None
        self._queries: dict[str, asyncio.Task[None]] = {}
        self._known: dict[bytes, tuple[Hint, bytes | None]] = {}
        self.heard_self = False
        """Whether our own announcement came back to us, as multicast does that works."""

    async def open(self, interfaces: tuple[Interface, ...]) -> None:
        """Announce and listen on these interfaces. Raises OSError where there is no multicast to be had."""
        assert self._zeroconf is None, "opened twice"
        if not interfaces:
            raise OSError("no network interface is of use")
        # 35 ms the first time, so not at the module's import and not in the loop's thread
        zeroconf = await asyncio.to_thread(importlib.import_module, "zeroconf.asyncio")
        self._zeroconf = self._sockets(zeroconf.AsyncZeroconf, interfaces)
        try:
            if self._announcement is not None:
                self._info = self._service_info(self._announcement, announced(interfaces))
                # cooperating: does not probe; the awaitable that it returns is done when the repetitions are sent
                await self._zeroconf.async_register_service(self._info, cooperating_responders=True)
            self._browser = zeroconf.AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[self._changed])
        except BaseException as error:
            await self.close(goodbye=False)
            if isinstance(error, OSError | asyncio.CancelledError):
                raise
            raise OSError(f"{type(error).__name__}: {error}") from error

    async def close(self, *, goodbye: bool = True) -> None:
        """Stop; with a goodbye, others forget the announcement within a second, and else in their own time."""
        queries, self._queries = list(self._queries.values()), {}
        for query in queries:
            query.cancel()
        await asyncio.gather(*queries, return_exceptions=True)
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is None:
            return
        if self._browser is not None:
            await self._browser.async_cancel()
            self._browser = None
        core = zeroconf.zeroconf
        if goodbye and self._info is not None:
            # the library says it three times in 250 ms; a stop has better things to wait for
            farewell = core.generate_unregister_all_services()
            if farewell is not None:
                core.async_send(farewell)
                await asyncio.sleep(0.02)
                core.async_send(farewell)
        else:
            core.registry.async_remove(core.registry.async_get_service_infos())
        self._info = None
        await zeroconf.async_close()

    def _sockets(self, kind: type[AsyncZeroconf], interfaces: tuple[Interface, ...]) -> AsyncZeroconf:
        from zeroconf import IPVersion

        version4: list[str | int] = []
        version6: list[str | int] = []
        for interface in interfaces:
            by_family = {ipaddress.ip_address(text).version: text for text in reversed(interface.addresses)}
            if 4 in by_family:
                version4.append(by_family[4])
            if 6 in by_family and interface.index:
                version6.append(interface.index)
        attempts = [(version4 + version6, IPVersion.All), (version4, IPVersion.V4Only), (version6, IPVersion.V6Only)]
        failure: Exception = OSError("no address is of use")
        for choice, version in attempts:
            wanted = (version4 and version6) if version is IPVersion.All else choice
            if not wanted:
                continue
            try:
                return kind(interfaces=choice, ip_version=version)
            except (OSError, RuntimeError) as error:
                failure = error
        raise OSError(str(failure)) from failure

    def _service_info(self, own: Announcement, addresses: tuple[str, ...]) -> AsyncServiceInfo:
        from zeroconf.asyncio import AsyncServiceInfo

        text = id_text(own.id)
        return AsyncServiceInfo(
            SERVICE,
            f"{text}.{SERVICE}",
            port=own.port,
            addresses=[ipaddress.ip_address(address.partition("%")[0]).packed for address in addresses],
            properties={"f": self._tag, "v": str(VERSION), "k": z85.encode(own.curve_key), "b": own.boot.hex()},
            server=f"{text}.local.",
        )

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """The library's browser saw an announcement come, change or go; in the loop's thread."""
        try:
            id = id_from_text(name.removesuffix("." + SERVICE))
        except ValueError:
            return
        if self._announcement is not None and id == self._announcement.id:
            self.heard_self = True
            return
        if state_change.name == "Removed":
            if self._known.pop(id, None) is not None:
                self._on_gone(id)
            return
        from zeroconf.asyncio import AsyncServiceInfo

        info = AsyncServiceInfo(SERVICE, name)
        if info.load_from_cache(zeroconf):
            self._heard(id, info)
        elif name not in self._queries and len(self._queries) < bounds.ANNOUNCEMENT_QUERIES_COUNT_MAX:
            query = asyncio.get_running_loop().create_task(self._ask(id, info, zeroconf))
            self._queries[name] = query
            query.add_done_callback(lambda _: self._queries.pop(name, None))

    async def _ask(self, id: bytes, info: AsyncServiceInfo, zeroconf: Zeroconf) -> None:
        if await info.async_request(zeroconf, _QUERY_TIMEOUT_MS):
            self._heard(id, info)

    def _heard(self, id: bytes, info: AsyncServiceInfo) -> None:
        hint = self._read(id, info)
        if hint is None:
            return
        news = (hint, info.properties.get(b"b"))
        if self._known.get(id) == news:
            return
        self._known.pop(id, None)
        while len(self._known) >= bounds.ANNOUNCED_PEERS_COUNT_MAX:
            del self._known[next(iter(self._known))]
        self._known[id] = news
        self._on_hint(hint)

    def _read(self, id: bytes, info: AsyncServiceInfo) -> Hint | None:
        """The hint in a complete announcement, if it is of this fleet and can be followed."""
        properties = info.properties
        if properties.get(b"f") != self._tag or properties.get(b"v") != str(VERSION).encode():
            return None
        try:
            curve_key = z85.decode(properties.get(b"k") or b"")
        except (ValueError, KeyError, IndexError, OverflowError):
            return None
        # a link-local address comes with the index of the interface on which it was heard
        addresses = useful(info.parsed_scoped_addresses())[: bounds.HINT_ADDRESSES_COUNT_MAX]
        if len(curve_key) != 32 or not is_port(info.port) or not addresses:
            return None
        return Hint(addresses, info.port or 0, id, curve_key, "mdns")
