"""Thresholds that raise an alert: what is measured, beyond which value, for how long, and what follows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from swarm.nano.errors import NanoError
from swarm.nano.reports import Durations
from swarm.units import parse_duration_s

Subject = Literal["cohort", "topic"]
Action = Literal["record", "warn", "demote", "suspend", "kill"]
ACTIONS: Final = ("record", "warn", "demote", "suspend", "kill")
NOTHING: Final = Durations()


@dataclass(frozen=True, slots=True)
class Window:
    """What a cohort, or a topic, did in a window of the swarm's time: counts by name, and durations where time is real."""

    seconds: float
    counts: Mapping[str, float]
    tick_ns: Durations = NOTHING
    late_ns: Durations = NOTHING
    jitter_ns: Durations = NOTHING


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of a window: None where there was nothing to take it of."""

    about: str
    unit: Literal["ns", "ratio", "per_s"]
    of: Subject
    measured: bool
    """Whether it depends on how long anything took, so that there is none in virtual time."""
    value: Callable[[Window], float | None]


def _rate(name: str) -> Callable[[Window], float | None]:
    return lambda window: window.counts[name] / window.seconds


def _share(name: str) -> Callable[[Window], float | None]:
    return lambda window: window.counts[name] / window.counts["ticks"] if window.counts["ticks"] else None


def _missed(window: Window) -> float | None:
    wanted = window.counts["ticks"] + window.counts["missed"]
    return window.counts["missed"] / wanted if wanted else None


def _dropped(window: Window) -> float | None:
    wanted = window.counts["published"] + window.counts["dropped"]
    return window.counts["dropped"] / wanted if wanted else None


def _quantile(name: str, q: float) -> Callable[[Window], float | None]:
    def value(window: Window) -> float | None:
        durations: Durations = getattr(window, name)
        return durations.quantile(q) if durations.count else None

    return value


def _budget_use(window: Window) -> float | None:
    budget_ns = window.counts["budget_ns"]
    return window.tick_ns.mean / budget_ns if budget_ns and window.tick_ns.count else None


METRICS: Final[dict[str, Metric]] = {
    "ticks_per_s": Metric("ticks", "per_s", "cohort", False, _rate("ticks")),
    "idle_ratio": Metric("ticks that found nothing to do, of all", "ratio", "cohort", False, _share("idle")),
    "failed_ratio": Metric("ticks that failed, of all", "ratio", "cohort", False, _share("failed")),
    "failures_per_s": Metric("ticks that failed", "per_s", "cohort", False, _rate("failed")),
    "missed_ratio": Metric("ticks that were due and left out, of all that were due", "ratio", "cohort", False, _missed),
    "missed_per_s": Metric("ticks that were due and left out", "per_s", "cohort", False, _rate("missed")),
    "load": Metric(
        "part of a core: in virtual time what budgets declare, in real time what was measured", "ratio", "cohort", False,
        lambda window: window.counts["cost_ns"] / window.seconds / 1e9,
    ),
    "published_per_s": Metric("messages to the topic", "per_s", "topic", False, _rate("published")),
    "dropped_per_s": Metric("messages for which the topic had no room", "per_s", "topic", False, _rate("dropped")),
    "dropped_ratio": Metric("the same, of all messages to it", "ratio", "topic", False, _dropped),
    "blocked_per_s": Metric("messages that were refused, to be tried again", "per_s", "topic", False, _rate("blocked")),
    "tick_p50_ns": Metric("what a tick took, median", "ns", "cohort", True, _quantile("tick_ns", 0.5)),
    "tick_p99_ns": Metric("what a tick took, 99 of 100", "ns", "cohort", True, _quantile("tick_ns", 0.99)),
    "late_p99_ns": Metric("how late a tick was, 99 of 100", "ns", "cohort", True, _quantile("late_ns", 0.99)),
    "jitter_p99_ns": Metric(
        "by how much lateness differed from the tick before, 99 of 100", "ns", "cohort", True, _quantile("jitter_ns", 0.99)
    ),
    "violations_per_s": Metric("ticks over their budget", "per_s", "cohort", True, _rate("over")),
    "violations_ratio": Metric("ticks over their budget, of all", "ratio", "cohort", True, _share("over")),
    "budget_use": Metric("what a tick took in the mean, of its budget", "ratio", "cohort", True, _budget_use),
}  # fmt: skip
"""What alerts and anomalies are taken of, by name."""

_UNITS: Final[dict[str, dict[str, float]]] = {
    "ns": {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9, "": 1.0}, "ratio": {"%": 0.01, "": 1.0},
    "per_s": {"/s": 1.0, "/ms": 1e3, "/min": 1 / 60, "": 1.0},
}  # fmt: skip
_NUMBER: Final = re.compile(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*(\S*)", re.IGNORECASE)
_SPOKEN: Final = re.compile(
    r"(?P<metric>\w+)\s*(?P<way>[<>])\s*(?P<value>\S+)(?:\s+until\s+(?P<until>\S+))?(?:\s+for\s+(?P<for_s>\S+))?"
    r"(?:\s+of\s+(?P<of>\S+))?(?:\s+then\s+(?P<action>\S+))?"
)
SPOKEN: Final = (
    'METRIC > VALUE [until VALUE] [for TIME] [of KIND|TOPIC] [then ACTION], as in "late_p99_ns > 50us for 1s"'
)


def metric_of(name: str) -> Metric:
    """A metric by its name. NanoError when there is none of it."""
    if name not in METRICS:
        raise NanoError(f"there is no metric {name!r}", hint=f"there are {', '.join(METRICS)}")
    return METRICS[name]


@dataclass(frozen=True, slots=True)
class Alert:
    """What `NanoSwarm.watch` takes to raise an alert while a metric lies beyond a threshold.

    A metric is named with its unit (`swarm.nano.alerts.METRICS`); a threshold is a number of that unit or says its own: "50us",
    "5%", "10/s". It is raised when the value of each window was beyond for `for_s`, and ends with the first one that is not,
    or that is back on the other side of `until`, where that is given (hysteresis). What was beyond in no window is not told.

    `action` is what follows when it is raised: "record" only shows it in reports, "warn" also logs it (logger "swarm.nano"),
    "demote" halves the rate of the cohort, "suspend" and "kill" are for all of its agents. A function is called with the
    `Raised` between two passes, when it is raised and again when it has ended.
    """

    metric: str
    above: float | str | None = None
    below: float | str | None = None
    for_s: float = 0.0
    until: float | str | None = None
    action: Action | Callable[[Raised], object] = "record"

    def __post_init__(self) -> None:
        metric = metric_of(self.metric)
        if (self.above is None) == (self.below is None):
            raise NanoError(f"an alert on {self.metric}", hint="give one threshold: above=… or below=…")
        for name in ("above", "below", "until"):
            said = getattr(self, name)
            if said is not None:
                object.__setattr__(self, name, _threshold(said, metric.unit, self.metric))
        if not 0.0 <= self.for_s < 1e9:
            raise NanoError(f"for_s={self.for_s!r}", hint="how long it must hold, in seconds, is not negative")
        if self.until is not None and self.beyond(float(self.until)):
            raise NanoError(
                f"an alert on {self.metric} until {self.until}", hint="until lies on the side where all is well"
            )
        if not callable(self.action) and self.action not in ACTIONS:
            raise NanoError(f"action={self.action!r}", hint=f"an action is a function, or {', '.join(ACTIONS)}")
        if metric.of == "topic" and self.action in ("demote", "suspend", "kill"):
            raise NanoError(
                f"{self.metric} is of a topic: there is nobody to {self.action}", hint="record, warn or a function"
            )

    @classmethod
    def spoken(cls, text: str) -> tuple[Alert, str | None]:
        """From words, and the name of the kind or topic that it is of: see SPOKEN. NanoError when they say something else."""
        match = _SPOKEN.fullmatch(text.strip())
        if match is None:
            raise NanoError(f"{text!r} is no alert", hint=SPOKEN)
        said = match.groupdict()
        try:
            for_s = parse_duration_s(said["for_s"]) if said["for_s"] else 0.0
        except ValueError as error:
            raise NanoError(f"an alert {text!r}: {error}", hint=SPOKEN) from None
        given: dict[str, Any] = {
            "above" if said["way"] == ">" else "below": said["value"], "until": said["until"],
            "action": said["action"] or "record",
        }  # fmt: skip
        return cls(said["metric"], for_s=for_s, **given), said["of"]

    @property
    def threshold(self) -> float:
        """In the metric's unit."""
        return self.above if self.above is not None else self.below  # type: ignore[return-value]

    def beyond(self, value: float | None) -> bool:
        """Whether it would be raised by a value."""
        if value is None:
            return False
        return value > self.threshold if self.above is not None else value < self.threshold

    def well(self, value: float | None) -> bool:
        """Whether it ends with a value."""
        if value is None or self.until is None:
            return not self.beyond(value)
        return value <= self.until if self.above is not None else value >= self.until  # type: ignore[operator]

    def __str__(self) -> str:
        held = f" for {self.for_s:g} s" if self.for_s else ""
        return f"{self.metric} {'>' if self.above is not None else '<'} {shown(self.threshold, self.metric)}{held}"


