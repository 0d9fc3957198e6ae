"""Who watches what: each watch belongs to a link, and is asked for its changes, which waits until there are some.

Of shards that this node does not hold, holders are watched, and what they tell is told on. When one of them goes, or shards move, whoever watches
is told to look at everything anew.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from swarm.errors import NotFound, SwarmError
from swarm.protocol.knowledge.bounds import WATCH_EVENTS_MAX
from swarm.protocol.knowledge.entries import shard_of
from swarm.protocol.knowledge.keeper import Keeper
from swarm.protocol.knowledge.views import Change, Watch
from transport.links import Link

if TYPE_CHECKING:
    from nodes.knowledge.elsewhere import Elsewhere
    from nodes.knowledge.shell import KnowledgeShell

WAIT_S_MAX: Final = 30.0
LINK_WATCHES_MAX: Final = 64
WATCHES_MAX: Final = 1024


class Watching:
    """One watch of one link, with what it was told and did not ask for yet."""

    def __init__(self, number: int, link: Link, watch: Watch, only: frozenset[int] | None) -> None:
        self.number = number
        self.link = link
        self.watch = watch
        self.only = only
        """The shards that are wanted, by a node that asks for others; None: all."""
        self.afar: asyncio.Task[None] | None = None
        """Watches holders of what is not held here."""
        self.waiting: deque[Change] = deque()
        self.lost = False


class Watches:
    """All watches of a node. For its loop."""

    def __init__(self, shell: KnowledgeShell, elsewhere: Elsewhere) -> None:
        self._shell = shell
        self._elsewhere = elsewhere
        self._numbers = itertools.count(1)
        self._all: dict[int, Watching] = {}

    async def begin(self, link: Link, kind: str, prefix: str, only: frozenset[int] | None = None) -> int:
        """Watches from now on; its number. A node that asks for others says which shards. SwarmError where there are too many, or for an
        unknown kind."""
        mine = sum(one.link is link for one in self._all.values())
        if mine >= (LINK_WATCHES_MAX if only is None else WATCHES_MAX) or len(self._all) >= WATCHES_MAX:
            raise SwarmError(f"there are {mine} watches on this connection already", hint="close some")
        watch = await self._shell.ask(lambda keeper: keeper.knowledge.watch(kind, prefix))
        one = Watching(next(self._numbers), link, watch, only)
        self._all[one.number] = one
        if only is None and self._elsewhere.shards(kind)[1]:
            begun = asyncio.get_running_loop().create_future()
            one.afar = asyncio.create_task(self._elsewhere.watch(kind, prefix, partial(self._told, one), begun))
            await begun
        if not link.up:
            self.end(one)
        return one.number

    def of(self, link: Link, number: object) -> Watching:
        """A link's own watch. NotFound."""
        one = self._all.get(number) if type(number) is int else None
        if one is None or one.link is not link:
            raise NotFound("there is no such watch here", hint="watch anew: the node was started again")
        return one

    async def fill(self, one: Watching, wait_s: float) -> None:
        """Until something changed that was not asked for, or so long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            stirred = self._shell.stirred()
            try:
                if len(one.waiting) < WATCH_EVENTS_MAX:
                    changes, lost = await self._shell.ask(partial(_read, one.watch))
                    one.waiting.extend(change for change in changes if self._is_wanted(one, change))
                    one.lost |= lost
                left_s = deadline - loop.time()
                if one.waiting or one.lost or left_s <= 0 or self._shell.closing:
                    return
                await asyncio.wait((stirred,), timeout=left_s)
            finally:
                stirred.cancel()

    def _is_wanted(self, one: Watching, change: Change) -> bool:
        if one.only is None:
            return not self._elsewhere.holders(change.kind, change.key)
        return shard_of(change.kind, change.key, self._shell.shards) in one.only

    def _told(self, one: Watching, changes: list[Change], lost: bool) -> None:
        """Holders tell of changes."""
        if len(one.waiting) + len(changes) > WATCH_EVENTS_MAX:
            changes, lost = [], True
            one.waiting.clear()
        one.waiting.extend(changes)
        one.lost |= lost
        self._shell.stir()

    def end(self, one: Watching) -> None:
        """Watches no more."""
        if one.afar is not None:
            one.afar.cancel()
        if self._all.pop(one.number, None) is not None:
            self._shell.desk.post(lambda keeper: keeper.knowledge.views.unwatch(one.watch))

    def link_down(self, link: Link) -> None:
        """All of a link's end."""
        for one in [one for one in self._all.values() if one.link is link]:
            self.end(one)


def _read(watch: Watch, keeper: Keeper) -> tuple[list[Any], bool]:
    changes = keeper.knowledge.changes(watch)
    lost, watch.lost = watch.lost, False
    return changes, lost
