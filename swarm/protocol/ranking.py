"""Rankings that are kept: what `swarm.protocol.placement.rank` says, without asking every executor anew for each decision.

Between two decisions few executors change: the one that was sent something, those that reported. Each says so to whoever keeps
a verdict on it (`Executor.watchers`), and only these are judged again and put in their place in the order. When the mean run time
of the tasks is another, all are: waits and windows depend on it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from swarm.protocol.placement import Executor, Verdict, judge, order
from swarm.protocol.resources import Shape
from swarm.protocol.states import Priority

RANKINGS_KEPT_MAX = 4
"""Rankings for so many (shape, mean run time, class); every change of an executor is noted in each of them."""
MOVED_ONE_BY_ONE_MAX = 16
"""Where more have changed, all are sorted anew."""

Place = tuple[bool, bool, int, float, bool, int, bytes, Verdict]
"""What `order` says, and the verdict. Ids are in the order, so that no two are equal, and verdicts are never compared."""


class Ranking:
    """Executors in the order in which they would get tasks of one kind, best first."""

    __slots__ = ("_asked", "_mean_s", "_placed", "_priority", "_shape", "changed", "places", "room")

    def __init__(self, executors: Iterable[Executor], shape: Shape, mean_s: float | None, priority: int) -> None:
        self._shape, self._mean_s, self._priority = shape, mean_s, priority
        self._placed: dict[Executor, Place] = {}
        self._asked: set[Executor] = set()
        """Those that are asked for their load when they are judged for urgent tasks: each time, as by `rank`."""
        self.changed = set(executors)
        """Those to be judged before the next decision."""
        self.places: list[Place] = []
        self.room = 0
        """Of all together, in tasks."""

    def refresh(self) -> None:
        """Judge who has changed."""
        changed, placed = self.changed, self._placed
        if self._asked:
            changed |= self._asked
        if len(changed) > MOVED_ONE_BY_ONE_MAX:
            judged = self._judged
            placed |= {executor: judged(executor) for executor in tuple(changed)}
            # Being asked for its load, as a part of being judged, counts as a change.
            changed.clear()
            self.places = sorted(placed.values())
            self.room = sum(place[-1].room for place in self.places)
            return
        while changed:
            executor = changed.pop()
            place, before = self._judged(executor), placed.get(executor)
            changed.discard(executor)
            placed[executor] = place
            if before is not None:
                del self.places[bisect_left(self.places, before)]
                self.room -= before[-1].room
            insort(self.places, place)
            self.room += place[-1].room

    def _judged(self, executor: Executor) -> Place:
        priority = self._priority
        verdict = judge(executor, self._shape, self._mean_s, priority)
        if priority >= Priority.HIGH:
            if executor.ask_load is not None:
                self._asked.add(executor)
            else:
                self._asked.discard(executor)
        return *order(verdict, executor), verdict

    def drop(self, executor: Executor) -> None:
        """It is none any more."""
        self.changed.discard(executor)
        self._asked.discard(executor)
        place = self._placed.pop(executor, None)
        if place is not None:
            self.room -= place[-1].room
            del self.places[bisect_left(self.places, place)]


class Rankings:
    """The rankings of the kinds of tasks that were placed last."""

    def __init__(self, executors: Mapping[bytes, Executor]) -> None:
        self._executors = executors
        self._kept: OrderedDict[tuple[Shape, float | None, int], Ranking] = OrderedDict()
        self._watchers: list[set[Executor]] = []
        for executor in executors.values():
            self.joined(executor)

    def joined(self, executor: Executor) -> None:
        """There is one more."""
        executor.watchers = self._watchers
        executor.changed()

    def gone(self, executor: Executor) -> None:
        """There is one less."""
        executor.watchers = []
        for ranking in self._kept.values():
            ranking.drop(executor)

    def of(self, shape: Shape, mean_s: float | None, priority: int) -> Ranking:
        """The ranking of now for tasks of a shape and class that take `mean_s` seconds each (None: unknown)."""
        kind = (shape, mean_s, priority)
        ranking = self._kept.get(kind)
        if ranking is None:
            ranking = self._kept[kind] = Ranking(self._executors.values(), shape, mean_s, priority)
            if len(self._kept) > RANKINGS_KEPT_MAX:
                self._kept.popitem(last=False)
            self._watchers[:] = [one.changed for one in self._kept.values()]
        else:
            self._kept.move_to_end(kind)
        ranking.refresh()
        return ranking
