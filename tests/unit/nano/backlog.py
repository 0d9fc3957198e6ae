"""A population as a topology sees it: cohorts whose agents fall due, wait, and are run as granted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from swarm.nano.topologies import Due, Grant, Topology


@dataclass
class Cohort:
    group: str
    cost_ns: int  # an agent
    waiting: list[list[int]] = field(default_factory=list)  # of [since, agents]


class Backlog:
    def __init__(self, topology: Topology, cohorts: dict[int, Cohort], seed: int = 7) -> None:
        self.topology = topology
        self.cohorts = cohorts
        self.used: Counter[int] = Counter()  # ns, by cohort
        self.now_ns = 0
        topology.bind(sorted({cohort.group for cohort in cohorts.values()}), seed)

    def arrive(self, cohort: int, agents: int) -> None:
        self.cohorts[cohort].waiting.append([self.now_ns, agents])

    def refill(self, *cohorts: int, cost_ns: int) -> None:
        """So much always waits for these."""
        for number in cohorts:
            cohort = self.cohorts[number]
            wanted = max(1, cost_ns // cohort.cost_ns)
            there = sum(agents for _, agents in cohort.waiting)
            if there < wanted:
                cohort.waiting.append([self.now_ns, wanted - there])

    def due(self) -> list[Due]:
        return [
            Due(cohort.group, number, agents, agents * cohort.cost_ns, since)
            for number, cohort in sorted(self.cohorts.items())
            for since, agents in cohort.waiting
            if agents
        ]

    def run(self, capacity_ns: int, step_ns: int | None = None, slower: float = 1.0) -> list[Grant]:
        """A pass; the next one is step_ns later (by default, the capacity)."""
        self.topology.begin(self.now_ns, capacity_ns)
        grants = []
        for grant in self.topology.order(self.now_ns, self.due()):
            assert 1 <= grant.agents <= grant.due.agents
            cohort = self.cohorts[grant.due.cohort]
            left = grant.agents
            for entry in cohort.waiting:
                if entry[0] == grant.due.waiting_since_ns:
                    taken = min(left, entry[1])
                    entry[1] -= taken
                    left -= taken
            assert left == 0, "no agent is granted twice"
            self.used[grant.due.cohort] += round(grant.agents * cohort.cost_ns * slower)
            self.topology.ran(grant, round(grant.cost_ns * slower))
            grants.append(grant)
        for cohort in self.cohorts.values():
            cohort.waiting = [entry for entry in cohort.waiting if entry[1]]
        self.now_ns += capacity_ns if step_ns is None else step_ns
        return grants

    def group_used(self) -> Counter[str]:
        used: Counter[str] = Counter()
        for number, ns in self.used.items():
            used[self.cohorts[number].group] += ns
        return used
