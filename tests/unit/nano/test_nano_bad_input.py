"""What people get wrong: a clear error that tells what to do, and the rest goes on."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

from swarm import nano
from swarm.nano.scheduling import COHORTS_KEPT

TICK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p)


class Cell(nano.Kind, capacity=100):
    x: nano.f64
    n: nano.u32

    def tick(self, now_ns, bus):
        self.x += 1


class Bare(nano.Kind, capacity=10_000):
    x: nano.f64


@pytest.fixture
def flock():
    return nano.NanoSwarm(seed=1)


def refused(said, call, kind=nano.NanoError):
    """It is refused with these words and with a hint, and not with an error of Python's own."""
    with pytest.raises(kind, match=said) as failed:
        call()
    assert failed.value.hint


@pytest.mark.parametrize(
    "rate", [math.nan, math.inf, -1, 0, 1e300, 1e-300, "fast", b"1", object(), {1: 2}, [1, math.nan], [1, "a"], [1], [1, 2, 3], {1.0, 2.0}]
)  # fmt: skip
def test_rates(flock, rate):
    refused("rate", lambda: flock.spawn(Cell, 2, rate_hz=rate))
    assert flock.agents == 0 and flock.spawn(Cell, 100) is not None, "nothing was taken"


def test_numbers_of_numpy_are_numbers():
    flock = nano.NanoSwarm(seed=np.int64(5), topic_lines=np.uint32(9), cores=np.int8(1))
    assert flock.seed == 5
    for rate in (np.float32(10), np.int64(10), np.array([10.0, 10.0]), (each for each in (10, 10.0))):
        assert len(flock.spawn(Cell, np.int16(2), rate_hz=rate, start_ns=np.int64(0), budget=np.float64(5))) == 2
    assert flock.run_for(seconds=np.float32(1)).ticks == 80 and flock.run_for(passes=np.int64(1)).passes == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": -1}, "seed -1"), ({"seed": 1 << 64}, "seed"), ({"seed": "a"}, "seed 'a'"), ({"seed": None}, "seed None"),
        ({"time": "vritual"}, "vritual"), ({"resolution_ns": 0}, "resolution_ns"), ({"resolution_ns": 1e3}, "resolution_ns"),
        ({"topic_lines": 0}, "topic_lines"), ({"topic_lines": 1 << 32}, "topic_lines"), ({"spin_s": math.nan}, "spin_s"),
        ({"spin_s": math.inf}, "spin_s"), ({"spin_s": -1}, "spin_s"), ({"spin_s": "1"}, "spin_s"), ({"cores": 0}, "cores"),
        ({"topology": "mesh"}, "topology='mesh'"), ({"topology": nano.RoundRobin}, "topology=<class"),
    ],
)  # fmt: skip
def test_swarms(given, said):
    refused(said, lambda: nano.NanoSwarm(**given))


@pytest.mark.parametrize("given", [{"seconds": each} for each in (math.nan, math.inf, -1, "1", 1e30)] + [
    {"ns": 1 << 80}, {"ns": 1 << 63}, {"passes": -1}, {}, {"seconds": 1, "passes": 1}
])  # fmt: skip
def test_times_to_run_for(flock, given):
    flock.spawn(Cell, 1, rate_hz=10)
    refused("run_for|beyond a swarm's time", lambda: flock.run_for(**given))
    assert flock.run_for(seconds=1).ticks == 10


@pytest.mark.parametrize("ns", [math.nan, -1, 0, math.inf, 1e300, "x", None])
def test_budgets(ns):
    refused("budget of", lambda: nano.Budget(ns))


@pytest.mark.parametrize(
    "given", [{"group": 5}, {"group": None}, {"group": [1]}, {"start_ns": "a"}, {"start_ns": math.nan}]
)
def test_spawns(flock, given):
    refused("group=|start_ns=", lambda: flock.spawn(Cell, 1, rate_hz=1, **given))


@pytest.mark.parametrize("count", [0, -5, 1.5, "2", None])
def test_numbers_of_agents(flock, count):
    refused("agents of Cell", lambda: flock.spawn(Cell, count))


def test_what_is_no_kind_is_said(flock):
    refused("is an agent, not a kind", lambda: flock.spawn(Cell()), nano.BadTick)
    refused("cannot be spawned", lambda: flock.spawn(None), nano.BadTick)
    assert repr(Cell()) == "<Cell of no population>"

    def ends(agent, bus):
        return
        yield

    refused("returned before its first yield", lambda: flock.spawn(Cell.generators(ends)), nano.BadTick)
    assert flock.agents == 0


def test_a_field_that_is_none_is_not_passed_over():
    def declare(**annotations):
        type("Wrong", (nano.Kind,), {"__annotations__": annotations, "__module__": __name__})

    refused(r"Wrong.x: float is no field", lambda: declare(x=float))
    refused(r"Wrong.x: int is no field", lambda: declare(x="int"))
    refused(r"there is no type nano.f65", lambda: declare(x="nano.f65"))
    for taken in ("fields", "capacity", "layout", "native", "alive", "rows", "kill", "tick", "generation", "_x"):
        refused("cannot be named", lambda name=taken: declare(**{name: nano.f64}))
    refused("257 fields", lambda: declare(**{f"f{number}": nano.f64 for number in range(257)}))
    with pytest.raises(nano.NanoError, match="capasity"):

        class Typo(nano.Kind, capasity=3):
            x: nano.f64

    class Right(nano.Kind):
        x: "nano.f64"  # noqa: UP037
        shared: int = 5
        other: "list[int] | None" = None  # noqa: UP037

    assert list(Right.fields) == ["x"]


