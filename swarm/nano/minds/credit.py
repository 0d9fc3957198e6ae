"""Credit back in time: which of the things that were so before a reward is it due to?

TD(lambda) for a linear value function with accumulating or replacing traces (Sutton, "Learning to predict by the
methods of temporal differences", 1988; Sutton and Barto, "Reinforcement Learning", 2nd ed., ch. 12): each feature
has a trace of how lately it was there, fading by discount * trace a step, and each surprise goes to all features by
their traces.

What it is not: it finds what comes before a reward, not what causes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np


class EligibilityTraces:
    """Learns the value of `features` numbers that describe a state: the discounted sum of the rewards to come.

    discount (gamma) and trace (lambda) lie between 0 and 1, rate is the step size; for features that are not 0 or 1
    it should be at most one over their squared length. `replacing` bounds the trace of a feature that stays at what
    the feature is.
    """

    def __init__(
        self, features: int, *, discount: float = 0.9, trace: float = 0.8, rate: float = 0.1, replacing: bool = False
    ) -> None:
        if features < 1 or not 0 <= discount <= 1 or not 0 <= trace <= 1 or not 0 < rate < math.inf:
            raise ValueError(f"{features} features, discount {discount}, trace {trace} or rate {rate} is out of bounds")
        self.discount, self.trace, self.rate, self.replacing = discount, trace, rate, replacing
        self.weights: Any = np.zeros(features)
        self.eligible: Any = np.zeros(features)
        """How much of the next surprise is due to each feature."""
        self.credit: Any = np.zeros(features)
        """Sum of all surprises, by what was due to each feature."""

    def value(self, state: Any) -> float:
        """The discounted rewards expected from a state on."""
        return float(self.weights @ state)

    def step(self, state: Any, reward: float, after: Any | None) -> float:
        """From `state` came `reward` and the state `after`, None at an end; the surprise (the TD error)."""
        expected = 0.0 if after is None else self.discount * self.value(after)
        surprise = reward + expected - self.value(state)
        faded = self.discount * self.trace * self.eligible
        self.eligible = np.where(np.abs(state) > np.abs(faded), state, faded) if self.replacing else faded + state
        self.weights = self.weights + self.rate * surprise * self.eligible
        self.credit = self.credit + surprise * self.eligible
        if after is None:
            self.eligible = np.zeros_like(self.eligible)
        return surprise

    def save(self) -> list[list[float]]:
        """Weights, traces and credit as plain values."""
        return [self.weights.tolist(), self.eligible.tolist(), self.credit.tolist()]

    def restore(self, saved: Iterable[list[float]]) -> None:
        """Go on from there."""
        self.weights, self.eligible, self.credit = (np.array(column, dtype=float) for column in saved)
