"""Ticks become ns as exactly as integers can, time never runs backwards, and what cannot be trusted is not used."""

from __future__ import annotations

import os
import time
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import ticks
from kernels.reference import ticks as reference
from kernels.ticks import Calibration

QUICK = settings(max_examples=200, deadline=None)
U64 = st.integers(0, 2**64 - 1)
HZ = st.integers(ticks.SLOWEST_HZ, ticks.FASTEST_HZ) | st.sampled_from([24_000_000, 10**9, 2_500_000_000])


@QUICK
@given(U64, U64, st.integers(1, 63))
def test_scaling_is_exact_with_and_without_wide_integers(a, mult, shift):
    expected = reference.scaled(a, mult, shift)
    assert ticks.scaled(a, mult, shift) == expected
    assert ticks.scaled_by_halves(a, mult, shift) == expected


def reading(hz, ns, start=(10**6, 10**9), width=0):
    """Of a counter of this rate, `ns` after it was at `start`."""
    return start[0] + ns * hz // 10**9, start[1] + ns, width


@QUICK
@given(HZ, st.integers(10**5, 10**9), st.lists(U64, max_size=5), st.integers(0, 2**60))
def test_a_fit_tells_what_its_twin_tells(hz, window_ns, values, start):
    first, last = reading(hz, 0, (start, 2 * 10**18)), reading(hz, window_ns, (start, 2 * 10**18))
    kernel, twin = Calibration.of(first, last), reference.Calibration(first, last)
    assert (kernel.reason, kernel.mult, kernel.shift) == (twin.reason, twin.mult, reference.SHIFT)
    if kernel.reason == "":
        assert kernel.to_ns(first[0]) == first[1]
        assert abs(kernel.to_ns(last[0]) - last[1]) <= 1
    for value in values:
        assert kernel.duration_ns(value) == twin.duration_ns(value)
        assert kernel.of_ns(value) == twin.of_ns(value)
        assert kernel.to_ns(value) == twin.to_ns(value)


def test_an_hour_of_ticks_is_an_hour():
    for hz in (24_000_000, 2_499_999_983):
        clock = Calibration.of(reading(hz, 0), reading(hz, 10**9))
        assert clock.hz == pytest.approx(hz, rel=1e-6)
        hour = 3_600 * 10**9
        assert abs(clock.to_ns(reading(hz, hour)[0]) - (10**9 + hour)) < 1e-7 * hour
        assert abs(clock.duration_ns(clock.of_ns(hour)) - hour) <= 1e9 / hz + 1e-9 * hour


def test_readings_of_before_the_fit_lie_before_it():
    clock = Calibration.of(reading(10**9, 0), reading(10**9, 10**6))
    assert clock.to_ns(10**6 - 500) == 10**9 - 500
    assert clock.to_ns(0) == 10**9 - 10**6


@QUICK
@given(
    HZ,
    st.lists(
        st.tuples(st.integers(1, 10**10), st.integers(-2_000, 2_000), st.integers(0, 3_000)), min_size=1, max_size=8
    ),
)
def test_time_never_runs_backwards_however_it_is_refitted(hz, steps):
    first, last = reading(hz, 0), reading(hz, 10**7)
    kernel, twin = Calibration.of(first, last), reference.Calibration(first, last)
    now, told = 10**7, 0
    for step, error, width in steps:
        now += step
        pair = reading(hz, now + error, width=width)
        pair = (reading(hz, now)[0], pair[1], width)
        before = kernel.to_ns(pair[0])
        assert before >= told
        assert kernel.refit(pair) == pytest.approx(twin.refit(pair))
        assert (kernel.mult, kernel.to_ns(pair[0])) == (twin.mult, twin.to_ns(pair[0]))
        told = kernel.to_ns(pair[0])
        assert told >= before


