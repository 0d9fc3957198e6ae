"""Twin of :mod:`kernels.decay`: weights that halve in 50 idle cycles, in the order of operations of decay.h."""

from __future__ import annotations

import math
import struct
from collections.abc import MutableSequence, Sequence

HALF_LIFE = 50


COEFFICIENTS = tuple(
    map(
        float.fromhex,
        (
            "0x1.fb9f463d9eac8p-48", "-0x1.ad9f8bac7d2f5p-39", "0x1.2d3105e86ddb4p-30", "-0x1.5378e4348b1f5p-22",
            "0x1.1ef841ea022eap-14", "-0x1.4371f8852616ap-7", "0x1.6c8e8db9f3aaep-1",
        ),
    )
)  # fmt: skip
"""Of the polynomial through 2 ** (-(t + 24.5) / 50) at seven Chebyshev nodes, the highest first."""


def single(value: float) -> float:
    """A double as the single precision number nearest to it."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def weight(strength: float, used: int, cycle: int) -> float:
    """The weight in a cycle of what was so strong when it was last used."""
    halvings, rest = divmod(max(0, cycle - used), HALF_LIFE)
    t, factor = rest - 24.5, COEFFICIENTS[0]
    for coefficient in COEFFICIENTS[1:]:
        factor = factor * t + coefficient
    return single(single(single(strength) * factor) * (math.ldexp(1.0, -halvings) if halvings < 127 else 0.0))


def weigh(strength: Sequence[float], used: Sequence[int], cycle: int, out: MutableSequence[float]) -> None:
    """Write the weight of every row in a cycle."""
    for row in range(len(strength)):
        out[row] = weight(strength[row], used[row], cycle)


def faded(
    strength: Sequence[float],
    used: Sequence[int],
    cycle: int,
    threshold: float,
    rows: MutableSequence[int],
    first: int = 0,
) -> tuple[int, int]:
    """The rows from `first` on that weigh less than the threshold, until `rows` is full: how many, and where to go on."""
    found, row = 0, first
    while row < len(strength) and found < len(rows):
        if weight(strength[row], used[row], cycle) < single(threshold):
            rows[found] = row
            found += 1
        row += 1
    return found, row
