"""Lessons of a running node: what its owner learns goes into the knowledge log, and what the log says of lessons to its owner. And what
lessons are tied to: a digest of what its workers can import, which is announced and looked at again now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from nodes.environment import Packages, folders
from nodes.fabric import Fabric
from nodes.knowledge.shell import KnowledgeShell
from swarm.errors import SwarmError
from swarm.protocol.effects import Fact
from swarm.protocol.knowledge.keeper import Keeper
from swarm.protocol.knowledge.views import GONE, Watch
from swarm.protocol.lessons.heeding import Mode
from swarm.protocol.lessons.patterns import compile_all
from swarm.protocol.owner.batches import Learn
from swarm.protocol.owner.heeding import LESSONS_MAX
from swarm.protocol.resources import PACKAGES_LABEL

KIND: Final = "lessons"
PACKAGES_EVERY_S: Final = 5.0
"""How often it is looked whether workers can import something else."""


class Facts(Protocol):
    """Who is told what is worth knowing."""

    def fact(self, fact: Fact) -> None: ...
    def load_changed(self) -> None: ...


class Lessons:
    """Carries lessons between the owner and the log."""

    def __init__(
        self, shell: KnowledgeShell, fabric: Fabric, mode: Mode, facts: Facts, loop: asyncio.AbstractEventLoop,
        environment: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._shell = shell
        self._fabric = fabric
        self._facts = facts
        self._loop = loop
        self._packages = Packages(folders(environment))
        self._digest = b""
        self._following: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._writing: set[asyncio.Future[Any]] = set()
        fabric.ownership.heeding.mode = mode
        fabric.learn = self.learn

    def start(self) -> None:
        """Follow the log."""
        self._following = self._loop.create_task(self._follow())
        self._looking = self._loop.create_task(self._look())

    async def close(self) -> None:
        """Follow it no more; what was learned is written."""
        for task in (self._following, self._looking):
            if task is not None:
                task.cancel()
        if self._writing:
            await asyncio.wait(self._writing, timeout=2.0)

    def info(self) -> dict[str, object]:
        """What is gossiped of it."""
        return {"e": self._digest} if self._digest else {}

    async def _look(self) -> None:
        """Say what workers can import, and when that has changed."""
        await self._loop.run_in_executor(None, compile_all)
        while not self._shell.closing:
            if await self._loop.run_in_executor(None, self._packages.look):
                self._digest = self._packages.digest
                owner = self._fabric.ownership
                it = owner.executors[self._fabric.me]
                labels = {label for label in it.capacity.labels if not label.startswith(PACKAGES_LABEL)}
                capacity = replace(it.capacity, labels=frozenset(labels | {PACKAGES_LABEL + self._digest.hex()}))
                self._fabric.member_seen(it.id, it.name, capacity, self._fabric.execution.load(it.id))
                self._facts.load_changed()
            await asyncio.sleep(PACKAGES_EVERY_S)

    def learn(self, it: Learn) -> None:
        """Write down what the owner knows of a lesson now."""
        writing = self._shell.ask(
            lambda keeper: keeper.knowledge.put(KIND, it.key, it.value, time.time_ns() // 1_000_000, task=it.task),
            says=True,
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
