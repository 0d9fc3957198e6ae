"""Critics of a population: what they see, and that a remedy goes the Improver's way through agents' fields."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kernels.passes import TICKS
from swarm import nano
from swarm.nano.improver import Change, Improver, Stage, Terms
from swarm.nano.minds.critic import CriticReflector, assigned
from swarm.nano.minds.traces import TRACE
from swarm.nano.policies import FieldPolicies


class Driver(nano.Kind, capacity=400):
    """Fails now and then if it drives fast; the more rarely the slower."""

    speed: nano.u32
    metres: nano.u64

    def tick(self, now_ns, bus):
        self.metres += self.speed
        step = now_ns // 1_000_000
        if self.speed > 5 and (self.row * 7919 + step * 104_729) % 100 < self.speed // 2:
            raise ValueError("off the road")


class Recorder:
    def __init__(self):
        self.seen, self.reflected = [], []

    def observe(self, traces):
        self.seen.append(traces.copy())

    def reflect(self, now_ns):
        self.reflected.append(now_ns)


def test_a_critic_sees_every_tick_at_its_own_cadence():
    flock = nano.NanoSwarm()
    flock.spawn(Driver, 3, rate_hz=1000, budget=250)
    flock.spawn(Driver.native(TICKS["nothing"]), 2, rate_hz=500)
    critic = flock.spawn_critic(Recorder, every=10, budget_ns=0.001)
    flock.run_for(ns=31_000_000)
    assert critic.reflected == [9_000_000, 19_000_000, 29_000_000]
    traces = np.concatenate(critic.seen)
    assert traces.dtype == TRACE and len(traces) == 3 * 30 + 2 * 15
    assert set(traces["cost_ns"][traces["cohort"] == 0]) <= {249, 250, 251}, "as declared, in virtual time"
    assert traces["pass"].tolist() == sorted(traces["pass"]) and traces["pass"].max() == 29
    assert traces["row"][traces["pass"] == 4].tolist() == [3, 4, 0, 1, 2] or set(traces["row"]) == {0, 1, 2, 3, 4}
    (runs,) = flock.critics
    assert (runs.runs, runs.over, runs.lost) == (3, 3, 0) and runs.busy_ns > 0


def test_what_a_critic_could_not_see_is_counted():
    flock = nano.NanoSwarm()
    flock.spawn(Driver, 100, rate_hz=1000)
    critic = flock.spawn_critic(Recorder(), every=10, traces=150)
    flock.run_for(passes=21)
    assert [len(each) for each in critic.seen] == [150, 150]
    assert flock.critics[0].lost == 2 * 850
    assert critic.seen[0]["pass"].tolist()[:50] == [8] * 50


def test_critics_of_a_population_that_is_made_again_see_it():
    flock = nano.NanoSwarm()
    flock.spawn(Driver, 3, rate_hz=1000)
    critic = flock.spawn_critic(Recorder, every=10, traces=500)
    flock.run_for(passes=15)
    seen = len(np.concatenate(critic.seen))
    again = nano.load(flock.save())
    again.take_critics(flock)
    again.run_for(passes=10)
    assert len(np.concatenate(critic.seen)) - seen == 3 * 10, "as after a restart from a checkpoint"
    assert len(critic.reflected) == 2 and again.critics == flock.critics


@pytest.mark.parametrize("wrong", [{"every": 0}, {"traces": 0}, {"critic": object()}])
def test_what_is_no_critic_is_refused(wrong):
    flock = nano.NanoSwarm()
    with pytest.raises(nano.NanoError):
        flock.spawn_critic(**({"critic": Recorder} | wrong))


def improved(value, bounds=(0, 10)):
    """A population that fails too often, and a critic with one remedy."""
    flock = nano.NanoSwarm(seed=1)
    drivers = flock.spawn(Driver, 300, rate_hz=1000)
    drivers.speed[:] = 8
    policies = FieldPolicies(flock, {"speed": bounds})
    improver = Improver(policies.in_force(), Terms(share=0.5))
    critic = CriticReflector(improver, policies, {"failing": [assigned("speed", value)]}, every_ns=1)
    flock.spawn_critic(critic, every=5, traces=20_000)
    flock.run_for(passes=5)
    return flock, drivers, improver


def test_a_good_remedy_is_tried_on_a_part_and_then_holds_for_all():
    flock, drivers, improver = improved(4)
    assert improver.in_force == {"0.speed": 8}
    assert sorted(np.unique(drivers.speed)) == [4, 8] and 100 <= (drivers.speed == 4).sum() <= 200
    flock.run_for(passes=400)
    assert improver.record[-1].stage == Stage.PROMOTED and set(drivers.speed) == {4}
    assert "failing" in improver.record[-1].change.reason


def test_a_bad_remedy_is_rolled_back():
    flock, drivers, improver = improved(40, (0, 50))
    assert 40 in drivers.speed
    for _ in range(40):
        flock.run_for(passes=5)
        drivers.resume()
    assert Stage.PROMOTED not in [entry.stage for entry in improver.record]
    assert Stage.ROLLED_BACK in [entry.stage for entry in improver.record]
    assert set(drivers.speed) == {8}


def test_what_is_out_of_bounds_is_not_even_tried():
    _, drivers, improver = improved(11)
    assert set(drivers.speed) == {8}
    assert improver.record[-1].stage == Stage.REJECTED


def test_subjects_that_there_are_not_are_refused():
    flock = nano.NanoSwarm()
    drivers = flock.spawn(Driver, 3)
    drivers.speed[:] = [1, 2, 3]
    policies = FieldPolicies(flock, {"speed": (0, 9)})
    with pytest.raises(nano.NanoError, match="differ in 'speed'"):
        policies.in_force()
    assert not policies.test(Change("0.metres", 5, "", "me"))
    for subject in ("1.speed", "x.speed", "0.colour"):
        with pytest.raises(nano.NanoError, match="there is no"):
            policies.promote(Change(subject, 5, "", "me"))


def test_a_profile_says_who_was_called_when(tmp_path):
    flock = nano.NanoSwarm()
    flock.spawn(Driver, 3, rate_hz=1000)
    flock.spawn(Driver.native_many(TICKS["nothing_many"]), 2, rate_hz=500)
    flock.keep_spans(10)
    flock.run_for(ns=10_000_000)
    events = json.loads(json.dumps(flock.trace_events()))
    names = [each["args"]["name"] for each in events if each["ph"] == "M"]
    assert names == ["Driver (object)", "Driver (native_many)"]
    calls = [each for each in events if each["ph"] == "X"]
    assert len(calls) == 10 and min(each["ts"] for each in calls) == 0
    assert all(each["dur"] >= 0 for each in calls)
    assert {(each["tid"], each["args"]["agents"]) for each in calls} == {(0, 3), (1, 2)}
    assert calls[-1]["args"] | {"pass": 9} == calls[-1]["args"]
    assert [each["name"] for each in events if each["ph"] == "I"] == ["5 calls before are not kept"]
    assert [each for each in flock.trace_events() if each["ph"] == "X"] == []
    with pytest.raises(nano.NanoError):
        flock.keep_spans(-1)
