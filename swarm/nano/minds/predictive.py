"""An agent that works ahead of its input: it forecasts the next values, computes their results, and throws wrong
ones away.

In the field's terms this is speculative execution by value prediction (Lipasti and Shen, "Exceeding the dataflow
limit via value prediction", MICRO 1996), with several forecasters of which those are believed that hit lately (a
tournament, McFarling, "Combining branch predictors", DEC WRL TN-36, 1993). A result that was computed ahead is used
only where the value that came is the value that was forecast, so what the agent publishes is exactly what it would
have published without forecasts, sooner.

What it is not: it does not see the future, does not learn causes, and on input without a pattern it does not hit;
then it stops working ahead and costs little more than an agent that waits.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from swarm.nano.minds.agent import IDLE, WORKED, Bus, as_f64, f64_of

R = TypeVar("R")
CONTEXTS_MAX = 4096  # remembered by a Context; those not met for longest are forgotten


class Forecaster(Protocol):
    """Guesses the next value of a series from those before."""

    def forecast(self) -> float | None:
        """The guess; None where there is none."""

    def learn(self, value: float) -> None:
        """The value that came."""

    def save(self) -> list[Any]:
        """Its state as plain values."""

    def restore(self, saved: Sequence[Any]) -> None:
        """Go on from there."""


class LastValue:
    """As it was, so it will be: the baseline that others must beat."""

    def __init__(self) -> None:
        self._last: float | None = None

    def forecast(self) -> float | None:
        """The last value."""
        return self._last

    def learn(self, value: float) -> None:
        """Keep it."""
        self._last = value

    def save(self) -> list[Any]:
        """The last value."""
        return [self._last]

    def restore(self, saved: Sequence[Any]) -> None:
        """Go on from there."""
        (self._last,) = saved


class Stride:
    """The last value and the last step that was seen twice in a row (two-delta stride, Eickemeyer and Vassiliadis,
    1993)."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._step: float | None = None
        self._sure = 0.0

    def forecast(self) -> float | None:
        """One step on."""
        return None if self._last is None else self._last + self._sure

    def learn(self, value: float) -> None:
        """A step is believed once it repeats."""
        if self._last is not None:
            step = value - self._last
            if step == self._step:
                self._sure = step
            self._step = step
        self._last = value

    def save(self) -> list[Any]:
        """Value and steps."""
        return [self._last, self._step, self._sure]

    def restore(self, saved: Sequence[Any]) -> None:
        """Go on from there."""
        self._last, self._step, self._sure = saved


class Trend:
    """Level and slope, smoothed (C. C. Holt, 1957): for ramps with noise. `smoothing` of both lies between 0 and 1."""

    def __init__(self, level_smoothing: float = 0.5, slope_smoothing: float = 0.2) -> None:
        if not (0 < level_smoothing <= 1 and 0 < slope_smoothing <= 1):
            raise ValueError(f"smoothing {level_smoothing}, {slope_smoothing}; both are over 0 and at most 1")
        self._alpha, self._beta = level_smoothing, slope_smoothing
        self._level: float | None = None
        self._slope = 0.0

    def forecast(self) -> float | None:
        """Level and one slope."""
        return None if self._level is None else self._level + self._slope

    def learn(self, value: float) -> None:
        """Move towards it."""
        if self._level is None:
            self._level = value
            return
        before = self._level
        self._level = self._alpha * value + (1 - self._alpha) * (before + self._slope)
        self._slope = self._beta * (self._level - before) + (1 - self._beta) * self._slope

    def save(self) -> list[Any]:
        """Level and slope."""
        return [self._level, self._slope]

    def restore(self, saved: Sequence[Any]) -> None:
        """Go on from there."""
        self._level, self._slope = saved


