"""How many of its slots a node offers: fewer while the machine is hot, runs on its battery, or is at work for somebody else.

Readings come from outside, rules from the node's settings. Fewer slots are offered at once, more again one at a time, so that a
machine that has just cooled down is not heated up again by all of its slots together. Work that runs is left alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HOT_SPAN_C = 10.0
"""From so many degrees below the limit on, fewer slots are offered; at the limit `LEAST_PART` of them."""
LEAST_PART = 0.25
ONE_MORE_S = 10.0
"""A slot that was withheld is offered again after so long at the earliest, one at a time."""
LOAD_NOTABLE = 0.5
"""Processors that others use count from so much on: something always runs."""


@dataclass(frozen=True, slots=True)
class Rules:
    """From the node's settings."""

    hot_c: float = 90.0
    """The temperature, in degrees Celsius, that is not to be passed; 0: heat is not heeded."""
    battery_part: float = 0.5
    """The part of its slots that a machine on battery offers; 1: all of them."""
    yields: bool = False
    """Whether processors that others use are not offered."""


@dataclass(frozen=True, slots=True)
class Readings:
    """The state of the machine; None is what it does not tell."""

    temperature_c: float | None = None
    on_battery: bool | None = None
    others_cpus: float | None = None
    """Processors that are used by what is not this node's."""


def wanted(slots: int, readings: Readings, rules: Rules) -> tuple[int, tuple[str, ...]]:
    """How many slots should be offered, and why not all. A node that has one offers one, however hot: nothing is stuck for ever."""
    offered, why = slots, []
    heat, limit = readings.temperature_c, rules.hot_c
    if heat is not None and limit > 0 and heat > limit - HOT_SPAN_C:
        part = max(LEAST_PART, 1.0 - (1.0 - LEAST_PART) * (heat - (limit - HOT_SPAN_C)) / HOT_SPAN_C)
        offered = min(offered, math.floor(slots * part + 1e-9))
        why.append(f"{heat:.0f} °C")
    if readings.on_battery and rules.battery_part < 1.0:
        offered = min(offered, math.floor(slots * rules.battery_part + 1e-9))
        why.append("on battery")
    others = readings.others_cpus
    if rules.yields and others is not None and others >= LOAD_NOTABLE:
        offered = min(offered, slots - round(others))
        why.append(f"{others:.1f} processors at other work")
    offered = max(min(1, slots), offered)
    return offered, tuple(why) if offered < slots else ()


class Offer:
    """What a node offers over time."""

    def __init__(self, slots: int, rules: Rules) -> None:
        self._slots = slots
        self._rules = rules
        self._raised_at = 0.0
        self.offered = slots
        self.why: tuple[str, ...] = ()

    def read(self, now: float, readings: Readings) -> int:
        """Take in how the machine is; how many slots are offered from now on."""
        target, why = wanted(self._slots, readings, self._rules)
        if target < self.offered:
            self.offered, self._raised_at = target, now
        elif target == self.offered:
            self._raised_at = now
        elif now - self._raised_at >= ONE_MORE_S:
            self.offered, self._raised_at = self.offered + 1, now
        self.why = why or (self.why if self.offered < self._slots else ())
        return self.offered
