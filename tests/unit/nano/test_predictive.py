"""It hits more often than the last value does, and publishes what an agent without forecasts would."""

from __future__ import annotations

import math
import random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.nano.minds.agent import IDLE, WORKED, as_f64, f64_of
from swarm.nano.minds.predictive import Context, LastValue, PredictiveAgent, Stride, Trend, usual_forecasters
from tests.unit.nano.fake_bus import FakeBus


def fed(series, **options):
    agent = PredictiveAgent(lambda value: value * 2, **options)
    for value in series:
        agent.take(value)
        agent.work_ahead()
    return agent


def pattern(seed, length, count):
    values = random.Random(seed)
    cycle = [float(values.randint(0, 9)) for _ in range(length)]
    return [cycle[i % length] for i in range(count)]


def stairs(seed, count):
    """A price in ticks of one, that keeps its direction for a while."""
    moves, level, step, series = random.Random(seed), 100.0, 1.0, []
    for _ in range(count):
        if moves.random() < 0.1:
            step = moves.choice([-1.0, 0.0, 1.0])
        level += step
        series.append(level)
    return series


def sawtooth(seed, count):
    noise = random.Random(seed)
    return [(i % 50) * 3.0 + noise.choice([0.0] * 9 + [1.0]) for i in range(count)]


def noisy_ramp(seed, count):
    noise = random.Random(seed)
    return [0.7 * i + noise.gauss(0, 0.1) for i in range(count)]


@pytest.mark.parametrize(
    ("series", "tolerance", "at_least"),
    [
        (pattern(1, 7, 2000), 0.0, 0.95),
        (pattern(2, 23, 2000), 0.0, 0.9),
        (stairs(3, 2000), 0.0, 0.75),
        (sawtooth(4, 2000), 0.0, 0.6),
        (noisy_ramp(5, 2000), 1.0, 0.5),
        ([float(i) for i in range(2000)], 0.0, 0.98),
    ],
    ids=["cycle of 7", "cycle of 23", "price", "sawtooth", "ramp with noise", "count"],
)
def test_it_beats_the_last_value(series, tolerance, at_least):
    agent = fed(series, tolerance=tolerance)
    print(f"hit rate {agent.hit_rate:.3f}, last value {agent.baseline_hit_rate:.3f}")
    assert agent.hit_rate >= at_least
    assert agent.hit_rate > agent.baseline_hit_rate + 0.2
    assert agent.ready >= 0.9 * agent.hits


def test_it_is_no_worse_where_the_last_value_is_best():
    jumps = random.Random(6)
    level, series = 0.0, []
    for _ in range(3000):
        level = jumps.random() if jumps.random() < 0.2 else level
        series.append(level)
    agent = fed(series)
    assert agent.hit_rate >= agent.baseline_hit_rate - 0.01


def test_on_noise_it_stops_working_ahead():
    noise = random.Random(7)
    agent = fed([noise.random() for _ in range(2000)])
    assert agent.hits == 0
    assert agent.discarded <= 20


def test_more_guesses_ahead_are_more_results_in_time():
    """A cycle in which two values may follow a third."""
    choice = random.Random(8)
    series = [value for _ in range(1000) for value in (0.0, choice.choice([1.0, 2.0]))]
    kinds = lambda: [LastValue(), Context(1), Context(2), Context(4), Context(8)]  # noqa: E731
    one, three = fed(series, forecasters=kinds()), fed(series, forecasters=kinds(), ahead=3)
    assert three.ready > one.ready
    assert three.hits == one.hits
    assert three.discarded > one.discarded


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6), max_size=80),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(1, 4),
)
def test_results_are_those_of_an_agent_without_forecasts(series, tolerance, ahead):
    def work(value):
        return math.sin(value) + value

    agent = PredictiveAgent(work, tolerance=tolerance, ahead=ahead, trust=0.0)
    plain = PredictiveAgent(work, tolerance=tolerance, forecasters=[])
    for value in series:
        assert agent.take(value) == plain.take(value)
        agent.work_ahead(), plain.work_ahead()
    assert plain.ready == plain.discarded == 0
    assert agent.inputs == len(series)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5).map(float), max_size=60), st.lists(st.integers(0, 5).map(float), max_size=30))
