"""The door of the bulk lane between hosts: who comes in, and who does not."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.bulk_sides import HOST, Pair, Side, until
from tests.contract.conftest import Fleet
from transport import bounds
from transport.bulk import BulkFailed, Memory, Route, Verb, ask
from transport.bulk_client import Transfer
from transport.identity import Untrusted
from transport.tls import TlsIdentity, read_announcement
from transport.tls_wires import TlsWires


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair("tls", tmp_path)
    yield made
    made.close()


def knock(pair: Pair, first: bytes) -> bytes:
    """What a stranger hears who begins with these bytes, until it is closed."""
    with socket.create_connection((HOST, pair.holder.port), 10) as stranger:
        stranger.settimeout(20)
        heard = b""
        try:
            stranger.sendall(first)
            while more := stranger.recv(4096):
                heard += more
        except ConnectionError:
            pass
        return heard


def test_without_a_door_there_is_not_a_byte(pair: Pair) -> None:
    hello = ssl.MemoryBIO()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), hello, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    assert knock(pair, os.urandom(16) + hello.read()) == b""
    assert knock(pair, b"GET / HTTP/1.1\r\n\r\n") == b""
    until(lambda: pair.holder.refused == ["unknown"] * 2)


def test_a_stranger_that_says_nothing_is_cut(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "BULK_HANDSHAKE_TIMEOUT_S", 0.3)
    assert knock(pair, b"") == b""
    assert knock(pair, b"half a door"[:8]) == b""
    until(lambda: len(pair.holder.refused) == 2)


def test_so_many_strangers_and_no_more(pair: Pair) -> None:
    waiting = [
        socket.create_connection((HOST, pair.holder.port), 10) for _ in range(bounds.BULK_UNPROVEN_COUNT_MAX + 5)
    ]
    until(lambda: pair.holder.refused.count("busy") >= 5)
    assert threading.active_count() < bounds.BULK_UNPROVEN_COUNT_MAX + 20
    for one in waiting:
        one.close()
    until(lambda: not pair.holder.wires._unproven)
    assert reads(pair)


def reads(pair: Pair) -> bool:
    """Whether a good member is served."""
    path = pair.file(1000)
    transfer, view = pair.reading(path)
    transfer.wait(20)
    return bool(view == path.read_bytes())


def failure_of(pair: Pair, wires: Any, route: Route) -> str:
    """Why a connection made by these wires is of no use."""
    try:
        wire = wires.dial(route)
        wire.wait_s(60)
        # TLS 1.3 tells a client with the first answer what the server thinks of its certificate.
        ask(wire, Verb.READ, pair.offer(pair.file(10)), 0, 10)
    except BulkFailed as failure:
        return failure.reason
    raise AssertionError("it was let in")


def test_a_certificate_that_was_not_announced_is_refused(pair: Pair) -> None:
    # The same member, even: but another key than the one that it told of.
    other = TlsWires(pair.asker.credentials)
    assert failure_of(pair, other, pair.route()) in ("untrusted", "cut")
    until(lambda: pair.holder.refused == ["untrusted"])
    assert pair.holder.server._count == 0
    assert failure_of(pair, pair.third().wires, pair.route()) in ("untrusted", "cut")
    assert reads(pair)


def test_no_certificate_at_all_is_refused(pair: Pair) -> None:
    route = pair.route()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((HOST, pair.holder.port), 10) as raw:
        raw.sendall(route.door)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            with context.wrap_socket(raw) as wrapped:
                if not wrapped.recv(1):
                    raise ConnectionError
    until(lambda: pair.holder.refused == ["untrusted"])


def test_tls_before_1_3_is_refused(pair: Pair) -> None:
    route = pair.route()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((HOST, pair.holder.port), 10) as raw:
        raw.sendall(route.door)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(raw)
    until(lambda: pair.holder.refused == ["untrusted"])


def test_who_only_pretends_to_be_the_node_is_found_out(pair: Pair) -> None:
    # Somebody else has taken its address, and a door of his own making is shown to him.
    third = pair.third()
    told = pair.route()
    door = third.wires.admit(pair.asker.identity, pair.asker.wires.announcement())
    fake = Route(told.peer, ((HOST, third.port),), door, told.announcement)
    assert failure_of(pair, pair.asker.wires, fake) == "untrusted"
    # The next address may be the right one.
    both = Route(told.peer, ((HOST, third.port), (HOST, pair.holder.port)), told.door, told.announcement)
    wire = pair.asker.wires.dial(both)
    wire.wait_s(60)
    assert ask(wire, Verb.READ, pair.offer(pair.file(10)), 0, 10) == 10
    wire.close()


def test_a_door_counts_once_and_not_for_ever(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    route = pair.route()
    pair.asker.wires.dial(route).close()
    assert failure_of(pair, pair.asker.wires, route) == "untrusted"
    monkeypatch.setattr(bounds, "BULK_DOOR_LIFE_S", -1.0)
    assert failure_of(pair, pair.asker.wires, pair.route()) == "untrusted"


def test_doors_of_one_peer_are_bounded(pair: Pair) -> None:
    first = pair.route()
    for _ in range(bounds.BULK_TICKETS_PER_PEER_MAX + 10):
        pair.route()
    assert len(pair.holder.wires._doors) <= bounds.BULK_TICKETS_PER_PEER_MAX
    assert failure_of(pair, pair.asker.wires, first) == "untrusted"
    assert reads(pair)


def test_nothing_can_be_read_on_the_way(pair: Pair) -> None:
    secret = b"the content of the blob " * 20_000
    path = pair.file(0, secret)
    seen = bytearray()
    tap = socket.create_server((HOST, 0))

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                seen.extend(data)
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # which wakes the other thread; to close it does not

    def listen() -> None:
        near, _ = tap.accept()
        far = socket.create_connection((HOST, pair.holder.port))
        threads = [threading.Thread(target=copy, args=ends) for ends in ((near, far), (far, near))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        near.close()
        far.close()

    tapping = threading.Thread(target=listen)
    tapping.start()
    told = pair.route()
    memory, view = Memory.fresh(len(secret))
    transfer = Transfer(Verb.READ, memory)
    transfer.aim(Route(told.peer, (tap.getsockname()[:2],), told.door, told.announcement), ticket := pair.offer(path))
    pair.asker.client.start(transfer)
    transfer.wait(20)
    assert view == secret
    pair.asker.client.close()
    tapping.join(60)
    assert not tapping.is_alive()
    tap.close()
    raw = bytes(seen)
    assert len(raw) > len(secret)
    ours = (secret[:24], ticket, pair.asker.identity.id, pair.holder.identity.id, pair.holder.identity.name.encode())
    assert not [one for one in ours if one in raw]
    certificates = [read_announcement(side.wires.announcement(), side.identity) for side in pair.sides]
    assert not [one for one in certificates if one[20:60] in raw]


# -- announcements


def certificate(key: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(1))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.DER)


def announced(side: Side, der: object, signed: bytes | None = None) -> bytes:
    signature = side.credentials.sign(b"swarm tls 1\0" + (bytes(der) if signed is None else signed))  # type: ignore[call-overload]
    return bytes(msgpack.packb([der, signature]))


def test_an_announcement_is_its_member_s_own(pair: Pair) -> None:
    asker, third = pair.asker, pair.third()
    good = asker.wires.announcement()
    assert read_announcement(good, asker.identity) == msgpack.unpackb(good)[0]
    with pytest.raises(Untrusted) as caught:
        read_announcement(good, third.identity)
    assert caught.value.reason == "bad-signature"
    der = msgpack.unpackb(good)[0]
    forged = announced(third, der)
    with pytest.raises(Untrusted):
        pair.holder.wires.admit(asker.identity, forged)
    stranger = Fleet().credentials("asker")
    with pytest.raises(Untrusted):
        read_announcement(TlsIdentity(stranger).announcement(), asker.identity)


def test_an_announcement_is_one_small_certificate_of_the_one_kind(pair: Pair) -> None:
    side = pair.asker
    der = msgpack.unpackb(side.wires.announcement())[0]
    other = certificate(ec.generate_private_key(ec.SECP256R1()))
    assert read_announcement(announced(side, other), side.identity) == other
    wrong = [
        announced(side, der + other),  # OpenSSL would take both as roots
        announced(side, der[:-1]),
        announced(side, b""),
        announced(side, bytes(bounds.TLS_CERTIFICATE_BYTES_MAX + 100)),
        announced(side, certificate(ec.generate_private_key(ec.SECP384R1()))),
        announced(side, certificate(rsa.generate_private_key(65537, 2048))),
        announced(side, der, signed=der + b"x"),
        b"",
        b"\xc1",
        None,
        "text",
        bytes(msgpack.packb([der])),
        bytes(msgpack.packb([der, "x", 1])),
    ]
    for one in wrong:
        with pytest.raises(Untrusted):
            read_announcement(one, side.identity)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 3000), st.binary(min_size=1, max_size=4))
def test_any_bytes_are_refused_in_order(noise: bytes, at: int, change: bytes) -> None:
    fleet = _fleet()
    with pytest.raises(Untrusted):
        read_announcement(noise, fleet[0].identity)
    good = fleet[1]
    at %= len(good)
    bad = good[:at] + bytes(a ^ b for a, b in zip(good[at:], change)) + good[at + len(change) :]
    if bad != good:
        with pytest.raises(Untrusted):
            read_announcement(bad, fleet[0].identity)


_made: list[Any] = []


def _fleet() -> Any:
    if not _made:
        credentials = Fleet().credentials("one")
        _made.extend((credentials, TlsIdentity(credentials).announcement()))
    return _made


def test_a_key_is_renewed_before_its_certificate_ends() -> None:
    now = [time.time()]
    credentials = Fleet().credentials("one")
    tls = TlsIdentity(credentials, lambda: now[0])
    first = tls.announcement()
    assert tls.announcement() == first
    now[0] += bounds.TLS_CERTIFICATE_LIFE_S - bounds.TLS_CERTIFICATE_RENEW_S - 1
    assert tls.announcement() == first
    now[0] += 2
    second = tls.announcement()
    assert second != first
    made = x509.load_der_x509_certificate(read_announcement(second, credentials.identity))
    assert made.not_valid_after_utc.timestamp() > now[0] + bounds.TLS_CERTIFICATE_RENEW_S
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_no_key_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delattr(os, "memfd_create")  # a system without files in memory
    pair = Pair("tls", tmp_path)
    try:
        assert reads(pair)
        assert not list(tmp_path.glob("swarm-tls-*"))
    finally:
        pair.close()
