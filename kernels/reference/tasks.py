"""Twin of :mod:`kernels.tasks`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from kernels.batch import Outcomes

INTERNAL = 16  # statuses from here on do not end a task


@dataclass(slots=True)
class _Task:
    state: int = 0
    token: int = 0
    attempts: int = 0
    crashes: int = 0


class TaskColumns:
    """State of each task of one batch, and the fencing token under which it was handed out."""

    READY: ClassVar[int] = 0
    DISPATCHED: ClassVar[int] = 1
    DONE: ClassVar[int] = 2
    HELD: ClassVar[int] = 3

    def __init__(self, count: int) -> None:
        if not 0 <= count < 2**32:
            raise ValueError(f"a batch of {count} tasks")
        self.count = count
        self._tasks = [_Task() for _ in range(count)]

    def _number(self, state: int) -> int:
        return sum(task.state == state for task in self._tasks)

    @property
    def ready(self) -> int:
        """How many are READY."""
        return self._number(self.READY)

    @property
    def dispatched(self) -> int:
        """How many are DISPATCHED."""
        return self._number(self.DISPATCHED)

    @property
    def done(self) -> int:
        """How many are DONE."""
        return self._number(self.DONE)

    @property
    def held(self) -> int:
        """How many are HELD."""
        return self._number(self.HELD)

    def _task(self, index: int) -> _Task:
        if not 0 <= index < self.count:
            raise IndexError(f"task {index} of a batch of {self.count}")
        return self._tasks[index]

    def _ranges(self, wanted: Callable[[_Task], bool]) -> list[tuple[int, int]]:
        ranges: list[tuple[int, int]] = []
        for index, task in enumerate(self._tasks):
            if not wanted(task):
                continue
            if ranges and sum(ranges[-1]) == index:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + 1)
            else:
                ranges.append((index, 1))
        return ranges

    def take(self, limit: int, token: int) -> tuple[int, int] | None:
        """Hand out the lowest READY tasks that lie side by side: (start, count), or None."""
        if limit < 1:
            raise ValueError(f"limit is {limit}; at least 1 task must be asked for")
        ranges = self._ranges(lambda task: task.state == self.READY)
        if not ranges:
            return None
        start, length = ranges[0][0], min(limit, ranges[0][1])
        for task in self._tasks[start : start + length]:
            task.state, task.token, task.attempts = self.DISPATCHED, token, task.attempts + 1
        return start, length

    def pass_on(self, index: int, token: int, to: int) -> bool:
        """Hand out a task that is DISPATCHED under this token once more, under another one; False when it is not."""
        if not self.holds(index, token):
            return False
        task = self._tasks[index]
        task.token, task.attempts = to, task.attempts + 1
        return True

    def take_at(self, index: int, token: int) -> bool:
        """Hand out this very task, if it is READY. Whether it was."""
        task = self._task(index)
        if task.state != self.READY:
            return False
        task.state, task.token, task.attempts = self.DISPATCHED, token, task.attempts + 1
        return True

    def settle(self, outcomes: Outcomes, token: int) -> int:
        """DONE for each row that is DISPATCHED under this token and has a final status; returns how many."""
        accepted = 0
        for i in range(outcomes.count):
            if self.holds(outcomes.index(i), token) and outcomes.status(i) < INTERNAL:
                self._tasks[outcomes.index(i)].state = self.DONE
                accepted += 1
        return accepted

    def accepts(self, outcomes: Outcomes, token: int) -> bool:
        """Would settle() take every row?"""
        rows = range(outcomes.count)
        return len({outcomes.index(i) for i in rows}) == outcomes.count and all(
            self.holds(outcomes.index(i), token) and outcomes.status(i) < INTERNAL for i in rows
        )

    def holds(self, index: int, token: int) -> bool:
        """Is this task DISPATCHED under this token?"""
        if not 0 <= index < self.count:
            return False
        task = self._tasks[index]
        return task.state == self.DISPATCHED and task.token == token

    def finish(self, index: int) -> bool:
        """DONE, whatever it was; False when it was DONE already."""
        task = self._task(index)
        was, task.state = task.state, self.DONE
        return was != self.DONE

    def release(self, index: int) -> None:
        """DISPATCHED or HELD becomes READY again; any other state stays."""
        task = self._task(index)
        if task.state in (self.DISPATCHED, self.HELD):
            task.state = self.READY

    def hold(self, index: int) -> None:
        """READY or DISPATCHED becomes HELD; any other state stays."""
        task = self._task(index)
        if task.state in (self.READY, self.DISPATCHED):
            task.state = self.HELD

    def outstanding(self, token: int) -> list[tuple[int, int]]:
        """The ranges (start, count) that are DISPATCHED under this token."""
        return self._ranges(lambda task: task.state == self.DISPATCHED and task.token == token)

    def pending(self) -> list[tuple[int, int]]:
        """The ranges (start, count) that are not DONE."""
        return self._ranges(lambda task: task.state != self.DONE)

    def state(self, index: int) -> int:
        """READY, DISPATCHED, DONE or HELD."""
        return self._task(index).state

    def token(self, index: int) -> int:
        """The token of the last time that it was handed out."""
        return self._task(index).token

    def attempts(self, index: int) -> int:
        """How often it was handed out."""
        return self._task(index).attempts

    def crashed(self, index: int) -> int:
        """Count one more death of a worker under this task; returns how many there were."""
        task = self._task(index)
        task.crashes += 1
        return task.crashes
