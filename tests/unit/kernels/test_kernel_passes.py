"""Passes against the readable reference: who is called when, in which order, and what follows from what they return."""

from __future__ import annotations

import ctypes
import itertools
import time
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.passes import (
    DONE_EVENT,
    ENOUGH,
    FAILED_EVENT,
    KILLED_EVENT,
    LOOK,
    MANY,
    NEVER,
    ONE,
    OPEN,
    PYTHON,
    PYTHON_DUE,
    REACHED,
    TICKS,
    Passes,
)  # fmt: skip
from kernels.population import Population
from kernels.reference import passes as reference
from kernels.ticks import Calibration
from kernels.topics import Bus

TickMany = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32), ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p
)
TickOne = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p)
EACH = 5


def run(passes: Passes, until_ns: int, most: int = NEVER) -> int:
    """`Passes.run`, gone on with when it returned for signals to be seen, as it does where all is slow; so many passes in all."""
    end = passes.made + most
    while (why := passes.run(until_ns, end - passes.made)) == LOOK:
        pass
    return why


class Ctx(ctypes.Structure):
    """nano_ctx of nano.h."""

    _fields_ = [
        ("abi", ctypes.c_uint32), ("kind", ctypes.c_uint32), ("pass_", ctypes.c_uint64), ("seed", ctypes.c_uint64),
        ("now_ns", ctypes.c_uint64), ("first", ctypes.c_uint32), ("topics", ctypes.c_uint32),
        ("inbox", ctypes.POINTER(ctypes.c_void_p)), ("inbox_count", ctypes.POINTER(ctypes.c_uint64)),
        ("outcomes", ctypes.POINTER(ctypes.c_uint8)), ("wake_ns", ctypes.POINTER(ctypes.c_uint64)),
    ]  # fmt: skip


class Recorded:
    """Native ticks (of both forms) that note what they are called with, and do as a function of (cohort, row, now) says."""

    def __init__(self, tick: reference.Tick) -> None:
        self.tick = tick
        self.calls: list[tuple[int, int, tuple[int, ...]]] = []
        self.passes: list[int] = []
        self.kept: list[object] = []

    def many(self, cohort: int) -> int:
        def tick_many(cols: int, idx: object, n: int, now: int, ctx_at: int) -> int:
            ctx = Ctx.from_address(ctx_at)
            rows = [idx[i] for i in range(n)] if idx else list(range(ctx.first, ctx.first + n))  # type: ignore[index]
            self.calls.append((now, cohort, tuple(rows)))
            assert (ctx.abi, ctx.now_ns) == (1, now)
            self.passes.append(ctx.pass_)
            results = [self.tick(cohort, row, now) for row in rows]
            if all(result == results[0] for result in results):
                for i in range(n):
                    ctx.wake_ns[i] = results[0][1]
                return results[0][0]
            for i, (outcome, wake) in enumerate(results):
                ctx.outcomes[i], ctx.wake_ns[i] = outcome, wake
            return EACH

        return self._address(TickMany(tick_many))

    def one(self, cohort: int) -> int:
        def tick(cols: int, row: int, now: int, ctx_at: int) -> int:
            ctx = Ctx.from_address(ctx_at)
            if self.calls and self.calls[-1][:2] == (now, cohort) and row > self.calls[-1][2][-1]:
                self.calls[-1] = (now, cohort, (*self.calls[-1][2], row))
            else:
                self.calls.append((now, cohort, (row,)))
            outcome, wake = self.tick(cohort, row, now)
            ctx.wake_ns[0] = wake
            return outcome

        return self._address(TickOne(tick))

    def _address(self, function: object) -> int:
        self.kept.append(function)
        return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


