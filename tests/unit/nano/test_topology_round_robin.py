"""Deficit round robin: everybody who always has work gets the same, whatever its agents cost."""

from __future__ import annotations

import itertools

import pytest
from backlog import Backlog, Cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.nano.topologies import RoundRobin, jain
from swarm.nano.topologies.round_robin import QUANTA_MAX


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 4)), min_size=2, max_size=6),
    st.integers(1, 400),
    st.lists(st.integers(0, 3_000), min_size=1, max_size=25),
)
def test_service_differs_by_no_more_than_the_theorem_allows(flows, quantum, capacities):
    """Shreedhar and Varghese, theorem on fairness: a quantum and two of the largest item, for any interval."""
    cohorts = {i: Cohort(f"g{i}", cost) for i, (cost, _) in enumerate(flows)}
    weights = {f"g{i}": weight for i, (_, weight) in enumerate(flows)}
    there = Backlog(RoundRobin(quantum, weights), cohorts)
    for capacity in capacities:
        there.refill(*cohorts, cost_ns=20_000)
        demand = sum(one.cost_ns for one in there.due())
        there.run(capacity)
        used_quantum = max(quantum, min(capacity, demand) // QUANTA_MAX)
        quantum = max(quantum, used_quantum)
        for i, j in itertools.combinations(cohorts, 2):
            apart = abs(there.used[i] / flows[i][1] - there.used[j] / flows[j][1])
            largest = max(flows[i][0] / flows[i][1], flows[j][0] / flows[j][1])
            assert apart <= quantum + 2 * largest + 1e-6


def test_jains_index_of_a_thousand_passes():
    """Five cohorts whose agents cost 1 to 200 ns."""
    there = Backlog(RoundRobin(1_000), {i: Cohort("all", cost) for i, cost in enumerate((1, 3, 17, 90, 200))})
    for _ in range(1_000):
        there.refill(*there.cohorts, cost_ns=30_000)
        there.run(10_000)
    assert jain(there.used.values()) > 0.9999
    assert sum(there.used.values()) == pytest.approx(10_000_000, abs=200)


@pytest.mark.parametrize(("over", "wanted"), [("cohort", {"a": 6, "b": 1}), ("group", {"a": 3, "b": 1})])
def test_weights(over, wanted):
    cohorts = {0: Cohort("a", 10), 1: Cohort("a", 10), 2: Cohort("b", 30)}
    there = Backlog(RoundRobin(500, {"a": 3}, over=over), cohorts)
    for _ in range(500):
        there.refill(0, 1, 2, cost_ns=30_000)
        there.run(7_000)
    used = there.group_used()
    assert jain(used[group] / weight for group, weight in wanted.items()) > 0.9999


def test_measured_costs_are_borne_by_their_flow():
    """One whose agents take twice what was declared gets the same time, so half the turns."""
    there = Backlog(RoundRobin(100), {0: Cohort("a", 10), 1: Cohort("a", 10)})
    used = [0, 0]
    for _ in range(400):
        there.refill(0, 1, cost_ns=5_000)
        there.topology.begin(there.now_ns, 1_000)
        for grant in there.topology.order(there.now_ns, there.due()):
            cost = grant.cost_ns * (2 if grant.due.cohort == 0 else 1)
            used[grant.due.cohort] += cost
            there.topology.ran(grant, cost)
        there.now_ns += 1_000
    assert jain(used) > 0.999


def test_who_has_nothing_to_do_saves_nothing_up():
    there = Backlog(RoundRobin(100), {0: Cohort("a", 10), 1: Cohort("a", 10)})
    for _ in range(100):
        there.refill(0, cost_ns=5_000)
        there.run(1_000)
    before = there.used[0]
    for _ in range(10):
        there.refill(0, 1, cost_ns=5_000)
        there.run(1_000)
    assert abs(there.used[1] - (there.used[0] - before)) <= 120


def test_an_agent_of_many_quanta_does_not_take_as_many_turns_of_the_loop():
    """10^12 rounds in which nobody can afford an agent are skipped at once."""
    there = Backlog(RoundRobin(1), {0: Cohort("a", 10**12), 1: Cohort("a", 10**12)})
    there.arrive(0, 1)
    there.arrive(1, 1)
    grants = there.run(1)
    assert [grant.due.cohort for grant in grants] == [0]


@pytest.mark.parametrize(
    ("service", "index"), [([5, 5, 5, 5], 1.0), ([1, 0, 0, 0], 0.25), ([4, 2], 0.9), ([0, 0], 1.0), ([], 1.0)]
)
def test_jains_index(service, index):
    assert jain(service) == pytest.approx(index)