class Context:
    """What came last after the same `order` values (a finite context method, Sazeides and Smith, MICRO 1997).

    With `steps` contexts and guesses are differences instead of values (Goeman, Vandierendonck and De Bosschere,
    HPCA 2001), so a pattern is known again at another level. A guess is replaced when it was wrong twice in a row.
    """

    def __init__(self, order: int = 2, steps: bool = False) -> None:
        if not 1 <= order <= 64:
            raise ValueError(f"a context of {order} values; 1 to 64")
        self._steps = steps
        self._recent: deque[float] = deque(maxlen=order)
        self._known: OrderedDict[tuple[float, ...], tuple[float, bool]] = OrderedDict()
        self._last: float | None = None

    def forecast(self) -> float | None:
        """What followed this context before."""
        known = self._known.get(tuple(self._recent)) if len(self._recent) == self._recent.maxlen else None
        if known is None or self._last is None:
            return None
        return self._last + known[0] if self._steps else known[0]

    def learn(self, value: float) -> None:
        """This is what followed now."""
        last, self._last = self._last, value
        if self._steps:
            if last is None:
                return
            value -= last
        if len(self._recent) == self._recent.maxlen:
            context = tuple(self._recent)
            known, doubted = self._known.pop(context, (value, False))
            self._known[context] = (
                (known, False) if known == value else (known, True) if not doubted else (value, False)
            )
            if len(self._known) > CONTEXTS_MAX:
                self._known.popitem(last=False)
        self._recent.append(value)

    def save(self) -> list[Any]:
        """Contexts, in the order of their use."""
        return [self._last, list(self._recent), [[list(key), *known] for key, known in self._known.items()]]

    def restore(self, saved: Sequence[Any]) -> None:
        """Go on from there."""
        self._last, recent, known = saved
        self._recent.extend(recent)
        self._known = OrderedDict((tuple(key), (guess, doubted)) for key, guess, doubted in known)


def usual_forecasters() -> list[Forecaster]:
    """Last value, stride, trend, and contexts of 1, 3 and 8 values and of 2 steps."""
    return [LastValue(), Stride(), Trend(), Context(1), Context(3), Context(8), Context(2, steps=True)]


