"""A crew runs every chunk once; what comes out does not depend on how many threads there are; no race is seen."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sanitized import HERE, KERNELS, build, clean

from kernels.crew import THREADS_MAX, Crew, Plan, cores, deal
from kernels.reference import crew as reference
from kernels.reference.draws import uniform_at


@pytest.fixture(scope="module")
def ticks(tmp_path_factory):
    """Addresses of the ticks of crew_ticks.c."""
    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc")
    if compiler is None:
        if os.environ.get("CI"):
            pytest.fail("no C compiler")
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("ticks") / "ticks.so"
    flags = ["-std=c11", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{KERNELS}"]
    subprocess.run([compiler, *flags, str(HERE / "crew_ticks.c"), "-o", str(library)], check=True, timeout=100)
    loaded = ctypes.CDLL(str(library))
    return {name: ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value for name in ("walk", "count")}


@pytest.fixture
def crew():
    made = []

    def make(*args, **kwargs):
        made.append(Crew(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


def world(ticks, rows=5_000):
    """Two kinds, of which one publishes, and their columns."""
    columns = [array("d", [i / rows for i in range(rows)]), array("I", [0] * rows), array("Q", [0] * 700)]
    plan = Plan(seed=11, lines=40)
    plan.add(ticks["walk"], columns[:2], 0, rows, kind=3, topics=(9, 4), rows=97)
    plan.add(ticks["count"], columns[2:], 100, 700, kind=5, rows=50, cost=9)
    return columns, plan


def walked(columns, plan, passes):
    """The same by the reference: in Python, row by row."""
    x, steps, counts = (list(column) for column in columns)

    def walk(first, last, ctx):
        for row in range(first, last):
            x[row] = x[row] * 0.9 + uniform_at(ctx.seed, ctx.kind, row, ctx.number) - 0.5
            steps[row] += 1
            for again in range(1 + row % 2):
                if x[row] > 0.4:
                    ctx.publish(row % 3, row, struct.pack("<dd", x[row], float(again)))

    def count(first, last, ctx):
        for row in range(first, last):
            counts[row] += 1

    twin = reference.Plan(plan.seed, plan.lines_max)
    twin.add(walk, 0, len(x), 3, (9, 4), 97)
    twin.add(count, 100, 700, 5, (), 50)
    lines, refused = [], 0
    for number in range(passes):
        twin.run(number * 10, number)
        lines += [struct.pack("<HHI", topic, kind, row) + payload for topic, kind, row, payload in twin.lines]
        refused += twin.refused
    return (x, steps, counts), b"".join(lines), refused


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_what_comes_out_is_the_references_whatever_the_number_of_threads(ticks, crew, threads):
    columns, plan = world(ticks)
    wanted, wanted_lines, wanted_refused = walked(columns, plan, 4)
    one = crew(threads)
    lines, refused = b"", 0
    for number in range(4):
        one.tick(plan, number * 10, number)
        lines += plan.messages()
        refused += plan.refused
    assert [list(column) for column in columns] == list(wanted)
    assert lines == wanted_lines
    assert refused == wanted_refused > 0
    assert len(lines) > 64 * 500
    kinds_rows = [struct.unpack_from("<HI", plan.messages(), at + 2) for at in range(0, len(plan.messages()), 64)]
    assert kinds_rows == sorted(kinds_rows)
    chunks = plan.outcomes_of()
    assert [(kind, first, n) for kind, first, n, _ in chunks] == [
        *((3, first, last - first) for first, last in reference.cut(0, 5_000, 97)),
        *((5, first, last - first) for first, last in reference.cut(100, 700, 50)),
    ]
    assert [outcome for *_, outcome in chunks] == [5] * 52 + [1] * 12
    assert sum(one.chunks) == 4 * 64
    assert sum(one.busy_ns) >= sum(ns for _, ns in plan.ran()) > 0
    assert {thread for thread, _ in plan.ran()} <= set(range(threads))


COSTS = st.lists(st.integers(0, 10**6) | st.just(2**64 - 1), min_size=1, max_size=80)


@settings(max_examples=200, deadline=None)
@given(COSTS, st.integers(1, 40))
def test_chunks_are_dealt_out_as_the_reference_does(costs, threads):
    dealt = deal(costs, threads)
    assert dealt == reference.deal(costs, threads)
    assert dealt == sorted(dealt), "each thread gets neighbours"
    assert 0 <= dealt[0]
    assert dealt[-1] < threads
    if max(costs) < 2**40:  # no part is larger than an even one and a chunk
        total = sum(cost + 1 for cost in costs)
        for thread in range(threads):
            part = sum(cost + 1 for cost, to in zip(costs, dealt) if to == thread)
            assert part <= total / threads + max(costs) + 1 + 1e-6 * total


def test_a_pass_with_more_threads_than_chunks_and_one_without_chunks(ticks, crew):
    counts = array("Q", [0] * 10)
    one = crew(5, spin_ns=0)
    plan = Plan()
    plan.add(ticks["count"], [counts], 3, 5, rows=1)
    for _ in range(100):
        one.tick(plan)
    assert list(counts) == [0, 0, 0, 100, 100, 0, 0, 0, 0, 0]
    empty = Plan()
    empty.add(ticks["count"], [counts], 5, 5)
    one.tick(empty)
    one.tick(Plan())
    assert empty.outcomes_of() == []
    assert empty.messages() == b""


def test_members_come_and_steal(crew):
    """Two chunks that wait for one another run on two threads, though both were dealt to the caller."""
    met = threading.Barrier(2)

    @ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 2, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p)
    def meet(cols, idx, n, now_ns, ctx):
        met.wait(60)
        return 1

    @ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 2, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p)
    def nothing(cols, idx, n, now_ns, ctx):
        return 0

    one = crew(2)
    column = array("Q", [0] * 100)
    plan = Plan()
    plan.add(ctypes.cast(meet, ctypes.c_void_p).value, [column], 0, 2, rows=1)
    plan.add(ctypes.cast(nothing, ctypes.c_void_p).value, [column], 0, 1, cost=100)
    assert deal([1, 1, 100], 2)[:2] == [0, 0]
    one.tick(plan)
    assert not met.broken
    (first, _), (second, _), _ = plan.ran()
    assert {first, second} == {0, 1}
    assert sum(one.steals) >= 1


def test_after_close_the_caller_runs_alone(ticks, crew):
    counts = array("Q", [0] * 1_000)
    plan = Plan()
    plan.add(ticks["count"], [counts], 0, 1_000, rows=10)
    one = crew(4)
    assert one.threads == 4
    one.close()
    one.close()
    assert one.threads == 1
    one.tick(plan)
    assert list(counts) == [1] * 1_000
    assert {thread for thread, _ in plan.ran()} == {0}


FORK = """
import os, signal, sys
from array import array
from kernels.crew import Crew, Plan
crew = Crew(3)
counts = array("Q", [0] * 100)
plan = Plan()
import ctypes
tick = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 2, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p)(
    lambda cols, idx, n, now, ctx: 1)
