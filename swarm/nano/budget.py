"""How long a tick may take, how closely that is watched, and what follows when it takes longer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swarm.nano.errors import NanoError
from swarm.nano.numbers import real

Guard = Literal["none", "sampled", "chained"]
Overrun = Literal["warn", "demote", "suspend", "kill"]
SAMPLED_ONE_OF = 16
BUDGET_MAX_NS = 10**15


@dataclass(frozen=True, slots=True)
class Budget:
    """`ns` a tick and agent.

    `guard` "chained" reads the counter once an agent, where the end of one is the beginning of the next; "sampled" measures
    one agent of sixteen; "none" none. A batch tick is measured whole, whatever the guard. `on_overrun` acts in real time
    only: in virtual time overruns are counted, so that a seed gives one history on any machine. "demote" halves the rate of
    the cohort, down to 1/64.
    """

    ns: float
    guard: Guard = "chained"
    on_overrun: Overrun = "warn"

    def __post_init__(self) -> None:
        if not real(self.ns) or not 0 < self.ns <= BUDGET_MAX_NS:
            raise NanoError(
                f"a budget of {self.ns!r} ns",
                hint=f"a budget is a positive number of nanoseconds a tick, at most {BUDGET_MAX_NS:,}",
            )
        if self.guard not in ("none", "sampled", "chained"):
            raise NanoError(f"guard={self.guard!r}", hint="a guard is 'chained', 'sampled' or 'none'")
        if self.on_overrun not in ("warn", "demote", "suspend", "kill"):
            raise NanoError(
                f"on_overrun={self.on_overrun!r}", hint="what follows is 'warn', 'demote', 'suspend' or 'kill'"
            )

    @property
    def sampling(self) -> int:
        """0 measures no agent by itself, 1 each, n one of n."""
        return {"none": 0, "chained": 1, "sampled": SAMPLED_ONE_OF}[self.guard]
