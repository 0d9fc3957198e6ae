"""Owners and executors as simple as they can be: who holds what, under which token, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kernels.batch import OutcomeBuilder
from swarm.protocol.ledger.effects import Committed, Dropped, Refusal
from swarm.protocol.ledger.records import Ended, Forgotten, Granted, Token
from swarm.protocol.ledger.state import LedgerState, Verdict

if TYPE_CHECKING:
    from tests.sim.ledger.member import LedgerMember

ADOPT_S = 0.4
LOST_S = 1.5
"""An attempt of which nothing was heard for so long is taken for lost."""
REPORT_S = 0.25

Attempt = tuple[bytes, bytes, int, int, Token]
"""(group, key, start, stop, token)."""


@dataclass
class Running:
    """An attempt on an executor."""

    attempt: Attempt
    ends_at: float
    result: bytes


class Executor:
    """Runs attempts, and reports them until somebody says that they are recorded, or stale."""

    def __init__(self, member: LedgerMember) -> None:
        self.member = member
        self.running: dict[Attempt, Running] = {}

    def run(self, attempt: Attempt) -> None:
        """A new attempt; one that is known goes on."""
        random = self.member.rng.random
        if attempt not in self.running:
            sim = self.member.world.sim
            result = b"%d/%d.%d/%d" % (self.member.number, *attempt[4], self.member.world.count())
            self.running[attempt] = Running(attempt, sim.now + 0.02 + 1.2 * random() ** 3, result)

    def report(self) -> list[tuple[Any, ...]]:
        """What to tell all: what is held, and what has ended."""
        now = self.member.world.sim.now
        said: list[tuple[Any, ...]] = []
        for attempt, it in sorted(self.running.items()):
            said.append(("ended", attempt, it.result) if it.ends_at <= now else ("holds", attempt))
        return said

    def settled(self, attempt: Attempt) -> None:
        """It is recorded, or will never be."""
        self.running.pop(attempt, None)


@dataclass
class Owned:
    """A batch in an owner's hands."""

    count: int
    out: dict[int, tuple[Token, float]] = field(default_factory=dict)
    """row -> (token, when it was last heard of)."""
    asked: set[int] = field(default_factory=set)
    """Rows for which a grant is under way."""
    looked_at: float = 0.0
    """From here on, rows that nobody holds are granted anew."""


class Owner:
    """Of the logs that its node leads."""

    def __init__(self, member: LedgerMember) -> None:
        self.member = member
        self.epochs: dict[bytes, int] = {}
        self.batches: dict[tuple[bytes, bytes], Owned] = {}
        self.number = 0
        self.tickets: dict[int, tuple[Any, ...]] = {}

    def lead(self, group: bytes, epoch: int, state: LedgerState) -> None:
        """Takes over what is not finished."""
        now = self.member.world.sim.now
        self.epochs[group] = epoch
        for key, batch in state.batches.items():
            owned = self.batches[group, key] = Owned(batch.count)
            owned.looked_at = now + ADOPT_S

    def follow(self, group: bytes) -> None:
        """Gives up."""
        self.epochs.pop(group, None)
        for name in [name for name in self.batches if name[0] == group]:
            del self.batches[name]
        self.tickets = {ticket: what for ticket, what in self.tickets.items() if what[1] != group}

    def submitted(self, group: bytes, key: bytes, count: int, ticket: int) -> None:
        """A batch is on its way into the log: its first attempts start."""
        owned = self.batches[group, key] = Owned(count)
        owned.looked_at = self.member.world.sim.now + LOST_S
        self.tickets[ticket] = ("submit", group, key)
        token = self._token(group)
        half = count // 2
        for start, stop in ((0, half), (half, count)):
            if start < stop and self.member.rng.random() < 0.9:
                self._send(group, key, start, stop, token)

    def _token(self, group: bytes) -> Token:
        self.number += 1
        return Token(self.epochs[group], self.number)

    def _send(self, group: bytes, key: bytes, start: int, stop: int, token: Token) -> None:
        member = self.member
        member.world.history.sent(group, key, (start, stop), token)
        now = member.world.sim.now
        owned = self.batches[group, key]
        for row in range(start, stop):
            owned.out[row] = (token, now)
        target = member.world.pick(member.rng.random())
        member.say(target, ("run", (group, key, start, stop, token)))

    def look(self) -> None:
        """Rows that nobody has are granted anew."""
        member, now = self.member, self.member.world.sim.now
        for (group, key), owned in sorted(self.batches.items()):
            state = member.ledger.state(group)
            batch = None if state is None else state.batches.get(key)
            if batch is None or now < owned.looked_at:
                continue
            rows = []
            for start, stop in batch.pending():
                for row in range(start, stop):
                    heard = owned.out.get(row)
                    hasty = member.rng.random() < member.world.haste
                    if row not in owned.asked and (heard is None or now - heard[1] > LOST_S or hasty):
                        rows.append(row)
            if rows:
                token = self._token(group)
                ranges = tuple((row, row + 1) for row in rows)
                ticket = member.ledger.propose(member.now, group, Granted(key, ranges, token))
                if isinstance(ticket, Refusal):
                    continue
                owned.asked |= set(rows)
                self.tickets[ticket] = ("grant", group, key, rows, token)

    def heard(self, what: tuple[Any, ...]) -> None:
        """An executor says what it holds, or how it ended."""
        group, key, start, stop, token = what[1]
        owned = self.batches.get((group, key))
        if group not in self.epochs:
            return
        member = self.member
        state = member.ledger.state(group)
        assert state is not None
        batch = state.batches.get(key)
        if batch is None and owned is None:
            # Never committed, or long forgotten.
            member.tell_all(("settled", what[1]))
            return
        if owned is not None:
            for row in range(start, stop):
                if owned.out.get(row, (token, 0.0))[0] == token:
                    owned.out[row] = (token, member.world.sim.now)
        # Some owners look at nothing, and have the ledger sort it out.
        careless = member.rng.random() < 0.2
        done = batch is not None and all(batch.ended(row) for row in range(start, min(stop, batch.count)))
        if done and not careless:
            member.tell_all(("settled", what[1]))
            return
        asked = any(known[0] == "end" and known[2] == what[1] for known in self.tickets.values())
        if what[0] == "ended" and (careless or not asked):
            builder = OutcomeBuilder()
            for row in range(start, stop):
                builder.add(row, 0, 1, what[2] + b":%d" % row)
            wall = member.ledger.time(member.now)
            ticket = member.ledger.propose(member.now, group, Ended(key, token, stop - start, builder.take(), wall))
            if not isinstance(ticket, Refusal):
                self.tickets[ticket] = ("end", group, what[1])

    def committed(self, effect: Committed) -> None:
        """Something is committed."""
        what = self.tickets.pop(effect.ticket, None)
        if what is None:
            return
        group = what[1]
        if what[0] == "grant":
            _, _, key, rows, token = what
            owned = self.batches.get((group, key))
            if owned is not None:
                owned.asked -= set(rows)
                if effect.applied.verdict is Verdict.DONE:
                    for row in rows:
                        self._send(group, key, row, row + 1, token)
        elif what[0] == "end":
            if effect.applied.verdict in (Verdict.STALE, Verdict.NO_BATCH):
                self.member.tell_all(("settled", what[2]))
            if effect.applied.outcomes is not None:
                outcomes = effect.applied.outcomes
                for at in range(outcomes.count):
                    self.member.world.reveal(group, what[2][1], outcomes.index(at), bytes(outcomes.payload(at)))
        elif what[0] == "submit":
            self.member.world.accepted(self.member, effect, group)

    def dropped(self, ticket: int, effect: Dropped) -> None:
        """Nothing came of it, as far as is known."""
        what = self.tickets.pop(ticket, None)
        if what is not None and what[0] == "grant":
            owned = self.batches.get((what[1], what[2]))
            if owned is not None:
                owned.asked -= set(what[3])

    def forget(self, group: bytes, key: bytes) -> None:
        """The client has all it wants."""
        self.member.ledger.propose(self.member.now, group, Forgotten((key,)))
