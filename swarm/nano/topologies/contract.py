"""What a topology is: the strategy that says, each pass, which agents run next and how many, within what the pass may cost.

A topology has no clock and draws nothing but from its seed: instants and costs are arguments, so one that is asked the same
questions in the same order gives the same answers, on any machine. A pass goes like this::

    topology.begin(now_ns, capacity_ns)
    for grant in topology.order(now_ns, due):
        ...                                    # tick grant.agents agents of the cohort
        topology.ran(grant, cost_ns)           # what they did cost: as declared (virtual time) or measured (real time)

What is due and was not granted is due again in the next pass and keeps its `waiting_since_ns`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from swarm.errors import ConfigError

UNBOUNDED_NS: Final = 1 << 62
"""A capacity that nothing exhausts, in ns: a pass in virtual time without budgets."""


@dataclass(frozen=True, slots=True)
class Due:
    """Agents of one cohort that are due now, and since when.

    ``cost_ns`` is declared for all of them together; costs are units of time, whole ns. Of a cohort there may be several,
    of which each has waited since another instant.
    """

    group: str
    cohort: int
    agents: int
    cost_ns: int
    waiting_since_ns: int

    def cost_of(self, agents: int) -> int:
        """ns that so many of these agents cost, rounded up."""
        return -(-self.cost_ns * agents // self.agents)

    def within(self, budget_ns: int) -> int:
        """The least number of these agents that costs `budget_ns` (1 or more) or more; all of them if they are cheaper."""
        if self.cost_ns <= budget_ns:
            return self.agents
        return (budget_ns - 1) * self.agents // self.cost_ns + 1


@dataclass(frozen=True, slots=True)
class Grant:
    """Run so many of these agents next: the first ones of those that are due."""

    due: Due
    agents: int

    @property
    def cost_ns(self) -> int:
        """What they cost as declared."""
        return self.due.cost_of(self.agents)


class Topology(Protocol):
    """A strategy of passes. One object belongs to one population."""

    def bind(self, groups: Sequence[str], seed: int) -> None:
        """Know these groups, beside those known before. ConfigError for one that the settings do not allow."""

    def begin(self, now_ns: int, capacity_ns: int) -> None:
        """A pass begins, which may cost so much, less what the grants of the last one were beyond it."""

    def order(self, now_ns: int, due: Sequence[Due]) -> Iterator[Grant]:
        """Who runs, in this order, until the pass is full. KeyError for a group that was not bound."""

    def ran(self, grant: Grant, cost_ns: int) -> None:
        """What a grant did cost. Without this call it counts as declared."""

    def save(self) -> dict[str, Any]:
        """Settings and state in plain values (msgpack), from which `topologies.load` goes on exactly as this one would."""

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Self:
        """What was saved. ConfigError when it is not that."""


@dataclass(slots=True)
class Allowance:
    """What is left of a pass, in ns.

    An agent is not cut in two: a pass ends when its capacity is reached, which is by less than one agent too late, and
    the next one is shorter by that. So every agent gets its turn however little a pass may cost, and over many passes the cost
    is the capacity exactly. This holds for costs as declared. What was measured above that shortens the pass in which it
    was measured and no other: a machine that stood still for a moment has lost that time already.
    """

    left_ns: int = 0
    capacity_ns: int = 0
    owed_ns: int = 0

    def begin(self, capacity_ns: int) -> None:
        """A new pass. What the last one was too long is taken along; what it left is gone."""
        if capacity_ns < 0:
            raise ValueError(f"the capacity of a pass is {capacity_ns} ns; it is 0 or more")
        self.capacity_ns = capacity_ns
        self.owed_ns = max(0, self.owed_ns) - capacity_ns
        self.left_ns = -self.owed_ns

    @property
    def over(self) -> bool:
        """Nothing more is granted in this pass."""
        return self.left_ns <= 0

    def spend(self, cost_ns: int) -> None:
        """Granted, at the cost declared."""
        self.owed_ns += cost_ns
        self.left_ns -= cost_ns

    def correct(self, difference_ns: int) -> None:
        """It did cost so much more (less, if negative) than declared."""
        self.left_ns -= difference_ns


def oldest_first(due: Sequence[Due]) -> list[Due]:
    """Those that wait longest first; among equals the lower cohort. Empty ones are left out."""
    return sorted((one for one in due if one.agents > 0), key=lambda one: (one.waiting_since_ns, one.cohort))


def positive(name: str, value: int) -> int:
    """The value, if it is a whole number above 0. ConfigError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} is {value!r}", hint="it is a whole number of 1 or more")
    return value


def checked(saved: Mapping[str, Any], topology: str) -> Mapping[str, Any]:
    """What `save` of this topology gave. ConfigError when it is of another."""
    if saved.get("topology") != topology:
        raise ConfigError(
            f"a saved topology {saved.get('topology')!r} is not {topology!r}", hint="load it by topologies.load"
        )
    return saved
