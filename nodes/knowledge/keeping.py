"""Snapshots and the past among the parts of a node: what `Node` opens beside its knowledge log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nodes.knowledge.answers import KnowledgeAnswers
from nodes.knowledge.comparing import Comparing
from nodes.knowledge.joining import Joining, digests
from nodes.knowledge.large import LargeValues
from nodes.knowledge.lending import Lending
from nodes.knowledge.past import Past
from nodes.knowledge.peer_copies import PeerCopy
from nodes.knowledge.peers import Peers
from nodes.knowledge.shelf import Shelf
from nodes.knowledge.shell import KnowledgeShell
from nodes.knowledge.snapshot_answers import SnapshotAnswers
from nodes.knowledge.telling_past import TellingPast
from nodes.lane import Lane
from nodes.queries import Switchboard
from nodes.settings import KnowledgeSection
from nodes.snapshots import Signing, key_of
from swarm.protocol.effects import Fact
from transport.fleet import Fleet
from transport.identity import Credentials
from transport.links import Link


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
        lane: Lane,
        links: Mapping[bytes, Link],
        fact: Callable[[Fact], None],
        large: LargeValues,
    ) -> None:
        self.shelf = Shelf(
            directory, name, shell, Signing.of(credentials), lambda: key_of(fleet), settings, fact, large.files
        )
        large.kept = self.shelf.blob
        self.comparing = Comparing(shell, switchboard, settings.bytes)
        self.past = Past(directory, shell, self.shelf, credentials.identity.sign_key, self.comparing)
        self.telling = TellingPast(directory, shell, switchboard)
        answers.past = SnapshotAnswers(self.shelf, self.past, shell, switchboard)
        self.lending = Lending(self.shelf, lane, switchboard, lambda: shell.desk.bytes)

        def copy_of(link: Link) -> PeerCopy:
            return PeerCopy(shell.loop, switchboard, lane, link)

        self.joining = Joining(
            shell, switchboard, links, fleet, self.shelf.folder, copy_of, self.shelf.key, fact, large
        )
        answers.joining = self.joining
        self.peers = Peers(self.shelf, shell, fleet, switchboard, links, copy_of, fact)

        async def told_digests(link: Link, args: Mapping[str, Any], body: memoryview) -> list[bytes]:
            return list(await shell.ask(digests))

        switchboard.serve("snapshot.digests", told_digests)

    def start(self) -> None:
        """Take snapshots, and look after them, from now on."""
        self.joining.start()
        self.shelf.start()
        self.comparing.start()

    async def close(self) -> None:
        """Begin nothing more."""
        await self.comparing.close()
        await self.joining.close()
        await self.peers.close()
        await self.shelf.close()
