"""Certificates, admins and revocations: what is believed, and that nothing hostile does worse than `Untrusted`."""

from __future__ import annotations

from collections.abc import Callable

import msgpack
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey
from zmq.utils import z85

from transport import bounds
from transport.admins import Admin, AdminChain
from transport.certificates import id_from_text, id_of, id_text, issue, read_certificate
from transport.identity import Credentials, Keys, Trust, Untrusted
from transport.revocation import read_revocation, revoke
from transport.signed import seal

NOW = 1_800_000_000.0
YEAR = 365 * 86400.0
OAK, ELM, FIR, ASH = (SigningKey(bytes([n]) * 32) for n in (1, 2, 3, 4))
NODE = Keys(b"n" * 32, b"c" * 32)


def admin(key: SigningKey, name: str = "admin", retired_s: float | None = None) -> Admin:
    return Admin(key.verify_key.encode(), name, retired_s)


def chain() -> AdminChain:
    return AdminChain(admin(OAK, "oak"))


def trust(of: AdminChain | None = None, secret: bytes = b"s" * 32) -> Trust:
    return Trust(of or chain(), "lab", secret)


def certificate(signer: SigningKey = OAK, keys: Keys = NODE, start: float = NOW, **other: object) -> bytes:
    wishes: dict[str, object] = {
        "name": "oak",
        "role": "node",
        "grants": frozenset({"code"}),
        "serial": b"serial00",
    } | other
    fleet = wishes.pop("fleet", chain().fleet)
    return issue(
        signer,
        fleet,  # type: ignore[arg-type]
        sign_key=keys.sign_key,
        curve_key=keys.curve_key,
        not_before_s=start,
        expires_s=start + YEAR,
        **wishes,  # type: ignore[arg-type]
    )


def reason(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(Untrusted) as caught:
        call(*arguments)
    assert caught.value.hint and str(caught.value)
    return caught.value.reason


# -- certificates ---------------------------------------------------------------------------------------------------


def test_a_good_certificate_says_who_it_is() -> None:
    identity = trust().verify(certificate(), NOW)
    assert identity.id == id_of(NODE.sign_key) == NODE.id and len(identity.id) == 16
    assert (identity.name, identity.role, identity.grants) == ("oak", "node", {"code"})
    assert (identity.sign_key, identity.curve_key) == (NODE.sign_key, NODE.curve_key)
    assert (identity.not_before_s, identity.expires_s) == (NOW, NOW + YEAR)


def test_the_largest_certificate_is_within_its_bound() -> None:
    grants = frozenset(f"g{n:02}" + "x" * (bounds.GRANT_BYTES_MAX - 3) for n in range(bounds.GRANTS_COUNT_MAX))
    blob = certificate(name="n" * bounds.NAME_BYTES_MAX, grants=grants, role="client")
    assert len(blob) <= bounds.CERTIFICATE_BYTES_MAX
    assert trust().verify(blob, NOW).grants == grants


def test_a_curve_key_is_the_one_that_zeromq_derives() -> None:
    keys = Keys.create()
    assert zmq.curve_public(z85.encode(keys.curve_secret)) == z85.encode(keys.curve_key)


def test_only_an_admin_of_this_fleet_is_believed() -> None:
    assert reason(trust().verify, certificate(ELM), NOW) == "unknown-admin"
    assert reason(trust().verify, certificate(ELM, fleet=b"f" * 16), NOW) == "wrong-fleet"
    assert reason(trust().verify, certificate(fleet=b"f" * 16), NOW) == "wrong-fleet"


def test_dates_hold_every_time_with_a_leeway_for_clocks_behind() -> None:
    t, blob = trust(), certificate()
    assert reason(t.verify, blob, NOW - bounds.CLOCK_LEEWAY_S - 1) == "not-yet-valid"
    assert t.verify(blob, NOW - bounds.CLOCK_LEEWAY_S)
    assert t.verify(blob, NOW + YEAR - 1)
    assert reason(t.verify, blob, NOW + YEAR) == "expired"


def test_a_clock_that_is_set_back_takes_nobodys_trust_away() -> None:
    t, blob, later = trust(), certificate(), certificate(start=NOW + 9000)
    identity = t.verify(blob, NOW + 5)
    assert t.verify(blob, NOW - 86400) == identity
    t.check(identity, NOW - 86400)
    assert reason(t.verify, later, NOW - 86400) == "not-yet-valid", "what had not begun before has not begun now"
    assert reason(trust().verify, blob, NOW - 86400) == "not-yet-valid", "nor has anything for who knows no other time"
    fresh = trust()
    fresh.saw(NOW)
    assert fresh.verify(blob, NOW - 86400) == identity, "but files of now are evidence enough"
    t.verify(blob, NOW + YEAR - 1)
    assert reason(t.verify, blob, NOW + YEAR) == "expired"
    assert t.verify(blob, NOW + 5) == identity, "a clock that was ahead, and was put right"


def test_the_id_must_be_that_of_the_key() -> None:
    body = msgpack.unpackb(msgpack.unpackb(certificate())[0])
    assert reason(read_certificate, seal("certificate", body | {"id": b"i" * 16}, OAK, 1024)) == "key-mismatch"


def test_a_signature_for_one_kind_of_document_is_none_for_another() -> None:
    body = msgpack.unpackb(msgpack.unpackb(certificate())[0])
    assert reason(read_certificate, seal("revocation", body, OAK, 1024)) == "bad-signature"
    message = NODE.sign(b"hello")
    identity = trust().verify(certificate(), NOW)
    assert identity.signed(b"hello", message)
    assert not identity.signed(b"hellO", message)
    assert not identity.signed(b"hello", NODE.sign(b"hello", "request to join"))
    assert not identity.signed(b"hello", b"short")


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"name": "a\x1b[31m"},
        {"name": ""},
        {"name": "-x"},
        {"name": "n" * 64},
        {"role": "king"},
        {"role": None},
        {"grants": ["b", "a"]},
        {"grants": ["a", "a"]},
        {"grants": ["A"]},
        {"grants": "code"},
        {"grants": [f"g{n}" for n in range(10, 40)]},
        {"curve_key": b"short"},
        {"serial": None},
        {"nbf": 1.5},
        {"nbf": -1},
        {"exp": 1 << 60},
        {"exp": True},
        {"more": 1},
    ],
    ids=str,
)
def test_what_an_admin_should_not_have_signed_is_refused(change: dict[str, object]) -> None:
    body = msgpack.unpackb(msgpack.unpackb(certificate())[0])
    assert reason(read_certificate, seal("certificate", body | change, OAK, 4096)) == "malformed"


