"""A population of nano-agents and its scheduler."""

from __future__ import annotations

import math
import time as clocks
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from kernels.crew import THREADS_MAX, Crew
from kernels.passes import (
    DONE_EVENT,
    ENOUGH,
    KILL,
    KILLED_EVENT,
    MANY,
    NEVER,
    ONE,
    OPEN,
    PYTHON,
    PYTHON_DUE,
    REACHED,
    SUSPEND,
    WARN,
    Passes,
)
from kernels.topics import Bus
from swarm.nano.agents import Agents, KindState, Rows
from swarm.nano.alerts import Alert, metric_of
from swarm.nano.anomalies import Anomalies
from swarm.nano.budget import Budget
from swarm.nano.bus import Port
from swarm.nano.cohorts import Cohort
from swarm.nano.critics import Critics
from swarm.nano.declared import Declared
from swarm.nano.errors import NanoError, PopulationFull
from swarm.nano.kinds import Form, Kind, form_of
from swarm.nano.measuring import Mark, Measuring
from swarm.nano.numa import Machine
from swarm.nano.numbers import instant, real, whole
from swarm.nano.python_thread import PythonThread
from swarm.nano.python_ticks import PythonCohort
from swarm.nano.rates import periods_of
from swarm.nano.reports import Durations, Report
from swarm.nano.topologies import Mesh
from swarm.nano.topologies.contract import UNBOUNDED_NS, Due, Topology
from swarm.nano.tracing import Tracing, ticks_per_ns
from swarm.nano.watching import Watch

TOPIC_LINES: Final = 65_536
RESOLUTION_NS: Final = 1_000
WINDOW_S: Final = 0.1
REFIT_S: Final = 1.0
"""In real time the clock is compared with the system's after so long, and with every report."""
LAST_NS: Final = (1 << 63) - 1
"""The last instant of a swarm's time."""
SPIN_MAX_S: Final = 3600
GROUP_CHARACTERS: Final = 256
COHORTS_KEPT: Final = 16
"""Of spawns alike, so many keep a cohort of their own after all their agents have ended; then it is used again."""
_LOOKED_AT: Final = 8
DEMOTED_MAX: Final = 6
"""How often a cohort's rate is halved for its overruns, at most."""
_FORMS: Final = {"native_many": MANY, "native": ONE, "object": PYTHON, "generator": PYTHON}
_ACTS: Final = {"warn": WARN, "demote": WARN, "suspend": SUSPEND, "kill": KILL}


