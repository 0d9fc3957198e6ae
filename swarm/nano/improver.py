"""The way of every change that a system makes to itself: propose, test, canary, promote or roll back, on record.

A state machine without clock, randomness or effects of its own: each call takes the present instant and returns
what is to be done (`RunTest`, `StartCanary`, `Promote`, `Restore`) and what is to be recorded (`Entry`). Who owns
it carries that out: a critic of one population, a node that tunes a knob, a fleet that takes a new policy into use.

A change is judged by pairs of scores, one from the part on which the change is tried (the canary), one from the
rest (the control), by a confidence sequence for the mean of their differences: an interval that holds at all times
at once, so one may look after each pair and stop when it is decided, which makes an ordinary test's error rate void
(Johari, Koomen, Pekelis and Walsh, "Peeking at A/B tests", KDD 2017). The interval is the asymptotic one of
Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences" (Annals of Statistics, 2024).

What it is not: it does not search for changes, does not run anything, and knows nothing of causes. A score that
measures the wrong thing promotes the wrong change, with 95 % confidence.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

RECORD_MAX = 10_000  # entries kept in memory; each is also returned, for who keeps them for good
WAITING_MAX = 4096  # scores of one arm that wait for their counterpart
COOLING_MAX = 10_000  # changes remembered as not wanted


class Stage(StrEnum):
    """Where a change is."""

    TESTING = "testing"
    CANARY = "canary"
    PROMOTED = "promoted"
    REJECTED = "rejected"  # never in force: refused, or its test failed
    ROLLED_BACK = "rolled back"  # was in force somewhere, is no longer


NEXT: Mapping[Stage | None, frozenset[Stage]] = {
    None: frozenset({Stage.TESTING, Stage.REJECTED}),
    Stage.TESTING: frozenset({Stage.CANARY, Stage.REJECTED}),
    Stage.CANARY: frozenset({Stage.PROMOTED, Stage.ROLLED_BACK}),
    Stage.PROMOTED: frozenset({Stage.ROLLED_BACK}),
    Stage.REJECTED: frozenset(),
    Stage.ROLLED_BACK: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """How changes are judged. ValueError when that is not possible."""

    share: float = 0.1
    """Part of the population on which a change is tried."""
    error: float = 0.05
    """Probability of promoting a change that is no better than margin allows, or rolling back one that is."""
    margin: float = 0.0
    """How much worse, in units of the score, a change may be: 0 promotes only what is shown to be better."""
    pairs_min: int = 30
    """Pairs of scores before anything is decided; the interval is asymptotic."""
    higher_is_better: bool = True
    test_timeout_ns: int = 60_000_000_000
    canary_timeout_ns: int = 600_000_000_000
    cooldown_ns: int = 3_600_000_000_000
    """What failed is not tried again before this is over."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"a canary's share is between 0 and 1, not {self.share}")
        if not 0 < self.error < 1:
            raise ValueError(f"an error probability is between 0 and 1, not {self.error}")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"a margin is not negative and finite, not {self.margin}")
        if self.pairs_min < 2:
            raise ValueError(f"pairs_min is at least 2, not {self.pairs_min}")
        if min(self.test_timeout_ns, self.canary_timeout_ns) <= 0 or self.cooldown_ns < 0:
            raise ValueError("a timeout is more than 0 ns, a cool-down not less")


@dataclass(frozen=True, slots=True)
class Change:
    """A wish: this value for this subject, for this reason, by this author. Values are compared by their repr()."""

    subject: str
    value: Any
    reason: str
    author: str


@dataclass(frozen=True, slots=True)
class RunTest:
    """Test it apart from everything (a unit test, a simulation, a replay), then call `Improver.tested`."""

    number: int
    change: Change


@dataclass(frozen=True, slots=True)
class StartCanary:
    """Put it in force on that share, then report scores of both parts to `Improver.observe`."""

    number: int
    change: Change
    share: float


