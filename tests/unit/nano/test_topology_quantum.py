"""The register chooses by Born's rule: chi-square against probabilities computed otherwise."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from backlog import Backlog, Cohort

from swarm.nano.topologies import Due, Quantum


def chi_square(counts, probabilities):
    n = sum(counts.values())
    return sum((counts[key] - n * p) ** 2 / (n * p) for key, p in probabilities.items() if p)


def critical(freedom, z=3.09):
    """The 99.9 % point (Wilson and Hilferty, 1931)."""
    return freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3


def choices(topology, waited, draws):
    """How often each group is first, when all have work."""
    counts = Counter()
    due = [Due(group, i, 100, 100, 1_000_000 - wait) for i, (group, wait) in enumerate(waited.items())]
    for _ in range(draws):
        topology.begin(1_000_000, 1)
        counts[next(iter(topology.order(1_000_000, due))).due.group] += 1
    return counts


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("weights", [[1, 1], [5, 3, 2], [0.1, 1, 1, 4, 8, 0.5, 2]])
def test_born_statistics(seed, weights):
    groups = [f"g{i}" for i in range(len(weights))]
    topology = Quantum(dict(zip(groups, weights)))
    topology.bind(groups, seed)
    counts = choices(topology, dict.fromkeys(groups, 0), 4_000)
    wanted = {group: weight / sum(weights) for group, weight in zip(groups, weights)}
    assert chi_square(counts, wanted) < critical(len(groups) - 1)


def amplified(p):
    """sin^2((2r + 1) a) with the r that is raised to before it falls, 16 at most."""
    a = math.asin(math.sqrt(p))
    best = p
    for r in range(1, 17):
        if math.sin((2 * r + 1) * a) ** 2 <= best:
            break
        best = math.sin((2 * r + 1) * a) ** 2
    return best


@pytest.mark.parametrize("weights", [[1, 9], [0.02, 1, 1], [1, 1, 1, 1], [7, 3], [0.0001, 0.0003, 1, 5, 9]])
def test_the_impatient_are_amplified_as_grover_says(weights):
    groups = [f"g{i}" for i in range(len(weights))]
    topology = Quantum(dict(zip(groups, weights)), patience_ns=10)
    topology.bind(groups, 5)
    impatient = groups[:1] if len(groups) < 5 else groups[:2]
    probabilities = topology.superposition({group: group in impatient for group in groups})
    share = sum(weights[: len(impatient)]) / sum(weights)
    marked = amplified(share)
    scale = {True: marked / share, False: (1 - marked) / (1 - share)}
    wanted = {group: scale[group in impatient] * w / sum(weights) for group, w in zip(groups, weights)}
    for i, group in enumerate(groups):
        assert probabilities[i] == pytest.approx(wanted[group], abs=1e-9)
    counts = choices(topology, {group: 50 if group in impatient else 0 for group in groups}, 3_000)
    rare = {group: p for group, p in wanted.items() if p * 3_000 < 5}
    common = {group: p for group, p in wanted.items() if group not in rare}
    if len(common) > 1:
        assert chi_square(counts, common) < critical(len(common) - 1) + 5 * len(rare)
    assert sum(counts[group] for group in rare) <= 3_000 * sum(rare.values()) + 15
    assert marked >= share


def test_shares_of_time_are_the_weights():
    there = Backlog(Quantum({"a": 3.0}), {0: Cohort("a", 40), 1: Cohort("b", 90)})
    for _ in range(400):
        there.refill(0, 1, cost_ns=20_000)
        there.run(10_000)
        for cohort in there.cohorts.values():  # nobody becomes impatient
            cohort.waiting = [[there.now_ns, agents] for _, agents in cohort.waiting]
    part = there.used[0] / sum(there.used.values())
    # 6,400 choices: the standard deviation of the part is 0.0054
    assert part == pytest.approx(0.75, abs=0.02)


def test_a_seed_gives_one_run():
    def run(seed):
        topology = Quantum()
        topology.bind([f"g{i}" for i in range(9)], seed)
        return [next(iter(_first(topology, i))).due.cohort for i in range(60)]

    def _first(topology, i):
        topology.begin(i, 10)
        return topology.order(i, [Due(f"g{n}", n, 1, 10, i) for n in range(9)])

    assert run(4) == run(4)
    assert run(4) != run(5)


def test_only_those_with_work_are_chosen_and_groups_may_come_later():
    topology = Quantum()
    topology.bind(["a", "b", "c"], 1)
    assert set(choices(topology, {"b": 0, "c": 0}, 200)) == {"b", "c"}
    topology.bind(["d"], 1)
    assert set(choices(topology, {"d": 0, "c": 0}, 200)) == {"d", "c"}


def test_ten_qubits():
    groups = [f"g{i}" for i in range(1024)]
    topology = Quantum()
    topology.bind(groups, 2)
    due = [Due(group, i, 1, 16, 0) for i, group in enumerate(groups)]
    topology.begin(0, 64)
    assert len({grant.due.cohort for grant in topology.order(0, due)}) == 4
