"""One run: nodes with ledgers, clients who submit, ask and let go, the steps of a plan, and what must hold in the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from kernels.batch import CallBuilder
from swarm.protocol.ledger import homes
from swarm.protocol.ledger.effects import Committed, Reason, Refusal
from swarm.protocol.ledger.homes import Announcement
from swarm.protocol.ledger.members import Presence
from swarm.protocol.ledger.records import Cancelled, Durability, Submitted, digest_of
from swarm.protocol.ledger.state import LedgerState, Verdict
from tests.sim.ledger.history import History
from tests.sim.ledger.member import LedgerMember
from tests.sim.ledger.plan import LedgerPlan
from tests.sim.process import id_of, number_of
from tests.sim.raft.truth import Broken
from tests.sim.raft.world import World

QUIET_S = 20.0
"""When the faults are over: until all tasks with a receipt have ended and all groups are as they should be. Of what a
consensus needs (8 s), the replacement of a member (2.5 s), adoption, and attempts taken for lost, twice."""
EPOCH = 1.7e9


@dataclass
class Wanted:
    """A batch that a client wants done."""

    group: bytes
    record: Submitted
    receipt: bool = False
    told: set[int] = field(default_factory=set)
    let_go: bool = False

    @property
    def key(self) -> bytes:
        """Its key."""
        return self.record.key


class LedgerWorld(World):
    """A simulated fleet with ledgers. Every node is a home; clients use the first two."""

    plan: LedgerPlan
    kind = LedgerMember
    purpose = "ledger "

    def __init__(self, plan: LedgerPlan, trace: bool = False) -> None:
        self._begin(plan, trace)
        self.ledger_config = plan.ledger
        self.haste = plan.haste
        self.gone_at: dict[int, float] = {}
        self.leaving: set[int] = set()
        self.draining: set[int] = set()
        self.history = History()
        self.announced: dict[int, Announcement] = {}
        self.wants: dict[bytes, Wanted] = {}
        self.skews = [300.0 * (self.rng.random() - 0.5) for _ in range(64)]
        for number in range(plan.nodes):
            self._new_node(number)
        for number in range(plan.nodes):
            self.start(number)
        self.sim.at(0.3, self._clients)

    def at(self, number: int) -> LedgerMember | None:
        """A node that runs."""
        member: Any = self.members.get(number)
        return member

    def nodes(self) -> list[LedgerMember]:
        """Nodes that run."""
        running: Any = self.running()
        return running

    def host(self, number: int) -> bytes:
        """On which machine a node runs; new ones have one of their own."""
        return b"host %d" % (number % self.plan.hosts if number < self.plan.nodes else number)

    def wall(self, number: int) -> float:
        """A node's wall clock."""
        return EPOCH + self.sim.now + self.skews[number]

    def view(self, number: int) -> list[tuple[bytes, bytes, Presence]]:
        """The fleet as membership has it at a node, with its mistakes."""
        rows = []
        for other in sorted(self.members):
            presence = Presence.ALIVE
            cut = self.network.is_cut(other) and self.rng.random() < 0.5
            if other in self.wiped:
                presence = Presence.GONE if self.sim.now > self.gone_at[other] + 0.5 else Presence.AWAY
            elif other in self.leaving:
                presence = Presence.LEAVING
            elif other in self.draining:
                presence = Presence.DRAINING
            elif self.members[other] is None or cut or (not self.quiet and self.rng.random() < 0.01):
                presence = Presence.AWAY
            rows.append((id_of(other), self.host(other), presence))
        return rows

    def fleet_groups(self) -> list[bytes]:
        """Groups of more than one node, or that will be."""
        return [name for name in sorted(self.truths) if not homes.is_local(name)]

    def group(self, fraction: float) -> bytes:
        """One of the groups of which clients make use."""
        return homes.fleet_group(id_of(int(2 * fraction)))

    def hurt(self) -> bool:
        """Whether a replica is damaged or gone, and not repaired or replaced yet."""
        for number, disk in self.disks.items():
            if number in self.wiped:
                down = any(member is None for other, member in self.members.items() if other not in self.wiped)
                if down or any(id_of(number) in voters for voters in self._views()):
                    return True
            elif any(shelf.damaged or shelf.rotten is not None for shelf in disk.shelves.values()):
                return True
        return False

    def _views(self) -> list[tuple[bytes, ...]]:
        return [
            raft.members.voters
            for member in self.nodes()
            for name in self.fleet_groups()
            if (raft := member.node.group(name)) is not None
        ]

    def spares(self, number: int) -> bool:
        """Whether every group can do without this node for good."""
        if self.plan.nodes - len({self.host(n) for n in self.leaving | self.wiped if n < self.plan.nodes}) < 3:
            return False
        down = any(member is None for other, member in self.members.items() if other not in self.wiped)
        views = [voters for voters in self._views() if id_of(number) in voters]
        return not down and not self.hurt() and not self.leaving and all(len(voters) >= 3 for voters in views)

    # Steps.

    def take(self, step: Any) -> None:
        """Does one step of the plan."""
        if step.name not in ("submit", "attach", "resubmit"):
            self.note(f"-- {step.name}")
        getattr(self, f"_{step.name}")(*step.arguments)

    def leader(self, group: bytes, which: float = 0.0) -> LedgerMember | None:
        """Somebody who believes to lead, and runs."""
        found: Any = [member for member in self.leaders(group) if not self.sim.slots[member.number].paused]
        found = [member for member in found if member.ledger.leads(group) is not None]
        return found[int(which * len(found))] if found else None

    def submit_new(self, group: bytes, count: int) -> None:
        """A client has something to be done."""
        home = homes.home_of(group)
        key = homes.durable_session(home, b"%05d" % (self.seed % 100_000)) + self.count().to_bytes(4, "big")
        builder = CallBuilder()
        for row in range(1 + count):
            builder.add_plain((row, self._counter), None)
        columns = builder.take()
        retention_s = (0.0, 1000.0, 1.5)[self._counter % 3]
        durability = Durability.NODE if homes.is_local(group) else Durability.FLEET
        digest = digest_of(b"spec", 1 + count, columns)
        record = Submitted(key, "client", True, b"spec", 1 + count, columns, EPOCH, retention_s, durability, digest)
        self.wants[key] = Wanted(group, record)
        self.history.kept[group, key] = retention_s != 1.5
        self._hand_over(self.wants[key], self.rng.random())

    def _submit(self, which: float, size: float, local: float) -> None:
        group = self.group(which)
        if local < 0.15 and number_of(homes.home_of(group)) not in self.wiped:
            group = homes.node_group(homes.home_of(group))
        self.submit_new(group, int(6 * size**2))

    def _hand_over(self, want: Wanted, which: float) -> None:
        member = self.leader(want.group, which)
        if member is None:
            return
        record = replace(want.record, wall=member.ledger.time(member.now))
        told = member.ledger.propose(member.now, want.group, record)
        if isinstance(told, Refusal):
            if told.reason is Reason.CONFLICT:
                if self._usurped(want):
                    return
                raise Broken(f"content: {want.key.hex()} is refused though it is the same: {told.facts}")
            if told.reason is Reason.KNOWN:
                self.history.receipt(want.group, want.key, want.record.digest)
                want.receipt = True
        else:
            member.owner.submitted(want.group, want.key, want.record.count, told)
        member.turn()
        self.sim.settle(member.number)

    def _resubmit(self, which: float, who: float, _: float) -> None:
        want = self._one(which)
        if want is not None:
            self._hand_over(want, who)

    def _forge(self, which: float, who: float, _: float) -> None:
        """The same key with other content, given to the log as it is, past the check that is made at once."""
        want = self._one(which)
        member = None if want is None else self.leader(want.group, who)
        if want is None or member is None or not want.receipt:
            return
        builder = CallBuilder()
        builder.add_plain(("other",), None)
        columns = builder.take()
        other = replace(want.record, count=1, columns=columns, digest=digest_of(b"spec", 1, columns))
        group = member.ledger._groups[want.group]
        known = group._known
        if who < 0.5:
            group._known = lambda record: None  # type: ignore[method-assign]
        told = member.ledger.propose(member.now, want.group, other)
        group._known = known  # type: ignore[method-assign]
        if not isinstance(told, Refusal):
            member.owner.tickets[told] = ("submit", want.group, want.key)
        member.turn()
        self.sim.settle(member.number)

    def _attach(self, which: float, who: float, _: float) -> None:
        want = self._one(which)
        if want is not None:
            self._ask(want, who)

    def _ask(self, want: Wanted, who: float) -> None:
        member = self.leader(want.group, who)
        if member is not None:
            member.read(want.group, want.key)
            self.sim.settle(member.number)

    def _forget(self, which: float, who: float, _: float) -> None:
        want = self._one(which)
        member = None if want is None else self.leader(want.group, who)
        if want is not None and member is not None:
            # Some let go of what is not finished: that is kept all the same.
            if len(want.told) < want.record.count and who < 0.5:
                return
            want.let_go = len(want.told) == want.record.count
            self.history.kept[want.group, want.key] = False
            member.owner.forget(want.group, want.key)
            member.turn()
            self.sim.settle(member.number)

    def _cancel(self, which: float, who: float, _: float) -> None:
        want = self._one(which)
        member = None if want is None else self.leader(want.group, who)
        if want is not None and member is not None:
            member.ledger.propose(member.now, want.group, Cancelled(want.key, ((0, want.record.count),), True))
            member.turn()
            self.sim.settle(member.number)

    def _one(self, fraction: float) -> Wanted | None:
        live = [want for _, want in sorted(self.wants.items()) if not want.let_go]
        return live[int(fraction * len(live))] if live else None

    def _drain(self, who: float, _: float, __: float) -> None:
        """A node is restarted for an upgrade."""
        number = self.pick(who)
        member = self.at(number)
        if member is None or self.sim.slots[number].paused or number in self.leaving:
            return
        self.draining.add(number)
        member.ledger.drain(member.now)
        member.turn()
        self.sim.settle(number)
        self.sim.at(self.sim.now + 0.9, lambda: self._restart(member))

    def _restart(self, member: LedgerMember) -> None:
        self.draining.discard(member.number)
        if not member.dead:
            self.crash(member.number, 0.3)

    def _leave(self, who: float, _: float, __: float) -> None:
        """A node leaves for good, once its parts are handed over."""
        number = self.pick(who)
        member = self.at(number)
        if member is None or self.sim.slots[number].paused or not self.spares(number) or len(self.wiped) >= 2:
            return
        self.leaving.add(number)
        self._new_node(len(self.disks))
        self.start(len(self.disks) - 1)
        self.sim.at(self.sim.now + 0.1, lambda: self._left(number))

    def _left(self, number: int) -> None:
        member = self.at(number)
        if member is not None and not self.sim.slots[number].paused:
            if member.drained is None:
                if not member.ledger._steward._draining:
                    member.ledger.drain(member.now, for_good=True)
                    member.turn()
                    self.sim.settle(number)
            elif not [name for name in member.drained if not homes.is_local(name)]:
                self.crash(number, 0.0)
                self._is_gone(number)
                self.leaving.discard(number)
                self.note(f"{number} has left for good")
                return
        self.sim.at(self.sim.now + 0.1, lambda: self._left(number))

    def _is_gone(self, number: int) -> None:
        self.wiped.add(number)
        self.gone_at[number] = self.sim.now

    def _wipe(self, who: float, _: float, __: float) -> None:
        number = self.pick(who)
        if not self.spares(number) or len(self.wiped) >= 2 or number in self.leaving:
            return
        self.crash(number, 0.0)
        self._is_gone(number)
        self.note(f"{number} has lost its disk")
        new = len(self.disks)
        self._new_node(new)
        self.start(new)

    def _see_to_members(self) -> None:
        """Every ledger sees to that itself."""

    # What clients hear.

    def accepted(self, member: LedgerMember, effect: Committed, group: bytes) -> None:
        """A submission is committed."""
        applied = effect.applied
        record = applied.record
        if not isinstance(record, Submitted) or applied.verdict not in (Verdict.DONE, Verdict.KNOWN):
            return
        want = self.wants[record.key]
        if want.let_go:
            return
        if applied.verdict is Verdict.DONE:
            model = self.history.models[group].batches.get(record.key)
            if model is not None:
                self._check_copies(group, model.index, model.epoch, effect)
        if (
            (group, record.key) in self.history.receipts
            and applied.verdict is Verdict.DONE
            # A read, or who leads by now, may tell of an entry before the word comes to who proposed it that it has enough copies.
            and self.history.told_at.get((group, record.key)) != self.history.accepted_at(group, record.key)
            and not self._may_be_gone(want)
        ):
            raise Broken(f"lost: {record.key.hex()} was accepted, and is accepted as if it were new")
        self.history.receipt(group, record.key, record.digest)
        if self.rng.random() >= self.plan.deaf:
            want.receipt = True

    def _check_copies(self, group: bytes, index: int, epoch: int, effect: Committed) -> None:
        truth = self.truth(group)
        copies = truth.durable.get((index, epoch), set()) | {
            number for number, covered in truth.covered.items() if covered >= index
        }
        hosts = {self.host(number) for number in copies}
        if len(copies) < effect.copies or len(hosts) < effect.hosts or effect.copies < 1:
            raise Broken(f"receipt: {effect.copies} copies on {effect.hosts} hosts are told, {sorted(copies)} have one")

    def reveal(self, group: bytes, key: bytes, row: int, payload: bytes) -> None:
        """An outcome is told to whoever listens."""
        self.history.reveal(group, key, row, payload)
        if self.rng.random() >= self.plan.deaf:
            self.wants[key].told.add(row)

    def _may_be_gone(self, want: Wanted) -> bool:
        """Whether a batch may not be there any more: it was let go of, or its time is over."""
        return want.let_go or (want.group, want.key) in self.history.dropped

    def _usurped(self, want: Wanted) -> bool:
        """A batch that was forgotten is unknown: then its key is free for other content, and what is there is another's."""
        want.let_go = want.let_go or (want.group, want.key) in self.history.dropped
        return want.let_go

    def attached(self, group: bytes, key: bytes, state: LedgerState) -> None:
        """A linearizable read of a batch."""
        want = self.wants[key]
        batch = state.batches.get(key)
        if batch is None:
            if (group, key) in self.history.receipts and not self._may_be_gone(want):
                raise Broken(f"lost: {key.hex()} has a receipt, and is not there")
            if self._may_be_gone(want):
                want.told |= set(range(want.record.count))
            return
        if batch.submitted.digest != want.record.digest and self._usurped(want):
            return
        self.history.receipt(group, key, batch.submitted.digest)
        want.receipt = True
        for row in range(batch.count):
            found = batch.outcome(row)
            if found is not None:
                self.history.reveal(group, key, row, bytes(found[2]))
                want.told.add(row)

    def _clients(self) -> None:
        """What has no receipt is submitted again; what has one is asked for."""
        for _, want in sorted(self.wants.items()):
            if self._given_up(want):
                continue
            if not want.receipt:
                self._hand_over(want, self.rng.random())
            elif len(want.told) < want.record.count:
                self._ask(want, self.rng.random())
        self.sim.at(self.sim.now + 0.7, self._clients)

    def _given_up(self, want: Wanted) -> bool:
        """Nobody can have it any more: it was on the one disk that is lost, as its receipt said."""
        return want.let_go or (homes.is_local(want.group) and number_of(homes.home_of(want.group)) in self.wiped)

    # The end.

    def settle(self) -> None:
        """All faults end; what must hold soon after."""
        self.haste = 0.0
        self._calm()
        deadline = self.sim.now + QUIET_S
        while True:
            self.sim.run(self.sim.now + 0.2)
            why = self._unsettled()
            if why is None:
                break
            if self.sim.now > deadline:
                raise Broken(f"liveness: {QUIET_S} s after the last fault: {why}")
        for _, want in sorted(self.wants.items()):
            if self._given_up(want) or self._may_be_gone(want):
                continue
            rows = [self.history.recorded.get((want.group, want.key, row)) for row in range(want.record.count)]
            if None in rows:
                raise Broken(f"lost: {want.key.hex()} has no outcome for {rows.index(None)}")

    def _unsettled(self) -> str | None:
        if self.leaving:
            return f"{sorted(self.leaving)} cannot leave"
        for _, want in sorted(self.wants.items()):
            if not self._given_up(want) and (not want.receipt or len(want.told) < want.record.count):
                return f"{want.key.hex()} of {want.group.decode()}: receipt {want.receipt}, told {sorted(want.told)}"
        for name in self.fleet_groups():
            why = self._unsettled_group(name)
            if why is not None:
                return f"{name.decode()}: {why}; {self._state(name)}"
        return None

    def _unsettled_group(self, name: bytes) -> str | None:
        leaders: Any = self.leaders(name)
        home = number_of(homes.home_of(name))
        if home in self.wiped and not any(want.group == name for want in self.wants.values()):
            return None  # nobody needs it, and if its home was alone in it nobody has it
        if not leaders:
            return "no leader"
        leader: LedgerMember = leaders[0]
        if home not in self.wiped and leader.number != home:
            return f"{leader.number} leads in place of its home"
        raft = leader.node.group(name)
        assert raft is not None
        hosts = {self.host(number) for number in self.members if number not in self.wiped}
        want = 3 if len(hosts) >= 3 else 1
        if len(raft.members.voters) != want:
            return f"{len(raft.members.voters)} voters"
        if len({self.host(number_of(id)) for id in raft.members.voters}) != want:
            return "voters on one host"
        for id in raft.members.all:
            member = self.at(number_of(id))
            other = None if member is None else member.node.group(name)
            if other is None or other.commit != raft.commit or other.damaged or not other.rests:
                return f"{number_of(id)} is behind or awake"
        return None

    def _state(self, group: bytes) -> str:
        rows = []
        for member in self.nodes():
            raft = member.node.group(group)
            if raft is not None:
                rows.append(
                    f"{member.number}{'*' if raft.leads else ''} term {raft.term} last {raft.last} commit {raft.commit} rests "
                    f"{raft.rests}{' damaged' if raft.damaged else ''} of {[number_of(id) for id in raft.members.voters]} and "
                    f"{[number_of(id) for id in raft.members.learners]}"
                )
        return "; ".join(rows)
