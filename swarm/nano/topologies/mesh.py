"""Cores that steal from one another: a pass is cut into chunks, each core has a queue of its own, and takes from others' when
it has none left (Blumofe and Leiserson, JACM 46(5), 1999, over the deques of Chase and Lev, SPAA 2005; `kernels.crew`).

What a pass grants is the longest waiting first. A chunk is some consecutive rows of a cohort, and writes nothing but these and an
outbox of its own (`kernels/parts.h`); so messages, states and outcomes are the same for any number of cores, and who ran what is
seen in the counts alone. `rehearse` plays the same dealing and stealing in virtual time. Between nodes of a fleet, `moves` says which
cohorts those that have little to do take from those that have most.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from kernels.crew import THREADS_MAX, Crew, deal
from swarm.errors import ConfigError
from swarm.nano.numa import Machine
from swarm.nano.topologies.contract import Allowance, Due, Grant, checked, oldest_first, positive

NAME: Final = "mesh"
CHUNK_NS: Final = 20_000
ALONE_NS: Final = 100_000


class Mesh:
    """The longest waiting first, over all cores.

    Args:
        cores: That run a pass, the caller's included; None for those of the swarm (`NanoSwarm(cores=)`), or else as many as
            there are processors for us.
        chunk_ns: What a chunk takes, about: small enough to be stolen, large enough to be worth it.
        alone_ns: What takes less than that together is left to the calling thread.
        placement: On a machine of several nodes of memory, see `numa.Machine.plan`.
    """

    def __init__(
        self,
        cores: int | None = None,
        chunk_ns: int = CHUNK_NS,
        placement: Literal["compact", "spread"] = "compact",
        alone_ns: int = ALONE_NS,
    ) -> None:
        if cores is not None and positive("cores", cores) > THREADS_MAX:
            raise ConfigError(f"a mesh of {cores} cores", hint=f"there may be {THREADS_MAX}")
        if placement not in ("compact", "spread"):
            raise ConfigError(f"placement {placement!r}", hint='it is "compact" or "spread"')
        self.cores = cores
        self.chunk_ns = positive("chunk_ns", chunk_ns)
        if isinstance(alone_ns, bool) or not isinstance(alone_ns, int) or alone_ns < 0:
            raise ConfigError(f"alone_ns is {alone_ns!r}", hint="it is a whole number of ns, 0 or more")
        self.alone_ns = alone_ns
        self.placement: Literal["compact", "spread"] = placement
        self._groups: set[str] = set()
        self._allowance = Allowance()

    def crew(self, cores: int | None = None, machine: Machine | None = None) -> Crew:
        """Its threads, so many where it leaves that open; the caller closes them. Pinned where there is more than one node of
        memory, except the caller's own."""
        machine = Machine.read() if machine is None else machine
        threads = min(THREADS_MAX, self.cores or cores or machine.cpus)
        if len(machine.nodes) == 1:
            return Crew(threads)
        seats = machine.plan(threads, self.placement)
        return Crew(threads, cpus=[seat.cpu for seat in seats], nodes=[seat.node for seat in seats])

    def bind(self, groups: Sequence[str], seed: int) -> None:
        """Any group may come; the seed is not used."""
        self._groups.update(groups)

    def begin(self, now_ns: int, capacity_ns: int) -> None:
        """A pass of so much begins: time of all threads together."""
        self._allowance.begin(capacity_ns)

    def order(self, now_ns: int, due: Sequence[Due]) -> Iterator[Grant]:
        """The longest waiting first. Grants of a pass may be run all at once: none depends on what another did cost."""
        for one in oldest_first(due):
            if one.group not in self._groups:
                raise KeyError(one.group)
            if self._allowance.over:
                return
            grant = Grant(one, one.within(self._allowance.left_ns))
            self._allowance.spend(grant.cost_ns)
            yield grant

    def ran(self, grant: Grant, cost_ns: int) -> None:
        """A pass is full by what was spent."""
        self._allowance.correct(cost_ns - grant.cost_ns)

    def save(self) -> dict[str, Any]:
        """Settings, and what the last pass cost too much."""
        return {
            "topology": NAME,
            "cores": self.cores,
            "chunk_ns": self.chunk_ns,
            "placement": self.placement,
            "alone_ns": self.alone_ns,
            "groups": sorted(self._groups),
            "owed_ns": self._allowance.owed_ns,
        }

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Self:
        """Where `save` was."""
        saved = checked(saved, NAME)
        one = cls(saved["cores"], saved["chunk_ns"], saved["placement"], saved["alone_ns"])
        one._groups.update(saved["groups"])
        one._allowance.owed_ns = saved["owed_ns"]
        return one


