"""One simulated node: the consensus of its groups, its disk, its clock, and a state machine for each group."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from swarm.protocol.raft.effects import (
    Apply,
    Changed,
    Following,
    Install,
    Leading,
    Proposed,
    ReadLost,
    ReadReady,
    Removed,
    Repaired,
    Send,
    Stranger,
    Sync,
)
from swarm.protocol.raft.entries import Recovered
from swarm.protocol.raft.node import RaftNode
from tests.sim.process import Clock, Process, id_of, number_of
from tests.sim.raft.disk import Disk
from tests.sim.raft.truth import Broken, digest

if TYPE_CHECKING:
    from tests.sim.raft.world import World


@dataclass
class Machine:
    """The state machine above one group: a hash over all entries."""

    index: int = 0
    state: int = 0
    waiting: dict[int, int] = field(default_factory=dict)
    """Proposals of this process that nothing is known of: index -> term."""
    reads: dict[bytes, int] = field(default_factory=dict)
    """Reads that were asked for: context -> what they must see."""
    led: tuple[int, int, int] | None = None
    """(term, last index, its term) when this node was looked at as a leader."""


class Member(Process):
    """A node while it runs, between a start and a crash."""

    def __init__(self, world: World, number: int, disk: Disk, clock: Clock) -> None:
        super().__init__(world, number, disk, clock)
        self.machines: dict[bytes, Machine] = {}
        boot = b"%08d" % world.boots
        world.boots += 1
        now = clock.local(world.sim.now)
        rng = Random(f"{world.seed} node {number} {world.boots}")
        self.node = self.core = RaftNode(now, id_of(number), boot, rng, world.config)
        for group in sorted(disk.shelves):
            self.open(now, group, disk.shelf(group).recover())
        if disk.full:
            self.node.space(now, True)
        self.turn()

    def open(self, now: float, group: bytes, recovered: Recovered) -> None:
        """Takes part in a group with what is on disk."""
        snapshot = recovered.snapshot
        self.world.truths[group].found(self.number, recovered)
        self.machines[group] = Machine(snapshot.index, int(snapshot.data.split(b" ")[0] or 0))
        self.node.create(now, group, recovered, self.world.homes.get(group))

    # Turns.

    def turn(self) -> None:
        """Carries out what the node wants done."""
        world = self.world
        for effect in self.node.take():
            kind = type(effect)
            if kind is Send:
                self.out.append((number_of(effect.to), effect.payload))
            elif kind is Sync:
                self._sync(effect)
            elif kind is Apply:
                self._apply(effect)
            elif kind is ReadReady:
                machine = self.machines[effect.group]
                assert machine.index >= effect.index
                world.truths[effect.group].reads_at(self.number, effect.index, machine.reads.pop(effect.context))
            elif kind is ReadLost:
                del self.machines[effect.group].reads[effect.context]
            elif kind is Leading:
                log = self.log(effect.group)
                entries = log.slice(log.base.index + 1, log.last - log.base.index, 1 << 62)
                world.truths[effect.group].leads(self.number, effect.term, log.base, entries)
                world.note(f"{self.number} leads {effect.group.decode()} in term {effect.term}")
                world.leading(self.number, effect.group)
            elif kind is Install:
                machine = self.machines[effect.group]
                machine.index, machine.state = effect.snapshot.index, int(effect.snapshot.data.split(b" ")[0])
                self._check_state(effect.group)
            elif kind is Stranger:
                self.open(self.now, effect.group, Recovered())
                world.note(f"{self.number} joins {effect.group.decode()}")
            elif kind is Removed:
                world.note(f"{self.number} hears that it was removed from {effect.group.decode()}")
            elif kind is Repaired:
                world.note(f"{self.number} has repaired {effect.group.decode()}")
            else:
                if kind not in (Following, Changed):
                    raise Broken(f"violation: node {self.number}: {effect}")
        for group, machine in self.machines.items():
            raft = self.node.group(group)
            assert raft is not None
            if raft.leads:
                log = self.log(group)
                if machine.led is not None and machine.led[0] == raft.term and machine.led[1] >= log.base.index:
                    world.truths[group].kept(self.number, machine.led[1], log.term(machine.led[1]), machine.led[2])
                machine.led = (raft.term, log.last, log.last_term)
                self._compact(group, machine)
            elif machine.led is not None:
                machine.led = None
            elif raft.last - raft.first > 30:
                self._compact(group, machine)

    def _sync(self, sync: Sync) -> None:
        for write in sync.writes:
            if write.entries:
                before = self.log(write.group).term(write.first - 1)
                self.world.truths[write.group].writes(self.number, write, before)
        self.queue(sync)

    def begin_anew(self, group: bytes) -> None:
        machine = self.machines[group]
        self.node.restart(self.now, group, self.disk.shelf(group).recover(), self.world.homes.get(group), machine.index)
        machine.waiting.clear()
        machine.reads.clear()
        machine.led = None

    def _apply(self, effect: Apply) -> None:
        truth, machine = self.world.truths[effect.group], self.machines[effect.group]
        raft = self.node.group(effect.group)
        assert raft is not None
        for index, entry in enumerate(effect.entries, effect.first):
            if index != machine.index + 1:
                truth.fail("order", f"node {self.number} applies entry {index} after its {machine.index}")
            truth.applies(self.number, index, entry)
            machine.index, machine.state = index, digest(machine.state, index, entry)
            if raft.leads and entry.term == raft.term:
                voters = [number_of(id) for id in raft.members.voters]
                truth.commits(self.number, index, entry.term, voters)
            if index in machine.waiting and machine.waiting.pop(index) == entry.term:
                truth.acknowledges(self.number, index, entry.term)
        self._check_state(effect.group)
        if raft.leads:
            self.world.committing(self.number)

    def _check_state(self, group: bytes) -> None:
        truth, machine = self.world.truths[group], self.machines[group]
        if truth.states[machine.index] != machine.state:
            truth.fail("state-machine-safety", f"node {self.number} has another state after entry {machine.index}")

    def _compact(self, group: bytes, machine: Machine) -> None:
        """Snapshots, as eagerly as the seed has it, and not of all that could go."""
        world = self.world
        raft = self.node.group(group)
        assert raft is not None
        if raft.last - raft.first >= world.compact_at:
            index = machine.index - world.compact_keep
            if index in world.truths[group].states:
                data = b"%d " % world.truths[group].states[index] + bytes(world.snapshot_bytes)
                self.node.compact(self.now, group, index, data)

    # What people want.

    def propose(self, group: bytes, data: bytes) -> bool:
        """Whether it was taken."""
        machine = self.machines.get(group)
        if machine is None:
            return False
        proposed = self.node.propose(self.now, group, data)
        if isinstance(proposed, Proposed):
            machine.waiting[proposed.index] = proposed.term
        self.turn()
        return isinstance(proposed, Proposed)

    def read(self, group: bytes) -> bool:
        """Whether it was taken."""
        machine = self.machines.get(group)
        if machine is None:
            return False
        context = b"r%d" % self.world.count()
        machine.reads[context] = self.world.truths[group].floor
        refused = self.node.read(self.now, group, context)
        if refused is not None:
            del machine.reads[context]
        self.turn()
        return refused is None
