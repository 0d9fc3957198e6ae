"""Twin of :mod:`kernels.motions`: one step of columns x and v, in the order of operations of motions.h."""

from __future__ import annotations

from collections.abc import MutableSequence

STEP = 1e-3
Column = MutableSequence[float]


def move(x: Column, v: Column, rows: range | list[int]) -> None:
    """What moves freely."""
    for row in rows:
        x[row] = x[row] + v[row] * STEP


def oscillate(x: Column, v: Column, rows: range | list[int]) -> None:
    """A damped oscillator, semi-implicit Euler."""
    for row in rows:
        v[row] = v[row] - (x[row] + v[row] * 0.125) * STEP
        x[row] = x[row] + v[row] * STEP
