"""Swarms of several threads at once, each used by one: what each does is what it does alone. On a free-threaded Python they
run in parallel, and no kernel brings the lock back."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import sysconfig
import threading

import kernels
from kernels.passes import TICKS
from swarm import nano
from swarm.nano.minds import ArrayGenomes, EvolvingPopulation, PredictiveAgent, QuantumDecision
from tests.unit.nano.kinds_to_save import Falling, Walker, fall


class Cell(nano.Kind, capacity=200):
    x: nano.f64
    v: nano.f64
    said = nano.writes("said")
    heard = nano.reads("said")

    def tick(self, now_ns, bus):
        self.x += bus.uniform() + len(bus.read("said"))
        bus.publish("said", b"x")


def counts(agent, bus):
    while True:
        yield
        agent.v += 1.0


def life(seed):
    """All of a swarm's ways: forms, births and deaths, topics, saving, minds; a digest of what came of it."""
    flock = nano.NanoSwarm(seed=seed, topology=nano.RoundRobin() if seed % 2 else None)
    flock.spawn(Cell, 20, rate_hz=1000)
    flock.spawn(Cell.native(TICKS["move"]), 20, rate_hz=1000).v[:] = 1.0
    generators = flock.spawn(Cell.generators(counts), 10, rate_hz=500)
    flock.spawn(Cell, 10, rate_hz=[100.0 * (n + 1) for n in range(10)])
    for turn in range(12):
        flock.run_for(passes=8)
        flock.spawn(Cell, 3, rate_hz=1000).kill([turn % 3])
    generators.kill()
    saved = nano.NanoSwarm(seed=seed)
    saved.spawn(Walker, 10, rate_hz=100_000)
    saved.spawn(Falling.native(fall), 10, rate_hz=20_000).v[:] = 1.5
    saved.run_for(ns=200_000)
    saved = nano.load(saved.save())
    saved.run_for(ns=200_000)
    best = EvolvingPopulation(ArrayGenomes(3), lambda x: -float((x**2).sum()), size=12, seed=seed).run(5)
    agent = PredictiveAgent(lambda value: value + 1)
    for at in range(50):
        agent.take(float(at % 5))
    population = flock.kinds[Cell].population
    return (
        flock.agents, bytes(memoryview(population.column(0)).cast("B")), bytes(saved.save()), best.genome.tobytes(),
        agent.hit_rate, QuantumDecision(64, seed=seed).search(lambda option: option == 9),
    )  # fmt: skip


def test_threads_with_swarms_of_their_own_do_what_each_does_alone():
    alone = {seed: life(seed) for seed in range(6)}
    found, errors = {}, []

    def run(seed):
        try:
            found[seed] = life(seed)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert not errors and found == alone


def test_no_kernel_brings_the_lock_back():
    for module in pkgutil.iter_modules(kernels.__path__):
        importlib.import_module(f"kernels.{module.name}")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):  # else there is nothing to bring back
        assert not sys._is_gil_enabled()