def scripted(seed: int) -> reference.Tick:
    """Outcomes that look random, and are the same for the same (cohort, row, now)."""

    def tick(cohort: int, row: int, now: int) -> tuple[int, int]:
        mixed = (seed * 1_000_003 + cohort * 7919 + row * 104_729 + now * 15_485_863) & 0xFFFFFFFF
        mixed = (mixed ^ (mixed >> 15)) * 0x2C1B3C6D & 0xFFFFFFFF
        mixed ^= mixed >> 12
        kind = mixed % 41
        if kind < 5:
            return reference.SLEEP, now + (mixed >> 8) % 40
        if kind == 5:
            return reference.FAILED, 0
        if kind == 6:
            return reference.DONE, 0
        if kind == 7:
            return 77, 0
        return (reference.IDLE if kind < 15 else reference.WORKED), 0

    return tick


cohorts = st.lists(
    st.tuples(
        st.sampled_from([MANY, ONE]), st.integers(0, 1), st.integers(1, 9),
        st.one_of(st.integers(0, 12), st.lists(st.integers(1, 20), min_size=9, max_size=9)),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 3]), cohorts, st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_as_the_reference(seed, resolution, wanted, steps):
    tick = scripted(seed)
    ticks = Recorded(tick)
    ours = Passes(seed, resolution)
    theirs = reference.Passes(tick, resolution)
    populations = [Population(64, [("x", "d")]) for _ in range(2)]
    kinds = [ours.add_kind(population) for population in populations]
    for number, (form, kind, count, rate) in enumerate(wanted):
        rows = populations[kind].claim(count)
        address = ticks.many(number) if form == MANY else ticks.one(number)
        if isinstance(rate, list):
            own = array("Q", rate[:count])
            assert ours.add_cohort(kinds[kind], rows, form, address, periods_ns=own) == number
            theirs.add(kind, list(rows), periods=list(own))
        else:
            assert ours.add_cohort(kinds[kind], rows, form, address, period_ns=rate) == number
            theirs.add(kind, list(rows), rate)
    events = []
    for until in itertools.accumulate(steps):
        assert run(ours, until) == REACHED
        theirs.run(until)
        events += ours.take_events()
        assert ours.now_ns == theirs.now
    assert ticks.calls == theirs.calls
    assert ours.made == theirs.made
    assert events == theirs.events
    for number, it in enumerate(theirs.cohorts):
        said = ours.statistics(number)
        assert said["ticks"] == it.ticks == sum(said[name] for name in ("idle", "worked", "slept", "failed", "done"))
        assert said["awake"] == len(it.awake)
    ended = [sum(what == DONE_EVENT and wanted[cohort][1] == kind for cohort, _, _, what in events) for kind in (0, 1)]
    for kind, population in enumerate(populations):
        assert population.alive == sum(count for _, k, count, _ in wanted if k == kind) - ended[kind]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 1000), st.integers(1, 9), st.integers(1, 12), st.booleans(),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 20)), min_size=1, max_size=4),
)  # fmt: skip
def test_a_lone_batch_is_ticked_as_if_there_were_others(seed, count, period, calm, steps):
    """Its passes are made one right after the other, up to an instant or a number of them; who is traced is not alone."""
    tick = (lambda cohort, row, now: ((now // 7 + row) % 2, 0)) if calm else scripted(seed)
    runs = []
    for traced in (False, True):
        ticks, passes = Recorded(tick), Passes(seed, 1)
        population = Population(64, [("x", "d")])
        kind = passes.add_kind(population)
        passes.add_cohort(kind, population.claim(count), MANY, ticks.many(0), period_ns=period)
        if traced:
            passes.trace(spans=8)
        found = []
        until = 0
        for ahead, most in steps:
            until += ahead
            why = run(passes, until, most)
            said = passes.statistics(0)
            del said["busy"]
            noted = sum(n for _, n in passes.durations(0))
            found.append((why, passes.now_ns, passes.made, passes.next_ns, said, noted, passes.take_events()))
        runs.append((found, ticks.calls, ticks.passes))
        assert passes.lonely == 0 if traced else passes.lonely >= passes.made // 2 if calm else True
    assert runs[0] == runs[1]
    assert noted == said["ticks"]


def test_a_lone_batch_is_measured_in_each_pass_and_counted_against_its_budget():
    for agents in (3, 1000):
        passes, population = Passes(0, 1), Population(agents, [("x", "d"), ("v", "d")])
        kind = passes.add_kind(population)
        passes.add_cohort(kind, population.claim(agents), MANY, TICKS["move_many"], period_ns=5, budget=10**9)
        for row in range(agents):
            memoryview(population.column(1)).cast("B").cast("d")[row] = float(row)
        assert run(passes, NEVER, 1000) == ENOUGH
        said = passes.statistics(0)
        assert (said["calls"], said["ticks"], said["worked"], said["over"]) == (1000, 1000 * agents, 1000 * agents, 0)
        assert sum(count for _, count in passes.durations(0)) == 1000 * agents
        assert passes.lonely == passes.made == 1000
        x, moved = memoryview(population.column(0)).cast("B").cast("d"), 0.0
        for _ in range(1000):
            moved += float(agents - 1) * 1e-3
        assert x[agents - 1] == moved
        passes.set_budget(0, 1)
        ticks = said["ticks"]
        run(passes, NEVER, 10)
        assert passes.statistics(0)["ticks"] == ticks + 10 * agents
        assert passes.statistics(0)["over"] % agents == 0


def test_who_takes_too_long_is_counted_in_the_pass_in_which_it_does():
    passes, population = Passes(0, 1), Population(8, [("x", "d")])
    kind = passes.add_kind(population)
    slow = Recorded(lambda cohort, row, now: (now == 3 and time.sleep(0.15), (1, 0))[1])
    budget = passes.clock.of_ns(100_000_000)
    passes.add_cohort(kind, population.claim(2), MANY, slow.many(0), period_ns=1, budget=budget)
    run(passes, 8)
    assert (passes.statistics(0)["over"], passes.lonely) == (2, 8)


def test_a_lone_batch_comes_to_the_end_of_time():
    passes, population = Passes(0, 1), Population(8, [("x", "d")])
    kind = passes.add_kind(population)
    passes.add_cohort(kind, population.claim(2), MANY, TICKS["nothing_many"], period_ns=2**62)
    assert run(passes, NEVER, 100) == ENOUGH
    assert passes.statistics(0)["calls"] == passes.made < 100
    assert passes.next_ns == NEVER


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), cohorts, st.integers(1, 60), st.integers(1, 60))
def test_saved_and_restored_it_goes_on_as_if_nothing_had_been(seed, wanted, first, then):
    tick = scripted(seed)
    runs = []
    for saved in (False, True):
        ticks = Recorded(tick)
        passes, populations = _built(Passes(seed, 1), ticks, wanted)
        run(passes, first)
        passes.take_events()
        if saved:
            kept = [passes.save_cohort(number) for number in range(len(wanted))]
            again = Passes(seed, 1)
            copies = []
            for population in populations:
                copy = Population(64, [("x", "d")])
                copy.restore(population.bookkeeping("states"), population.bookkeeping("generations"))
                copies.append(copy)
            for copy in copies:
                again.add_kind(copy)
            again.restore(passes.now_ns, passes.made)
            for number, (form, kind, _, rate) in enumerate(wanted):
                rows = array("I", kept[number]["rows"])
                own = array("Q", kept[number]["periods"]) if isinstance(rate, list) else None
                if own is not None and not own:
                    own = None
                address = ticks.many(number) if form == MANY else ticks.one(number)
                again.add_cohort(
                    kind, rows, form, address, periods_ns=own, period_ns=0 if own else kept[number]["period"]
                )
                again.restore_cohort(number, kept[number])
            passes = again
        run(passes, first + then)
        runs.append((ticks.calls, passes.made, [passes.statistics(n)["ticks"] for n in range(len(wanted))]))
    assert runs[0] == runs[1]


def _built(passes, ticks, wanted):
    populations = [Population(64, [("x", "d")]) for _ in range(2)]
    for population in populations:
        passes.add_kind(population)
    for number, (form, kind, count, rate) in enumerate(wanted):
        rows = populations[kind].claim(count)
        address = ticks.many(number) if form == MANY else ticks.one(number)
        own = array("Q", rate[:count]) if isinstance(rate, list) else None
        passes.add_cohort(kind, rows, form, address, periods_ns=own, period_ns=0 if own else rate)
    return passes, populations


def test_a_pass_waits_for_pythons_part_of_it():
    passes = Passes(0, 1)
    population = Population(8, [("x", "d")])
    kind = passes.add_kind(population)
    passes.add_cohort(kind, population.claim(3), PYTHON, period_ns=10)
    assert run(passes, 100) == PYTHON_DUE
    assert passes.due == [0]
    assert list(passes.rows_due(0)) == [0, 1, 2]
    with pytest.raises(RuntimeError):
        run(passes, 100)
    passes.settle(0, [(1, 2, 25)])
    passes.finish()
    with pytest.raises(RuntimeError):
        passes.finish()
    assert run(passes, 100) == PYTHON_DUE
    assert (passes.now_ns, list(passes.rows_due(0))) == (10, [0, 2])
    passes.settle(0, [])
    passes.finish()
    run(passes, 100)
    passes.settle(0, [(0, 4, 0)])
    passes.finish()
    assert passes.take_events() == [(0, 0, 20, DONE_EVENT)]
    assert population.state(0) == 0
    run(passes, 100)
    assert (passes.now_ns, list(passes.rows_due(0))) == (25, [1]), "it slept until then, and is called by itself"
    passes.settle(0, [])
    passes.finish()
    run(passes, 100)
    assert (passes.now_ns, list(passes.rows_due(0))) == (30, [1, 2]), "and goes on with the others"


def test_outcomes_of_pythons_agents_are_checked():
    passes = Passes(0, 1)
    population = Population(8, [("x", "d")])
    passes.add_cohort(passes.add_kind(population), population.claim(3), PYTHON, period_ns=10)
    run(passes, 100)
    for wrong in ([(3, 2, 0)], [(-1, 2, 0)], [(1, 2, 0), (1, 2, 0)], [(0, 1, 0)]):
        with pytest.raises(ValueError, match="no outcome"):
            passes.settle(0, wrong)
    passes.settle(0, [], idle=2)
    assert passes.statistics(0)["idle"] == 2


def test_messages_of_one_pass_are_read_in_the_next():
    seen = []

    def reader(cols: int, idx: object, n: int, now: int, ctx_at: int) -> int:
        ctx = Ctx.from_address(ctx_at)
        lines = ctypes.string_at(ctx.inbox[0], 64 * ctx.inbox_count[0]) if ctx.inbox_count[0] else b""
        seen.append((now, [int.from_bytes(lines[at + 4 : at + 8], "little") for at in range(0, len(lines), 64)]))
        return 1

    function = TickMany(reader)
    bus = Bus()
    topic = bus.add(8)
    passes = Passes(0, 1, bus)
    population = Population(8, [("x", "d")])
    kind = passes.add_kind(population)
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    passes.add_cohort(kind, population.claim(1), MANY, address, period_ns=10, reads=[topic])
    bus.publish(topic, kind, 5, b"a")
    run(passes, 11)
    assert seen == [(0, []), (10, [5])]
    run(passes, 21)
    assert seen[-1] == (20, []), "a message is read once"
    with pytest.raises(IndexError):
        passes.add_cohort(kind, population.claim(1), MANY, address, period_ns=10, reads=[topic + 1])


def test_agents_are_suspended_resumed_and_removed_wherever_they_wait():
    ticks = Recorded(lambda cohort, row, now: (reference.SLEEP, now + 50) if row == 1 else (reference.WORKED, 0))
    passes = Passes(0, 1)
    population = Population(8, [("x", "d")])
    kind = passes.add_kind(population)
    passes.add_cohort(kind, population.claim(4), MANY, ticks.many(0), period_ns=10)
    run(passes, 1)
    passes.suspend(kind, [2])
    passes.remove(kind, [1, 3, 3])
    run(passes, 15)
    assert ticks.calls[-1] == (10, 0, (0,))
    assert [population.state(row) for row in range(4)] == [1, 0, 3, 0]
    passes.resume(kind, [2, 3], 17)
    run(passes, 100)
    assert ticks.calls[2:5] == [(17, 0, (2,)), (20, 0, (0, 2)), (30, 0, (0, 2))]
    assert passes.cohort_of(kind, 2) == 0
    with pytest.raises(IndexError):
        passes.cohort_of(kind, 1)


def test_without_anything_due_time_is_not_passed():
    passes = Passes(0, 1)
    assert run(passes, NEVER) == ENOUGH
    assert passes.now_ns == 0
    assert run(passes, 50) == REACHED
    assert passes.now_ns == 50


def test_so_many_passes_and_no_more():
    ticks = Recorded(lambda cohort, row, now: (1, 0))
    passes = Passes(0, 1)
    population = Population(8, [("x", "d")])
    passes.add_cohort(passes.add_kind(population), population.claim(2), MANY, ticks.many(0), period_ns=10)
    assert run(passes, NEVER, 3) == ENOUGH
    assert (passes.made, len(ticks.calls), ticks.passes) == (3, 3, [0, 1, 2])


@pytest.mark.parametrize("counter", [True, False])
def test_durations_are_counted_by_the_clock_that_is_trusted(counter):
    clock = Calibration(counter=counter)
    passes = Passes(0, 1, clock=clock)
    population = Population(8, [("x", "d")])
    kind = passes.add_kind(population)

    def slow(cohort, row, now):
        time.sleep(0.002)
        return 1, 0

    ticks = Recorded(slow)
    passes.add_cohort(kind, population.claim(2), ONE, ticks.one(0), period_ns=1, sampling=1)
    before = time.perf_counter_ns()
    run(passes, NEVER, 1)
    took = time.perf_counter_ns() - before
    found = passes.durations(0)
    assert sum(count for _, count in found) == 2
    for ticks_, _ in found:
        assert 1_900_000 < clock.duration_ns(ticks_) < 1.02 * took, "counted within one percent"
    assert 3_900_000 < clock.duration_ns(passes.statistics(0)["busy"]) < took


@pytest.mark.parametrize("agents", [3, 10, 200, 5000])
def test_one_of_so_many_is_measured_however_many_a_call_has(agents):
    passes = Passes(7, 1)
    population = Population(agents, [("x", "d"), ("v", "d")])
    kind = passes.add_kind(population)
    passes.add_cohort(kind, population.claim(agents), ONE, TICKS["move"], period_ns=1, sampling=64)
    run(passes, NEVER, 200_000 // agents)
    measured = sum(count for _, count in passes.durations(0))
    assert measured == pytest.approx(passes.statistics(0)["ticks"] / 64, rel=0.1)


def test_overruns_are_counted_and_act_in_real_time_only():
    for real in (False, True):
        passes = Passes(0, 1000, None, real)
        population = Population(8, [("x", "d")])
        kind = passes.add_kind(population)
        ticks = Recorded(lambda cohort, row, now: (1, 0))
        passes.add_cohort(
            kind, population.claim(4), ONE, ticks.one(0), period_ns=1000, budget=1, sampling=1, on_overrun=1
        )
        run(passes, NEVER, 1)
        assert passes.statistics(0)["over"] == 4, "a callback of Python takes longer than one tick of a counter"
        assert passes.statistics(0)["awake"] == (0 if real else 4)
        assert [what for *_, what in passes.take_events()] == ([17] * 4 if real else [])
        run(passes, NEVER, 1)
        assert passes.statistics(0)["ticks"] == (4 if real else 8)


def test_who_fails_and_is_over_budget_leaves_once():
    passes = Passes(0, 1000, None, True)
    population = Population(8, [("x", "d")])
    kind = passes.add_kind(population)
    outcomes = {0: 1, 1: reference.FAILED, 2: reference.DONE, 3: 1}
    ticks = Recorded(lambda cohort, row, now: (outcomes[row], 0))
    passes.add_cohort(kind, population.claim(4), ONE, ticks.one(0), period_ns=1000, budget=1, sampling=1, on_overrun=1)
    run(passes, NEVER, 1)
    assert [(row, what) for _, row, _, what in passes.take_events()] == [(0, 17), (1, 17), (2, DONE_EVENT), (3, 17)]
    assert population.alive == 3


def test_what_is_wrong_adds_nothing():
    passes = Passes(0, 1)
    population = Population(8, [("x", "d")])
    kind = passes.add_kind(population)
    rows = population.claim(4)
    for wrong in (
        {"form": MANY, "address": 0}, {"form": 9, "address": 1}, {"form": PYTHON, "periods_ns": array("Q", [1])},
        {"form": PYTHON, "reads": [0]},
    ):  # fmt: skip
        form, address = wrong.pop("form"), wrong.pop("address", 0)
        with pytest.raises(ValueError):
            passes.add_cohort(kind, rows, form, address, **wrong)
    with pytest.raises(ValueError, match="ascend"):
        passes.add_cohort(kind, [2, 1], PYTHON)
    with pytest.raises(IndexError):
        passes.add_cohort(kind + 1, rows, PYTHON)
    with pytest.raises(IndexError):
        passes.statistics(0)
    with pytest.raises(ValueError):
        Passes(0, 0)
    assert passes.add_cohort(kind, rows, PYTHON, period_ns=5) == 0
    assert FAILED_EVENT == 3


def granted(passes, until, share, cut):
    """Passes in which everybody gets a turn, in pieces; `cut(n)` says how large the next is."""
    while (why := passes.step(until)) == OPEN:
        for cohort, woken, agents, since in passes.owed():
            assert 0 <= since <= passes.now_ns
            left = share(agents)
            while left:
                piece = min(left, cut(left))
                passes.grant(cohort, woken, piece)
                left -= piece
        passes.room(until)
        passes.finish()
    return why


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1000), cohorts, st.integers(1, 120), st.integers(1, 7))
def test_when_everybody_gets_a_turn_the_order_changes_nothing(seed, wanted, until, piece):
    tick = scripted(seed)
    plain, pieces = Recorded(tick), Recorded(tick)
    first, populations = _built(Passes(seed, 1), plain, wanted)
    assert run(first, until) == REACHED
    second = Passes(seed, 1)
    second.order()
    second, others = _built(second, pieces, wanted)
    assert granted(second, until, lambda n: n, lambda n: piece) == REACHED
    assert ticked(plain.calls) == ticked(pieces.calls)
    assert sorted(first.take_events()) == sorted(second.take_events())
    assert first.made == second.made
    for ours, theirs in zip(populations, others, strict=True):
        assert bytes(memoryview(ours.bookkeeping("states"))) == bytes(memoryview(theirs.bookkeeping("states")))
    for number in range(len(wanted)):
        assert first.statistics(number)["awake"] == second.statistics(number)["awake"]


