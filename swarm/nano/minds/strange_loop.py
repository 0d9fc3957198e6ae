"""An agent that models the scheduler's metrics and itself: its own error is among what it forecasts, and among what
it forecasts from.

In the field's terms: an echo state network (Jaeger, 2001) with output feedback, whose readout is a ridge regression
over what was seen, weighted by age; intervals by online conformal quantile tracking (Gibbs and Candès, "Adaptive
conformal inference under distribution shift", NeurIPS 2021; Angelopoulos, Candès and Tibshirani, "Conformal PID
control", 2023), whose coverage holds in the long run whatever the metrics do; credit by TD(lambda) (`credit`). How
far to believe it is measured and printed: the calibration error.

The loop through itself is kept from running away: with its weights as they are, the map from (memory, own error) to
the next is a contraction, since the regression is penalised until the spectral norm of the part of the readout that
leads back obeys |A| + (|B| + |C|) |W| <= L < 1. So two copies in different states that are told the same become the
same, and a wrong notion of itself fades.

What it is not: not conscious, and not what Hofstadter meant by the name, from which only the shape is borrowed: a
model with itself inside. It does not act; who reads its forecasts does.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from swarm.nano.minds.agent import IDLE, WORKED, Bus
from swarm.nano.minds.credit import EligibilityTraces

LEVELS = (0.5, 0.8, 0.9, 0.95)
CLIP = 5.0  # standard deviations to which what is told is clipped before it gets into memory
RECALL = 0.5  # spectral norm of the memory's own matrix
FEEDBACK = 0.05  # that of what leads back from the forecast, and from the own error
OWN_RATE = 0.05  # of the mean of the own errors
SCALE_RATE = 0.002  # of the running means and variances of metrics
RIDGE = 1.0  # least penalty of the regression, in squared standard deviations
COVER_RATE = 0.05  # of the intervals' widths, standard deviations a step


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of the next metrics: their values, and for each of `LEVELS` how far from these they may be."""

    metrics: Any
    reach: Any
    own_error: float
    """Its own error that it expects, in standard deviations of the metrics."""
    value: float
    """Discounted rewards that it expects from here on."""


