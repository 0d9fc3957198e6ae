"""Alerts and anomalies of a swarm: looked at between two passes, once a window of its time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from swarm.nano.alerts import METRICS, Alert, Raised, Window, metric_of
from swarm.nano.anomalies import Anomalies, Anomaly, Detector
from swarm.nano.errors import NanoError
from swarm.nano.reports import Durations

if TYPE_CHECKING:
    from swarm.nano.scheduling import NanoSwarm

KEPT: Final = 1_000
"""Alerts, and anomalies, that are kept for reports: the last ones."""
USUAL: Final = ("ticks_per_s", "idle_ratio", "failed_ratio", "missed_ratio", "published_per_s", "dropped_per_s")
USUAL_MEASURED: Final = ("tick_p50_ns", "violations_ratio")
_COUNTS: Final = ("ticks", "idle", "failed", "missed", "over", "busy")
_TOPIC_COUNTS: Final = ("published", "dropped", "blocked", "delivered")
_log = logging.getLogger("swarm.nano")

Subject = int | str
"""The number of a cohort, or the name of a topic."""


@dataclass(slots=True)
class _Breach:
    """Windows on end that were beyond a threshold."""

    from_ns: int
    worst: float
    raised: Raised | None = None


class Watch:
    """What is looked at, and what was seen. Windows end at multiples of `window_ns` of the swarm's time, so that they are
    the same however a run is cut into pieces."""

    def __init__(self, window_ns: int, now_ns: int) -> None:
        self.window_ns = window_ns
        self.begin_ns = now_ns
        self.rules: list[tuple[Alert | Anomalies, Subject | None]] = []
        self.alerts: deque[Raised] = deque(maxlen=KEPT)
        self.anomalies: deque[Anomaly] = deque(maxlen=KEPT)
        self._before: dict[Subject, Mapping[str, float]] = {}
        self._durations: dict[int, tuple[Durations, ...]] = {}
        self._breaches: dict[tuple[int, Subject], _Breach] = {}
        self._detectors: dict[tuple[int, str, Subject], Detector] = {}

    @property
    def next_ns(self) -> int:
        """When the window is over."""
        return (self.begin_ns // self.window_ns + 1) * self.window_ns

    def add(self, rule: Alert | Anomalies, of: Subject | None, swarm: NanoSwarm) -> None:
        """Look at that, too. NanoError for what is measured, where nothing is."""
        named = [rule.metric] if isinstance(rule, Alert) else list(rule.metrics or ())
        for name in named:
            if metric_of(name).measured and swarm.time == "virtual":
                there = ", ".join(name for name, each in METRICS.items() if not each.measured)
                raise NanoError(
                    f"{name} is measured, and in virtual time nothing follows from how long anything took",
                    hint=f"there are {there}; or use NanoSwarm(time='real')",
                )
        if not self.rules:
            self.begin_ns = swarm.now_ns
            self._take(swarm)
        self.rules.append((rule, of))

    # --- a look -------------------------------------------------------------------------------------------------------

    def look(self, swarm: NanoSwarm) -> None:
        """The window is over: raise, end and find what there is, and do what follows."""
        windows = dict(self._windows(swarm))
        end_ns, begin_ns = swarm.now_ns, self.begin_ns
        self.begin_ns = end_ns
        follows: list[tuple[Alert, Raised, bool]] = []
        for number, (rule, of) in enumerate(self.rules):
            for subject, (name, window) in windows.items():
                if of is not None and of != subject and of != name:
                    continue
                if isinstance(rule, Alert):
                    if metric_of(rule.metric).of == ("topic" if isinstance(subject, str) else "cohort"):
                        self._judge(number, rule, subject, name, window, begin_ns, end_ns, follows)
                else:
                    self._compare(number, rule, subject, name, window, end_ns, swarm.time == "real")
        for alert, raised, begins in follows:
            self._follow(swarm, alert, raised, begins)

    def _judge(
        self,
        number: int,
        rule: Alert,
        subject: Subject,
        name: str,
        window: Window,
        begin_ns: int,
        end_ns: int,
        follows: list[tuple[Alert, Raised, bool]],
    ) -> None:
        value = METRICS[rule.metric].value(window)
        breach = self._breaches.get((number, subject))
        if breach is None:
            if value is None or not rule.beyond(value):
                return
            breach = self._breaches[(number, subject)] = _Breach(begin_ns, value)
        elif (rule.well if breach.raised else lambda value: not rule.beyond(value))(value):
            del self._breaches[(number, subject)]
            if breach.raised is not None:
                breach.raised.to_ns = begin_ns
                follows.append((rule, breach.raised, False))
            return
        assert value is not None
        breach.worst = (max if rule.above is not None else min)(breach.worst, value)
        if breach.raised is not None:
            breach.raised.value = breach.worst
        elif end_ns - breach.from_ns >= rule.for_s * 1e9:
            cohort = subject if isinstance(subject, int) else None
            breach.raised = Raised(
                str(rule), rule.metric, name, cohort, rule.threshold, breach.worst, breach.from_ns, end_ns
            )
            self.alerts.append(breach.raised)
            follows.append((rule, breach.raised, True))

    def _compare(
        self, number: int, rule: Anomalies, subject: Subject, name: str, window: Window, end_ns: int, real: bool
    ) -> None:
        of = "topic" if isinstance(subject, str) else "cohort"
        for metric in rule.metrics or (USUAL + USUAL_MEASURED if real else USUAL):
            if METRICS[metric].of != of:
                continue
            value = METRICS[metric].value(window)
            if value is None:
                continue
            key = (number, metric, subject)
            detector = self._detectors.get(key)
            if detector is None:
                detector = self._detectors[key] = Detector(rule.learn, rule.least, rule.threshold)
            change = detector.update(value)
            if change is not None:
                cohort = subject if isinstance(subject, int) else None
                began_ns = max(0, end_ns - change.since * self.window_ns)
                self.anomalies.append(
                    Anomaly(metric, name, cohort, began_ns, end_ns, change.before, change.after)
                )  # fmt: skip

    def _follow(self, swarm: NanoSwarm, alert: Alert, raised: Raised, begins: bool) -> None:
        if callable(alert.action):
            alert.action(raised)
            return
        if alert.action != "record":
            _log.warning("%s %s", "alert:" if begins else "over:", str(raised))
        if not begins or raised.cohort is None:
            return
        if alert.action == "demote":
            swarm.demote(raised.cohort)
        elif alert.action == "suspend":
            swarm.cohorts[raised.cohort].suspend()
        elif alert.action == "kill":
            swarm.cohorts[raised.cohort].kill()

    # --- counts -------------------------------------------------------------------------------------------------------

    def _take(self, swarm: NanoSwarm) -> None:
        for _ in self._windows(swarm):
            pass

    def _windows(self, swarm: NanoSwarm) -> Iterator[tuple[Subject, tuple[str, Window]]]:
        """What each cohort and topic did since the last time."""
        seconds = (swarm.now_ns - self.begin_ns) / 1e9
        for number, agents in enumerate(swarm.cohorts):
            counts, budget_ns = swarm.counts(number)
            was = self._before.get(number, {})
            done: dict[str, float] = {name: counts[name] - was.get(name, 0) for name in _COUNTS}
            self._before[number] = {name: counts[name] for name in _COUNTS}
            done["budget_ns"] = budget_ns or 0.0
            if swarm.time == "virtual":
                done["cost_ns"] = done["ticks"] * done["budget_ns"]
                yield number, (agents.kind.__name__, Window(seconds, done))
                continue
            done["cost_ns"] = counts["busy_ns"] / counts["busy"] * done["busy"] if counts["busy"] else 0.0
            durations = swarm.durations(number)
            since = [now.since(then) for now, then in zip(durations, self._durations.get(number, _EMPTY), strict=True)]
            self._durations[number] = durations
            yield number, (agents.kind.__name__, Window(seconds, done, *since))
        for topic, number in swarm.topics.items():
            counted = dict(zip(_TOPIC_COUNTS, swarm.bus.counters(number), strict=True))
            was = self._before.get(topic, {})
            self._before[topic] = counted
            yield topic, (topic, Window(seconds, {name: counted[name] - was.get(name, 0) for name in counted}))

    # --- saving -------------------------------------------------------------------------------------------------------

    def save(self, name_of: Callable[[Any], str | None]) -> dict[str, Any]:
        """What `restore` wants, of plain values. NanoError naming a function that is not found by its name."""
        rules = []
        for rule, of in self.rules:
            said = asdict(rule)
            if isinstance(rule, Alert) and callable(rule.action):
                said["action"] = [name_of(rule.action)]
                if said["action"] == [None]:
                    raise NanoError(
                        f"the alert {rule} cannot be saved: its function is not found by its name",
                        hint="define the function at the top of a module that can be imported where it is loaded",
                    )
            rules.append([type(rule).__name__, said, of])
        return {
            "window_ns": self.window_ns, "begin_ns": self.begin_ns, "rules": rules,
            "before": [[subject, dict(counts)] for subject, counts in self._before.items()],
            "alerts": [asdict(each) for each in self.alerts], "anomalies": [asdict(each) for each in self.anomalies],
            "breaches": [
                [*key, each.from_ns, each.worst, None if each.raised is None else self._place(each.raised)]
                for key, each in self._breaches.items()
            ],
            "detectors": [[*key, each.save()] for key, each in self._detectors.items()],
        }  # fmt: skip

    def _place(self, raised: Raised) -> int | None:
        return next((at for at, each in enumerate(self.alerts) if each is raised), None)

    @classmethod
    def restore(cls, saved: Mapping[str, Any], found: Callable[[str], Any]) -> Watch:
        """Go on where `save` was called; `found` gives a function by its name."""
        watch = cls(saved["window_ns"], saved["begin_ns"])
        for name, said, of in saved["rules"]:
            if name == "Alert":
                if isinstance(said["action"], list):
                    said = said | {"action": found(said["action"][0])}
                watch.rules.append((Alert(**said), of))
            else:
                watch.rules.append((Anomalies(**said), of))
        watch._before = dict(saved["before"])
        watch.alerts.extend(Raised(**each) for each in saved["alerts"])
        watch.anomalies.extend(Anomaly(**each) for each in saved["anomalies"])
        for number, subject, from_ns, worst, place in saved["breaches"]:
            raised = None if place is None else watch.alerts[place]
            watch._breaches[(number, subject)] = _Breach(from_ns, worst, raised)
        for number, metric, subject, detector in saved["detectors"]:
            rule = watch.rules[number][0]
            assert isinstance(rule, Anomalies)
            it = watch._detectors[(number, metric, subject)] = Detector(rule.learn, rule.least, rule.threshold)
            it.restore(detector)
        return watch


_EMPTY: Final = (Durations(), Durations(), Durations())