def test_one_statement_has_one_encoding() -> None:
    body, signer, signature = msgpack.unpackb(certificate())
    wider = b"\xdc\x00\x03" + b"".join(map(msgpack.packb, (body, signer, signature)))
    assert msgpack.unpackb(wider) == [body, signer, signature]
    assert reason(read_certificate, wider) == "malformed"
    fields = msgpack.unpackb(body)
    shuffled = dict(sorted(fields.items()))
    assert reason(read_certificate, seal("certificate", shuffled, OAK, 1024)) == "malformed"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_bit_is_always_found(at: int, flip: int) -> None:
    blob = bytearray(certificate())
    blob[at % len(blob)] ^= flip
    assert reason(trust().verify, bytes(blob), NOW) in ("malformed", "bad-signature")


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=70),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9) | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=250, deadline=None)
@given(st.binary(max_size=1100) | _values.map(msgpack.packb) | _values)
def test_hostile_input_is_only_ever_untrusted(blob: object) -> None:
    t = trust()
    for call in (lambda: t.verify(blob, NOW), lambda: t.apply_revocation(blob), lambda: t.apply_admins([blob])):  # type: ignore[arg-type,list-item]
        assert reason(call) in Untrusted.REASONS


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "v",
                "fleet",
                "id",
                "name",
                "role",
                "grants",
                "sign_key",
                "curve_key",
                "serial",
                "nbf",
                "exp",
                "at",
                "reason",
                "version",
                "before",
                "admins",
            ]
        ),
        _values,
    )
)
def test_hostile_documents_with_a_true_signature_are_only_ever_untrusted(change: dict[str, object]) -> None:
    """Even an admin's key in hostile hands brings down nobody."""
    body = msgpack.unpackb(msgpack.unpackb(certificate())[0])
    t = trust()
    for kind, fields, call in (
        ("certificate", body, lambda blob: t.verify(blob, NOW)),
        ("revocation", dict.fromkeys(("v", "fleet", "id", "serial", "at", "reason")), t.apply_revocation),
        (
            "set of admins",
            dict.fromkeys(("v", "fleet", "version", "before", "admins")),
            lambda blob: t.apply_admins([blob]),
        ),
    ):
        blob = seal(kind, fields | {name: value for name, value in change.items() if name in fields}, OAK, 1 << 16)
        try:
            call(blob)
        except Untrusted as error:
            assert error.reason in Untrusted.REASONS


