"""Populations of nano-agents as people use them."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from kernels.draws import random_at, uniform_at
from kernels.passes import TICKS
from swarm import nano


class Bird(nano.Kind, capacity=100):
    x: nano.f64
    v: nano.f64
    seen: nano.u32
    flying: nano.boolean

    def tick(self, now_ns, bus):
        self.x += self.v


class Counter(nano.Kind, capacity=100):
    n: nano.i64

    def tick(self, bus):
        while True:
            yield
            self.n += 1


def test_fields_are_arrays_and_handles_over_the_same_memory():
    flock = nano.NanoSwarm(seed=7)
    birds = flock.spawn(Bird, 20, rate_hz=100)
    birds.x[:] = 3.0
    birds.v = 0.5
    birds[17].v = 2.0
    assert birds.v.dtype == np.float64 and birds.seen.dtype == np.uint32 and birds.flying.dtype == np.bool_
    report = flock.run_for(seconds=1)
    assert report.ticks == 2000
    assert birds[17].x == 203.0 and birds.x[3] == 53.0
    assert [bird.row for bird in birds[4:6]] == [4, 5]
    assert len(birds) == 20 and len(list(birds)) == 20
    assert repr(birds[17]).startswith("<Bird 17: x=203.0")
    with pytest.raises(AttributeError, match="no field 'y'"):
        birds.y
    with pytest.raises(nano.NanoError, match="no field 'y'"):
        birds.y = 1


@pytest.mark.parametrize("form", ["object", "generator", "native", "native_many"])
def test_four_forms_of_a_tick_do_the_same(form):
    class Mover(nano.Kind, capacity=50):
        x: nano.f64
        v: nano.f64

        def tick(self, now_ns, bus):
            self.x += self.v * 1e-3

    def moves(agent, bus):
        while True:
            yield
            agent.x += agent.v * 1e-3

    forms = {
        "object": Mover, "generator": Mover.generators(moves), "native": Mover.native(TICKS["move"]),
        "native_many": Mover.native_many(TICKS["move_many"]),
    }  # fmt: skip
    flock = nano.NanoSwarm()
    movers = flock.spawn(forms[form], 50, rate_hz=1000)
    movers.v[:] = np.arange(50)
    flock.run_for(seconds=0.1)
    expected = np.zeros(50)
    for _ in range(100):
        expected += np.arange(50) * 1e-3
    assert movers.x.tolist() == expected.tolist()


def test_forms_are_mixed_freely_in_one_kind():
    class Mover(nano.Kind, capacity=50):
        x: nano.f64
        v: nano.f64

        def tick(self, now_ns, bus):
            self.x += 1

    flock = nano.NanoSwarm()
    native = flock.spawn(Mover.native_many(TICKS["move_many"]), 10, rate_hz=1000)
    objects = flock.spawn(Mover, 10, rate_hz=500)
    native.v[:] = 1000.0
    report = flock.run_for(seconds=0.01)
    assert native.x.tolist() == [10.0] * 10 and objects.x.tolist() == [5.0] * 10
    assert [(line.kind, line.form, line.ticks) for line in report.cohorts] == [
        ("Mover", "native_many", 100), ("Mover", "object", 50),
    ]  # fmt: skip
    assert list(flock.kinds) == [Mover]


def test_outcomes_of_pythons_ticks():
    class Fickle(nano.Kind, capacity=10):
        n: nano.u32

        def tick(self, now_ns, bus):
            self.n += 1
            match self.row:
                case 0:
                    return nano.IDLE
                case 1:
                    return nano.Sleep(now_ns + 25_000_000)
                case 2:
                    return nano.FAILED
                case 3:
                    return nano.DONE
                case 4:
                    raise ValueError("this one is wrong")
                case 5:
                    return "what?"
            return None

    flock = nano.NanoSwarm()
    them = flock.spawn(Fickle, 7, rate_hz=100)
    report = flock.run_for(seconds=0.1)
    line = report.cohorts[0]
    assert [agent.n for agent in them][:3] == [10, 4, 1]
    assert them[6].n == 10
    assert (line.idle, line.slept, line.failed, line.done) == (10, 4, 3, 1)
    assert line.ticks == line.idle + line.worked + line.slept + line.failed + line.done
    assert them.alive == [True, True, True, False, True, True, True]
    said = {row: str(error) for _, row, error in flock.failures()}
    assert said[4] == "this one is wrong" and "'what?'" in said[5]
    them.resume([2])
    flock.run_for(seconds=0.01)
    assert them[2].n == 2


def test_generators_count_and_end():
    def three(agent, bus):
        for _ in range(3):
            now_ns = yield
            agent.n = now_ns

    flock = nano.NanoSwarm()
    forever, short = flock.spawn(Counter, 2, rate_hz=10), flock.spawn(Counter.generators(three), 2, rate_hz=10)
    report = flock.run_for(seconds=1)
    assert [each.n for each in forever] == [10, 10]
    assert short.alive == [False, False]
    assert report.cohorts[1].done == 2
    assert flock.agents == 2


def test_rates_of_their_own_and_slots_that_are_used_again():
    flock = nano.NanoSwarm()
    them = flock.spawn(Bird, 4, rate_hz=[1, 10, 100, 1000])
    them.v[:] = 1
    flock.run_for(seconds=2)
    assert [round(bird.x) for bird in them] == [2, 20, 200, 2000]
    many = flock.spawn(Bird, 96, rate_hz=5)
    with pytest.raises(nano.PopulationFull, match="no room for 1 agents") as failed:
        flock.spawn(Bird, 1)
    assert failed.value.capacity == 100 and "capacity=" in failed.value.hint
    them.kill([1, 2])
    again = flock.spawn(Bird, 2, rate_hz=1)
    assert list(again.rows) == [1, 2] and [bird.x for bird in again] == [0, 0]
    assert them.alive == [True, False, False, True] and again.alive == [True, True]
    assert again[0].generation == 1 and many[0].generation == 0
    them.kill()
    assert again.alive == [True, True], "who has a row now is not ended for who had it"
    again.x[:] = [5, 6]
    assert again.x[:].tolist() == [5, 6] and np.asarray(again.x).sum() == 11 and len(again.x) == 2


def test_messages_are_read_one_pass_later_in_the_order_of_who_sent_them():
    heard = []

    class Speaker(nano.Kind, capacity=10):
        n: nano.u32
        out = nano.writes("words")

        def tick(self, now_ns, bus):
            bus.publish("words", f"{self.row}@{now_ns}".encode())

    class Listener(nano.Kind, capacity=10):
        n: nano.u32
        words = nano.reads("words")

        def tick(self, now_ns, bus):
            heard.append((now_ns, [(message.row, message.payload.rstrip(b"\0")) for message in bus.read("words")]))
            assert [int(row) for row in bus.lines("words")["row"]] == [row for row, _ in heard[-1][1]]

    flock = nano.NanoSwarm()
    flock.spawn(Listener, 1, rate_hz=1000)
    flock.spawn(Speaker, 3, rate_hz=500)
    report = flock.run_for(ns=4_000_000)
    assert heard == [
        (0, []), (1_000_000, [(0, b"0@0"), (1, b"1@0"), (2, b"2@0")]), (2_000_000, []),
        (3_000_000, [(n, f"{n}@2000000".encode()) for n in range(3)]),
    ]  # fmt: skip
    assert report.topics == {"words": {"published": 6, "dropped": 0, "blocked": 0, "delivered": 6}}


def test_a_topic_without_room_drops_and_counts_or_tells():
    told = []

    def kind(full):
        class Loud(nano.Kind, capacity=10):
            n: nano.u32
            out = nano.writes("noise", full=full)

            def tick(self, now_ns, bus):
                told.append(bus.publish("noise", b"!"))

        return Loud

    for full, counted in (("drop", "dropped"), ("block", "blocked")):
        flock = nano.NanoSwarm(topic_lines=3)
        flock.spawn(kind(full), 5, rate_hz=10)
        report = flock.run_for(seconds=0.1)
        assert told[-5:] == [True, True, True, full == "drop", full == "drop"]
        assert report.topics["noise"][counted] == 2
    with pytest.raises(nano.NanoError, match="full='drop'"):
        flock.spawn(kind("drop"), 1)


def test_a_kind_writes_and_reads_only_what_it_declared():
    errors = []

    class Silent(nano.Kind, capacity=10):
        n: nano.u32
        out = nano.writes("a")

        def tick(self, now_ns, bus):
            for wrong in (lambda: bus.publish("b", b""), lambda: bus.read("a"), lambda: bus.publish("a", bytes(57))):
                try:
                    wrong()
                except nano.NanoError as error:
                    errors.append(f"{error} / {error.hint}")

    flock = nano.NanoSwarm()
    flock.spawn(Silent, 1, rate_hz=1)
    flock.run_for(seconds=1)
    assert [word in error for word, error in zip(("write to", "read", "57 bytes"), errors, strict=True)] == [True] * 3


def test_native_ticks_by_whatever_carries_an_address():
    from tests.unit.nano.kinds_to_save import Falling, fall

    address = ctypes.cast(fall, ctypes.c_void_p).value
    flock = nano.NanoSwarm()
    them = [flock.spawn(Falling.native(tick), 2, rate_hz=10) for tick in (fall, address)]
    flock.run_for(seconds=0.3)
    assert [agent.x for each in them for agent in each] == [3.0, 6.0, 9.0, 12.0]
    for wrong in (0, 12345, "fall", None, True, 1 << 70, ctypes.addressof(ctypes.create_string_buffer(8))):
        with pytest.raises(nano.BadTick) as failed:
            Falling.native(wrong)
        assert "nano.h" in failed.value.hint


def test_a_capsule_is_taken_by_its_signature():
    new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
        ("PyCapsule_New", ctypes.pythonapi)
    )
    one, many = b"int (void **, uint32_t, uint64_t, nano_ctx *)", b"double (double)"
    capsule, wrong = new(TICKS["move"], one, None), new(TICKS["move"], many, None)
    flock = nano.NanoSwarm()
    birds = flock.spawn(Bird.native(capsule), 1, rate_hz=10)
    birds.v[:] = 1000
    flock.run_for(seconds=0.1)
    assert birds[0].x == 1.0
    with pytest.raises(nano.BadTick, match="signature 'double"):
        Bird.native(wrong)
    with pytest.raises(nano.BadTick, match="signature"):
        Bird.native_many(capsule)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"count": 0}, "0 agents"), ({"count": 1.5}, "1.5 agents"), ({"count": 101}, "no room"),
        ({"rate_hz": -1}, "rate of -1"), ({"rate_hz": float("nan")}, "rate of nan"), ({"rate_hz": 2e6}, "rate of 2000000"),
        ({"rate_hz": [1, 2]}, "2 rates for 1"), ({"budget": 0}, "budget of 0"), ({"budget": -5.0}, "budget"),
    ],
)  # fmt: skip
def test_what_is_wrong_spawns_nobody(wrong, match):
    flock = nano.NanoSwarm()
    with pytest.raises(nano.NanoError, match=match):
        flock.spawn(Bird, **({"count": 1} | wrong))
    assert flock.agents == 0
    assert flock.run_for(seconds=0.1).ticks == 0


def test_what_cannot_be_a_kind_or_a_swarm_is_refused():
    class Empty(nano.Kind):
        def tick(self, now_ns, bus):
            pass

    class Still(nano.Kind):
        x: nano.f64

    class Odd(nano.Kind):
        x: nano.f64

    flock = nano.NanoSwarm()
    for what in (Empty, Still, Odd.objects(object), Odd.generators(lambda agent, bus: None), int, 5):
        with pytest.raises(nano.NanoError):
            flock.spawn(what, 1, rate_hz=1)
    for wrong in ({"time": "later"}, {"seed": -1}, {"resolution_ns": 0}, {"topic_lines": 0}):
        with pytest.raises(nano.NanoError):
            nano.NanoSwarm(**wrong)
    for wrong in ({"layout": "tables"}, {"capacity": 0}, {"capacity": 1 << 40}):
        with pytest.raises(nano.NanoError):
            type("Wrong", (nano.Kind,), {"__annotations__": {"x": nano.f64}}, **wrong)
    with pytest.raises(nano.NanoError, match="named 'tick'"):
        type("Wrong", (nano.Kind,), {"__annotations__": {"tick": nano.f64}})
    with pytest.raises(nano.NanoError, match="full='wait'"):
        nano.writes("a", full="wait")
    for wrong in ({}, {"seconds": 1, "passes": 1}, {"seconds": -1}, {"ns": float("inf")}):
        with pytest.raises(nano.NanoError, match="run_for"):
            flock.run_for(**wrong)


def test_a_tick_cannot_run_its_own_swarm():
    class Nested(nano.Kind, capacity=2):
        x: nano.f64

        def tick(self, now_ns, bus):
            flock.run_for(passes=1)

    flock = nano.NanoSwarm()
    flock.spawn(Nested, 1, rate_hz=1)
    flock.run_for(seconds=1)
    assert "runs already" in str(flock.failures()[0][2])


def test_so_many_passes_or_as_many_as_there_are():
    flock = nano.NanoSwarm()
    assert flock.run_for(passes=5).passes == 0
    flock.spawn(Bird, 1, rate_hz=10)
    assert flock.run_for(passes=5).passes == 5
    assert flock.now_ns == 400_000_000


def test_real_time_takes_its_time_and_guards_act():
    flock = nano.NanoSwarm(time="real")
    birds = flock.spawn(Bird, 5, rate_hz=200)
    slow = flock.spawn(Bird.native(TICKS["move"]), 3, rate_hz=100, budget=nano.Budget(0.001, on_overrun="suspend"))
    lazy = flock.spawn(
        Bird.native_many(TICKS["move_many"]), 3, rate_hz=400, budget=nano.Budget(1e-6, on_overrun="demote")
    )
    report = flock.run_for(seconds=0.3)
    assert report.wall_s >= 0.29
    first, second, third = report.cohorts
    assert 0 < first.ticks <= 5 * 61 and first.late_ns.count >= first.ticks
    assert second.violations == 3 and second.awake == 0, "all were suspended after their first tick"
    assert third.violations and third.ticks < 3 * 120, "its rate was halved, and halved again"
    assert len(birds) and slow.alive == [True] * 3 and len(lazy) == 3


def test_overruns_do_nothing_in_virtual_time():
    flock = nano.NanoSwarm()
    flock.spawn(Bird.native(TICKS["move"]), 3, rate_hz=100, budget=nano.Budget(0.001, on_overrun="kill"))
    report = flock.run_for(seconds=0.1)
    assert report.violations == 30 and report.cohorts[0].awake == 3


def test_a_report_says_the_same_to_programs():
    flock = nano.NanoSwarm()
    flock.spawn(Bird.native(TICKS["move"]), 10, rate_hz=1000, group="fast", budget=1000)
    said = flock.run_for(seconds=0.1).to_dict()
    assert said["ticks"] == 1000 and said["cohorts"][0]["group"] == "fast"
    assert said["cohorts"][0]["tick_ns"]["count"] == 1000 and said["cohorts"][0]["tick_ns"]["p50"] > 0


def test_the_header_is_where_it_is_said_to_be():
    from pathlib import Path

    assert (Path(nano.include()) / "nano.h").is_file()


def test_random_numbers_of_python_are_those_of_native_ticks_in_its_place():
    drawn, early = {}, []

    class Drawer(nano.Kind, capacity=10):
        n: nano.u32

        def tick(self, now_ns, bus):
            drawn[now_ns, self.row] = (bus.random(), bus.random(5), bus.uniform(5))

    class Draft(nano.Kind, capacity=10):
        n: nano.u32

    def eager(agent, bus):
        with pytest.raises(nano.NanoError, match="nobody ticks"):
            bus.random()
        early.append(agent.row)
        yield

    flock = nano.NanoSwarm(seed=11)
    flock.spawn(Draft.generators(eager), 1, rate_hz=100)
    flock.spawn(Drawer, 3, rate_hz=100)
    flock.run_for(seconds=0.02)
    kind = flock.kinds[Drawer].number
    assert early == [0] and kind == 1
    assert drawn == {
        (number * 10_000_000, row): (
            random_at(11, kind, row, number), random_at(11, kind, row, number, 5), uniform_at(11, kind, row, number, 5),
        )
        for number in range(2) for row in range(3)
    }  # fmt: skip


def test_agents_without_a_rate_tick_when_they_are_woken():
    flock = nano.NanoSwarm()
    flock.spawn(Counter, 2, rate_hz=10)
    idle = flock.spawn(Counter, 4)
    assert flock.run_for(seconds=1).cohorts[1].ticks == 0
    idle.resume([1, 3])
    assert flock.run_for(seconds=1).cohorts[1].ticks == 2
    idle.resume(at_ns=2_500_000_000)
    idle.resume([0], at_ns=2_100_000_000)
    assert [flock.run_for(seconds=0.25).cohorts[1].ticks for _ in range(4)] == [1, 0, 3, 0]
    idle.kill([2])
    idle.resume()
    assert flock.run_for(seconds=1).cohorts[1].ticks == 3
    again = flock.passes.statistics(1)
    assert (again["awake"], again["ticks"]) == (3, 9)
