"""Datagrams between members arrive, whole and once; everything else is refused with its reason, and never raises."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_secretbox

from swarm.protocol.membership_config import CRYPTO_BYTES_MAX, PAYLOAD_BYTES_MAX
from tests.lab.fleet import LabFleet
from transport import bounds
from transport.datagrams import REFUSALS, Datagrams
from transport.identity import Credentials, Trust
from transport.replay import ReplayWindow
from transport.revocation import revoke

FLEET = LabFleet(b"a")
OTHER = LabFleet(b"b")
ANN = FLEET.member("ann")
BOB = FLEET.member("bob")


class End:
    """One end: its datagrams, and what came of them."""

    def __init__(
        self,
        credentials: Credentials,
        trust: Trust | None = None,
        *,
        boot: int | None = None,
        clock: Callable[[], float] | None = None,
    ):
        self.got: list[tuple[tuple[str, int], str, bytes]] = []
        self.refusals: Counter[str] = Counter()
        self.trust = trust or FLEET.trust()
        more = {"clock": clock} if clock else {}
        self.datagrams = Datagrams(credentials, self.trust, self._take, self._refused, boot=boot, **more)
        self.address = ("", 0)

    def _take(self, source, sender, payload):
        self.got.append((source, sender.name, payload))

    def _refused(self, reason, facts):
        assert reason in REFUSALS
        self.refusals[reason] += 1

    async def __aenter__(self) -> End:
        self.address = ("127.0.0.1", await self.datagrams.open(["127.0.0.1"]))
        return self

    async def __aexit__(self, *_) -> None:
        self.datagrams.close()

    async def until(self, done: Callable[[End], object]) -> None:
        async with asyncio.timeout(60):
            while not done(self):
                await asyncio.sleep(0.002)


def wire(packets: list[bytes]) -> Callable[..., bool]:
    """A stand-in for `_transmit` that collects."""

    def transmit(address, packet):
        packets.append(packet)
        return True

    return transmit


def sent_by(end: End, to: bytes | None, *payloads: bytes) -> list[bytes]:
    packets: list[bytes] = []
    end.datagrams._transmit = wire(packets)
    for payload in payloads:
        end.datagrams.send(("127.0.0.1", 1), to, payload)
    return packets


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(body())


def test_strangers_of_one_fleet_meet_and_then_seal():
    async def body():
        async with End(ANN) as ann, End(BOB) as bob:
            assert ann.datagrams.send(bob.address, None, b"who is there?")
            await bob.until(lambda end: end.got)
            assert bob.got == [(ann.address, "ann", b"who is there?")]
            assert bob.datagrams.send(ann.address, ANN.id, b"bob")
            await ann.until(lambda end: end.got)
            assert ann.got == [(bob.address, "bob", b"bob")]
            for _ in range(3):
                ann.datagrams.send(bob.address, BOB.id, b"x" * bounds.DATAGRAM_PAYLOAD_BYTES_MAX)
            await bob.until(lambda end: len(end.got) == 4)
            assert not ann.refusals and not bob.refusals

    run(body)


def test_the_certificate_travels_only_until_the_peer_seals():
    ann, bob = End(ANN), End(BOB)
    ann.datagrams.learn(BOB.id, BOB.certificate)
    first, second = sent_by(ann, BOB.id, b"1", b"1")
    assert len(first) == len(second) > len(ANN.certificate)
    bob.datagrams._receive(first, ("127.0.0.1", 9))
    (reply,) = sent_by(bob, ANN.id, b"2")
    ann.datagrams._receive(reply, ("127.0.0.1", 8))
    (third,) = sent_by(ann, BOB.id, b"1")
    assert len(third) < len(ANN.certificate)
    bob.datagrams._receive(third, ("127.0.0.1", 9))
    assert [payload for _, _, payload in bob.got] == [b"1", b"1"]
    assert not ann.refusals and not bob.refusals


def test_a_payload_that_leaves_no_room_for_the_certificate_follows_it():
    ann, bob = End(ANN), End(BOB)
    whole = b"y" * bounds.DATAGRAM_PAYLOAD_BYTES_MAX
    packets = sent_by(ann, None, whole)
    assert len(packets) == 2 and max(map(len, packets)) <= bounds.DATAGRAM_BYTES_MAX
    for packet in packets:
        bob.datagrams._receive(packet, ("127.0.0.1", 9))
    assert [payload for _, _, payload in bob.got] == [whole]


def test_a_peer_that_forgot_us_is_reminded():
    now = [0.0]
    ann, bob = End(ANN, clock=lambda: now[0]), End(BOB)
    ann.datagrams.learn(BOB.id, BOB.certificate)
    bob.datagrams.learn(ANN.id, ANN.certificate)
    ann.datagrams._receive(sent_by(bob, ANN.id, b"hi")[0], ("127.0.0.1", 8))
    reborn = End(BOB)  # with the same keys, and no memory
    reborn.datagrams._receive(sent_by(ann, BOB.id, b"?")[0], ("127.0.0.1", 9))
    assert reborn.refusals == {"unknown-sender": 1}
    now[0] += bounds.DATAGRAM_INTRODUCE_S + 0.1
    reborn.datagrams._receive(sent_by(ann, BOB.id, b"?")[0], ("127.0.0.1", 9))
    assert [payload for _, _, payload in reborn.got] == [b"?"]


def test_another_fleet_is_foreign():
    stranger, bob = End(OTHER.member("eve"), OTHER.trust()), End(BOB)
    for packet in sent_by(stranger, None, b"hello"):
        bob.datagrams._receive(packet, ("127.0.0.1", 9))
    assert bob.refusals == {"foreign": 1} and not bob.got


def test_what_is_sealed_for_one_is_not_readable_by_another_member():
    ann, eve = End(ANN), End(FLEET.member("eve"))
    ann.datagrams.learn(BOB.id, BOB.certificate)
    eve.datagrams._receive(sent_by(ann, BOB.id, b"secret")[0], ("127.0.0.1", 9))
    assert eve.refusals == {"forged": 1} and not eve.got


def test_a_replay_is_refused_even_with_a_new_head_by_somebody_who_has_the_fleets_secret():
    ann, bob = End(ANN), End(BOB)
    ann.datagrams.learn(BOB.id, BOB.certificate)
    for to in (BOB.id, None):
        (packet,) = sent_by(ann, to, b"once")
        bob.got.clear()
        bob.refusals.clear()
        for _ in range(2):
            bob.datagrams._receive(packet, ("127.0.0.1", 9))
        assert len(bob.got) == 1 and bob.refusals == {"replayed": 1}
        from nacl.bindings import crypto_secretbox_open

        nonce = packet[:24]
        plain = bytearray(crypto_secretbox_open(packet[24:], nonce, bob.trust.secret))
        plain[32] += 1  # the counter
        bob.datagrams._receive(nonce + crypto_secretbox(bytes(plain), nonce, bob.trust.secret), ("127.0.0.1", 9))
        assert len(bob.got) == 1 and bob.refusals["forged"] == 1


def test_a_revoked_member_is_cut_off_at_the_next_datagram():
    ann, bob = End(ANN), End(BOB)
    ann.datagrams.learn(BOB.id, BOB.certificate)
    bob.datagrams._receive(sent_by(ann, BOB.id, b"1")[0], ("127.0.0.1", 9))
    bob.trust.apply_revocation(revoke(FLEET.admin, FLEET.chain.fleet, ANN.id, at_s=1.0))
    bob.datagrams._receive(sent_by(ann, BOB.id, b"2")[0], ("127.0.0.1", 9))
    bob.datagrams._receive(sent_by(ann, None, b"3")[0], ("127.0.0.1", 9))
    assert len(bob.got) == 1 and bob.refusals == {"revoked": 2}
    assert bob.datagrams.learn(ANN.id, ANN.certificate) is None


def test_nobody_introduces_himself_with_the_certificate_of_another():
    eve = FLEET.member("eve")
    forger = End(eve)
    forger.datagrams._credentials = _Mixed(ANN, eve)
    bob = End(BOB)
    bob.datagrams._receive(sent_by(forger, None, b"I am ann")[0], ("127.0.0.1", 9))
    assert bob.refusals == {"forged": 1} and bob.datagrams.peers == 0
    assert bob.datagrams.learn(eve.id, ANN.certificate) is None
    assert bob.refusals["key-mismatch"] == 1


class _Mixed:
    """The public part of one member, the secrets of another."""

    def __init__(self, shown: Credentials, own: Credentials) -> None:
        self.id, self.certificate = shown.id, shown.certificate
        self.sign, self.curve_secret = own.sign, own.curve_secret


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=1400))
def test_noise_never_raises(packet):
    bob = End(BOB)
    bob.datagrams._receive(packet, ("127.0.0.1", 9))
    assert sum(bob.refusals.values()) == 1 and not bob.got


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 255), st.booleans())
def test_noise_of_a_member_never_raises(rest, form, known):
    bob = End(BOB)
    if known:
        bob.datagrams.learn(ANN.id, ANN.certificate)
    plain = (ANN.id + bytes([form]) + rest) if form % 3 else rest
    nonce = b"n" * 24
    bob.datagrams._receive(nonce + crypto_secretbox(plain, nonce, bob.trust.secret), ("127.0.0.1", 9))
    assert sum(bob.refusals.values()) == 1 and not bob.got


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 600), st.booleans()), max_size=80))
def test_the_window_takes_each_counter_at_most_once(arrivals):
    window, taken = ReplayWindow(), set()
    for counter, _ in arrivals:
        top = max(taken, default=-1)
        fits = counter not in taken and counter > top - bounds.DATAGRAM_WINDOW_COUNT
        assert window.admit(7, counter, 0.0) == fits
        if fits:
            taken.add(counter)


def test_an_earlier_boot_is_a_replay_while_its_sender_talks_and_a_set_back_clock_after():
    window = ReplayWindow()
    assert window.admit(100, 5, 0.0)
    assert not window.admit(99, 6, 1.0)
    assert window.admit(101, 1, 2.0)
    assert not window.admit(100, 7, 3.0)
    assert window.admit(50, 1, 2.0 + bounds.DATAGRAM_SILENCE_S)


def test_keys_of_strangers_are_bounded_and_kept_ones_stay(monkeypatch):
    monkeypatch.setattr(bounds, "DATAGRAM_PEERS_COUNT_MAX", 3)
    bob = End(BOB)
    bob.datagrams.learn(ANN.id, ANN.certificate)
    for n in range(6):
        bob.datagrams._receive(sent_by(End(FLEET.member(f"n{n}")), None, b"x")[0], ("127.0.0.1", 9))
    assert len(bob.got) == 6 and bob.datagrams.peers == 3
    assert ANN.id in bob.datagrams._peers
    bob.datagrams.forget(ANN.id)
    for n in range(6, 9):
        bob.datagrams._receive(sent_by(End(FLEET.member(f"n{n}")), None, b"x")[0], ("127.0.0.1", 9))
    assert ANN.id not in bob.datagrams._peers


def test_a_flood_does_not_hold_up_the_loop():
    async def body():
        async with End(BOB) as bob:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                for _ in range(150):
                    out.sendto(b"noise", bob.address)
                out.sendto(b"o" * 1500, bob.address)
            seen = []
            while sum(bob.refusals.values()) < 151:
                await asyncio.sleep(0)
                seen.append(sum(bob.refusals.values()))
            steps = [b - a for a, b in zip([0, *seen], seen)]
            assert max(steps) <= bounds.DATAGRAM_DRAIN_COUNT_MAX
            assert bob.refusals == {"foreign": 150, "oversize": 1}

    run(body)


def test_unreachable_addresses_are_a_lost_datagram():
    async def body():
        async with End(ANN) as ann:
            for address in [
                ("::1", 9),
                ("not an address", 9),
                ("fe80::1%nosuch0", 9),
                ("127.0.0.1", 70000),
                ("127.0.0.1", 0),
            ]:
                assert not ann.datagrams.send(address, None, b"x")
            assert ann.refusals == {"unsent": 5}

    run(body)


def test_one_port_for_all_hosts_and_a_taken_one_is_an_error():
    async def body():
        got = []
        first = Datagrams(ANN, FLEET.trust(), lambda *a: got.append(a), lambda *a: None)
        port = await first.open(["127.0.0.1", "127.0.0.2", "::1"])
        assert {bound.getsockname()[1] for bound in first._sockets} == {port}
        second = Datagrams(BOB, FLEET.trust(), lambda *a: None, lambda *a: None)
        with pytest.raises(OSError, match="in use"):
            await second.open(["127.0.0.3", "127.0.0.1"], port)
        assert not second._sockets
        first.close()
        first.close()

    run(body)


def test_a_rebind_keeps_peers_and_counters_and_one_that_can_not_be_changes_nothing():
    async def body():
        async with End(ANN, boot=7) as ann, End(BOB, boot=7) as bob:
            port = ann.address[1]
            ann.datagrams.send(bob.address, None, b"before")
            await bob.until(lambda end: len(end.got) == 1)
            await ann.datagrams.rebind(["0.0.0.0"], port)
            ann.datagrams.send(bob.address, BOB.id, b"after")
            await bob.until(lambda end: len(end.got) == 2)
            assert ann.datagrams._boot == 7 and not bob.refusals, "neither a new start nor a replay"
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.bind(("127.0.0.9", port := _free_port_of("127.0.0.9", "127.0.0.1")))
                carl = Datagrams(FLEET.member("carl"), FLEET.trust(), lambda *a: heard.append(a), lambda *a: None)
                heard: list[object] = []
                await carl.open(["127.0.0.1"], port)
                with pytest.raises(OSError, match="in use"):
                    await carl.rebind(["0.0.0.0"], port)
                bob.datagrams.send(("127.0.0.1", port), None, b"still there?")
                async with asyncio.timeout(60):
                    while not heard:
                        await asyncio.sleep(0.002)
                carl.close()

    run(body)


def _free_port_of(*hosts: str) -> int:
    """A port that is free on all of them now."""
    while True:
        with contextlib.ExitStack() as stack:
            port = 0
            try:
                for host in hosts:
                    bound = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    bound.bind((host, port))
                    port = bound.getsockname()[1]
            except OSError:
                continue
            return port


def test_under_uvloop_too():
    uvloop = pytest.importorskip("uvloop")

    async def body():
        async with End(ANN) as ann, End(BOB) as bob:
            for n in range(100):
                ann.datagrams.send(bob.address, None, b"%d" % n)
            await bob.until(lambda end: len(end.got) == 100)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body())


def test_the_largest_datagram_that_membership_makes_can_be_sent():
    # They had differed by 17 bytes: a node that had much to tell of itself and others failed in the middle of a turn.
    assert PAYLOAD_BYTES_MAX <= bounds.DATAGRAM_PAYLOAD_BYTES_MAX
    assert CRYPTO_BYTES_MAX + PAYLOAD_BYTES_MAX == bounds.DATAGRAM_BYTES_MAX
    ann, bob = End(ANN), End(BOB)
    for packet in sent_by(ann, None, b"z" * PAYLOAD_BYTES_MAX):
        bob.datagrams._receive(packet, ("127.0.0.1", 9))
    assert [len(payload) for _, _, payload in bob.got] == [PAYLOAD_BYTES_MAX]
