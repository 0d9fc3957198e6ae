"""Anomalies: planted changes are found, stationary noise is let pass, and what follows is the same for a seed."""

from __future__ import annotations

import math
import random

import pytest

from swarm import nano
from swarm.nano.anomalies import HISTORY, Detector


def normal(r):
    return r.gauss(100.0, 10.0)


def cauchy(r):
    return 100.0 + 10.0 * math.tan(math.pi * (r.random() - 0.5))


def skewed(r):
    return r.expovariate(0.01)


def counted(r):
    return float(sum(r.random() < 0.1 for _ in range(30)))


@pytest.mark.parametrize("noise", [normal, cauchy, skewed, counted])
def test_stationary_noise_of_any_distribution_is_let_pass(noise):
    r, detector = random.Random(7), Detector(least=0.0)
    assert sum(detector.update(noise(r)) is not None for _ in range(20_000)) == 0


@pytest.mark.parametrize(("shift", "history", "within"), [(3.0, 60, 20), (3.0, 240, 16), (2.0, 60, 40), (-3.0, 60, 20)])
@pytest.mark.parametrize("seed", range(5))
def test_a_planted_shift_is_found_soon(shift, history, within, seed):
    r, detector = random.Random(seed), Detector()
    assert not any(detector.update(normal(r)) for _ in range(history))
    for number in range(1, within + 1):
        change = detector.update(normal(r) + 10 * shift)
        if change is not None:
            break
    assert change is not None, f"not within {within} windows"
    assert (change.after > change.before) == (shift > 0) and change.before == pytest.approx(100, rel=0.1)
    assert change.since <= number + 10, "it began about when it was planted"
    assert not any(detector.update(normal(r) + 10 * shift) for _ in range(100)), "the new behaviour is the history now"


def test_an_outlier_is_no_change():
    r, detector = random.Random(1), Detector()
    assert not any(detector.update(1e12 if n % 50 == 49 else normal(r)) for n in range(2_000))


def test_a_change_too_small_to_matter_is_let_pass():
    found = {}
    for least in (0.0, 0.1):
        r, detector = random.Random(1), Detector(least=least)
        found[least] = sum(
            detector.update(100 + r.random() * 1e-3 + (0.01 if n > 100 else 0)) is not None for n in range(300)
        )
    assert found == {0.0: 1, 0.1: 0}


def test_what_is_constant_and_then_another_constant_is_found():
    detector = Detector()
    assert not any(detector.update(5.0) for _ in range(100))
    changes = [detector.update(6.0) for _ in range(30)]
    (change,) = [each for each in changes if each]
    assert (change.before, change.after) == (5.0, 6.0) and changes.index(change) + 1 == change.since


def test_nothing_is_judged_before_it_was_learnt():
    detector = Detector(learn=50)
    assert not any(detector.update(5.0 if n < 10 else 500.0) for n in range(50))


def test_memory_is_bounded_and_ranks_are_those_of_the_last():
    r, detector = random.Random(3), Detector()
    for _ in range(3 * HISTORY):
        detector.update(normal(r))
    assert len(detector.last) == len(detector.ordered) == HISTORY and sorted(detector.last) == detector.ordered


def test_a_saved_detector_goes_on_alike():
    r, one = random.Random(4), Detector()
    for _ in range(100):
        one.update(normal(r))
    other = Detector()
    other.restore(one.save())
    assert [one.update(value) for value in range(100, 200)] == [other.update(value) for value in range(100, 200)]


class Worker(nano.Kind, capacity=1000):
    """Idle with the probability of its field; lazy from an instant on."""

    lazy: nano.f64
    later: nano.f64
    news = nano.writes("news")

    def tick(self, now_ns, bus):
        if bus.uniform() < (self.lazy if now_ns < 10_000_000_000 else self.later):
            return nano.IDLE
        bus.publish("news", b"done")
        return None


def workers(later, seed=5):
    flock = nano.NanoSwarm(seed=seed)
    steady = flock.spawn(Worker, 20, rate_hz=50)
    changed = flock.spawn(Worker, 20, rate_hz=50)
    steady.lazy[:] = steady.later[:] = changed.lazy[:] = 0.3
    changed.later[:] = later
    flock.watch(nano.Anomalies())
    return flock


def test_a_cohort_that_leaves_its_own_history_is_named():
    report = workers(0.6).run_for(seconds=14)
    found = {(each.metric, each.cohort): each for each in report.anomalies}
    assert found.keys() == {("idle_ratio", 1), ("published_per_s", None)}, (
        "the steady one and its ticks are as they were"
    )
    idle = found["idle_ratio", 1]
    assert 9_500_000_000 <= idle.from_ns <= 10_500_000_000 < idle.found_ns <= 12_000_000_000
    assert idle.before == pytest.approx(0.3, abs=0.04) and idle.after == pytest.approx(0.6, abs=0.04)
    assert found["published_per_s", None].of == "news" and "published_per_s fell from" in str(
        found["published_per_s", None]
    )
    assert str(idle).startswith("Worker (cohort 1): idle_ratio rose from 0.3")
    assert report.to_dict()["anomalies"][0]["metric"] == report.anomalies[0].metric


def test_nothing_is_found_where_nothing_changed_and_it_is_the_same_for_a_seed():
    assert workers(0.3).run_for(seconds=14).anomalies == ()
    assert workers(0.6).run_for(seconds=14).anomalies == workers(0.6).run_for(seconds=14).anomalies


def test_only_what_was_asked_for_is_looked_at():
    flock = workers(0.6)
    flock.watched = None
    flock.watch(nano.Anomalies(metrics=["published_per_s"]))
    assert {each.metric for each in flock.run_for(seconds=14).anomalies} == {"published_per_s"}


@pytest.mark.parametrize("words", [{"learn": 5}, {"learn": 1000}, {"least": -1}, {"threshold": 0.1}, {"learn": 30.5}])
def test_what_cannot_be_asked(words):
    with pytest.raises(nano.NanoError) as caught:
        nano.Anomalies(**words)
    assert caught.value.hint
