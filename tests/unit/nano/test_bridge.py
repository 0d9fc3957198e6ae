"""Topics of two swarms are one: between processes of a host by rings in memory, and between hosts by a connection."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kernels.lanes import SpscLane
from swarm import nano
from swarm.nano.bridge import Bridge, Counts, passes

ROOT = Path(__file__).parents[3]


class Asks(nano.Kind, capacity=64):
    asked: nano.u64
    answered: nano.u64
    questions = nano.writes("questions")
    answers = nano.reads("answers")

    def tick(self, now_ns, bus):
        for message in bus.read("answers"):
            if message.payload[0] == self.row:
                self.answered += 1
        self.asked += 1
        bus.publish("questions", bytes([self.row]))


class Answers(nano.Kind, capacity=4):
    heard: nano.u64
    questions = nano.reads("questions")
    answers = nano.writes("answers")

    def tick(self, now_ns, bus):
        for message in bus.read("questions"):
            self.heard += 1
            bus.publish("answers", message.payload[:1])


def swarm_of(kind: type[nano.Kind], count: int = 1) -> nano.NanoSwarm:
    flock = nano.NanoSwarm(time="real")
    flock.spawn(kind, count, rate_hz=500)
    return flock


def both(one: nano.NanoSwarm, other: nano.NanoSwarm, seconds: float) -> None:
    thread = threading.Thread(target=other.run_for, kwargs={"seconds": seconds})
    thread.start()
    one.run_for(seconds=seconds)
    thread.join(30)


def both_until(one: nano.NanoSwarm, other: nano.NanoSwarm, condition: object, within_s: float = 30.0) -> None:
    """On a machine with much else to do, a pass may come late: what is awaited is an event, not a time."""
    assert callable(condition)
    deadline = time.monotonic() + within_s
    while True:
        both(one, other, 0.5)
        if condition():
            return
        assert time.monotonic() < deadline


def test_between_rings_of_this_host():
    asks, answers = swarm_of(Asks, 5), swarm_of(Answers)
    here, there = nano.ends(1024)
    with Bridge(asks, here, ["questions", "answers"]) as one:
        assert not one.joined
        with Bridge(answers, there, ["questions", "answers"]) as other:
            assert one.joined and other.joined
            assert (one.sends, one.receives, other.sends) == (["questions"], ["answers"], ["answers"])
            both_until(asks, answers, lambda: sum(asks.cohorts[0].answered) > 50)
            sent, dropped, received, strange = one.counts()
            assert (sent, dropped, strange) == (sum(asks.cohorts[0].asked), 0, 0)
            assert 0 < other.counts().received <= sent
            assert answers.bus.counters(answers.topics["questions"])[0] == 0, (
                "what came from elsewhere is not published here"
            )
        asks.run_for(seconds=0.05)
        assert not one.joined
    for end in (here, there):
        end.close()


CHILD = """
import sys
from swarm import nano
from tests.unit.nano.test_bridge import Answers, swarm_of
flock = swarm_of(Answers)
with nano.Bridge(flock, nano.End.of(sys.argv[1]), ["questions", "answers"]) as bridge:
    print("here", flush=True)
    flock.run_for(seconds=float(sys.argv[2]))
    print(bridge.counts().received, flush=True)
"""


def child(end: nano.End, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, end.text, str(seconds)],
        pass_fds=end.fds,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_between_processes_and_after_the_death_of_one():
    asks = swarm_of(Asks, 5)
    here, there = nano.ends(1024)
    with Bridge(asks, here, ["questions", "answers"]) as bridge:
        first = child(there, 60)
        assert first.stdout is not None
        assert first.stdout.readline() == "here\n"
        asks.run_for(seconds=0.3)
        heard = bridge.counts().received
        assert heard > 0
        first.kill()
        first.communicate()
        asks.run_for(seconds=0.3)  # nobody takes them: the ring fills, and what has no room is dropped
        second = child(there, 0.5)
        assert second.stdout is not None
        assert second.stdout.readline() == "here\n"
        asks.run_for(seconds=0.7)
        assert bridge.counts().received > heard
        out, _ = second.communicate(timeout=30)
        assert int(out) > 0
    here.close()
    there.close()


def until(condition: object, within_s: float = 20.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_between_hosts_and_to_another_place():
    asks, answers = swarm_of(Asks, 5), swarm_of(Answers)
    listening, connecting = passes()
    with Bridge(answers, listening, ["questions", "answers"]) as there:
        here = Bridge(asks, connecting.at(f"127.0.0.1:{there.port}"), ["questions", "answers"])
        until(lambda: here.joined and there.joined)
        both_until(asks, answers, lambda: sum(asks.cohorts[0].answered) > 50)
        assert here.counts().received == there.counts().sent - there.counts().dropped or here.counts().received > 50
    elsewhere = swarm_of(Answers)
    with Bridge(elsewhere, listening, ["questions", "answers"]) as other:
        before = sum(asks.cohorts[0].answered)
        assert here._carrier is not None
        here._carrier.point(f"127.0.0.1:{other.port}")
        until(lambda: other.joined)
        both_until(asks, elsewhere, lambda: sum(asks.cohorts[0].answered) > before)
    here.close()
    here.close()


def test_a_full_ring_drops_and_counts():
    asks = swarm_of(Asks, 20)
    here, there = nano.ends(16)
    with Bridge(asks, here, ["questions", "answers"]) as bridge:
        asks.run_for(seconds=0.1)
        asked = sum(asks.cohorts[0].asked)
        assert bridge.counts() == Counts(16, asked - 16, 0, 0)
    here.close()
    there.close()


def test_a_ring_that_was_damaged_is_said_and_the_swarm_goes_on():
    asks = swarm_of(Asks, 1)
    here, there = nano.ends(16)
    with Bridge(asks, here, ["questions", "answers"]) as bridge:
        import mmap
        import os

        with mmap.mmap(there.put, os.fstat(there.put).st_size) as memory:
            memory[128:136] = (2**50).to_bytes(8, "little")
        assert asks.run_for(seconds=0.1).ticks > 0
        with pytest.raises(ValueError, match="damaged"):
            bridge.counts()
    here.close()
    there.close()


def test_bridges_that_cannot_be_are_refused():
    asks = swarm_of(Asks)
    here, there = nano.ends(16)
    for topics, more, said in (
        ([], {}, r"topics \[\] of a bridge"), (["questions", "questions"], {}, "of a bridge"), (["prices"], {}, "nobody in the swarm writes or reads"),
        (["questions"], {"sends": ["answers"]}, "'answers' cannot cross"), (["prices"], {"receives": ["prices"]}, "'prices' cannot cross"),
    ):  # fmt: skip
        with pytest.raises(nano.NanoError, match=said):
            Bridge(asks, here, topics, **more)
    with Bridge(asks, here, ["questions"]), pytest.raises(nano.NanoError, match="held already"):
        Bridge(asks, here, ["questions"])
    with pytest.raises(nano.NanoError, match="no end of a bridge"):
        nano.End.of("three")
    with pytest.raises(nano.NanoError, match="power of two"):
        nano.ends(100)
    for end in (here, there):
        end.close()
    with pytest.raises(nano.NanoError, match="cannot be opened"):
        Bridge(asks, here, ["questions"])
    assert SpscLane.LINE == 64
