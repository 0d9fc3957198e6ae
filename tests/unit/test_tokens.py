"""Joining by a token: what the issuer accepts, what the joiner believes, and what a typo, a thief or a stranger
gets.
"""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import bounds
from transport.certificates import Keys
from transport.fleet import Fleet, create_fleet, enroll
from transport.joining import JoinRequest, accept_join, request_join
from transport.private_files import FleetError
from transport.signed import seal, unseal
from transport.tokens import REFUSALS, REPLY, REPLY_ORDER, Token, TokenBook

NOW = 1_800_000_000.0
ISSUER_KEY = bytes(range(32))
ENDPOINTS = ["192.168.1.20:7400", "[fe80::1]:7400", "oak.lan:7400"]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return create_fleet(tmp_path / "oak" / "fleet", admin="oak")


@pytest.fixture
def book(fleet: Fleet) -> TokenBook:
    return TokenBook(fleet)


def ask(token: Token, home: Path, name: str = "elm") -> JoinRequest:
    return request_join(token, [(home / "node", "node", name), (home / "client", "client", "me")])


def make(book: TokenBook, **wishes: object) -> Token:
    return book.issue(NOW, issuer_key=ISSUER_KEY, endpoints=ENDPOINTS, **wishes)  # type: ignore[arg-type]


def refused(call: object, *arguments: object, **named: object) -> FleetError:
    with pytest.raises(FleetError) as caught:
        call(*arguments, **named)  # type: ignore[operator]
    assert caught.value.hint, "an error says what to do"
    return caught.value


def test_a_machine_joins_with_its_node_and_its_client(fleet: Fleet, book: TokenBook, tmp_path: Path) -> None:
    token = Token.parse(make(book, grants=["code", "gpu"]).text)
    request = ask(token, tmp_path / "elm")
    answer = book.answer(request.message, NOW + 5)
    assert [identity.name for identity in answer.admitted] == ["elm", "me"]
    joined, (node, client) = accept_join(request, answer.reply, tmp_path / "elm" / "fleet", NOW + 6)

    assert (joined.id, joined.name, joined.trust.secret) == (fleet.id, fleet.name, fleet.trust.secret)
    assert [admin.name for admin in joined.trust.admins] == ["oak"]
    assert not joined.is_admin
    assert (node.identity.role, client.identity.role) == ("node", "client")
    assert node.identity.grants == {"code", "gpu"}
    assert fleet.trust.verify(node.certificate, NOW + 7) == node.identity
    assert enroll(joined, tmp_path / "elm" / "node", "node", "elm", ["code"], NOW + 8).certificate == node.certificate


def test_a_token_is_one_short_line_and_survives_copying(book: TokenBook) -> None:
    token = book.issue(NOW, issuer_key=ISSUER_KEY, endpoints=["10.0.0.7:7400"])
    assert len(token.text) < 130
    assert not set(token.text) - set(string.ascii_letters + string.digits + "-_:")
    wrapped = f"  {token.text[:40]}\n  {token.text[40:]}\n"
    assert Token.parse(wrapped) == token
    assert Token.parse(make(book).text).endpoints == tuple(ENDPOINTS)
    assert token.secret.hex() not in repr(token) and repr(token.secret) not in repr(token)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_typo_is_found(data: st.DataObject) -> None:
    text = Token(bytes(16), ISSUER_KEY, b"s" * 16, "node", ("10.0.0.7:7400",), 1_800_000_000).text
    at = data.draw(st.integers(0, len(text) - 1))
    kind = data.draw(st.sampled_from(["change", "drop", "double"]))
    other = data.draw(st.sampled_from(string.ascii_letters + string.digits + "-_:!é").filter(lambda c: c != text[at]))
    typo = {
        "change": text[:at] + other + text[at + 1 :],
        "drop": text[:at] + text[at + 1 :],
        "double": text[: at + 1] + text[at:],
    }[kind]
    if typo != text:
        assert refused(Token.parse, typo).reason in ("token-damaged", "token-version")


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=120).map(lambda b: "swarm-join-1:" + b.hex()))
def test_no_text_breaks_the_reading_of_tokens(text: str) -> None:
    assert refused(Token.parse, text).reason in ("token-damaged", "token-version")