def ticked(calls):
    """Who was ticked when, whatever the order inside a pass."""
    return sorted((now, cohort, row) for now, cohort, rows in calls for row in rows)


def test_turns_go_round_when_not_everybody_gets_one():
    ticks = Recorded(lambda cohort, row, now: (1, 0))
    passes = Passes(0, 1)
    passes.order()
    population = Population(8, [("x", "d")])
    kind = passes.add_kind(population)
    passes.add_cohort(kind, population.claim(5), MANY, ticks.many(0), period_ns=10)
    granted(passes, 51, lambda n: min(n, 3), lambda n: n)
    rows = [(now, rows) for now, _, rows in ticks.calls]
    assert rows == [
        (0, (0, 1, 2)), (10, (3, 4)), (10, (0,)), (20, (1, 2, 3)), (30, (4,)), (30, (0, 1)), (40, (2, 3, 4)), (50, (0, 1, 2)),
    ]  # fmt: skip
    said = passes.statistics(0)
    assert said["ticks"] == 18
    assert said["missed"] == 2 * 5, "who still waited when the next instant came has lost a turn"


def test_who_is_still_owed_a_turn_has_it_where_there_is_room():
    ticks = Recorded(lambda cohort, row, now: (1, 0))
    passes = Passes(0, 1)
    passes.order()
    population = Population(8, [("x", "d")])
    kind = passes.add_kind(population)
    passes.add_cohort(kind, population.claim(2), MANY, ticks.many(0), period_ns=100)
    assert passes.step(50) == OPEN
    assert passes.owed() == [(0, False, 2, 0)]
    passes.grant(0, False, 1)
    assert passes.room(50) == 50
    passes.finish()
    assert passes.step(50) == REACHED and passes.now_ns == 50
    assert passes.step(80) == OPEN
    assert (passes.now_ns, passes.owed()) == (50, [(0, False, 1, 0)])
    for wrong in ((0, False, 2), (0, True, 1)):
        with pytest.raises(ValueError, match="cannot be granted"):
            passes.grant(*wrong)
    passes.remove(kind, [1])
    assert passes.owed() == []
    passes.finish()
    with pytest.raises(ValueError, match="cannot be granted"):
        passes.grant(0, False, 0)
    assert passes.step(NEVER) == OPEN and passes.now_ns == 100
    with pytest.raises(RuntimeError):
        passes.step(NEVER)


