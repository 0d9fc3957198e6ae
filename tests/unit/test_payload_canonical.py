"""Pickles in one form: equal values give equal bytes, whatever was one object when they were written."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.payload import decode_call, encode_call
from swarm.payload_canonical import PICKLE_BYTES_MAX, canonical, canonical_payload
from swarm.payload_code import decode_code, encode_code, is_local

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def again(text: str) -> str:
    """An equal text that is another object."""
    return "".join(list(text))


@given(VALUES)
def test_a_value_is_the_same_afterwards_and_the_form_stays(value: Any) -> None:
    once = canonical(pickle.dumps([value, value], protocol=5))
    assert pickle.loads(once) == [value, value]
    assert canonical(once) == once


def test_what_is_one_object_stays_one() -> None:
    inner: list[Any] = ["text"]
    inner.append(inner)
    many = [[number] for number in range(300)]
    loaded = pickle.loads(canonical(pickle.dumps((inner, inner, many, many[299]), protocol=5)))
    assert loaded[0] is loaded[1] is loaded[0][1] and loaded[2][299] is loaded[3]


def test_equal_texts_that_are_one_object_or_two_are_written_the_same() -> None:
    word = "some text"
    one, two = (pickle.dumps(value, protocol=5) for value in ((word, {"k": word}), (word, {"k": again(word)})))
    assert one != two and canonical(one) == canonical(two)
    data = bytes(range(50))
    one, two = (pickle.dumps(value, protocol=5) for value in ((data, data), (data, bytes(bytearray(data)))))
    assert one != two and canonical(one) == canonical(two)


@pytest.mark.parametrize(
    "pickled", [pickle.dumps([1, [2]], protocol=2), pickle.dumps(bytes(PICKLE_BYTES_MAX + 1)), b""]
)
def test_others_are_left_as_they_are(pickled: bytes) -> None:
    assert canonical(pickled) == pickled


def test_code_is_the_same_however_often_it_was_taken_apart() -> None:
    scope: dict[str, Any] = {"__name__": "made_here"}
    source = "def made(mark: str, ran: str) -> str:\n    return helper(mark) + ran\ndef helper(mark: str) -> str:\n    return mark"
    exec(source, scope)  # functions of no module, as those that come by value are
    first = decode_code(encode_code(scope["made"]).blob)
    second = decode_code(encode_code(scope["made"]).blob)
    for name in ("mark", "ran", "return"):
        second.__annotations__[again(name)] = second.__annotations__.pop(name)
    first_blob, second_blob = encode_code(first), encode_code(second)
    assert first_blob == second_blob
    assert decode_code(second_blob.blob)("a", "b") == "ab"
    assert f"swarm python {sys.version_info[0]}.{sys.version_info[1]}".encode() in first_blob.blob[:30]


def test_payloads_of_every_kind_are_read_as_before() -> None:
    class Sink:
        def put(self, buffer: memoryview) -> Any:
            raise AssertionError("nothing here is so large")

    for args in ((1, "two"), ({1, 2}, "x"), (b"k" * 1000, ("a", "a"))):
        payload = encode_call(args, {"key": "a"}, Sink(), by_value=is_local)
        call = decode_call(canonical_payload(payload), trusted=True)
        assert (call.args, call.kwargs) == (args, {"key": "a"})
    word = "word"
    both = [pickle.dumps(value, protocol=5) for value in ([word, word], [word, again(word)])]
    payloads = [b"B" + bytes(msgpack.packb([one, [[bytes(32), 70_000, 0]]])) for one in both]
    assert payloads[0] != payloads[1] and canonical_payload(payloads[0]) == canonical_payload(payloads[1])
    by_reference = b"B" + bytes(msgpack.packb([[bytes(32), 70_000, 0], []]))
    assert canonical_payload(by_reference) == by_reference
