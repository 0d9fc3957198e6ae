"""Planted patterns are found, and nothing where there is none; a bad policy is rolled back, a good one promoted."""

from __future__ import annotations

import math

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.nano.improver import Change, Improver, Stage, Terms
from swarm.nano.minds.agent import IDLE, WORKED
from swarm.nano.minds.critic import FINDING, CriticReflector, assigned, scaled
from swarm.nano.minds.traces import FAILED, PATTERNS, TRACE, binomial_tail, greater, patterns
from tests.unit.nano.fake_bus import FakeBus

MS = 1_000_000
BUDGET_NS = 1000


def ticks(seed, passes, cohorts=(1, 2), rows=50, first=0, base=None, turns=None):
    """Every row ticks each pass, at a cost of 500 ns or so; 0.2 % overrun, for no reason. `turns`: {cohort: every m
    passes}."""
    noise = np.random.default_rng([seed, first])
    parts = []
    for number in range(first, first + passes):
        for cohort in cohorts:
            if turns and number % turns.get(cohort, 1):
                continue
            part = np.zeros(rows, TRACE)
            part["now_ns"], part["pass"], part["cohort"], part["row"] = number * MS, number, cohort, np.arange(rows)
            part["cost_ns"] = (base or 500) * np.exp(noise.normal(0, 0.1, rows))
            part["outcome"] = WORKED
            part["violated"] = (part["cost_ns"] > BUDGET_NS) | (noise.random(rows) < 0.002)
            parts.append(part)
    return np.concatenate(parts)


def plant(traces, where, seed=1, chance=0.5):
    """Overruns in `chance` of these ticks."""
    hit = where & (np.random.default_rng(seed).random(len(traces)) < chance)
    traces["violated"][hit] = 1
    traces["cost_ns"][hit] = 1500
    return traces


def named(found, cohort):
    return [finding.pattern for finding in found if finding.cohort == cohort]


def test_nothing_is_found_where_there_is_nothing():
    found = [patterns(ticks(seed, 40)) for seed in range(100)]
    assert sum(map(len, found)) <= 1, [f for f in found if f]


def test_a_cohort_that_overruns_is_found():
    traces = ticks(1, 40)
    found = patterns(plant(traces, traces["cohort"] == 2, chance=0.05))
    assert named(found, 1) == [] and named(found, 2) == ["overrun"]
    (finding,) = found
    assert finding.p < 1e-9 and finding.facts["ticks"] == 2000 and 80 <= finding.facts["times"] <= 130


def test_rows_that_overrun_are_named():
    traces = ticks(2, 60)
    found = patterns(plant(traces, (traces["cohort"] == 1) & np.isin(traces["row"], [7, 31])))
    assert named(found, 1) == ["overrunning rows", "overrun"]
    assert found[0].facts["rows"] == [7, 31] and found[0].facts["part"] > 0.8
    assert named(found, 2) == []


@pytest.mark.parametrize(("period", "at"), [(2, 1), (7, 3), (16, 5), (50, 0)])
def test_overruns_in_turn_are_found_with_their_period(period, at):
    traces = ticks(3, 200)
    found = patterns(plant(traces, (traces["cohort"] == 1) & (traces["pass"] % period == at)), tolerated=0.005)
    assert named(found, 1)[0] == "in turn"
    facts = found[0].facts
    assert facts["period"] == period and facts["pass"] == at


def test_overruns_beside_another_cohort_are_found():
    others = np.random.default_rng(5)
    traces = ticks(4, 200, cohorts=(1, 2))
    runs = others.random(200) < 0.15  # cohort 2 ticks now and then
    traces = traces[(traces["cohort"] == 1) | runs[traces["pass"]]]
    found = patterns(plant(traces, (traces["cohort"] == 1) & runs[traces["pass"]], chance=0.4))
    assert named(found, 1)[0] == "beside"
    assert found[0].facts["other"] == 2 and found[0].facts["part"] > 0.6 > 4 * found[0].facts["share"]


def test_a_cohort_that_becomes_dearer_is_found_before_it_overruns():
    traces = ticks(6, 90)
    grow = traces["cohort"] == 2
    traces["cost_ns"][grow] = traces["cost_ns"][grow] * (1 + traces["pass"][grow] / 200)
    found = patterns(traces)
    assert named(found, 1) == [] and named(found, 2) == ["dearer"]
    assert 1.2 < found[0].facts["cost_p50_ns"] / found[0].facts["was_p50_ns"] < 1.5