def test_pythons_agents_get_turns_as_well():
    passes = Passes(0, 1)
    passes.order()
    population = Population(8, [("x", "d")])
    kind = passes.add_kind(population)
    passes.add_cohort(kind, population.claim(4), PYTHON, period_ns=10)
    passes.step(100)
    with pytest.raises(RuntimeError):
        passes.settle(0, [])
    assert list(passes.turn_of(0, False, 3)) == [0, 1, 2]
    with pytest.raises(ValueError):
        passes.turn_of(0, False, 1)
    passes.settle(0, [(0, 2, 15), (2, 4, 0)])
    assert list(passes.turn_of(0, False, 1)) == [3]
    passes.settle(0, [])
    passes.finish()
    assert passes.step(100) == OPEN and passes.owed() == [(0, False, 2, 10)]
    assert list(passes.turn_of(0, False, 1)) == [1]
    passes.settle(0, [])
    passes.room(100)
    passes.finish()
    passes.step(100)
    assert (passes.now_ns, passes.owed()) == (15, [(0, True, 1, 15), (0, False, 1, 10)])
    assert list(passes.turn_of(0, True, 1)) == [0]
    passes.settle(0, [])
    passes.room(100)
    passes.finish()
    passes.step(100)
    assert (passes.now_ns, passes.owed()) == (20, [(0, False, 3, 10)]), "who was woken goes on with the others"
    assert passes.statistics(0)["missed"] == 1
    with pytest.raises(RuntimeError):
        passes.order()


