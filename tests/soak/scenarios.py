"""Lives of populations, over and over. Each scenario yields how many of its events have happened, and never ends."""

from __future__ import annotations

import ctypes
import os
import random
import struct
from collections.abc import Callable, Generator, Iterator
from typing import Any

from kernels.lanes import MpmcLane, SpscLane
from kernels.passes import TICKS
from swarm import nano
from transport.mapped_lanes import MappedLane, lane_file

ROWS = 500
Life = Generator[int, None, None]
Scenario = Callable[[], Life]


class Cell(nano.Kind, capacity=ROWS):
    """Counts its ticks."""

    x: nano.f64
    v: nano.f64

    def tick(self, now_ns: int, bus: Any) -> None:
        """Once more."""
        self.x += 1.0


class Mayfly(nano.Kind, capacity=64):
    """Has one child, and ends."""

    age: nano.u32

    flock: nano.NanoSwarm | None = None

    def tick(self, now_ns: int, bus: Any) -> int | None:
        """A pass older."""
        self.age += 1
        if self.age < 3:
            return None
        assert Mayfly.flock is not None
        Mayfly.flock.spawn(Mayfly, 1, rate_hz=1000)
        return nano.DONE


class Talker(nano.Kind, capacity=ROWS):
    """Publishes, and reads what all others did."""

    heard: nano.u64
    said = nano.writes("talk")
    talk = nano.reads("talk")

    def tick(self, now_ns: int, bus: Any) -> None:
        """Say and hear."""
        bus.publish("talk", struct.pack("<q", now_ns))
        self.heard += len(bus.read("talk")) + len(bus.lines("talk"))


def waits(agent: Cell, bus: Any) -> Iterator[None]:
    """A generator that counts."""
    while True:
        yield
        agent.x += 1.0


FORMS: dict[str, Any] = {
    "object": Cell, "generator": Cell.generators(waits), "native": Cell.native(TICKS["move"]),
    "with rates of their own": Cell,
}  # fmt: skip


def births(form: str) -> Life:
    """Agents are spawned, ticked and killed from outside, some with topics, wheel and budgets; the event is a death."""
    choice, flock, dead, steps = random.Random(1), nano.NanoSwarm(seed=1), 0, 0
    alive = [flock.spawn(FORMS[form], 20, rate_hz=1000)]
    while True:
        count = choice.randint(1, 20)
        rate: Any = [choice.uniform(1, 1000) for _ in range(count)] if form.startswith("with") else 1000
        alive.append(flock.spawn(FORMS[form], count, rate_hz=rate, budget=choice.choice([None, 1e6])))
        flock.run_for(passes=2)
        if len(alive) > 8:
            gone = alive.pop(choice.randrange(len(alive)))
            dead += sum(gone.alive)
            gone.kill()
        steps += 1
        if steps % 16 == 0:
            population = flock.kinds[Cell].population
            generations = sum(population.generation(row) for row in range(population.top))
            if generations != dead or flock.agents != sum(sum(each.alive) for each in alive) or population.top > ROWS:
                raise AssertionError(f"{dead} died, {generations} generations have gone, {flock.agents} live")
        yield dead


def mayflies() -> Life:
    """Births and deaths in ticks; the event is a death."""
    flock = Mayfly.flock = nano.NanoSwarm(seed=2)
    flock.spawn(Mayfly, 8, rate_hz=1000)
    while True:
        flock.run_for(passes=30)
        if flock.agents != 8 or flock.failures():
            raise AssertionError(f"{flock.agents} agents live, {flock.failures()[:1]}")
        population = flock.kinds[Mayfly].population
        yield sum(population.generation(row) for row in range(population.top))


def messages() -> Life:
    """Talk; the event is a message."""
    flock = nano.NanoSwarm(seed=3, topic_lines=100)
    flock.spawn(Talker, 20, rate_hz=1000)
    while True:
        flock.run_for(passes=10)
        yield flock.bus.counters(flock.topics["talk"])[0]


def saves() -> Life:
    """A population is saved, loaded and goes on as the copy; the event is an agent that went through it."""
    flock, moved = nano.NanoSwarm(seed=4), 0
    flock.spawn(Cell, 50, rate_hz=1000)
    flock.spawn(Talker, 10, rate_hz=[100.0 + n for n in range(10)])
    while True:
        flock.run_for(passes=3)
        flock = nano.load(flock.save())
        moved += flock.agents
        yield moved


def swarms() -> Life:
    """Whole swarms are made, run with a topology or a critic, and let go; the event is an agent."""

    class Critic:
        def observe(self, traces: Any) -> None:
            """Nothing."""

        def reflect(self, now_ns: int) -> None:
            """Nothing."""

    made = 0
    while True:
        flock = nano.NanoSwarm(seed=made, topology=nano.RoundRobin() if made % 2 else None, topic_lines=64)
        for form in FORMS.values():
            flock.spawn(form, 10, rate_hz=1000)
        flock.spawn(Talker, 10, rate_hz=1000)
        flock.spawn_critic(Critic(), every=2, traces=100)
        flock.keep_spans(100)
        flock.run_for(passes=5)
        made += flock.agents
        yield made


def lanes() -> Life:
    """Rings in this process and over memory files are made, filled, read and let go; the event is a line."""
    passed, block, into = 0, bytes(range(64)) * 32, bytearray(64 * 32)
    while True:
        spsc = SpscLane.create(bytearray(SpscLane.nbytes(64)))
        mpmc = MpmcLane.create(bytearray(MpmcLane.nbytes(64)))
        for ring in (spsc, mpmc):
            passed += ring.put_many(block)
            ring.get_many(into)
        fd = lane_file(64)
        with MappedLane(fd, "put") as ours, MappedLane(fd, "get") as theirs:
            passed += ours.put_many(block)
            theirs.get_many(into)
        os.close(fd)
        yield passed


def leaks() -> Life:
    """A planted leak of 48 bytes an event, to show that it is found."""
    malloc = ctypes.CDLL(None).malloc
    malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    lost = 0
    while True:
        malloc(40)
        lost += 1
        yield lost


def hoards() -> Life:
    """Another: a population that keeps a cohort for each spawn, by giving each a group of its own."""
    flock, dead = nano.NanoSwarm(), 0
    while True:
        flock.spawn(Cell, 1, rate_hz=1000, group=f"group {dead}").kill()
        dead += 1
        yield dead


SCENARIOS: dict[str, Scenario] = {
    **{f"births: {form}": (lambda form=form: births(form)) for form in FORMS},  # type: ignore[misc]
    "births in ticks": mayflies, "messages": messages, "saves": saves, "swarms": swarms, "lanes": lanes,
}  # fmt: skip
PLANTED: dict[str, Scenario] = {"leaks": leaks, "hoards": hoards}
