"""What a node needs to know what the fleet knows, put together: the log, its large values, snapshots, weights, and lessons."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nodes.fabric import Fabric, boottime_s
from nodes.knowledge.answers import KnowledgeAnswers
from nodes.knowledge.keeping import Keeping
from nodes.knowledge.large import LargeValues
from nodes.knowledge.shell import Around as Shell
from nodes.knowledge.shell import KnowledgeShell
from nodes.knowledge.weighing import Weighing
from nodes.queries import Switchboard
from nodes.settings import NodeSettings
from nodes.workshop import Workshop
from swarm.protocol.member import Member
from transport.fleet import Fleet
from transport.identity import Credentials
from transport.links import Link

if TYPE_CHECKING:
    from nodes.lessons import Lessons


class Around(Shell, Protocol):
    """What they tell the rest of the node."""

    def load_changed(self) -> None:
        """What is gossiped of this node is another now."""


class KnowledgeParts:
    """Opened on the node's stack, told what its links and members tell, asked what it gossips."""

    def __init__(
        self, directory: Path, name: str, fleet: Fleet, credentials: Credentials, settings: NodeSettings, fabric: Fabric,
        workshop: Workshop, switchboard: Switchboard, around: Around, environment: Mapping[str, str],
        loop: asyncio.AbstractEventLoop, stack: AsyncExitStack,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._fabric = fabric
        self._around = around
        self._environment = environment
        self._loop = loop
        self._stack = stack
        self.shell = shell = KnowledgeShell(
            directory,
            credentials,
            fleet.trust,
            settings.knowledge,
            switchboard,
            fabric.node_links,
            around,
            loop,
            boottime_s,
        )
        stack.push_async_callback(shell.close)
        self._weighing = Weighing(shell, loop)
        self.large = LargeValues(directory, settings.knowledge.blob_bytes, shell, switchboard, loop)
        stack.push_async_callback(self.large.close)
        stack.push_async_callback(self._weighing.close)
        self._answers = KnowledgeAnswers(shell, switchboard, self._weighing, self.large)
        self.keeping = Keeping(
            directory, name, fleet, credentials, shell, self._answers, settings.knowledge, switchboard, workshop.lane,
            fabric.node_links, around.fact, self.large,
        )  # fmt: skip
        stack.push_async_callback(self.keeping.close)
        fabric.knowledge = shell.receive
        self._lessons: Lessons | None = None

    def start(self) -> None:
        """Begin to read and to compare, in threads and tasks of their own: a start of the node does not wait for it."""
        self.shell.start()
        self.keeping.start()
        self._weighing.start()
        self.large.start()
        if self._settings.lessons.mode == "off":
            return
        from nodes.lessons import Lessons
        from swarm.protocol.lessons.heeding import Mode

        mode = Mode(self._settings.lessons.mode)
        self._lessons = Lessons(self.shell, self._fabric, mode, self._around, self._loop, self._environment)
        self._stack.push_async_callback(self._lessons.close)
        self._lessons.start()

    def link_up(self, link: Link) -> None:
        """There is a link."""
        self.shell.link_up(link)

    def link_down(self, link: Link) -> None:
        """It is down: who asked over it is not answered any more."""
        self._answers.link_down(link)

    def member_seen(self, member: Member) -> None:
        """A member said how it is."""
        self.shell.member_seen(member)

    def member_lost(self, node: bytes) -> None:
        """A member is gone."""
        self.shell.member_lost(node)

    def info(self) -> dict[str, object]:
        """What is gossiped of it."""
        info = dict(self.shell.info())
        if self._lessons is not None:
            info |= self._lessons.info()
        return info