def test_the_number_of_a_pass_is_known_while_python_has_its_part():
    schedule = Passes()
    population = Population(4, [("x", "d")], "columns")
    schedule.add_cohort(schedule.add_kind(population), population.claim(2), PYTHON, period_ns=1000)
    with pytest.raises(RuntimeError, match="no pass is open"):
        schedule.number
    seen = []
    while run(schedule, 3000) == PYTHON_DUE:
        seen.append(schedule.number)
        schedule.settle(0, [], 1, 0)
        schedule.finish()
    assert seen == [0, 1, 2] and schedule.made == 3


def test_python_agents_that_take_too_long_together_are_over_their_budget():
    for real in (False, True):
        passes = Passes(0, 1000, None, real)
        population = Population(8, [("x", "d")])
        kind = passes.add_kind(population)
        passes.add_cohort(kind, population.claim(4), PYTHON, period_ns=1000, budget=10, on_overrun=2)
        assert run(passes, NEVER, 1) == PYTHON_DUE
        passes.settle(0, [(1, 2, 10**9), (2, 4, 0)], spent=40)
        passes.finish()
        assert passes.statistics(0)["over"] == 0 and passes.statistics(0)["awake"] == 2, "as long as they may"
        run(passes, NEVER, 1)
        passes.settle(0, [(1, 2, 10**9)], spent=21)
        passes.finish()
        assert passes.statistics(0)["over"] == 2
        said = [(row, what) for _, row, _, what in passes.take_events()]
        assert said == [(2, DONE_EVENT), *([(0, KILLED_EVENT), (3, KILLED_EVENT)] if real else [])]
        assert passes.statistics(0)["awake"] == (0 if real else 1)


