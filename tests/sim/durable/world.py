"""Nodes whose owner is the real one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kernels.batch import CallBuilder
from swarm.protocol.ledger import homes
from swarm.protocol.ledger.records import Durability, Submitted, digest_of
from swarm.protocol.spec import Spec
from tests.sim.durable.executor import Executor
from tests.sim.durable.owner import Owner
from tests.sim.ledger.member import LedgerMember
from tests.sim.ledger.plan import LedgerPlan, draw
from tests.sim.ledger.world import EPOCH, LedgerWorld, Wanted
from tests.sim.raft.truth import Broken
from tests.sim.scenarios import Outcome


class DurableMember(LedgerMember):
    """A node with a ledger, an owner and an executor."""

    owner: Any
    executor: Any

    def above(self) -> tuple[Any, Any]:
        return Owner(self), Executor(self)

    def next_deadline(self) -> float | None:
        mine, deadline = self.owner.it.next_deadline(), super().next_deadline()
        at = None if mine is None else self.clock.simulated(mine)
        return at if deadline is None or (at is not None and at < deadline) else deadline

    def tick(self, now: float) -> None:
        self.owner.it.on_timer(self.now)
        super().tick(now)

    def turn(self) -> None:
        super().turn()
        while self.owner.carry():
            super().turn()

    def say(self, number: int, what: tuple[Any, ...]) -> None:
        if number == self.number:
            self._hear(what)
        else:
            self.out.append((number, what))

    def _hear(self, what: tuple[Any, ...]) -> None:
        if what[0] in ("held", "has"):
            self.owner.heard(what)
        else:
            self.executor.heard(what)

    def tell_all(self, what: tuple[Any, ...]) -> None:
        """One of the reports: it says itself whom it is for."""
        self.say(what[0], what[1])


class DurableWorld(LedgerWorld):
    """A simulated fleet whose tasks are in real owners' hands."""

    kind = DurableMember

    def submit_new(self, group: bytes, count: int) -> None:
        """A client has something to be done."""
        home = homes.home_of(group)
        key = homes.durable_session(home, b"%05d" % (self.seed % 100_000)) + self.count().to_bytes(4, "big")
        builder = CallBuilder()
        for row in range(1 + count):
            builder.add_plain((row, self._counter), None)
        columns = builder.take()
        retention_s = (0.0, 1000.0, 1.5)[self._counter % 3]
        raw = Spec("call", ("name", "m:f", "f"), "f", rerun=self._counter % 5 != 0).encode()
        durability = Durability.NODE if homes.is_local(group) else Durability.FLEET
        digest = digest_of(raw, 1 + count, columns)
        record = Submitted(key, "client", True, raw, 1 + count, columns, EPOCH, retention_s, durability, digest)
        self.wants[key] = Wanted(group, record)
        self.history.kept[group, key] = retention_s != 1.5
        self._hand_over(self.wants[key], self.rng.random())

    def _hand_over(self, want: Wanted, which: float) -> None:
        member: Any = self.leader(want.group, which)
        if member is not None:
            member.owner.submit(want)
            member.turn()
            self.sim.settle(member.number)

    def _cancel(self, which: float, who: float, _: float) -> None:
        want = self._one(which)
        member: Any = None if want is None else self.leader(want.group, who)
        if want is not None and member is not None:
            member.owner.cancel(want.key)
            member.turn()
            self.sim.settle(member.number)


def run(seed: int, plan: LedgerPlan | None = None) -> Outcome:
    """One seed. `Broken` says what does not hold."""
    plan = draw(seed) if plan is None else plan
    world = DurableWorld(replace(plan))
    try:
        world.run()
    except Broken as broken:
        raise Broken(f"seed {seed}: {broken}") from None
    return Outcome(world.sim.trace, world.sim.events, world.sim.now, len(world.disks))
