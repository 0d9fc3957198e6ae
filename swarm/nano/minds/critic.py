"""A critic: it reads what ticks left behind, off their path, finds patterns, and has policies changed by the
Improver's way.

In the field's terms: a monitor, analyse, plan, execute loop (Kephart and Chess, "The vision of autonomic
computing", 2003) whose analysis are significance tests (`traces.patterns`), whose plans are remedies that somebody
wrote down, and whose execution is a controlled experiment (`swarm.nano.improver`).

What it is not: it does not invent remedies, does not understand the agents' code, and a pattern is a correlation.
That is why a remedy is tried on a part of the agents first, and undone where they do no better by it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from swarm.nano.improver import Change, Effect, Improver, Promote, Restore, RunTest, StartCanary
from swarm.nano.minds.agent import IDLE, WORKED, Bus
from swarm.nano.minds.traces import FAILED, PATTERNS, TRACE, Finding, patterns

Remedy = Callable[[Finding, Mapping[str, Any]], Change | None]
FINDING = struct.Struct("<IId")  # cohort, number of the pattern, p
FINDINGS_KEPT = 1000


class Policies(Protocol):
    """What can carry a change out: usually the population that the critic watches."""

    def test(self, change: Change) -> bool:
        """Is it fit to be tried at all? Apart from what runs: its bounds, a replay, a simulation."""

    def start_canary(self, change: Change, share: float) -> tuple[int, Collection[int]]:
        """Put it in force on about that share of a cohort's rows: the cohort's number, and which rows."""

    def promote(self, change: Change) -> None:
        """Put it in force for all."""

    def restore(self, change: Change, before: Any) -> None:
        """Put `before` back wherever the change is in force."""


def scaled(knob: str, factor: float, least: float = 0.0) -> Remedy:
    """A remedy: `factor` times the knob of the cohort, subject "<cohort>.<knob>"; none where there is no such
    subject, or where it would be under `least`."""

    def propose(finding: Finding, in_force: Mapping[str, Any]) -> Change | None:
        subject = f"{finding.cohort}.{knob}"
        value = in_force.get(subject)
        if value is None or value * factor < least:
            return None
        return Change(subject, value * factor, _reason(finding), "critic")

    return propose


def assigned(knob: str, value: Any) -> Remedy:
    """A remedy: this value for the knob of the cohort, subject "<cohort>.<knob>"; none where that is so, or there
    is no such."""

    def propose(finding: Finding, in_force: Mapping[str, Any]) -> Change | None:
        subject = f"{finding.cohort}.{knob}"
        if subject not in in_force or in_force[subject] == value:
            return None
        return Change(subject, value, _reason(finding), "critic")

    return propose


def worth(traces: Any) -> Any:
    """What a tick is worth, usually: 1 when it worked, less 2 when it was over budget, less 10 when it failed."""
    return (traces["outcome"] == WORKED) - 2.0 * (traces["violated"] != 0) - 10.0 * (traces["outcome"] == FAILED)


class CriticReflector:
    """Watches the ticks that it is given (`observe`), and reflects on them every `every_ns`.

    `remedies` maps each pattern (`traces.PATTERNS`) to what may be tried against it, in this order; one that failed
    is passed over until the Improver's cool-down is over, and of several patterns of a cohort the most special one
    with a remedy is treated. A canary is judged by `score`, the worth of each tick, summed over a pass and divided
    by how many rows the part has, so a remedy that only makes agents do less does not win by it.
    """

    def __init__(
        self,
        improver: Improver,
        policies: Policies,
        remedies: Mapping[str, Sequence[Remedy]],
        *,
        every_ns: int = 1_000_000_000,
        traces_max: int = 100_000,
        tolerated: float = 0.01,
        error: float = 0.01,
        score: Callable[[Any], Any] = worth,
        writes: str | None = None,
    ) -> None:
        unknown = sorted(set(remedies) - set(PATTERNS))
        if unknown:
            raise ValueError(f"there is no pattern {unknown[0]!r}; there are {', '.join(PATTERNS)}")
        if every_ns <= 0 or traces_max <= 0:
            raise ValueError("a cadence and a number of traces are over 0")
        self.improver, self._policies = improver, policies
        self._remedies = {pattern: list(tried) for pattern, tried in remedies.items()}
        self._every_ns, self._traces_max = every_ns, traces_max
        self._tolerated, self._error, self._score, self._writes = tolerated, error, score, writes
        self._next_ns = 0
        self._parts: deque[Any] = deque()
        self._held = 0
        self._trials: dict[int, tuple[int, Any]] = {}
        self.findings: deque[tuple[int, Finding]] = deque(maxlen=FINDINGS_KEPT)
        """(instant, finding), the last ones."""
        self.observed = 0
        """Ticks that were given."""
        self.dropped = 0
        """Of these, ticks that were forgotten before they were reflected on, because there were too many."""

    def observe(self, traces: Any) -> None:
        """Take ticks, an array of TRACE in the order of their passes. Only kept here; ValueError for another dtype."""
        if traces.dtype != TRACE:
            raise ValueError(f"traces of dtype {traces.dtype}; TRACE is expected")
        self.observed += len(traces)
        self.dropped += max(0, len(traces) - self._traces_max)
        kept = traces[-self._traces_max :].copy()
        self._parts.append(kept)
        self._held += len(kept)
        while self._held > self._traces_max:
            over = self._held - self._traces_max
            oldest = self._parts.popleft()
            gone = min(over, len(oldest))
            if gone < len(oldest):
                self._parts.appendleft(oldest[gone:])
            self._held -= gone
            self.dropped += gone

    def tick(self, now_ns: int, bus: Bus) -> int:
        """Reflect, when it is time to; findings go to the topic `writes`: cohort u32, number of the pattern u32, p
        f64."""
        if now_ns < self._next_ns:
            return IDLE
        self._next_ns = now_ns + self._every_ns
        found = self.reflect(now_ns)
        if self._writes is not None:
            for finding in found:
                bus.publish(self._writes, FINDING.pack(finding.cohort, PATTERNS.index(finding.pattern), finding.p))
        return WORKED

    def reflect(self, now_ns: int) -> list[Finding]:
        """Judge what is being tried, look for patterns in what came since the last time, and propose a remedy for
        each."""
        traces = np.concatenate(self._parts) if self._parts else np.empty(0, TRACE)
        self._parts.clear()
        self._held = 0
        tried = {cohort for cohort, _ in self._trials.values()}
        self._judge(traces, now_ns)
        self.carry_out(self.improver.tick(now_ns), now_ns)
        tried |= {cohort for cohort, _ in self._trials.values()}
        # of what was tried upon, even if that was decided just now, these ticks are not those of the policy in force
        watched = traces[~np.isin(traces["cohort"], sorted(tried))] if tried else traces
        found = patterns(watched, tolerated=self._tolerated, error=self._error)
        helped: set[int] = set()
        for finding in found:
            self.findings.append((now_ns, finding))
            if finding.cohort not in helped and self._propose(finding, now_ns):
                helped.add(finding.cohort)
        return found

    def save(self) -> dict[str, Any]:
        """State as plain values, that of the Improver included; ticks that were not reflected on are left out."""
        return {
            "improver": self.improver.save(),
            "trials": [[number, cohort, rows.tolist()] for number, (cohort, rows) in self._trials.items()],
            "counts": [self._next_ns, self.observed, self.dropped + self._held],
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on where one made with the same arguments was saved; what is being tried stays in force meanwhile."""
        self.improver = Improver.restore(saved["improver"], self.improver.terms)
        self._trials = {n: (cohort, np.array(rows, dtype=np.uint32)) for n, cohort, rows in saved["trials"]}
        self._next_ns, self.observed, self.dropped = saved["counts"]

    def _propose(self, finding: Finding, now_ns: int) -> bool:
        """Try the first remedy that the Improver takes and that passes its test; is there one?"""
        for remedy in self._remedies.get(finding.pattern, ()):
            change = remedy(finding, self.improver.in_force)
            if change is not None and not self.improver.refusal(change, now_ns):
                effects = self.improver.propose(change, now_ns)
                self.carry_out(effects, now_ns)
                if any(isinstance(effect, RunTest) and effect.number in self.improver.under_way for effect in effects):
                    return True
        return False

    def carry_out(self, effects: Sequence[Effect], now_ns: int) -> None:
        """Have done what the Improver says: for effects of calls that somebody else made, such as a person's
        proposal."""
        for effect in effects:
            if isinstance(effect, RunTest):
                passed = self._policies.test(effect.change)
                self.carry_out(self.improver.tested(effect.number, passed, now_ns), now_ns)
            elif isinstance(effect, StartCanary):
                cohort, rows = self._policies.start_canary(effect.change, effect.share)
                self._trials[effect.number] = cohort, np.fromiter(rows, dtype=np.uint32)
            elif isinstance(effect, Promote):
                self._trials.pop(effect.number, None)
                self._policies.promote(effect.change)
            elif isinstance(effect, Restore):
                self._trials.pop(effect.number, None)
                self._policies.restore(effect.change, effect.before)

    def _judge(self, traces: Any, now_ns: int) -> None:
        """Scores of both parts of each cohort on which something is tried, a pair a pass."""
        for number, (cohort, rows) in sorted(self._trials.items()):
            own = traces[traces["cohort"] == cohort]
            tried = np.isin(own["row"], rows)
            others = len(np.unique(own["row"][~tried]))
            if not len(rows) or not others:
                continue
            failed = own["outcome"] == FAILED
            if failed[tried].any() and not failed[~tried].any():
                self.carry_out(self.improver.harmed(number, now_ns, "agents failed under it, and no others"), now_ns)
                continue
            passes, at = np.unique(own["pass"], return_inverse=True)
            score = np.asarray(self._score(own), dtype=float)
            canary = np.bincount(at[tried], score[tried], len(passes)) / len(rows)
            control = np.bincount(at[~tried], score[~tried], len(passes)) / others
            effects = self.improver.observe(number, now_ns, canary=canary.tolist(), control=control.tolist())
            self.carry_out(effects, now_ns)


def _reason(finding: Finding) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in finding.facts.items())
    return f"{finding.pattern}: {facts} (p {finding.p:.1g})"