plan.add(ctypes.cast(tick, ctypes.c_void_p).value, [counts], 0, 100, rows=10)
crew.tick(plan)
child = os.fork()
if child == 0:
    signal.alarm(60)
    crew.tick(plan)
    crew.close()
    del crew
    os._exit(0 if all(outcome == 1 for *_, outcome in plan.outcomes_of()) else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_of_fork_has_no_threads_and_does_not_wait_for_them():
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], timeout=100, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_a_process_ends_though_its_crew_was_not_closed():
    code = "from kernels.crew import Crew; crew = Crew(3, spin_ns=10**9); print(crew.threads)"
    ran = subprocess.run([sys.executable, "-c", code], timeout=100, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "3\n"), ran.stderr


def test_what_does_not_fit_is_refused(ticks):
    counts = array("Q", [0] * 10)
    for threads in (0, -1, THREADS_MAX + 1):
        with pytest.raises(ValueError, match="threads"):
            Crew(threads)
    with pytest.raises(ValueError, match="cpus"):
        Crew(2, cpus=[0])
    with pytest.raises(ValueError, match="spin_ns"):
        Crew(1, spin_ns=-1)
    with pytest.raises(ValueError, match="address 0"):
        Plan().add(0, [counts], 0, 10)
    with pytest.raises(OverflowError):
        Plan().add(-5, [counts], 0, 10)
    for column in (array("Q", [0] * 9), bytes(800), memoryview(counts)[::2]):
        with pytest.raises(ValueError, match="column"):
            Plan().add(ticks["count"], [column], 0, 10)
    for wrong in ({"kind": 65536}, {"topics": [-1]}, {"topics": [65536]}, {"rows": 0}):
        with pytest.raises(ValueError):
            Plan().add(ticks["count"], [counts], 0, 10, **wrong)
    with pytest.raises(ValueError, match="rows 5 to 4"):
        Plan().add(ticks["count"], [counts], 5, 4)
    with pytest.raises(ValueError, match="lines"):
        Plan(lines=1 << 25)
    with pytest.raises(ValueError, match="no threads"):
        deal([1], 0)


def test_a_plan_holds_its_buffers_and_is_closed_by_running(ticks, crew):
    counts = bytearray(80)
    column = memoryview(counts).cast("Q")
    plan = Plan()
    plan.add(ticks["count"], [column], 0, 10)
    one = crew(1)
    one.tick(plan)
    with pytest.raises(BufferError):
        counts.extend(b"more")
    with pytest.raises(ValueError, match="run already"):
        plan.add(ticks["count"], [column], 0, 10)
    shrinking = array("Q", [0] * 10)
    late = Plan()
    late.add(ticks["count"], [shrinking], 0, 10)
    del shrinking[5:]
    with pytest.raises(ValueError, match="shorter"):
        one.tick(late)


def test_processors_that_are_not_there_do_not_hurt(ticks, crew):
    """Pinning is a wish: what the system refuses is left where it is."""
    counts = array("Q", [0] * 100)
    plan = Plan()
    plan.add(ticks["count"], [counts], 0, 100, rows=1)
    one = crew(3, cpus=[-1, 0, 900], nodes=[0, 0, 1])
    one.tick(plan)
    assert list(counts) == [1] * 100
    assert cores() >= 1


def test_no_race_is_seen_by_the_thread_sanitizer(tmp_path):
    program = build("crew_tsan.c", tmp_path)
    for arguments in (("2", "0"), ("4", "0"), ("3", "3000000")):
        assert re.fullmatch(r"\d+ chunks, \d+ stolen, 0 failures\n", clean(program, *arguments))
