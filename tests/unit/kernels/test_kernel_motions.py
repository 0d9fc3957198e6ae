"""Every level of the ready-made ticks gives the bits of the reference; the level is the processor's, or a lower one asked for."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import motions
from kernels.passes import TICKS
from kernels.reference import motions as reference

TICK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p
)
# subnormal numbers, infinities and signed zeros too; what a NaN's bits are is left to the processor
NUMBERS = st.lists(st.floats(allow_nan=False), min_size=0, max_size=70)
WORKED = 1


def run(address: int, x: array, v: array, rows: array | None) -> None:
    columns = (ctypes.c_void_p * 2)(x.buffer_info()[0], v.buffer_info()[0])
    idx, n = (None, len(x)) if rows is None else (rows.buffer_info()[0], len(rows))
    assert TICK(address)(columns, idx, n, 0, None) == WORKED


def bits(column: array) -> list[int | None]:
    """None for NaN."""
    return [None if value != value else word for value, word in zip(column, array("Q", column.tobytes()))]


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.randoms(use_true_random=False), st.sampled_from(motions.NAMES), st.booleans())
def test_every_level_gives_the_bits_of_the_reference(numbers, random, name, some):
    v = [random.choice(numbers) for _ in numbers]
    rows = array("I", sorted(random.sample(range(len(v)), len(v) // 2))) if some else None
    expected = array("d", numbers), array("d", v)
    getattr(reference, name)(*expected, range(len(v)) if rows is None else list(rows))
    for level in motions.LEVELS:
        found = array("d", numbers), array("d", v)
        run(motions.tick_many(name, level), *found, rows)
        assert [bits(column) for column in found] == [bits(column) for column in expected], level


@pytest.mark.parametrize("rows", [2047, 2048, 2049, 3072, 5000])
@pytest.mark.parametrize("name", motions.NAMES)
def test_blocks_of_rows_come_each_once_forth_and_back(name, rows):
    start = array("d", (0.25 * row for row in range(rows))), array("d", (1.0 / (row + 1) for row in range(rows)))
    expected = array("d", start[0]), array("d", start[1])
    for _ in range(3):
        getattr(reference, name)(*expected, range(rows))
    for level in motions.LEVELS:
        x, v = array("d", start[0]), array("d", start[1])
        columns = (ctypes.c_void_p * 2)(x.buffer_info()[0], v.buffer_info()[0])
        for number in (1, 2, 3):  # the pass stands behind two words of 32 bits in nano_ctx
            ctx = (ctypes.c_uint64 * 16)(0, number)
            assert TICK(motions.tick_many(name, level))(columns, None, rows, 0, ctypes.addressof(ctx)) == WORKED
        assert (bits(x), bits(v)) == (bits(expected[0]), bits(expected[1])), level


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="no motion 'fly'"):
        motions.tick_many("fly")
    with pytest.raises(ValueError, match="no level 'avx9' on this processor"):
        motions.tick_many("move", "avx9")


@pytest.mark.parametrize("asked", [*motions.LEVELS, "avx9", ""])
def test_a_lower_level_can_be_asked_for(asked):
    said = subprocess.run(
        [sys.executable, "-c", "from kernels import motions; print(motions.LEVEL)"],
        env={**os.environ, "NANO_CPU": asked}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert said.stdout.strip() == (asked if asked in motions.LEVELS else motions.LEVELS[-1])


def test_the_schedules_ready_made_tick_is_of_the_level_in_use():
    assert motions.LEVEL in motions.LEVELS
    x, v = array("d", [1.0] * 9), array("d", [2.0] * 9)
    run(TICKS["move_many"], x, v, None)
    assert list(x) == [1.0 + 2.0 * 1e-3] * 9
