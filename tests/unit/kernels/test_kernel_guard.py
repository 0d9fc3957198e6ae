"""A guard counts every measurement, exactly, and tells what was over budget."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.guard import Guard
from kernels.reference import guard as reference
from kernels.reference import ticks as reference_ticks
from kernels.ticks import Calibration

QUICK = settings(max_examples=150, deadline=None)
FIRST, LAST = (10**6, 10**9, 0), (10**6 + 25 * 10**6, 10**9 + 10**7, 0)  # 2.5 GHz
TICKS = st.integers(0, 1_030) | st.integers(0, 2**40) | st.integers(2**62, 2**64 - 1)


def clock():
    return Calibration.of(FIRST, LAST)


@QUICK
@given(
    st.lists(st.tuples(TICKS, st.just(1) | st.integers(0, 300)), max_size=300),
    st.none() | st.integers(0, 500) | st.integers(0, 2**64 - 1),
)
def test_a_guard_counts_as_its_twin(taken, budget_ns):
    kernel = Guard(clock(), budget_ns)
    twin = reference.Guard(reference_ticks.Calibration(FIRST, LAST), budget_ns)
    for ticks, agents in taken:
        assert kernel.take(ticks, agents) == twin.take(ticks, agents)
    for fact in ("measured", "violations", "backwards", "worst_ns"):
        assert getattr(kernel, fact) == getattr(twin, fact)
    for fact in ("count", "sum_ns", "min_ns", "max_ns"):
        assert getattr(kernel.times, fact) == getattr(twin.times, fact)
    assert kernel.times.quantile(0.5) == pytest.approx(twin.times.quantile(0.5), rel=0.01)


def test_more_long_ticks_than_are_kept_at_a_time():
    guard = Guard(clock(), 1_000)
    for i in range(1_000):
        assert guard.take(10_000 + i) is True
    assert guard.times.count == guard.measured == guard.violations == 1_000
    assert guard.times.sum_ns == sum(round((10_000 + i) * 0.4) for i in range(1_000))
    assert guard.times.count == 1_000  # asking twice counts nothing twice


def test_chained_one_reading_an_agent():
    guard = Guard(clock(), 2**63)
    guard.begin()
    assert [guard.chain() for _ in range(100)] == [False] * 100
    assert guard.measured == guard.times.count == 100
    slow = Guard(Calibration(0.001), 1_000_000)
    slow.begin()
    time.sleep(0.005)
    assert slow.chain() is True
    assert slow.worst_ns > 4_000_000


def test_a_span_is_shared_evenly():
    guard = Guard(clock(), 4)  # 10 ticks
    assert guard.take(1_003, 100) is True
    assert guard.take(1_000, 100) is False
    assert (guard.measured, guard.violations) == (200, 100)
    assert guard.times.sum_ns == 197 * 4 + 3 * 4  # 10 ticks are 4 ns, and 11 are 4.4
    guard.begin()
    assert guard.span(0) is False
    assert guard.measured == 200


@pytest.mark.parametrize("every", [1, 2, 7, 64, 2**32 - 1])
def test_sampled_about_one_in_so_many(every):
    guard = Guard(clock(), every=every, seed=3)
    agents = 30_000
    looked = [guard.look() for _ in range(agents)]
    for look in looked:
        guard.seen(look)
    assert guard.measured == sum(looked)
    expected = agents / every
    assert abs(sum(looked) - expected) <= 1 + 5 * expected**0.5
    if every == 7:
        # Distances of all lengths: no order of the population can hide from it.
        at = [i for i, look in enumerate(looked) if look]
        assert {b - a for a, b in zip(at, at[1:])} == set(range(1, 2 * every))


def test_the_same_seed_looks_at_the_same():
    def looked(seed):
        guard = Guard(clock(), every=5, seed=seed)
        return [guard.look() for _ in range(500)]

    assert looked(1) == looked(1)
    assert looked(1) != looked(2)


def test_what_cannot_be_asked():
    for bad in (-1, 2**64):
        with pytest.raises(ValueError, match="budget"):
            Guard(clock(), bad)
    with pytest.raises(ValueError, match="every 0"):
        Guard(clock(), every=0)
    with pytest.raises(TypeError):
        Guard(None)
