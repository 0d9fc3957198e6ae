"""Policies that lie in the agents' own fields: what a critic may change in a population, and how it is tried."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from swarm.nano.arrays import numpy
from swarm.nano.errors import NanoError
from swarm.nano.improver import Change

if TYPE_CHECKING:
    from swarm.nano.scheduling import NanoSwarm


class FieldPolicies:
    """Carries out changes whose subject is "<cohort>.<field>": the field is set, for a part of the cohort's agents or for all.

    `bounds` says for each field by name between which values (inclusive) a change is fit to be tried; one that is not named
    here passes no test. It is what `CriticReflector` takes as `policies`, and `in_force()` what its Improver begins with.
    """

    def __init__(self, swarm: NanoSwarm, bounds: Mapping[str, tuple[float, float]]) -> None:
        self._swarm = swarm
        self._bounds = dict(bounds)
        self._tried: dict[str, list[int]] = {}

    def in_force(self) -> dict[str, Any]:
        """The values of the bounded fields, a subject a cohort and field; NanoError where the agents of one differ in it."""
        found = {}
        for number, agents in enumerate(self._swarm.cohorts):
            for name in agents.kind.fields:
                if name not in self._bounds:
                    continue
                values = numpy().unique(numpy().asarray(getattr(agents, name)))
                if len(values) != 1:
                    raise NanoError(
                        f"the agents of cohort {number} differ in {name!r}", hint="set one value for all of them first"
                    )
                found[f"{number}.{name}"] = values[0].item()
        return found

    def test(self, change: Change) -> bool:
        """Whether the value lies within the bounds of its field."""
        _, _, name = change.subject.partition(".")
        if name not in self._bounds:
            return False
        low, high = self._bounds[name]
        return isinstance(change.value, int | float) and low <= change.value <= high

    def start_canary(self, change: Change, share: float) -> tuple[int, Collection[int]]:
        """Set it for about that share of those that live, evenly among them; the cohort, and their rows."""
        number, agents, name = self._subject(change)
        living = [at for at, alive in enumerate(agents.alive) if alive]
        step = max(1, round(1 / share))
        chosen = living[step // 2 :: step]
        getattr(agents, name)[chosen] = change.value
        self._tried[change.subject] = chosen
        return number, [agents.rows[at] for at in chosen]

    def promote(self, change: Change) -> None:
        """Set it for all."""
        _, agents, name = self._subject(change)
        self._tried.pop(change.subject, None)
        getattr(agents, name)[:] = change.value

    def restore(self, change: Change, before: Any) -> None:
        """Put the value before back wherever the change is in force."""
        _, agents, name = self._subject(change)
        chosen = self._tried.pop(change.subject, None)
        getattr(agents, name)[slice(None) if chosen is None else chosen] = before

    def _subject(self, change: Change) -> tuple[int, Any, str]:
        number, _, name = change.subject.partition(".")
        cohorts = self._swarm.cohorts
        if not number.isdecimal() or int(number) >= len(cohorts) or name not in cohorts[int(number)].kind.fields:
            raise NanoError(f"there is no {change.subject!r}", hint="a subject is <number of the cohort>.<field>")
        return int(number), cohorts[int(number)], name
