"""Failures of a fleet of five with twelve planted families of faults, with lessons and without.

``python -m benchmarks.lessons`` counts in a model, without a clock; with ``--families`` on five real nodes (a minute or two).
"""

from __future__ import annotations

import sys

from tests.unit.protocol.lessons.fleet import lines

CALLS = 20_000


def rows(*, families: bool = True) -> None:
    """Print them."""
    print(
        "\nlessons: how often what is known is run into again (at most 1 in 100), and avoided wrongly (at most 1 in 100)"
    )
    for line in lines(CALLS):
        print(line)
    if families:
        from benchmarks import lesson_families, lesson_spread

        lesson_families.report()
        lesson_spread.report()


if __name__ == "__main__":
    rows(families="--families" in sys.argv[1:])
