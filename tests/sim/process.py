"""A process of a simulated node that keeps logs: its clock, its disk that is synced in a while, and frames to others.

What runs in it (`tests.sim.raft.member`, `tests.sim.ledger.member`) says what a turn is and what becomes of what was refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from swarm.protocol.raft.effects import Sync
from tests.sim.raft.disk import Disk

if TYPE_CHECKING:
    from tests.sim.raft.world import World


def id_of(number: int) -> bytes:
    """The id of a node."""
    return b"%016d" % number


def number_of(id: bytes) -> int:
    """The inverse of `id_of`."""
    return int(id)


class Clock:
    """A clock that runs at a rate of its own and is set now and then."""

    def __init__(self, rate: float, offset: float) -> None:
        self.rate = rate
        self.offset = offset

    def local(self, simulated: float) -> float:
        """What it shows."""
        return simulated * self.rate + self.offset

    def simulated(self, local: float) -> float:
        """When it shows that."""
        return (local - self.offset) / self.rate


class Process(ABC):
    """What a node is while it runs, between a start and a crash."""

    world: Any
    core: Any
    """What takes turns: the consensus of some groups, or the ledger above it."""
    node: Any
    """Its consensus."""

    def __init__(self, world: World, number: int, disk: Disk, clock: Clock) -> None:
        self.number = number
        self.world = world
        self.disk = disk
        self.clock = clock
        self.out: list[tuple[Any, Any]] = []
        self.dead = False

    @property
    def now(self) -> float:
        """On its own clock."""
        return self.clock.local(self.world.sim.now)

    # As a process of the simulator.

    def receive(self, now: float, source: Any, payload: Any) -> None:
        """A frame came."""
        if self.world.trace is not None:
            self.world.trace.received(now, source, self.number, payload)
        self.core.receive(self.clock.local(now), id_of(source), payload)
        self.turn()

    def tick(self, now: float) -> None:
        """A timer."""
        self.core.tick(self.clock.local(now))
        self.turn()

    def next_deadline(self) -> float | None:
        """In simulated time."""
        deadline = self.core.next_deadline()
        return None if deadline is None else self.clock.simulated(deadline)

    def take(self) -> list[tuple[Any, Any]]:
        """Frames."""
        out, self.out = self.out, []
        return out

    # What runs in it.

    @abstractmethod
    def turn(self) -> None:
        """Carries out what the core wants done."""

    @abstractmethod
    def begin_anew(self, group: bytes) -> None:
        """The disk had no space for what was written to a group: it goes on from what is there."""

    def log(self, group: bytes) -> Any:
        """The log of a group, as consensus has it."""
        raft = self.node.group(group)
        assert raft is not None
        return raft._replica.log

    # The disk.

    def queue(self, sync: Sync) -> None:
        """Something is to be written and synced."""
        self.disk.pending.append((sync.number, sync.writes))
        if self.disk.syncing is None:
            self._begin_sync()

    def _begin_sync(self) -> None:
        sim = self.world.sim
        sim.at(sim.now + self.disk.begin(sim.now), self._synced)

    def _synced(self) -> None:
        if self.dead:
            return
        world = self.world
        if world.sim.slots[self.number].paused:
            world.sim.at(world.sim.now + 0.05, self._synced)
            return
        if self.disk.fails:
            world.note(f"{self.number}: fsync fails")
            world.crash(self.number, 0.5)
            return
        number, written, refused = self.disk.done()
        for write in written:
            world.truth(write.group).synced(self.number, write)
        for group in refused:
            world.note(f"{self.number}: disk full for {group.decode()}")
            self.begin_anew(group)
        if self.disk.pending:
            self._begin_sync()
        self.core.synced(self.now, number)
        self.turn()
        world.sim.settle(self.number)
