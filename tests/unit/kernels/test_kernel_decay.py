"""Weights that halve in 50 idle cycles: the formula, its twin, and every level of the processor."""

from __future__ import annotations

from array import array
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import decay
from kernels.reference import decay as reference

CYCLES = st.integers(0, 2**32 - 1)
STRENGTHS = st.floats(0, 1e6, width=32)
ROWS = st.lists(st.tuples(STRENGTHS, CYCLES | st.integers(0, 5000)), max_size=70)


def columns(rows: list[tuple[float, int]]) -> tuple[array[float], array[int]]:
    return array("f", [strength for strength, _ in rows]), array("I", [used for _, used in rows])


@given(ROWS, CYCLES | st.integers(0, 5000))
def test_every_level_gives_the_bits_of_the_twin(rows: list[tuple[float, int]], cycle: int) -> None:
    strength, used = columns(rows)
    expected = array("f", bytes(4 * len(rows)))
    reference.weigh(strength, used, cycle, expected)
    for level in (None, *decay.LEVELS):
        out = array("f", bytes(4 * len(rows)))
        decay.weigh(strength, used, cycle, out, level)
        assert out.tobytes() == expected.tobytes()
    assert [decay.weight(*row, cycle) for row in rows] == expected.tolist()


def test_long_columns_are_weighed_as_short_ones_are() -> None:
    """In blocks, and what is left over; every idle time that leaves something, and those around where nothing is left."""
    idle = [*range(6500), 2**31 - 1, 2**31, 2**32 - 1]
    cycle = 2**32 - 1
    strength, used = columns([((-1.0) ** each * (each % 97 + 0.1), cycle - each) for each in idle])
    expected = array("f", bytes(4 * len(idle)))
    reference.weigh(strength, used, cycle, expected)
    for rows in (len(idle), 64, 63, 65, 128):
        for level in decay.LEVELS:
            out = array("f", bytes(4 * rows))
            decay.weigh(strength[:rows], used[:rows], cycle, out, level)
            assert out.tobytes() == expected[:rows].tobytes()


@given(st.floats(2.0**-60, 1e6, width=32), st.integers(0, 3000), st.integers(0, 2**31))
def test_a_weight_is_that_of_the_formula_to_the_last_bit_of_single_precision(
    strength: float, idle: int, used: int
) -> None:
    with localcontext() as context:
        context.prec = 50
        exact = Decimal(strength) * Decimal(2) ** (Decimal(-idle) / decay.HALF_LIFE)
        found = Decimal(decay.weight(strength, used, used + idle))
        assert abs(found - exact) <= exact * Decimal(2) ** -23


def test_fifty_idle_cycles_halve_exactly_and_the_future_has_not_decayed() -> None:
    assert decay.HALF_LIFE == reference.HALF_LIFE == 50
    for halvings in range(30):
        assert decay.weight(0.75, 7, 7 + 50 * halvings) == 0.75 / 2**halvings
    assert decay.weight(0.75, 8, 7) == 0.75
    assert decay.weight(1.0, 0, 2**32 - 1) == 0.0


@given(ROWS, st.integers(0, 5000), st.floats(0, 2, width=32), st.integers(0, 80))
def test_what_faded_is_found_in_parts_as_in_one_go(
    rows: list[tuple[float, int]], cycle: int, threshold: float, room: int
) -> None:
    strength, used = columns(rows)
    expected = [row for row, each in enumerate(rows) if reference.weight(*each, cycle) < threshold]
    found: list[int] = []
    first = 0
    while first < len(rows):
        into = array("I", bytes(4 * (room + 1)))
        count, following = decay.faded(strength, used, cycle, threshold, into, first)
        twin = [0] * (room + 1)
        assert reference.faded(strength, used, cycle, threshold, twin, first) == (count, following)
        assert twin[:count] == into.tolist()[:count]
        found += into.tolist()[:count]
        first = following
    assert found == expected


def test_what_faded_is_found_over_more_than_a_block() -> None:
    strength, used = array("f", [1.0]) * 5000, array("I", [row % 200 for row in range(5000)])
    expected = [row for row in range(5000) if row % 200 < 50]
    rows = array("I", bytes(4 * 5000))
    assert decay.faded(strength, used, 200, 2.0**-3, rows) == (len(expected), 5000)
    assert rows.tolist()[: len(expected)] == expected
    assert decay.faded(strength, used, 200, 2.0**-3, rows[:300]) == (300, expected[299] + 1)


def test_columns_that_do_not_fit_are_refused() -> None:
    one, two = columns([(1.0, 1)]), columns([(1.0, 1)] * 2)
    with pytest.raises(ValueError, match="1 strengths and 2 cycles"):
        decay.weigh(one[0], two[1], 5, one[0])
    with pytest.raises(ValueError, match="output of 1"):
        decay.weigh(*two, 5, array("f", [0.0]))
    with pytest.raises(ValueError, match="no level"):
        decay.weigh(*one, 5, array("f", [0.0]), "avx9")
    with pytest.raises(IndexError):
        decay.faded(*one, 5, 0.5, array("I", [0]), 2)
    with pytest.raises(OverflowError):
        decay.weight(1.0, 0, 2**32)
