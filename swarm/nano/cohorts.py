"""A cohort: what one spawn made."""

from __future__ import annotations

from swarm.nano.agents import Agents, KindState
from swarm.nano.budget import Budget
from swarm.nano.kinds import Form
from swarm.nano.python_ticks import PythonCohort


class Cohort:
    """What the swarm knows of one spawn."""

    __slots__ = (
        "absent",
        "agents",
        "budget",
        "demoted",
        "form",
        "group",
        "over",
        "period_ns",
        "python",
        "state",
        "was",
    )

    def __init__(self, form: Form, state: KindState, group: str, budget: Budget | None, period_ns: int) -> None:
        self.form, self.state, self.group, self.budget = form, state, group, budget
        self.period_ns = period_ns
        self.agents: Agents | None = None
        self.python: PythonCohort | None = None
        self.demoted = self.over = 0
        self.absent = False
