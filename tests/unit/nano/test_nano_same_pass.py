"""Topics that are read with delay=0: a stage reads in the same pass what the stages before it have published."""

from __future__ import annotations

import pytest

from swarm import nano
from swarm.nano.bridge import Bridge
from swarm.nano.lockstep import Part
from tests.unit.nano.test_nano_cores import addresses, compiled, history, parted


class First(nano.Kind, capacity=64):
    x: nano.u64
    raw = nano.writes("raw")

    def tick(self, now_ns, bus):
        self.x += 1
        bus.publish("raw", bytes([self.row, self.x % 251]))
        return nano.Sleep(now_ns + 30_000) if bus.random() % 4 == 0 else None


class Second(nano.Kind, capacity=64):
    x: nano.u64
    raw = nano.reads("raw", delay=0)
    fine = nano.writes("fine")

    def tick(self, now_ns, bus):
        for message in bus.read("raw"):
            if message.row == self.row:
                self.x += 1
                bus.publish("fine", message.payload[:2])


class Third(nano.Kind, capacity=4):
    x: nano.u64
    mixed: nano.u64
    fine = nano.reads("fine", delay=0)
    raw = nano.reads("raw")

    def tick(self, now_ns, bus):
        self.x += len(bus.lines("fine"))
        self.mixed = self.mixed * 31 + sum(m.payload[0] + m.payload[1] for m in bus.read("raw")) & (1 << 60) - 1


def pipeline(seed: int = 3, **how) -> nano.NanoSwarm:
    flock = nano.NanoSwarm(seed=seed, **how)
    for kind, count in ((First, 20), (Second, 20), (Third, 1)):
        flock.spawn(kind, count, rate_hz=100_000)
    return flock


def test_each_message_is_read_once_and_in_the_pass_of_its_origin():
    flock = pipeline()
    first, second, third = flock.cohorts
    for _ in range(30):
        report = flock.run_for(passes=1)
        assert first.x.sum() == second.x.sum() == third[0].x, "nothing is under way between two passes"
    assert report.topics["fine"]["delivered"] == report.topics["fine"]["published"] > 0
    assert not flock.failures() and third[0].mixed > 0, "another topic is read in the pass after"


def test_a_blob_goes_on_as_if_nothing_had_been():
    flock = pipeline()
    flock.run_for(passes=17)
    other = nano.load(flock.save())
    flock.run_for(passes=40)
    other.run_for(passes=40)
    assert history(flock) == history(other)


class Crowd(nano.Kind, capacity=2_000):
    x: nano.f64
    n: nano.u32
    gossip = nano.writes("gossip")
    noise = nano.writes("noise")
    more = nano.writes("more")


class Ear(nano.Kind, capacity=2_000):
    x: nano.f64
    n: nano.u32
    gossip = nano.reads("gossip", delay=0)
    noise = nano.reads("noise")
    again = nano.writes("again")
    third = nano.writes("third")
    last = nano.writes("last")


class Tail(nano.Kind, capacity=8):
    heard: nano.u64
    said: nano.u64
    again = nano.reads("again", delay=0)
    gossip = nano.reads("gossip", delay=0)

    def tick(self, now_ns, bus):
        self.heard += len(bus.lines("again"))
        self.said += len(bus.lines("gossip"))


@pytest.mark.parametrize("form", ["lone", "crowd"])
def test_native_stages_give_the_same_on_any_number_of_cores(form, tmp_path_factory):
    at = addresses(compiled(tmp_path_factory.mktemp("ticks")))[form]
    found = []
    for cores in (1, 2, 3):
        flock = parted(nano.NanoSwarm(seed=5, cores=cores, topic_lines=5_000, resolution_ns=10_000))
        for kind, count in ((Crowd, 900), (Ear, 700)):
            flock.spawn(kind.native(at) if form == "lone" else kind.native_many(at), count, rate_hz=100_000)
        tail = flock.spawn(Tail, 1, rate_hz=100_000)
        report = flock.run_for(passes=60)
        assert tail[0].heard == report.topics["again"]["published"] > 50
        assert tail[0].said == report.topics["gossip"]["published"] > 50
        found.append(history(flock))
    assert len(set(found)) == 1


def test_who_writes_after_it_was_read_is_refused_and_the_rest_goes_on():
    flock = pipeline()
    with pytest.raises(nano.NanoError, match="First writes to 'raw' after Second has read it with delay=0"):
        flock.spawn(First, 1, rate_hz=1000)
    assert flock.agents == 41
    flock.run_for(passes=3)
    other = nano.NanoSwarm()
    other.spawn(Second, 1, rate_hz=1000)
    with pytest.raises(nano.NanoError, match="after Second has read it") as found:
        other.spawn(First, 1, rate_hz=1000)
    assert "spawn First before Second" in found.value.hint
    with pytest.raises(nano.NanoError, match="Python's agents run after native ones"):
        _native_reader_after_python()


def _native_reader_after_python() -> None:
    from kernels.motions import tick_many

    class Stage(nano.Kind):
        x: nano.f64
        v: nano.f64
        raw = nano.reads("raw", delay=0)

    flock = nano.NanoSwarm()
    flock.spawn(First, 1, rate_hz=1000)
    flock.spawn(Stage.native_many(tick_many("move")), 1, rate_hz=1000)


def test_what_cannot_be_is_refused_where_it_is_declared_or_spawned():
    with pytest.raises(nano.NanoError, match="delay=2 for topic"):
        nano.reads("raw", delay=2)
    with pytest.raises(nano.NanoError, match="with delay=0 and with delay=1"):
        type("Both", (nano.Kind,), {"a": nano.reads("raw", delay=0), "b": nano.reads("raw")})
    with pytest.raises(nano.NanoError, match="reads 'raw' with delay=0 and writes to it"):
        type("Own", (nano.Kind,), {"a": nano.reads("raw", delay=0), "b": nano.writes("raw")})
    for how in ({"topology": nano.RoundRobin()}, {"python_thread": True}):
        with pytest.raises(nano.NanoError, match="Second reads raw with delay=0"):
            pipeline(**how)


def test_it_does_not_reach_other_places():
    flock = pipeline()
    here, there = nano.ends(64)
    with pytest.raises(nano.NanoError, match="'raw' cannot be received: it is read with delay=0"):
        Bridge(flock, here, ["raw"])
    with Bridge(flock, here, ["fine"], sends=["fine"], receives=[]):
        flock.run_for(passes=2)
    with pytest.raises(nano.NanoError, match="which other nodes do not see"):
        Part(pipeline(), 0)
    for end in (here, there):
        end.close()
