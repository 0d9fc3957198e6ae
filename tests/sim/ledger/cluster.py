"""Ledgers side by side without disks, network or faults: messages come at once, time is told. For tests of one thing, and for
measuring."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import TypeVar

from kernels.batch import CallBuilder, OutcomeBuilder
from swarm.protocol.ledger import homes
from swarm.protocol.ledger.config import LedgerConfig
from swarm.protocol.ledger.effects import Committed, Effect, Refusal
from swarm.protocol.ledger.ledger import Ledger
from swarm.protocol.ledger.members import Presence
from swarm.protocol.ledger.records import Durability, Ended, Record, Submitted, Token, digest_of
from swarm.protocol.raft.effects import Send, Sync
from swarm.protocol.raft.entries import Recovered
from tests.sim.raft.cluster import id_of
from tests.sim.raft.disk import Shelf

E = TypeVar("E")
CONFIG = LedgerConfig(replace_after_s=5.0, readd_after_s=1.0, policy_every_s=0.1)
WALL = 1.7e9


class Ledgers:
    """`count` nodes, each on a host of its own unless `hosts` says otherwise; syncs are done at once unless `hold` has them
    wait, and what was synced is there when a node starts anew."""

    def __init__(self, count: int = 3, hosts: int | None = None, config: LedgerConfig = CONFIG) -> None:
        self.now = 0.0
        self.wall = WALL
        self.config = config
        self.hosts = hosts or 1_000_000
        self.nodes: dict[int, Ledger] = {}
        self.disks: dict[int, dict[bytes, Shelf]] = {}
        self.effects: dict[int, list[Effect]] = {}
        self.held: dict[int, deque[Sync]] = {}
        self.hold: set[int] = set()
        self.presence: dict[int, Presence] = {}
        self.cut: Callable[[int, int], bool] = lambda source, to: False
        self.watching = True
        for number in range(count):
            self.start(number)
        self.see()

    def start(self, number: int) -> Ledger:
        """A node, or the same one anew."""
        disk = self.disks.setdefault(number, {})
        found = {name: shelf.recover() for name, shelf in disk.items()}
        boot = b"%08d" % (number + 100 * len(self.effects.get(number, ())))
        self.effects[number], self.held[number] = [], deque()
        host = b"host%d" % (number % self.hosts)
        rng = Random(f"{number} {self.now}")
        ledger = Ledger(self.now, id_of(number), boot, rng, self.config, found, host, self.wall + self.now)
        self.nodes[number] = ledger
        self.presence[number] = Presence.ALIVE
        return ledger

    def stop(self, number: int, presence: Presence = Presence.AWAY) -> None:
        """A node does not run any more."""
        del self.nodes[number]
        self.presence[number] = presence
        self.see()

    def see(self) -> None:
        """All are told who is there."""
        for ledger in self.nodes.values():
            rows = [(id_of(n), b"host%d" % (n % self.hosts), presence) for n, presence in sorted(self.presence.items())]
            ledger.members_seen(self.now, rows)

    def turn(self) -> None:
        """Everybody takes turns until nobody has anything to say."""
        busy = True
        while busy:
            busy = False
            for number, ledger in list(self.nodes.items()):
                for effect in ledger.take():
                    if type(effect) is Send:
                        busy = True
                        to = int(effect.to)
                        if to in self.nodes and not self.cut(number, to):
                            self.nodes[to].receive(self.now, id_of(number), effect.payload)
                    elif type(effect) is Sync:
                        self.held[number].append(effect)
                    elif self.watching:
                        self.effects[number].append(effect)
                if self.held[number] and number not in self.hold:
                    self.sync(number)
                    busy = True

    def sync(self, number: int) -> None:
        """A node's disk has done all that waits."""
        last = 0
        while self.held[number]:
            sync = self.held[number].popleft()
            last = sync.number
            if self.watching:
                for write in sync.writes:
                    self.disks[number].setdefault(write.group, Shelf()).write(write)
        self.nodes[number].synced(self.now, last)

    def run(self, for_s: float) -> None:
        """Lets time go by."""
        until = self.now + for_s
        self.turn()
        while True:
            instants = [at for ledger in self.nodes.values() if (at := ledger.next_deadline()) is not None]
            nearest = min(instants, default=float("inf"))
            if nearest > until:
                self.now = until
                return
            self.now = max(self.now, nearest)
            for ledger in self.nodes.values():
                at = ledger.next_deadline()
                if at is not None and at <= self.now:
                    ledger.tick(self.now)
            self.turn()

    def group(self, number: int) -> bytes:
        """The group of a node's `fleet` tasks."""
        return homes.fleet_group(id_of(number))

    def leader(self, group: bytes) -> int | None:
        """Who leads, in the latest epoch."""
        found = [(epoch, number) for number, it in self.nodes.items() if (epoch := it.leads(group)) is not None]
        return max(found)[1] if found else None

    def voters(self, home: int) -> list[int]:
        """Who votes in a home's group, as its leader has it."""
        group = self.group(home)
        leader = self.leader(group)
        assert leader is not None
        raft = self.nodes[leader].raft(group)
        assert raft is not None
        return sorted(int(id) for id in raft.members.voters)

    def of(self, number: int, kind: type[E]) -> list[E]:
        """Effects of a kind that a node left."""
        return [effect for effect in self.effects[number] if isinstance(effect, kind)]

    def propose(self, number: int, group: bytes, record: Record) -> int:
        """A proposal that must be taken."""
        ticket = self.nodes[number].propose(self.now, group, record)
        assert not isinstance(ticket, Refusal), ticket
        return ticket

    def committed(self, number: int, ticket: int) -> Committed | None:
        """What became of a proposal."""
        return next((one for one in self.of(number, Committed) if one.ticket == ticket), None)


def batch(home: int, number: int, count: int = 3, text: str = "x", **fields: object) -> Submitted:
    """A batch of a home."""
    builder = CallBuilder()
    for row in range(count):
        builder.add_plain((text, row), None)
    columns = builder.take()
    key = homes.durable_session(id_of(home), b"12345") + number.to_bytes(4, "big")
    known: dict[str, object] = {"wall": WALL, "retention_s": 60.0, "durability": int(Durability.FLEET)} | fields
    digest = digest_of(b"\x80", count, columns)
    return Submitted(key, "me", True, b"\x80", count, columns, digest=digest, **known)  # type: ignore[arg-type]


def outcomes(of: Submitted, token: Token | None, rows: range | None = None, size: int = 8, wall: float = WALL) -> Ended:
    """Outcomes of all rows, or some."""
    builder = OutcomeBuilder()
    for row in rows if rows is not None else range(of.count):
        builder.add(row, 0, 1, b"r" * size)
    count = builder.count
    return Ended(of.key, token, count, builder.take(), wall)


__all__ = ["CONFIG", "Ledgers", "Recovered", "batch", "outcomes"]
