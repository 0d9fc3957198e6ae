"""Plain payloads: equal to msgpack's bytes, refused where a value would change, safe against hostile bytes."""

from __future__ import annotations

import enum
from collections import OrderedDict, namedtuple

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels import batch, plain
from kernels.reference import plain as reference

QUICK = settings(max_examples=150, deadline=None)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | text
    | st.binary(max_size=40)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(text, inner, max_size=20), max_leaves=40
)
anything = st.recursive(
    scalars | st.integers() | st.text(max_size=5) | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def outcome(decode, payload):
    """repr() tells True from 1 and 1.0 from 1, and is the same for every NaN."""
    try:
        return repr(decode(payload))
    except ValueError:
        return ValueError


def identical(a: object, b: object) -> bool:
    return repr(a) == repr(b)


@QUICK
@given(values)
def test_a_result_is_what_msgpack_writes_and_comes_back_unchanged(value):
    payload = plain.encode_plain(value)
    assert payload == b"M" + msgpack.packb(value)
    assert identical(plain.decode_plain(payload), value)
    assert identical(plain.decode_plain(memoryview(payload)), value)
    assert identical(plain.decode_plain(bytearray(payload)), value)


@pytest.mark.parametrize("n", [15, 16, 31, 32, 127, 128, 255, 256, 65535 // 2, 65530])
def test_every_length_takes_the_shortest_form(n):
    for value in (b"x" * n, "x" * n, "é" * (n // 2), [None] * n, {str(i): None for i in range(min(n, 5000))}):
        assert plain.encode_plain(value) == b"M" + msgpack.packb(value)
        assert plain.decode_plain(plain.encode_plain(value)) == value


@pytest.mark.parametrize("edge", [0, 32, 128, 256, 2**15, 2**16, 2**31, 2**32, 2**63, 2**64])
def test_every_integer_takes_the_shortest_form(edge):
    for value in {sign * edge + step for sign in (1, -1) for step in (-1, 0, 1)}:
        if -(2**63) <= value < 2**64:
            assert plain.encode_plain(value) == b"M" + msgpack.packb(value)
            assert plain.decode_plain(plain.encode_plain(value)) == value
        else:
            assert plain.encode_plain(value) is None


@QUICK
@given(anything)
def test_what_is_plain_is_what_the_reference_says(value):
    assert plain.encode_plain(value) == reference.encode_plain(value)


class Flag(enum.IntEnum):
    UP = 1


class Text(str):
    pass


@pytest.mark.parametrize(
    "value",
    [
        (1,),
        {1: 2},
        {1},
        bytearray(b"x"),
        memoryview(b"x"),
        1j,
        Flag.UP,
        Text("x"),
        {Text("x"): 1},
        OrderedDict(a=1),
        namedtuple("Point", "x")(1),
        "\ud800",
        {"\udfff": 1},
        2**64,
        -(2**63) - 1,
        object(),
        [[(1,)]],
        {"a": {"b": ()}},
    ],
)
def test_what_would_change_on_the_way_is_not_plain(value):
    assert plain.encode_plain(value) is None
    builder = batch.CallBuilder()
    builder.add(b"Pfirst")
    assert builder.add_plain((1, value), None) == -1
    assert builder.add_plain((1,), {"k": value}) == -1
    assert (builder.count, builder.nbytes) == (1, 10)
    outcomes = batch.OutcomeBuilder()
    assert outcomes.add_plain(0, 0, [1, value]) is False
    assert (outcomes.count, outcomes.nbytes) == (0, 0)


def test_depth_is_bounded_on_both_sides():
    assert plain.encode_plain(nested(32)) is not None
    assert plain.encode_plain(nested(33)) is None
    builder = batch.CallBuilder()
    assert builder.add_plain((nested(32),), {"k": nested(31)}) == 0
    assert builder.add_plain((nested(33),), None) == -1
    assert plain.decode_call(batch.Calls(builder.take(), 1).payload(0)) == ((nested(32),), {"k": nested(31)})
    assert plain.decode_plain(b"M" + msgpack.packb(nested(34))) == nested(34)
    with pytest.raises(ValueError, match="too deep"):
        plain.decode_plain(b"M" + msgpack.packb(nested(35)))


def test_a_list_that_holds_itself_ends():
    loop: list[object] = []
    loop += [loop, loop]
    assert plain.encode_plain(loop) is None
    broad: object = [1]
    for _ in range(30):
        broad = [broad, broad]
    assert plain.encode_plain(broad) is None


def test_size_is_bounded():
    assert len(plain.encode_plain(b"x" * (plain.PLAIN_BYTES_MAX - 4))) == plain.PLAIN_BYTES_MAX
    assert plain.encode_plain(b"x" * (plain.PLAIN_BYTES_MAX - 3)) is None
    builder = batch.CallBuilder()
    for i in range(40):  # the bound is one payload's, not the batch's
        assert builder.add_plain((b"x" * 60_000,), None) == i


@QUICK
@given(st.lists(values, max_size=4), st.dictionaries(text, values, max_size=4) | st.none())
def test_a_call_comes_back(args, kwargs):
    builder = batch.CallBuilder()
    assert builder.add_plain(tuple(args), kwargs) == 0
    payload = bytes(batch.Calls(builder.take(), 1).payload(0))
    assert payload == reference.encode_call(tuple(args), kwargs)
    assert identical(plain.decode_call(payload), (tuple(args), kwargs or {}))
    assert identical(reference.decode_call(payload), (tuple(args), kwargs or {}))


@settings(max_examples=600, deadline=None)
@given(st.binary(max_size=40).map(lambda tail: b"M" + tail) | st.binary(max_size=10))
@example(b"M\xd6\xff\x00\x00\x00\x00")  # timestamp extension
@example(b"M\xc1")
@example(b"M\x81\x80\x01")
@example(b"M\xa2\xc3\x28")
@example(b"M\xca\x3f\x80\x00\x00")
@example(b"M\xdf\xff\xff\xff\xff")
@example(b"M\xc6\xff\xff\xff\xff")
@example(b"M\xdd\xff\xff\xff\xff")
def test_hostile_bytes_are_read_as_the_reference_reads_them(payload):
    assert outcome(plain.decode_plain, payload) == outcome(reference.decode_plain, payload)
    assert outcome(plain.decode_call, payload) == outcome(reference.decode_call, payload)


@QUICK
@given(values, st.data())
def test_a_damaged_payload_is_read_as_the_reference_reads_it(value, data):
    payload = bytearray(plain.encode_plain(value))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload = payload[: data.draw(st.integers(0, len(payload)))]
    assert outcome(plain.decode_plain, payload) == outcome(reference.decode_plain, payload)


def test_promised_elements_are_not_allocated_before_they_can_be_there():
    bomb = b"M" + b"\xdd\x00\x00\xff\x00" * 30 + b"\xc0" * 66_000  # each level promises what only one of them can have
    with pytest.raises(ValueError, match="cut short"):
        plain.decode_plain(bomb)


@pytest.mark.parametrize("payload", [b"", b"M", b"P\xc0", b"M\xc0\xc0"])
def test_what_is_no_plain_payload(payload):
    with pytest.raises(ValueError, match="malformed"):
        plain.decode_plain(payload)


@pytest.mark.parametrize("value", [None, [], [1], [[], []], [[], {}, 1], {}, [{}]])
def test_what_is_no_call(value):
    with pytest.raises(ValueError, match="not a call"):
        plain.decode_call(plain.encode_plain(value))