def test_failures_are_found_and_rows_that_fail():
    traces = ticks(7, 60)
    bad = (traces["cohort"] == 1) & (np.random.default_rng(1).random(len(traces)) < 0.05)
    traces["outcome"][bad] = FAILED
    assert named(patterns(traces), 1) == ["failing"]
    traces = ticks(7, 60)
    traces["outcome"][(traces["cohort"] == 1) & (traces["row"] == 9) & (traces["pass"] % 2 == 0)] = FAILED
    found = patterns(traces, tolerated=0.005)
    assert named(found, 1)[0] == "failing rows" and found[0].facts["rows"] == [9]


def test_too_few_ticks_are_not_looked_at():
    traces = ticks(8, 3, rows=50)
    traces["violated"] = 1
    assert patterns(traces) == [] and patterns(traces[:0]) == []
    assert len(patterns(traces, least=100)) == 2


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), st.integers(1, 60), st.floats(0.001, 0.999))
def test_the_tail_of_the_binomial_distribution(k, n, p):
    wanted = math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
    assert binomial_tail(k, n, p) == pytest.approx(wanted, rel=1e-9, abs=1e-14)


def test_the_tail_at_its_ends():
    assert binomial_tail(0, 10, 0.5) == binomial_tail(3, 10, 1.0) == 1.0
    assert binomial_tail(11, 10, 0.5) == binomial_tail(1, 10, 0.0) == 0.0
    assert 0 < binomial_tail(90_000, 100_000, 0.895) < 1e-6


