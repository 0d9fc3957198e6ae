"""Fair shares: who is next of those that wait in one class.

Users of a class get shares of it by their weights, and batches of one user equal shares of his, or smaller and larger ones by their nice;
each share is of time in slots, not of tasks. This is hierarchical start-time fair queueing (Goyal, Vin, Cheng, "Start-time fair queuing",
1996): who has been served has a later start tag, by the time that it was given over its weight, and the lowest tag is next. A tag moves
when a range of tasks is handed over, so nothing is done for each task.

*Why not deficit round robin:* it passes over all who wait, and lets each overdraw by one piece, which here may be an hour. *Why not stride
scheduling:* who comes and goes needs bookkeeping there; a start tag is its own.

Where deadlines are given the turn is the user's all the same, and in it the earliest deadline goes first (Liu, Layland, 1973).

A *flow* is what has its share as one: batches of one client's process that run the same thing, the eldest first, since `map` hands many
batches over for what people call one.

Where a client says how long tasks take, the longest of a flow go first: begun last, they would be what everybody waits for in the end
(Graham, "Bounds on multiprocessing timing anomalies", 1969). A task goes before what has waited for up to `LEAD` times as long as it
takes longer, so that none waits forever behind longer ones that keep coming.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from types import MappingProxyType

from kernels.runqueue import HIGH_CLASS, RunQueue

GUESS_S = 0.1
"""What a task takes of which nothing is known."""
TURNS_KEPT_MAX = 32
"""Beyond so many, those of whom nothing waits are forgotten."""
USERS_KEPT_MAX = 1024
"""Beyond so many, those who owe nothing are forgotten."""
NICE_BASE = 1.25
"""Each step of nice makes a batch's share of its user's smaller by this, as in Linux's scheduler."""
NICE_STEP_NS = 1_000_000_000
"""And it is so much of the user's time later, or sooner."""
AGEING_NS = 10_000_000_000
"""What waits rises by a class in so long."""
LEAD = 10.0
"""By so many times what it is said to take a task goes before what came earlier."""
EQUAL: Mapping[str, float] = MappingProxyType({})
Rank = tuple[int, int, float, int, int]


class Shares:
    """What users have been given, over all shapes. Tags are ns of one slot's time, over the weight."""

    def __init__(self, weights: Mapping[str, float] = EQUAL) -> None:
        self._weights = weights
        self._ends: dict[str, int] = {}
        """Until when, in virtual time, a user has had what was given to him."""
        self.now = 0
        """Virtual time: the tag of what was served last."""

    def tag(self, user: str) -> int:
        """The start tag of what a user wants now."""
        return max(self.now, self._ends.get(user, 0))

    def serve(self, user: str, tag: int, costs_ns: Iterable[int]) -> int:
        """Something with this tag was given to a user, for so long, and then more; the tag of what he wants next."""
        weight, now, end = self._weights.get(user, 1.0), self.now, self._ends.get(user, 0)
        for cost_ns in costs_ns:
            now = max(now, tag)
            tag = end = max(end, tag) + int(cost_ns / weight)
        self.now, self._ends[user] = now, end
        if len(self._ends) > USERS_KEPT_MAX:
            self._ends = {name: end for name, end in self._ends.items() if end > self.now}
        return tag

    def correct(self, user: str, ns: int) -> None:
        """What was given to a user took so much longer than was thought, or less."""
        self._ends[user] = self._ends.get(user, self.now) + int(ns / self._weights.get(user, 1.0))


@dataclass(slots=True, eq=False)
class _Turn:
    """What one user has waiting in one class."""

    number: int
    user: str
    priority: int
    tag: int
    tasks: int = 0
    now: int = 0
    """Virtual time among his flows."""
    ranked: list[tuple[int, int, _Flow]] = field(default_factory=list)
    """(tag, number, flow), the lowest first; what is there no more, or has another tag by now, is left out when it comes up."""
    last: _Flow | None = None
    """The flow of which something waited last."""
    due: list[tuple[float, int, _Flow]] = field(default_factory=list)
    """Flows with a deadline, the earliest first."""

    def next(self) -> _Flow:
        while self.due:
            if self.due[0][2].tasks:
                return self.due[0][2]
            heappop(self.due)
        while True:
            tag, _, flow = self.ranked[0]
            if flow.tasks and flow.tag == tag:
                return flow
            heappop(self.ranked)


