"""It forecasts better than the last value, knows how wrong it is, and does not run away through itself."""

from __future__ import annotations

import math
import struct

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.nano.minds.agent import IDLE, WORKED
from swarm.nano.minds.credit import EligibilityTraces
from swarm.nano.minds.lipschitz import check
from swarm.nano.minds.strange_loop import LEVELS, StrangeLoop
from tests.unit.nano.fake_bus import FakeBus


def scheduler_like(seed, count):
    """Ticks a pass with a period and a load that wanders, a queue that follows, a jitter with heavy tails."""
    random = np.random.default_rng(seed)
    load, queue, series = 0.0, 45.0, []
    for t in range(count):
        load = 0.9 * load + random.normal()
        ticks = 50 + 10 * math.sin(2 * math.pi * t / 40) + 3 * load
        queue = 0.8 * queue + 0.2 * ticks + random.normal(0, 0.5)
        series.append((ticks, queue, 100 + random.standard_t(3)))
    return series


def told(series, **options):
    loop = StrangeLoop(len(series[0]), **options)
    for metrics in series:
        loop.observe(metrics)
    return loop


def test_it_beats_the_last_value_and_its_calibration_error_is_printed(capsys):
    loop = told(scheduler_like(1, 2500), seed=1)
    with capsys.disabled():
        print("\n" + loop.report())
    assert loop.skill()[0] > 0.0 and loop.skill()[1] > 0.25 and loop.skill()[2] > 0.2
    assert loop.calibration_error() < 0.015
    assert f"calibration error {loop.calibration_error():.3f} after 2500 steps" in loop.report()
    assert [level for level, _ in loop.calibration()] == list(LEVELS)


def test_it_is_calibrated_whatever_happens_to_the_metrics():
    """Scale and noise change at once, and heavy tails: coverage is a promise of the method, not of the model."""
    random = np.random.default_rng(2)
    series = [(10 + random.normal() * (1 if t < 1000 else 8) + (0 if t < 1500 else 50),) for t in range(2500)]
    loop = told(series, seed=1)
    assert loop.calibration_error() < 0.025
    heavy = told([(float(x),) for x in random.standard_cauchy(2500)], seed=1)
    assert heavy.calibration_error() < 0.025


def test_it_knows_how_wrong_it_is():
    random = np.random.default_rng(3)
    loop, foretold, seen = StrangeLoop(1, seed=1), [], []
    for t in range(3000):
        noise = 3.0 if t // 250 % 2 else 0.5  # calm and wild times in turn
        forecast = loop.observe([random.normal(0, noise)])
        foretold.append(forecast.own_error)
        seen.append(noise)
    own, said = loop.own_error_told()
    assert said == pytest.approx(own, rel=0.1)
    late = slice(1500, None)
    wild, calm = (np.mean(np.array(foretold[late])[np.array(seen[late]) == noise]) for noise in (3.0, 0.5))
    print(f"own error foretold: {wild:.2f} in wild times, {calm:.2f} in calm ones")
    assert wild > 1.3 * calm


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.6, 0.9, 0.99]), st.integers(0, 600))
def test_the_loop_through_itself_is_a_contraction(seed, lipschitz, learned):
    random = np.random.default_rng(seed)
    loop = told(scheduler_like(seed, learned + 1), seed=seed, lipschitz=lipschitz, memory=8)
    assert loop.bound() <= lipschitz + 1e-9
    rho, weight = loop.contraction()
    assert rho < 1
    one, other = ((random.uniform(-1, 1, 8), float(random.uniform(0, 3))) for _ in range(2))
    metrics = random.normal(0, 2, (31, 3))
    apart = np.linalg.norm(one[0] - other[0]) + weight * abs(one[1] - other[1])
    for before, now in zip(metrics, metrics[1:]):
        one, other = loop.transition(*one, before, now), loop.transition(*other, before, now)
        nearer = np.linalg.norm(one[0] - other[0]) + weight * abs(one[1] - other[1])
        assert nearer <= rho * apart * (1 + 1e-9) + 1e-12
        apart = nearer


def as_function(loop):
    """Memory and own error as one vector, under metrics that stay."""
    now = np.zeros(loop.metrics)

    def step(x):
        state, own = loop.transition(x[:-1], x[-1], now, now)
        return np.append(state, own)

    return step


def test_the_check_finds_its_bound_to_hold_and_a_planted_runaway_not_to():
    loop = told(scheduler_like(1, 600), seed=1, memory=6)
    box = [-1.0] * 6 + [0.0], [1.0] * 6 + [3.0]
    assert not check(as_function(loop), *box, 1.0, samples=100, climbs=2).violated
    loop._readout[:, :6] *= 200
    assert loop.bound() > 1
    found = check(as_function(loop), *box, 1.0, samples=100, climbs=2)
    assert found.violated
    print(f"bound {loop.bound():.1f} planted, slope {found.slope:.2f} found")


def test_copies_that_are_told_the_same_become_the_same():
    loop = told(scheduler_like(1, 500), seed=1)
    one, other = loop._state, -np.ones(24)
    own, wrong = loop._own, 5.0
    for metrics in np.random.default_rng(1).normal(size=(400, 3)):
        one, own = loop.transition(one, own, metrics, metrics)
        other, wrong = loop.transition(other, wrong, metrics, metrics)
    assert np.linalg.norm(one - other) < 1e-4 and abs(own - wrong) < 1e-4


