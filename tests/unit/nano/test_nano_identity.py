"""In virtual time a seed has one history: in this process or another, whatever hash seed it has and whatever ran before."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swarm import nano
from swarm.nano.minds import ArrayGenomes, EvolvingPopulation, ProgramGenomes, QuantumDecision

ROOT = Path(__file__).parents[3]
TOPOLOGIES = {
    "none": lambda: None, "round robin": nano.RoundRobin, "priority": lambda: nano.Priority({"fast": 1, "rest": 0}),
    "hierarchical": lambda: nano.Hierarchical({"fast": 0.7, "rest": 0.3}), "mesh": nano.Mesh, "quantum": nano.Quantum,
}  # fmt: skip


class Walker(nano.Kind, capacity=400):
    x: nano.f64
    heard: nano.u64
    news = nano.writes("news", full="block")
    gossip = nano.writes("gossip")
    read_news = nano.reads("news")
    read_gossip = nano.reads("gossip")

    def tick(self, now_ns, bus):
        draw = bus.uniform()
        self.x += draw - 0.5
        for topic in {"news", "gossip"}:  # a set of texts: its order is that of their hashes
            self.heard += len(bus.read(topic))
        if draw < 0.3:
            bus.publish("news" if draw < 0.1 else "gossip", b"%f" % self.x)
        if draw > 0.98:
            return nano.Sleep(now_ns + 3_000_000)
        return nano.DONE if draw > 0.995 else None


def history(topology: str, seed: int = 11) -> str:
    """A digest of all there is to see of a run: columns, states, counts, topics. Violations of budgets are measured, so they are not part of it."""
    flock = nano.NanoSwarm(seed=seed, topology=TOPOLOGIES[topology](), topic_lines=40)
    for group in ("fast", "rest"):
        flock.spawn(Walker, 60, rate_hz=1000, group=group, budget=5_000)
        flock.spawn(Walker, 20, rate_hz=[10.0 * (n + 1) for n in range(20)], group=group, budget=2_000)
    seen = hashlib.sha256()
    for turn in range(6):
        report = flock.run_for(seconds=0.01)
        flock.spawn(Walker, 5, rate_hz=500, group="rest").kill([turn % 5])
        population = flock.kinds[Walker].population
        for column in range(len(Walker.fields)):
            seen.update(memoryview(population.column(column)).cast("B"))
        seen.update(json.dumps([[each.ticks, each.slept, each.done] for each in report.cohorts]).encode())
        seen.update(json.dumps(report.topics, sort_keys=True).encode())
    population = flock.kinds[Walker].population
    for what in ("states", "generations"):
        seen.update(memoryview(population.bookkeeping(what)).cast("B"))
    seen.update(b"%d %d" % (flock.now_ns, flock.passes.made))
    return seen.hexdigest()


def minds() -> str:
    """The same of what chooses and evolves."""
    best = EvolvingPopulation(ArrayGenomes(4), lambda x: -float((x**2).sum()), size=16, seed=3).run(8)
    program = EvolvingPopulation(ProgramGenomes(1), lambda f: -abs(float(f([[2.0]])[0]) - 5.0), size=30, seed=3).run(8)
    choice = QuantumDecision(256, seed=3)
    found = [choice.search(lambda option: option % 50 == 7) for _ in range(5)]
    return hashlib.sha256(best.genome.tobytes() + program.genome.code + repr(found).encode()).hexdigest()


def all_histories() -> dict[str, str]:
    return {**{topology: history(topology) for topology in TOPOLOGIES}, "minds": minds()}


@pytest.fixture(scope="module")
def here():
    return all_histories()


def test_a_history_is_that_of_its_seed(here):
    for topology in TOPOLOGIES:
        assert history(topology) == here[topology] != history(topology, 12), topology


@pytest.mark.parametrize("hash_seed", ["0", "1", "4294967295"])
def test_another_process_with_another_hash_seed_has_the_same(here, hash_seed):
    said = subprocess.run(
        [sys.executable, "-c", "import json\nfrom tests.unit.nano import test_nano_identity as it\n"
         "print(json.dumps([it.all_histories(), list({'news', 'gossip', 'a', 'b', 'c'})]))"],
        cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    histories, order = json.loads(said.stdout)
    assert histories == here and sorted(order) == ["a", "b", "c", "gossip", "news"]


def test_hash_seeds_do_change_the_order_of_a_set():
    """Else the test above would show nothing."""
    orders = {
        subprocess.run(
            [sys.executable, "-c", "print(list({'news', 'gossip', 'a', 'b', 'c'}))"], env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for seed in ("0", "1", "4294967295")
    }  # fmt: skip
    assert len(orders) > 1
