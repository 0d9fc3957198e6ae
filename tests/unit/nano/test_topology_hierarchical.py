"""Shares down a tree: within 2 % over a second, and what is not used is lent to the nearest."""

from __future__ import annotations

import pytest
from backlog import Backlog, Cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.nano.topologies import Hierarchical, Share
from swarm.nano.topologies.hierarchical import max_min

SECOND_NS = 10**9
PASS_NS = 1_000_000


def second(shares, cohorts, working=None, **settings):
    """A second of passes of a millisecond: what each group used, as a part of it."""
    there = Backlog(Hierarchical(shares, **settings), cohorts)
    for number in range(SECOND_NS // PASS_NS):
        busy = [n for n in cohorts if working is None or working(n, number)]
        there.refill(*busy, cost_ns=3 * PASS_NS)
        there.run(PASS_NS)
    return {group: ns / SECOND_NS for group, ns in there.group_used().items()}


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(100, 400_000)), min_size=2, max_size=5),
)
def test_shares_over_a_second(leaves):
    """Whatever an agent costs, up to 0.4 of a pass."""
    total = sum(share for share, _ in leaves)
    shares = {f"g{i}": float(share) for i, (share, _) in enumerate(leaves)}
    used = second(shares, {i: Cohort(f"g{i}", cost) for i, (_, cost) in enumerate(leaves)})
    for i, (share, _) in enumerate(leaves):
        assert used[f"g{i}"] == pytest.approx(share / total, abs=0.004, rel=0.02)


def test_an_agent_that_costs_many_passes_gets_its_share_and_no_more():
    shares = {"large": 0.3, "small": 0.7}
    used = second(shares, {0: Cohort("large", 9_500_000), 1: Cohort("small", 50)})
    assert used["large"] == pytest.approx(0.3, abs=0.01)
    assert used["small"] == pytest.approx(0.7, abs=0.01)


TREE = {"robots": Share(0.6, {"left": 1, "right": 1}), "rest": 0.4}
LEAVES = {0: Cohort("left", 700), 1: Cohort("right", 1_100), 2: Cohort("rest", 90)}


def leaves():
    return {number: Cohort(cohort.group, cohort.cost_ns) for number, cohort in LEAVES.items()}


@pytest.mark.parametrize(
    ("idle", "wanted"),
    [
        (set(), {"left": 0.3, "right": 0.3, "rest": 0.4}),
        ({1}, {"left": 0.6, "rest": 0.4}),  # lent to the sibling, not to the uncle
        ({2}, {"left": 0.5, "right": 0.5}),
        ({0, 1}, {"rest": 1.0}),
        ({1, 2}, {"left": 1.0}),
    ],
)
def test_what_one_does_not_use_the_nearest_use(idle, wanted):
    used = second(TREE, leaves(), lambda number, _: number not in idle)
    assert used == {group: pytest.approx(share, abs=0.002) for group, share in wanted.items()}


def test_who_wants_less_than_its_share_gets_it_and_the_rest_is_lent():
    there = Backlog(Hierarchical({"a": 0.5, "b": 0.25, "c": 0.25}), {i: Cohort(g, 1_000) for i, g in enumerate("abc")})
    for _ in range(1_000):
        there.arrive(0, 100)  # a tenth of a pass
        there.refill(1, 2, cost_ns=3 * PASS_NS)
        there.run(PASS_NS)
        assert not there.cohorts[0].waiting, "below its share nobody waits"
    used = {group: ns / SECOND_NS for group, ns in there.group_used().items()}
    assert used == {group: pytest.approx(part, abs=0.002) for group, part in {"a": 0.1, "b": 0.45, "c": 0.45}.items()}


def test_what_was_lent_is_given_back_at_once():
    """Who comes back has its share from the first pass on; who used it meanwhile owes nothing."""
    there = Backlog(Hierarchical({"a": 0.5, "b": 0.5}, burst_ns=1_000), {0: Cohort("a", 100), 1: Cohort("b", 100)})
    for _ in range(200):
        there.refill(0, cost_ns=3 * PASS_NS)
        there.run(PASS_NS)
    before = there.used.copy()
    for _ in range(10):
        there.refill(0, 1, cost_ns=3 * PASS_NS)
        there.run(PASS_NS)
    burst_ns = 2 * PASS_NS + 1_000
    for number in (0, 1):
        assert there.used[number] - before[number] == pytest.approx(10 * PASS_NS / 2, abs=burst_ns)


def test_by_turns():
    """Groups that work every other ms: what the buckets kept is used, and no share is lost."""
    used = second({"a": 0.5, "b": 0.5}, {0: Cohort("a", 300), 1: Cohort("b", 300)}, lambda n, t: n == 0 or t % 2 == 0)
    assert used["a"] + used["b"] == pytest.approx(1.0, abs=0.001)
    assert 0.25 <= used["b"] <= 0.51


def test_measured_costs_are_borne_by_their_group():
    there = Backlog(Hierarchical({"a": 0.5, "b": 0.5}), {0: Cohort("a", 100), 1: Cohort("b", 100)})
    used = [0, 0]
    for _ in range(1_000):
        there.refill(0, 1, cost_ns=3 * PASS_NS)
        there.topology.begin(there.now_ns, PASS_NS)
        for grant in there.topology.order(there.now_ns, there.due()):
            cost = grant.cost_ns * (3 if grant.due.cohort == 0 else 1)
            used[grant.due.cohort] += cost
            there.topology.ran(grant, cost)
        there.now_ns += PASS_NS
    assert used[0] / sum(used) == pytest.approx(0.5, abs=0.02)


AMOUNTS = st.integers(0, 10**6)


@settings(max_examples=300, deadline=None)
@given(AMOUNTS, st.lists(st.tuples(st.integers(1, 50), AMOUNTS), min_size=1, max_size=8))
def test_parts_are_max_min_fair(amount, children):
    weights, demands = zip(*children)
    parts = max_min(amount, weights, demands)
    n = len(parts)
    assert all(0 <= part <= demand for part, demand in zip(parts, demands))
    assert sum(parts) <= amount
    assert sum(parts) >= min(amount, sum(demands)) - n  # all but roundings is given out
    for i in range(n):
        if parts[i] < demands[i]:  # who is not content has as much for its weight as anybody
            for j in range(n):
                assert parts[i] * weights[j] >= (parts[j] - n) * weights[i] - weights[j] * n