def test_saved_and_restored_it_goes_on_the_same():
    series = scheduler_like(4, 500)
    whole, first, second = (StrangeLoop(3, seed=5) for _ in range(3))
    for at, metrics in enumerate(series):
        forecast = whole.observe(metrics, at % 3)
        if at < 300:
            first.observe(metrics, at % 3)
        else:
            if at == 300:
                second.restore(msgpack.unpackb(msgpack.packb(first.save())))
            again = second.observe(metrics, at % 3)
    assert again.metrics.tolist() == forecast.metrics.tolist() and again.value == forecast.value
    assert second.save() == whole.save() and second.report() == whole.report()
    assert told(series, seed=6).report() != told(series, seed=5).report()


def test_one_that_was_saved_before_it_saw_anything():
    first, second = StrangeLoop(2), StrangeLoop(2)
    second.restore(msgpack.unpackb(msgpack.packb(first.save())))
    assert second.observe([1.0, 2.0]).metrics.tolist() == first.observe([1.0, 2.0]).metrics.tolist()
    assert second.calibration_error() == 0.0


def test_as_an_agent_it_answers_with_what_it_expects():
    bus = FakeBus()
    loop, same = StrangeLoop(2, reads="load", writes="soon"), StrangeLoop(2)
    assert loop.tick(0, bus) == IDLE
    for at in range(60):
        bus.publish("load", struct.pack("<3d", at, 2 * at, -1.0))
        bus.turn()
        assert loop.tick(at, bus) == WORKED
        expected = same.observe([at, 2 * at], -1.0)
    bus.turn()
    (line,) = bus.read("soon")
    assert struct.unpack_from("<2d", line.payload) == tuple(expected.metrics)
    assert loop.credit.value(np.append(loop._state, 1.0)) < 0
    with pytest.raises(ValueError, match="a message of 56 bytes where 7 metrics and a reward take 64"):
        bus.publish("load", bytes(56))
        bus.turn()
        StrangeLoop(7, reads="load").tick(0, bus)
    full = FakeBus(room=0)
    full.inbox = {"load": [line]}
    loop.tick(61, full)
    assert loop.dropped == 1


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: StrangeLoop(0), "0 metrics"),
        (lambda: StrangeLoop(1, memory=0), "memory 0"),
        (lambda: StrangeLoop(1, lipschitz=1.0), "lipschitz 1.0"),
        (lambda: StrangeLoop(1, lipschitz=0.5), "lipschitz 0.5"),
        (lambda: StrangeLoop(1, forgetting=0.5), "forgetting 0.5"),
        (lambda: StrangeLoop(2).observe([1.0]), "2 metrics"),
        (lambda: StrangeLoop(1).observe([math.nan]), "finite"),
        (lambda: StrangeLoop(1).observe([1.0], math.inf), "finite"),
        (lambda: EligibilityTraces(0), "0 features"),
        (lambda: EligibilityTraces(1, discount=1.1), "discount 1.1"),
        (lambda: EligibilityTraces(1, trace=-0.1), "trace -0.1"),
        (lambda: EligibilityTraces(1, rate=0.0), "rate 0.0"),
    ],
)
def test_what_cannot_be_asked(make, what):
    with pytest.raises(ValueError, match=what):
        make()


def random_walk_error(trace, rate, seed, episodes=10):
    """Sutton and Barto's walk over 19 states, -1 to the left and +1 to the right of them: the error of the values
    learned."""
    random = np.random.default_rng(seed)
    traces = EligibilityTraces(19, discount=1.0, trace=trace, rate=rate)
    unit, true = np.eye(19), np.arange(-9, 10) / 10
    for _ in range(episodes):
        at = 9
        while 0 <= at < 19:
            to = at + random.choice((-1, 1))
            over = not 0 <= to < 19
            traces.step(unit[at], (to > 9) * 2.0 - 1 if over else 0.0, None if over else unit[to])
            at = to
    return float(np.sqrt(np.mean((traces.weights - true) ** 2)))


def test_traces_learn_faster_than_none():
    def best(trace):
        return min(
            np.mean([random_walk_error(trace, rate, seed) for seed in range(6)]) for rate in (0.1, 0.2, 0.4, 0.8)
        )

    without, with_traces = best(0.0), best(0.8)
    print(f"error after 10 episodes, each at its best rate: trace 0 {without:.3f}, trace 0.8 {with_traces:.3f}")
    assert with_traces < 0.85 * without


@pytest.mark.parametrize("replacing", [False, True])
def test_credit_goes_back_to_what_came_before(replacing):
    """A cue, seven steps later a loss: after some rounds it is the cue that surprises, not the loss, and the cue
    has the blame."""

    def round_of(traces):
        surprises = []
        for step in range(8):
            state, after = np.eye(9)[step], np.eye(9)[step + 1]
            surprises.append(traces.step(state, -1.0 if step == 7 else 0.0, after))
        traces.step(np.eye(9)[8], 0.0, None)
        return surprises

    traces = EligibilityTraces(9, discount=0.95, trace=0.9, rate=0.2, replacing=replacing)
    first = round_of(traces)
    assert first[7] == -1.0 and max(map(abs, first[:7])) == 0.0
    assert traces.credit[0] < 0 and (np.diff(traces.credit[:8]) < 0).all()  # the later, the more
    one_step = EligibilityTraces(9, discount=0.95, trace=0.0, rate=0.2)
    round_of(one_step)
    assert one_step.credit[0] == 0.0
    for _ in range(200):
        last = round_of(traces)
    assert abs(last[7]) < 0.01
    assert traces.value(np.eye(9)[0]) == pytest.approx(-(0.95**7), abs=0.02)
