"""Kinds of a population that is cut into parts: objects, native ticks, sleepers, some that end, and messages both ways."""

from __future__ import annotations

import ctypes
import os
import tempfile
import time as clocks
from pathlib import Path

from kernels.passes import TICKS
from swarm import nano


class Bird(nano.Kind, capacity=500):
    """Flies by what it hears; some sleep, one in a while ends."""

    x: nano.f64
    heard: nano.u64
    calls = nano.writes("calls")
    songs = nano.reads("songs")

    def tick(self, now_ns, bus):
        self.x += bus.uniform()
        for at, message in enumerate(bus.read("songs")):
            # the order in which they come is seen in the result
            self.heard = (self.heard * 31 + message.row * 7 + message.kind + message.payload[0] + at) % (1 << 40)
        if bus.uniform(1) < 0.3:
            bus.publish("calls", bytes([self.row % 251]))
            bus.publish("calls", bytes([self.row % 13]))
        if bus.uniform(2) < 0.02:
            return nano.DONE
        if bus.uniform(3) < 0.1:
            return nano.Sleep(now_ns + 1_000 * (1 + self.row % 9))
        return None


class Singer(nano.Kind, capacity=100, layout="rows"):
    """Sings of what it heard."""

    sum: nano.u32
    songs = nano.writes("songs")
    calls = nano.reads("calls")

    def tick(self, now_ns, bus):
        for message in bus.read("calls"):
            self.sum = (self.sum * 33 + message.row + message.payload[0]) % (1 << 32)
        bus.publish("songs", bytes([self.sum % 256]))


class Stone(nano.Kind, capacity=200):
    """Moves by a native batch tick."""

    x: nano.f64
    v: nano.f64


TickMany = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.c_size_t,
    ctypes.c_uint64,
    ctypes.c_void_p,
)
move = TickMany(TICKS["move_many"])


def population(seed: int = 3, birds: int = 40, singers: int = 5, time: str = "virtual") -> nano.NanoSwarm:
    """A small world of all of them."""
    flock = nano.NanoSwarm(seed=seed, time=time, topic_lines=4096)
    flock.spawn(Bird, birds, rate_hz=100_000)
    flock.spawn(Singer, singers, rate_hz=[20_000 + 7_000 * n for n in range(singers)])
    flock.spawn(Bird, 7, rate_hz=50_000)
    stones = flock.spawn(Stone.native_many(move), 50, rate_hz=10_000)
    stones.v[:] = range(50)
    return flock


def marker() -> Path:
    """Where workers that tick a Slow agent leave its mark and their process id."""
    folder = Path(tempfile.gettempdir()) / "swarm-test-slow"
    folder.mkdir(exist_ok=True)
    return folder


class Slow(nano.Kind, capacity=100):
    """Takes its time, if it is told to, and leaves word of where it runs."""

    pause_s: nano.f64
    x: nano.f64
    told: nano.u32
    mark: nano.u32
    songs = nano.reads("songs")
    calls = nano.writes("calls")

    def tick(self, now_ns, bus):
        if self.pause_s:
            clocks.sleep(self.pause_s)
        if self.mark and not self.told % 16:
            (marker() / f"{self.mark}-{os.getpid()}").touch()
        self.told += 1
        self.x += bus.uniform() + sum(message.payload[0] for message in bus.read("songs"))
        bus.publish("calls", bytes([self.row]))


class Deadly(nano.Kind, capacity=4):
    """Kills the process that ticks it, in its third tick."""

    n: nano.u64

    def tick(self, now_ns, bus):
        self.n += 1
        if self.n == 3:
            os.kill(os.getpid(), 9)
