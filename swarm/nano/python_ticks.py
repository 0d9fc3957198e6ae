"""Python's part of a pass: agents that are objects or generators.

Objects are called in a plain `for`, which is the fastest there is, generators by `kernels.sends`; what is out of the ordinary is found by how far the iterator
of the list has come, so that the ordinary costs nothing more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from operator import length_hint
from typing import Any

from kernels.passes import Passes, counter
from kernels.sends import send_each
from swarm.nano.agents import KindState
from swarm.nano.bus import Port
from swarm.nano.errors import BadTick, NanoError, SchemaMismatch
from swarm.nano.kinds import DONE, FAILED, IDLE, WORKED, Form, Sleep
from swarm.nano.numbers import NS_MAX

_SLEEP = 2
FAILURES_KEPT = 16


def saves(what: Any) -> bool:
    """Whether a kind or an agent says what it keeps of itself beside its fields: by save() and restore(value)."""
    return callable(getattr(what, "save", None)) and callable(getattr(what, "restore", None))


def _put_back(to: Any, value: Any, handle: Any) -> None:
    try:
        to.restore(value)
    except Exception as error:
        raise SchemaMismatch(
            f"restore() of {handle!r} raised {type(error).__name__}: {error}",
            hint="it is given what save() returned when the population was saved",
        ) from error


class PythonCohort:
    """Agents of one cohort whose ticks are Python's, by row."""

    def __init__(
        self,
        number: int,
        form: Form,
        state: KindState,
        rows: Sequence[int],
        port: Port,
        own: Mapping[int, Any] | None = None,
    ) -> None:
        self.number = number
        self._form = form
        self._state = state
        self.failures: list[tuple[int, BaseException]] = []
        """(row, what its tick raised), the last few."""
        self.port = port
        self.blocks = any(each.full == "block" for each in form.kind.topics_written.values())
        """They are told at once when there is no room for what they publish."""
        self._generators = form.name == "generator"
        self._version = -1
        self._idle = 0
        self._rows: Sequence[int] = ()
        self._due: list[Any] = []
        self._spawned = rows
        # One slot each, in the order of their rows: a mapping by row, and a method bound to each, would take as much memory
        # again as they do.
        self._agents: list[Any] = [None] * len(rows)  # which has no room for more, as one that has grown would
        for place, row in enumerate(rows):
            self._agents[place] = self._agent(form, state, row, own or {})

    @property
    def rows(self) -> list[int]:
        """The rows of those that have not been forgotten."""
        return [row for row, agent in zip(self._spawned, self._agents, strict=True) if agent is not None]

    def _place(self, row: int) -> int:
        if isinstance(self._spawned, range):
            return row - self._spawned.start
        return bisect_left(self._spawned, row)

    def _those(self, rows: Sequence[int]) -> list[Any]:
        if len(rows) == len(self._agents):
            return self._agents  # all of them, since no row is due twice
        agents, place = self._agents, self._place
        return [agents[place(row)] for row in rows]

    def _agent(self, form: Form, state: KindState, row: int, own: Mapping[int, Any]) -> Any:
        handle = state.handle(row)
        if not self._generators:
            agent = handle if form.make is None else form.make()
            if not callable(getattr(agent, "tick", None)):
                raise BadTick(f"{agent!r} has no tick", hint="an agent has a method tick(now_ns, bus)")
            if row in own:
                _put_back(agent if saves(agent) else handle, own[row], handle)
            return agent
        assert form.make is not None
        agent = form.make(handle, self.port)
        if not hasattr(agent, "send"):
            raise BadTick(f"{form.make!r} returned {agent!r}", hint="a generator function is wanted: one that yields")
        if row in own:
            _put_back(agent if saves(agent) else handle, own[row], handle)
        try:
            next(agent)  # up to its first yield, where it waits for the first instant
        except StopIteration:
            raise BadTick(
                f"{form.make!r} returned before its first yield", hint="a generator yields once for each tick"
            ) from None
        return agent

    def own(self) -> dict[int, Any] | None:
        """What those that are no mere rows keep of themselves, by row, as their `save` tells it; None when there is nothing
        but fields. NanoError where that cannot be told."""
        form = self._form
        if form.name == "object" and form.make is None and not saves(form.kind):
            self._refuse_attributes()
            return None
        told = {}
        for row in self.rows:
            handle = self._state.handle(row)
            agent = self._agents[self._place(row)]
            whom: Any = agent if saves(agent) else handle
            if not saves(whom):
                what = "generators" if self._generators else "objects"
                raise NanoError(
                    f"the {what} of {form.kind.__qualname__} cannot be saved: what they keep is not to be seen from outside",
                    hint="give the kind, or them, save() and restore(value); or keep it in fields, and use the object form",
                )
            try:
                told[row] = whom.save()
            except Exception as error:
                raise NanoError(f"save() of {handle!r} raised {type(error).__name__}: {error}") from error
        return told

    def _refuse_attributes(self) -> None:
        """NanoError where an agent keeps something that is in no field: it would be lost without a word."""
        for agent in self._agents:
            kept = getattr(agent, "__dict__", None)
            if kept:
                raise NanoError(
                    f"{self._form.kind.__qualname__} cannot be saved: its agents keep {', '.join(sorted(kept))[:200]} beside their fields",
                    hint="declare it as a field, or give the kind save() and restore(value)",
                )

    def forget(self, row: int) -> None:
        """An agent has ended."""
        if self._due is self._agents:
            self._agents = self._agents.copy()  # who is due in this pass stays so
        self._agents[self._place(row)] = None
        self._version = -1

    def run(self, passes: Passes, now_ns: int) -> None:
        """Tick those that are due."""
        self.ready(passes)
        if passes.watched:
            passes.announce(self.number)
        passes.settle(self.number, *self.tick(now_ns))

    @property
    def rows_due(self) -> Sequence[int]:
        """Of those that tick now."""
        return self._rows

    def ready(self, passes: Passes) -> None:
        """Know who is due."""
        version = passes.version(self.number)
        if version != self._version:
            self._rows = passes.rows_due(self.number)
            self._due = self._those(self._rows)
            self._version = version

    def run_turn(self, passes: Passes, now_ns: int, woken: bool, agents: int) -> int:
        """Tick the next of those that are owed a turn, at most so many; how many there were."""
        self._rows = passes.turn_of(self.number, woken, agents)
        self._due = self._those(self._rows)
        self._version = -1
        if passes.watched:
            passes.announce(self.number)
        passes.settle(self.number, *self.tick(now_ns))
        return len(self._rows)

    def tick(self, now_ns: int) -> tuple[list[tuple[int, int, int]], int, int]:
        """Tick those that are due: who leaves, as `Passes.settle` wants it, what it took, and how many had nothing to do."""
        port, due = self.port, self._due
        port.rows = self._rows
        iterator = iter(due)
        port._ticking = iterator
        leavers: list[tuple[int, int, int]] = []
        self._idle = 0
        began = counter()
        loop = self._sends if self._generators else self._ticks
        try:
            while True:
                try:
                    loop(iterator, len(due), now_ns, port, leavers)
                    break
                except StopIteration:
                    leavers.append((len(due) - length_hint(iterator) - 1, DONE, 0))
                except Exception as error:
                    place = len(due) - length_hint(iterator) - 1
                    self._failed(self._rows[place], error)
                    leavers.append((place, FAILED, 0))
        finally:
            port._ticking = None
        # a clock that falls back meanwhile, at the word of another thread, counts from elsewhere
        return leavers, max(0, counter() - began), self._idle

    def _failed(self, row: int, error: BaseException) -> None:
        self.failures.append((row, error))
        del self.failures[:-FAILURES_KEPT]

    def _ticks(
        self, agents: Iterator[Any], count: int, now_ns: int, port: Port, leavers: list[tuple[int, int, int]]
    ) -> None:
        for agent in agents:
            outcome = agent.tick(now_ns, port)
            if outcome is not None:
                self._outcome(outcome, count - length_hint(agents) - 1, leavers)

    def _sends(
        self, agents: Iterator[Any], count: int, now_ns: int, port: Port, leavers: list[tuple[int, int, int]]
    ) -> None:
        while (outcome := send_each(agents, now_ns)) is not None:
            self._outcome(outcome, count - length_hint(agents) - 1, leavers)

    def _outcome(self, outcome: Any, place: int, leavers: list[tuple[int, int, int]]) -> None:
        """Note an outcome that is not None."""
        if isinstance(outcome, Sleep):
            until_ns = outcome.until_ns
            leavers.append((place, _SLEEP, NS_MAX if until_ns >= NS_MAX else max(0, int(until_ns))))
        elif outcome in (FAILED, DONE):
            leavers.append((place, outcome, 0))
        elif outcome == IDLE:
            self._idle += 1
        elif outcome != WORKED:
            error = BadTick(f"a tick returned {outcome!r}", hint="None, IDLE, FAILED, DONE or Sleep(until_ns)")
            self._failed(self._rows[place], error)
            leavers.append((place, FAILED, 0))
