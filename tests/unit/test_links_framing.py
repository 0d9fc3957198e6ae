"""Frames: what goes in comes out, and any other bytes are Malformed and nothing else."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import bounds, framing
from transport.zmq_sockets import in_parts

totals = st.integers(0, (1 << 64) - 1)
quick = settings(max_examples=60, deadline=None)


@quick
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=40), totals, totals)
def test_messages_survive_a_frame(messages: list[bytes], consumed_bytes: int, consumed_count: int) -> None:
    frame = framing.data(messages, consumed_bytes, consumed_count)
    assert framing.read_head(frame) == framing.DATA
    assert framing.read_credit(frame) == (consumed_bytes, consumed_count)
    assert framing.read_data(frame, None, 200) == messages
    assert framing.read_data(memoryview(bytearray(frame)), None, 200) == messages


@quick
@given(st.binary(max_size=300), totals, totals)
def test_a_large_message_may_come_apart_from_its_head(message: bytes, consumed_bytes: int, consumed_count: int) -> None:
    head = framing.data_head(len(message), consumed_bytes, consumed_count)
    assert framing.read_head(head, len(message)) == framing.DATA
    assert framing.read_data(head, message, 300) == [message]
    assert framing.read_data(head + message, None, 300) == [message]
    assert head + message == framing.data([message], consumed_bytes, consumed_count)
    with pytest.raises(framing.Malformed):
        framing.read_data(head, message + b"x", 400)


@quick
@given(st.binary(max_size=120), st.one_of(st.none(), st.binary(max_size=20)))
def test_other_bytes_are_malformed_and_nothing_else(noise: bytes, tail: bytes | None) -> None:
    readers = (
        lambda: framing.read_head(noise, len(tail or b"")),
        lambda: framing.read_unverified(noise),
        lambda: framing.read_credit(noise),
        lambda: framing.read_data(noise, tail, 1000),
    )
    for read in readers:
        try:
            read()
        except framing.Malformed:
            pass
    assert isinstance(framing.read_reason(noise)[0], str)


@quick
@given(st.integers(0, 0xFFFFFFFF), st.binary(max_size=100))
def test_a_count_that_does_not_fit_is_malformed(count: int, body: bytes) -> None:
    frame = struct.pack("<IBBHQQII", framing.DATA_BYTES - 4 + len(body), framing.DATA, 0, 0, 0, 0, count, 0) + body
    try:
        messages = framing.read_data(frame, None, 1000)
    except framing.Malformed:
        return
    assert len(messages) == count
    assert framing.data(messages, 0, 0) == frame


def test_a_message_over_the_limit_is_malformed() -> None:
    for messages in ([b"x" * 11], [b"", b"x" * 11]):
        with pytest.raises(framing.Malformed, match="11 bytes"):
            framing.read_data(framing.data(messages, 0, 0), None, 10)
        assert framing.read_data(framing.data(messages, 0, 0), None, 11) == messages


@pytest.mark.parametrize("type", sorted(framing.UNVERIFIED_BODY_MAX))
def test_what_the_unverified_may_send_is_bounded_by_type(type: int) -> None:
    limit = framing.UNVERIFIED_BODY_MAX[type]
    assert framing.read_unverified(framing.control(type, bytes(limit))) == (type, bytes(limit))
    with pytest.raises(framing.Malformed):
        framing.read_unverified(framing.control(type, bytes(limit + 1)))


@quick
@given(st.text(max_size=2000), st.text(max_size=2000))
def test_a_reason_fits_and_is_one_line(reason: str, hint: str) -> None:
    frame = framing.pack_reason(framing.BYE, reason, hint, versions=[1, 1])
    type, body = framing.read_unverified(frame)
    assert type == framing.BYE
    heard, heard_hint = framing.read_reason(body)
    assert (heard + heard_hint).isprintable()
    assert heard
    if len(reason) < 40 and reason.isprintable() and reason:
        assert heard == reason


@quick
@given(
    st.lists(
        st.sampled_from([0, 1, 1000, bounds.COPIED_BYTES_MAX, bounds.COPIED_BYTES_MAX + 1, 3_000_000]), max_size=12
    )
)
def test_parts_are_the_frame_and_none_is_too_long(sizes: list[int]) -> None:
    frame: list[bytes | bytearray | memoryview] = [b"head", *(bytes([i + 1]) * size for i, size in enumerate(sizes))]
    parts = in_parts(frame)
    assert b"".join(parts) == b"".join(frame)
    assert parts[0] == b"head"
    assert max(map(len, parts)) <= bounds.PART_BYTES_MAX
    assert len(parts) <= 2 + sum(1 + size // bounds.PART_BYTES_MAX for size in sizes)


def test_thousands_of_slivers_make_few_parts() -> None:
    frame: list[bytes | bytearray | memoryview] = [b"head", *[b"sliver"] * 100_000]
    assert len(in_parts(frame)) == 2


def test_the_worst_mix_stays_within_the_count_of_parts() -> None:
    pair: list[bytes | bytearray | memoryview] = [bytes(bounds.COPIED_BYTES_MAX + 1), b"x"]
    rounds = bounds.MESSAGE_BYTES_MAX // (bounds.COPIED_BYTES_MAX + 2)
    assert len(in_parts([b"head", *pair * rounds])) <= bounds.PARTS_COUNT_MAX