@dataclass(slots=True, eq=False)
class _Flow:
    number: int
    turn: _Turn
    name: Hashable
    nice: int
    tag: int
    is_due: bool
    tasks: int = 0
    newest: int = 0
    late: OrderedDict[int, list[int]] = field(default_factory=OrderedDict)
    """Runs that came later than they wait: these go first. Key -> [tasks, since]."""
    runs: OrderedDict[int, list[int]] = field(default_factory=OrderedDict)
    lengths: list[tuple[int, int]] = field(default_factory=list)
    """(when its turn is, key) of runs that are said to take so long, the first one first; what is there no more is left out."""

    def head(self) -> tuple[int, list[int]]:
        while self.lengths and not self.late:
            key = self.lengths[0][1]
            if key in self.runs:
                return key, self.runs[key]
            heappop(self.lengths)
        return next(iter((self.late or self.runs).items()))


class FairQueue:
    """What waits of one shape: runs of tasks by class, in each class by shares. Times are ns."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._queue = RunQueue(AGEING_NS)
        self._turns: dict[int, _Turn] = {}
        self._of_user: dict[tuple[str, int], _Turn] = {}
        self._flows: dict[Hashable, _Flow] = {}
        self._of: dict[int, _Flow] = {}
        """Key of a run -> the flow that it is in."""
        self._numbers = count(1)

    @property
    def tasks(self) -> int:
        """How many tasks wait."""
        return self._queue.tasks

    def waiting(self, priority: int) -> int:
        """How many of a class."""
        return self._queue.waiting(priority)

    def push(
        self, key: int, priority: int, nice: int, since: int, tasks: int, user: str = "", job: Hashable = b"",
        deadline: float | None = None, expected_s: float | None = None,
    ) -> None:  # fmt: skip
        """Queue a run of tasks; one that waits already grows. Since when it waits counts for its class, as time goes by. Of those of
        which it is said how long they take (`expected_s`, of all in a job or of none) the longest go first."""
        flow = self._of.get(key)
        if flow is None:
            name = (user, priority, nice, job)
            flow = self._flows.get(name)
            if flow is None or not flow.tasks:
                flow = self._begin(flow, name, user, priority, nice, deadline)
            self._of[key] = flow
        where = flow.late if key in flow.late or (key not in flow.runs and since < flow.newest) else flow.runs
        run = where.get(key)
        if run is None:
            where[key] = [tasks, since]
            if expected_s is not None and where is flow.runs:
                heappush(flow.lengths, (since - int(expected_s * LEAD * 1e9), key))
        else:
            run[0] += tasks
        flow.newest = max(flow.newest, since)
        flow.tasks += tasks
        flow.turn.tasks += tasks
        self._place(flow.turn)

    def peek(self, now: int) -> tuple[int, int] | None:
        """(key, tasks) of the run that is next, or None."""
        head = self._queue.peek(now)
        if head is None:
            return None
        key, run = self._turns[head[0]].next().head()
        return key, run[0]

    def rank(self, now: int) -> Rank:
        """Where the run that is next stands among those of other queues with the same shares, the least first: by its class as it has
        risen by now, its user's share, his deadlines, the shares of his batches, and since when it waits. Something waits."""
        head = self._queue.peek(now)
        assert head is not None, "nothing waits"
        turn = self._turns[head[0]]
        flow = turn.next()
        since = flow.head()[1][1]
        level = turn.priority
        if level < HIGH_CLASS:
            level = min(HIGH_CLASS, level + max(0, now - since) // AGEING_NS)
        due = turn.due[0][0] if flow.is_due else inf
        return -level, self._shares.tag(turn.user), due, turn.tag + flow.nice * NICE_STEP_NS, since

    def take_from(self, key: int, tasks: int, seconds: float | None = None) -> int:
        """Take tasks of a run out, of which each is thought to take its slots for so long; how many there were."""
        return self.take_ranges(key, (tasks,), seconds)

    def take_ranges(self, key: int, counts: Sequence[int], seconds: float | None = None) -> int:
        """As `take_from` once for each of these; nothing else may wait, if there are several."""
        flow = self._of.get(key)
        if flow is None:
            return 0
        turn, each_s = flow.turn, GUESS_S if seconds is None else seconds
        taken = self._count_out(flow, key, sum(counts))
        if len(counts) == 1:
            counts = (taken,)
        costs = [int(each_s * tasks * 1e9) for tasks in counts]
        turn.tag = self._shares.serve(turn.user, turn.tag, costs)
        for cost in costs:
            turn.now = max(turn.now, flow.tag)
            if not flow.is_due:
                flow.tag += int(cost * NICE_BASE**flow.nice) if flow.nice else cost
        if flow.tasks and not flow.is_due:
            heappush(turn.ranked, (flow.tag, flow.number, flow))
        self._place(turn)
        return taken

    def remove(self, key: int) -> int:
        """Take a whole run out; how many tasks waited in it."""
        flow = self._of.get(key)
        if flow is None:
            return 0
        waiting = self._count_out(flow, key, flow.tasks)
        self._place(flow.turn)
        return waiting

    def settle(self, user: str, priority: int, seconds: float) -> None:
        """What was taken out for a user ran so much longer than was thought, or less."""
        self._shares.correct(user, int(seconds * 1e9))
        turn = self._of_user.get((user, priority))
        if turn is not None and turn.tasks:
            turn.tag = self._shares.tag(user)
            self._place(turn)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _begin(
        self, flow: _Flow | None, name: Hashable, user: str, priority: int, nice: int, deadline: float | None
    ) -> _Flow:
        """A flow of which nothing waits so far: a new one, or the user's last."""
        turn = self._of_user.get((user, priority))
        if turn is None:
            turn = self._of_user[user, priority] = _Turn(next(self._numbers), user, priority, 0)
        if not turn.tasks:
            turn.tag = self._shares.tag(user)
            self._turns[turn.number] = turn
        begins = turn.now + nice * NICE_STEP_NS
        if flow is None:
            flow = self._flows[name] = _Flow(next(self._numbers), turn, name, nice, begins, deadline is not None)
        else:
            flow.tag = max(flow.tag, begins)
        if deadline is not None:
            heappush(turn.due, (deadline, flow.number, flow))
        else:
            heappush(turn.ranked, (flow.tag, flow.number, flow))
        return flow

    def _count_out(self, flow: _Flow, key: int, tasks: int) -> int:
        where = flow.late if key in flow.late else flow.runs
        run = where[key]
        taken = min(tasks, run[0])
        run[0] -= taken
        flow.tasks -= taken
        flow.turn.tasks -= taken
        if not run[0]:
            del self._of[key], where[key]
        if not flow.tasks:
            # The last one is kept, since it comes again where somebody waits for each result.
            last, flow.turn.last = flow.turn.last, flow
            if last is not None and last is not flow and not last.tasks:
                del self._flows[last.name]
        return taken

    def _place(self, turn: _Turn) -> None:
        """Put a user's turn where it belongs by its tag, with as many tasks as it has, waiting since its next run does."""
        self._queue.remove(turn.number)
        if turn.tasks:
            since = turn.next().head()[1][1]
            self._queue.push(turn.number, turn.priority, 0, since, turn.tasks, turn.tag)
        else:
            del self._turns[turn.number]
            if len(self._of_user) > TURNS_KEPT_MAX:
                for one in [one for one in self._of_user.values() if not one.tasks]:
                    del self._of_user[one.user, one.priority]
                    if one.last is not None:
                        del self._flows[one.last.name]
