"""Sizes and durations as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.units import format_bytes, format_duration, parse_bytes, parse_duration_s


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("2GB", 2 * 10**9), ("2g", 2 * 10**9), ("64 MiB", 64 << 20), ("1.5KiB", 1536), ("3b", 3)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1 2", "1e9", "2XB", "0x10", "1..5"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("10m", 600), ("1h30m", 5400), ("250ms", 0.25), ("7d", 604800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-3", "-3s", "nan", "inf", "1h x", "5x", "1 month"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration_s(text)


@given(st.integers(0, 1 << 60))
@settings(max_examples=100, deadline=None)
def test_a_size_is_read_back_about_as_it_was_shown(size: int) -> None:
    shown = format_bytes(size)
    assert len(shown) <= 13
    assert parse_bytes(shown.replace(" ", "")) == pytest.approx(size, rel=0.06, abs=1)


@given(st.floats(0, 1e8, allow_nan=False))
@settings(max_examples=100, deadline=None)
def test_a_duration_has_a_unit_and_is_short(seconds: float) -> None:
    shown = format_duration(seconds)
    assert shown.split()[-1] in {"µs", "ms", "s", "min", "h", "d"}
    assert len(shown) <= 12


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.012, "12 ms"),
        (3.44, "3.4 s"),
        (41.2, "41 s"),
        (60, "1 min"),
        (302, "5 min 2 s"),
        (90061, "1 d 1 h"),
    ],
)
def test_durations_as_shown(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown
