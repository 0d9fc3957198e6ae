"""An executor over messages that may be lost, repeated and overtaken: it says what it has until its owner has taken it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kernels.batch import OutcomeBuilder
from swarm.protocol.ledger.records import Token
from swarm.protocol.states import Status

if TYPE_CHECKING:
    from tests.sim.durable.world import DurableMember

LEAVES_MAX = 3
"""A task leaves so often at most."""
ORPHAN_S = 8.0
"""How long what nobody asks for is kept."""
Name = tuple[int, int]
"""(owner, its dispatch)."""


@dataclass
class Run:
    """Tasks that were handed over, and how those have ended that have."""

    key: bytes
    token: Token
    ends: dict[int, tuple[float, int]]
    """row -> (when it ends, how)."""
    result: bytes
    heard_at: float
    told: set[int] = field(default_factory=set)
    """Rows that an owner has taken."""


class Executor:
    """What runs on one node, for all owners."""

    def __init__(self, member: DurableMember) -> None:
        self.member = member
        self.runs: dict[Name, Run] = {}
        self.over: set[Name] = set()
        """Those that are not here any more: a message that comes late begins nothing again."""

    @property
    def _now(self) -> float:
        return self.member.world.sim.now

    def heard(self, what: tuple[Any, ...]) -> None:
        """An owner says something."""
        match what:
            case ("dispatch", owner, number, key, first, count, token, saved):
                self._begin((owner, number), key, range(first, first + count), Token(*token), saved)
            case ("recall", owner, number, ranges, kill):
                run = self.runs.get((owner, number))
                for start, stop in ranges if run is not None else ():
                    for row in range(start, stop):
                        self._recalled(run, row, kill)  # type: ignore[arg-type]
            case ("took", owner, number, rows):
                self._taken((owner, number), rows)
            case ("ask", owner, group, epoch, keys):
                found = [
                    (run.key, who, number, run.token, self._left(run))
                    for (who, number), run in sorted(self.runs.items())
                    if run.key in keys and self._left(run)
                ]
                self.member.say(owner, ("held", group, epoch, self.member.number, found))
            case ("adopt", owner, before, dispatch, number):
                run = self.runs.pop((before, dispatch), None)
                if run is not None:
                    self.over.add((before, dispatch))
                    self.runs[owner, number] = run
                    run.heard_at = self._now

    def _begin(self, name: Name, key: bytes, rows: range, token: Token, saved: dict[int, int]) -> None:
        if name in self.runs or name in self.over:
            return
        random, world = self.member.rng.random, self.member.world
        leaves = world.may_leave(key) and not world.quiet
        ends = {}
        for row in rows:
            drawn = random()
            how = Status.OK
            if drawn < 0.06 and not self.member.world.quiet:
                how = (Status.CRASHED, Status.RETURNED, Status.FAILED)[int(drawn * 50)]
            elif leaves and drawn < 0.4 and saved.get(row, 0) < LEAVES_MAX:
                how = Status.SAVED
            ends[row] = (self._now + 0.02 + 1.2 * random() ** 3, int(how))
            if how != Status.RETURNED:
                self.member.world.begins(key, row, token)
        result = b"%d/%d.%d/%d" % (self.member.number, *token, self.member.world.count())
        self.runs[name] = Run(key, token, ends, result, self._now)

    def _recalled(self, run: Run, row: int, kill: bool) -> None:
        at, _ = run.ends.get(row, (0.0, 0))
        if row in run.ends and at > self._now and row not in run.told and kill:
            run.ends[row] = (self._now, int(Status.CANCELLED))

    def _taken(self, name: Name, rows: list[int]) -> None:
        run = self.runs.get(name)
        if run is not None:
            run.told |= set(rows)
            run.heard_at = self._now
            if not self._left(run):
                del self.runs[name]
                self.over.add(name)

    @staticmethod
    def _left(run: Run) -> list[tuple[int, int]]:
        return [(row, row + 1) for row in sorted(run.ends) if row not in run.told]

    def report(self) -> list[tuple[int, tuple[Any, ...]]]:
        """What to tell each owner: what is held for it, and what has ended."""
        said: dict[int, list[Any]] = {number: [] for number in sorted(self.member.world.members)}
        for name, run in sorted(self.runs.items()):
            if self._now - run.heard_at > ORPHAN_S:
                del self.runs[name]
                self.over.add(name)
                continue
            builder, rows = OutcomeBuilder(), []
            for row, (at, how) in sorted(run.ends.items()):
                if at <= self._now and row not in run.told:
                    rows.append(row)
                    builder.add(row, how, 1, run.result + b":%d" % row)
            body = builder.take() if rows else b""
            said.setdefault(name[0], []).append((name[1], self._left(run), rows, body))
        return [(owner, ("has", self.member.number, runs)) for owner, runs in sorted(said.items())]
