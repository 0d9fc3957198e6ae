"""What every topology keeps to: capacity, nothing twice, nobody starved, the same again from what was saved."""

from __future__ import annotations

import copy
import json

import pytest
from backlog import Backlog, Cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import ConfigError
from swarm.nano import topologies
from swarm.nano.topologies import (
    UNBOUNDED_NS,
    Due,
    Grant,
    Hierarchical,
    Mesh,
    Priority,
    Quantum,
    RoundRobin,
    Share,
    contract,
)

GROUPS = ("a", "b", "c")
MAKERS = {
    "round-robin": lambda: RoundRobin(50, {"a": 3}),
    "round-robin-groups": lambda: RoundRobin(50, over="group"),
    "priority": lambda: Priority({"a": "high", "c": "low"}, ageing_ns=700),
    "hierarchical": lambda: Hierarchical({"a": 0.5, "inner": Share(0.5, {"b": 2, "c": 1})}, burst_ns=1_000),
    "mesh": lambda: Mesh(cores=3),
    "quantum": lambda: Quantum({"a": 4.0, "b": 0.5}, patience_ns=2_000),
}
each = pytest.mark.parametrize("name", MAKERS)
COHORTS = st.lists(st.tuples(st.sampled_from(GROUPS), st.integers(0, 400)), min_size=1, max_size=6)
STEPS = st.lists(
    st.tuples(st.integers(0, 1_000), st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), max_size=4)),
    min_size=1,
    max_size=12,
)


def backlog(name, cohorts):
    made = Backlog(MAKERS[name](), {i: Cohort(group, cost) for i, (group, cost) in enumerate(cohorts)})
    made.topology.bind(GROUPS, 7)
    return made


def arrivals(there, agents):
    for number, count in agents:
        if number in there.cohorts:
            there.arrive(number, count)


@each
@settings(max_examples=60, deadline=None)
@given(cohorts=COHORTS, steps=STEPS)
def test_a_pass_keeps_to_its_capacity_and_wastes_none(name, cohorts, steps):
    there = backlog(name, cohorts)
    owed = 0
    for capacity, agents in steps:
        arrivals(there, agents)
        waiting = there.due()
        grants = there.run(capacity, step_ns=capacity + 1)
        left = there.due()
        spent = sum(grant.cost_ns for grant in grants)
        room = capacity - owed
        largest = max((one.cost_of(1) for one in waiting), default=0)
        if grants and spent:
            assert spent - room < largest
        if left:  # work is left only when the pass is full
            assert spent >= room
        owed = max(0, spent - room)


