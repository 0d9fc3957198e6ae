"""Kinds of the populations that are measured in a fleet."""

from __future__ import annotations

import ctypes

from benchmarks.nano.native import compiled
from kernels.motions import tick_many
from swarm import nano

MANY = 1_000_000
LINES = 65_536

_library = ctypes.CDLL(str(compiled("talk.c")))
talk, hear = _library.talk, _library.hear
TickMany = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p
)
move = TickMany(tick_many("move"))  # with a name, by which another process finds it


class Talker(nano.Kind, capacity=LINES):
    """Says something each pass."""

    said: nano.u64
    words = nano.writes("words")


class Hearer(nano.Kind, capacity=64):
    """Counts what is said."""

    heard: nano.u64
    words = nano.reads("words")


class Kept(nano.Kind, capacity=MANY):
    """What is moved."""

    x: nano.f64
    v: nano.f64


def talking(talkers: int) -> nano.NanoSwarm:
    """Talkers, and a hearer for each part that it may be cut into."""
    flock = nano.NanoSwarm(seed=1, topic_lines=LINES)
    flock.spawn(Talker.native_many(talk), talkers, rate_hz=1000)
    flock.spawn(Hearer.native_many(hear), 3, rate_hz=1000)
    return flock


def many() -> nano.NanoSwarm:
    """A million agents."""
    flock = nano.NanoSwarm(seed=1)
    kept = flock.spawn(Kept.native_many(move), MANY, rate_hz=100)
    kept.v[:] = 1.0
    return flock
