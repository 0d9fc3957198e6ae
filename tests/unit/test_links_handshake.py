"""The handshake by itself: two machines pass frames to each other, and somebody in between tries to gain by it."""

from __future__ import annotations

import os
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from transport import bounds, framing
from transport.certificates import Keys, fleet_of, issue
from transport.handshake import Handshake, Hello, Role, common_version, refusal
from transport.identity import Admin, AdminChain, Credentials, Trust
from transport.links import HandshakeFailed

NOW = 1_700_000_000.0
ADMIN = SigningKey(b"a" * 32)
FOUNDER = Admin(ADMIN.verify_key.encode(), "admin")


def trust() -> Trust:
    return Trust(AdminChain(FOUNDER), "test", bytes(32))


def member(name: str, number: int) -> Credentials:
    keys = Keys(bytes([number]) * 32, bytes([number + 1]) * 32)
    certificate = issue(
        ADMIN,
        fleet_of(FOUNDER.key),
        name=name,
        role="node",
        grants=frozenset(),
        sign_key=keys.sign_key,
        curve_key=keys.curve_key,
        not_before_s=NOW - 10,
        expires_s=NOW + 1000,
    )
    return Credentials(trust().verify(certificate, NOW), certificate, keys)


ANNA, BERT, EVE = member("anna", 1), member("bert", 3), member("eve", 5)


def hello(who: Credentials, **changes: Any) -> Hello:
    fields: dict[str, Any] = {
        "versions": (1, 1),
        "certificate": who.certificate,
        "boot": b"12345678",
        "nonce": os.urandom(32),
        "window": (1000, 10),
        "info": {"host": b"h"},
    }
    return Hello(**{**fields, **changes})


def side(
    role: Role, who: Credentials, key: bytes | None = None, expect: bytes | None = None, **changes: Any
) -> Handshake:
    return Handshake(role, hello(who, **changes), who, trust(), authenticated_key=key, expect=expect)


def give(to: Handshake, frames: list[bytes]) -> list[bytes]:
    replies: list[bytes] = []
    for frame in frames:
        replies += to.receive(*framing.read_unverified(frame), NOW)
    return replies


def test_with_curve_one_hello_each_way_is_enough() -> None:
    a, b = side("initiator", ANNA, BERT.keys.curve_key), side("acceptor", BERT, ANNA.keys.curve_key)
    assert give(a, give(b, a.start())) == []
    assert a.peer is not None
    assert b.peer is not None
    assert (a.peer.identity, b.peer.identity) == (BERT.identity, ANNA.identity)
    assert b.peer.window == (1000, 10)
    assert b.peer.info == {"host": b"h", "version": [1, 1]}


def test_without_curve_both_sign() -> None:
    a, b = side("initiator", ANNA), side("acceptor", BERT)
    answer = give(b, a.start())
    assert b.peer is None, "a hello alone proves nothing"
    proof = give(a, answer)
    assert a.peer is not None
    assert give(b, proof) == []
    assert b.peer is not None
    assert b.peer.identity == ANNA.identity


def test_a_proof_can_not_be_replayed() -> None:
    a, b = side("initiator", ANNA), side("acceptor", BERT)
    first = a.start()
    proof = give(a, give(b, first))
    again = side("acceptor", BERT)
    give(again, first)
    with pytest.raises(HandshakeFailed) as caught:
        give(again, proof)
    assert caught.value.reason == "key-mismatch"


def test_a_proof_can_not_be_reflected() -> None:
    """The listener's own proof sent back to it is not the dialler's, though it is over the same hellos."""
    a, b = side("initiator", ANNA), side("acceptor", BERT)
    answer = give(b, a.start())
    with pytest.raises(HandshakeFailed):
        give(b, [answer[1]])


def test_nobody_in_between_can_stand_in_for_another() -> None:
    """Eve shows Anna's certificate, and has Anna sign for a handshake with Eve."""
    b = side("acceptor", BERT)
    eve = side("initiator", EVE, certificate=ANNA.certificate)
    answer = give(b, eve.start())
    a, eve_listens = side("initiator", ANNA), side("acceptor", EVE)
    proof = give(a, give(eve_listens, a.start()))
    with pytest.raises(HandshakeFailed):
        give(b, proof)
    with pytest.raises(HandshakeFailed):
        give(b, give(eve, answer))
    assert b.peer is None


@pytest.mark.parametrize(
    ("mine", "theirs", "version"),
    [((1, 1), (1, 1), 1), ((1, 2), (1, 1), 1), ((1, 2), (2, 3), 2), ((2, 3), (1, 2), 2), ((1, 9), (4, 5), 5)],
)
def test_the_newest_common_version_is_taken(mine: tuple[int, int], theirs: tuple[int, int], version: int) -> None:
    assert common_version(mine, theirs) == common_version(theirs, mine) == version


def test_without_a_common_version_both_are_told_who_must_upgrade() -> None:
    with pytest.raises(HandshakeFailed) as caught:
        common_version((3, 4), (1, 2))
    assert "upgrade the peer" in caught.value.hint
    a = side("initiator", ANNA, BERT.keys.curve_key)
    with pytest.raises(HandshakeFailed) as heard:
        give(a, [refusal(caught.value, (3, 4))])
    assert (heard.value.reason, heard.value.remote) == ("version", True)
    assert "upgrade" in heard.value.hint


def test_an_unknown_reason_is_not_taken_as_a_code() -> None:
    a = side("initiator", ANNA)
    with pytest.raises(HandshakeFailed) as caught:
        give(a, [framing.pack_reason(framing.REFUSED, "because\nI say so")])
    assert caught.value.reason == "malformed"
    assert "\n" not in str(caught.value)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(framing.UNVERIFIED_BODY_MAX)), st.binary(max_size=200), st.booleans())
def test_noise_fails_the_handshake_and_nothing_else(type: int, body: bytes, dialling: bool) -> None:
    machine = side("initiator" if dialling else "acceptor", ANNA)
    with pytest.raises(HandshakeFailed):
        machine.receive(type, body, NOW)
    assert machine.peer is None


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["versions", "cert", "boot", "nonce", "window", "info"]),
    st.one_of(
        st.none(), st.integers(-1, 1 << 63), st.binary(max_size=9), st.lists(st.integers(-1, 1 << 60), max_size=3)
    ),
)
def test_a_hello_with_a_wrong_field_is_malformed(name: str, value: object) -> None:
    fields = msgpack.unpackb(hello(ANNA).pack())
    fields[name] = value
    try:
        read = Hello.unpack(msgpack.packb(fields))
    except framing.Malformed:
        return
    assert Hello.unpack(read.pack()) == read


def test_what_one_says_of_oneself_is_bounded() -> None:
    deep: object = 1
    for _ in range(bounds.INFO_DEPTH_MAX):
        deep = [deep]
    for info in ({"x": deep}, {"x": bytes(bounds.HELLO_BYTES_MAX)}):
        with pytest.raises(ValueError, match="bounds"):
            hello(ANNA, info=info).pack()