def test_saved_and_restored_it_goes_on_the_same(before, after):
    first, second = fed(before), PredictiveAgent(lambda value: value * 2)
    second.restore(msgpack.unpackb(msgpack.packb(first.save())))
    for value in after:
        assert first.take(value) == second.take(value)
        assert first.work_ahead() == second.work_ahead()
        assert first.forecast() == second.forecast()
    assert first.save() == second.save()


@pytest.mark.parametrize("tolerance", [0.0, 0.5, 1e-300])
def test_zeros_of_either_sign_and_huge_values_have_one_result(tolerance):
    agent = PredictiveAgent(lambda value: math.copysign(1.0, value) * abs(value), tolerance=tolerance, trust=0.0)
    for value in (0.0, -0.0, 0.0, -0.0, 1e308, -1e308, 1e308):
        result = agent.take(value)
        assert result == value and math.copysign(1.0, result) == (1.0 if value == 0 else math.copysign(1.0, value))
        agent.work_ahead()


def test_as_an_agent_it_answers_each_message_in_order():
    bus = FakeBus()
    agent = PredictiveAgent(lambda value: value + 0.5, reads="prices", writes="quotes")
    assert agent.tick(0, bus) == IDLE
    for value in (1.0, 2.0, 3.0, 4.0):
        bus.publish("prices", as_f64(value))
    bus.turn()
    assert agent.tick(10, bus) == WORKED
    bus.turn()
    assert [f64_of(line.payload) for line in bus.read("quotes")] == [1.5, 2.5, 3.5, 4.5]


def test_a_full_topic_is_counted():
    bus = FakeBus(room=3)
    agent = PredictiveAgent(lambda value: value)
    for value in (1.0, 2.0, 3.0):
        bus.publish("in", as_f64(value))
    bus.turn()
    bus.room = 1
    agent.tick(0, bus)
    assert agent.dropped == 2


def test_work_that_fails_for_a_guess_fails_only_when_the_value_comes():
    def work(value):
        if value >= 5:
            raise RuntimeError("too large")
        return value

    agent = PredictiveAgent(work, trust=0.0)
    for value in (1.0, 2.0, 3.0, 4.0):
        agent.take(value)
        agent.work_ahead()
    assert agent.forecast() == 5.0
    with pytest.raises(RuntimeError, match="too large"):
        agent.take(5.0)


def test_what_a_forecaster_makes_of_a_series():
    def guesses(forecaster, series):
        out = []
        for value in series:
            out.append(forecaster.forecast())
            forecaster.learn(value)
        return [*out, forecaster.forecast()]

    assert guesses(LastValue(), [1.0, 2.0]) == [None, 1.0, 2.0]
    assert guesses(Stride(), [1.0, 3.0, 5.0, 100.0, 102.0]) == [None, 1.0, 3.0, 7.0, 102.0, 104.0]
    assert guesses(Context(1), [1.0, 2.0, 1.0, 3.0, 1.0, 3.0, 1.0]) == [None, None, None, 2.0, None, 2.0, 1.0, 3.0]
    assert guesses(Context(1, steps=True), [0.0, 1.0, 3.0, 4.0, 6.0])[-1] == 7.0
    assert guesses(Trend(1.0, 1.0), [0.0, 2.0, 4.0]) == [None, 0.0, 4.0, 6.0]


def test_contexts_are_bounded():
    context = Context(1)
    for value in range(10_000):
        context.learn(float(value))
    assert len(context.save()[2]) == 4096


@pytest.mark.parametrize(
    "make",
    [
        lambda: PredictiveAgent(abs, tolerance=-1.0),
        lambda: PredictiveAgent(abs, tolerance=float("nan")),
        lambda: PredictiveAgent(abs, ahead=0),
        lambda: Trend(0.0),
        lambda: Context(0),
        lambda: PredictiveAgent(abs).take(float("inf")),
        lambda: f64_of(b"short"),
    ],
)
def test_what_cannot_be_asked(make):
    with pytest.raises(ValueError):
        make()


def test_the_usual_forecasters_begin_with_the_baseline():
    assert isinstance(usual_forecasters()[0], LastValue)
