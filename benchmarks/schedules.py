"""What schedules reach that cost nothing, for the makespan bench: the bound, one that knows all lengths, and ones that know none.

Machines are (slots, speed). What no schedule beats is the total over the capacity, or the longest task on the fastest machine. Longest
first, each where it ends soonest, is within a few percent of the best there is when all lengths are known (Graham, "Bounds on
multiprocessing timing anomalies", 1969; on machines of different speed: Gonzalez, Ibarra, Sahni, 1977). Who knows no length and may not
move what runs can do no better than begin tasks in any order; what is left to choose is which machines to use. `blind_s` uses all,
and `patient_s` leaves those idle on which a task would, by what is known of the times' distribution, cost more than it gains. Who may move
what runs, at no cost, has what has run longest on the fastest slots at any moment (`moving_s`): what was begun in its turn ends no sooner.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from heapq import heappop, heappush, heapreplace

Machines = list[tuple[float, float]]
Uses = Callable[[int, float, Mapping[float, int]], bool]
"""(tasks not begun, speed, slots by speed): whether a free slot of this speed takes one more."""


def bound_s(times: list[float], machines: Machines) -> float:
    """No schedule is shorter."""
    capacity = sum(slots * speed for slots, speed in machines)
    return max(sum(times) / capacity, max(times) / max(speed for _, speed in machines))


def longest_first_s(times: list[float], machines: Machines) -> float:
    """What is reached when all lengths are known: the longest first, each where it ends soonest."""
    free: dict[float, list[float]] = defaultdict(list)
    for slots, speed in machines:
        free[speed] += [0.0] * int(slots)
    end = 0.0
    for one in sorted(times, reverse=True):
        speed = min(free, key=lambda speed: free[speed][0] + one / speed)
        at = free[speed][0] + one / speed
        heapreplace(free[speed], at)
        end = max(end, at)
    return end


def unknown_s(times: list[float], machines: Machines, uses: Uses) -> float:
    """What is reached when no length is known: in their order, each on the fastest machine with a free slot that is used."""
    total: dict[float, int] = defaultdict(int)
    for slots, speed in machines:
        total[speed] += int(slots)
    idle, speeds = dict(total), sorted(total, reverse=True)
    busy: list[tuple[float, float]] = []
    now = end = 0.0
    at, count = 0, len(times)
    while at < count:
        for speed in speeds:
            while idle[speed] and at < count and (speed == speeds[0] or uses(count - at, speed, total)):
                idle[speed] -= 1
                heappush(busy, (now + times[at] / speed, speed))
                end = max(end, now + times[at] / speed)
                at += 1
        if at < count:
            now, speed = heappop(busy)
            idle[speed] += 1
            while busy and busy[0][0] <= now:
                idle[heappop(busy)[1]] += 1
    return end


def blind_s(times: list[float], machines: Machines) -> float:
    """All machines are used until nothing is left."""
    return unknown_s(times, machines, lambda left, speed, total: True)


def moving_s(times: list[float], machines: Machines) -> float:
    """No length is known, and what runs may move at no cost: tasks begin in their order, and those that began first have the fastest
    slots."""
    slots = sorted((speed for count, speed in machines for _ in range(int(count))), reverse=True)
    ends_of = [index for index, speed in enumerate(slots) if index + 1 == len(slots) or slots[index + 1] != speed]
    running: list[int] = []
    left, since = list(times), [0.0] * len(times)
    heap: list[tuple[float, int, int]] = []
    version = [0] * len(times)
    now, at = 0.0, 0

    def place(task: int, where: int, before: int) -> None:
        """A task has another slot from now on."""
        if before >= 0:
            left[task] -= (now - since[task]) * slots[before]
        since[task] = now
        version[task] += 1
        heappush(heap, (now + max(0.0, left[task]) / slots[where], task, version[task]))

    while at < len(times) or running:
        while at < len(times) and len(running) < len(slots):
            running.append(at)
            place(at, len(running) - 1, -1)
            at += 1
        now, task, seen = heappop(heap)
        if version[task] != seen:
            continue
        gone = running.index(task)
        del running[gone]
        version[task] += 1
        for last in ends_of:
            # Who stood first on slower slots moves up.
            if gone <= last < len(running):
                place(running[last], last, last + 1)
    return now


def patient_s(times: list[float], machines: Machines) -> float:
    """The best of: all machines; those that a task does not outlast by the distribution of the times, which is taken as
    known; slow ones while more waits than the faster ones take in the time that a task loses on them; the fastest only."""
    return min(
        unknown_s(times, machines, uses) for uses in (
            lambda left, speed, total: True, _by_distribution(times), _while_more_waits, lambda left, speed, total: False,
        )
    )  # fmt: skip


def _while_more_waits(left: int, speed: float, total: Mapping[float, int]) -> bool:
    """As the threshold of the slow server (Lin, Kumar, "Optimal control of a queueing system with two heterogeneous servers", 1984)."""
    return left > sum(slots * one for one, slots in total.items() if one > speed) * (1 / speed - 1 / max(total))


def _by_distribution(times: list[float]) -> Uses:
    ordered = sorted(times)
    rest = [0.0]
    for one in reversed(ordered):
        rest.append(rest[-1] + one)
    rest.reverse()
    count = len(ordered)
    mean = rest[0] / count

    def uses(left: int, speed: float, total: Mapping[float, int]) -> bool:
        faster = sum(slots * one for one, slots in total.items() if one > speed)
        longest = ordered[min(count - 1, int(count * (1 - 1 / left)))]
        end = max(left * mean / faster, longest / max(total))
        beyond = bisect_right(ordered, end * speed)
        over = (rest[beyond] - end * speed * (count - beyond)) / count / speed
        return over <= mean / faster

    return uses
