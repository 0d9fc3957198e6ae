"""Nodes whose owner is the real one."""

from __future__ import annotations

from typing import Any

from kernels.batch import CallBuilder
from swarm.protocol.ledger import homes
from swarm.protocol.ledger.records import Durability, Saved, Submitted, Token, digest_of
from swarm.protocol.ledger.state import Verdict
from swarm.protocol.spec import Spec, parse_spec
from tests.sim.durable.executor import Executor
from tests.sim.durable.owner import Owner
from tests.sim.ledger.member import LedgerMember
from tests.sim.ledger.plan import LedgerPlan
from tests.sim.ledger.world import EPOCH, LedgerWorld, Wanted
from tests.sim.raft.truth import Broken


class DurableMember(LedgerMember):
    """A node with a ledger, an owner and an executor."""

    world: DurableWorld
    owner: Any
    executor: Any

    def above(self) -> tuple[Any, Any]:
        return Owner(self), Executor(self)

    def next_deadline(self) -> float | None:
        mine, deadline = self.owner.next_deadline(), super().next_deadline()
        at = None if mine is None else self.clock.simulated(mine)
        return at if deadline is None or (at is not None and at < deadline) else deadline

    def tick(self, now: float) -> None:
        self.owner.on_timer()
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

    def __init__(self, plan: LedgerPlan, trace: bool = False) -> None:
        self.firsts: dict[tuple[bytes, int, int], Token] = {}
        """Tasks that were sent out without a grant, by epoch -> the token under which."""
        self.begun: dict[tuple[bytes, int], Token] = {}
        """Tasks that may not be repeated and have begun."""
        self.copied: set[tuple[bytes, bytes]] = set()
        """(group, blob) of what a majority keeps beside a log."""
        self.saved: dict[tuple[bytes, int], tuple[Token, int, bytes]] = {}
        """Tasks that left at a safe point, as their log has it: (token, how often, state)."""
        super().__init__(plan, trace)

    def run(self) -> None:
        """As a run of the ledger; an assertion of the owner that does not hold is a property that does not."""
        try:
            super().run()
        except Broken:
            raise
        except AssertionError as error:
            raise Broken(f"assertion: {error}") from error

    def sent(self, group: bytes, key: bytes, rows: range, token: Token) -> None:
        """An attempt goes out. Without a grant that is only ever a first one."""
        self.history.sent(group, key, (rows.start, rows.stop), token)
        if (group, key) in self.history.dropped:
            return  # forgotten, and handed over again: all of it is new
        model = self.history.models.get(group)
        batch = model.batches.get(key) if model is not None else None
        for row in rows:
            granted = batch.tokens.get(row) if batch is not None else None
            if granted == token:
                continue
            first = self.firsts.setdefault((key, row, token.epoch), token)
            if first != token and (batch is None or token.epoch == batch.epoch):
                raise Broken(f"two-tokens: {key.hex()}/{row} goes out under {token}, ungranted, after {first}")

    def begins(self, key: bytes, row: int, token: Token) -> None:
        """A task begins somewhere."""
        want = self.wants[key]
        if (want.group, key) in self.history.dropped:
            return
        if not parse_spec(want.record.raw).rerun and self.begun.setdefault((key, row), token) != token:
            raise Broken(f"twice: {key.hex()}/{row} may not be repeated, and begins under {token} again")

    def may_leave(self, key: bytes) -> bool:
        """Whether tasks of a batch offer checkpoints."""
        return parse_spec(self.wants[key].record.raw).checkpoint

    def left(self, record: Saved, verdict: Verdict) -> None:
        """A log has a state."""
        task = (record.key, record.index)
        if verdict is Verdict.DONE:
            before = self.saved.get(task)
            if before is None or before[0] <= record.token:
                self.saved[task] = (record.token, record.moved, bytes(record.state))
            if self.begun.get(task) == record.token:
                del self.begun[task]  # it is over, and may be begun once more

    def goes_on(self, group: bytes, key: bytes, rows: range, token: Token, saved: dict[int, tuple[int, bytes]]) -> None:
        """An attempt goes out. What left before, under a smaller token, goes on from the state that its log has."""
        if (group, key) in self.history.dropped:
            return
        for row in rows:
            before = self.saved.get((key, row))
            if before is not None and before[0] < token and saved.get(row) != before[1:]:
                raise Broken(f"state-lost: {key.hex()}/{row} goes on under {token} from {saved.get(row)}, not {before}")
            if row in saved and before is None:
                raise Broken(f"state-lost: {key.hex()}/{row} goes on from {saved[row]}, which its log does not have")

    def submit_new(self, group: bytes, count: int) -> None:
        """A client has something to be done."""
        home = homes.home_of(group)
        key = homes.durable_session(home, b"%05d" % (self.seed % 100_000)) + self.count().to_bytes(4, "big")
        builder = CallBuilder()
        for row in range(1 + count):
            builder.add_plain((row, self._counter), None)
        columns = builder.take()
        retention_s = (0.0, 1000.0, 1.5)[self._counter % 3]
        raw = Spec(
            "call", ("name", "m:f", "f"), "f", rerun=self._counter % 5 != 0, checkpoint=self._counter % 2 == 0
        ).encode()
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

    def _forge(self, which: float, who: float, _: float) -> None:
        want = self._one(which)
        # What is forgotten, by its time or by its client's word, may be given other content.
        if want is not None and self.history.kept.get((want.group, want.key), False):
            super()._forge(which, who, _)

    def _left(self, number: int) -> None:
        member: Any = self.at(number)
        if member is not None and [name for name in member.drained or () if not homes.is_local(name)]:
            # Nobody was there to take over when it was asked to leave: it is asked again.
            member.drained = None
            member.ledger._steward._draining = False
        super()._left(number)

    def _cancel(self, which: float, who: float, _: float) -> None:
        want = self._one(which)
        member: Any = None if want is None else self.leader(want.group, who)
        if want is not None and member is not None:
            member.owner.cancel(want.key)
            member.turn()
            self.sim.settle(member.number)