def test_a_topic_has_a_name_that_can_be_written_down():
    for name in ("", "x" * 65, 5, None, "\ud800", "a\nb"):
        refused("is no name of a topic", lambda name=name: nano.reads(name))
    assert nano.writes("ü" * 64).topic == "ü" * 64


@pytest.mark.parametrize("until", [math.inf, 2**80, 2**64 - 1, 2**63])
def test_sleeping_for_ever_is_sleeping(flock, until):
    class Sleeper(nano.Kind, capacity=3):
        x: nano.f64

        def tick(self, now_ns, bus):
            return nano.Sleep(until)

    sleepers = flock.spawn(Sleeper, 2, rate_hz=10)
    assert flock.run_for(seconds=100).ticks == 2 and not flock.failures()
    sleepers.resume(at_ns=flock.now_ns)
    assert flock.run_for(seconds=1).ticks == 2


def test_time_ends_and_nobody_is_called_beyond_its_end(flock):
    cells = flock.spawn(Cell, 1, rate_hz=1e-9)
    assert flock.run_for(passes=30).ticks == 10 == cells.x[0]
    assert flock.run_for(passes=5).passes == 0 and flock.now_ns == 9 * 10**18
    refused("beyond a swarm's time", lambda: flock.run_for(seconds=1e9))


def test_a_sleep_of_no_number_is_a_failure_of_that_agent(flock):
    class Wrong(nano.Kind, capacity=4):
        x: nano.f64

        def tick(self, now_ns, bus):
            return nano.Sleep((math.nan, "x", None, now_ns + 10)[self.row])

    flock.spawn(Wrong, 4, rate_hz=10)
    report = flock.run_for(seconds=0.05)
    assert report.cohorts[0].failed == 3 and sorted(row for _, row, _ in flock.failures()) == [0, 1, 2]


def test_a_native_tick_cannot_change_who_is_scheduled(flock, capsys):
    """It is called with the very rows: what it would free is still in use."""
    said, agents = [], None

    def meddles(cols, row, now_ns, ctx):
        for change in (
            lambda: flock.spawn(Cell, 1, rate_hz=1), lambda: agents.kill(), lambda: agents.suspend(),
            lambda: agents.resume(), flock.save, lambda: flock.run_for(passes=1),
        ):  # fmt: skip
            try:
                change()
            except (RuntimeError, nano.NanoError) as error:
                said.append(str(error))
        return 1

    agents = flock.spawn(Bare.native(TICK(meddles)), 3, rate_hz=10)
    assert flock.run_for(seconds=0.1).ticks == 3 and flock.agents == 3
    assert len(said) == 18 and sum("cannot change who is scheduled" in each for each in said) == 15
    agents.kill()
    assert flock.agents == 0


def test_a_critic_that_raises_is_counted_and_the_rest_goes_on(flock):
    class Critic:
        def observe(self, traces):
            raise ValueError("no")

        def reflect(self, now_ns):
            pass

    flock.spawn(Cell, 5, rate_hz=10)
    flock.spawn_critic(Critic(), every=2)
    assert flock.run_for(seconds=1).ticks == 50
    assert flock.critics[0].failed > 3 and str(flock.critics[0].error) == "no" and flock.critics[0].runs == 0
    refused("budget_ns", lambda: flock.spawn_critic(Critic(), budget_ns=math.nan))


# --- spawns without end ---------------------------------------------------------------------------------------------------


def test_cohorts_are_used_again_when_all_of_their_agents_have_ended(flock):
    flock.spawn(Cell, 3, rate_hz=10, group="others")
    first = flock.spawn(Cell, 2, rate_hz=10)
    mark = flock.mark()
    for turn in range(3 * COHORTS_KEPT):
        agents = flock.spawn(Cell, 2, rate_hz=10 + turn % 3)
        agents[0].x = 5.0
        flock.run_for(passes=1)
        assert agents.alive == [True, True]
        agents.kill()
        assert agents.alive == [False, False] and first.alive == [True, True]
    assert len(flock.cohorts) <= COHORTS_KEPT + 2 and flock.agents == 5
    late = flock.spawn(Cell, 2, rate_hz=10)
    assert late.x.tolist() == [0.0, 0.0] if isinstance(late.rows, range) else late.x[:].tolist() == [0.0, 0.0]
    agents.kill()
    agents.suspend()
    assert late.alive == [True, True], "the rows that others had before are theirs no more"
    assert flock.report(mark).ticks == sum(line.ticks for line in flock.report(mark).cohorts)
    other = nano.load(flock.save())
    for each in (flock, other):
        each.run_for(seconds=1)
    assert other.save() == flock.save()


def test_births_and_deaths_in_ticks_of_python(flock):
    """Agents that spawn their successor and end: in the very pass, and in its cohort when its time has come."""

    class Mayfly(nano.Kind, capacity=8):
        age: nano.u32
        line: nano.u32

        def tick(self, now_ns, bus):
            self.age += 1
            if self.age == 3:
                child = flock.spawn(Mayfly, 1, rate_hz=1000)[0]
                child.line = self.line + 1
                return nano.DONE
            return None

    flock.spawn(Mayfly, 2, rate_hz=1000)
    report = flock.run_for(passes=3000)
    assert flock.agents == 2 and not flock.failures() and len(flock.cohorts) <= COHORTS_KEPT + 8
    lines = sorted(
        agent.line for agents in flock.cohorts for agent, alive in zip(agents, agents.alive, strict=True) if alive
    )
    assert lines[0] == lines[1] > 500
    assert sum(line.done for line in report.cohorts) == 2 * lines[0]
