"""Is a transition Lipschitz with this constant? A search for two states that it takes further apart than that.

A function f is Lipschitz with constant L where |f(a) - f(b)| <= L |a - b| for all a and b; with L below 1 it is a
contraction, and repeating it ends in one fixed point (Banach, 1922), so an agent that feeds on its own output does
not run away. `check` looks for a counterexample by random pairs and then by climbing where they were steepest,
along the greatest singular vector of the Jacobian by finite differences; `Watch` compares the transitions that
really happen.

What it is not: a proof. What is found is a counterexample, with both states, and so is certain; that nothing was
found says how hard it was looked for. A proof needs the function's text; for a product of matrices and functions of
slope at most 1, `product_bound` is one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from swarm.nano.minds.agent import Bus

Function = Callable[[Any], Any]
EPSILON = float(np.finfo(float).eps)
NORMS = (1, 2, math.inf)


@dataclass(frozen=True, slots=True)
class Steepest:
    """The steepest pair that was found: `slope` is |f(a) - f(b)| / |a - b|, less what rounding can have added."""

    slope: float
    a: Any
    b: Any
    bound: float
    calls: int

    @property
    def violated(self) -> bool:
        """Is it steeper than the bound, beyond rounding?"""
        return self.slope > self.bound * (1 + 1e-9)


def check(
    f: Function,
    low: Sequence[float],
    high: Sequence[float],
    bound: float,
    *,
    norm: float = 2,
    samples: int = 500,
    climbs: int = 5,
    seed: int = 0,
) -> Steepest:
    """The steepest pair of states in the box from low to high, looked for with 2 * samples + 31 * climbs *
    (dimension + 3) calls at most.

    norm: 1, 2 or inf, of both states and results. ValueError for a box that is empty, or where f gives what is not
    finite.
    """
    least, most = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    if least.ndim != 1 or least.shape != most.shape or not np.isfinite(most - least).all() or not (most > least).all():
        raise ValueError("a box has a lower and a greater bound, finite, for each dimension")
    if norm not in NORMS or not bound >= 0 or samples < 1 or climbs < 0:
        raise ValueError(f"norm {norm}, bound {bound}, {samples} samples or {climbs} climbs is out of bounds")
    search = _Search(f, least, most, norm, np.random.Generator(np.random.PCG64(seed)))
    starts = [search.pair_at_random() for _ in range(samples)]
    for _, a, _ in sorted(starts, key=lambda start: -start[0])[:climbs]:
        search.climb(a)
    slope, a, b = search.best
    return Steepest(slope, a, b, bound, search.calls)


def product_bound(*matrices: Any, norm: float = 2) -> float:
    """An upper bound for x -> s(M1 s(M2 s(... x))), s of slope at most 1 in each coordinate (tanh, relu): the
    product of the norms."""
    return math.prod(float(np.linalg.norm(np.asarray(matrix, dtype=float), norm)) for matrix in matrices)


class _Search:
    def __init__(self, f: Function, low: Any, high: Any, norm: float, random: Any) -> None:
        self.f, self.low, self.high, self.norm, self.random = f, low, high, norm, random
        self.calls = 0
        self.best: tuple[float, Any, Any] = (0.0, low, high)

    def value(self, x: Any) -> Any:
        self.calls += 1
        y = np.atleast_1d(np.asarray(self.f(x.copy()), dtype=float))
        if not np.isfinite(y).all():
            raise ValueError(f"f({x.tolist()}) is {y.tolist()}")
        return y

    def pair(self, a: Any, b: Any, at_a: Any = None) -> float:
        """The slope of a pair within the box."""
        b = np.clip(b, self.low, self.high)
        fa = self.value(a) if at_a is None else at_a
        slope = slope_of(a, b, fa, self.value(b), self.norm)
        if slope > self.best[0]:
            self.best = slope, a, b
        return slope

    def pair_at_random(self) -> tuple[float, Any, Any]:
        """A point, and another at any scale from a millionth of the box to all of it."""
        a = self.random.uniform(self.low, self.high)
        way = self.random.normal(size=len(a)) * (self.high - self.low)
        far = float(np.linalg.norm(self.high - self.low)) * 10 ** self.random.uniform(-6, 0)
        b = np.clip(a + way / max(float(np.linalg.norm(way)), 1e-300) * far, self.low, self.high)
        return self.pair(a, b), a, b

    def climb(self, x: Any) -> None:
        """Steps of shrinking size towards where the Jacobian is greater."""
        reach = 0.2
        here = self.slope_at(x)
        for _ in range(30):
            there = np.clip(x + self.random.normal(size=len(x)) * reach * (self.high - self.low), self.low, self.high)
            slope = self.slope_at(there)
            if slope > here:
                x, here = there, slope
            else:
                reach *= 0.8

    def slope_at(self, x: Any) -> float:
        """That along the steepest direction of the Jacobian at x, by a pair of its own."""
        step = 1e-5 * (self.high - self.low)
        step = np.where(x + step > self.high, -step, step)
        fx = self.value(x)
        jacobian = np.column_stack(
            [(self.value(x + step * unit) - fx) / step[i] for i, unit in enumerate(np.eye(len(x)))]
        )
        if self.norm == 2:
            way = np.linalg.svd(jacobian)[2][0]
        elif self.norm == 1:
            way = np.eye(len(x))[int(np.abs(jacobian).sum(axis=0).argmax())]
        else:
            way = np.where(jacobian[int(np.abs(jacobian).sum(axis=1).argmax())] < 0, -1.0, 1.0)
        size = float(np.min(np.abs(step)))
        return max(self.pair(x, x + size * way, fx), self.pair(x, x - size * way, fx))


def slope_of(a: Any, b: Any, fa: Any, fb: Any, norm: float = 2) -> float:
    """|fa - fb| / |a - b|, less what rounding of fa and fb can have added; 0 for equal states."""
    apart = float(np.linalg.norm(a - b, norm))
    if apart == 0:
        return 0.0
    rounding = 8 * EPSILON * (float(np.linalg.norm(fa, norm)) + float(np.linalg.norm(fb, norm)))
    return max(0.0, float(np.linalg.norm(fa - fb, norm)) - rounding) / apart


class Agent(Protocol):
    """Anything with a tick."""

    def tick(self, now_ns: int, bus: Any) -> Any:
        """One tick."""


class Watch:
    """An agent with a check on its transitions: each is compared with the last `kept` ones.

    `state` gives the agent's state as numbers, before and after each tick; `inputs`, what else the tick depends on
    (it is compared as a part of the state before). Without it, two ticks that read different messages count as a
    violation where these move the state further apart. `on_violation` is called with the pair; what it raises ends
    the tick.
    """

    def __init__(
        self,
        agent: Agent,
        state: Callable[[], Any],
        bound: float,
        *,
        inputs: Callable[[], Any] | None = None,
        norm: float = 2,
        kept: int = 64,
        on_violation: Callable[[Steepest], None] | None = None,
    ) -> None:
        if not bound >= 0 or norm not in NORMS or kept < 1:
            raise ValueError(f"bound {bound}, norm {norm} or {kept} kept is out of bounds")
        self.agent, self.bound = agent, bound
        self._state, self._inputs, self._norm, self._on_violation = state, inputs, norm, on_violation
        self._seen: deque[tuple[Any, Any]] = deque(maxlen=kept)
        self.transitions = 0
        self.violations = 0
        """Transitions that went further apart than the bound from one of those before them."""
        self.worst: Steepest | None = None

    def tick(self, now_ns: int, bus: Bus) -> Any:
        """The agent's tick, watched."""
        before = self._numbers(self._state())
        if self._inputs is not None:
            before = np.concatenate([before, self._numbers(self._inputs())])
        outcome = self.agent.tick(now_ns, bus)
        self.saw(before, self._state())
        return outcome

    def saw(self, before: Any, after: Any) -> Steepest | None:
        """A transition happened; its steepest pair if that is over the bound."""
        before, after = self._numbers(before), self._numbers(after)
        self.transitions += 1
        slopes = [(slope_of(a, before, fa, after, self._norm), at) for at, (a, fa) in enumerate(self._seen)]
        steepest, at = max(slopes, default=(0.0, -1))
        found = Steepest(steepest, self._seen[at][0] if slopes else before, before, self.bound, self.transitions)
        self._seen.append((before, after))
        if self.worst is None or found.slope > self.worst.slope:
            self.worst = found
        if not found.violated:
            return None
        self.violations += 1
        if self._on_violation is not None:
            self._on_violation(found)
        return found

    def _numbers(self, values: Any) -> Any:
        return np.array(values, dtype=float).ravel()
