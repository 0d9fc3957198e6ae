"""What a population does while it runs: a table on standard error that is drawn over itself."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from nodes.cli.screen import table

if TYPE_CHECKING:
    from swarm.nano import Isolated, NanoSwarm, Report

REFRESH_S: Final = 0.5
STEP_MIN_NS: Final = 1_000
SHOWN: Final = 8
"""Alerts, and anomalies, at most: the last ones."""


def live(flock: NanoSwarm | Isolated, seconds: float, passes: int | None) -> None:
    """Run it in steps that take about as long as somebody looks."""
    end_ns = flock.now_ns + round(seconds * 1e9)
    left = passes
    step = 10_000_000 if passes is None else 100
    lines = 0
    mark, drawn = flock.mark(), time.monotonic()
    try:
        while (flock.now_ns < end_ns) if left is None else left > 0:
            began = time.monotonic()
            if left is None:
                flock.run_for(ns=min(step, end_ns - flock.now_ns))
            else:
                made = flock.run_for(passes=min(step, left)).passes
                if not made:
                    return
                left -= made
            took = time.monotonic() - began
            step = max(
                STEP_MIN_NS if left is None else 1, int(step * min(4.0, max(0.25, REFRESH_S / 2 / (took + 1e-6))))
            )
            if time.monotonic() - drawn >= REFRESH_S:
                lines = _draw(screen(flock.report(mark), flock.now_ns), lines)
                mark, drawn = flock.mark(), time.monotonic()
        if not lines:  # over before anybody could look: once, at least
            lines = _draw(screen(flock.report(mark), flock.now_ns), lines)
    finally:
        _draw("", lines)


def screen(report: Report, now_ns: int) -> str:
    """Ticks a second, use of the budget, lateness, jitter and violations, a line a cohort; then alerts and anomalies."""
    rows = []
    for line in report.cohorts:
        mean = line.busy_ns / line.ticks if line.ticks else 0.0
        rows.append((
            line.kind, line.form, f"{line.awake:,}", f"{line.ticks / report.wall_s / 1e6:,.2f} M",
            f"{mean / line.budget_ns:.0%}" if line.budget_ns else "", f"{line.tick_ns.quantile(0.99):.0f} ns",
            f"{line.late_ns.quantile(0.99) / 1e3:.1f} us" if line.late_ns.count else "",
            f"{line.jitter_ns.quantile(0.99) / 1e3:.1f} us" if line.jitter_ns.count else "", f"{line.violations:,}",
        ))  # fmt: skip
    titles = ("KIND", "FORM", "AWAKE>", "TICKS/S>", "BUDGET>", "P99>", "LATE>", "JITTER>", "OVER>")
    said = [f"{now_ns / 1e9:.3f} s, {report.ticks_per_s / 1e6:,.1f} M ticks a second", table(titles, rows)]
    said += [f"alert    {each}" for each in report.alerts[-SHOWN:]]
    said += [f"anomaly  {each}" for each in report.anomalies[-SHOWN:]]
    return "\n".join(said) + "\n"


def _draw(text: str, lines: int) -> int:
    sys.stderr.write(f"\x1b[{lines}F\x1b[J{text}" if lines else text)
    sys.stderr.flush()
    return text.count("\n")
