"""A bound that does not hold is found not to, with two states that show it; one that holds is never found violated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.nano.minds.lipschitz import Watch, check, product_bound, slope_of
from tests.unit.nano.fake_bus import FakeBus

BOX = ([-1.0] * 3, [1.0] * 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, math.inf]))
def test_of_a_matrix_the_constant_is_its_norm(seed, norm):
    matrix = np.random.default_rng(seed).normal(size=(3, 3))
    exact = float(np.linalg.norm(matrix, norm))
    found = check(lambda x: matrix @ x, *BOX, exact, norm=norm, samples=30, climbs=1, seed=seed)
    assert not found.violated
    assert found.slope > 0.999 * exact
    assert check(lambda x: matrix @ x, *BOX, 0.99 * exact, norm=norm, samples=30, climbs=1, seed=seed).violated


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_what_is_proven_is_never_found_violated(seed):
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(3, 4)), random.normal(size=(4, 3))
    bound = product_bound(first, second)
    found = check(lambda x: np.tanh(first @ np.tanh(second @ x)), *BOX, bound, samples=60, climbs=2, seed=seed)
    assert not found.violated and 0 < found.slope <= bound


def cliff(x):
    """Gentle but for a narrow step: slope 60 within 0.01 of 0.37."""
    return 0.5 * x + 0.3 * np.tanh(200 * (x - 0.37))


def test_a_planted_cliff_is_found_with_two_states_that_show_it():
    found = check(cliff, [0.0], [1.0], 1.0, samples=200, seed=1)
    assert found.violated and 50 < found.slope <= 60.5
    shown = abs(cliff(found.a) - cliff(found.b)) / abs(found.a - found.b)
    assert shown[0] == pytest.approx(found.slope, rel=1e-6)
    assert ((found.a >= 0) & (found.a <= 1) & (found.b >= 0) & (found.b <= 1)).all()
    print(f"steepest slope found {found.slope:.1f}, exact 60.5, {found.calls} calls")


def test_climbing_finds_what_samples_alone_do_not():
    def ridge(x):
        return np.array([np.sin(3 * x[0]) * np.exp(-20 * ((x[1] - 0.6) ** 2 + (x[2] + 0.3) ** 2)), x[1]]) * 2

    without = [check(ridge, *BOX, 1.0, samples=30, climbs=0, seed=seed).slope for seed in range(10)]
    climbing = [check(ridge, *BOX, 1.0, samples=30, climbs=5, seed=seed).slope for seed in range(10)]
    assert np.median(climbing) > 1.3 * np.median(without)
    assert max(climbing) <= 6.0 * 1.5


def test_rounding_is_not_a_violation():
    """States a rounding error apart: a constant function with noise in the last bit."""
    assert slope_of(np.array([1.0]), np.array([1.0 + 2**-52]), np.array([1e6]), np.array([1e6 + 2**-33])) == 0.0
    found = check(lambda x: x + 1e9, [0.0], [1e-7], 1.0, samples=300)
    assert not found.violated


def test_the_same_seed_finds_the_same():
    one, two = (check(cliff, [0.0], [1.0], 1.0, seed=3) for _ in range(2))
    assert one.slope == two.slope and one.a == two.a and one.calls == two.calls


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: check(cliff, [1.0], [1.0], 1.0), "box"),
        (lambda: check(cliff, [0.0], [math.inf], 1.0), "box"),
        (lambda: check(cliff, [0.0, 1.0], [2.0], 1.0), "box"),
        (lambda: check(cliff, [0.0], [1.0], -1.0), "bound -1.0"),
        (lambda: check(cliff, [0.0], [1.0], math.nan), "bound nan"),
        (lambda: check(cliff, [0.0], [1.0], 1.0, norm=3), "norm 3"),
        (lambda: check(lambda x: x * math.inf, [1.0], [2.0], 1.0), "is \\[inf\\]"),
        (lambda: Watch(Leaky(), lambda: 0.0, math.nan), "bound nan"),
    ],
)
def test_what_cannot_be_asked(make, what):
    with pytest.raises(ValueError, match=what):
        make()


class Leaky:
    """A leaky integrator of what it is told, which from 50 on runs away: a planted fault."""

    def __init__(self, level=10.0, pole=0.9, fault=math.inf):
        self.level, self.pole, self.fault, self.told = level, pole, fault, 0.0

    def tick(self, now_ns, bus):
        self.level = self.pole * self.level + self.told
        if self.level > self.fault:
            self.level *= 3
        return 1


def driven(agent, bound, count=300, **options):
    noise = np.random.default_rng(4)
    watch = Watch(agent, lambda: [agent.level], bound, **options)
    for now in range(count):
        agent.told = float(noise.uniform(0, 8))
        assert watch.tick(now, FakeBus()) == 1
    return watch


def test_transitions_within_their_bound_are_not_found():
    agent = Leaky()
    watch = driven(agent, math.hypot(0.9, 1.0), inputs=lambda: [agent.told])
    assert watch.violations == 0 and watch.transitions == 300
    assert 1.0 < watch.worst.slope <= math.hypot(0.9, 1.0) * (1 + 1e-9)


def test_a_planted_fault_in_transitions_is_found_and_told():
    agent, told = Leaky(fault=45.0), []
    watch = driven(agent, math.hypot(0.9, 1.0), inputs=lambda: [agent.told], on_violation=told.append)
    assert watch.violations == len(told) > 0
    assert told[0].violated and watch.worst.slope == max(pair.slope for pair in told)


def test_what_is_raised_on_a_violation_ends_the_tick():
    def stop(pair):
        raise RuntimeError(f"slope {pair.slope:.1f}")

    with pytest.raises(RuntimeError, match="slope"):
        driven(Leaky(fault=45.0), 2.0, on_violation=stop)
