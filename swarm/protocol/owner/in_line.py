"""A place in line where there is no free slot, among tasks of other shapes and of other owners.

An owner sends what a node has slots for, and keeps the rest. So two of them, or two kinds of tasks, that want the same slots would not be put
in order by anybody: whoever hears first of a slot that becomes free has it, and who sends short tasks ahead leaves none. Therefore each
owner may have a task of each class wait at each node where it is not alone: the node's own queue, which knows classes, ages and
shares of all that is there, decides who is next.

One at a time is enough to be asked, and little enough to wait at the wrong node: what others have time for is pulled from there as anything
that waits.
"""

from __future__ import annotations

from collections.abc import Mapping

from swarm.protocol.placement import SLOTS_MAX, Executor
from swarm.protocol.resources import SLACK, Shape
from swarm.protocol.timers import Timers

IN_LINE = 42
"""The timer after which it is looked again where something may wait."""
LOOK_S = 0.005
"""How often at most it is looked for a place for one kind of task, where there was none."""
KINDS_MAX = 64
WORDS = "has no slot free, and tasks of others: it waits there for its turn"


class InLine:
    """Finds nodes where a task waits for its turn."""

    def __init__(self, executors: Mapping[bytes, Executor], timers: Timers) -> None:
        self._executors = executors
        self._timers = timers
        self._none: dict[tuple[Shape, int], float] = {}
        """Kinds of tasks for which there was no place -> when it is looked again."""
        self._armed = -1.0
        """Until when a timer is set."""

    def place(self, now: float, shape: Shape, priority: int) -> Executor | None:
        """Where one more task of a shape and class may wait, if it may anywhere; it is counted there."""
        kind = (shape, priority)
        again = self._none.get(kind)
        if again is not None:
            if now < again:
                if self._armed < now:
                    self._armed = again
                    self._timers.at(again, IN_LINE)
                return None
            del self._none[kind]
        best = min(
            (it for it in self._executors.values() if self._may_wait(it, shape, priority)),
            key=lambda it: (sum(it.queued or ()), it.ours + it.others - it.slots, not it.local, it.id), default=None,
        )  # fmt: skip
        if best is None:
            if len(self._none) >= KINDS_MAX:
                self._none.clear()
            self._none[kind] = now + LOOK_S
        else:
            assert best.queued is not None
            best.queued[priority] += 1
        return best

    @staticmethod
    def _may_wait(it: Executor, shape: Shape, priority: int) -> bool:
        here = it.inflight.get(shape.counted, 0)
        if (it.others < 1 and it.ours <= here) or not it.linked or it.draining or it.suspect or it.fit(shape)[0]:
            return False
        if it.ask_load is not None:
            it.heard(it.ask_load())
        if it.queued is None or it.withheld >= min(it.slots, SLOTS_MAX) - SLACK:
            return False
        return not any(it.queued[priority:]) or not here
