"""Columns: built as the layout says, opened only when they fill their buffer, settled into futures."""

from __future__ import annotations

import gc
import struct
import threading
import weakref
from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import batch
from kernels.reference import batch as reference

QUICK = settings(max_examples=100, deadline=None)
U32 = st.integers(0, 2**32 - 1)
payloads = st.binary(max_size=30)
rows = st.tuples(U32, st.integers(0, 255), st.integers(0, 2**40), payloads)


def calls_of(module, parts):
    builder = module.CallBuilder()
    for i, part in enumerate(parts):
        assert builder.add(part) == i
    assert builder.nbytes == 4 * len(parts) + sum(map(len, parts))
    return builder.take()


def outcomes_of(module, parts):
    builder = module.OutcomeBuilder()
    for part in parts:
        builder.add(*part)
    size = builder.nbytes
    columns = builder.take()
    assert size == len(columns)
    assert (builder.count, builder.nbytes) == (0, 0)
    return columns


def view_of_calls(view):
    return (
        view.count,
        view.nbytes,
        view.longest(),
        [bytes(view.payload(i)) for i in range(view.count)],
    )


def view_of_outcomes(view):
    n = view.count
    return (
        n,
        view.nbytes,
        view.all_ok,
        view.run_us_total,
        [(view.index(i), view.status(i), view.run_us(i), bytes(view.payload(i))) for i in range(n)],
        list(view.indices()),
        list(view.run_times_us()),
        list(view.statuses()),
    )


def refusal(make, *args):
    try:
        make(*args)
    except ValueError:
        return ValueError
    return None


@QUICK
@given(st.lists(payloads, max_size=40), st.data())
def test_calls(parts, data):
    columns = calls_of(batch, parts)
    assert columns == calls_of(reference, parts)
    view = batch.Calls(columns, len(parts))
    assert view_of_calls(view) == view_of_calls(reference.Calls(columns, len(parts)))
    start = data.draw(st.integers(0, len(parts)))
    stop = data.draw(st.integers(start, len(parts)))
    lengths, body = view.slice(start, stop)
    assert view.payload_bytes(start, stop) == len(body)
    assert view_of_calls(batch.Calls(bytes(lengths) + bytes(body), stop - start))[3] == parts[start:stop]


@QUICK
@given(st.lists(rows, max_size=40))
def test_outcomes(parts):
    columns = outcomes_of(batch, parts)
    assert columns == outcomes_of(reference, parts)
    # Not aligned, and in the middle of a message, as links hand them on.
    inside = memoryview(b"x" + columns + b"y")[1:-1]
    assert view_of_outcomes(batch.Outcomes(inside, len(parts))) == view_of_outcomes(
        reference.Outcomes(columns, len(parts))
    )


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60) | st.lists(st.integers(0, 9), max_size=15).map(lambda n: struct.pack(f"<{len(n)}I", *n)),
    st.integers(-1, 6) | st.sampled_from([2**30, 2**31, 2**32 - 1, 2**32, 2**62, 2**64]),
)
def test_hostile_columns_are_refused_as_the_reference_refuses_them(buffer, count):
    for name in ("Calls", "Outcomes"):
        assert refusal(getattr(batch, name), buffer, count) == refusal(getattr(reference, name), buffer, count)


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_columns_must_fill_the_buffer_exactly(count):
    for make, columns in (
        (batch.Calls, calls_of(batch, [b"abc"] * count)),
        (batch.Outcomes, outcomes_of(batch, [(0, 0, 0, b"abc")] * count)),
    ):
        make(columns, count)
        for buffer, n in ((columns[:-1], count), (columns + b"\0", count), (columns, count - 1), (columns, count + 1)):
            with pytest.raises(ValueError, match="columns"):
                make(buffer, n)


def test_lengths_that_add_up_only_in_32_bits_are_refused():
    columns = struct.pack("<2I", 2**32 - 1, 5) + b"abcd"
    with pytest.raises(ValueError, match="speak of"):
        batch.Calls(columns, 2)


def test_padding_must_be_zero():
    columns = bytearray(outcomes_of(batch, [(0, 0, 0, b"")]))
    columns[-1] = 1
    with pytest.raises(ValueError, match="padding"):
        batch.Outcomes(columns, 1)