def test_lateness_and_jitter_are_counted_of_every_instant_of_real_time():
    ticks = Recorded(lambda cohort, row, now: (1, 0))
    passes = Passes(0, 1000, None, True)
    population = Population(16, [("x", "d")])
    kind = passes.add_kind(population)
    passes.add_cohort(kind, population.claim(3), MANY, ticks.many(0), period_ns=1_000_000)
    passes.add_cohort(kind, population.claim(2), MANY, ticks.many(1), periods_ns=array("Q", [1_000_000, 2_000_000]))
    while passes.now_ns < 20_000_000:
        run(passes, 20_000_000)
    for cohort, alike in ((0, 3), (1, 2)):
        late = sum(count for _, count in passes.durations(cohort, "late"))
        jitter = sum(count for _, count in passes.durations(cohort, "jitter"))
        assert late == passes.statistics(cohort)["ticks"], "each tick is as late as its pass"
        assert jitter == late - alike, "all but the first of each differ from one before"
    with pytest.raises(ValueError, match="jitter"):
        passes.durations(0, "luck")


def test_in_virtual_time_nothing_is_late():
    ticks = Recorded(lambda cohort, row, now: (1, 0))
    passes = Passes(0, 1)
    population = Population(8, [("x", "d")])
    passes.add_cohort(passes.add_kind(population), population.claim(3), MANY, ticks.many(0), period_ns=10)
    run(passes, 100)
    assert passes.durations(0, "late") == passes.durations(0, "jitter") == []


