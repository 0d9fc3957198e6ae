"""Lessons of a running node: what its owner learns goes into the knowledge log, and what the log says of lessons to its owner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final, Protocol

from nodes.fabric import Fabric
from nodes.knowledge.shell import KnowledgeShell
from swarm.errors import SwarmError
from swarm.protocol.effects import Fact
from swarm.protocol.knowledge.keeper import Keeper
from swarm.protocol.knowledge.views import GONE, Watch
from swarm.protocol.lessons.heeding import Mode
from swarm.protocol.owner.batches import Learn
from swarm.protocol.owner.heeding import LESSONS_MAX

KIND: Final = "lessons"


class Facts(Protocol):
    """Who is told what is worth knowing."""

    def fact(self, fact: Fact) -> None: ...


class Lessons:
    """Carries lessons between the owner and the log."""

    def __init__(
        self, shell: KnowledgeShell, fabric: Fabric, mode: Mode, facts: Facts, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._shell = shell
        self._fabric = fabric
        self._facts = facts
        self._loop = loop
        self._following: asyncio.Task[None] | None = None
        self._writing: set[asyncio.Future[Any]] = set()
        fabric.ownership.heeding.mode = mode
        fabric.learn = self.learn

    def start(self) -> None:
        """Follow the log."""
        self._following = self._loop.create_task(self._follow())

    async def close(self) -> None:
        """Follow it no more; what was learned is written."""
        if self._following is not None:
            self._following.cancel()
        if self._writing:
            await asyncio.wait(self._writing, timeout=2.0)

    def learn(self, it: Learn) -> None:
        """Write down what the owner knows of a lesson now."""
        writing = self._shell.ask(
            lambda keeper: keeper.knowledge.put(KIND, it.key, it.value, time.time_ns() // 1_000_000), says=True
        )
        self._writing.add(writing)
        writing.add_done_callback(self._written)

    def _written(self, writing: asyncio.Future[Any]) -> None:
        self._writing.discard(writing)
        error = None if writing.cancelled() else writing.exception()
        if error is not None:
            self._facts.fact(Fact("lesson.unwritten", {}, {"error": str(error)}))

    async def _follow(self) -> None:
        try:
            watch = await self._shell.ask(lambda keeper: keeper.knowledge.watch(KIND, ""))
            self._tell(await self._shell.ask(_all))
            while not self._shell.closing:
                stirred = self._shell.stirred()
                changes, lost = await self._shell.ask(lambda keeper: _changed(keeper, watch))
                if lost:
                    known = await self._shell.ask(_all)
                    gone = self._fabric.ownership.heeding.known.keys() - {key for key, _ in known}
                    self._tell([*((key, None) for key in sorted(gone)), *known])
                elif changes:
                    self._tell(changes)
                await stirred
        except SwarmError as error:
            self._facts.fact(Fact("lesson.unwritten", {}, {"error": str(error)}))

    def _tell(self, changes: Iterable[tuple[str, Any]]) -> None:
        self._fabric.told_of_lessons(changes)


def _all(keeper: Keeper) -> list[tuple[str, Any]]:
    return list(keeper.knowledge.query(KIND, limit=LESSONS_MAX))


def _changed(keeper: Keeper, watch: Watch) -> tuple[list[tuple[str, Any]], bool]:
    found = keeper.knowledge.changes(watch)
    lost, watch.lost = watch.lost, False
    return [(change.key, None if change.value is GONE else change.value) for change in found], lost
