"""The histogram is within 1 % of the exact one."""

from __future__ import annotations

import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.clock import boottime_ns, monotonic_ns
from kernels.histogram import Histogram
from kernels.reference import clock as reference_clock
from kernels.reference import histogram as reference

NS = st.integers(0, 2**64 - 1) | st.integers(0, 10**6)
QUICK = settings(max_examples=150, deadline=None)


def filled(make, values):
    histogram = make()
    for value in values:
        histogram.record(value)
    return histogram


def exact_facts(histogram):
    return histogram.count, histogram.sum_ns, histogram.min_ns, histogram.max_ns


@QUICK
@given(st.lists(NS, max_size=60), st.floats(0, 1))
def test_quantiles_are_within_one_percent(values, q):
    kernel = filled(Histogram, values)
    exact = filled(reference.Histogram, values)
    assert exact_facts(kernel) == exact_facts(exact)
    assert abs(kernel.quantile(q) - exact.quantile(q)) <= exact.quantile(q) / 100


@QUICK
@given(st.lists(NS, max_size=60), st.lists(st.integers(0, 2**65), max_size=8).map(sorted))
def test_buckets_count_all_but_what_is_within_one_percent_of_a_bound(values, bounds):
    kernel, exact = filled(Histogram, values), filled(reference.Histogram, values)
    counted = kernel.buckets(bounds)
    assert counted == sorted(counted)
    low = exact.buckets([bound - bound // 100 - 1 for bound in bounds])
    high = exact.buckets([bound + bound // 100 + 1 for bound in bounds])
    assert all(a <= b <= c for a, b, c in zip(low, counted, high))


@QUICK
@given(st.lists(NS, max_size=30), st.lists(NS, max_size=30))
def test_merging_is_recording_in_one(left, right):
    merged, whole = filled(Histogram, left), filled(Histogram, left + right)
    merged.merge(filled(Histogram, right))
    assert exact_facts(merged) == exact_facts(whole)
    assert [merged.quantile(q / 10) for q in range(11)] == [whole.quantile(q / 10) for q in range(11)]


@QUICK
@given(st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_a_column_of_microseconds(values):
    column = memoryview(array.array("I", values))
    kernel, exact = Histogram(), reference.Histogram()
    kernel.record_many(column)
    exact.record_many(column)
    assert exact_facts(kernel) == exact_facts(exact)


def test_sums_beyond_64_bits_stay_exact():
    histogram = Histogram()
    for _ in range(5):
        histogram.record(2**64 - 1)
    assert histogram.sum_ns == 5 * (2**64 - 1)
    histogram.merge(histogram)
    assert (histogram.count, histogram.sum_ns) == (10, 10 * (2**64 - 1))


@QUICK
@given(st.lists(st.tuples(NS, st.integers(0, 20)), max_size=20), st.floats(0, 1))
def test_a_value_counts_as_often_as_told(values, q):
    kernel, exact, singly = Histogram(), reference.Histogram(), Histogram()
    for value, times in values:
        kernel.record(value, times)
        exact.record(value, times)
        for _ in range(times):
            singly.record(value)
    assert exact_facts(kernel) == exact_facts(exact) == exact_facts(singly)
    assert kernel.quantile(q) == singly.quantile(q)


def test_many_of_the_longest():
    histogram = Histogram()
    histogram.record(2**64 - 1, 2**63)
    histogram.record(2**64 - 1, 2**63 - 1)
    assert (histogram.count, histogram.sum_ns) == (2**64 - 1, (2**64 - 1) ** 2)


def test_empty():
    assert exact_facts(Histogram()) == (0, 0, 0, 0)
    assert Histogram().quantile(0.5) == 0


def test_what_cannot_be_asked():
    histogram = Histogram()
    for q in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="quantile"):
            histogram.quantile(q)
    with pytest.raises(ValueError, match="ascend"):
        histogram.buckets([2, 1])
    with pytest.raises(ValueError, match="4-byte"):
        histogram.record_many(memoryview(b"1234"))
    with pytest.raises(OverflowError):
        histogram.record(-1)


@pytest.mark.parametrize(
    ("kernel", "twin"),
    [(monotonic_ns, reference_clock.monotonic_ns), (boottime_ns, reference_clock.boottime_ns)],
)
def test_the_clocks_are_the_systems(kernel, twin):
    before, now, after = twin(), kernel(), twin()
    assert before <= now <= after