def test_agents_called_one_by_one_without_a_guard_have_their_times_too():
    ticks = Recorded(lambda cohort, row, now: (1, 0))
    passes = Passes(0, 1)
    population = Population(8, [("x", "d")])
    passes.add_cohort(passes.add_kind(population), population.claim(3), ONE, ticks.one(0), period_ns=10)
    run(passes, 100)
    assert sum(count for _, count in passes.durations(0)) == 30 and min(passes.durations(0))[0] > 0


def test_who_watches_sees_whom_is_ticked():
    line = array("Q", [0] * 8)
    seen = []
    passes = Passes(0, 1)
    population = Population(16, [("x", "d")])
    kind = passes.add_kind(population)

    def said(cohort: int, row: int, now: int) -> tuple[int, int]:
        seen.append((cohort, row, tuple(line[1:7])))
        return (reference.SLEEP, now + 3) if row == 4 else (reference.WORKED, 0)

    ticks = Recorded(said)
    passes.add_cohort(kind, population.claim(2), ONE, ticks.one(0), period_ns=10)
    passes.add_cohort(kind, population.claim(3), MANY, ticks.many(1), period_ns=10)
    passes.add_cohort(kind, population.claim(2), PYTHON, period_ns=10)
    assert not passes.watched
    passes.watch(line)
    assert passes.watched
    run(passes, 5)
    first, second = (1, 0, 1, 2, 0, 0), (2, 2, 4, 3, 0, 0)
    assert seen == [(0, 0, first), (0, 1, first), *((1, row, second) for row in (2, 3, 4))]
    passes.announce(2)
    assert tuple(line[1:7]) == (3, 5, 6, 2, 0, 0)
    passes.settle(2, [])
    passes.finish()
    assert line[1] == 0 and line[0] == 6, "three calls began, and ended"
    run(passes, 5)
    assert seen[-1] == (1, 4, (2, 4, 4, 1, 1, 3)), "the one that slept, in the pass after"
    passes.watch(None)
    run(passes, 15)
    assert line[0] == 8 and not passes.watched
    with pytest.raises(ValueError, match="64"):
        passes.watch(array("Q", [0] * 7))