@dataclass(frozen=True, slots=True)
class Promote:
    """Put it in force everywhere."""

    number: int
    change: Change


@dataclass(frozen=True, slots=True)
class Restore:
    """Put `before` back wherever the change is in force."""

    number: int
    change: Change
    before: Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the record: this change came to this stage at this instant, for this reason."""

    number: int
    now_ns: int
    change: Change
    stage: Stage
    reason: str
    facts: Mapping[str, float | int | str] = field(default_factory=dict)


Effect = RunTest | StartCanary | Promote | Restore | Entry


class MeanOverTime:
    """A confidence sequence for a mean: with probability 1 - error its interval holds the mean at every instant at
    once.

    Asymptotic (theorem 2.2 of Waudby-Smith et al.): for finite variance, from some tens of values on where their
    distribution is nearly symmetric, as differences of pairs are, from more on where it is skewed. Narrowest near
    `tuned` values; equal values have no width.
    """

    __slots__ = ("_rho2", "_squares", "count", "error", "mean")

    def __init__(self, error: float, tuned: int = 100) -> None:
        self.error = error
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0
        spread = -2 * math.log(error)
        self._rho2 = (spread + math.log(spread + 1)) / tuned

    def add(self, value: float) -> None:
        """One more value (Welford's update)."""
        self.count += 1
        off = value - self.mean
        self.mean += off / self.count
        self._squares += off * (value - self.mean)

    def bounds(self) -> tuple[float, float]:
        """The interval, as it is now; everything while there are fewer than 2 values."""
        n = self.count
        if n < 2:
            return -math.inf, math.inf
        weight = n * self._rho2 + 1
        reach = math.sqrt(
            self._squares / (n - 1) * 2 * weight / (n * n * self._rho2) * math.log(math.sqrt(weight) / self.error)
        )
        return self.mean - reach, self.mean + reach

    def save(self) -> list[float]:
        """What `restore` takes."""
        return [self.count, self.mean, self._squares]

    def restore(self, saved: Iterable[float]) -> None:
        """Go on from there."""
        count, self.mean, self._squares = saved
        self.count = int(count)


class _Open:
    """A change under way."""

    __slots__ = ("canary", "change", "control", "differences", "ends_ns", "lost", "stage")

    def __init__(self, change: Change, error: float, ends_ns: int) -> None:
        self.change = change
        self.stage = Stage.TESTING
        self.ends_ns = ends_ns
        self.differences = MeanOverTime(error)
        self.canary: deque[float] = deque(maxlen=WAITING_MAX)
        self.control: deque[float] = deque(maxlen=WAITING_MAX)
        self.lost = 0


class Improver:
    """Takes changes of the subjects in `in_force` their way, one at a time for each subject.

    Instants are integers, ns, of any clock that does not go back. A call for a number that is no longer under way
    returns no effects: reports may cross with a timeout.
    """

    def __init__(self, in_force: Mapping[str, Any], terms: Terms | None = None) -> None:
        self.terms = terms or Terms()
        self.in_force: dict[str, Any] = dict(in_force)
        """What holds everywhere, for each subject. A canary is not in it."""
        self.record: deque[Entry] = deque(maxlen=RECORD_MAX)
        self._numbers = 0
        self._open: dict[int, _Open] = {}
        self._busy: dict[str, int] = {}
        self._cooling: dict[tuple[str, str], int] = {}
        self._before: dict[str, tuple[int, Change, Any]] = {}

    @property
    def under_way(self) -> dict[int, Stage]:
        """The numbers of the changes under way, and where they are."""
        return {number: case.stage for number, case in self._open.items()}

    def next_ns(self) -> int | None:
        """When `tick` has something to do at the latest; None while nothing is under way."""
        return min((case.ends_ns for case in self._open.values()), default=None)

    def propose(self, change: Change, now_ns: int) -> list[Effect]:
        """A wish comes in: its test is asked for, or it is rejected with a reason."""
        number = self._numbers = self._numbers + 1
        refusal = self.refusal(change, now_ns)
        if refusal:
            return [self._entry(number, change, None, Stage.REJECTED, refusal, now_ns)]
        self._open[number] = _Open(change, self.terms.error, now_ns + self.terms.test_timeout_ns)
        self._busy[change.subject] = number
        return [self._entry(number, change, None, Stage.TESTING, change.reason, now_ns), RunTest(number, change)]

    def refusal(self, change: Change, now_ns: int) -> str:
        """Why it would be rejected if it were proposed now; "" when it would be tested. Asking leaves no record."""
        if change.subject not in self.in_force:
            return f"there is no {change.subject!r}"
        if repr(change.value) == repr(self.in_force[change.subject]):
            return "it is in force"
        if change.subject in self._busy:
            return f"change {self._busy[change.subject]} of it is under way"
        if self._cooling.get(_key(change), now_ns) > now_ns:
            return "it failed a short while ago"
        return ""

    def tested(self, number: int, passed: bool, now_ns: int, reason: str = "") -> list[Effect]:
        """How its test ended."""
        case = self._open.get(number)
        if case is None or case.stage is not Stage.TESTING:
            return []
        if not passed:
            return self._end(number, Stage.REJECTED, reason or "its test failed", now_ns)
        case.stage = Stage.CANARY
        case.ends_ns = now_ns + self.terms.canary_timeout_ns
        return [
            self._entry(number, case.change, Stage.TESTING, Stage.CANARY, reason or "its test passed", now_ns),
            StartCanary(number, case.change, self.terms.share),
        ]

    def observe(
        self, number: int, now_ns: int, *, canary: Iterable[float] = (), control: Iterable[float] = ()
    ) -> list[Effect]:
        """Scores of both parts, in the order in which they were made; decides as soon as it can be decided.

        The n-th score of the one is paired with the n-th of the other, so what moves both (load, time of day)
        cancels. A score of the canary that is not a finite number ends it; one of the control is left out.
        """
        case = self._open.get(number)
        if case is None or case.stage is not Stage.CANARY:
            return []
        for score in canary:
            if not math.isfinite(score):
                return self._end(number, Stage.ROLLED_BACK, f"the canary's score was {score}", now_ns)
            case.lost += len(case.canary) == WAITING_MAX
            case.canary.append(score)
        for score in control:
            if math.isfinite(score):
                case.lost += len(case.control) == WAITING_MAX
                case.control.append(score)
        sign = 1.0 if self.terms.higher_is_better else -1.0
        while case.canary and case.control:
            case.differences.add(sign * (case.canary.popleft() - case.control.popleft()))
            if case.differences.count >= self.terms.pairs_min:
                low, high = case.differences.bounds()
                if low > -self.terms.margin:
                    return self._end(number, Stage.PROMOTED, "better" if low > 0 else "not worse", now_ns)
                if high < -self.terms.margin:
                    return self._end(number, Stage.ROLLED_BACK, "worse", now_ns)
        return []

    def harmed(self, number: int, now_ns: int, reason: str) -> list[Effect]:
        """Something that must not happen happened under the canary: back at once, without statistics."""
        case = self._open.get(number)
        if case is None:
            return []
        ended = Stage.ROLLED_BACK if case.stage is Stage.CANARY else Stage.REJECTED
        return self._end(number, ended, reason, now_ns)

    def revert(self, subject: str, now_ns: int, reason: str) -> list[Effect]:
        """Undo the last promotion of a subject; nothing when there is none. A canary of it under way is rolled back
        first."""
        effects: list[Effect] = []
        if subject in self._busy:
            effects += self.harmed(self._busy[subject], now_ns, reason)
        if subject in self._before:
            number, change, before = self._before.pop(subject)
            self.in_force[subject] = before
            self._cool(change, now_ns)
            effects.append(self._entry(number, change, Stage.PROMOTED, Stage.ROLLED_BACK, reason, now_ns))
            effects.append(Restore(number, change, before))
        return effects

    def tick(self, now_ns: int) -> list[Effect]:
        """End what took too long: who is silent is not promoted."""
        effects: list[Effect] = []
        for number in sorted(self._open):
            case = self._open[number]
            if case.ends_ns <= now_ns:
                if case.stage is Stage.TESTING:
                    effects += self._end(number, Stage.REJECTED, "its test did not end in time", now_ns)
                else:
                    effects += self._end(number, Stage.ROLLED_BACK, "not decided in time", now_ns)
        self._cooling = {key: ends for key, ends in self._cooling.items() if ends > now_ns}
        return effects

    def save(self) -> dict[str, Any]:
        """Everything that is not in the record, as plain values if those of the subjects are."""
        return {
            "numbers": self._numbers,
            "in_force": dict(self.in_force),
            "cooling": [[*key, ends] for key, ends in self._cooling.items()],
            "before": [[subject, n, _plain(change), old] for subject, (n, change, old) in self._before.items()],
            "open": [
                {
                    "number": n,
                    "change": _plain(case.change),
                    "stage": str(case.stage),
                    "ends_ns": case.ends_ns,
                    "lost": case.lost,
                    "differences": case.differences.save(),
                    "canary": list(case.canary),
                    "control": list(case.control),
                }
                for n, case in self._open.items()
            ],
        }

    @classmethod
    def restore(cls, saved: Mapping[str, Any], terms: Terms | None = None) -> Improver:
        """Go on where another one was saved."""
        self = cls(saved["in_force"], terms)
        self._numbers = saved["numbers"]
        self._cooling = {(subject, value): ends for subject, value, ends in saved["cooling"]}
        self._before = {subject: (n, Change(*change), old) for subject, n, change, old in saved["before"]}
        for one in saved["open"]:
            case = self._open[one["number"]] = _Open(Change(*one["change"]), self.terms.error, one["ends_ns"])
            case.stage, case.lost = Stage(one["stage"]), one["lost"]
            case.differences.restore(one["differences"])
            case.canary.extend(one["canary"])
            case.control.extend(one["control"])
            self._busy[case.change.subject] = one["number"]
        return self

    def _end(self, number: int, stage: Stage, reason: str, now_ns: int) -> list[Effect]:
        case = self._open.pop(number)
        change = case.change
        del self._busy[change.subject]
        facts: dict[str, float | int | str] = {}
        if case.stage is Stage.CANARY:
            low, high = case.differences.bounds()
            facts = {"pairs": case.differences.count, "better_by": case.differences.mean, "low": low, "high": high}
            if case.lost:
                facts["lost"] = case.lost
        effects: list[Effect] = [self._entry(number, change, case.stage, stage, reason, now_ns, facts)]
        if stage is Stage.PROMOTED:
            self._before[change.subject] = number, change, self.in_force[change.subject]
            self.in_force[change.subject] = change.value
            return [*effects, Promote(number, change)]
        self._cool(change, now_ns)
        if stage is Stage.ROLLED_BACK:
            effects.append(Restore(number, change, self.in_force[change.subject]))
        return effects

    def _cool(self, change: Change, now_ns: int) -> None:
        if len(self._cooling) >= COOLING_MAX:
            del self._cooling[min(self._cooling, key=lambda key: (self._cooling[key], key))]
        self._cooling[_key(change)] = now_ns + self.terms.cooldown_ns

    def _entry(
        self,
        number: int,
        change: Change,
        was: Stage | None,
        stage: Stage,
        reason: str,
        now_ns: int,
        facts: Mapping[str, float | int | str] | None = None,
    ) -> Entry:
        assert stage in NEXT[was], f"{was} -> {stage}"
        entry = Entry(number, now_ns, change, stage, reason, facts or {})
        self.record.append(entry)
        return entry


def _key(change: Change) -> tuple[str, str]:
    return change.subject, repr(change.value)


def _plain(change: Change) -> list[Any]:
    return [change.subject, change.value, change.reason, change.author]