@pytest.mark.parametrize("count", [None, 1.0, "1", True])
def test_a_count_that_is_no_integer_is_refused(count):
    with pytest.raises(ValueError, match="tasks"):
        batch.Calls(b"\0\0\0\0", count)


def test_rows_beyond_the_batch():
    calls = batch.Calls(calls_of(batch, [b"a", b"b"]), 2)
    outcomes = batch.Outcomes(outcomes_of(batch, [(0, 0, 0, b"")]), 1)
    for i in (-1, 2, 2**62):
        for read in (calls.payload, outcomes.payload, outcomes.index, outcomes.status, outcomes.run_us):
            with pytest.raises(IndexError):
                read(i)
    for start, stop in ((-1, 1), (1, 0), (0, 3)):
        with pytest.raises(IndexError):
            calls.slice(start, stop)
        with pytest.raises(IndexError):
            calls.payload_bytes(start, stop)


@pytest.mark.parametrize("module", [batch, reference])
def test_plain_calls_are_decoded_where_they_lie(module):
    calls = module.Calls(calls_of(module, [b"M\x91\x90", b"M\x92\x91\x05\x81\xa1k\xc3", b"Ppickle", b"", b"M\x90"]), 5)
    assert [calls.call(i) for i in range(4)] == [((), {}), ((5,), {"k": True}), None, None]
    with pytest.raises(ValueError, match="not a call"):
        calls.call(4)
    with pytest.raises(IndexError):
        calls.call(5)


def test_views_outlive_the_columns_and_cannot_be_written():
    payload = batch.Calls(bytearray(calls_of(batch, [b"abc"])), 1).payload(0)
    assert bytes(payload) == b"abc"
    assert payload.readonly


def test_columns_hold_their_buffer():
    buffer = bytearray(calls_of(batch, [b"abc"]))
    view = batch.Calls(buffer, 1)
    with pytest.raises(BufferError):
        buffer.clear()
    assert view.count == 1


def test_a_long_run_time_is_clamped():
    view = batch.Outcomes(outcomes_of(batch, [(0, 0, 2**50, b"")]), 1)
    assert view.run_us(0) == 2**32 - 1


@pytest.mark.parametrize(
    "row", [(-1, 0, 0, b""), (2**32, 0, 0, b""), (0, 256, 0, b""), (0, -1, 0, b""), (0, 0, -1, b"")]
)
def test_an_outcome_out_of_its_column_is_refused(row):
    builder = batch.OutcomeBuilder()
    with pytest.raises(OverflowError):
        builder.add(*row)
    assert builder.count == 0


def test_a_builder_begins_anew_after_take():
    builder = batch.CallBuilder()
    for size in (3, 2_000_000, 5):
        assert builder.add(b"x" * size) == 0
        assert batch.Calls(builder.take(), 1).longest() == size
    assert builder.take() == b""


# ---- settle ----------------------------------------------------------------------------------------------------


class Lean(Future):
    """A future as the client's: an empty instance until somebody waits on it."""

    _state = "PENDING"
    _result = None

    def __init__(self):
        pass

    def _finish(self, value):
        self.finished = value


def settled(module, futures, *parts):
    builder = batch.OutcomeBuilder()
    for index, status, payload in parts:
        builder.add(index, status, 0, payload)
    others = []
    view = module.Outcomes(builder.take(), len(parts))
    number = module.settle(view, futures, lambda *other: others.append((other[0], other[1], bytes(other[2]))))
    return number, others


MODULES = pytest.mark.parametrize("module", [batch, reference])


@MODULES
def test_settle_finishes_plain_results_and_hands_on_the_others(module):
    futures = [Lean() for _ in range(6)]
    futures[5] = None
    kept = list(futures)
    number, others = settled(
        module,
        futures,
        (3, 0, b"M\xc0"),
        (0, 0, b"M\x91\x05"),
        (1, 1, b"Fbad"),
        (2, 0, b"Ppickle"),
        (4, 0, b"M\xc1"),
        (5, 0, b"M\xc0"),
        (5, 1, b"F"),
    )
    assert number == 2
    assert others == [(1, 1, b"Fbad"), (2, 0, b"Ppickle"), (4, 0, b"M\xc1")]
    assert futures == [None, kept[1], kept[2], None, kept[4], None]
    assert kept[0].__dict__ == {"_result": [5], "_state": "FINISHED"}
    assert kept[3].__dict__ == {"_result": None, "_state": "FINISHED"}
    assert kept[1].__dict__ == {}