def test_ranks_tell_greater_from_equal():
    noise = np.random.default_rng(1)
    assert greater(noise.normal(1, 1, 200), noise.normal(0, 1, 200)) < 1e-9
    p = [greater(noise.integers(0, 5, 60), noise.integers(0, 5, 60)) for _ in range(400)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09
    assert greater(np.ones(30), np.ones(30)) == 1.0


class Flock:
    """A population whose cohort 1 costs what its batch is; policies are in force row by row."""

    ROWS = 50

    def __init__(self, knobs):
        self.improver = Improver(knobs, Terms(share=0.2, cooldown_ns=10**15, canary_timeout_ns=10_000 * MS))
        self.everywhere = dict(knobs)
        self.canary = {}
        self.number = 0
        self.calls = []

    def test(self, change):
        self.calls.append(("test", change.subject, change.value))
        return change.value != "nonsense"

    def start_canary(self, change, share):
        rows = range(int(self.ROWS * share))
        self.canary = {(change.subject, row): change.value for row in rows}
        self.calls.append(("canary", change.subject, change.value))
        return 1, rows

    def promote(self, change):
        self.everywhere[change.subject] = change.value
        self.canary = {}
        self.calls.append(("promote", change.subject, change.value))

    def restore(self, change, before):
        self.everywhere[change.subject] = before
        self.canary = {}
        self.calls.append(("restore", change.subject, before))

    def knob(self, name, row):
        return self.canary.get((name, row), self.everywhere[name])

    def run(self, passes):
        """What a batch takes goes with its size; a policy "spin" doubles it."""
        traces = ticks(17, passes, first=self.number)
        self.number += passes
        own = traces["cohort"] == 1
        batch = np.array([self.knob("1.batch", row) for row in range(self.ROWS)])[traces["row"][own]]
        spin = np.array([self.knob("1.policy", row) == "spin" for row in range(self.ROWS)])[traces["row"][own]]
        cost = traces["cost_ns"][own] * batch / 8 * np.where(spin, 2.0, 1.0)
        traces["cost_ns"][own] = cost
        traces["violated"][own] = cost > BUDGET_NS
        traces["outcome"][own] = np.where(
            np.array([self.knob("1.policy", r) == "crash" for r in traces["row"][own]]), 3, 1
        )
        return traces


def driven(flock, critic, rounds):
    for _ in range(rounds):
        critic.observe(flock.run(30))
        critic.reflect(flock.number * MS)


def test_a_planted_overrun_is_found_and_mended_by_the_improvers_way():
    flock = Flock({"1.batch": 16, "1.policy": "wait"})
    critic = CriticReflector(flock.improver, flock, {"overrun": [scaled("batch", 0.5)]})
    driven(flock, critic, 8)
    assert flock.everywhere == flock.improver.in_force == {"1.batch": 8.0, "1.policy": "wait"}
    assert flock.calls == [("test", "1.batch", 8.0), ("canary", "1.batch", 8.0), ("promote", "1.batch", 8.0)]
    assert [entry.stage for entry in flock.improver.record] == [Stage.TESTING, Stage.CANARY, Stage.PROMOTED]
    assert "overrun: ticks 1500" in flock.improver.record[0].reason
    critic.observe(flock.run(30))
    assert critic.reflect(flock.number * MS) == []


def test_a_planted_bad_policy_is_rolled_back_and_the_next_remedy_tried():
    flock = Flock({"1.batch": 15, "1.policy": "wait"})
    critic = CriticReflector(
        flock.improver,
        flock,
        {"overrun": [assigned("policy", "spin"), assigned("policy", "nonsense"), scaled("batch", 0.5)]},
    )
    driven(flock, critic, 20)
    assert [call[0] for call in flock.calls] == ["test", "canary", "restore", "test", "test", "canary", "promote"]
    stages = [
        (entry.change.value, entry.stage)
        for entry in flock.improver.record
        if entry.stage not in (Stage.TESTING, Stage.CANARY)
    ]
    assert stages[0] == ("spin", Stage.ROLLED_BACK)
    assert ("nonsense", Stage.REJECTED) in stages and stages[-1] == (7.5, Stage.PROMOTED)
    rolled_back = next(entry for entry in flock.improver.record if entry.stage is Stage.ROLLED_BACK)
    assert rolled_back.reason == "worse" and rolled_back.facts["high"] < 0
    assert flock.everywhere == {"1.batch": 7.5, "1.policy": "wait"}


def test_a_policy_under_which_agents_fail_is_taken_back_at_the_next_look():
    flock = Flock({"1.batch": 16, "1.policy": "wait"})
    critic = CriticReflector(flock.improver, flock, {"overrun": [assigned("policy", "crash")]})
    driven(flock, critic, 2)
    driven(flock, critic, 3)
    assert flock.calls[-1] == ("restore", "1.policy", "wait") and len(flock.calls) == 3
    assert flock.improver.record[-1].reason == "agents failed under it, and no others"


def test_a_bad_policy_that_somebody_else_proposes_goes_the_same_way():
    flock = Flock({"1.batch": 8, "1.policy": "wait"})
    critic = CriticReflector(flock.improver, flock, {})
    critic.carry_out(flock.improver.propose(Change("1.policy", "spin", "it is new", "a person"), 0), 0)
    driven(flock, critic, 10)
    assert flock.everywhere["1.policy"] == "wait"
    assert flock.improver.record[-1].stage is Stage.ROLLED_BACK


def test_the_same_ticks_give_the_same_record():
    def record():
        flock = Flock({"1.batch": 16, "1.policy": "wait"})
        driven(flock, CriticReflector(flock.improver, flock, {"overrun": [scaled("batch", 0.5)]}), 8)
        return list(flock.improver.record)

    assert record() == record()


def test_saved_in_the_middle_of_a_trial_it_goes_on_the_same():
    def run(save_at):
        flock = Flock({"1.batch": 16, "1.policy": "wait"})
        critic = CriticReflector(flock.improver, flock, {"overrun": [scaled("batch", 0.5)]})
        for at in range(8):
            if at == save_at:
                assert list(critic.improver.under_way.values()) == [Stage.CANARY]
                saved = msgpack.unpackb(msgpack.packb(critic.save()))
                critic = CriticReflector(Improver({}, flock.improver.terms), flock, {"overrun": [scaled("batch", 0.5)]})
                critic.restore(saved)
            driven(flock, critic, 1)
        return critic.save(), flock.calls

    assert run(1) == run(None)


def test_as_an_agent_it_keeps_its_cadence_and_says_what_it_found():
    flock = Flock({"1.batch": 16, "1.policy": "wait"})
    critic = CriticReflector(flock.improver, flock, {}, every_ns=100 * MS, writes="findings")
    bus = FakeBus()
    critic.observe(flock.run(30))
    assert [critic.tick(now * MS, bus) for now in (0, 1, 99, 100)] == [WORKED, IDLE, IDLE, WORKED]
    bus.turn()
    (line,) = bus.read("findings")
    cohort, pattern, p = FINDING.unpack_from(line.payload)
    assert (cohort, PATTERNS[pattern]) == (1, "overrun") and p < 1e-9


def test_traces_are_bounded_and_what_is_lost_counted():
    flock = Flock({})
    critic = CriticReflector(flock.improver, flock, {}, traces_max=1000)
    for first in range(0, 10, 2):
        critic.observe(ticks(1, 2, first=first, rows=100))
    assert (critic.observed, critic.dropped) == (2000, 1000)
    critic.observe(ticks(1, 10, first=10, rows=100))
    assert (critic.observed, critic.dropped) == (4000, 3000)
    critic.reflect(0)
    critic.observe(ticks(1, 2, first=20, rows=100))
    assert critic.dropped == 3000


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda f: CriticReflector(f.improver, f, {"bad luck": []}), "no pattern 'bad luck'"),
        (lambda f: CriticReflector(f.improver, f, {}, every_ns=0), "cadence"),
        (lambda f: CriticReflector(f.improver, f, {}).observe(np.zeros(3)), "dtype"),
    ],
)
def test_what_cannot_be_asked(make, what):
    with pytest.raises(ValueError, match=what):
        make(Flock({}))