class StrangeLoop:
    """Told `metrics` numbers and a reward each step (`observe`), it forecasts the next ones and how wrong it will
    be.

    lipschitz is L above, over 0.5 and below 1; forgetting weighs what is n steps ago by forgetting^n, and the
    readout is worked out anew each learn_every steps. As an agent it reads messages of numbers of 8 bytes, metrics
    and then the reward, from `reads` and publishes the metrics that it expects next, up to 7 of them, to `writes`.
    """

    def __init__(
        self,
        metrics: int,
        *,
        memory: int = 24,
        lipschitz: float = 0.9,
        forgetting: float = 0.998,
        learn_every: int = 4,
        discount: float = 0.9,
        trace: float = 0.8,
        seed: int = 0,
        reads: str = "metrics",
        writes: str = "forecast",
        decode: Callable[[bytes], Sequence[float]] | None = None,
    ) -> None:
        if metrics < 1 or memory < 1 or not RECALL < lipschitz < 1 or not 0.9 <= forgetting <= 1 or learn_every < 1:
            raise ValueError(
                f"{metrics} metrics, memory {memory}, lipschitz {lipschitz} or forgetting {forgetting} is out of bounds"
            )
        random = np.random.Generator(np.random.PCG64(seed))

        def matrix(columns: int, size: float) -> Any:
            made = random.normal(size=(memory, columns))
            return made * (size / np.linalg.norm(made, 2))

        self.metrics, self.memory, self.lipschitz, self.forgetting = metrics, memory, lipschitz, forgetting
        self._learn_every = learn_every
        self._reads, self._writes = reads, writes
        self._decode = decode or self._numbers
        self._recall, self._told = matrix(memory, RECALL), matrix(metrics, math.sqrt(metrics))
        self._feedback, self._self = matrix(metrics + 1, FEEDBACK), matrix(1, FEEDBACK)
        # The readout: next metrics and next own error from memory, metrics, own error and 1. At first, as it is now.
        self._readout: Any = np.zeros((metrics + 1, memory + metrics + 2))
        self._readout[np.arange(metrics + 1), memory + np.arange(metrics + 1)] = 1.0
        self._first = self._readout.copy()
        self._products: Any = np.zeros((memory + metrics + 2, memory + metrics + 2))
        self._errors: Any = np.zeros_like(self._readout)
        self._penalty = RIDGE
        self._state: Any = np.zeros(memory)
        self._own = 1.0
        self._features: Any = None
        self._expected: Any = None
        self._mean: Any = np.zeros(metrics)
        self._variance: Any = np.ones(metrics)
        self._reach: Any = np.outer([0.7, 1.3, 1.6, 2.0], np.ones(metrics))
        self._last: Any = np.zeros(metrics)
        self._covered: Any = np.zeros(len(LEVELS))
        self._squares: Any = np.zeros(metrics)
        self._baseline: Any = np.zeros(metrics)
        self._own_told = [0.0, 0.0]
        self.credit = EligibilityTraces(memory + 1, discount=discount, trace=trace, rate=0.5 / (memory + 1))
        """TD(lambda) over its memory: what its states are worth."""
        self.steps = 0
        self.dropped = 0
        """Forecasts for which the bus had no room."""

    def observe(self, metrics: Sequence[float], reward: float = 0.0) -> Forecast:
        """The metrics as they are now, and the reward since the last time: learn, and forecast. ValueError where
        one is not finite."""
        told = np.asarray(metrics, dtype=float)
        if told.shape != (self.metrics,) or not np.isfinite(told).all() or not math.isfinite(reward):
            raise ValueError(
                f"{self.metrics} metrics and a reward, all finite, are needed; these are {metrics} and {reward}"
            )
        if self.steps == 0:
            self._mean, self._last = told.copy(), told.copy()
        now = self._scaled(told)
        before = self._value_features()
        if self._expected is not None:
            self._learn(told, now)
        self._scale(told)
        now = self._scaled(told)
        before_now = now if self._features is None else self._features[self.memory : -2]
        self._state, self._own = self.transition(self._state, self._own, before_now, now)
        self.credit.step(before, reward, self._value_features())
        self._features = np.concatenate([self._state, now, [self._own, 1.0]])
        self._expected = self._readout @ self._features
        self._last = told
        self.steps += 1
        deviation = np.sqrt(self._variance)
        return Forecast(
            self._mean + deviation * self._expected[:-1],
            self._reach * deviation,
            float(self._expected[-1]),
            self.credit.value(self._value_features()),
        )

    def transition(self, state: Any, own: float, before: Any, now: Any) -> tuple[Any, float]:
        """The loop through itself, a pure function while nothing is learned: memory and own error once the metrics,
        `before` until then, are `now` (both scaled). What it foresaw from its memory leads back into that, and so
        does how wrong that was."""
        foreseen = np.clip(self._readout @ np.concatenate([state, before, [0.0, 1.0]]), -CLIP, CLIP)
        told = np.clip(now, -CLIP, CLIP)
        drive = self._recall @ state + self._told @ told + self._feedback @ foreseen
        wrong = float(np.minimum(np.abs(foreseen[:-1] - told), CLIP).mean())
        return np.tanh(drive + self._self[:, 0] * own), (1 - OWN_RATE) * own + OWN_RATE * wrong

    def bound(self) -> float:
        """|A| + (|B| + |C|) |W| as it is now: at most `lipschitz`."""
        recurrent = float(np.linalg.norm(self._readout[:, : self.memory], 2))
        return float(np.linalg.norm(self._recall, 2)) + 2 * FEEDBACK * recurrent

    def contraction(self) -> tuple[float, float]:
        """(rho, weight): with |memory| + weight |own error| as the distance, two copies told the same come nearer
        by rho a step at least.

        rho below 1 is the greatest eigenvalue of [[A + CW, B], [rate W, 1 - rate]] in norms; weight comes from its
        left eigenvector.
        """
        recurrent = float(np.linalg.norm(self._readout[:, : self.memory], 2))
        steps = np.array([[RECALL + FEEDBACK * recurrent, FEEDBACK], [OWN_RATE * recurrent, 1 - OWN_RATE]])
        values, vectors = np.linalg.eig(steps.T)
        left = np.abs(vectors[:, int(values.real.argmax())])
        return float(values.real.max()), float(left[1] / left[0]) if left[0] > 0 else math.inf

    def calibration(self) -> list[tuple[float, float]]:
        """(level, part of the metrics that fell within its interval), for each of `LEVELS`."""
        told = max(1, (self.steps - 1) * self.metrics)
        return [(level, float(hits / told)) for level, hits in zip(LEVELS, self._covered, strict=True)]

    def calibration_error(self) -> float:
        """The mean of |coverage - level| (Kuleshov, Fenner and Ermon, ICML 2018); 0 before there is anything to
        measure."""
        if self.steps < 2:
            return 0.0
        return sum(abs(covered - level) for level, covered in self.calibration()) / len(LEVELS)

    def skill(self) -> list[float]:
        """For each metric 1 - (root mean square error) / (that of the last value): over 0 where it forecasts better."""
        worst = np.sqrt(np.maximum(self._baseline, 1e-300))
        return [float(part) for part in 1 - np.sqrt(self._squares) / worst]

    def own_error_told(self) -> tuple[float, float]:
        """(the mean of its own errors, the mean of what it had foretold of them), standard deviations."""
        told = max(1, self.steps - 1)
        return self._own_told[0] / told, self._own_told[1] / told

    def report(self) -> str:
        """What it makes of itself, to be printed."""
        lines = [f"calibration error {self.calibration_error():.3f} after {self.steps} steps"]
        lines += [f"  {level:.0%} intervals held {covered:.1%}" for level, covered in self.calibration()]
        lines += [f"  metric {at}: {part:+.0%} better than the last value" for at, part in enumerate(self.skill())]
        own, foretold = self.own_error_told()
        lines.append(
            f"  own error {own:.3f}, foretold {foretold:.3f} standard deviations; Lipschitz bound {self.bound():.3f}"
        )
        return "\n".join(lines)

    def tick(self, now_ns: int, bus: Bus) -> int:
        """Take each message, and publish what is expected after the last of them."""
        forecast = None
        for message in bus.read(self._reads):
            numbers = self._decode(message.payload)
            forecast = self.observe(numbers[: self.metrics], numbers[self.metrics])
        if forecast is None:
            return IDLE
        expected = [float(value) for value in forecast.metrics[:7]]
        if not bus.publish(self._writes, struct.pack(f"<{len(expected)}d", *expected)):
            self.dropped += 1
        return WORKED

    def save(self) -> dict[str, Any]:
        """State as plain values; the matrices that the seed gives are left out."""
        return {name: _plain(getattr(self, name)) for name in _SAVED} | {"credit": self.credit.save()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on where one made with the same arguments was saved."""
        for name in _SAVED:
            old, value = getattr(self, name), saved[name]
            setattr(self, name, np.array(value) if isinstance(value, list) and not isinstance(old, list) else value)
        self.credit.restore(saved["credit"])

    def _learn(self, told: Any, now: Any) -> None:
        """How wrong was it? Widths of the intervals, readout, and the counts."""
        deviation = np.sqrt(self._variance)
        off = np.abs(now - self._expected[:-1])
        inside = off <= self._reach
        self._covered += inside.sum(axis=1)
        self._reach = np.maximum(0.0, self._reach + COVER_RATE * (np.array(LEVELS)[:, None] - inside))
        self._squares += ((off * deviation) ** 2 - self._squares) / max(1, self.steps)
        self._baseline += ((told - self._last) ** 2 - self._baseline) / max(1, self.steps)
        own = float(np.minimum(off, CLIP).mean())
        self._own_told = [self._own_told[0] + own, self._own_told[1] + float(self._expected[-1])]
        aimed = np.clip(np.concatenate([now, [own]]), -2 * CLIP, 2 * CLIP)
        features = self._features
        if self.steps < len(features):  # what is usual is not known yet
            return
        self._products = self.forgetting * self._products + np.outer(features, features)
        self._errors = self.forgetting * self._errors + np.outer(aimed - self._first @ features, features)
        if self.steps >= 2 * len(features) and self.steps % self._learn_every == 0:
            self._solve()

    def _solve(self) -> None:
        """The readout of least squared error among those that keep the loop a contraction: a greater penalty on the
        part that leads back, until it is."""
        most = (self.lipschitz - RECALL) / (2 * FEEDBACK)
        penalty = np.full(len(self._products), RIDGE)
        self._penalty = max(RIDGE, self._penalty / 2)
        while True:
            penalty[: self.memory] = self._penalty
            readout = self._first + np.linalg.solve(self._products + np.diag(penalty), self._errors.T).T
            if np.linalg.norm(readout[:, : self.memory], 2) <= most:
                break
            self._penalty *= 1.5
        self._readout = readout

    def _numbers(self, payload: bytes) -> Sequence[float]:
        wanted = 8 * (self.metrics + 1)
        if len(payload) < wanted:
            raise ValueError(
                f"a message of {len(payload)} bytes where {self.metrics} metrics and a reward take {wanted}"
            )
        return struct.unpack_from(f"<{self.metrics + 1}d", payload)

    def _value_features(self) -> Any:
        return np.append(self._state, 1.0)

    def _scaled(self, told: Any) -> Any:
        return (told - self._mean) / np.sqrt(self._variance)

    def _scale(self, told: Any) -> None:
        rate = max(SCALE_RATE, 1 / (self.steps + 2))
        off = told - self._mean
        self._mean = self._mean + rate * off
        self._variance = np.maximum(1e-12, (1 - rate) * (self._variance + rate * off**2))


_SAVED = (
    *(
        "_readout",
        "_products",
        "_errors",
        "_penalty",
        "_state",
        "_own",
        "_features",
        "_expected",
        "_mean",
        "_variance",
        "_reach",
        "_last",
        "_covered",
    ),
    *("_squares", "_baseline", "_own_told", "steps", "dropped"),
)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
