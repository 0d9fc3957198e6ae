"""The random numbers are those of the paper, and of the reference."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import draws
from kernels.reference import draws as reference

WORD = st.integers(0, 2**32 - 1)
WIDE = st.integers(0, 2**64 - 1)
SHORT = st.integers(0, 2**16 - 1)


@pytest.mark.parametrize(
    ("line"),
    [  # "philox4x32 10" of kat_vectors, distributed by the authors as a part of Random123
        "00000000 00000000 00000000 00000000 00000000 00000000   6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff   408f276d 41c83b0e a20bc7c6 6d5451fd",
        "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0   d16cfe09 94fdcceb 5001e420 24126ea1",
    ],
)
@pytest.mark.parametrize("module", [draws, reference])
def test_known_answers(module, line):
    words = tuple(int(word, 16) for word in line.split())
    assert module.philox(words[:4], words[4:6]) == words[6:]


@settings(max_examples=200, deadline=None)
@given(st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD))
def test_words_are_the_references(counter, key):
    assert draws.philox(counter, key) == reference.philox(counter, key)


@settings(max_examples=200, deadline=None)
@given(WIDE, SHORT, WORD, WIDE, SHORT)
def test_draws_are_the_references(seed, kind, row, number, draw):
    place = (seed, kind, row, number, draw)
    assert draws.random_at(*place) == reference.random_at(*place)
    assert draws.uniform_at(*place) == reference.uniform_at(*place)
    assert 0.0 <= draws.uniform_at(*place) < 1.0


@settings(max_examples=50, deadline=None)
@given(WIDE, SHORT, st.integers(0, 2**32 - 20), WIDE, SHORT, st.integers(0, 20))
def test_a_buffer_holds_the_draws_of_its_rows(seed, kind, first, number, draw, n):
    out = array("d", bytes(8 * n))
    draws.uniforms(out, seed, kind, first, number, draw)
    assert list(out) == [draws.uniform_at(seed, kind, first + i, number, draw) for i in range(n)]


def test_what_does_not_fit_is_refused():
    for place in [(0, 0x10000, 0, 0, 0), (0, 0, 0, 0, 0x10000)]:
        with pytest.raises(ValueError, match="below 65536"):
            draws.random_at(*place)
        with pytest.raises(ValueError, match="below 65536"):
            draws.uniform_at(*place)
    with pytest.raises(ValueError, match="rows end"):
        draws.uniforms(array("d", [0, 0]), 0, 0, 2**32 - 1, 0)
    for wrong in [(-1, 0, 0, 0), (2**64, 0, 0, 0), (0, 0, 2**32, 0)]:
        with pytest.raises(OverflowError):
            draws.random_at(*wrong)
    with pytest.raises(ValueError):
        draws.philox((1, 2, 3), (4, 5))