def test_deep_nesting_is_refused_and_does_not_exhaust_the_stack() -> None:
    for depth in (100, 900, 1023):
        assert reason(read_certificate, b"\x91" * depth + b"\x00") == "malformed"


def test_keys_and_certificate_must_belong_together() -> None:
    blob = certificate()
    identity = trust().verify(blob, NOW)
    assert Credentials(identity, blob, NODE).id == NODE.id
    assert reason(lambda: Credentials(identity, blob, Keys.create())) == "key-mismatch"


def test_nothing_secret_is_shown() -> None:
    shown = repr(NODE) + repr(Credentials(trust().verify(certificate(), NOW), certificate(), NODE)) + repr(trust())
    for secret in (NODE.sign_seed, NODE.curve_secret, b"s" * 32):
        assert repr(secret)[2:-1] not in shown and secret.hex() not in shown


@given(st.binary(min_size=16, max_size=16))
def test_ids_read_back(raw: bytes) -> None:
    text = id_text(raw)
    assert len(text) == 26 and id_from_text(text) == raw


@pytest.mark.parametrize("text", ["", "0" * 25, "0" * 27, "i" * 26, "z" * 26, "0" * 25 + "1"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        id_from_text(text)


def test_announcements_of_two_fleets_have_nothing_in_common() -> None:
    assert trust().tag == trust().tag
    assert trust().tag != trust(secret=b"t" * 32).tag
    assert len(trust().tag) == 8


def test_the_cache_of_certificates_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "CERTIFICATES_CACHED_COUNT_MAX", 3)
    t = trust()
    blobs = [certificate(serial=bytes([n]) * 8) for n in range(6)]
    assert [t.verify(blob, NOW).serial for blob in blobs * 2] == [bytes([n]) * 8 for n in range(6)] * 2
    assert len(t._certificates) == 3


# -- revocations ----------------------------------------------------------------------------------------------------


def revocation(signer: SigningKey = OAK, keys: Keys = NODE, serial: bytes | None = None, at: float = NOW) -> bytes:
    return revoke(signer, chain().fleet, keys.id, at_s=at, serial=serial, reason="lost\nlaptop")


def test_a_revocation_counts_at_once_although_the_certificate_was_verified_before() -> None:
    t, blob = trust(), certificate()
    t.verify(blob, NOW)
    assert t.apply_revocation(revocation()) == NODE.id
    assert t.revoked(NODE.id)
    assert reason(t.verify, blob, NOW) == "revoked"
    assert t.apply_revocation(revocation()) is None
    assert t.apply_revocation(revocation(at=NOW + 9)) is None, "an id is news once"
    assert t.entries()[0].reason == "lostlaptop"


def test_whoever_comes_back_with_new_keys_is_welcome() -> None:
    t = trust()
    t.apply_revocation(revocation())
    assert t.verify(certificate(keys=Keys.create()), NOW)


def test_one_certificate_can_be_revoked_and_the_next_one_be_good() -> None:
    t = trust()
    old, new = certificate(serial=b"old-----"), certificate(serial=b"new-----", grants=frozenset())
    assert t.apply_revocation(revocation(serial=b"old-----")) == NODE.id
    assert reason(t.verify, old, NOW) == "revoked"
    assert t.verify(new, NOW).grants == frozenset()
    assert not t.revoked(NODE.id) and t.revoked(NODE.id, b"old-----")


def test_revocations_are_a_set_that_comes_out_the_same_in_any_order() -> None:
    blobs = [revocation(), revocation(keys=Keys(b"m" * 32, b"c" * 32)), revocation(serial=b"old-----")]
    one, two = trust(), trust()
    assert len(one.apply_revocations(blobs)) == 2
    two.apply_revocations([*reversed(blobs), *blobs])
    assert one.revocations() == two.revocations() == sorted(blobs)
    assert Trust(chain(), "lab", b"s" * 32, one.held()).revoked(NODE.id)


def test_revocations_by_strangers_are_refused() -> None:
    t = trust()
    assert reason(t.apply_revocation, revocation(ELM)) == "unknown-admin"
    assert reason(t.apply_revocation, revoke(OAK, b"f" * 16, NODE.id, at_s=NOW)) == "wrong-fleet"
    assert reason(read_revocation, revocation()[:-1], chain().fleet) == "malformed"
    assert not t.revoked(NODE.id)
    assert t.apply_revocations([revocation(ELM), revocation()]) == [NODE.id], "in bulk the unknown ones are passed over"
    assert reason(t.apply_revocations, [b"junk"]) == "malformed"


def test_the_number_of_revocations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "REVOCATIONS_COUNT_MAX", 1)
    t = trust()
    t.apply_revocation(revocation())
    assert reason(t.apply_revocation, revocation(at=NOW + 1)) == "malformed"


def test_what_is_learned_is_told_once() -> None:
    t, told = trust(), []
    t.on_change = lambda: told.append(1)
    t.apply_revocations([revocation(), revocation(serial=b"old-----")])
    t.apply_revocation(revocation())
    t.apply_admins(t.chain.changed(OAK, [*t.admins, admin(ELM)]).blobs)
    t.apply_admins(t.admin_chain())
    assert len(told) == 2


# -- admins ---------------------------------------------------------------------------------------------------------


def test_an_admin_can_be_added_and_replace_the_first() -> None:
    t, old = trust(), certificate()
    both = t.chain.changed(OAK, [*t.admins, admin(ELM, "elm")])
    assert t.apply_admins(both.blobs)
    assert t.verify(certificate(ELM), NOW) and t.verify(old, NOW)
    assert t.apply_admins(both.changed(ELM, [admin(ELM, "elm")]).blobs)
    assert [a.name for a in t.admins] == ["elm"]
    assert reason(t.verify, old, NOW) == "unknown-admin"
    assert t.fleet == chain().fleet, "a fleet keeps its id whoever administers it"
    assert not t.apply_admins(both.blobs), "an older set does not come back"
    assert t.apply_admins([]) is False


def test_what_a_retired_admin_signed_before_counts_on() -> None:
    t = trust()
    t.apply_revocation(revocation(at=NOW))
    t.apply_admins(t.chain.changed(OAK, [admin(OAK, "oak", NOW + 10), admin(ELM, "elm")]).blobs)
    other = Keys(b"o" * 32, b"c" * 32)
    assert t.verify(certificate(keys=other, start=NOW + 10), NOW + 11)
    assert reason(t.verify, certificate(keys=other, start=NOW + 11), NOW + 11) == "unknown-admin"
    assert t.revoked(NODE.id)
    assert reason(t.apply_revocation, revocation(keys=other, at=NOW + 11)) == "unknown-admin"
    with pytest.raises(Untrusted):
        t.chain.changed(OAK, [admin(OAK)])


def test_a_removed_admin_signs_nothing_any_more() -> None:
    t = trust()
    both = t.chain.changed(OAK, [*t.admins, admin(ELM, "elm")])
    t.apply_admins(both.blobs)
    t.apply_revocation(revocation(ELM))
    t.apply_admins(both.changed(OAK, [admin(OAK, "oak")]).blobs)
    assert not t.revoked(NODE.id), "what a thief revoked is welcome again"
    assert revocation(ELM) in t.held() and revocation(ELM) not in t.revocations()
    assert reason(t.verify, certificate(ELM), NOW) == "unknown-admin"
    with pytest.raises(Untrusted):
        t.chain.changed(ELM, [admin(ELM)])


@given(st.permutations(range(4)))
def test_parted_chains_come_together_and_the_earlier_admin_wins(order: list[int]) -> None:
    """The stolen key of ELM fights its removal with chains as long as it likes: the founder's word stands."""
    both = chain().changed(OAK, [admin(OAK), admin(ELM)])
    rebellion = both.changed(ELM, [admin(ELM)])
    longer = rebellion.changed(ELM, [admin(ELM), admin(FIR)])
    removal = both.changed(OAK, [admin(OAK)])
    t = trust()
    for n in order:
        t.apply_admins([both, rebellion, longer, removal][n].blobs)
    assert t.chain.blobs == removal.blobs