@MODULES
@pytest.mark.parametrize("name", ["_condition", "_done_callbacks", "_waiters"])
def test_settle_leaves_a_future_that_somebody_waits_on_to_itself(module, name):
    future = Lean()
    setattr(future, name, object())
    assert settled(module, [future], (0, 0, b"M\x07")) == (1, [])
    assert future.finished == 7
    assert "_state" not in future.__dict__


@MODULES
@pytest.mark.parametrize(("state", "direct"), [("RUNNING", True), ("CANCELLED", False), ("FINISHED", False)])
def test_settle_does_not_overwrite_a_cancelled_future(module, state, direct):
    future = Lean()
    future._state = state
    settled(module, [future], (0, 0, b"M\x07"))
    assert hasattr(future, "finished") is not direct
    assert future._state == ("FINISHED" if direct else state)


@MODULES
def test_settle_refuses_an_index_beyond_the_batch_before_it_settles_anything(module):
    futures = [Lean()]
    with pytest.raises(ValueError, match="beyond|an outcome for"):
        settled(module, futures, (0, 0, b"M\x01"), (1, 0, b"M\x01"))
    assert futures[0].__dict__ == {}


def test_settle_survives_callbacks_that_shorten_the_list():
    futures = [Lean() for _ in range(3)]
    view = batch.Outcomes(outcomes_of(batch, [(0, 1, 0, b"F"), (2, 0, 0, b"M\x01")]), 2)
    with pytest.raises(ValueError, match="shorter"):
        batch.settle(view, futures, lambda *other: futures.clear())


def test_settle_goes_on_after_an_error_of_a_callback():
    futures = [Lean() for _ in range(2)]
    second = futures[1]
    view = batch.Outcomes(outcomes_of(batch, [(0, 1, 0, b"F"), (1, 0, 0, b"M\x01")]), 2)

    def on_other(index, status, payload):
        futures[index] = None
        raise KeyError(index)

    with pytest.raises(KeyError):
        batch.settle(view, futures, on_other)
    assert batch.settle(view, futures, on_other) == 1
    assert second._result == 1


class Waited(Lean):
    """Begins to wait as the client's future does: sets _condition first, then looks at the state."""

    def wait(self):
        self.__dict__["_condition"] = event = threading.Event()
        if self._state == "FINISHED":
            return
        assert event.wait(20)

    def _finish(self, value):
        self._result = value
        self._state = "FINISHED"
        self._condition.set()


def test_settle_loses_no_wake_up_against_threads_that_begin_to_wait():
    n = 2000
    columns = outcomes_of(batch, [(i, 0, 0, b"M\x01") for i in range(n)])
    futures = [Waited() for _ in range(n)]
    kept = list(futures)

    def waiter(part):
        for future in part:
            future.wait()

    threads = [threading.Thread(target=waiter, args=(kept[i::2],)) for i in range(2)]
    for thread in threads:
        thread.start()
    assert batch.settle(batch.Outcomes(columns, n), futures, lambda *other: None) == n
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert {future._state for future in kept} == {"FINISHED"}


class _Cycle:
    def __init__(self):
        self.me = self


def test_a_collection_while_a_future_is_settled_does_not_part_it_from_its_attributes():
    """In CPython 3.11 a callback of a collection could see the future's dictionary half made, and make another."""

    class Bare:
        def __init__(self, batch, number):
            self.batch = batch
            self.number = number

    future, seen, kept = Bare(object(), 7), [], []
    builder = batch.OutcomeBuilder()
    builder.add_plain(0, 1, "value")
    outcomes, futures, on_other = batch.Outcomes(builder.take(), 1), [future], print

    def look(_):
        seen.append(batch.attributes(future))

    before = gc.get_threshold(), gc.isenabled()
    gc.disable()
    try:
        kept.append(weakref.ref(_Cycle(), look))
        gc.set_threshold(1, 1, 1)
        gc.enable()
        batch.settle(outcomes, futures, on_other)
        assert gc.isenabled()
    finally:
        gc.disable()
        gc.set_threshold(*before[0])
        if before[1]:
            gc.enable()
    gc.collect()
    assert seen == [future.__dict__]
    assert seen[0] is future.__dict__
    assert future.__dict__ == {"batch": future.batch, "number": 7, "_result": "value", "_state": "FINISHED"}