def test_a_token_of_a_newer_version_says_so() -> None:
    assert refused(Token.parse, "swarm-join-2:AAAA").reason == "token-version"


def test_a_used_token_admits_nobody_else_but_answers_the_same_one_again(book: TokenBook, tmp_path: Path) -> None:
    token = make(book)
    first = ask(token, tmp_path / "elm")
    assert book.answer(first.message, NOW).reason == ""
    assert book.answer(ask(token, tmp_path / "fir").message, NOW).reason == "token-used"
    again = book.answer(ask(token, tmp_path / "elm").message, NOW + 60)
    accept_join(first, again.reply, tmp_path / "elm" / "fleet", NOW + 60)
    assert book.entries()[0].left == 0


def test_a_token_for_many_counts_its_uses(book: TokenBook, tmp_path: Path) -> None:
    token = make(book, uses=2)
    reasons = [book.answer(ask(token, tmp_path / name).message, NOW).reason for name in ("elm", "fir", "ash")]
    assert reasons == ["", "", "token-used"]


def test_an_expired_token_is_refused_and_said_to_be(book: TokenBook, tmp_path: Path) -> None:
    token = make(book, ttl_s=600)
    request = ask(token, tmp_path / "elm")
    assert book.answer(request.message, NOW + 599).reason == ""
    answer = book.answer(request.message, NOW + 600)
    assert answer.reason == "token-expired"
    assert refused(accept_join, request, answer.reply, tmp_path / "elm" / "fleet", NOW).reason == "token-expired"
    assert not (tmp_path / "elm" / "fleet").exists()


def test_a_withdrawn_token_is_unknown(book: TokenBook, tmp_path: Path) -> None:
    kept, gone = make(book), make(book)
    assert book.withdraw(gone.keys.sign_key) == 1
    assert book.answer(ask(gone, tmp_path / "elm").message, NOW).reason == "token-unknown"
    assert book.answer(ask(kept, tmp_path / "elm").message, NOW).reason == ""
    assert book.withdraw() == 1


def test_a_guessed_secret_is_no_token(book: TokenBook, tmp_path: Path) -> None:
    forged = replace(make(book), secret=b"x" * 16)
    assert book.answer(ask(forged, tmp_path / "elm").message, NOW).reason == "token-unknown"


def test_a_proof_by_another_key_is_refused(book: TokenBook, tmp_path: Path) -> None:
    token = make(book)
    body, signatures = msgpack.unpackb(ask(token, tmp_path / "elm").message)
    signatures[0] = Keys.create().sign(body, "request to join")
    assert book.answer(msgpack.packb([body, signatures]), NOW).reason == "token-proof"


def test_nobody_gets_the_id_of_somebody_else(book: TokenBook, tmp_path: Path) -> None:
    """Who holds a token, but not the victim's signing key, cannot have the victim's id bound to a CURVE key of his
    own.
    """
    token, victim, thief = make(book), Keys.create(), Keys.create()
    body = msgpack.packb([1, token.fleet, token.keys.sign_key, [["node", "elm", victim.sign_key, thief.curve_key]]])
    message = msgpack.packb([body, [token.keys.sign(body, "request to join"), thief.sign(body, "request to join")]])
    assert book.answer(message, NOW).reason == "token-proof"


def test_a_client_token_admits_no_node(book: TokenBook, tmp_path: Path) -> None:
    token = make(book, role="client")
    assert refused(ask, token, tmp_path / "elm").reason == "token-role"
    lying = ask(replace(token, role="node"), tmp_path / "elm")
    assert book.answer(lying.message, NOW).reason == "token-role"
    client = request_join(token, [(tmp_path / "elm" / "client", "client", "me")])
    assert book.answer(client.message, NOW).admitted[0].role == "client"


