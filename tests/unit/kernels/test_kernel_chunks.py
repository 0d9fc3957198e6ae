"""Chunks: equal to their twin, exact about what was taken and what was called, safe against hostile bytes."""

from __future__ import annotations

import gc
import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import chunks
from kernels.plain import decode_call
from kernels.reference import chunks as reference

QUICK = settings(max_examples=60, deadline=None)

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=10) | st.binary(max_size=40)
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner))
anything = plain | st.complex_numbers() | st.tuples(st.integers())


def packed(items: list[Any], width: int) -> bytes:
    payload, count, left = chunks.pack(items, width, 1_000_000, 1 << 20)
    assert count == len(items) and not left
    args, kwargs = decode_call(payload)
    assert args[1] == width and not kwargs
    found: bytes = args[0]
    return found


@QUICK
@given(st.lists(anything, max_size=30), st.integers(1, 40), st.integers(1, 100))
def test_packing_is_as_the_twins(items: list[Any], count_max: int, bytes_max: int) -> None:
    ours, theirs = iter(items), iter(items)
    assert repr(chunks.pack(ours, 1, count_max, bytes_max)) == repr(reference.pack(theirs, 1, count_max, bytes_max))
    assert repr(list(ours)) == repr(list(theirs)), "no item is taken and not spoken of"


@QUICK
@given(
    st.integers(2, 12).flatmap(
        lambda width: st.lists(st.tuples(*[scalars | st.lists(scalars, max_size=3)] * width), max_size=5)
    )
)
def test_calls_get_the_arguments_that_were_packed(items: list[tuple[Any, ...]]) -> None:
    width = len(items[0]) if items else 3
    body = packed(items, width)
    assert repr(chunks.unpack(body, width)) == repr(reference.unpack(body, width)) == repr(items)
    for made in (body, bytearray(body), memoryview(body), items):
        values: list[Any] = []
        chunks.call_each(lambda *args: args, made, width, values)
        assert repr(values) == repr(items)


@pytest.mark.parametrize("make", [lambda data: data, lambda data: chunks.unpack(data, 1)])
def test_what_a_call_raises_leaves_the_results_before_it(make: Callable[[bytes], Any]) -> None:
    called = []

    def half(x: int) -> float:
        called.append(x)
        return 1 / x

    values: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        chunks.call_each(half, make(packed([4, 2, 0, 1], 1)), 1, values)
    assert values == [0.25, 0.5] and called == [4, 2, 0]


def test_an_input_that_raises_is_heard() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        chunks.pack(items(), 1, 10, 1000)
    with pytest.raises(TypeError):
        chunks.pack(7, 1, 10, 1000)  # type: ignore[arg-type]


def test_slow_inputs_end_a_chunk() -> None:
    def slowly() -> Iterator[int]:
        for number in itertools.count():
            time.sleep(0.02)
            yield number

    items = slowly()
    assert chunks.pack(items, 1, 1000, 1000, 10_000_000)[1] == 1
    assert chunks.pack(iter(range(10_000)), 1, 1000, 100_000, 10**12)[1] == 1000


def test_an_item_may_pass_the_bound_by_so_much_and_no_more() -> None:
    assert chunks.pack([bytes(60_000)] * 9, 1, 100, 1000)[1:] == (1, [])
    large = bytes(70_000)
    assert chunks.pack([1, large], 1, 100, 1000)[1:] == (1, [large])
    itself: list[Any] = []
    itself.append(itself)
    assert chunks.pack([itself], 1, 100, 1000)[1:] == (0, [itself])


@pytest.mark.parametrize(
    "how", [(0, 5, 10, 0), (128, 5, 10, 0), (1, 0, 10, 0), (1, 5, 0, 0), (1, 5, 1 << 31, 0), (2, 5, 10, 0)]
)
def test_what_makes_no_sense_is_refused(how: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        chunks.pack(iter([(1, 2, 3)]), *how)


@QUICK
@given(st.binary(max_size=60), st.integers(1, 10))
def test_hostile_bytes_are_refused(data: bytes, width: int) -> None:
    def outcome(read: Callable[[bytes, int], Any]) -> Any:
        try:
            return repr(read(data, width))
        except ValueError:
            return ValueError

    assert outcome(chunks.unpack) == outcome(reference.unpack)
    values: list[Any] = []
    try:
        chunks.call_each(lambda *args: args, data, width, values)
    except ValueError:
        assert outcome(chunks.unpack) is ValueError
    else:
        assert outcome(chunks.unpack) == repr(values if width > 1 else [value for (value,) in values])


def test_nothing_leaks() -> None:
    def fails(*args: Any) -> Any:
        if args[0][0] == 500:
            raise KeyError
        return list(args)

    def one() -> None:
        for width in (1, 3, 9):
            items = [([i],) * width if width > 1 else [i] for i in range(600)]
            values: list[Any] = []
            with pytest.raises(KeyError):
                chunks.call_each(fails, packed(items, width), width, values)
            chunks.pack([*items, object()] if width == 1 else [*items, (object(),) * width], width, 10_000, 1 << 20)

    one()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(20):
        one()
    gc.collect()
    assert sys.getallocatedblocks() - before < 500


def test_other_threads_get_their_turn() -> None:
    told: list[int] = []
    # All of C: nothing but the kernel itself gives way to the thread that ends this.
    items = iter(told.__len__, 1)
    threading.Timer(0.05, told.append, [0]).start()
    chunks.call_each(abs, items, 1, [])
    assert told


def test_signals_are_heard() -> None:
    def interrupt(number: int, frame: Any) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(InterruptedError):
            chunks.call_each(abs, iter([].__len__, 1), 1, [])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