@each
@settings(max_examples=40, deadline=None)
@given(cohorts=COHORTS, steps=STEPS)
def test_what_was_saved_goes_on_alike(name, cohorts, steps):
    one = backlog(name, cohorts)
    for capacity, agents in steps[: len(steps) // 2]:
        arrivals(one, agents)
        one.run(capacity)
    other = copy.deepcopy(one.cohorts)
    saved = json.loads(json.dumps(one.topology.save()))  # plain values
    twin = Backlog.__new__(Backlog)
    twin.topology, twin.cohorts, twin.used, twin.now_ns = topologies.load(saved), other, one.used.copy(), one.now_ns
    for capacity, agents in steps[len(steps) // 2 :]:
        arrivals(one, agents)
        arrivals(twin, agents)
        assert one.run(capacity) == twin.run(capacity)
    assert one.topology.save() == twin.topology.save()


@each
def test_everything_runs_where_nothing_bounds_it(name):
    there = backlog(name, [("a", 100), ("b", 1), ("c", 0)])
    for number in there.cohorts:
        there.arrive(number, 10_000)
    assert sum(grant.agents for grant in there.run(UNBOUNDED_NS, step_ns=1)) == 30_000
    assert there.due() == []
    assert there.run(1_000) == []


@each
def test_nobody_starves(name):
    """Agents that cost more than three passes, beside ever more work for the others."""
    there = backlog(name, [("a", 7), ("b", 11), ("c", 1_000)])
    there.arrive(2, 2)
    for _ in range(400):
        there.refill(0, 1, cost_ns=2_000)
        there.run(300)
        if not there.cohorts[2].waiting:
            break
    assert there.used[2] == 2_000


@each
def test_costs_above_those_declared_end_a_pass_and_are_not_taken_twice(name):
    there = backlog(name, [("a", 10), ("b", 10), ("c", 10)])
    for _ in range(50):
        there.refill(0, 1, 2, cost_ns=5_000)
        assert there.run(1_000, slower=2.0)
    assert sum(there.used.values()) >= 50 * 1_000


@each
def test_a_group_that_was_not_bound_is_an_error(name):
    topology = MAKERS[name]()
    topology.bind(["a"], 1)
    topology.begin(0, 100)
    with pytest.raises(KeyError, match="b"):
        list(topology.order(0, [Due("b", 0, 1, 1, 0)]))
    with pytest.raises(ValueError, match="capacity"):
        topology.begin(0, -1)


@each
def test_the_order_in_which_cohorts_are_named_does_not_matter(name):
    due = [Due(group, i, 5, 50 * (i + 1), 100 * (i % 2)) for i, group in enumerate("abcab")]
    orders = []
    for given_due in (due, due[::-1]):
        topology = MAKERS[name]()
        topology.bind(GROUPS, 3)
        topology.begin(1_000, 400)
        orders.append(list(topology.order(1_000, given_due)))
    assert orders[0] == orders[1]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 50), st.integers(0, 2_000), st.integers(1, 3_000))
def test_as_many_as_a_budget_needs_and_no_more(agents, cost, budget):
    due = Due("a", 0, agents, cost, 0)
    enough = [k for k in range(1, agents + 1) if due.cost_of(k) >= budget]
    assert due.within(budget) == (agents if cost <= budget else enough[0])
    assert Grant(due, agents).cost_ns == cost


def test_saved_settings_of_another_are_refused():
    with pytest.raises(ConfigError, match="no topology"):
        topologies.load({"topology": "star"})
    with pytest.raises(ConfigError, match="is not"):
        Mesh.load(RoundRobin().save())


@pytest.mark.parametrize(
    "make",
    [
        lambda: RoundRobin(0),
        lambda: RoundRobin(weights={"a": 0}),
        lambda: RoundRobin(over="row"),  # type: ignore[arg-type]
        lambda: Priority({"a": "urgent"}),
        lambda: Priority({"a": 4}),
        lambda: Priority(ageing_ns=0),
        lambda: Hierarchical({}),
        lambda: Hierarchical({"a": 0}),
        lambda: Hierarchical({"a": -1.0, "b": 2}),
        lambda: Hierarchical({"a": float("nan")}),
        lambda: Hierarchical({"a": 1, "b": Share(1, {"a": 1})}),
        lambda: Hierarchical({"a": 1}).bind(["b"], 0),
        lambda: Mesh(0),
        lambda: Mesh(10_000),
        lambda: Mesh(chunk_ns=0),
        lambda: Mesh(placement="near"),  # type: ignore[arg-type]
        lambda: Quantum({"a": 0.0}),
        lambda: Quantum({"a": float("inf")}),
        lambda: Quantum(slices=0),
        lambda: Quantum().bind([str(i) for i in range(1025)], 0),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.hint


def test_what_was_too_long_shortens_the_next_pass_and_what_was_measured_does_not():
    allowance = contract.Allowance()
    allowance.begin(100)
    allowance.spend(130)
    allowance.correct(1_000_000)
    assert allowance.over
    allowance.begin(100)
    assert allowance.left_ns == 70
    allowance.spend(20)
    allowance.begin(100)
    assert allowance.left_ns == 100, "what was left is gone"
