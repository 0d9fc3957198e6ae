"""Twin of :mod:`kernels.runqueue`."""

from __future__ import annotations

from dataclasses import dataclass

HIGH = 2
CRITICAL = 3
END_NS = 2**63 - 1


@dataclass(slots=True)
class _Run:
    klass: int
    nice: int
    since_ns: int
    start_ns: int
    order: int
    count: int


class RunQueue:
    """Runs that wait here, the head first."""

    def __init__(self, ageing_ns: int = 10_000_000_000) -> None:
        if ageing_ns <= 0:
            raise ValueError(f"ageing_ns is {ageing_ns}; it must be positive")
        self._ageing_ns = ageing_ns
        self._nice_ns = ageing_ns // 10
        self._waiting: dict[int, _Run] = {}
        self._pushed = 0

    @property
    def tasks(self) -> int:
        """How many tasks wait."""
        return sum(run.count for run in self._waiting.values())

    @property
    def runs(self) -> int:
        """How many runs wait."""
        return len(self._waiting)

    def _level(self, run: _Run, now_ns: int) -> int:
        """The class in which a run stands now."""
        if run.klass >= HIGH:
            return run.klass
        return min(HIGH, run.klass + max(0, now_ns - run.since_ns) // self._ageing_ns)

    def _head(self, now_ns: int) -> int | None:
        def rank(key: int) -> tuple[int, int, int]:
            run = self._waiting[key]
            rank_ns = run.start_ns + run.nice * self._nice_ns
            return -self._level(run, now_ns), min(rank_ns, END_NS), run.order

        return min(self._waiting, key=rank, default=None)

    def push(self, key: int, klass: int, nice: int, now_ns: int, count: int, start_ns: int | None = None) -> None:
        """Queue a run of `count` tasks under a key of its own."""
        if not 0 <= klass <= CRITICAL or not -20 <= nice <= 19 or count < 1 or key in self._waiting:
            raise ValueError(f"run {key} of class {klass}, nice {nice}, {count} tasks")
        self._waiting[key] = _Run(klass, nice, now_ns, now_ns if start_ns is None else start_ns, self._pushed, count)
        self._pushed += 1

    def pop(self, now_ns: int, limit: int) -> tuple[int, int] | None:
        """Take up to limit tasks off the head: (key, how many), or None."""
        if limit < 1:
            raise ValueError(f"limit is {limit}; at least 1 task must be asked for")
        key = self._head(now_ns)
        return None if key is None else (key, self.take_from(key, limit))

    def peek(self, now_ns: int) -> tuple[int, int] | None:
        """The head as (key, how many wait in it), or None."""
        key = self._head(now_ns)
        return None if key is None else (key, self._waiting[key].count)

    def take_from(self, key: int, limit: int) -> int:
        """Take up to limit tasks off the run of this key; returns how many."""
        run = self._waiting.get(key)
        if run is None or limit < 1:
            return 0
        taken = min(limit, run.count)
        run.count -= taken
        if not run.count:
            del self._waiting[key]
        return taken

    def remove(self, key: int) -> int:
        """Take the whole run of this key away; returns how many tasks waited in it."""
        run = self._waiting.pop(key, None)
        return run.count if run else 0

    def waiting(self, klass: int) -> int:
        """How many tasks wait that were pushed with this class."""
        return sum(run.count for run in self._waiting.values() if run.klass == klass)

    def oldest_ns(self, klass: int) -> int | None:
        """Since when the longest-waiting run pushed with this class waits, or None."""
        return min((run.since_ns for run in self._waiting.values() if run.klass == klass), default=None)
