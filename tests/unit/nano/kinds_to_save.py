"""Kinds that saved populations name."""

from __future__ import annotations

import ctypes

from swarm import nano


class Walker(nano.Kind, capacity=64):
    """Walks; its step depends on its row and the instant only."""

    x: nano.f64
    steps: nano.u32
    heard: nano.i64
    news = nano.reads("news")
    told = nano.writes("news")

    def tick(self, now_ns, bus):
        self.x += (self.row + 1) * 0.5 + now_ns % 7
        self.steps += 1
        for message in bus.read("news"):
            self.heard += message.row + message.payload[0]
        bus.publish("news", bytes([self.steps % 200]))
        if self.steps % 5 == 0:
            return nano.Sleep(now_ns + 7_000 * (self.row + 1))
        if self.row == 3 and self.steps == 12:
            return nano.DONE
        return None


class Falling(nano.Kind, capacity=32, layout="rows"):
    """Ticked by a function of ctypes."""

    x: nano.f64
    v: nano.f32
    on: nano.boolean


TickOne = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
)


@TickOne
def fall(cols, row, now_ns, ctx):
    """A row is 64 bytes: x at 0, v at 8, on at 12."""
    x = ctypes.c_double.from_address(cols[0] + 64 * row)
    x.value += 1.0 + row
    return 1


class Pacer(nano.Kind, capacity=16):
    """Its generator stands where its fields tell."""

    x: nano.f64
    turns: nano.u32

    def tick(self, bus):
        while True:
            for step in range(self.turns % 4, 4):
                yield
                self.x += step
                self.turns += 1

    def save(self):
        return None

    def restore(self, saved):
        assert saved is None


class Counted:
    """What stands in for a generator, and can be saved."""

    def __init__(self, agent, bus):
        self.agent, self.at = agent, 0

    def __next__(self):
        return self.send(None)

    def send(self, now_ns):
        if now_ns is not None:
            self.at += 1
            self.agent.x = self.at * 0.5
        return

    def save(self):
        return {"at": self.at}

    def restore(self, saved):
        self.at = saved["at"]


def counted(agent, bus):
    return Counted(agent, bus)


class Tally:
    """An object of its own class, which writes to nothing but itself."""

    def __init__(self):
        self.count = 0

    def tick(self, now_ns, bus):
        self.count += 1

    def save(self):
        return self.count

    def restore(self, saved):
        self.count = saved


class Counting(nano.Kind, capacity=8):
    """Keeps something beside its fields, and does not say so."""

    x: nano.f64

    def tick(self, now_ns, bus):
        self.turns = getattr(self, "turns", 0) + 1
        self.x = self.turns


class CountingSaved(Counting, capacity=8):
    """Says what it keeps."""

    def save(self):
        return getattr(self, "turns", 0)

    def restore(self, value):
        self.turns = value
