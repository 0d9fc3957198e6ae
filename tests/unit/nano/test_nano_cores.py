"""Native agents on several cores: what comes out is what one core gives, bit for bit."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import nano
from swarm.nano import topologies

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
NAMES = ("lone", "crowd", "grind", "mean", "beat")


def compiled(folder: Path) -> Path:
    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc")
    if compiler is None:
        if os.environ.get("CI"):
            pytest.fail("no C compiler")
        pytest.skip("no C compiler")
    library = folder / "cores_ticks.so"
    flags = ["-std=c11", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    command = [compiler, *flags, f"-I{nano.include()}", str(HERE / "cores_ticks.c"), "-o", str(library)]
    subprocess.run(command, check=True, timeout=100)
    return library


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("ticks"))


def addresses(library: Path) -> dict[str, int]:
    loaded = ctypes.CDLL(str(library))
    return {name: ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value or 0 for name in NAMES}


@pytest.fixture(scope="module")
def ticks(library):
    return addresses(library)


class Talker(nano.Kind, capacity=20_000):
    x: nano.f64
    n: nano.u32
    heard = nano.reads("gossip")
    said = nano.writes("gossip", full="drop")
    noise = nano.writes("noise", full="drop")


class Walker(nano.Kind, capacity=20_000):
    x: nano.f64
    n: nano.u32
    heard = nano.reads("noise")
    said = nano.writes("noise", full="drop")
    noise = nano.writes("gossip", full="drop")


class Careful(nano.Kind, capacity=20_000):
    """Its publishers are told whether there was room."""

    x: nano.f64
    n: nano.u32
    said = nano.writes("orders", full="block")
    again = nano.writes("orders2", full="block")


class Listener(nano.Kind, capacity=100):
    total: nano.u64
    heard = nano.reads("gossip")
    said = nano.writes("noise", full="drop")

    def tick(self, now_ns, bus):
        lines = bus.read("gossip")
        self.total = (self.total * 31 + sum(m.row + m.payload[0] for m in lines)) % 2**61
        if bus.random() % 4 == 0:
            bus.publish("noise", bytes([self.row]))
        if bus.random(1) % 40 == 0:
            raise ValueError("as it may happen")
        return nano.Sleep(now_ns + 3_000) if bus.random(2) % 5 == 0 else None


def parted(flock: nano.NanoSwarm) -> nano.NanoSwarm:
    """Have every call be cut, however small."""
    flock._mesh.alone_ns = 0
    flock._mesh.chunk_ns = 1
    return flock


def history(flock: nano.NanoSwarm) -> str:
    """All that is the population's: columns, states, generations, messages, counts and instants."""
    said = hashlib.blake2b()
    for state in flock.kinds.values():
        for field in range(len(state.kind.fields)):
            said.update(memoryview(state.population.column(field)).tobytes())
        for name in ("states", "generations"):
            said.update(bytes(state.population.bookkeeping(name)))
    for topic, number in sorted(flock.topics.items()):
        said.update(repr((topic, flock.bus.counters(number))).encode())
        said.update(bytes(memoryview(flock.bus.inbox(number)).cast("B")))
    for agents in flock.cohorts:
        saved = flock.passes.save_cohort(agents.cohort)
        saved.pop("over")  # measured
        said.update(repr({name: bytes(v) if isinstance(v, bytearray) else v for name, v in saved.items()}).encode())
    said.update(repr((flock.now_ns, flock.passes.made)).encode())
    return said.hexdigest()


def lived(
    ticks: dict[str, int], cores: int, *, topology: bool = False, seed: int = 11, lines: int = 60, size: int = 700
) -> list[str]:
    """The history of a mixed population, run in three stretches, with deaths and births between."""
    mesh = topologies.Mesh(cores, chunk_ns=1, alone_ns=0) if topology else None
    flock = parted(nano.NanoSwarm(seed=seed, topology=mesh, cores=None if topology else cores, topic_lines=lines))
    budget = nano.Budget(1) if topology else None
    talkers = flock.spawn(Talker.native(ticks["lone"]), size, rate_hz=100_000, budget=budget)
    flock.spawn(Walker.native_many(ticks["crowd"]), size + 77, rate_hz=50_000, budget=budget)
    flock.spawn(Careful.native(ticks["lone"]), 400, rate_hz=100_000, budget=budget)
    flock.spawn(
        Talker.native_many(ticks["crowd"]), 300, rate_hz=[1000.0 * (1 + n % 90) for n in range(300)], budget=budget
    )
    flock.spawn(Listener, 12, rate_hz=100_000, budget=budget)
    found = []
    for turn in range(3):
        flock.run_for(passes=23)
        found.append(history(flock))
        talkers.kill(range(turn, len(talkers), 9))
        more = flock.spawn(Talker.native_many(ticks["crowd"]), 130 + turn, rate_hz=100_000, budget=budget)
        found.append(repr(list(more.rows)))
    happened = [flock.passes.statistics(each.cohort) for each in flock.cohorts]
    assert size < 700 or all(sum(each[what] for each in happened) > 9 for what in ("slept", "failed", "done"))
    if cores > 1:
        assert flock.crew is not None and sum(flock.crew.chunks) > 100, "it was cut into parts"
    return found


