"""A node of the simulator: the keeper that runs in a real node, a disk, and a wall clock that may be wrong."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from blake3 import blake3

from swarm.protocol.knowledge.allowance import Allowance
from swarm.protocol.knowledge.bounds import SIGNATURE_BYTES
from swarm.protocol.knowledge.entries import read
from swarm.protocol.knowledge.keeper import Keeper, KeeperConfig
from swarm.protocol.knowledge.knowledge import Knowledge
from swarm.protocol.knowledge.replicas import Replication
from swarm.protocol.knowledge.rules import STRIKE, Outcome, Quota
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import HybridClock
from swarm.protocol.knowledge.weights import Weights

LOADED_MS = 1 << 47
"""What is on the own disk was believed before, whatever the clock says now."""


def name_of(number: int) -> bytes:
    """A node's id."""
    return b"node%012d" % number


def signature(author: bytes, message: bytes) -> bytes:
    """Stands for Ed25519, which would take most of the time."""
    return blake3(author + message, derive_key_context="simulated signature").digest(SIGNATURE_BYTES)


class Disk:
    """What a node has written: payloads by shard."""

    def __init__(self) -> None:
        self.payloads: list[tuple[int, bytes]] = []


class KnowledgeNode:
    """One process on one disk. `skew_s` is how far its wall clock is off, and may change while it runs."""

    def __init__(
        self,
        number: int,
        now: float,
        disk: Disk,
        rng: Random,
        wall_s: Callable[[], float],
        config: KeeperConfig,
        replication: Replication,
        shards: int,
        quota: Quota,
        revoked: set[bytes],
        allowance: Allowance | None = None,
    ) -> None:
        self.number = number
        self.id = name_of(number)
        self.disk = disk
        self.revoked = revoked
        """Whom this node knows to be revoked."""
        self.wall_s = wall_s

        def verify(author: bytes, message: bytes, signed: bytes) -> Outcome | None:
            if author in self.revoked:
                return Outcome.REVOKED
            return None if signed == signature(author, message) else Outcome.SIGNATURE

        def open_shard(shard: int) -> Shard:
            return Shard(shard, shards, verify, quota, allowance=allowance)

        opened: dict[int, Shard] = {}
        last = 0
        for shard, payload in disk.payloads:
            if shard not in opened:
                opened[shard] = open_shard(shard)
            opened[shard].take(payload, LOADED_MS)
            if payload[0] != STRIKE:
                last = max(last, read(payload).last_time)
        clock = HybridClock(last)
        self.knowledge = Knowledge(
            self.id, lambda message: signature(self.id, message), opened, shards, clock, open_shard, clean=False
        )
        self.weights = Weights(self.knowledge)
        self.keeper = Keeper(now, self.knowledge, rng, lambda _: self.wall_ms, config, replication)

    @property
    def wall_ms(self) -> int:
        """What its clock shows."""
        return int(self.wall_s() * 1000)

    def receive(self, now: float, source: Any, payload: Any) -> None:
        self.keeper.receive(now, source, payload)

    def tick(self, now: float) -> None:
        self.keeper.tick(now)

    def next_deadline(self) -> float:
        return self.keeper.next_deadline()

    def take(self) -> list[tuple[Any, Any]]:
        """What is to be kept is on the disk before anything is sent."""
        self.disk.payloads += self.keeper.take_kept()
        return list(self.keeper.take())
