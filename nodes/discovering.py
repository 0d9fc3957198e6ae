"""Finding others: what a node announces of itself, on the LAN and on this host, and whom it hears of or remembers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nodes.listening import LOOPBACK, Listening
from nodes.machine import joined_by
from nodes.settings import NodeSettings
from swarm.paths import Home
from swarm.protocol.effects import Fact
from transport.hints import Hint
from transport.identity import Credentials


class Discovering:
    """The discovery of one node. It is opened anew when the node listens elsewhere."""

    def __init__(
        self, settings: NodeSettings, home: Home, directory: Path, name: str, credentials: Credentials, tag: bytes, boot: bytes,
        listening: Listening, hint: Callable[[Hint], None], addresses_changed: Callable[[], None],
        fact: Callable[[Fact], None],
    ) -> None:  # fmt: skip
        self._settings = settings.discovery
        self._home = home
        self._directory = directory
        self._name = name
        self._credentials = credentials
        self._tag = tag
        self._boot = boot
        self._listening = listening
        self._hint = hint
        self._addresses_changed = addresses_changed
        self._fact = fact
        self._discovery: Any = None

    def remember(self, hint: Hint) -> None:
        """A member was there."""
        if self._discovery is not None:
            self._discovery.remember(hint)

    def remembered(self) -> Iterable[bytes]:
        """Ids of members that were there before."""
        return () if self._discovery is None else self._discovery.remembered()

    async def close(self) -> None:
        """Be found no longer."""
        if self._discovery is not None:
            await self._discovery.close()

    async def open(self) -> None:
        """Be found, and hear of others, where the node listens now."""
        from transport.discovery import Discovery
        from transport.interfaces import InterfaceRule
        from transport.peer_cache import PeerCache
        from transport.presence import Presence

        await self.close()
        settings, listening = self._settings, self._listening
        identity = self._credentials.identity
        presence = Presence(
            self._name, os.getpid(), identity.id, identity.curve_key, self._tag, listening.port, self._boot,
            tuple(host for host, _ in listening.addresses()) or (LOOPBACK,),
        )  # fmt: skip
        announcement = None
        if listening.on_lan and settings.mdns:
            from transport.mdns import Announcement

            announcement = Announcement(identity.id, identity.curve_key, listening.port, self._boot)
        self._discovery = Discovery(
            self._tag,
            self._hint,
            announcement=announcement,
            lan=listening.on_lan and settings.mdns,
            rule=InterfaceRule(tuple(settings.interfaces_allow), tuple(settings.interfaces_deny)),
            seeds=(*settings.seeds, *joined_by(self._home)),
            cache=PeerCache(self._directory / "peers"),
            directory=self._home.runtime,
            presence=presence,
            on_addresses=lambda found: self._addresses_changed(),
            on_event=lambda name, facts: self._fact(Fact(f"discovery.{name}", {}, dict(facts))),
        )
        await self._discovery.open()
