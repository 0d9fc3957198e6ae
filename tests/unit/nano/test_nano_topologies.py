"""Populations under each topology: what is granted is what runs, and shares are shares of ticks."""

from __future__ import annotations

import pytest

from kernels.passes import TICKS
from swarm import nano
from swarm.nano import topologies


class Busy(nano.Kind, capacity=4000):
    x: nano.f64
    v: nano.f64

    def tick(self, now_ns, bus):
        self.x += 1.0


class Sleepy(nano.Kind, capacity=100):
    n: nano.u32

    def tick(self, now_ns, bus):
        self.n += 1
        return nano.Sleep(now_ns + 3_000_000) if self.n % 4 == 0 else None


EACH = {
    "round robin": lambda: topologies.RoundRobin(),
    "priority": lambda: topologies.Priority({"fast": 1, "rest": 0}),
    "hierarchical": lambda: topologies.Hierarchical({"fast": 0.7, "rest": 0.3}),
    "quantum": lambda: topologies.Quantum(),
    "mesh": lambda: topologies.Mesh(cores=2),
}


def build(topology, seed=5):
    flock = nano.NanoSwarm(seed=seed, topology=topology)
    flock.spawn(Busy.native_many(TICKS["move_many"]), 1000, rate_hz=1000, group="fast", budget=nano.Budget(1000))
    flock.spawn(Busy, 1000, rate_hz=1000, group="rest", budget=nano.Budget(1000))
    flock.spawn(Sleepy, 20, rate_hz=500, group="rest", budget=nano.Budget(100))
    return flock


@pytest.mark.parametrize("name", EACH)
def test_a_pass_costs_no_more_than_there_is_time(name):
    flock = build(EACH[name]())
    report = flock.run_for(seconds=0.2)
    assert report.passes >= 200
    spent = report.cohorts[0].ticks * 1000 + report.cohorts[1].ticks * 1000 + report.cohorts[2].ticks * 100
    assert 0.99 * 0.2e9 <= spent <= 0.2e9 + 1_000_000, "2 ms of work is due each ms, of which half is done"
    assert report.cohorts[0].missed + report.cohorts[1].missed > 150_000


def test_shares_of_the_hierarchy_are_shares_of_ticks():
    flock = build(EACH["hierarchical"]())
    fast, rest, sleepy = flock.run_for(seconds=1).cohorts
    assert fast.ticks / (fast.ticks + rest.ticks + sleepy.ticks / 10) == pytest.approx(0.7, abs=0.02)


def test_every_agent_has_its_turns():
    flock = build(topologies.RoundRobin())
    flock.run_for(seconds=0.5)
    ticks = flock.cohorts[1].x
    assert ticks.min() > 0 and ticks.max() - ticks.min() <= 1


@pytest.mark.parametrize("name", EACH)
def test_a_seed_gives_one_history(name):
    histories = []
    for _ in range(2):
        flock = build(EACH[name]())
        flock.run_for(seconds=0.05)
        histories.append([flock.cohorts[0].x.tolist(), [agent.n for agent in flock.cohorts[2]]])
        flock.run_for(seconds=0.05)
        histories[-1].append(flock.cohorts[1].x.tolist())
    assert histories[0] == histories[1]


def test_a_group_without_a_share_is_refused_and_nobody_spawned():
    flock = nano.NanoSwarm(topology=topologies.Hierarchical({"fast": 1}))
    with pytest.raises(Exception, match="has no share"):
        flock.spawn(Busy, 5, rate_hz=10, group="slow")
    assert flock.agents == 0


def test_more_capacity_does_more():
    done = []
    for capacity in (1, 2):
        flock = nano.NanoSwarm(topology=topologies.RoundRobin(), capacity=capacity)
        flock.spawn(Busy.native_many(TICKS["move_many"]), 3000, rate_hz=1000, budget=nano.Budget(1000))
        done.append(flock.run_for(seconds=0.1).ticks)
    assert done == [pytest.approx(100_000, abs=1000), pytest.approx(200_000, abs=1000)]
    with pytest.raises(nano.NanoError):
        nano.NanoSwarm(cores=0)


def test_measured_time_counts_in_real_time():
    flock = nano.NanoSwarm(topology=topologies.RoundRobin(), time="real")
    flock.spawn(Busy, 1000, rate_hz=10_000, budget=nano.Budget(1))
    report = flock.run_for(seconds=0.2)
    assert 0 < report.cohorts[0].ticks and report.wall_s >= 0.19


@pytest.mark.parametrize("name", EACH)
def test_saved_under_a_topology_it_goes_on_bit_for_bit(name):
    from tests.unit.nano.kinds_to_save import Walker

    flock = nano.NanoSwarm(seed=3, topology=EACH[name](), cores=2, capacity=2)
    flock.spawn(Walker, 40, rate_hz=100_000, group="fast", budget=nano.Budget(1000))
    flock.spawn(Walker, 10, rate_hz=[1000 * (n + 1) for n in range(10)], group="rest", budget=nano.Budget(700))
    flock.run_for(ns=733_000)
    again = nano.load(flock.save())
    assert (again.cores, again.capacity) == (2, 2) and type(again.topology) is type(flock.topology)
    for each in (flock, again):
        each.run_for(ns=900_000)
    for ours, theirs in zip(flock.cohorts, again.cohorts, strict=True):
        assert living(ours) == living(theirs)
    assert flock.passes.statistics(0)["ticks"] == again.passes.statistics(0)["ticks"] < 40 * 164


def living(agents):
    """All that is to be seen of those that live."""
    return [repr(agent) for agent, alive in zip(agents, agents.alive, strict=True) if alive]
