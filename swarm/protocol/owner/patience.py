"""Patience: the last tasks of a kind wait for a faster node rather than begin on a slow one.

While much waits, every node is used. Once no more waits than the faster nodes take in the time that a task loses on a slow one, it
would end later there than if it had waited: the threshold of the slow server (W. Lin, P. R. Kumar, "Optimal control of a queueing system with
two heterogeneous servers", IEEE Transactions on Automatic Control, 1984). How long a task takes drops out of it; what is counted is slots.

What it rests upon may be wrong, so a slow node is kept waiting for no longer than there was to be gained, and never for longer than
`WAIT_TASKS` tasks take or `WAIT_MAX_S`; and neither urgent tasks nor short ones wait for this.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from swarm.protocol.placement import DEEP_BELOW_S, SLOTS_MAX, Brief, Executor
from swarm.protocol.resources import Shape
from swarm.protocol.states import Priority
from swarm.protocol.timers import Timers

PATIENCE = 41
"""The timer after which a slow node is used all the same."""
SOONER = "a faster node will be free sooner"
WAIT_TASKS = 2.0
WAIT_MAX_S = 60.0
SHAPES_MAX = 256


class Patience:
    """Until when tasks of a shape wait for faster nodes."""

    def __init__(self, executors: Mapping[bytes, Executor], timers: Timers) -> None:
        self._executors = executors
        self._timers = timers
        self._fastest = 1.0
        self._held: dict[Shape, tuple[float, float]] = {}
        """Shape -> (until when its tasks are held back, when that was last asked)."""

    def measured(self) -> None:
        """Some node is faster or slower than was known."""
        self._fastest = max((it.pace.speed for it in self._executors.values()), default=1.0)

    def allows(
        self, now: float, shape: Shape, it: Executor, waiting: int, mean_s: float | None, priority: int
    ) -> tuple[int, Brief | None]:
        """How many of so many waiting tasks may begin on the best node with room, and, where that is none, why not."""
        speed = it.pace.speed
        if mean_s is None or mean_s < DEEP_BELOW_S or speed >= self._fastest or priority >= Priority.HIGH:
            return waiting, None
        rate, top = 0.0, speed
        for other in self._executors.values():
            if other.pace.speed > speed and other.linked and not other.draining and not other.suspect:
                # Slots in which tasks like these run now: others may be taken for longer.
                slots = min(other.inflight.get(shape.counted, 0), other.fit(shape)[1], SLOTS_MAX)
                if slots > 0:
                    rate += slots * other.pace.speed
                    top = max(top, other.pace.speed)
        loses = 1.0 / speed - 1.0 / top
        allowed = waiting - int(rate * loses)
        if allowed > 0:
            self._held.pop(shape, None)
            return allowed, None
        gain_s = min(mean_s * min(loses, WAIT_TASKS), WAIT_MAX_S)
        until, seen = self._held.get(shape, (0.0, -inf))
        if now - seen > 2 * gain_s:
            if len(self._held) >= SHAPES_MAX:
                self._held.clear()
            until = now + gain_s
            self._timers.at(until, PATIENCE)
        self._held[shape] = (until, now)
        if now >= until:
            return waiting, None
        return 0, (it.name, 0, round(until - now, 3), SOONER)
