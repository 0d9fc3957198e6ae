"""Choices follow Born's rule, interference is interference, and a search asks as few questions as published."""

from __future__ import annotations

import math
import struct

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.nano.minds.agent import IDLE, WORKED
from swarm.nano.minds.quantum import QuantumDecision
from tests.unit.nano.fake_bus import FakeBus

QUICK = settings(max_examples=60, deadline=None)


@QUICK
@given(st.lists(st.floats(0, 100), min_size=1, max_size=20).filter(lambda w: sum(w) > 1e-3))
def test_probabilities_are_the_weights(weights):
    decision = QuantumDecision(len(weights))
    decision.prefer(weights)
    assert np.allclose(decision.distribution(), np.array(weights) / sum(weights), atol=1e-12)
    assert weights[decision.choose()] > 0


def test_choices_follow_them():
    decision = QuantumDecision(5, seed=3)
    weights = np.array([1.0, 2.0, 3.0, 4.0, 0.0])
    decision.prefer(weights)
    drawn = np.bincount([decision.choose() for _ in range(20_000)], minlength=5)
    assert drawn[4] == 0
    wanted = weights[:4] / weights.sum() * 20_000
    chi2 = float(((drawn[:4] - wanted) ** 2 / wanted).sum())
    print(f"chi square {chi2:.2f} with 3 degrees of freedom")
    assert chi2 < 16.3  # 0.1 %; the seed is fixed


def test_a_phase_makes_an_option_impossible_that_no_mixture_could():
    """Two ways to option 0, each of probability 1/2 on its own: with opposite phases they cancel."""
    decision = QuantumDecision(2)
    decision.turn([0.0, math.pi / 2])
    assert decision.distribution() == pytest.approx([0.5, 0.5])
    decision.mix(math.pi / 2)
    assert decision.distribution() == pytest.approx([1.0, 0.0])
    decision.prefer([1, 1])
    decision.turn([0.0, -math.pi / 2])
    decision.mix(math.pi / 2)
    assert decision.distribution() == pytest.approx([0.0, 1.0])
    for certain in ([1, 0], [0, 1]):
        decision.prefer(certain)
        decision.mix(math.pi / 2)
        assert decision.distribution() == pytest.approx([0.5, 0.5])


@QUICK
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=9), st.integers(0, 6), st.data())
def test_amplification_is_that_of_the_paper(weights, rounds, data):
    good = data.draw(st.sets(st.integers(0, len(weights) - 1), min_size=1))
    decision = QuantumDecision(len(weights))
    decision.prefer(weights)
    before = np.array(decision.distribution())
    theta = math.asin(min(1.0, math.sqrt(before[sorted(good)].sum())))
    assert decision.amplify(good, rounds) == rounds
    after = np.array(decision.distribution())
    wanted = math.sin((2 * rounds + 1) * theta) ** 2
    assert after[sorted(good)].sum() == pytest.approx(wanted, abs=1e-9)
    assert after[sorted(good)] * before[sorted(good)].sum() == pytest.approx(before[sorted(good)] * wanted, abs=1e-9)


def test_amplification_by_itself_stops_where_it_is_best():
    decision = QuantumDecision(1000)
    assert decision.amplify([123]) == 24
    assert decision.distribution()[123] > 0.995


def test_a_search_asks_few_questions():
    n, found = 1024, 0
    asked = {}
    for count in (1, 4, 64):
        decision = QuantumDecision(n, seed=count)
        for _ in range(60):
            option = decision.search(lambda option, step=n // count: option % step == 7)
            found += option is not None and option % (n // count) == 7
        asked[count] = decision.questions / 60
        bound = 4.5 * math.sqrt(n / count)
        print(
            f"{count} good of {n}: {asked[count]:.1f} questions; bound {bound:.1f}, one by one {(n + 1) / (count + 1):.1f}"
        )
        assert asked[count] <= bound
    assert found == 180
    assert asked[1] < n / 2 / 4


def test_a_search_for_nothing_ends():
    decision = QuantumDecision(100)
    assert decision.search(lambda option: False) is None
    assert decision.questions < 160
    assert QuantumDecision(1).search(lambda option: True) == 0
    assert decision.distribution() == pytest.approx([0.01] * 100)


def test_same_seed_same_choices_saved_or_not():
    def choices(decision, count):
        return [decision.choose() for _ in range(count)]

    whole = choices(QuantumDecision(50, seed=9), 40)
    first, second = QuantumDecision(50, seed=9), QuantumDecision(50, seed=9)
    begun = choices(first, 20)
    second.restore(msgpack.unpackb(msgpack.packb(first.save())))
    assert begun + choices(second, 20) == whole
    assert choices(QuantumDecision(50, seed=10), 40) != whole
    assert choices(QuantumDecision(50, seed=9, stream=1), 40) != whole


def test_as_an_agent_it_answers_requests():
    bus = FakeBus()
    decision = QuantumDecision(3, reads="ask", writes="answer")
    assert decision.tick(0, bus) == IDLE
    bus.publish("ask", struct.pack("<3d", 0, 0, 1))
    bus.publish("ask", struct.pack("<3d", 1, 0, 0))
    bus.turn()
    assert decision.tick(1, bus) == WORKED
    bus.turn()
    assert [struct.unpack_from("<I", line.payload)[0] for line in bus.read("answer")] == [2, 0]


def test_as_an_agent_without_requests_it_chooses_each_tick():
    bus = FakeBus(room=2)
    decision = QuantumDecision(4)
    assert [decision.tick(now, bus) for now in range(3)] == [WORKED] * 3
    assert decision.dropped == 1


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda d: QuantumDecision(0), "0 options"),
        (lambda d: QuantumDecision(2**20 + 1), "options; 1 to 1048576"),
        (lambda d: d.prefer([1, 2]), "2 numbers for 3 options"),
        (lambda d: d.prefer([0, 0, 0]), "not all of them 0"),
        (lambda d: d.prefer([1, -1, 1]), "not negative"),
        (lambda d: d.prefer([1, math.nan, 1]), "finite"),
        (lambda d: d.prefer([1, math.inf, 1]), "finite"),
        (lambda d: d.turn([1.0]), "1 numbers for 3"),
        (lambda d: d.mix(1.0), "3 options can not be mixed"),
        (lambda d: d.amplify([]), "some of 0 to 2"),
        (lambda d: d.amplify([3]), "some of 0 to 2"),
        (lambda d: d.amplify([0], -1), "-1 rounds"),
    ],
)
def test_what_cannot_be_asked(call, what):
    decision = QuantumDecision(3)
    with pytest.raises(ValueError, match=what):
        call(decision)
    assert decision.distribution() == pytest.approx([1 / 3] * 3)


def test_the_impossible_is_not_amplified():
    decision = QuantumDecision(3)
    decision.prefer([1, 1, 0])
    with pytest.raises(ValueError, match="possible"):
        decision.amplify([2])
