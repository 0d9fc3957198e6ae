"""Snapshots and the past among the parts of a node: what `Node` opens beside its knowledge log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nodes.knowledge.answers import KnowledgeAnswers
from nodes.knowledge.past import Past
from nodes.knowledge.shelf import Shelf
from nodes.knowledge.shell import KnowledgeShell
from nodes.knowledge.snapshot_answers import SnapshotAnswers
from nodes.queries import Switchboard
from nodes.settings import KnowledgeSection
from nodes.snapshots import Signing, key_of
from swarm.protocol.effects import Fact
from transport.fleet import Fleet
from transport.identity import Credentials


class Keeping:
    """One node's snapshots and past. For its loop."""

    def __init__(
        self,
        directory: Path,
        name: str,
        fleet: Fleet,
        credentials: Credentials,
        shell: KnowledgeShell,
        answers: KnowledgeAnswers,
        settings: KnowledgeSection,
        switchboard: Switchboard,
        fact: Callable[[Fact], None],
    ) -> None:
        self.shelf = Shelf(directory, name, shell, Signing.of(credentials), lambda: key_of(fleet), settings, fact)
        self.past = Past(directory, shell, self.shelf, credentials.identity.sign_key)
        answers.past = SnapshotAnswers(self.shelf, self.past, switchboard)

    def start(self) -> None:
        """Take snapshots, and look after them, from now on."""
        self.shelf.start()

    async def close(self) -> None:
        """Begin nothing more."""
        await self.shelf.close()