class PredictiveAgent(Generic[R]):
    """Computes `work` of each number that it reads, ahead where it can, and publishes the results.

    `tolerance` is the grid on which numbers count as the same: with 0 they must be equal; else `work` is given the
    nearest multiple of it, whether that was forecast or not. `ahead` is how many different guesses are computed
    after each input. A forecaster is believed while the part of its guesses that hit, weighted towards the last
    twenty or so, is at least `trust`. `work` must depend on its argument alone; it is called for guesses that never
    come, too.
    """

    def __init__(
        self,
        work: Callable[[float], R],
        *,
        reads: str = "in",
        writes: str = "out",
        tolerance: float = 0.0,
        ahead: int = 1,
        trust: float = 0.3,
        forecasters: Sequence[Forecaster] | None = None,
        decode: Callable[[bytes], float] = f64_of,
        encode: Callable[[R], bytes] = as_f64,  # type: ignore[assignment]
    ) -> None:
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"a tolerance of {tolerance}; it is not negative, and finite")
        if ahead < 1:
            raise ValueError(f"{ahead} guesses ahead; at least 1")
        self._work, self._decode, self._encode = work, decode, encode
        self._reads, self._writes = reads, writes
        self._tolerance, self._ahead, self._trust = tolerance, ahead, trust
        self._forecasters = list(forecasters) if forecasters is not None else usual_forecasters()
        self._scores = [0.0] * len(self._forecasters)
        self._guesses: list[float | None] = [None] * len(self._forecasters)
        self._ready: dict[float, R] = {}
        self._baseline: float | None = None
        self.inputs = 0
        """How many values came."""
        self.hits = 0
        """Of these, how often the best guess was it."""
        self.baseline_hits = 0
        """Of these, how often the value before was it."""
        self.ready = 0
        """How often the result had been computed ahead."""
        self.discarded = 0
        """Results computed ahead for values that did not come."""
        self.dropped = 0
        """Results for which the bus had no room."""

    @property
    def hit_rate(self) -> float:
        """Part of the values that the best guess hit; 0 before the first."""
        return self.hits / self.inputs if self.inputs else 0.0

    @property
    def baseline_hit_rate(self) -> float:
        """Part of the values that were as the one before; 0 before the first."""
        return self.baseline_hits / self.inputs if self.inputs else 0.0

    def tick(self, now_ns: int, bus: Bus) -> int:
        """Answer what came, then work ahead."""
        came = False
        for message in bus.read(self._reads):
            came = True
            if not bus.publish(self._writes, self._encode(self.take(self._decode(message.payload)))):
                self.dropped += 1
            self.work_ahead()
        return WORKED if came else IDLE

    def take(self, value: float) -> R:
        """The result for a value that came: the one computed ahead if there is one. ValueError if it is not finite."""
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be forecast")
        value = self._on_grid(value)
        best = self._best()
        self.inputs += 1
        self.hits += best is not None and self._guesses[best] == value
        self.baseline_hits += self._baseline == value
        self._baseline = value
        known = value in self._ready
        result = self._ready.pop(value) if known else None
        self.ready += known
        self.discarded += len(self._ready)
        self._ready.clear()
        for i, forecaster in enumerate(self._forecasters):
            self._scores[i] += 0.05 * ((self._guesses[i] == value) - self._scores[i])
            forecaster.learn(value)
            guess = forecaster.forecast()
            self._guesses[i] = self._on_grid(guess) if guess is not None and math.isfinite(guess) else None
        return result if known else self._work(value)  # type: ignore[return-value]

    def forecast(self) -> float | None:
        """The guess for the next value that is believed most; None where there is none."""
        best = self._best()
        return None if best is None else self._guesses[best]

    def work_ahead(self) -> int:
        """Compute the results of what is likely to come next; how many were computed. A guess on which `work` fails
        is none."""
        before = len(self._ready)
        for i in sorted(range(len(self._scores)), key=lambda i: (-self._scores[i], i)):
            guess = self._guesses[i]
            if len(self._ready) >= self._ahead or self._scores[i] < self._trust:
                break
            if guess is not None and guess not in self._ready:
                with suppress(Exception):  # the value has not come; should it come, it is raised then
                    self._ready[guess] = self._work(guess)
        return len(self._ready) - before

    def save(self) -> dict[str, Any]:
        """State as plain values, results computed ahead left out."""
        counts = [self.inputs, self.hits, self.baseline_hits, self.ready, self.discarded, self.dropped]
        return {
            "forecasters": [forecaster.save() for forecaster in self._forecasters],
            "scores": list(self._scores),
            "guesses": list(self._guesses),
            "baseline": self._baseline,
            "ready": list(self._ready),
            "counts": counts,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on where an agent made with the same arguments was saved."""
        for forecaster, state in zip(self._forecasters, saved["forecasters"], strict=True):
            forecaster.restore(state)
        self._scores, self._guesses = list(saved["scores"]), list(saved["guesses"])
        self._baseline = saved["baseline"]
        self._ready = {value: self._work(value) for value in saved["ready"]}
        self.inputs, self.hits, self.baseline_hits, self.ready, self.discarded, self.dropped = saved["counts"]

    def _best(self) -> int | None:
        known = [i for i, guess in enumerate(self._guesses) if guess is not None]
        return max(known, key=lambda i: (self._scores[i], -i)) if known else None

    def _on_grid(self, value: float) -> float:
        """The value to work on. Never -0.0, which is equal to 0.0 and may have another result."""
        steps = value / self._tolerance if self._tolerance else 0.0
        if steps and abs(steps) < 2**53:  # beyond, the grid is finer than the numbers are
            value = round(steps) * self._tolerance
        return value + 0.0