class NanoSwarm:
    """Agents of any kinds, scheduled in passes: all that is due at one instant, then the next instant.

    `time` is "virtual" (as fast as possible, and bit for bit the same for a seed) or "real". Instants are multiples of
    `resolution_ns`. `topic_lines` is how many messages of a pass a topic has room for. `spin_s` is how long before an
    instant of real time the clock is read instead of slept: with it, a core of its own is needed.

    Native agents are ticked on so many `cores`: by the calling thread, and by others that take parts of what takes long
    enough. What comes out is the same for any number of them, as long as ticks keep to their own rows; see `Kind.native`.
    By default it is one, or what a `Mesh` says.

    Without a `topology` all that is due runs, in the order of `spawn`. With one (`swarm.nano.topologies`), it says who gets a
    turn within what a pass may cost: the time to the next instant, times `capacity`. In virtual time a tick costs what its
    budget declares, nothing without one, and the capacity is 1 unless it is given; in real time it is the number of cores, and
    a turn costs what was measured, on all of them. Who gets no turn is still due in the next pass.
    With `python_thread`, agents that are objects or generators tick on a thread of their own while native ones do. In virtual
    time a pass ends when both have, and nothing that comes out is another. In real time passes do not wait: turns that Python's
    agents are late for are missed, and messages reach them with their next one. Their ticks must not spawn, suspend or end
    agents, and keep to their own rows. Not with a topology.

    `window_s` of the swarm's time is what alerts and anomalies are taken of (`watch`). One thread uses a swarm.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        time: Literal["virtual", "real"] = "virtual",
        resolution_ns: int = RESOLUTION_NS,
        topic_lines: int = TOPIC_LINES,
        spin_s: float = 0.0,
        topology: Topology | None = None,
        cores: int | None = None,
        capacity: float | None = None,
        python_thread: bool = False,
        window_s: float = WINDOW_S,
    ) -> None:
        if time not in ("virtual", "real"):
            raise NanoError(f"time={time!r}", hint="time is 'virtual' or 'real'")
        seed, resolution_ns, topic_lines, cores = whole(seed), whole(resolution_ns), whole(topic_lines), whole(cores)
        if not isinstance(seed, int) or not 0 <= seed < 1 << 64:
            raise NanoError(f"seed {seed!r}", hint="a seed is a whole number of 64 bits, not negative")
        if not isinstance(resolution_ns, int) or not 1 <= resolution_ns <= 1_000_000_000:
            raise NanoError(f"resolution_ns={resolution_ns!r}", hint="a resolution is 1 to 1,000,000,000 ns")
        if not isinstance(topic_lines, int) or not 1 <= topic_lines < 1 << 32:
            raise NanoError(
                f"topic_lines={topic_lines!r}", hint="a topic has room for 1 to 4,294,967,295 messages of a pass"
            )
        if not real(spin_s) or not 0 <= spin_s <= SPIN_MAX_S:
            raise NanoError(
                f"spin_s={spin_s!r}", hint=f"how long to spin before an instant: 0 to {SPIN_MAX_S:,} seconds"
            )
        if topology is not None and (isinstance(topology, type) or not callable(getattr(topology, "bind", None))):
            raise NanoError(
                f"topology={topology!r}",
                hint="give an object: nano.RoundRobin(), nano.Priority(…), nano.Mesh() and so on",
            )
        self.topic_lines = topic_lines
        self.bus = Bus()
        self.passes = Passes(seed, resolution_ns, self.bus, time == "real", int(spin_s * 1e9))
        self._declared = Declared(self.passes, self.bus, topic_lines)
        self.topics = self._declared.topics
        self._cohorts: list[Cohort] = []
        self._alike: dict[tuple[Any, ...], deque[int]] = {}
        self._running = False
        self._refitted_s = clocks.monotonic()
        self._tracing = Tracing(self.passes)
        self._critics = Critics(self.passes, self._tracing)
        self.critics = self._critics.runs
        if capacity is not None and not (isinstance(capacity, int | float) and 0.0 < capacity <= 1e6):
            raise NanoError(f"capacity={capacity!r}", hint="how many cores' time a pass may cost, above 0")
        mesh = topology if isinstance(topology, Mesh) else Mesh()
        if mesh.cores is not None and cores not in (None, mesh.cores):
            raise NanoError(
                f"cores={cores!r} and a mesh of {mesh.cores}", hint="give the number of cores once, or the same one"
            )
        if python_thread and topology is not None:
            raise NanoError(
                "python_thread=True and a topology",
                hint="a topology grants Python's turns between those of others: choose one",
            )
        self.python_thread = bool(python_thread)
        self._beside: PythonThread | None = None
        self._mesh = mesh
        self._crew: Crew | None = None
        self.capacity = capacity
        if cores is None:
            cores = mesh.cores or (Machine.read().cpus if mesh is topology else 1)
        self.cores = cores
        if not isinstance(window_s, int | float) or not 1e-6 <= window_s <= 1e6:
            raise NanoError(f"window_s={window_s!r}", hint="a window is 0.000001 to 1,000,000 seconds")
        self.watched: Watch | None = None
        self.between: Callable[[], None] | None = None
        """Called between two passes, now and then: of an isolated population, for its parent."""
        self.beat_beside: memoryview | None = None
        """Where Python's thread tells whom it ticks, likewise."""
        self._window_ns = max(1, round(window_s * 1e9))
        self._measuring = Measuring(self.passes, self.bus, self.topics, self._cohorts, self._window_ns)
        self.topology = topology
        if topology is not None:
            self.passes.order()

    # --- what there is ------------------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """The instant, ns since the beginning."""
        return self.passes.now_ns

    @property
    def seed(self) -> int:
        """What random numbers and every choice follow from."""
        return self.passes.seed

    @property
    def time(self) -> Literal["virtual", "real"]:
        """Which time it runs in."""
        return "real" if self.passes.real else "virtual"

    @property
    def cores(self) -> int:
        """On how many cores native agents are ticked. It may be set between two runs, and changes nothing in virtual time."""
        return self._cores

    @cores.setter
    def cores(self, cores: int) -> None:
        if not isinstance(cores, int) or isinstance(cores, bool) or not 1 <= cores <= THREADS_MAX:
            raise NanoError(f"cores={cores!r}", hint=f"a swarm has 1 to {THREADS_MAX} cores")
        if self._running:
            raise NanoError("the swarm runs", hint="set its cores between two runs")
        if self._crew is not None:
            self.passes.employ(None)
            self._crew.close()
            self._crew = None
        self._cores = cores

    @property
    def crew(self) -> Crew | None:
        """The threads of a swarm of several cores, with their counts, once it has run."""
        return self._crew

    @property
    def agents(self) -> int:
        """Agents that live."""
        return sum(state.population.alive for state in self._declared.kinds.values())

    @property
    def cohorts(self) -> Sequence[Agents]:
        """What each `spawn` made, in their order.

        Where very many spawns follow each other, a new one takes the place of one whose agents have all ended: of the
        same kind, form, group and budget, whose line in reports goes on with it.
        """
        return [each.agents for each in self._cohorts if each.agents is not None]

    @property
    def kinds(self) -> dict[type[Kind], KindState]:
        """The kinds and their rows."""
        return dict(self._declared.kinds)

    def failures(self) -> list[tuple[type[Kind], int, BaseException]]:
        """(kind, row, exception) of Python's ticks that raised, the last few of each cohort."""
        return [
            (each.state.kind, row, error)
            for each in self._cohorts
            if each.python is not None
            for row, error in each.python.failures
        ]

    def _ticks_of(self, budget: Budget | None) -> int:
        return max(1, round(budget.ns * ticks_per_ns(self.passes))) if budget is not None else 0

    def _refit(self) -> None:
        """Have the clock compare itself with the system's, and budgets follow."""
        self.passes.clock.refit()
        for number, each in enumerate(self._cohorts):
            if each.budget is not None:
                self.passes.set_budget(number, self._ticks_of(each.budget))
        self._refitted_s = clocks.monotonic()

    # --- spawning -----------------------------------------------------------------------------------------------------

    def spawn(
        self,
        what: type[Kind] | Form,
        count: int = 1,
        *,
        rate_hz: float | Sequence[float] | None = None,
        group: str = "",
        budget: Budget | float | None = None,
        start_ns: int | None = None,
    ) -> Agents:
        """Add agents: of a kind with a `tick`, or of a form of it (`Kind.native_many(address)` and the like).

        `rate_hz` is one for all, who then tick together, or one for each; None ticks them only when they are woken
        (`Agents.resume`). They begin at `start_ns`, or now. Nothing is added when anything is wrong: PopulationFull
        without room, BadTick, NanoError.
        """
        self.outside("spawned")
        form = form_of(what)
        count = whole(count)
        if not isinstance(count, int) or count < 1:
            raise NanoError(f"{count!r} agents of {form.kind.__name__}", hint="spawn one agent at least")
        if budget is not None and not isinstance(budget, Budget):
            budget = Budget(budget)
        if not isinstance(group, str) or len(group) > GROUP_CHARACTERS:
            raise NanoError(
                f"group={group!r}", hint=f"a group is named by text, of at most {GROUP_CHARACTERS} characters"
            )
        start_ns = instant("start_ns", start_ns)
        period_ns, periods = periods_of(rate_hz, count, self.passes.resolution_ns)
        state = self._declared.kind(form.kind)
        try:
            rows: Rows = _rows(state.population.claim(count))
        except OverflowError:
            raise PopulationFull(
                f"no room for {count:,} agents more of {form.kind.__name__}: {state.population.free:,} rows are free",
                hint=f"declare it with more: class {form.kind.__name__}(nano.Kind, capacity=…)",
                capacity=state.population.capacity, free=state.population.free,
            ) from None  # fmt: skip
        try:
            return self._add(form, state, rows, group, budget, period_ns, periods, start_ns)
        except BaseException:
            for row in rows:
                state.population.release(row)
            raise

    def _add(
        self,
        form: Form,
        state: KindState,
        rows: Rows,
        group: str,
        budget: Budget | None,
        period_ns: int,
        periods: array[int] | None,
        start_ns: int | None,
        absent: bool = False,
        restoring: bool = False,
        own: Mapping[int, Any] | None = None,
    ) -> Agents:
        # `absent`: all of it is in other parts of a spread population; here it reads nothing
        if self.topology is not None:
            self.topology.bind([group], self.seed)
        cohort = Cohort(form, state, group, budget, period_ns)
        cohort.absent = absent
        alike = self._alike.setdefault((state.number, form.name, group, budget, absent), deque())
        into = None if restoring else self._over(alike)  # a saved cohort keeps its number
        number = len(self._cohorts) if into is None else into
        self._declared.check_delays(form, number, ordered=self.topology is not None, python_thread=self.python_thread)
        if form.name in ("object", "generator"):
            reads = {topic: self.topics[topic] for topic in form.kind.topics_read.values()}
            writes = {each.topic: self.topics[each.topic] for each in form.kind.topics_written.values()}
            drops = frozenset(each.topic for each in form.kind.topics_written.values() if each.full == "drop")
            cohort.python = PythonCohort(
                number,
                form,
                state,
                rows,
                Port(self.bus, self.passes, state.number, writes, reads, drops, form.kind.topics_at_once),
                own,
            )
        found = self.passes.add_cohort(
            state.number, rows, _FORMS[form.name], form.address,
            period_ns=period_ns, periods_ns=periods,
            budget=self._ticks_of(budget),
            sampling=budget.sampling if budget is not None else 0,
            on_overrun=_ACTS[budget.on_overrun] if budget is not None else WARN,
            first_ns=None if start_ns is None else max(self.now_ns, start_ns),
            reads=[] if absent else [self.topics[topic] for topic in form.kind.topics_read.values()],
            writes=[self.topics[each.topic] for each in form.kind.topics_written.values()],
            at_once=[self.topics[topic] for topic in form.kind.topics_at_once],
            whole=form.whole, keep=form, into=-1 if into is None else into,
        )  # fmt: skip
        assert found == number
        cohort.agents = Agents(self, state, rows, number)
        if into is None:
            self._cohorts.append(cohort)
            alike.append(number)
        else:
            was, self._cohorts[into] = self._cohorts[into], cohort
            cohort.over = was.over
            if cohort.python is not None and was.python is not None:
                cohort.python.failures = was.python.failures
        return cohort.agents

    def _over(self, alike: deque[int]) -> int | None:
        """A cohort of these whose agents have all ended, where there are many; looks at a few, in turn."""
        if len(alike) < COHORTS_KEPT:
            return None
        for _ in range(_LOOKED_AT):
            alike.rotate(-1)
            if self.passes.is_over(alike[-1]):
                return alike[-1]
        return None

    def lives(self, agents: Agents) -> bool:
        """Whether agents still have their cohort: another spawn takes it when all of them have ended."""
        return self._cohorts[agents.cohort].agents is agents

    def _restore(
        self, form: Form, kind: type[Kind], said: dict[str, Any], saved: dict[str, Any], budget: Budget | None,
        own: Mapping[int, Any] | None,
    ) -> None:  # fmt: skip
        """Put a saved cohort back; see `swarm.nano.saving`."""
        rows, periods = array("I"), array("Q")
        rows.frombytes(bytes(saved["rows"]))
        periods.frombytes(bytes(saved["periods"]))
        whole = range(rows[0], rows[-1] + 1) if rows and rows[-1] - rows[0] + 1 == len(rows) else rows
        agents = self._add(
            form, self._declared.kind(kind), whole, said["group"], budget, said["period_ns"], periods if periods else None, None,
            absent=said.get("absent", False), restoring=True, own=own,
        )  # fmt: skip
        it = self._cohorts[agents.cohort]
        it.demoted = said["demoted"]
        self.passes.restore_cohort(agents.cohort, saved)

    def spawn_critic(
        self, critic: Any, *, every: int = 1_000, budget_ns: float | None = None, traces: int = 100_000
    ) -> Any:
        """Have a critic look at the ticks, between two passes, after each `every` of them.

        `critic` is an object, or a class of such, with `observe(traces)`, which takes an array of
        `swarm.nano.minds.traces.TRACE`, and `reflect(now_ns)`: a `CriticReflector`, for instance. The last `traces` ticks are
        kept for it. Its own time is counted against `budget_ns`; see `critics`. In virtual time a traced tick costs what its
        budget declares. Returns the object.
        """
        return self._critics.add(critic, every, budget_ns, traces)

    def take_critics(self, other: NanoSwarm) -> None:
        """The critics of another swarm, of which this one was made again, look at this one from now on."""
        self._critics.carry_on(other._critics)

    def outside(self, what: str) -> None:
        """NanoError in a tick that runs beside native passes: agents cannot be changed under them."""
        if self._beside is not None and self._beside.here:
            raise NanoError(
                f"agents cannot be {what} by a tick with python_thread=True: native passes are running",
                hint="return nano.DONE or nano.Sleep, or change others between two runs",
            )

    # --- alerts and anomalies -----------------------------------------------------------------------------------------

    def watch(self, what: Alert | Anomalies, of: type[Kind] | Agents | str | None = None) -> None:
        """Look at every cohort and topic once a window (`window_s` of the swarm's time), between two passes.

        `of` narrows that to the cohorts of a kind, to those that one `spawn` made, or to a topic, or kind, by name. What was
        raised and found stands in `report.alerts` and `report.anomalies`. In virtual time there are metrics of counts and of
        declared costs only, so what follows is the same for a seed; NanoError for those that are measured.
        """
        if not isinstance(what, Alert | Anomalies):
            raise NanoError(f"{what!r} cannot be watched for", hint="give a nano.Alert(...), or nano.Anomalies()")
        if of is not None and not isinstance(of, str):
            if isinstance(of, Agents):
                if of.cohort >= len(self._cohorts) or self._cohorts[of.cohort].agents is not of:
                    raise NanoError(f"{of!r} are of another swarm", hint="give what spawn() of this swarm returned")
            elif not (isinstance(of, type) and issubclass(of, Kind)):
                raise NanoError(f"of={of!r}", hint="a kind, what spawn() returned, or the name of a topic or kind")
            if isinstance(what, Alert) and metric_of(what.metric).of == "topic":
                raise NanoError(f"{what.metric} is of a topic, not of {of!r}", hint="of='the name of the topic'")
        watched = self.watched or Watch(self._window_ns, self.now_ns)
        watched.add(what, of.cohort if isinstance(of, Agents) else of.__name__ if isinstance(of, type) else of, self)
        self.watched = watched

    def counts(self, cohort: int) -> tuple[dict[str, float], float | None]:
        """Counts of a cohort since its beginning by name, "busy_ns" among them; and its budget, ns."""
        return self._measuring.counts(cohort)

    def durations(self, cohort: int) -> tuple[Durations, Durations, Durations]:
        """What ticks of a cohort took since its beginning, how late they were, and how much that differed; ns."""
        return self._measuring.durations(cohort)

    def demote(self, cohort: int) -> bool:
        """Halve the rate of a cohort, down to 1/64 of what it was; whether that was done."""
        it = self._cohorts[cohort]
        if not it.period_ns or it.demoted >= DEMOTED_MAX:
            return False
        it.demoted += 1
        it.period_ns *= 2
        self.passes.set_period(cohort, it.period_ns)
        return True

    def left(self, cohort: int) -> None:
        """Agents of a cohort were ended from outside: Python's are let go."""
        it = self._cohorts[cohort]
        if it.python is not None:
            for row in it.python.rows:
                if it.state.population.state(row) == 0:
                    it.python.forget(row)

    # --- running ------------------------------------------------------------------------------------------------------

    def run_for(self, *, seconds: float | None = None, ns: int | None = None, passes: int | None = None) -> Report:
        """Run for a time of the swarm's, or for so many passes; returns what was done in it.

        A tick that raises or fails suspends its agent, and the rest goes on. Ctrl-C ends it between two passes.
        """
        given = [each for each in (seconds, ns, passes) if each is not None]
        if len(given) != 1 or not real(given[0]) or not given[0] >= 0 or given[0] == math.inf:
            raise NanoError(
                "run_for() wants one of seconds, ns and passes, not negative", hint="run_for(seconds=1) for instance"
            )
        if passes is not None:
            return self._run(NEVER, min(int(passes), NEVER // 2))
        until_ns = self.now_ns + (int(ns) if ns is not None else round((seconds or 0.0) * 1e9))
        if until_ns > LAST_NS:
            raise NanoError(
                f"{given[0]} {'ns' if ns is not None else 'seconds'} more than now lie beyond a swarm's time",
                hint="it counts 2^63 ns, which are 292 years",
            )
        return self._run(until_ns, None)

    def _run(self, until_ns: int, limit: int | None) -> Report:
        if self._running:
            raise NanoError("the swarm runs already", hint="an agent's tick cannot run its own swarm")
        began = self.mark()
        self.employ()
        self._running = True
        try:
            if self.python_thread and any(each.python is not None for each in self._cohorts):
                self._beside = PythonThread(self.passes, self.bus, self.beat_beside)
            try:
                self._advance(until_ns, limit)
            finally:
                beside, self._beside = self._beside, None
                if beside is not None:
                    beside.close()
                    self._events()
        finally:
            self._running = False
            self.passes.halt()
        return self.report(began)

    def employ(self) -> None:
        """Have the other cores ready, where it has several: running does it."""
        if self._cores > 1 and self._crew is None:
            mesh = self._mesh
            self._crew = Mesh(self._cores, placement=mesh.placement).crew()
            self.passes.employ(self._crew, mesh.chunk_ns, mesh.alone_ns)

    def _advance(self, until_ns: int, limit: int | None) -> None:
        last = NEVER if limit is None else self.passes.made + limit
        while self.passes.made < last:
            most = min((each.next_pass for each in self.critics), default=last)
            most = min(last, most)
            edge_ns = until_ns
            if self.watched is not None and (until_ns != NEVER or self.passes.next_ns != NEVER):
                edge_ns = min(until_ns, self.watched.next_ns)
            if self.topology is not None:
                why = self._ordered(self.topology, edge_ns, until_ns)
            else:
                why = self.passes.run(edge_ns, most - self.passes.made)
            if why == PYTHON_DUE:
                due = [python for number in self.passes.due if (python := self._cohorts[number].python) is not None]
                try:
                    if self._beside is not None:
                        self._beside.run_pass(due, self.now_ns)
                    else:
                        for python in due:
                            python.run(self.passes, self.now_ns)
                finally:
                    self.passes.finish()
            if self._beside is not None:
                self._beside.settle()
            self._events()
            if self.passes.real:
                self._demote()
                if clocks.monotonic() - self._refitted_s >= REFIT_S:
                    self._refit()
            if self.critics:
                self._critics.look()
            if self.watched is not None and self.now_ns >= self.watched.next_ns:
                self.watched.look(self)
            if self.between is not None:
                self.between()
            if (why == REACHED and edge_ns == until_ns) or (why == ENOUGH and self.passes.made < most):
                return

    def _ordered(self, topology: Topology, edge_ns: int, until_ns: int) -> int:
        """One pass before `edge_ns` in which the topology says who gets a turn."""
        why = self.passes.step(edge_ns)
        if why != OPEN:
            return why
        try:
            woken: dict[int, bool] = {}
            due = []
            for number, was_woken, agents, since_ns in self.passes.owed():
                it = self._cohorts[number]
                cost_ns = round(it.budget.ns * agents) if it.budget is not None else 0
                due.append(Due(it.group, number, agents, cost_ns, since_ns))
                woken[id(due[-1])] = was_woken
            room = self.passes.room(until_ns)
            capacity = self.capacity if self.capacity is not None else self._cores if self.passes.real else 1
            topology.begin(self.now_ns, UNBOUNDED_NS if room == NEVER else min(UNBOUNDED_NS, int(room * capacity)))
            for grant in topology.order(self.now_ns, due):
                spent_ns = self._turn(grant.due.cohort, woken[id(grant.due)], grant.agents)
                if self.passes.real:
                    topology.ran(grant, spent_ns * self._cores)  # nobody else had the others
        finally:
            self.passes.finish()
        return why

    def _turn(self, number: int, woken: bool, agents: int) -> int:
        """Tick the next agents of a cohort; what it took, ns."""
        python = self._cohorts[number].python
        if python is None:
            return round(self.passes.grant(number, woken, agents) / ticks_per_ns(self.passes))
        began = clocks.perf_counter_ns()
        while agents > 0:
            agents -= python.run_turn(self.passes, self.now_ns, woken, agents)
        return clocks.perf_counter_ns() - began

    def _events(self) -> None:
        for cohort, row, _, what in self.passes.take_events():
            python = self._cohorts[cohort].python
            if python is not None and what in (DONE_EVENT, KILLED_EVENT):
                python.forget(row)

    def _demote(self) -> None:
        """Halve the rate of cohorts that were over their budget since the last look."""
        for number, each in enumerate(self._cohorts):
            if each.budget is None or each.budget.on_overrun != "demote" or not each.period_ns:
                continue
            over = self.passes.statistics(number)["over"]
            if over > each.over:
                self.demote(number)
            each.over = over

    # --- reporting ----------------------------------------------------------------------------------------------------

    def mark(self) -> Mark:
        """Where its counts stand now, for a later `report`."""
        return self._measuring.mark()

    def report(self, since: Mark) -> Report:
        """What was done since a mark."""
        self._refit()
        return self._measuring.report(since, self.watched)

    # --- profiling ----------------------------------------------------------------------------------------------------

    def keep_spans(self, calls: int = 100_000) -> None:
        """Note when the last so many calls of cohorts began and how long they took, for `trace_events`; 0 ends that."""
        self._tracing.keep_spans(calls)

    def trace_events(self) -> list[dict[str, Any]]:
        """The calls since the last time in Chrome's Trace Event Format, which Perfetto opens: a track a cohort, in µs."""
        return self._tracing.events(self._cohorts)

    # --- saving -------------------------------------------------------------------------------------------------------

    def save(self) -> bytes:
        """The whole population as one blob, to be continued bit for bit by `nano.load`, here or elsewhere."""
        from swarm.nano.saving import save

        return save(self)


def _rows(claimed: range | memoryview) -> Rows:
    return claimed if isinstance(claimed, range) else array("I", claimed)
