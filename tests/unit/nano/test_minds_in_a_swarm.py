"""Minds as agents of a population in virtual time, on its bus; and what is said where NumPy is missing."""

from __future__ import annotations

import math
import struct
import subprocess
import sys

import numpy as np

from swarm import nano
from swarm.nano.improver import Improver
from swarm.nano.minds import CriticReflector, EvolvingPopulation, PredictiveAgent, QuantumDecision, StrangeLoop, Watch
from swarm.nano.minds.genomes import ArrayGenomes


class Feed(nano.Kind, capacity=4):
    """A price that goes round in a cycle, and metrics beside."""

    at: nano.u64
    prices = nano.writes("prices")
    metrics = nano.writes("metrics")

    def tick(self, now_ns, bus):
        at = self.at = self.at + 1
        bus.publish("prices", struct.pack("<d", float(at % 5)))
        bus.publish("metrics", struct.pack("<3d", math.sin(at / 3), float(at % 2), 0.0))


class Thinker(nano.Kind, capacity=16):
    """What minds read and write."""

    unused: nano.u8
    prices, metrics = nano.reads("prices"), nano.reads("metrics")
    out, choice, forecast, best = (nano.writes(topic) for topic in ("out", "choice", "forecast", "best"))


class Sink(nano.Kind, capacity=1):
    """Keeps what minds say."""

    unused: nano.u8
    out, choice, forecast, best = (nano.reads(topic) for topic in ("out", "choice", "forecast", "best"))


class Listener:
    def __init__(self):
        self.heard = []

    def tick(self, now_ns, bus):
        for topic in ("out", "choice", "forecast", "best"):
            self.heard += [(now_ns, topic, message.payload) for message in bus.read(topic)]


def population(seed):
    minds = [
        PredictiveAgent(lambda value: value * 10, reads="prices"),
        QuantumDecision(4, seed=seed),
        StrangeLoop(2, seed=seed),
        EvolvingPopulation(ArrayGenomes(2), lambda x: -float(np.abs(x).sum()), size=6, seed=seed, writes="best"),
    ]
    listener = Listener()
    flock = nano.NanoSwarm(seed=seed)
    flock.spawn(Feed, 1, rate_hz=1000)
    waiting = iter(minds)
    flock.spawn(Thinker.objects(lambda: next(waiting)), len(minds), rate_hz=1000)
    flock.spawn(Sink.objects(lambda: listener), 1, rate_hz=1000)
    report = flock.run_for(seconds=0.2)
    assert flock.failures() == []
    return minds, listener.heard, report


def test_minds_tick_in_a_swarm_and_are_heard():
    minds, heard, report = population(1)
    assert report.ticks == 6 * 200
    topics = [topic for _, topic, _ in heard]
    assert {topic: topics.count(topic) for topic in sorted(set(topics))} == {
        "best": 199, "choice": 199, "forecast": 198, "out": 198,
    }  # fmt: skip
    said = [struct.unpack_from("<d", payload)[0] for _, topic, payload in heard if topic == "out"]
    assert said[:6] == [10.0, 20.0, 30.0, 40.0, 0.0, 10.0]
    assert minds[0].hit_rate > 0.9 > minds[0].baseline_hit_rate
    assert minds[2].steps == 199
    assert minds[3].generation == 200


def test_the_same_seed_says_the_same():
    assert population(3)[1] == population(3)[1]
    assert population(3)[1] != population(4)[1]


def test_a_watch_and_a_critic_tick_as_agents_too():
    class Nobody:
        def test(self, change):
            return False

        start_canary = promote = restore = test

    critic = CriticReflector(Improver({}), Nobody(), {}, every_ns=10_000_000)
    loop = StrangeLoop(2, seed=1)
    watch = Watch(loop, lambda: loop._state, math.inf)
    waiting = iter([critic, watch])
    flock = nano.NanoSwarm()
    flock.spawn(Feed, 1, rate_hz=1000)
    flock.spawn(Thinker.objects(lambda: next(waiting)), 2, rate_hz=1000)
    report = flock.run_for(seconds=0.1)
    assert flock.failures() == []
    assert watch.transitions == 100 and watch.violations == 0
    thinkers = report.cohorts[1]
    assert thinkers.idle == 90 + 1  # the critic rests between its looks, the loop before there is something to read


def test_without_numpy_it_is_said_what_to_install():
    code = "import sys; sys.modules['numpy'] = None; import swarm.nano; import swarm.nano.minds"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode != 0
    assert "NumPy, which is not installed" in ran.stderr and "NanoError" in ran.stderr