def test_the_issuer_keeps_no_secret_that_would_admit(book: TokenBook, fleet: Fleet) -> None:
    token = make(book)
    stored = (fleet.directory / "tokens").read_bytes()
    assert token.secret not in stored and token.keys.sign_seed not in stored
    assert (fleet.directory / "tokens").stat().st_mode & 0o077 == 0


def test_old_tokens_are_forgotten_and_their_number_is_bounded(book: TokenBook, monkeypatch: pytest.MonkeyPatch) -> None:
    make(book)
    book.issue(NOW + 600 + bounds.TOKEN_KEPT_S + 1, issuer_key=ISSUER_KEY, endpoints=ENDPOINTS)
    assert len(book.entries()) == 1
    monkeypatch.setattr(bounds, "TOKENS_COUNT_MAX", 3)
    make(book), make(book)
    assert refused(make, book).reason == "too-many"


@pytest.mark.parametrize(
    "wishes",
    [{"uses": 0}, {"ttl_s": 0}, {"role": "king"}, {"grants": ["A B"]}, {"uses": 10**6}],
    ids=["no-use", "no-time", "role", "grant", "uses"],
)
def test_tokens_that_cannot_be_are_not_made(book: TokenBook, wishes: dict[str, object]) -> None:
    assert refused(make, book, **wishes).reason == "bad-token"


@pytest.mark.parametrize("endpoint", ["oak", "oak:0", "oak:99999", "[fe80::1%eth0]:7400", "a b:1", ":7400"])
def test_endpoints_that_nobody_could_reach_are_refused(book: TokenBook, endpoint: str) -> None:
    assert refused(book.issue, NOW, issuer_key=ISSUER_KEY, endpoints=[endpoint]).reason == "bad-token"


def test_only_a_home_that_administers_issues_and_redeems(book: TokenBook, fleet: Fleet, tmp_path: Path) -> None:
    request = ask(make(book), tmp_path / "elm")
    joined, _ = accept_join(request, book.answer(request.message, NOW).reply, tmp_path / "elm" / "fleet", NOW)
    assert refused(make, TokenBook(joined)).reason == "not-admin"
    assert TokenBook(joined).answer(request.message, NOW).reason == "not-admin"


def test_another_fleet_cannot_pass_for_the_issuer(book: TokenBook, tmp_path: Path) -> None:
    """A machine in between answers in its own name, or with the true fleet's public parts and its own signature."""
    request = ask(make(book), tmp_path / "elm")
    answer = book.answer(request.message, NOW)
    evil = create_fleet(tmp_path / "evil")
    fields, _ = unseal(REPLY, answer.reply, REPLY_ORDER, bounds.JOIN_REPLY_BYTES_MAX)
    key = evil.require_admin()
    home = tmp_path / "elm" / "fleet"
    signed_by_evil = seal(REPLY, fields, key, bounds.JOIN_REPLY_BYTES_MAX)
    own_founder = seal(REPLY, {**fields, "founder": key.verify_key.encode()}, key, bounds.JOIN_REPLY_BYTES_MAX)
    for reply in (signed_by_evil, own_founder, TokenBook(evil).answer(request.message, NOW).reply):
        assert refused(accept_join, request, reply, home, NOW).reason in ("bad-reply", "wrong-fleet")
    assert not home.exists() and not (tmp_path / "elm" / "node" / "certificate").exists()


def test_a_reply_to_somebody_else_is_not_believed(book: TokenBook, tmp_path: Path) -> None:
    token = make(book, uses=2)
    elm, fir = ask(token, tmp_path / "elm"), ask(token, tmp_path / "fir")
    reply = book.answer(fir.message, NOW).reply
    assert refused(accept_join, elm, reply, tmp_path / "elm" / "fleet", NOW).reason == "bad-reply"


def test_a_wrong_clock_of_the_joiner_is_named(book: TokenBook, tmp_path: Path) -> None:
    request = ask(make(book), tmp_path / "elm")
    error = refused(
        accept_join, request, book.answer(request.message, NOW).reply, tmp_path / "elm" / "fleet", NOW - 3600
    )
    assert error.reason == "not-yet-valid" and "clock" in error.hint