def skew(busy: Iterable[float]) -> float:
    """How much longer the busiest thread (or node) had to do than the mean: 0 when all had the same; 0 for nothing at all."""
    each = list(busy)
    total = sum(each)
    return max(each) * len(each) / total - 1.0 if total else 0.0


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A pass in virtual time: what each thread was busy for, chunks that changed hands, and when the last one ended."""

    busy_ns: tuple[int, ...]
    steals: int
    makespan_ns: int


def rehearse(costs_ns: Sequence[int], threads: int, declared_ns: Sequence[int] | None = None) -> Rehearsal:
    """What a crew does with chunks of these costs, dealt out by those declared (the same by default), if stealing cost nothing.

    No thread is idle while a chunk waits, so the makespan is at most an even part of all and the largest chunk (Graham,
    "Bounds for certain multiprocessing anomalies", 1966).
    """
    queues: list[list[int]] = [[] for _ in range(threads)]
    for chunk, thread in enumerate(deal(costs_ns if declared_ns is None else declared_ns, threads)):
        queues[thread].append(chunk)
    heads = [0] * threads
    busy = [0] * threads
    steals = 0
    free = [(0, thread) for thread in range(threads)]  # when each is through with what it has
    makespan_ns = 0
    while free:
        now_ns, thread = heapq.heappop(free)
        if heads[thread] < len(queues[thread]):
            chunk = queues[thread][heads[thread]]
            heads[thread] += 1
        else:
            victims = ((thread + step) % threads for step in range(1, threads))
            victim = next((other for other in victims if heads[other] < len(queues[other])), None)
            if victim is None:
                continue
            chunk = queues[victim].pop()
            steals += 1
        busy[thread] += costs_ns[chunk]
        makespan_ns = max(makespan_ns, now_ns + costs_ns[chunk])
        heapq.heappush(free, (now_ns + costs_ns[chunk], thread))
    return Rehearsal(tuple(busy), steals, makespan_ns)


@dataclass(frozen=True, slots=True)
class Move:
    """A cohort is to go from one node of the fleet to another."""

    cohort: int
    source: str
    target: str


def moves(loads: Mapping[str, Mapping[int, int]], slack: float = 0.1) -> list[Move]:
    """What nodes with little to do steal, given what the cohorts on each node cost a second (of any unit).

    The least loaded steals from the most loaded the cohort that evens the two out best, as long as the most loaded has more than
    `slack` above the mean. Each move lowers the sum of squares of the loads, so there is an end; same loads, same moves.
    """
    held = {node: {(node, cohort): cost for cohort, cost in cohorts.items()} for node, cohorts in loads.items()}
    total = {node: sum(cohorts.values()) for node, cohorts in held.items()}
    while len(held) > 1:
        victim = min(held, key=lambda node: (-total[node], node))
        thief = min(held, key=lambda node: (total[node], node))
        gap = total[victim] - total[thief]
        if total[victim] * len(held) <= sum(total.values()) * (1.0 + slack):
            break
        better = [(abs(gap - 2 * cost), which) for which, cost in held[victim].items() if 0 < cost < gap]
        if not better:
            break
        which = min(better)[1]
        cost = held[victim].pop(which)
        held[thief][which] = cost
        total[victim] -= cost
        total[thief] += cost
    return [
        Move(cohort, source, target)
        for target in sorted(held)
        for source, cohort in sorted(held[target])
        if source != target
    ]
