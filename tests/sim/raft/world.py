"""One run: nodes, network, disks and clocks, the steps of a plan, and what must hold when the faults are over."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

from swarm.protocol.raft.effects import Refusal
from swarm.protocol.raft.entries import Members, Snapshot
from tests.sim.network import Network, Weather
from tests.sim.process import Clock, id_of, number_of
from tests.sim.raft.disk import Disk, Shelf
from tests.sim.raft.member import Member
from tests.sim.raft.plan import Plan, Step
from tests.sim.raft.trace import Trace
from tests.sim.raft.truth import Broken, Truth
from tests.sim.simulator import Simulator

LEADER_S = 8.0
"""When the faults are over: until each group has a leader, all its members agree and a proposal is committed. Of
election rounds (1.8 s at most), repair, and the change of members that was under way."""
OPERATE_EVERY_S = 0.2
DEADLY = frozenset(("rot", "wipe"))


class World:
    """A simulated fleet. Nodes `0 … voters - 1` are the first members of each group, the others are spares."""

    kind: Any = Member
    """What runs on a node."""
    purpose = ""
    """Of the random numbers: each kind of world has its own."""

    def __init__(self, plan: Plan, trace: bool = False) -> None:
        self._begin(plan, trace)
        self.compact_at, self.compact_keep = plan.compact_at, plan.compact_keep
        self.snapshot_bytes = plan.snapshot_bytes
        names = [b"g%d" % number for number in range(plan.groups)]
        self.truths |= {name: Truth(name) for name in names}
        voters = list(range(plan.voters))
        self.targets = {name: set(voters) for name in names}
        """Who is to be a voter; the operator sees to it."""
        self.homes = {name: id_of(number % plan.voters) for number, name in enumerate(names)}
        first = Members.of(id_of(number) for number in voters)
        for number in range(plan.voters + plan.spares):
            self._new_node(number)
            for name in names:
                alone = plan.grows and self.homes[name] == id_of(number)
                if alone or (number < plan.voters and not plan.grows):
                    members = Members.of([id_of(number)]) if alone else first
                    self.disks[number].shelves[name] = Shelf(snapshot=Snapshot(members=members))
        for number in sorted(self.disks):
            self.start(number)
        self.sim.at(OPERATE_EVERY_S, self._operate)

    def _begin(self, plan: Plan, trace: bool) -> None:
        """What every kind of world has, before there are nodes."""
        self.plan = plan
        self.seed = plan.seed
        self.config = plan.config
        self.rng = Random(f"{self.purpose}world {plan.seed}")
        self._usual = Weather(plan.delay_s, plan.delay_s)
        self.network = Network(Random(f"{self.purpose}network {plan.seed}"), self._usual)
        self.sim = Simulator(self.network)
        self.trace = Trace() if trace else None
        self.boots = 0
        self._counter = 0
        self.members: dict[int, Member | None] = {}
        self.disks: dict[int, Disk] = {}
        self.clocks: dict[int, Clock] = {}
        self.wiped: set[int] = set()
        self._led_since: dict[int, float] = {}
        self.quiet = False
        """The faults are over."""
        self.truths: dict[bytes, Truth] = {}

    def truth(self, group: bytes) -> Truth:
        """What is known of a group."""
        if group not in self.truths:
            self.truths[group] = Truth(group)
        return self.truths[group]

    def count(self) -> int:
        """A fresh number."""
        self._counter += 1
        return self._counter

    def note(self, text: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace.note(self.sim.now, text)

    # Nodes.

    def _new_node(self, number: int) -> None:
        rng = Random(f"node {self.seed} {number}")
        self.disks[number] = Disk(Random(f"disk {self.seed} {number}"))
        self.clocks[number] = Clock(0.9 + 0.2 * rng.random(), 1000.0 * rng.random())
        self.members[number] = None

    def start(self, number: int) -> None:
        """A process starts on what is on its disk."""
        if self.members[number] is None and number not in self.wiped:
            self.note(f"{number} starts")
            member = self.members[number] = self.kind(self, number, self.disks[number], self.clocks[number])
            self.sim.start(number, member)

    def crash(self, number: int, again_s: float) -> None:
        """Power is lost."""
        member = self.members[number]
        if member is None:
            return
        self.note(f"{number} crashes")
        member.dead = True
        self.members[number] = None
        self.disks[number].crash()
        self.sim.stop(number)
        self.sim.at(self.sim.now + again_s, lambda: self.start(number))

    def running(self) -> list[Member]:
        """Nodes that run."""
        return [member for _, member in sorted(self.members.items()) if member is not None]

    def pick(self, fraction: float) -> int:
        """One of the nodes that have not lost their disk."""
        numbers = [number for number in sorted(self.members) if number not in self.wiped]
        return numbers[int(fraction * len(numbers))]

    def group(self, fraction: float) -> bytes:
        """One of the groups."""
        return sorted(self.truths)[int(fraction * len(self.truths))]

    def leaders(self, group: bytes) -> list[Member]:
        """Nodes that believe to lead, the latest first."""
        found = [member for member in self.running() if (raft := member.node.group(group)) is not None and raft.leads]
        return sorted(found, key=lambda member: -member.node.group(group).term)  # type: ignore[union-attr]

    def hurt(self) -> bool:
        """Whether a replica is damaged or gone, and not repaired or replaced yet: no second one may be hurt."""
        for number, disk in self.disks.items():
            for name, shelf in disk.shelves.items():
                if number in self.wiped:
                    # Who does not run cannot be asked whether it still counts on it.
                    down = any(member is None for other, member in self.members.items() if other not in self.wiped)
                    if down or any(
                        id_of(number) in raft.members.voters
                        for member in self.running()
                        if (raft := member.node.group(name)) is not None
                    ):
                        return True
                elif shelf.damaged or shelf.rotten is not None:
                    return True
        return False

    def spares(self, number: int) -> bool:
        """Whether every group can do without this node for good, or until it is repaired: of two voters none can go, and
        with somebody who changes members as he likes there may be only two."""
        if self.plan.meddles or (self.plan.voters < 3 and len(self.running()) + len(self.wiped) < len(self.disks)):
            return False
        views = [
            raft.members.voters
            for member in self.running()
            for name in sorted(self.truths)
            if (raft := member.node.group(name)) is not None and raft.members.voters
        ]
        return bool(views) and not self.hurt() and all(len(voters) >= 3 for voters in views if id_of(number) in voters)

    # Steps.

    def take(self, step: Step) -> None:
        """Does one step of the plan."""
        if step.name not in ("propose", "read"):
            self.note(f"-- {step.name}")
        getattr(self, f"_{step.name}")(*step.arguments)

    def _propose(self, where: float, what: float) -> None:
        group = self.group(what)
        leaders = self.leaders(group)
        if leaders:
            member = leaders[int(where * len(leaders))]
            if not self.sim.slots[member.number].paused:
                member.propose(group, b"p%d" % self.count() + b"." * int(100 * what))
                self.sim.settle(member.number)

    def _read(self, where: float, what: float) -> None:
        group = self.group(what)
        leaders = self.leaders(group)
        if leaders:
            member = leaders[int(where * len(leaders))]
            if not self.sim.slots[member.number].paused:
                member.read(group)
                self.sim.settle(member.number)

    def _crash(self, who: float, again: float, many: float) -> None:
        if many < 0.2:
            for number in sorted(self.members):
                self.crash(number, 0.05 + again)
        else:
            leaders = self.leaders(self.group(again))
            target = leaders[0].number if many < 0.5 and leaders else self.pick(who)
            self.crash(target, 0.02 + 2.0 * again**2)

    def _part(self, who: float, how_long: float, leader: float) -> None:
        numbers = sorted(self.members)
        leaders = self.leaders(self.group(who))
        if leader < 0.4 and leaders:
            one = {leaders[0].number}
        else:
            shuffled = sorted(numbers, key=lambda number: (who * 7919 * (number + 1)) % 1.0)
            one = set(shuffled[: 1 + int(who * (len(numbers) - 1))])
        pairs = [(a, b) for a in one for b in numbers if b not in one]
        self._cut_pairs(pairs + [(b, a) for a, b in pairs], 0.3 + 3.0 * how_long)

    def _cut(self, who: float, how_long: float, whom: float) -> None:
        numbers = sorted(self.members)
        one = self.pick(who)
        if whom < 0.3:
            pairs = [(one, number) for number in numbers if number != one]
        elif whom < 0.6:
            pairs = [(number, one) for number in numbers if number != one]
        else:
            pairs = [(one, numbers[int(whom * len(numbers))])]
        self._cut_pairs(pairs, 0.3 + 3.0 * how_long)

    def _cut_pairs(self, pairs: list[tuple[int, int]], for_s: float) -> None:
        for pair in pairs:
            self.network.cut(*pair)

        def mend() -> None:
            for pair in pairs:
                self.network.mend(*pair)

        self.sim.at(self.sim.now + for_s, mend)

    def _weather(self, loss: float, duplication: float, reordering: float) -> None:
        self.network.weather = Weather(
            0.0005 + 0.01 * loss, 0.02 * reordering, 0.3 * loss**2, 0.3 * duplication, 0.4 * reordering, 0.3
        )
        self.sim.at(self.sim.now + 2.0, self._fair)

    def _fair(self) -> None:
        self.network.weather = self._usual

    def _pause(self, who: float, how_long: float, _: float) -> None:
        number = self.pick(who)
        if self.members[number] is None:
            return
        self.sim.pause(number)

        def resume() -> None:
            if self.members[number] is not None:
                self.sim.resume(number, timers_first=how_long > 0.5)

        self.sim.at(self.sim.now + 0.2 + 2.0 * how_long, resume)

    def _clock(self, who: float, how_much: float, back: float) -> None:
        number = self.pick(who)
        self.clocks[number].offset += -1.0 * how_much if back < 0.4 else 5.0 * how_much
        if self.members[number] is not None and not self.sim.slots[number].paused:
            self.sim.settle(number)

    def _slow(self, who: float, how_long: float, _: float) -> None:
        self.disks[self.pick(who)].slow_until = self.sim.now + 0.5 + 2.0 * how_long

    def _fsync(self, who: float, _: float, __: float) -> None:
        self.disks[self.pick(who)].fails = True

    def _full(self, who: float, how_long: float, _: float) -> None:
        number = self.pick(who)
        if any(disk.full for disk in self.disks.values()) or not self.spares(number):
            return
        self.disks[number].full = True
        self.sim.at(self.sim.now + 0.3 + 3.0 * how_long, lambda: self._empty(number))

    def _empty(self, number: int) -> None:
        self.disks[number].full = False
        member = self.members[number]
        if member is not None:
            member.core.space(member.now, False)
            if not self.sim.slots[number].paused:
                member.turn()
                self.sim.settle(number)

    def _rot(self, who: float, which: float, where: float) -> None:
        number, group = self.pick(who), self.group(which)
        if not self.spares(number) or group not in self.disks[number].shelves:
            return
        self.crash(number, 0.02 + 0.5 * which)
        self.disks[number].rot(group, where)
        self.note(f"{number} has a damaged log of {group.decode()} from {self.disks[number].shelf(group).rotten} on")

    def _betray(self, which: float, who: float, how_long: float) -> None:
        """As many members as can be missed are cut off; one of those that acknowledge meanwhile loses that to rot, and the
        leader vanishes as the others come back."""
        group = self.group(which)
        leaders = self.leaders(group)
        if not leaders:
            return
        leader = leaders[0]
        raft = leader.node.group(group)
        assert raft is not None
        others = [number_of(id) for id in raft.members.voters if number_of(id) != leader.number]
        if len(others) < 2:
            return
        rotten = others.pop(int(who * len(others)))
        late = others[: len(others) + 2 - raft.members.majority]
        everybody = sorted(self.members)
        pairs = [(one, other) for one in late for other in everybody if other not in late]
        for_s = 0.2 + 0.4 * how_long
        self._cut_pairs(pairs + [(b, a) for a, b in pairs], for_s)

        def betray() -> None:
            if not self.quiet and self.spares(rotten) and group in self.disks[rotten].shelves:
                self.crash(rotten, 0.02)
                self.disks[rotten].rot(group, 0.999 - 0.5 * how_long**2)
                self.note(f"{rotten} has a damaged log of {group.decode()}")
                pairs = [(leader.number, number) for number in everybody if number != leader.number]
                self._cut_pairs(pairs + [(b, a) for a, b in pairs], 3.0)

        self.sim.at(self.sim.now + for_s - 0.01, betray)

    def _wipe(self, who: float, _: float, __: float) -> None:
        number = self.pick(who)
        if not self.spares(number) or len(self.wiped) >= 2:
            return
        self.crash(number, 0.0)
        self.wiped.add(number)
        self.note(f"{number} has lost its disk")
        new = len(self.disks)
        self._new_node(new)
        self.start(new)
        for target in self.targets.values():
            if number in target:
                target.discard(number)
                target.add(new)

    def _transfer(self, which: float, who: float, _: float) -> None:
        group = self.group(which)
        for leader in self.leaders(group):
            if not self.sim.slots[leader.number].paused:
                leader.node.transfer(leader.now, group, id_of(self.pick(who)))
                leader.turn()
                self.sim.settle(leader.number)

    def _members(self, which: float, who: float, count: float) -> None:
        target = self.targets[self.group(which)]
        number = self.pick(who)
        if number in target and len(target) > 3 and count < 0.6:
            target.discard(number)
        elif len(target) < 5:
            target.add(number)

    def _storm(self, who: float, which: float, count: float) -> None:
        group = self.group(which)
        for leader in self.leaders(group):
            if not self.sim.slots[leader.number].paused:
                for _ in range(int(40 * count)):
                    leader.propose(group, b"s%d" % self.count())
                self.sim.settle(leader.number)

    def _pick(self, which: float, who: float, how_long: float) -> None:
        """A leader that is cut off gets proposals, and the others too."""
        leaders = self.leaders(self.group(which))
        if leaders:
            numbers = sorted(self.members)
            kept = numbers[int(who * len(numbers))]
            pairs = [(leaders[0].number, b) for b in numbers if b not in (leaders[0].number, kept)]
            self._cut_pairs(pairs + [(b, a) for a, b in pairs], 0.5 + 2.0 * how_long)
            self._storm(who, which, 0.2)

    def leading(self, number: int, group: bytes) -> None:
        """A node has begun to lead."""
        if self.quiet:
            return
        random, sim = self.rng.random, self.sim
        if self.plan.eager:
            sim.at(sim.now + 0.002 * random(), self._see_to_members)
        self._led_since[number] = sim.now
        if random() < 0.6 * self.plan.ambushes:
            # At once, or when things are half done, some messages later.
            self._ambush(number, 0.0 if random() < 0.5 else 10 * self.plan.delay_s * random())

    def committing(self, number: int) -> None:
        """A leader has committed something, and nobody else knows: soon after its election it may vanish with that."""
        if not self.quiet and self.sim.now - self._led_since.get(number, -1.0) < 20 * self.plan.delay_s:
            if self.rng.random() < 0.5 * self.plan.ambushes:
                self._ambush(number, 0.0)

    def _ambush(self, number: int, delay_s: float) -> None:
        random, sim = self.rng.random, self.sim
        how, again_s = random(), 0.1 + 3.5 * random()
        if how < 0.2:
            sim.at(sim.now + delay_s, lambda: self.crash(number, again_s))
            return
        numbers = sorted(self.members)
        if how < 0.35 and not self.plan.meddles:
            # One that has just voted may not have it on disk, and who has not heard of this election can be elected by it.
            voter = numbers[int(random() * len(numbers))]
            if voter != number:
                sim.at(sim.now, lambda: self.crash(voter, 0.02))
            sim.at(sim.now + delay_s, self.network.heal)
            pairs = [(number, other) for other in numbers if other != number]
            sim.at(sim.now + delay_s, lambda: self._cut_pairs(pairs + [(b, a) for a, b in pairs], again_s))
            return
        kept = numbers[int(random() * len(numbers))] if how < 0.6 else number
        pairs = [(number, other) for other in numbers if other not in (number, kept)]
        sim.at(sim.now + delay_s, lambda: self._cut_pairs(pairs + [(b, a) for a, b in pairs], again_s))

    # The operator, who sees to it that the groups have the members they should have.

    def _operate(self) -> None:
        self._see_to_members()
        self.sim.at(self.sim.now + OPERATE_EVERY_S, self._operate)

    def _see_to_members(self) -> None:
        for group in sorted(self.targets):
            for leader in self.leaders(group):
                if not self.sim.slots[leader.number].paused:
                    self._next_change(group, leader)
                    leader.turn()
                    self.sim.settle(leader.number)

    def _meddle(self, group: bytes, leader: Member) -> None:
        """Any change, wise or not."""
        raft = leader.node.group(group)
        assert raft is not None
        members, random = raft.members, self.rng.random
        voters, learners, who = members.voters, members.learners, random()
        if len(voters) > 3 or (len(voters) == 3 and random() < 0.2):
            leader.node.remove(leader.now, group, voters[int(who * len(voters))])
        elif learners:
            leader.node.promote(leader.now, group, learners[int(who * len(learners))])
        else:
            leader.node.add_learner(leader.now, group, id_of(self.pick(who)))

    def _next_change(self, group: bytes, leader: Member) -> Any:
        raft = leader.node.group(group)
        assert raft is not None
        if self.plan.meddles and not self.quiet:
            return self._meddle(group, leader)
        target = {id_of(number) for number in self.targets[group]}
        members = raft.members
        for id in members.learners:
            if id not in target:
                return leader.node.remove(leader.now, group, id)
        for id in members.voters:
            # Who is gone for good is replaced first: with it there, one more that is away stops the group.
            if id not in target and (number_of(id) in self.wiped or target <= set(members.voters)):
                return leader.node.remove(leader.now, group, id)
        for id in sorted(target):
            if id not in members.all:
                return leader.node.add_learner(leader.now, group, id)
        for id in members.learners:
            return leader.node.promote(leader.now, group, id)
        return None

    # A run.

    def run(self) -> None:
        """The plan, then the end of all faults, then what must come of it."""
        for step in self.plan.steps:
            self.sim.at(step.at, lambda step=step: self.take(step))  # type: ignore[misc]
        self.sim.run(self.plan.duration_s)
        self.settle()

    def _calm(self) -> None:
        """All faults end."""
        self.quiet = True
        self.note("-- the faults are over")
        self.network.heal()
        self._fair()
        for number in sorted(self.members):
            disk = self.disks[number]
            disk.slow_until, disk.fails = 0.0, False
            if self.members[number] is None:
                self.start(number)
            elif self.sim.slots[number].paused:
                self.sim.resume(number)
            if disk.full:
                self._empty(number)

    def settle(self) -> None:
        """All faults end; what must hold soon after."""
        self._calm()
        deadline = self.sim.now + LEADER_S
        proposed: dict[bytes, set[int]] = {group: set() for group in self.truths}
        while True:
            self.sim.run(self.sim.now + 0.1)
            open_groups = [group for group in sorted(self.truths) if not self._settled(group, proposed[group])]
            if not open_groups:
                return
            if self.sim.now > deadline:
                raise Broken(f"liveness: {LEADER_S} s after the last fault: {self._state(open_groups[0])}")

    def _settled(self, group: bytes, proposed: set[int]) -> bool:
        leaders = self.leaders(group)
        if not leaders:
            return False
        leader, truth = leaders[0], self.truths[group]
        raft = leader.node.group(group)
        assert raft is not None
        target = {id_of(number) for number in self.targets[group]}
        if set(raft.members.voters) != target or raft.members.learners:
            return False
        if not any(index in truth.acknowledged for index in proposed):
            index = raft.last + 1
            if leader.propose(group, b"last %d" % self.count()):
                proposed.add(index)
            self.sim.settle(leader.number)
            return False
        home = self.homes[group]
        if home in target and home != id_of(leader.number):
            return False
        for id in target:
            member = self.members[number_of(id)]
            other = member.node.group(group) if member is not None else None
            if other is None or other.commit != raft.commit or other.damaged or not other.rests:
                return False
        return all(index <= raft.commit for index in truth.acknowledged)

    def _state(self, group: bytes) -> str:
        rows = []
        for member in self.running():
            raft = member.node.group(group)
            if raft is not None:
                rows.append(
                    f"{member.number}{'*' if raft.leads else ''} term {raft.term} last {raft.last} commit {raft.commit}"
                    f" rests {raft.rests}{' damaged' if raft.damaged else ''} of {[number_of(id) for id in raft.members.all]}"
                )
        return f"{group.decode()} to be {sorted(self.targets[group])}: " + "; ".join(rows)


def no(refusal: Any) -> bool:
    """Whether something was refused."""
    return isinstance(refusal, Refusal)


__all__ = ["LEADER_S", "World", "deque", "no"]
