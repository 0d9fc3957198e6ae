"""A place in line where there is no free slot, among tasks of other shapes and of other owners.

An owner sends what a node has slots for, and keeps the rest. So two of them, or two kinds of tasks, that want the same slots would not be put
in order by anybody: whoever hears first of a slot that becomes free has it, and who sends short tasks ahead leaves none. Therefore each
owner may have a task of each class wait at each node where it is not alone: the node's own queue, which knows classes, ages and
shares of all that is there, decides who is next.

As many wait as begin there until the node has said so, one at least, and one a slot where something less urgent runs: little enough to wait at the wrong node, and what others have time for is
pulled from there as anything that waits. And nothing goes there past another task of this owner that could have the slot: only the owner
knows that this one waits, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from swarm.protocol.placement import SLOTS_MAX, Executor
from swarm.protocol.resources import SLACK, Shape
from swarm.protocol.timers import Timers

IN_LINE = 42
"""The timer after which it is looked again where something may wait."""
LOOK_S = 0.005
"""How often at most it is looked for a place for one kind of task, where there was none."""
TOLD_S = 0.05
"""A node says within this time that something has begun."""
KINDS_MAX = 64
WORDS = "has no slot free, and tasks of others: it waits there for its turn"


class InLine:
    """Finds nodes where a task waits for its turn."""

    def __init__(self, executors: Mapping[bytes, Executor], timers: Timers) -> None:
        self._executors = executors
        self._timers = timers
        self._none: dict[tuple[Shape, int], float] = {}
        """Kinds of tasks for which there was no place -> when it is looked again."""
        self._placed: dict[bytes, float] = {}
        """Nodes -> when something was placed there last."""
        self._armed = -1.0
        """Until when a timer is set."""

    def place(
        self, now: float, shape: Shape, priority: int, mean_s: float | None = None, before: Collection[Shape] = ()
    ) -> Executor | None:
        """Where one more task of a shape and class may wait, if it may anywhere; it is counted there. `mean_s` is how long such tasks take,
        if that is known; `before` are the shapes of tasks that were to have their turn before it, and have no room."""
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
            (it for it in self._executors.values() if self._may_wait(now, it, shape, priority, mean_s, before)),
            key=lambda it: (sum(it.queued or ()), it.ours + it.others - it.slots, not it.local, it.id), default=None,
        )  # fmt: skip
        if best is None:
            if len(self._none) >= KINDS_MAX:
                self._none.clear()
            self._none[kind] = now + LOOK_S
        else:
            assert best.queued is not None
            best.queued[priority] += 1
            if best.ask_load is not None:
                self._placed[best.id] = now
        return best

    def _may_wait(
        self, now: float, it: Executor, shape: Shape, priority: int, mean_s: float | None, before: Collection[Shape]
    ) -> bool:
        here = it.inflight.get(shape.counted, 0)
        if (it.others < 1 and it.ours <= here) or not it.linked or it.draining or it.suspect or it.fit(shape)[0]:
            return False
        if any(other != shape and not it.fit(other)[0] and _lacks_slots_alone(it, other) for other in before):
            return False
        if it.ask_load is not None and now - self._placed.get(it.id, -LOOK_S) >= LOOK_S:
            # What was placed there just now is on its way: so long the count here is the better one.
            it.heard(it.ask_load())
        if it.queued is None or it.withheld >= min(it.slots, SLOTS_MAX) - SLACK:
            return False
        most = 1 if mean_s is None else 1 + int(min(it.slots, SLOTS_MAX) * TOLD_S / max(mean_s, TOLD_S))
        if any(it.yielding[:priority]):
            # Something less urgent has slots there, and more of it may be waiting: it is to get none that becomes free.
            most = max(most, int(min(it.slots, SLOTS_MAX)))
        return sum(it.queued[priority:]) < most or not here


def _lacks_slots_alone(it: Executor, shape: Shape) -> bool:
    """Whether a task of a shape would begin there if a slot were free, as far as its owner knows."""
    for name, amount in shape.needs:
        if name != "cpu":
            taken = sum(count * dict(one.needs).get(name, 0.0) for one, count in it.inflight.items())
            if taken + amount > it.capacity.totals.get(name, 0.0) + SLACK:
                return False
    return True
