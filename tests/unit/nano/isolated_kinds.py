"""Populations for the tests of isolation: built in a worker process by their importable names."""

from __future__ import annotations

import ctypes
import os
import signal
import time

from kernels.passes import TICKS
from swarm import nano

TICK_MANY = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p
)


class Bird(nano.Kind, capacity=1000):
    x: nano.f64
    v: nano.f64


class Line(nano.Kind, capacity=1000, layout="rows"):
    small: nano.u8
    x: nano.f64


class Cell(nano.Kind, capacity=1000):
    n: nano.u64
    wrong_at: nano.u64

    def tick(self, now_ns, bus):
        self.n += 1
        if self.wrong_at and now_ns >= self.wrong_at:
            while True:
                pass


class Sensor(nano.Kind, capacity=1000):
    x: nano.f64
    wrong_at: nano.u64


def _native(what):
    """A native tick that goes wrong at 500 ms, as its batch's callback of C."""

    def tick(cols, idx, n, now_ns, ctx):
        if now_ns >= 500_000_000:
            what()
        return 1

    return TICK_MANY(tick)


def _for_ever():
    libc = ctypes.CDLL(None)
    while True:
        libc.sched_yield()


segfault = _native(lambda: ctypes.string_at(8))
exits = _native(lambda: os._exit(7))
killed = _native(lambda: os.kill(os.getpid(), signal.SIGKILL))
for_ever = _native(_for_ever)
blocked = _native(lambda: time.sleep(1000))


def birds(count=10, rate_hz=100, time="virtual"):
    flock = nano.NanoSwarm(seed=7, time=time)
    them = flock.spawn(Bird.native_many(TICKS["move_many"]), count, rate_hz=rate_hz)
    them.v[:] = 1.0
    lines = flock.spawn(Line.native_many(TICKS["nothing_many"]), 3, rate_hz=rate_hz)
    lines.x[:] = [1.5, 2.5, 3.5]
    return flock


def bad(tick, rate_hz=100):
    """Cohort 0 does well, cohort 1 goes wrong."""
    flock = birds(rate_hz=rate_hz)
    flock.spawn(Sensor.native_many(globals()[tick]), 20, rate_hz=rate_hz)
    return flock


def endless_python(**options):
    flock = nano.NanoSwarm(seed=7, **options)
    for _ in range(2):
        flock.spawn(Bird.native_many(TICKS["move_many"]), 10, rate_hz=100)
    cells = flock.spawn(Cell, 5, rate_hz=100)
    cells.wrong_at[:] = 500_000_000
    return flock


def nothing():
    return 5


def wrong(message):
    raise nano.NanoError(message, hint="as asked")
