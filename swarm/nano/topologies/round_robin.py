"""Deficit round robin: every flow gets the same time, or its weight's worth, whatever its agents cost.

M. Shreedhar and G. Varghese, "Efficient Fair Queuing Using Deficit Round-Robin", IEEE/ACM Transactions on Networking 4(3),
1996. Flows stand in a ring. One that is visited may use a quantum of time more than it could before; what it cannot use
because its next agent costs more is kept (its deficit) until the next visit. A flow that has nothing to do keeps nothing.
Between two flows that always have work, with weights v and w, service/v and service/w never differ by more than a quantum and
two of the largest cost of an agent, each over its weight (the paper's theorem on fairness).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Self

from swarm.errors import ConfigError
from swarm.nano.topologies.contract import Allowance, Due, Grant, checked, oldest_first, positive

NAME: Final = "round-robin"
QUANTA_MAX: Final = 16
"""Where a pass may cost more than so many quanta of `quantum_ns`, the quantum of the rounds that begin in it is such a part of
it: grants are not free either."""

Flow = int | str


def jain(service: Iterable[float]) -> float:
    """The fairness index of what each got: 1 when all got the same, 1/n when one of n got it all, 1 for nothing at all.

    R. Jain, D. Chiu and W. Hawe, "A quantitative measure of fairness and discrimination", DEC-TR-301, 1984. For weighted
    flows give service over weight.
    """
    got = list(service)
    squares = sum(x * x for x in got)
    return sum(got) ** 2 / (len(got) * squares) if squares else 1.0


class RoundRobin:
    """Cohorts, or groups, in turn.

    Args:
        quantum_ns: What a visit adds, for weight 1.
        weights: Of groups, whole numbers; 1 for those that are not named.
        over: What takes its turn: each "cohort", with the weight of its group, or each "group" as a whole.
    """

    def __init__(
        self,
        quantum_ns: int = 10_000,
        weights: Mapping[str, int] | None = None,
        over: Literal["cohort", "group"] = "cohort",
    ) -> None:
        self._quantum_ns = positive("quantum_ns", quantum_ns)
        self._weights = {group: positive(f"the weight of {group!r}", w) for group, w in (weights or {}).items()}
        if over not in ("cohort", "group"):
            raise ConfigError(f"round robin over {over!r}", hint='over is "cohort" or "group"')
        self._over = over
        self._groups: set[str] = set()
        self._allowance = Allowance()
        self._ring: deque[Flow] = deque()
        self._deficits: dict[Flow, int] = {}
        self._visiting = False  # the head has had its quantum
        self._round_ns = 0  # the quantum of this round
        self._round_left = 0  # visits of this round that are still to come

    def bind(self, groups: Sequence[str], seed: int) -> None:
        """Any group may come; the seed is not used."""
        self._groups.update(groups)

    def begin(self, now_ns: int, capacity_ns: int) -> None:
        """A pass of so much begins; a visit that the last one cut short goes on."""
        self._allowance.begin(capacity_ns)

    def _flow(self, due: Due) -> Flow:
        if due.group not in self._groups:
            raise KeyError(due.group)
        return due.cohort if self._over == "cohort" else due.group

    def _enter(self, due: Sequence[Due]) -> tuple[dict[Flow, deque[list[Any]]], dict[Flow, int]]:
        """Queues of [due, agents not granted yet] and weights, a flow each. The ring then holds just these flows."""
        queues: dict[Flow, deque[list[Any]]] = {}
        weights: dict[Flow, int] = {}
        for one in oldest_first(due):
            flow = self._flow(one)
            queues.setdefault(flow, deque()).append([one, one.agents])
            weights[flow] = self._weights.get(one.group, 1)
        before = list(self._ring)
        self._ring.clear()
        unvisited = before[self._visiting : self._round_left + self._visiting]
        self._round_left = sum(flow in queues for flow in unvisited)
        if before and before[0] not in queues:
            self._visiting = False
        for flow in before:
            if flow in queues:
                self._ring.append(flow)
            else:
                self._idle(flow)
        known = set(before)
        self._ring.extend(flow for flow in queues if flow not in known)
        return queues, weights

    def _idle(self, flow: Flow) -> None:
        """Nothing is kept but debts."""
        if self._deficits.get(flow, 0) >= 0:
            self._deficits.pop(flow, None)

    def order(self, now_ns: int, due: Sequence[Due]) -> Iterator[Grant]:
        """Flow by flow as the ring has it, in each the longest waiting first."""
        allowance, deficits, ring = self._allowance, self._deficits, self._ring
        queues, weights = self._enter(due)
        spendable_ns = min(allowance.left_ns, sum(one.cost_ns for one in due))
        quantum_ns = max(self._quantum_ns, spendable_ns // QUANTA_MAX)
        fruitless = 0
        while ring and not allowance.over:
            flow = ring[0]
            queue = queues[flow]
            if not self._visiting:
                if self._round_left == 0:
                    self._round_ns, self._round_left = quantum_ns, len(ring)
                self._round_left -= 1
                deficits[flow] = deficits.get(flow, 0) + self._round_ns * weights[flow]
                self._visiting = True
            fruitless += 1
            while queue and not allowance.over:
                one, left = queue[0]
                agents = min(left, _affordable(one, deficits[flow]), one.within(allowance.left_ns))
                if agents == 0:
                    break
                fruitless = 0
                grant = Grant(one, agents)
                deficits[flow] -= grant.cost_ns
                allowance.spend(grant.cost_ns)
                queue[0][1] -= agents
                if left == agents:
                    queue.popleft()
                yield grant
            if not queue:
                ring.popleft()
                self._idle(flow)
            elif allowance.over:
                return
            else:
                ring.rotate(-1)
            self._visiting = False
            if fruitless >= len(ring) > 0 and self._round_left == 0:
                self._skip(queues, weights, quantum_ns)
                fruitless = 0

    def _skip(self, queues: Mapping[Flow, deque[list[Any]]], weights: Mapping[Flow, int], quantum_ns: int) -> None:
        """Rounds in which no flow could afford its next agent, all but the last of them at once."""
        rounds = min(
            -(-(queues[flow][0][0].cost_of(1) - self._deficits.get(flow, 0)) // (quantum_ns * weights[flow]))
            for flow in self._ring
        )
        for flow in self._ring:
            self._deficits[flow] = self._deficits.get(flow, 0) + max(0, rounds - 1) * quantum_ns * weights[flow]

    def ran(self, grant: Grant, cost_ns: int) -> None:
        """The flow bears what its agents did cost."""
        difference_ns = cost_ns - grant.cost_ns
        flow = self._flow(grant.due)
        self._deficits[flow] = self._deficits.get(flow, 0) - difference_ns
        self._allowance.correct(difference_ns)

    def save(self) -> dict[str, Any]:
        """Settings, the ring and its deficits."""
        return {
            "topology": NAME,
            "quantum_ns": self._quantum_ns,
            "weights": dict(sorted(self._weights.items())),
            "over": self._over,
            "groups": sorted(self._groups),
            "owed_ns": self._allowance.owed_ns,
            "ring": list(self._ring),
            "deficits": [[flow, deficit] for flow, deficit in self._deficits.items()],
            "visiting": self._visiting,
            "round": [self._round_ns, self._round_left],
        }

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Self:
        """Where `save` was."""
        saved = checked(saved, NAME)
        one = cls(saved["quantum_ns"], saved["weights"], saved["over"])
        one._groups.update(saved["groups"])
        one._allowance.owed_ns = saved["owed_ns"]
        one._ring.extend(saved["ring"])
        one._deficits.update((flow, deficit) for flow, deficit in saved["deficits"])
        one._visiting = saved["visiting"]
        one._round_ns, one._round_left = saved["round"]
        return one


def _affordable(due: Due, budget_ns: int) -> int:
    """The largest number of these agents that costs no more than this."""
    if due.cost_ns == 0:
        return due.agents
    return max(0, budget_ns * due.agents // due.cost_ns)
