"""What ticks left behind, as an array, and the patterns in it: where budgets are overrun, by whom, when and beside
whom.

Each pattern is a significance test of counts against what chance would give, so on traces without a pattern little
is found: of all looks at which nothing was there, at most the part `error` finds something (Bonferroni over all
that was looked at). The tests take ticks as independent of each other; where one cause overruns many ticks at once,
what is found is that they go together, which is the finding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FAILED = 3
TRACE = np.dtype(
    [
        ("now_ns", "<u8"),
        ("pass", "<u8"),
        ("cohort", "<u4"),
        ("row", "<u4"),
        ("cost_ns", "<u8"),
        ("outcome", "u1"),
        ("violated", "u1"),
    ]
)
"""One tick: its instant and pass, whose it was, what it cost, what it came to (`nano.h`), whether it was over its
budget."""

PATTERNS = ("failing rows", "overrunning rows", "in turn", "beside", "dearer", "overrun", "failing")
"""By what they explain, the most special first."""
PERIOD_MAX = 64
EFFECT = 0.5  # of the way from what chance would give to all of it, below which nothing is called a pattern
DEARER = 1.25  # by which a cost must have risen


@dataclass(frozen=True, slots=True)
class Finding:
    """A pattern in the ticks of a cohort; `p` bounds the probability of finding one where there is none."""

    pattern: str
    cohort: int
    p: float
    facts: Mapping[str, Any] = field(default_factory=dict)


def binomial_tail(k: int, n: int, p: float) -> float:
    """The probability of k or more successes in n trials of probability p each, exact but for rounding."""
    if k <= 0 or p >= 1:
        return 1.0
    if k > n or p <= 0:
        return 0.0
    first = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
    )
    if k < n * p:
        # the terms rise before they fall: take the shorter way round
        return max(0.0, 1.0 - _lower(k - 1, n, p))
    term = total = 1.0
    for i in range(k, n):
        term *= (n - i) / (i + 1) * p / (1 - p)
        total += term
        if term < 1e-17 * total:
            break
    return min(1.0, math.exp(first) * total)


def _lower(k: int, n: int, p: float) -> float:
    """The probability of k or fewer, where k is below the mean."""
    return binomial_tail(n - k, n, 1 - p)


def greater(later: Any, earlier: Any) -> float:
    """The probability, where both come from one distribution, that `later` ranks as high or higher (Mann and
    Whitney's U, normal approximation with ties)."""
    both = np.concatenate([earlier, later])
    order, counts = np.unique(both, return_inverse=True, return_counts=True)[1:]
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[order]
    m, n = len(later), len(earlier)
    u = float(ranks[n:].sum()) - m * (m + 1) / 2
    ties = float((counts.astype(float) ** 3 - counts).sum())
    variance = m * n / 12 * ((m + n + 1) - ties / ((m + n) * (m + n - 1)))
    return 0.5 * math.erfc((u - m * n / 2 - 0.5) / math.sqrt(2 * variance)) if variance > 0 else 1.0


def patterns(traces: Any, *, tolerated: float = 0.01, error: float = 0.01, least: int = 200) -> list[Finding]:
    """The patterns in an array of TRACE, by cohort, and of one cohort the most special first.

    tolerated: part of a cohort's ticks that may be over budget, or fail, without anything being found; least: ticks
    below which a cohort is not looked at.
    """
    found: list[Finding] = []
    cohorts = np.unique(traces["cohort"])
    for cohort in cohorts:
        own = traces[traces["cohort"] == cohort]
        if len(own) < least:
            continue
        looks = list(_looks(own, traces, tolerated))
        limit = error / max(1, len(cohorts))
        kept = [Finding(name, int(cohort), p, facts) for name, p, facts in looks if p * len(PATTERNS) <= limit]
        found += sorted(kept, key=lambda finding: PATTERNS.index(finding.pattern))
    return found


def _looks(own: Any, traces: Any, tolerated: float) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Each pattern's p, corrected for how many places it was looked for in, and what was seen."""
    n = len(own)
    violated, failed = own["violated"] != 0, own["outcome"] == FAILED
    k = int(violated.sum())
    for name, rows, which in (("failing", "failing rows", failed), ("overrun", "overrunning rows", violated)):
        times = int(which.sum())
        seen = {"ticks": n, "times": times, "cost_p50_ns": int(np.median(own["cost_ns"]))}
        over = binomial_tail(times, n, tolerated)
        yield name, over, seen
        if over < 1e-3:
            yield from _rows(rows, own, which, times)
    if k > n * tolerated:
        yield from _in_turn(own, violated, k)
        yield from _beside(own, violated, traces)
    third = n // 3
    if third >= 20:
        early, late = own["cost_ns"][:third], own["cost_ns"][-third:]
        was, now = float(np.median(early)), float(np.median(late))
        if now >= DEARER * was:
            yield "dearer", greater(late, early), {"was_p50_ns": int(was), "cost_p50_ns": int(now), "ticks": n}


def _rows(name: str, own: Any, which: Any, times: int) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """A few rows do it: each of them more often than its part of the ticks would have it, most of it together."""
    rows, where, ticks = np.unique(own["row"], return_inverse=True, return_counts=True)
    if len(rows) < 2:
        return
    by_row = np.bincount(where[which], minlength=len(rows))
    suspects, worst = [], 0.0
    for at in np.argsort(-by_row, kind="stable")[: max(1, len(rows) // 4)]:
        share = ticks[at] / len(own)
        p = binomial_tail(int(by_row[at]), times, share) * len(rows)
        if p > 1e-4:
            break
        suspects.append(at)
        worst = max(worst, p)
    part = float(by_row[suspects].sum() / times)
    if suspects and _much(part, float(ticks[suspects].sum() / len(own))):
        yield name, worst, {"rows": sorted(int(rows[at]) for at in suspects), "part": part, "times": times}


def _much(part: float, share: float) -> bool:
    return part - share >= EFFECT * (1 - share)


def _in_turn(own: Any, violated: Any, k: int) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Every m-th pass: the overruns fall on one remainder of the pass number."""
    best: tuple[float, int, int, float] | None = None
    asked = 0
    for period in range(2, PERIOD_MAX + 1):
        remainders = (own["pass"] % period).astype(np.int64)
        ticks, hits = np.bincount(remainders, minlength=period), np.bincount(remainders[violated], minlength=period)
        asked += period
        at = int(np.argmax(hits))
        share = ticks[at] / len(own)
        if _much(hits[at] / k, share):
            p = binomial_tail(int(hits[at]), k, share)
            if best is None or p < best[0]:
                best = p, period, at, float(hits[at] / k)
    if best is not None:
        yield "in turn", min(1.0, best[0] * asked), {"period": best[1], "pass": best[2], "part": best[3], "times": k}


def _beside(own: Any, violated: Any, traces: Any) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """In passes in which another cohort ticks, too."""
    passes = np.unique(own["pass"])
    bad = np.unique(own["pass"][violated])
    others = [cohort for cohort in np.unique(traces["cohort"]) if cohort != own["cohort"][0]]
    for other in others:
        ran = np.unique(traces["pass"][traces["cohort"] == other])
        share = float(np.isin(passes, ran).mean())
        both = int(np.isin(bad, ran).sum())
        if 0.01 < share < 0.99 and _much(both / len(bad), share):
            p = binomial_tail(both, len(bad), share) * len(others)
            yield (
                "beside",
                min(1.0, p),
                {"other": int(other), "part": both / len(bad), "share": share, "times": len(bad)},
            )
