"""Strict classes with ageing, held against an oracle that sorts."""

from __future__ import annotations

from backlog import Backlog, Cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import Priority as Class
from swarm.nano.topologies import Due, Priority

CLASSES = {"low": Class.LOW, "mid": Class.STANDARD, "high": Class.HIGH, "top": Class.CRITICAL}
AGEING_NS = 100


def level(one, now):
    """As the docs have it: a class for each AGEING_NS of waiting, HIGH at most."""
    klass = CLASSES[one.group]
    if klass >= Class.HIGH:
        return klass
    return min(Class.HIGH, klass + max(0, now - one.waiting_since_ns) // AGEING_NS)


def oracle(due, now, capacity):
    """(cohort, agents) in the order in which they should run."""
    out = []
    for one in sorted(due, key=lambda one: (-level(one, now), one.waiting_since_ns, one.cohort)):
        agents = one.agents
        if one.cost_ns > capacity:  # as few as fill the pass
            agents = next(k for k in range(1, one.agents + 1) if one.cost_of(k) >= capacity)
        if capacity > 0:
            out.append((one.cohort, agents))
            capacity -= one.cost_of(agents)
    return out


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(CLASSES)), st.integers(1, 20), st.integers(0, 500), st.integers(0, 350)),
        max_size=12,
    ),
    st.integers(0, 2_000),
)
def test_the_order_is_the_oracles(rows, capacity):
    now = 400
    due = [Due(group, i, agents, cost, now - age) for i, (group, agents, cost, age) in enumerate(rows)]
    topology = Priority(CLASSES, ageing_ns=AGEING_NS)
    topology.bind(list(CLASSES), 0)
    topology.begin(now, capacity)
    got = [(grant.due.cohort, grant.agents) for grant in topology.order(now, due)]
    assert got == oracle(due, now, capacity)


def test_critical_goes_before_all_and_the_aged_before_the_fresh():
    cohorts = {0: Cohort("top", 10), 1: Cohort("high", 10), 2: Cohort("low", 10)}
    there = Backlog(Priority({"top": "critical", "high": 2, "low": Class.LOW}, ageing_ns=10_000), cohorts)
    there.arrive(2, 30)
    firsts = []
    for _ in range(60):
        there.refill(1, cost_ns=2_000)
        there.arrive(0, 5)
        grants = there.run(1_000)
        firsts.append(grants[0].due.cohort)
        assert [grant.due.cohort for grant in grants if grant.due.cohort == 0] == [0]
        if there.used[2]:
            break
    assert set(firsts) == {0}
    # two classes up takes 20,000 ns; HIGH agents that came earlier are before it
    assert 20_000 <= there.now_ns <= 25_000
    assert there.used[2] == 300


def test_numbers_and_names_of_classes_are_the_fleets():
    assert Priority({"a": "High"}).save() == Priority({"a": Class.HIGH}).save() == Priority({"a": 2}).save()
