"""Three nodes with journals, joined by links of one reach, and who speaks to them: a client, and an executor by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from conftest import Peer, World, until

from kernels.batch import CallBuilder, OutcomeBuilder
from nodes.fabric import Fabric, boottime_s
from nodes.kept_blobs import KeptBlobs
from nodes.kept_files import KeptFiles
from nodes.ledger import LedgerShell, open_journal
from nodes.pool import PoolConfig
from nodes.settings import LedgerSection
from swarm.protocol.effects import Fact
from swarm.protocol.execution import Execution, ExecutionConfig
from swarm.protocol.ledger.homes import fleet_group, home_tag
from swarm.protocol.member import Member, State
from swarm.protocol.messages import decode, encode
from swarm.protocol.ownership import Ownership, OwnershipConfig
from swarm.protocol.resources import Capacity
from swarm.protocol.spec import Spec
from swarm.protocol.twins import Standing
from transport.links import Link

LEVEL = 2
JOURNAL_BYTES = 64 << 20
RAW = Spec("call", ("name", "m:f", "f"), "f").encode()
Said = tuple[int, dict[str, Any], bytes]


class DurableNode:
    """A node without workers: its links, owner, ledger and journal."""

    def __init__(self, peer: Peer, name: str, directory: Path, fleet: Nodes) -> None:
        self.peer, self.name, self.fleet = peer, name, fleet
        self.id = peer.credentials.id
        self.boot = peer.links.switch.boot
        self.facts: list[Fact] = []
        none = Capacity({"cpu": 0.0})
        loop = asyncio.get_running_loop()
        self.fabric = Fabric(
            self.id, Ownership(OwnershipConfig(), self.id, name, none), Execution(ExecutionConfig(none), self.id),
            PoolConfig(), self, loop,
        )  # fmt: skip
        journal = open_journal(directory / name, b"fleet---", self.id, LedgerSection(journal_bytes=JOURNAL_BYTES))
        self.ledger = LedgerShell(
            journal, self.id, name, self.boot, name.encode().ljust(8), self.fabric.ownership, self.fabric.node_links, self,
            loop, boottime_s, self.fabric.turn, lambda batches: None,
        )  # fmt: skip
        # No task here has anything that is too large for a log, so nobody is asked for it.
        self.kept = KeptBlobs(
            KeptFiles(directory / name / "kept", 0), self.id, self.ledger.ledger, self.fabric.ownership,
            cast(Any, SimpleNamespace()), cast(Any, SimpleNamespace(serve=lambda method, answer: None)),
            self.fabric.node_links, self, loop, boottime_s, self.fabric.turn,
        )  # fmt: skip
        self.fabric.keep_ledger(self.ledger, self.kept)
        peer.links.switch.handler = self

    # What links tell.

    def link_up(self, link: Link) -> None:
        self.fabric.link_up(link)

    def link_messages(self, link: Link, messages: list[bytes]) -> None:
        self.fabric.link_messages(link, messages)

    def link_writable(self, link: Link) -> None:
        self.fabric.link_writable(link)

    def link_down(self, link: Link, reason: str) -> None:
        self.fabric.link_down(link, reason)

    def refused(self, reason: str, facts: Mapping[str, object]) -> None:
        self.facts.append(Fact(f"refused.{reason}", {}, dict(facts)))

    # What the fabric and the ledger ask.

    def connect(self, node: bytes) -> None: ...

    def peer_reset(self, node: bytes) -> None: ...

    def load_changed(self) -> None:
        self.fleet.changed()

    def fact(self, fact: Fact) -> None:
        self.facts.append(fact)

    def member(self) -> Member:
        """As others see it."""
        info = self.ledger.info() | {"z": self.name.encode().ljust(8)}
        return Member(
            self.id, self.name, self.peer.credentials.certificate, (), 1, self.boot, info, State.ALIVE, ("", 0)
        )

    def leads(self, home: bytes) -> bool:
        """Whether it leads the log of a home."""
        return fleet_group(home) in self.fabric.ownership.led

    async def close(self) -> None:
        self.fabric.close()
        await self.kept.close()
        await self.ledger.close()


class Nodes:
    """All of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.nodes: dict[str, DurableNode] = {}
        self.running = True

    @classmethod
    async def begin(cls, world: World, names: tuple[str, ...] = ("oak", "elm", "fir")) -> Nodes:
        """Nodes that are linked, each of which keeps the logs of all."""
        made = cls(world)
        for name in names:
            peer = await world.listening(name, boot=name.encode().ljust(8, b"-"))
            made.nodes[name] = DurableNode(peer, name, world.directory, made)
        nodes = list(made.nodes.values())
        for node in nodes:
            others = [one for one in nodes if one is not node]
            node.ledger.watch(lambda others=others: [one.member() for one in others if made.running])
        for number, node in enumerate(nodes):
            for other in nodes[number + 1 :]:
                await world.dial(node.peer, other.peer)
        await until(lambda: all(len(node.fabric.node_links) == len(nodes) - 1 for node in nodes))
        made.changed()
        await until(lambda: all(made.voters(name) == min(3, len(names)) for name in names), 30)
        return made

    def changed(self) -> None:
        """Somebody says something else of itself."""
        for node in self.nodes.values():
            if hasattr(node, "ledger") and self.running:
                node.ledger.members_changed()

    def voters(self, name: str) -> int:
        """Who has a vote in the log of a node, as that node knows it."""
        node = self.nodes[name]
        raft = node.ledger.ledger.raft(fleet_group(node.id))
        return 0 if raft is None or not node.leads(node.id) else len(raft.members.voters)

    async def close(self) -> None:
        self.running = False
        for node in self.nodes.values():
            await node.close()


class Speaker:
    """Somebody who says and hears messages as they are on the wire."""

    def __init__(self, peer: Peer, link: Any) -> None:
        self.peer, self.link = peer, link

    @classmethod
    async def linked(cls, world: World, node: DurableNode, *, role: str = "client", **more: Any) -> Speaker:
        credentials = more.pop("credentials", None) or world.fleet.credentials("ann", role)
        peer = world.peer("ann", credentials=credentials, **more)
        return cls(peer, await world.dial(peer, node.peer))

    def say(self, kind: int, header: dict[str, Any], body: bytes = b"") -> None:
        self.link.send(encode(kind, header), body)
        self.link.flush()

    def heard(self, kind: int) -> list[Said]:
        """Messages of a kind so far."""
        found = [decode(message) for message in self.peer.seen.messages]
        return [(one, header, bytes(body)) for one, header, body in found if one == kind]

    async def hear(self, kind: int, count: int = 1) -> Said:
        """Wait for the count-th message of a kind."""
        await until(lambda: len(self.heard(kind)) >= count, 20)
        return self.heard(kind)[count - 1]


def key_in(node: DurableNode, number: int) -> bytes:
    """The key of a batch whose home is a node."""
    return home_tag(node.id) + b"12345" + number.to_bytes(4, "big")


def columns_of(count: int, size: int = 1) -> bytes:
    builder = CallBuilder()
    for number in range(count):
        builder.add(b"M" + bytes([number % 128]) * size)
    return builder.take()


def outcomes_of(count: int) -> bytes:
    builder = OutcomeBuilder()
    for index in range(count):
        builder.add_plain(index, 7, index)
    return builder.take()


def standing_of(boot: bytes, *, counted: bool = False) -> Standing:
    return Standing(boot, time.time(), counted, (("10.0.0.9", 7411),), 1, 1)
