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
