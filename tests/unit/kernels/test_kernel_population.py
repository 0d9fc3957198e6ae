"""Populations against the readable reference: which rows are handed out, and what is in them."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.population import CAPACITY_MAX, FORMATS, Population
from kernels.reference import population as reference

FIELDS = [("a", "b"), ("x", "d"), ("n", "I"), ("on", "?"), ("h", "H")]
steps = st.lists(
    st.one_of(st.tuples(st.just("claim"), st.integers(0, 9)), st.tuples(st.just("release"), st.integers(0, 24))),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["columns", "rows"]), st.integers(1, 24), steps)
def test_as_the_reference(layout, capacity, what):
    ours, theirs = Population(capacity, FIELDS, layout), reference.Population(capacity, FIELDS)
    views = [memoryview(ours.column(field, 0, capacity)) for field in range(len(FIELDS))]
    for do, number in what:
        if do == "release":
            assert ours.release(number) == theirs.release(number)
            continue
        if number > theirs.capacity - theirs.alive:
            with pytest.raises(OverflowError, match="capacity"):
                ours.claim(number)
            continue
        rows = theirs.claim(number)
        assert list(ours.claim(number)) == rows
        for row in rows:
            assert [view[row] for view in views] == [0] * len(FIELDS), "a row is blank, whoever had it before"
            for view, (_, code) in zip(views, FIELDS, strict=True):
                view[row] = True if code == "?" else 100
    assert (ours.top, ours.alive, ours.free) == (theirs.top, theirs.alive, capacity - theirs.alive)
    for row in range(theirs.top):
        assert (ours.state(row), ours.generation(row)) == (theirs.states[row], theirs.generations[row])
        if theirs.states[row]:
            assert all(view[row] for view in views)


def test_growing_moves_nothing_and_an_array_outlives_the_population():
    population = Population(1_000_000, [("x", "d"), ("v", "d")])
    population.claim(10)
    before = population.address(0)
    column = memoryview(population.column(0))
    population.claim(999_990)
    assert population.address(0) == before
    column[9] = 2.5
    assert ctypes.c_double.from_address(population.address(0, 9)).value == 2.5
    assert memoryview(population.column(0))[9] == 2.5
    del population
    assert column[9] == 2.5


def test_rows_are_aligned_to_lines_and_fields_to_their_size():
    population = Population(4, [("a", "b"), ("x", "d"), ("n", "I")], "rows")
    population.claim(2)
    assert population.address(1) % 64 == 0, "the largest field comes first"
    assert population.address(0, 1) - population.address(0, 0) == 64
    for field, (_, code) in enumerate(population.fields):
        assert population.address(field) % FORMATS[code] == 0


def test_columns_begin_on_lines_of_their_own():
    population = Population(4096, [(f"f{n}", "d") for n in range(20)])
    starts = [population.address(field) for field in range(20)]
    assert all(start % 64 == 0 for start in starts)
    assert len({start % 4096 for start in starts}) == 16, "columns do not share the sets of a cache"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0, [("x", "d")]), "capacity of 0"),
        ((CAPACITY_MAX + 1, [("x", "d")]), "capacity"),
        ((5, [("x", "z")]), "format 'z'"),
        ((5, []), "0 fields"),
        ((5, [("x", "d")], "tables"), "layout 'tables'"),
    ],
)
def test_what_is_wrong_is_said(arguments, match):
    with pytest.raises(ValueError, match=match):
        Population(*arguments)


def test_bounds_of_columns_and_restoring():
    population = Population(8, [("x", "d")])
    population.claim(3)
    for wrong in ((1,), (0, 2, 1), (0, 0, 9)):
        with pytest.raises(IndexError):
            population.column(*wrong)
    with pytest.raises(ValueError, match="never used"):
        population.restore(b"\1", b"\0\0\0\0")
    fresh = Population(2, [("x", "d")])
    with pytest.raises(ValueError, match="capacity"):
        fresh.restore(b"\1\1\1", bytes(12))
    with pytest.raises(ValueError, match="unknown state"):
        fresh.restore(b"\7", bytes(4))
    assert fresh.top == 0
    fresh.restore(b"\1\0", bytes([0, 0, 0, 0, 5, 0, 0, 0]))
    assert (fresh.alive, list(fresh.claim(1)), fresh.generation(1)) == (1, [1], 5)
