"""The door keeper: every key may knock, none too often, and no request makes it fall over."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from transport.zap import ConnectionRate, answer

KEY = bytes(range(32))


def request(
    address: bytes = b"10.0.0.1", mechanism: bytes = b"CURVE", domain: bytes = b"swarm", key: bytes = KEY
) -> list[bytes]:
    return [b"1.0", b"7", domain, address, b"", mechanism, key]


def test_a_key_is_let_in_and_becomes_the_user_id() -> None:
    reply, reason = answer(request(), ConnectionRate(), 0.0)
    assert reply == [b"1.0", b"7", b"200", b"OK", KEY.hex().encode(), b""]
    assert reason == ""


def test_anything_but_curve_is_refused() -> None:
    rate = ConnectionRate()
    for wrong in (
        request(mechanism=b"NULL")[:6],
        request(mechanism=b"PLAIN") + [b"password"],
        request(domain=b"other"),
        request(key=b"short"),
    ):
        reply, reason = answer(wrong, rate, 0.0)
        assert reply is not None
        assert reply[2] == b"400"
        assert reason == "mechanism"


def test_an_address_that_hammers_is_slowed_down_alone() -> None:
    rate = ConnectionRate(burst=5, per_s=1)
    assert [rate.take("a", 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert rate.take("b", 0.0)
    assert rate.take("a", 1.0)
    assert not rate.take("a", 1.0)
    assert answer(request(b"a"), rate, 1.0)[1] == "busy"
    assert [rate.take("a", 100.0) for _ in range(6)] == [True] * 5 + [False]


def test_addresses_without_end_do_not_fill_memory() -> None:
    rate = ConnectionRate(burst=2, per_s=0.001)
    allowed = sum(rate.take(os.urandom(8).hex(), 0.0) for _ in range(6000))
    assert len(rate._buckets) <= 4097
    assert allowed == 4096 + 2, "newcomers above the limit share one bucket"


@settings(max_examples=80, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=9))
def test_noise_is_answered_or_ignored(frames: list[bytes]) -> None:
    reply, reason = answer(frames, ConnectionRate(), 0.0)
    assert reply is None or len(reply) == 6
    assert reason