def test_a_thief_who_rewrites_history_from_before_a_junior_admin_signed_does_not_win() -> None:
    three = chain().changed(OAK, [admin(OAK), admin(ELM), admin(FIR)])
    truth = three.changed(FIR, [*three.admins, admin(ASH)]).changed(OAK, [admin(OAK), admin(FIR), admin(ASH)])
    rewritten = three.changed(ELM, [admin(ELM), admin(FIR)]).changed(ELM, [admin(ELM)])
    assert truth.wins_over(rewritten) and not rewritten.wins_over(truth)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_chains_are_totally_ordered(data: st.DataObject) -> None:
    """Else nodes that hear of them in different orders would end with different admins."""
    keys = {key.verify_key.encode(): key for key in (OAK, ELM, FIR, ASH)}
    chains = [chain()]
    for _ in range(data.draw(st.integers(2, 9))):
        base = data.draw(st.sampled_from(chains))
        signer = data.draw(st.sampled_from(base.admins))
        members = [a for a in base.admins if a == signer or data.draw(st.booleans())]
        there = {a.key for a in base.admins}
        new = [key for key in data.draw(st.permutations([OAK, ELM, FIR, ASH])) if key.verify_key.encode() not in there]
        members += [admin(key) for key in new[: data.draw(st.integers(0, 2))]]
        try:
            chains.append(base.changed(keys[signer.key], members))
        except Untrusted:
            continue
    chains = list({c.blobs: c for c in chains}.values())
    order = sorted(chains, key=lambda c: sum(c.wins_over(other) for other in chains))
    for i, low in enumerate(order):
        for high in order[i + 1 :]:
            assert high.wins_over(low) and not low.wins_over(high)


def test_a_removed_key_is_not_let_in_again_and_seniority_is_kept() -> None:
    both = chain().changed(OAK, [admin(OAK), admin(ELM)])
    for base, members in ((both, [admin(ELM), admin(OAK)]), (both, [admin(OAK), admin(FIR), admin(ELM)])):
        with pytest.raises(Untrusted):
            base.changed(OAK, members)
    with pytest.raises(Untrusted):
        both.changed(OAK, [admin(OAK)]).changed(OAK, [admin(OAK), admin(ELM)])


def test_of_two_words_of_one_admin_everybody_takes_the_same() -> None:
    one, two = (chain().changed(OAK, [admin(OAK), admin(key)]) for key in (ELM, FIR))
    assert one.wins_over(two) != two.wins_over(one)
    assert not one.wins_over(one)


def test_chains_that_do_not_hold_are_refused() -> None:
    t = trust()
    first = t.chain.changed(OAK, [admin(OAK), admin(ELM)])
    second = first.changed(ELM, [admin(ELM)])
    foreign = AdminChain(admin(FIR)).changed(FIR, [admin(FIR), admin(OAK)])
    assert reason(t.apply_admins, second.blobs[1:]) == "malformed"
    assert reason(t.apply_admins, second.blobs[::-1]) == "malformed"
    assert reason(t.apply_admins, foreign.blobs) == "wrong-fleet"
    forged = {
        "v": 1,
        "fleet": t.fleet,
        "version": 1,
        "before": t.fleet,
        "admins": [[FIR.verify_key.encode(), "fir", None]],
    }
    assert reason(t.apply_admins, [seal("set of admins", forged, FIR, 2048)]) == "unknown-admin"
    for members in ([], [admin(OAK), admin(OAK)], [admin(OAK, "oak", NOW)]):
        with pytest.raises(Untrusted):
            t.chain.changed(OAK, members)
    assert t.admins == (admin(OAK, "oak"),)


def test_the_number_of_changes_and_admins_is_bounded_and_the_longest_chain_is_small_enough() -> None:
    keys = [SigningKey(bytes([n]) * 32) for n in range(1, bounds.ADMINS_COUNT_MAX + 1)]
    full = [admin(key, "n" * bounds.NAME_BYTES_MAX, None if key is OAK else NOW) for key in [OAK, *keys[1:]]]
    c = chain()
    for _ in range(bounds.ADMIN_CHANGES_COUNT_MAX):
        c = c.changed(OAK, full)
    assert sum(map(len, c.blobs)) <= bounds.ADMIN_CHAIN_BYTES_MAX
    with pytest.raises(Untrusted):
        c.changed(OAK, full)
    with pytest.raises(Untrusted):
        chain().changed(OAK, [*full, admin(SigningKey(b"z" * 32), "one-more")])
