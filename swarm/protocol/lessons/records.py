"""What became of a lesson: how often it was heeded, how often it was right and wrong, how strong it is, when it is probed.

Heeding a lesson proves nothing: what was avoided might have gone well. So now and then it is not heeded (a half-open circuit breaker;
M. Nygard, "Release It!", 2007, ch. 5). What happens then is evidence, in log-odds: the same failure confirms it, a success refutes
it, and twice as much, so that a wrong lesson dies sooner than it grew. When a probe is due follows from the lesson's
digest and its counts alone, so that every node comes to the same answer, and no two lessons keep step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

PRIOR: Final = 1.0
"""Log-odds of a lesson that was harvested from one failure: right three times out of four."""
CONFIRMED: Final = 1.0
REFUTED: Final = -2.0
EVIDENCE_MAX: Final = 5.0
"""No lesson is so certain that three probes that go well do not end it."""
PROBE_USES: Final = 640
"""Uses between probes of a new lesson; twice as many for each confirmation, up to DOUBLINGS_MAX times. Well above 100, so that
probes that fail stay below one in a hundred."""
DOUBTED_USES: Final = 16
"""Uses until the next probe once one went well."""
DOUBLINGS_MAX: Final = 5
AGE_DOUBLINGS_MAX: Final = 1
"""Time passes for what was confirmed often, too: it is probed after at most twice as long as it was likely to last."""
PROBE_LEASE_MS: Final = 10 * 60_000
"""A probe of which nothing was heard for so long is forgotten, and another may begin."""
COUNT_MAX: Final = 1 << 53
TIME_MS_MAX: Final = 1 << 53


class Evidence(Enum):
    """What an attempt says about a lesson."""

    USED = "used"
    """It was heeded."""
    PROBED = "probed"
    """It is being tried whether it still holds."""
    CONFIRMED = "confirmed"
    """It was not heeded, and what it says happened."""
    REFUTED = "refuted"
    """It was not heeded, and all went well."""
    PASSED = "passed"
    """What it says to wait for is over for now; that it was right before stands."""


class RecordError(ValueError):
    """A record that is malformed; the text says why."""


@dataclass(frozen=True, slots=True)
class Record:
    """Counts and log-odds of one lesson. Times are milliseconds of the fleet's clock.

    Counts only grow, so that they may be kept as counters that are merged; `evidence` is log-odds within EVIDENCE_MAX.
    """

    uses: int = 0
    successes: int = 0
    """How often it was confirmed."""
    failures: int = 0
    """How often it was refuted."""
    probes: int = 0
    evidence: float = 0.0
    evidence_ms: int = 0
    """When there was evidence for the last time, the failure that it came from included."""
    uses_then: int = 0
    """Uses at that time."""
    probing_ms: int = 0
    """Since when a probe is under way; 0: none is."""
    doubted: bool = False
    """Whether the last evidence was against it."""

    @property
    def strength(self) -> float:
        """Log-odds that it holds."""
        return PRIOR + self.evidence

    @property
    def probability(self) -> float:
        """That it holds, 0 to 1."""
        return 1.0 / (1.0 + math.exp(-self.strength))

    @property
    def dead(self) -> bool:
        """Whether it is more likely wrong than right: nobody heeds it any more."""
        return self.strength <= 0.0

    def after(self, evidence: Evidence, now_ms: int) -> Record:
        """The record with one more thing known."""
        match evidence:
            case Evidence.USED:
                return replace(self, uses=min(self.uses + 1, COUNT_MAX))
            case Evidence.PROBED:
                return replace(self, probes=min(self.probes + 1, COUNT_MAX), probing_ms=now_ms)
            case Evidence.PASSED:
                # The count of these since the last failure is what calls are let through by, see `heeding.prepare`.
                return replace(
                    self, uses=min(self.uses + 1, COUNT_MAX), evidence_ms=max(now_ms, self.evidence_ms), doubted=True
                )
            case Evidence.CONFIRMED:
                weight, counts = CONFIRMED, {"successes": min(self.successes + 1, COUNT_MAX)}
            case Evidence.REFUTED:
                weight, counts = REFUTED, {"failures": min(self.failures + 1, COUNT_MAX)}
        value = min(max(self.evidence + weight, -EVIDENCE_MAX), EVIDENCE_MAX)
        return replace(
            self, **counts, evidence=value, evidence_ms=max(now_ms, self.evidence_ms), uses_then=self.uses, probing_ms=0,
            doubted=evidence is Evidence.REFUTED,
        )  # fmt: skip

    def probe_due(self, digest: bytes, lasting_ms: int, now_ms: int) -> bool:
        """Whether this use of the lesson `digest` shall be a probe: it was used so often since there was evidence, or that is so
        long ago that what it says has probably passed (`lasting_ms`, longer for what was confirmed)."""
        if self.dead or (self.probing_ms and now_ms - self.probing_ms < PROBE_LEASE_MS):
            return False
        doublings = 0 if self.doubted else min(max(int(self.evidence), 0), DOUBLINGS_MAX)
        uses = DOUBTED_USES if self.doubted else PROBE_USES << doublings
        age_ms = lasting_ms // 8 if self.doubted else lasting_ms << min(doublings, AGE_DOUBLINGS_MAX)
        # up to a quarter more, other for each lesson and each probe of it
        more = (int.from_bytes(digest[:8], "big") ^ (self.probes * 0x9E3779B97F4A7C15 & (1 << 64) - 1)) >> 48
        uses += (uses * more) >> 18
        age_ms += (age_ms * more) >> 18
        return self.uses - self.uses_then >= uses or now_ms - self.evidence_ms >= age_ms

    def plain(self) -> list[Any]:
        """As plain values."""
        return [
            self.uses, self.successes, self.failures, self.probes, float(self.evidence), self.evidence_ms, self.uses_then, self.probing_ms,
            self.doubted,
        ]  # fmt: skip

    @classmethod
    def read(cls, row: Any) -> Record:
        """From plain values. RecordError for anything else."""
        if type(row) not in (list, tuple) or len(row) != 9:
            raise RecordError("a record is not a list of nine values")
        counts = [*row[:4], *row[5:8]]
        if not all(type(count) is int and 0 <= count <= COUNT_MAX for count in counts):
            raise RecordError("a record's count or time is no whole number of at least 0")
        if type(row[4]) is not float or not abs(row[4]) <= EVIDENCE_MAX or type(row[8]) is not bool or row[6] > row[0]:
            raise RecordError("a record's evidence is out of bounds")
        return cls(*row)
