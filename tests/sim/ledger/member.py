"""One simulated node: its ledger, its disk, its clock, and what owns and runs tasks on it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from swarm.protocol.effects import Fact
from swarm.protocol.ledger.effects import Announce, Close, Committed, Drained, Dropped, Follow, Lead
from swarm.protocol.ledger.group import Group
from swarm.protocol.ledger.ledger import Ledger
from swarm.protocol.raft.effects import Apply, Install, Leading, ReadLost, ReadReady, Removed, Send, Sync
from swarm.protocol.raft.effects import Effect as RaftEffect
from swarm.protocol.raft.entries import Entry, EntryKind
from swarm.protocol.raft.node import RaftNode
from tests.sim.ledger.work import REPORT_S, Executor, Owner
from tests.sim.process import Clock, Process, id_of, number_of
from tests.sim.raft.disk import Disk
from tests.sim.raft.truth import Broken, digest

if TYPE_CHECKING:
    from tests.sim.ledger.world import LedgerWorld

VIOLATIONS = ("raft.violation", "raft.rejected", "ledger.damaged", "ledger.too_large")


class LedgerMember(Process):
    """A node while it runs, between a start and a crash."""

    def __init__(self, world: LedgerWorld, number: int, disk: Disk, clock: Clock) -> None:
        super().__init__(world, number, disk, clock)
        self.reads: dict[bytes, tuple[int, bytes | None]] = {}
        self.applied: dict[bytes, tuple[int, int]] = {}
        """group -> (index, hash over all entries up to it)."""
        self.led: dict[bytes, tuple[int, int, int]] = {}
        self.drained: tuple[bytes, ...] | None = None
        world.boots += 1
        self.rng = Random(f"{world.seed} node {number} {world.boots}")
        found = {name: shelf.recover() for name, shelf in sorted(disk.shelves.items())}
        self.owner, self.executor = self.above()
        for name, recovered in found.items():
            world.truth(name).found(number, recovered)
            self._starts_at(name, recovered.snapshot.index)
        now = clock.local(world.sim.now)
        boot = b"%08d" % world.boots
        host = world.host(number)
        wall = world.wall(number)
        self.ledger = self.core = Ledger(now, id_of(number), boot, self.rng, world.ledger_config, found, host, wall)
        self.node: RaftNode = self.ledger._raft
        take = self.node.take

        def watched() -> list[RaftEffect]:
            effects = take()
            for effect in effects:
                self._watch(effect)
            return effects

        self.node.take = watched  # type: ignore[method-assign]
        self.ledger.members_seen(now, world.view(number))
        if disk.full:
            self.ledger.space(now, True)
        self.turn()
        world.sim.at(world.sim.now + REPORT_S * self.rng.random(), self._every_now_and_then)

    def above(self) -> tuple[Any, Any]:
        """What owns and what runs tasks."""
        return Owner(self), Executor(self)

    def _starts_at(self, name: bytes, index: int) -> None:
        self.applied[name] = (index, self.world.truth(name).states[index])

    # As a process of the simulator.

    def receive(self, now: float, source: Any, payload: Any) -> None:
        """A frame came, or what owners and executors say to each other."""
        if type(payload) is not tuple:
            super().receive(now, source, payload)
            return
        self._hear(payload)
        self.turn()

    # Owners and executors.

    def say(self, number: int, what: tuple[Any, ...]) -> None:
        """To an executor or an owner; the own one hears at once."""
        if number == self.number:
            self._hear(what)
        else:
            self.out.append((number, what))

    def tell_all(self, what: tuple[Any, ...]) -> None:
        """To everybody."""
        for number in sorted(self.world.members):
            self.say(number, what)

    def _hear(self, what: tuple[Any, ...]) -> None:
        if what[0] == "run":
            self.executor.run(what[1])
        elif what[0] == "settled":
            self.executor.settled(what[1])
        else:
            self.owner.heard(what)

    def _every_now_and_then(self) -> None:
        if self.dead:
            return
        world = self.world
        if not world.sim.slots[self.number].paused:
            self.ledger.tell_wall(self.now, world.wall(self.number))
            self.ledger.members_seen(self.now, world.view(self.number))
            for what in self.executor.report():
                self.tell_all(what)
            self.owner.look()
            self.turn()
            world.sim.settle(self.number)
        world.sim.at(world.sim.now + REPORT_S, self._every_now_and_then)

    # Turns.

    def turn(self) -> None:
        """Carries out what the ledger wants done."""
        world = self.world
        for effect in self.ledger.take():
            match effect:
                case Send():
                    self.out.append((number_of(effect.to), effect.payload))
                case Sync():
                    self._sync(effect)
                case Committed():
                    self.owner.committed(effect)
                case Dropped():
                    self.owner.dropped(effect.ticket, effect)
                case Lead():
                    if effect.epoch != self.ledger.raft(effect.group).term:  # type: ignore[union-attr]
                        raise Broken(f"epoch: node {self.number} leads {effect.group.decode()} in {effect.epoch}")
                    self._check_complete(effect)
                    self.owner.lead(effect.group, effect.epoch, effect.state)
                    world.leading(self.number, effect.group)
                case Follow():
                    self.owner.follow(effect.group)
                case Close():
                    world.note(f"{self.number} gives up {effect.group.decode()}")
                    self._closed(effect.group)
                case ReadReady():
                    self._reads(effect)
                case ReadLost():
                    self.reads.pop(effect.context, None)
                case Drained():
                    self.drained = effect.left
                case Announce():
                    world.announced[self.number] = effect.announcement
                case Fact():
                    if effect.name in VIOLATIONS:
                        raise Broken(f"violation: node {self.number}: {effect}")

    def _check_complete(self, lead: Lead) -> None:
        """Who leads knows all that was committed in earlier terms."""
        truth = self.world.truth(lead.group)
        for index in range(lead.state.applied + 1, truth.last + 1):
            if truth.committed[index] < lead.epoch:
                raise Broken(f"lead-incomplete: node {self.number} leads {lead.group.decode()} without entry {index}")

    def _reads(self, effect: ReadReady) -> None:
        asked = self.reads.pop(effect.context, None)
        if asked is not None:
            state = self.ledger.state(effect.group)
            assert state is not None and state.applied >= effect.index
            self.world.truth(effect.group).reads_at(self.number, effect.index, asked[0])
            if asked[1] is not None:
                self.world.attached(effect.group, asked[1], state)

    def read(self, group: bytes, key: bytes | None = None) -> bool:
        """Asks for a linearizable read, of a batch."""
        context = b"r%d" % self.world.count()
        self.reads[context] = (self.world.truth(group).floor, key)
        refused = self.ledger.read(self.now, group, context)
        if refused is not None:
            del self.reads[context]
            return False
        self.turn()
        return True

    def propose(self, group: bytes, data: bytes) -> bool:
        """Storms are of batches here."""
        self.world.submit_new(group, len(data) % 5)
        return True

    # What is watched.

    def _watch(self, effect: RaftEffect) -> None:
        """Every effect of consensus, before the ledger has it."""
        world = self.world
        match effect:
            case Apply():
                truth = world.truth(effect.group)
                raft = self.node.group(effect.group)
                if raft is None or effect.group not in self.ledger.groups:
                    return
                self._watch_group(effect.group)
                at, state = self.applied.get(effect.group, (0, 0))
                for index, entry in enumerate(effect.entries, effect.first):
                    if index != at + 1:
                        truth.fail("order", f"node {self.number} applies entry {index} after its {at}")
                    truth.applies(self.number, index, entry)
                    world.history.committed(effect.group, index, entry)
                    at, state = index, digest(state, index, entry)
                    if raft.leads and entry.term == raft.term:
                        truth.commits(self.number, index, entry.term, [number_of(id) for id in raft.members.voters])
                self.applied[effect.group] = (at, state)
                if truth.states[at] != state:
                    truth.fail("state-machine-safety", f"node {self.number} has another state after entry {at}")
                if raft.leads:
                    world.committing(self.number)
            case Install():
                self._starts_at(effect.group, effect.snapshot.index)
            case Leading():
                log = self.log(effect.group)
                entries = log.slice(log.base.index + 1, log.last - log.base.index, 1 << 62)
                world.truth(effect.group).leads(self.number, effect.term, log.base, entries)
                world.note(f"{self.number} leads {effect.group.decode()} in term {effect.term}")
            case Removed():
                world.note(f"{self.number} hears that it was removed from {effect.group.decode()}")

    def _watch_group(self, name: bytes) -> None:
        """What its state machine takes from each entry is compared with the rules."""
        group = self.ledger._groups[name]
        if "apply" in group.__dict__:
            return
        plain = group.apply

        def apply(index: int, entry: Entry) -> Any:
            found = plain(index, entry)
            if entry.kind == EntryKind.DATA:
                self._took(name, group, index, found)
            return found

        group.apply = apply  # type: ignore[method-assign]

    def _took(self, name: bytes, group: Group, index: int, found: Sequence[Any]) -> None:
        history = self.world.history
        taken: dict[tuple[bytes, int], bytes] = {}
        for ticket, applied in found:
            outcomes = applied.outcomes
            for at in range(0 if outcomes is None else outcomes.count):
                row = (applied.key, outcomes.index(at))
                if row in taken:
                    raise Broken(f"one-outcome: node {self.number} takes two of {row} from entry {index}")
                taken[row] = bytes(outcomes.payload(at))
            if ticket is not None:
                truth = self.world.truth(name)
                truth.acknowledges(self.number, index, truth.committed[index])
        history.compare(self.number, name, index, taken)
        model = history.models.get(name)
        if model is not None and model.applied == index:
            done = {key: batch.done for key, batch in group.state.batches.items()}
            wanted = {key: len(batch.outcomes) for key, batch in model.batches.items()}
            if done != wanted:
                raise Broken(
                    f"stale-outcome: node {self.number} has {done} ended in {name.decode()}, the rules say {wanted}"
                )
        if index % 8 == 0:
            history.same_state(self.number, name, index, blake3(group.state.snapshot()).digest())

    def _check_leader(self, name: bytes) -> None:
        """A leader only appends: looked at with each of its writes."""
        raft = self.node.group(name)
        if raft is not None:
            if raft.leads:
                log = self.log(name)
                was = self.led.get(name)
                if was is not None and was[0] == raft.term and was[1] >= log.base.index:
                    self.world.truth(name).kept(self.number, was[1], log.term(was[1]), was[2])
                self.led[name] = (raft.term, log.last, log.last_term)
            else:
                self.led.pop(name, None)

    # The disk.

    def _sync(self, sync: Sync) -> None:
        for write in sync.writes:
            self._check_leader(write.group)
            if write.entries and self.node.group(write.group) is not None:
                before = self.log(write.group).term(write.first - 1)
                self.world.truth(write.group).writes(self.number, write, before)
        self.queue(sync)

    def _closed(self, group: bytes) -> None:
        self.applied.pop(group, None)
        self.world.truth(group).forgets(self.number)

    def begin_anew(self, group: bytes) -> None:
        recovered = self.disk.shelf(group).recover()
        self.ledger.restart(self.now, group, recovered)
        if group in self.ledger.groups:
            self._starts_at(group, recovered.snapshot.index)
            self.led.pop(group, None)