def test_a_wrong_rate_is_made_good_by_and_by():
    hz, wrong = 2_500_000_000, 2_500_250_000  # 100 ppm
    clock = Calibration.of(reading(wrong, 0), reading(wrong, 10**7))
    at = 10**7
    start = reading(wrong, 10**7)
    errors = []
    for _ in range(20):
        at += 10**8
        pair = (start[0] + (at - 10**7) * hz // 10**9, 10**9 + at, 0)
        errors.append(abs(pair[1] - clock.to_ns(pair[0])))
        clock.refit(pair)
    assert errors[0] == pytest.approx(10_000, rel=0.01)  # ns: 100 ppm of 0.1 s
    assert errors[-1] < errors[0] / 100
    assert clock.hz == pytest.approx(hz, rel=1e-5)


def test_another_rate_than_before_is_learnt_from_what_is_new():
    clock = Calibration.of(reading(10**9, 0), reading(10**9, 10**9))
    ticks_now, ns = reading(10**9, 10**9)[:2]
    for _ in range(40):  # a machine that was moved to another one, of twice the rate
        ticks_now, ns = ticks_now + 2 * 10**8, ns + 10**8
        clock.refit((ticks_now, ns, 0))
    assert clock.hz == pytest.approx(2e9, rel=1e-3)


def test_a_clock_that_is_far_behind_steps_forward():
    clock = Calibration.of(reading(10**9, 0), reading(10**9, 10**7))
    late = (10**6 + 2 * 10**7, 10**9 + 10**10, 0)  # the counter stood still
    assert clock.refit(late) > 1000
    assert clock.to_ns(late[0]) == late[1]


def test_readings_that_go_backwards_change_nothing():
    clock = Calibration.of(reading(10**9, 0), reading(10**9, 10**7))
    had = clock.mult, clock.to_ns(10**8)
    for pair in ((10**6 + 5, 2 * 10**9, 0), (10**9, 10**9, 0)):
        assert clock.refit(pair) == 0.0
    assert (clock.mult, clock.to_ns(10**8), clock.refits) == (*had, 0)


@pytest.mark.parametrize(
    ("first", "last"),
    [((5, 0, 0), (5, 100, 0)), ((5, 0, 0), (4, 100, 0)), ((0, 9, 0), (9, 9, 0)), ((0, 0, 0), (10, 10**6, 0))],
)
def test_a_counter_that_does_not_count_is_not_used(first, last):
    clock = Calibration.of(first, last)
    assert clock.source == "clock_gettime"
    assert "ticks in" in clock.reason
    assert (clock.duration_ns(77), clock.of_ns(77), clock.to_ns(77), clock.hz) == (77, 77, 77, 1e9)
    assert clock.refit() == 0.0


def test_why_a_counter_is_not_trusted():
    assert ticks.distrust(True, 0, "tsc") == ""
    assert "no counter" in ticks.distrust(True, 0, "")
    assert "not invariant" in ticks.distrust(False, 0, "tsc")
    assert "90 ticks behind" in ticks.distrust(True, 90, "tsc")
    assert "no thread" in ticks.distrust(True, -1, "tsc")


def system_ns():
    return time.clock_gettime_ns(getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC))


@pytest.mark.parametrize("counter", [True, False])
def test_this_machine_tells_the_time(counter):
    clock = Calibration(0.002, counter=counter)
    assert (clock.source == "clock_gettime") == (clock.reason != "")
    assert counter or clock.reason == "as asked"
    for _ in range(3):
        before, now, after = system_ns(), clock.now_ns(), system_ns()
        slack_ns = 1_000_000  # readings that were interrupted are wide
        assert before - slack_ns <= now <= after + slack_ns
        clock.refit()
    assert clock.ticks() < clock.ticks() + 1
    assert clock.uncertainty_ppm >= 0


def test_a_calibration_leaves_the_thread_on_its_cores():
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("no affinity on this system")
    had = os.sched_getaffinity(0)
    Calibration(0.001)
    assert os.sched_getaffinity(0) == had


def test_the_noise_floor_is_that_of_two_readings():
    clock = Calibration(0.001)
    gaps = array("Q", bytes(8 * 5_000))
    clock.back_to_back(gaps)
    assert 0 <= clock.duration_ns(sorted(gaps)[2_500]) < 100_000
    assert sum(gaps) > 0
    clock.back_to_back(array("Q"))
    with pytest.raises(ValueError, match="Buffer"):
        clock.back_to_back(array("I", [0]))


def test_what_cannot_be_asked():
    for window_s in (0.0, -1.0, 11.0, float("nan")):
        with pytest.raises(ValueError, match="window"):
            Calibration(window_s)
    for shift in (0, 64):
        for scale in (ticks.scaled, ticks.scaled_by_halves, reference.scaled):
            with pytest.raises(ValueError, match="shift"):
                scale(1, 1, shift)
