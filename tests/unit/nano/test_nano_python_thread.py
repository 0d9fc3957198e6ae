"""Python's agents on a thread of their own: in virtual time nothing comes out otherwise; in real time nobody waits for them."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from swarm import nano
from swarm.nano.python_thread import RING_LINES
from tests.unit.nano.test_nano_cores import Listener, Talker, Walker, addresses, compiled, history, parted


@pytest.fixture(scope="module")
def ticks(tmp_path_factory):
    return addresses(compiled(tmp_path_factory.mktemp("ticks")))


class Asker(nano.Kind, capacity=100):
    """Is told when there is no room."""

    refused: nano.u64
    noise = nano.reads("noise")
    orders = nano.writes("orders", full="block")

    def tick(self, now_ns, bus):
        self.refused += not bus.publish("orders", bytes([len(bus.read("noise")) % 256]))


class Spinner(nano.Kind, capacity=100):
    n: nano.u64
    said = nano.writes("gossip", full="drop")

    def tick(self, bus):
        while self.n < 25:
            now_ns = yield None if self.n % 3 else nano.Sleep(4_000)
            self.n += 1 + (bus.publish("gossip", now_ns.to_bytes(8, "little")) and bus.random() % 2)


def lived(ticks, python_thread, cores=1, lines=20):
    flock = parted(nano.NanoSwarm(seed=9, python_thread=python_thread, cores=cores, topic_lines=lines))
    flock.spawn(Listener, 20, rate_hz=100_000)
    flock.spawn(Talker.native(ticks["lone"]), 600, rate_hz=100_000)
    flock.spawn(Asker, 60, rate_hz=50_000)
    flock.spawn(Walker.native_many(ticks["crowd"]), 500, rate_hz=[1000.0 * (1 + n % 70) for n in range(500)])
    flock.spawn(Spinner, 20, rate_hz=100_000)
    flock.spawn(Listener, 9, rate_hz=[9_000.0 * (n + 1) for n in range(9)])
    found = []
    for _ in range(3):
        flock.run_for(passes=30)
        found += [history(flock), repr([(kind.__name__, row, repr(error)) for kind, row, error in flock.failures()])]
    assert flock.cohorts[2].refused.sum() > 0 and flock.failures() and flock.bus.counters(flock.topics["gossip"])[1] > 0
    return found


@pytest.mark.parametrize("cores", [1, 3])
def test_virtual_time_is_the_same_with_and_without(ticks, cores):
    assert lived(ticks, True, cores) == lived(ticks, False)


def test_it_is_saved_and_goes_on():
    flock = nano.NanoSwarm(python_thread=True)
    assert nano.load(flock.save()).python_thread


class Curious(nano.Kind, capacity=10):
    n: nano.u64

    def tick(self, now_ns, bus):
        seen.append((threading.current_thread().name, sys.getswitchinterval()))


seen: list[tuple[str, float]] = []


def test_the_thread_and_the_switch_interval_are_only_there_while_it_runs():
    seen.clear()
    before = sys.getswitchinterval()
    flock = nano.NanoSwarm(python_thread=True)
    flock.spawn(Curious, 2, rate_hz=1000)
    flock.run_for(passes=2)
    assert {name for name, _ in seen} == {"nano-python"} and len(seen) == 4
    assert all(interval <= 1.1e-4 for _, interval in seen)
    assert sys.getswitchinterval() == before
    assert not any(thread.name == "nano-python" for thread in threading.enumerate())


@pytest.mark.parametrize("time", ["virtual", "real"])
def test_what_is_no_exception_ends_the_run_and_it_can_go_on(time):
    class Quitter(nano.Kind, capacity=10):
        n: nano.u64

        def tick(self, now_ns, bus):
            self.n += 1
            if self.n == 2:
                raise SystemExit("enough")

    flock = nano.NanoSwarm(python_thread=True, time=time)
    agents = flock.spawn(Quitter, 1, rate_hz=1000)
    with pytest.raises(SystemExit, match="enough"):
        flock.run_for(seconds=5)
    assert agents[0].n == 2
    flock.run_for(seconds=0.01)
    assert agents[0].n > 2


def test_agents_are_not_changed_under_native_passes():
    flock = nano.NanoSwarm(python_thread=True)

    class Meddler(nano.Kind, capacity=10):
        n: nano.u64

        def tick(self, now_ns, bus):
            (victims.kill, victims.suspend, victims.resume, lambda: flock.spawn(Curious))[self.row]()

    victims = flock.spawn(Curious, 3)
    flock.spawn(Meddler, 4, rate_hz=1000)
    flock.run_for(passes=1)
    errors = [error for _, _, error in flock.failures()]
    assert len(errors) == 4 and all(isinstance(error, nano.NanoError) for error in errors)
    assert victims.alive == [True] * 3
    victims.kill()
    assert victims.alive == [False] * 3


def test_a_topology_goes_without():
    with pytest.raises(nano.NanoError, match="topology"):
        nano.NanoSwarm(python_thread=True, topology=nano.RoundRobin())


class Beat(nano.Kind, capacity=10):
    heard: nano.u64
    answers = nano.reads("answers")
    beats = nano.writes("beats", full="drop")


class Sluggish(nano.Kind, capacity=10):
    n: nano.u64
    beats = nano.reads("beats")
    answers = nano.writes("answers", full="drop")

    def tick(self, now_ns, bus):
        time.sleep(0.03)
        heard.extend(int.from_bytes(message.payload[:8], "little") for message in bus.read("beats"))
        arrays.append(len(bus.lines("beats")))
        self.n += bus.publish("answers", b"yes")


class Dozer(nano.Kind, capacity=10):
    n: nano.u64

    def tick(self, now_ns, bus):
        time.sleep(0.002)
        self.n += 1
        return nano.Sleep(now_ns + 500_000) if self.n % 2 else None


heard: list[int] = []
arrays: list[int] = []


def test_in_real_time_native_agents_keep_their_rate_while_pythons_lag(ticks):
    kept_up = False
    for _ in range(20):  # the native ones have to get the processor for it, which others may want as well
        heard.clear()
        arrays.clear()
        flock = nano.NanoSwarm(python_thread=True, time="real")
        beats = flock.spawn(Beat.native(ticks["beat"]), 1, rate_hz=1000)
        slow = flock.spawn(Sluggish, 1, rate_hz=1000)
        dozers = [flock.spawn(Dozer, 3, rate_hz=1000), flock.spawn(Dozer, 3, rate_hz=[1000, 500, 250])]
        report = flock.run_for(seconds=0.8)
        native, line = report.cohorts[0], report.cohorts[slow.cohort]
        assert line.ticks <= report.wall_s / 0.03 + 1, "each takes 30 ms"
        assert native.ticks + native.missed >= 700
        for each in dozers:
            assert report.cohorts[each.cohort].ticks == each.n.sum()
        assert heard == sorted(set(heard))
        assert sum(arrays) == len(heard)
        answered = int(slow.n.sum())
        assert line.ticks == answered == report.topics["answers"]["published"]
        kept_up = (
            line.ticks >= 2
            and line.missed > 100
            and native.ticks > 4 * line.ticks  # nobody waited
            and len(heard) > 10 * line.ticks  # messages of the passes that it was late for reached it
            # who sleeps, or has a rate of its own, comes back
            and all(each.n.min() >= 2 and report.cohorts[each.cohort].slept for each in dozers)
        )
        if kept_up:
            flock.run_for(passes=10)
            assert beats[0].heard >= answered - 2
            break
    assert kept_up, report.to_dict()


def test_a_ring_that_is_full_says_so():
    class Chatty(nano.Kind, capacity=1):
        n: nano.u64
        out = nano.writes("talk", full="drop")

        def tick(self, now_ns, bus):
            self.n = sum(bus.publish("talk", b"") for _ in range(RING_LINES + 100))
            return nano.DONE

    flock = nano.NanoSwarm(python_thread=True, time="real", topic_lines=RING_LINES)
    chatty = flock.spawn(Chatty, 1, rate_hz=2)
    flock.run_for(seconds=0.05)
    assert flock.passes.statistics(chatty.cohort)["done"] == 1
    assert chatty.n[0] >= RING_LINES