def test_a_home_with_another_fleet_is_replaced_only_when_asked(book: TokenBook, fleet: Fleet, tmp_path: Path) -> None:
    home = tmp_path / "elm" / "fleet"
    alone = create_fleet(home)
    request = ask(make(book), tmp_path / "elm")
    reply = book.answer(request.message, NOW).reply
    assert refused(accept_join, request, reply, home, NOW).reason == "exists"
    joined, _ = accept_join(request, reply, home, NOW, replace=True)
    assert joined.id == fleet.id
    assert Fleet.load(home.with_name(f"fleet.{alone.name}.1")).is_admin, "its admin key is kept"


def test_joining_again_keeps_what_is_known(book: TokenBook, fleet: Fleet, tmp_path: Path) -> None:
    home = tmp_path / "elm" / "fleet"
    request = ask(make(book), tmp_path / "elm")
    joined, _ = accept_join(request, book.answer(request.message, NOW).reply, home, NOW)
    gone = enroll(fleet, tmp_path / "oak" / "n", "node", "ash", [], NOW).id
    joined.trust.apply_revocation(fleet.revoke(gone, NOW))
    request = ask(make(book), tmp_path / "elm", name="elm-2")
    again, credentials = accept_join(request, book.answer(request.message, NOW).reply, home, NOW)
    assert again.trust.revoked(gone) and credentials[0].identity.name == "elm-2"


def test_a_joiner_learns_revocations_and_replaced_admins_with_the_reply(
    book: TokenBook, fleet: Fleet, tmp_path: Path
) -> None:
    other = create_fleet(tmp_path / "second")
    fleet.add_admin(other.admin_public_key or b"", "second")
    gone = enroll(fleet, tmp_path / "oak" / "n", "node", "ash", [], NOW).id
    fleet.revoke(gone, NOW)
    request = ask(make(book), tmp_path / "elm")
    joined, _ = accept_join(request, book.answer(request.message, NOW).reply, tmp_path / "elm" / "fleet", NOW)
    assert [admin.name for admin in joined.trust.admins] == ["oak", "second"]
    assert joined.trust.revoked(gone)


def test_revoked_keys_do_not_come_back_by_a_token(book: TokenBook, fleet: Fleet, tmp_path: Path) -> None:
    token = make(book, uses=5)
    request = ask(token, tmp_path / "elm")
    _, (node, _) = accept_join(request, book.answer(request.message, NOW).reply, tmp_path / "elm" / "fleet", NOW)
    fleet.revoke(node.id, NOW)
    answer = book.answer(ask(token, tmp_path / "elm").message, NOW)
    assert answer.reason == "revoked"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 10**6), st.integers(1, 255))
def test_no_bytes_break_issuer_or_joiner(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, flip: int
) -> None:
    root = tmp_path_factory.getbasetemp() / "hostile"
    fleet = create_fleet(root / "oak")
    book = TokenBook(fleet)
    book.withdraw()
    request = ask(make(book), root / "elm")
    flipped = bytearray(request.message)
    flipped[at % len(flipped)] ^= flip
    for message in (noise, bytes(flipped)):
        answer = book.answer(message, NOW)
        assert answer.reason in REFUSALS and not answer.admitted
    good = book.answer(request.message, NOW).reply
    flipped = bytearray(good)
    flipped[at % len(flipped)] ^= flip
    for reply in (noise, bytes(flipped), answer.reply):
        refused(accept_join, request, reply, root / "home", NOW)
    assert not (root / "home").exists()


def test_a_damaged_book_is_said_to_be_one(book: TokenBook, fleet: Fleet, tmp_path: Path) -> None:
    request = ask(make(book), tmp_path / "elm")
    path = fleet.directory / "tokens"
    path.write_bytes(path.read_bytes()[:-3])
    assert refused(book.entries).path == path
    assert book.answer(request.message, NOW).reason == "unwritable"
