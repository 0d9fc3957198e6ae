"""Finding peers by every way there is, as equals: mDNS, seeds, remembered peers, and the presence files of one's own
home.

All of them yield hints and nothing else: whoever is found this way still has to prove who it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Final

from transport import bounds
from transport.hints import Hint
from transport.interfaces import Interface, InterfaceRule, interfaces
from transport.mdns import Announcement, Mdns
from transport.peer_cache import PeerCache
from transport.presence import Presence, PresenceWatch
from transport.seeds import Seeds

__all__ = ["Announcement", "Discovery", "Hint", "InterfaceRule", "PeerCache", "Presence"]

_DEAF_AFTER_S: Final = 3.0
_SAVE_EVERY_S: Final = 30.0


class Discovery:
    """Tells of peers from `open` to `close`. For the thread of its loop only.

    ``on_hint(hint)`` may be told the same twice. ``on_gone(id)``: a node said goodbye by mDNS (a hint as well: anybody
    on the LAN can say it). ``on_addresses(interfaces)``: this machine's addresses changed. ``on_event(name, facts)``,
    with one of `EVENTS`, is for logs and counters.

    ``announcement`` is None for a client, which only listens. With ``lan`` false nothing is sent to the network, and
    seeds and remembered peers are still followed. ``directory`` is the home's runtime directory, where presence files
    are looked for, and ``presence`` this node's own.
    """

    EVENTS: Final = (
        "mdns_open",  # interfaces, addresses
        "mdns_unavailable",  # error
        "mdns_deaf",  # announced, and not heard: multicast does not work here
        "addresses_changed",  # addresses
        "seed_unresolved",  # seed, error
        "presence_failed",  # error
        "cache_unsaved",  # error
    )

    def __init__(
        self,
        tag: bytes,
        on_hint: Callable[[Hint], None],
        *,
        announcement: Announcement | None = None,
        lan: bool = True,
        rule: InterfaceRule | None = None,
        seeds: Iterable[str] = (),
        cache: PeerCache | None = None,
        directory: Path | None = None,
        presence: Presence | None = None,
        on_gone: Callable[[bytes], None] = lambda id: None,
        on_addresses: Callable[[tuple[Interface, ...]], None] = lambda found: None,
        on_event: Callable[[str, Mapping[str, object]], None] = lambda name, facts: None,
    ) -> None:
        """Raises ValueError for a seed that cannot be one."""
        self._tag = tag
        self._on_hint = on_hint
        self._on_gone = on_gone
        self._on_addresses = on_addresses
        self._on_event = on_event
        self._announcement = announcement
        self._lan = lan
        self._rule = rule
        self._cache = cache
        self._directory = directory
        self._presence = presence
        own = announcement.id if announcement else presence.id if presence else None
        self._own = own
        self._seeds = Seeds(seeds, on_hint, on_event)
        self._watch = None if directory is None else PresenceWatch(directory, tag, own, on_hint)
        self._mdns: Mdns | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure = ""

    async def open(self) -> None:
        """Begin. What is known at once is told before this returns; it does not wait for the network."""
        assert not self._tasks, "opened twice"
        if self._presence is not None and self._directory is not None:
            try:
                self._presence.write(self._directory)
            except OSError as error:
                self._on_event("presence_failed", {"error": str(error)})
        if self._watch is not None:
            self._watch.look()
            self._start(self._watch.run())
        self._tell_cached()
        self._start(self._seeds.run())
        if self._lan:
            self._start(self._follow_interfaces())
        if self._cache is not None:
            self._start(self._keep_cache())
        for _ in range(2):  # until the seeds' own tasks have run
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Say goodbye on the LAN, take the presence file away, save the cache. Safe to call again."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._presence is not None and self._directory is not None:
            try:
                self._presence.remove(self._directory)
            except OSError as error:
                self._on_event("presence_failed", {"error": str(error)})
        self._save_cache()
        mdns, self._mdns = self._mdns, None
        if mdns is not None:
            await mdns.close()

    def nudge(self) -> None:
        """This node is alone, or waits for somebody: ask everybody again, now."""
        self._seeds.nudge()
        if self._watch is not None:
            self._watch.forget()
        self._tell_cached()

    def remember(self, hint: Hint) -> None:
        """A verified peer was reached at the first of these addresses: where to look for it the next time."""
        if self._cache is not None and hint.id is not None and hint.curve_key is not None:
            self._cache.record(hint.id, hint.curve_key, hint.addresses, hint.port, hint.name)

    def remembered(self) -> list[bytes]:
        """Ids of other peers that were reached once, not too long ago, by this process or an earlier one."""
        hints = self._cache.hints() if self._cache is not None else []
        return [hint.id for hint in hints if hint.id is not None and hint.id != self._own]

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # an error of ours: the loop's handler decides, as for a callback
            context = {"message": "discovery failed", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)

    def _tell_cached(self) -> None:
        for hint in self._cache.hints() if self._cache is not None else ():
            if hint.id != self._own:
                self._on_hint(hint)

    async def _keep_cache(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_EVERY_S)
            self._save_cache()

    def _save_cache(self) -> None:
        if self._cache is not None:
            try:
                self._cache.save()
            except OSError as error:
                self._on_event("cache_unsaved", {"error": str(error)})

    async def _follow_interfaces(self) -> None:
        """Keep mDNS on the interfaces of the moment; begin anew when they change, or when the machine has slept."""
        found = interfaces(self._rule)
        retry = not await self._announce_on(found)
        slept_s = _slept_s()
        while True:
            await asyncio.sleep(bounds.INTERFACES_POLL_S)
            now_found, now_slept_s = interfaces(self._rule), _slept_s()
            changed = now_found != found
            if changed:
                addresses = [text for interface in now_found for text in interface.addresses]
                self._on_event("addresses_changed", {"addresses": addresses})
                self._on_addresses(now_found)
            woke = now_slept_s - slept_s > 1.0
            if changed or woke or retry:
                found, slept_s = now_found, now_slept_s
                if changed or woke:
                    self._seeds.nudge()
                mdns, self._mdns = self._mdns, None
                if mdns is not None:
                    # no goodbye: peers keep what they know until the new announcement replaces it
                    await mdns.close(goodbye=False)
                retry = not await self._announce_on(found)

    async def _announce_on(self, found: tuple[Interface, ...]) -> bool:
        """Whether multicast could be opened, or cannot be expected to without any change here."""
        mdns = Mdns(self._tag, self._announcement, self._on_hint, self._on_gone)
        try:
            await mdns.open(found)
        except OSError as error:
            if str(error) != self._failure:  # it is tried again and again, and said once
                self._failure = str(error)
                self._on_event("mdns_unavailable", {"error": str(error), "interfaces": [one.name for one in found]})
            return not found
        except asyncio.CancelledError:
            await mdns.close(goodbye=False)
            raise
        self._mdns = mdns
        self._failure = ""
        self._on_event(
            "mdns_open",
            {
                "interfaces": [interface.name for interface in found],
                "addresses": [text for interface in found for text in interface.addresses],
            },
        )
        if self._announcement is not None:
            self._start(self._listen_for_self(mdns))
        return True

    async def _listen_for_self(self, mdns: Mdns) -> None:
        await asyncio.sleep(_DEAF_AFTER_S)
        if self._mdns is mdns and not mdns.heard_self:
            self._on_event("mdns_deaf", {})


def _slept_s() -> float:
    """Seconds that this machine has slept since it was booted; only differences count. 0 where nobody knows."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return 0.0
    return time.clock_gettime(boottime) - time.clock_gettime(time.CLOCK_MONOTONIC)
