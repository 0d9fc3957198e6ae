"""Strict priority with ageing: the most urgent class runs first, and who waits long enough becomes more urgent.

A group has a class, LOW to CRITICAL. Agents that wait rise by one class for each `ageing_ns`, up to HIGH (Silberschatz, Galvin,
Gagne, "Operating System Concepts", chapter 5), and nothing but CRITICAL itself runs as CRITICAL: what CRITICAL leaves, nobody
waits for in vain. The order is that of the node's own queue of tasks, and kept by the same kernel; there are no nice values,
since among what has risen they would let the less nice wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Self

from kernels.runqueue import RunQueue
from swarm.errors import ConfigError
from swarm.nano.topologies.contract import Allowance, Due, Grant, checked, oldest_first, positive
from swarm.protocol.states import Priority as Class

NAME: Final = "priority"


class Priority:
    """Class by class, in a class the longest waiting first.

    Args:
        classes: Of groups: a `swarm.Priority`, its name ("low", "standard", "high", "critical") or its number. STANDARD for
            groups that are not named.
        ageing_ns: A class higher for each such time of waiting.
    """

    def __init__(
        self,
        classes: Mapping[str, Class | str | int] | None = None,
        ageing_ns: int = 10_000_000,
    ) -> None:
        self._classes = {group: _class(group, of) for group, of in (classes or {}).items()}
        self._ageing_ns = positive("ageing_ns", ageing_ns)
        self._groups: set[str] = set()
        self._allowance = Allowance()

    def bind(self, groups: Sequence[str], seed: int) -> None:
        """Any group may come; the seed is not used."""
        self._groups.update(groups)

    def begin(self, now_ns: int, capacity_ns: int) -> None:
        """A pass of so much begins."""
        self._allowance.begin(capacity_ns)

    def order(self, now_ns: int, due: Sequence[Due]) -> Iterator[Grant]:
        """From the most urgent downwards, as many as the pass has room for."""
        queue = RunQueue(self._ageing_ns)
        waiting = oldest_first(due)
        for key, one in enumerate(waiting):
            if one.group not in self._groups:
                raise KeyError(one.group)
            klass = self._classes.get(one.group, Class.STANDARD)
            queue.push(key, klass, 0, one.waiting_since_ns, one.agents)
        while not self._allowance.over and (head := queue.peek(now_ns)) is not None:
            one = waiting[head[0]]
            taken = queue.pop(now_ns, one.within(self._allowance.left_ns))
            assert taken is not None
            grant = Grant(one, taken[1])
            self._allowance.spend(grant.cost_ns)
            yield grant

    def ran(self, grant: Grant, cost_ns: int) -> None:
        """A pass is full by what was spent."""
        self._allowance.correct(cost_ns - grant.cost_ns)

    def save(self) -> dict[str, Any]:
        """Settings, and what the last pass cost too much; who waits since when is known to the population."""
        return {
            "topology": NAME,
            "classes": {group: int(of) for group, of in sorted(self._classes.items())},
            "ageing_ns": self._ageing_ns,
            "groups": sorted(self._groups),
            "owed_ns": self._allowance.owed_ns,
        }

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Self:
        """Where `save` was."""
        saved = checked(saved, NAME)
        one = cls(saved["classes"], saved["ageing_ns"])
        one._groups.update(saved["groups"])
        one._allowance.owed_ns = saved["owed_ns"]
        return one


def _class(group: str, of: Class | str | int) -> Class:
    try:
        return Class[of.upper()] if isinstance(of, str) else Class(of)
    except (KeyError, ValueError):
        raise ConfigError(
            f"the class of {group!r} is {of!r}", hint="there are low, standard, high and critical"
        ) from None