@dataclass(slots=True)
class Raised:
    """An alert that was raised: from the beginning of the first window that was beyond to the end of the last; None while
    it lasts. `value` is the worst of them."""

    alert: str
    """As people read it."""
    metric: str
    of: str
    """The kind, or the topic."""
    cohort: int | None
    threshold: float
    value: float
    from_ns: int
    raised_ns: int
    to_ns: int | None = None

    def __str__(self) -> str:
        who = self.of if self.cohort is None else f"{self.of} (cohort {self.cohort})"
        until = "" if self.to_ns is None else f" to {self.to_ns / 1e9:.6g} s"
        return f"{who}: {self.alert}: {shown(self.value, self.metric)} from {self.from_ns / 1e9:.6g} s{until}"


def shown(value: float, metric: str) -> str:
    """A value of a metric, with its unit, for people."""
    match METRICS[metric].unit:
        case "ns":
            for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
                if abs(value) >= size:
                    return f"{value / size:.4g} {unit}"
            return f"{value:.4g} ns"
        case "ratio":
            return f"{value * 100:.4g} %"
        case _:
            return f"{value:.6g}/s"


def _threshold(said: float | str, unit: str, metric: str) -> float:
    if isinstance(said, str):
        match = _NUMBER.fullmatch(said.strip())
        if match is None or match.group(2) not in _UNITS[unit]:
            units = ", ".join(each for each in _UNITS[unit] if each)
            raise NanoError(f"{said!r} is no threshold of {metric}", hint=f"a number, or one with a unit: {units}")
        return float(match.group(1)) * _UNITS[unit][match.group(2)]
    if isinstance(said, bool) or not isinstance(said, int | float) or not abs(said) < float("inf"):
        raise NanoError(f"{said!r} is no threshold of {metric}", hint="a number, or text with a unit")
    return float(said)
