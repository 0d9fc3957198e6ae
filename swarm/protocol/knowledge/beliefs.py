"""What is believed: the evidence of all authors, for and against, each of which counts half 50 cycles after it was given."""

from __future__ import annotations

from math import exp, fsum
from typing import Final, NamedTuple

from kernels import decay
from swarm.protocol.knowledge import bounds, crdts
from swarm.protocol.knowledge.crdts import Slot
from swarm.protocol.knowledge.fading import Fading

BELIEFS: Final = "beliefs"


class Belief(NamedTuple):
    """What the authors together say of something at an instant."""

    log_odds: float
    """The sum, within `bounds.LOG_ODDS_SUM_MAX`; 0 is even odds."""
    evidence_for: float
    """What is said for it, in log-odds, at least 0."""
    evidence_against: float
    """What is said against it, in log-odds, at most 0."""
    authors: int
    """Who says something, old words included."""

    @property
    def probability(self) -> float:
        """That of the log-odds."""
        return probability_of(self.log_odds)


def probability_of(log_odds: float) -> float:
    """1 / (1 + e**-x), of finite log-odds."""
    if log_odds >= 0:
        return 1 / (1 + exp(-log_odds))
    grown = exp(log_odds)
    return grown / (1 + grown)


def belief_of(slot: Slot | None, cycle: int, fading: Fading) -> Belief:
    """What is believed in a cycle by what was said; even odds where nobody says anything."""
    last = {} if slot is None else crdts.by_author(slot)
    found = []
    for said in last.values():
        # The columns of `decay` hold sizes: the size decays, the sign stays.
        size = decay.weight(abs(float(said.value)), fading.cycle_of(said.time), cycle)
        found.append(size if said.value > 0 else -size)
    bound = bounds.LOG_ODDS_SUM_MAX
    # Rounded once, so that it is the same float everywhere.
    log_odds = max(-bound, min(bound, fsum(found)))
    return Belief(log_odds, fsum(n for n in found if n > 0), fsum(n for n in found if n < 0), len(found))
