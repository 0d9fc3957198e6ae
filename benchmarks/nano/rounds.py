"""Rounds that alternate between what is compared, and rows that tell how far from its line a figure is."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from benchmarks.fleet import line

ROUNDS = 15


def interleaved(ways: dict[str, Callable[[], float]], rounds: int = ROUNDS, warm: int = 1) -> dict[str, float]:
    """The median of what each way returned, called in turn; the first `warm` rounds are thrown away."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warm + rounds):
        for name, way in ways.items():
            value = way()
            if number >= warm:
                found[name].append(value)
    return {name: median(values) for name, values in found.items()}


def at_most(what: str, value: str, ratio: float, limit: float, of: str = "") -> None:
    """A row whose ratio should not be above a line."""
    line(what, value, f"{ratio:.2f} x{of} ({'' if ratio <= limit else '! '}<= {limit:g})")


def at_least(what: str, value: str, ratio: float, limit: float, of: str = "") -> None:
    """A row whose ratio should not be below a line."""
    line(what, value, f"{ratio:.2f} x{of} ({'' if ratio >= limit else '! '}>= {limit:g})")