@pytest.mark.parametrize("topology", [False, True])
def test_the_same_on_any_number_of_cores(ticks, topology):
    alone = lived(ticks, 1, topology=topology)
    for cores in (2, 3, 8):
        assert lived(ticks, cores, topology=topology) == alone
    assert lived(ticks, 1, topology=topology, seed=12) != alone


def test_messages_that_find_no_room_are_the_same_ones(ticks):
    for lines in (1, 7, 5000):
        assert lived(ticks, 3, lines=lines) == lived(ticks, 1, lines=lines)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(2, 9), st.integers(1, 200), st.integers(100, 3000), st.booleans())
def test_any_seed_any_size_any_number(ticks, seed, cores, lines, size, topology):
    wanted = lived(ticks, 1, seed=seed, lines=lines, size=size, topology=topology)
    assert lived(ticks, cores, seed=seed, lines=lines, size=size, topology=topology) == wanted


def test_over_processes_and_their_hash_seeds(ticks, library):
    wanted = lived(ticks, 1)
    code = "import sys; from tests.unit.nano.test_nano_cores import *; print(lived(addresses(Path(sys.argv[1])), int(sys.argv[2])))"
    for cores, hash_seed in ((1, "1"), (2, "2"), (3, "12345"), (8, "0")):
        ran = subprocess.run(
            [sys.executable, "-c", code, str(library), str(cores)], cwd=ROOT, capture_output=True, text=True, timeout=120,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip() == repr(wanted)


def test_saved_on_some_cores_and_continued_on_others(ticks):
    def begun(cores):
        flock = parted(nano.NanoSwarm(seed=3, cores=cores))
        flock.spawn(Talker.native_many(ticks["crowd"]), 900, rate_hz=100_000)
        flock.spawn(Walker.native(ticks["lone"]), 700, rate_hz=70_000)
        flock.run_for(passes=20)
        return flock

    one = begun(1)
    one.run_for(passes=40)
    forms = {"Talker": ticks["crowd"], "Walker": ticks["lone"]}
    for began, cores in ((3, None), (2, 4), (1, 2)):
        again = parted(nano.load(begun(began).save(), ticks=forms, cores=cores))
        assert again.cores == (cores or began)
        again.run_for(passes=40)
        assert history(again) == history(one)
    with pytest.raises(nano.NanoError):
        nano.load(one.save(), ticks=forms, cores=0)


def test_a_whole_kind_is_called_with_all_its_agents(ticks):
    for cores in (1, 4):
        flock = parted(nano.NanoSwarm(cores=cores))
        whole = flock.spawn(Talker.native_many(ticks["mean"], whole=True), 5000, rate_hz=1000)
        whole.x[:] = range(5000)
        flock.spawn(Walker.native_many(ticks["crowd"]), 1000, rate_hz=1000)
        flock.run_for(passes=2)
        assert set(whole.n.tolist()) == {5000}
        assert flock.crew is None or sum(flock.crew.chunks) > 10


def test_writers_to_a_topic_that_blocks_are_told_on_one_thread(ticks):
    counted = []
    for cores in (1, 5):
        flock = parted(nano.NanoSwarm(seed=4, cores=cores, topic_lines=3))
        careful = flock.spawn(Careful.native(ticks["lone"]), 3000, rate_hz=1000)
        flock.run_for(passes=5)
        counters = flock.bus.counters(flock.topics["orders"])
        assert counters[2] > 0, "somebody was blocked"
        counted.append((careful.n.tolist(), counters))
    assert counted[0] == counted[1]


def test_a_small_pass_is_left_to_the_calling_thread(ticks):
    flock = nano.NanoSwarm(cores=4)
    flock.spawn(Talker.native_many(ticks["grind"]), 50, rate_hz=1000)
    flock.run_for(passes=50)
    assert flock.crew is not None and sum(flock.crew.chunks) == 0
    big = flock.spawn(Walker.native_many(ticks["grind"]), 10_000, rate_hz=1000)
    big.n[:] = 50  # far more than 50 µs together
    flock.run_for(passes=5)
    assert sum(flock.crew.chunks) > 20


def test_what_each_thread_measured_is_counted_once(ticks):
    flock = parted(nano.NanoSwarm(cores=3))
    agents = flock.spawn(Talker.native(ticks["lone"]), 2000, rate_hz=1000, budget=nano.Budget(1e9, guard="chained"))
    report = flock.run_for(passes=30)
    line = report.cohorts[0]
    assert sum(n for _, n in line.tick_ns.counts) == line.ticks
    assert line.ticks == line.idle + line.worked + line.slept + line.failed + line.done
    assert 0 < line.busy_ns and line.violations == 0
    assert flock.passes.statistics(agents.cohort)["calls"] >= 30


def test_overruns_act_on_the_rows_that_were_over(ticks):
    flock = parted(nano.NanoSwarm(cores=3, time="real"))
    agents = flock.spawn(
        Talker.native_many(ticks["grind"]), 2000, rate_hz=100, budget=nano.Budget(40, on_overrun="suspend")
    )
    agents.n[:] = [2000 if 512 <= row < 576 else 0 for row in range(2000)]
    flock.run_for(passes=1)
    report = flock.run_for(passes=1)
    over = flock.passes.statistics(0)["over"]
    assert over > 0 and report.cohorts[0].awake + over == 2000


def test_cores_that_contradict_are_refused(ticks):
    for wrong in (0, -1, 1.5, True, 1000):
        with pytest.raises(nano.NanoError):
            nano.NanoSwarm(cores=wrong)
    with pytest.raises(nano.NanoError, match="mesh of 2"):
        nano.NanoSwarm(cores=3, topology=nano.Mesh(2))
    assert nano.NanoSwarm(topology=nano.Mesh(2)).cores == 2
    assert nano.NanoSwarm(cores=3, topology=nano.Mesh()).cores == 3
    assert nano.NanoSwarm().cores == 1
    with pytest.raises(nano.NanoError):
        nano.NanoSwarm(capacity=0)


def test_cores_are_set_between_two_runs(ticks):
    flock = parted(nano.NanoSwarm(seed=5))
    flock.spawn(Talker.native_many(ticks["crowd"]), 900, rate_hz=1000)
    other = nano.NanoSwarm(seed=5)
    other.spawn(Talker.native_many(ticks["crowd"]), 900, rate_hz=1000)
    for cores in (3, 1, 2):
        flock.cores = cores
        flock.run_for(passes=4)
        other.run_for(passes=4)
        assert history(flock) == history(other)


def test_who_is_due_in_a_pass_costs_by_capacity_and_not_by_cores(ticks):
    done = []
    for cores, capacity in ((1, None), (4, None), (1, 2.0), (3, 2.0)):
        flock = nano.NanoSwarm(topology=nano.RoundRobin(), cores=cores, capacity=capacity)
        flock.spawn(Talker.native_many(ticks["grind"]), 3000, rate_hz=1000, budget=nano.Budget(1000))
        done.append(flock.run_for(seconds=0.05).ticks)
    assert done[0] == done[1] == pytest.approx(50_000, abs=1000)
    assert done[2] == done[3] == pytest.approx(100_000, abs=1000)


def test_who_failed_and_who_ended_is_told_in_the_order_of_rows(ticks):
    told = []
    for cores in (1, 4):
        flock = parted(nano.NanoSwarm(seed=6, cores=cores))
        flock.spawn(Talker.native(ticks["lone"]), 3000, rate_hz=1000)
        flock.spawn(Walker.native_many(ticks["crowd"]), 3000, rate_hz=1000)
        seen = []
        take = flock.passes.take_events
        flock.passes = Told(flock.passes, lambda take=take, seen=seen: seen.append(take()) or seen[-1])
        flock.run_for(passes=1)
        told.append([event for events in seen for event in events])
    assert told[0] == told[1]
    assert len(told[0]) > 10
    for cohort in (0, 1):
        rows = [row for number, row, *_ in told[0] if number == cohort]
        assert rows == sorted(rows)


class Told:
    """Passes, whose events are listened to."""

    def __init__(self, passes, take_events):
        self._passes, self.take_events = passes, take_events

    def __getattr__(self, name):
        return getattr(self._passes, name)


def test_more_cohorts_than_are_opened_at_once(ticks):
    found = []
    for cores in (1, 3):
        flock = parted(nano.NanoSwarm(seed=8, cores=cores, topic_lines=500))
        for number in range(300):
            flock.spawn(Talker.native_many(ticks["crowd"]), 5 + number % 7, rate_hz=1000 * (1 + number % 2))
        flock.run_for(passes=9)
        found.append(history(flock))
    assert found[0] == found[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_of_fork_goes_on_alone(ticks):
    flock = parted(nano.NanoSwarm(seed=8, cores=3))
    flock.spawn(Talker.native_many(ticks["crowd"]), 2000, rate_hz=1000)
    flock.run_for(passes=3)
    came, went = os.pipe()
    child = os.fork()
    if child == 0:
        flock.run_for(passes=3)
        os.write(went, history(flock).encode())
        os._exit(0)
    os.close(went)
    flock.run_for(passes=3)
    with os.fdopen(came) as answer:
        assert answer.read() == history(flock)
    assert os.waitpid(child, 0)[1] == 0


def test_a_tick_that_is_python_after_all_takes_the_lock_on_whatever_thread(ticks):
    ran = []

    @ctypes.CFUNCTYPE(
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_uint64,
        ctypes.c_void_p,
    )
    def tick(columns, idx, n, now_ns, ctx):
        ran.append(n)
        x = (ctypes.c_double * n).from_address(columns[0])
        for i in range(n):
            x[i] += 1.0
        return 1

    flock = parted(nano.NanoSwarm(cores=3))
    agents = flock.spawn(Talker.native_many(tick), 1000, rate_hz=1000)
    flock.run_for(passes=10)
    assert set(agents.x.tolist()) == {10.0}
    assert sum(ran) == 10_000 and len(ran) > 50
