"""Nobody gets further than the rules allow: garbage, lies and silence are counted, cut, and cost the others nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from conftest import World, until
from raw_peer import raw_peer

from transport import bounds, framing
from transport.links import LinkSettings

Run = Callable[..., Any]
MakeWorld = Callable[[], contextlib.AbstractAsyncContextManager[World]]
QUICK = LinkSettings(handshake_timeout_s=0.4, keepalive_tick_s=0.05, linger_s=0.2)
PATIENT = LinkSettings(keepalive_tick_s=0.05, linger_s=0.2)
"""Where it is the bytes that have to end a connection: on a busy machine a handshake of 0.4 s ends it before them."""


def _deep(depth: int) -> bytes:
    return b"\x81\xa4info" + b"\x81\xa1x" * depth + b"\xc0"


def _data(rest: int, count: int, body: bytes, acked: tuple[int, int] = (0, 0)) -> bytes:
    return struct.pack("<IBBHQQII", rest, framing.DATA, 0, 0, *acked, count, 0) + body


def _whole(count: int, body: bytes, acked: tuple[int, int] = (0, 0)) -> bytes:
    return _data(framing.DATA_BYTES - 4 + len(body), count, body, acked)


STRANGERS = {
    "type 0": framing.control(0, b"x" * 20),
    "data first": framing.data([b"let me in"], 0, 0),
    "proof first": framing.control(framing.PROOF, bytes(64)),
    "empty hello": framing.control(framing.HELLO),
    "noise for a hello": framing.control(framing.HELLO, os.urandom(500)),
    "a hello that is a number": framing.control(framing.HELLO, msgpack.packb(7)),
    "a hello with no fields": framing.control(framing.HELLO, msgpack.packb({})),
    "a hello that nests": framing.control(framing.HELLO, _deep(2000)),
    "a hello that claims 4 G entries": framing.control(framing.HELLO, b"\xdf\xff\xff\xff\xff"),
    "a hello that claims 4 GB": framing.control(framing.HELLO, b"\x81\xa4cert\xc6\xff\xff\xff\xff"),
    "a hello of 17 KiB": framing.control(framing.HELLO, bytes(17 * bounds.KIB)),
    "a join of 9 KiB": framing.control(framing.JOIN, bytes(9 * bounds.KIB)),
    "joined": framing.control(framing.JOINED, b"welcome"),
}
"""What somebody without a certificate may try, each as a whole frame."""

MEMBERS = {
    "no such type": framing.control(99),
    "hello again": framing.control(framing.HELLO, b"x"),
    "no head of data": framing.control(framing.DATA),
    "no message": _whole(0, b""),
    "5000 messages": _whole(5000, bytes(20_000)),
    "lengths cut off": _whole(100, bytes(50)),
    "a length too long": _whole(1, b"\xff\xff\xff\xff" + b"abc"),
    "a length too short": _whole(1, b"\x01\x00\x00\x00" + b"abc"),
    "lengths that add up to more": _whole(2, struct.pack("<II", 1, 0xFFFFFFFF) + b"ab"),
    "lengths that add up to less": _whole(2, struct.pack("<II", 1, 1) + b"abc"),
    "credit for nothing": framing.credit(framing.CREDIT, 1, 0),
    "credit for messages that were not": framing.credit(framing.PING, 0, 1),
    "credit with data": _whole(1, b"\x01\x00\x00\x00a", (1 << 63, 1 << 63)),
    "short credit": framing.control(framing.CREDIT, b"1234"),
}
"""What a member that is broken or taken over may try after its hello."""


@pytest.mark.parametrize("attempt", STRANGERS)
def test_a_stranger_is_refused(run: Run, world: MakeWorld, attempt: str) -> None:
    async def main() -> None:
        async with world() as w:
            far = await w.listening("anna", settings=PATIENT)
            stranger = await raw_peer(w, far).open()
            stranger.send(STRANGERS[attempt])
            await until(lambda: far.seen.refusals)
            assert [reason for reason, _ in far.seen.refusals] == ["malformed"]
            await until(lambda: stranger.ended)
            assert not far.seen.links
            if stranger.heard:
                type, body = framing.read_unverified(stranger.heard[0])
                assert (type, framing.read_reason(body)[0]) == (framing.REFUSED, "malformed")
            stranger.close()

    run(main())


@pytest.mark.parametrize("attempt", MEMBERS)
def test_a_member_that_breaks_the_rules_is_dropped_alone(run: Run, world: MakeWorld, attempt: str) -> None:
    async def main() -> None:
        async with world() as w:
            far, near, out, _ = await w.pair(settings=PATIENT)
            rogue = await raw_peer(w, far).open()
            await rogue.shake_hands()
            rogue.send(framing.data([b"fine so far"], 0, 0))
            await until(lambda: far.seen.messages == [b"fine so far"])
            rogue.send(MEMBERS[attempt])
            rogue.send(framing.data([b"as if nothing had happened"], 0, 0))
            await until(lambda: far.seen.down)
            assert [(link.identity.id, why) for link, why in far.seen.down] == [(rogue.credentials.id, "violation")]
            assert [reason for reason, _ in far.seen.refusals] in (["malformed"], ["credit"])
            assert far.seen.refusals[0][1]["name"] == "mallory"
            await until(lambda: rogue.ended)
            out.send(b"unharmed")
            await until(lambda: far.seen.messages[-1] == b"unharmed")
            assert far.seen.messages == [b"fine so far", b"unharmed"]
            assert not near.seen.down
            rogue.close()

    run(main())


def test_who_says_nothing_is_cut(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far = await w.listening("anna", settings=QUICK)
            silent = await raw_peer(w, far).open()
            await until(lambda: silent.ended)
            silent.close()
            assert not far.seen.links

    run(main())


def test_unknown_fields_in_a_hello_are_ignored(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far = await w.listening("anna")
            peer = await raw_peer(w, far).open()
            original = peer.hello().pack
            fields = {**msgpack.unpackb(original()), "from the future": [1, {"a": b"b"}], "flags": 7}

            class Future:
                versions = (1, 1)

                def pack(self) -> bytes:
                    return bytes(msgpack.packb(fields))

            peer.hello = lambda **changes: Future()  # type: ignore[method-assign, assignment, return-value]
            await peer.shake_hands()
            peer.send(framing.data([b"hello"], 0, 0))
            await until(lambda: far.seen.messages == [b"hello"])
            assert not far.seen.refusals
            peer.close()

    run(main())


def test_a_flood_of_refusals_is_summed_up(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far = await w.listening("anna")
            for _ in range(200):
                far.links.switch.refuse("malformed", address="somewhere")
            assert len(far.seen.refusals) <= bounds.REFUSALS_REPORTED_PER_S_MAX + 10
            await asyncio.sleep(0.1)
            far.links.switch.refuse("malformed", address="somewhere")
            assert int(str(far.seen.refusals[-1][1]["suppressed"])) > 100

    run(main())


@pytest.mark.parametrize("reach", ["zmq"])
def test_bytes_that_are_not_zeromq_harm_nobody(run: Run, world: MakeWorld, reach: str) -> None:
    async def main() -> None:
        async with world() as w:
            far, _near, out, _ = await w.pair(settings=dataclasses.replace(QUICK, handshake_timeout_s=2.0))
            port = int(far.endpoint.rpartition(":")[2])
            strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
            for i, stranger in enumerate(strangers):
                with contextlib.suppress(OSError):
                    stranger.sendall(
                        [b"GET / HTTP/1.1\r\n\r\n", os.urandom(3000), b"", b"\xff" + bytes(8) + b"\x7f"][i % 4]
                    )
            out.send(b"unharmed")
            await until(lambda: far.seen.messages == [b"unharmed"])
            await until(lambda: far.links._router.connections == 1)
            for stranger in strangers:
                stranger.close()

    run(main())


@pytest.mark.parametrize("reach", ["zmq"])
def test_parts_without_end_are_refused(run: Run, world: MakeWorld, reach: str) -> None:
    async def main() -> None:
        async with world() as w:
            far = await w.listening("anna", settings=PATIENT)
            stranger = await raw_peer(w, far).open()
            stranger.send(stranger_hello := framing.control(framing.HELLO, b"x"), *[b"more"] * 5000)
            await until(lambda: far.seen.refusals)
            await until(lambda: stranger.ended)
            stranger.close()
            rogue = await raw_peer(w, far, "rogue").open()
            await rogue.shake_hands()
            rogue.send(stranger_hello, *[b"more"] * 5000)
            await until(lambda: far.seen.down)
            assert far.seen.down[0][1] == "violation"
            rogue.close()

    run(main())


@pytest.mark.parametrize("reach", ["stream"])
def test_a_frame_longer_than_any_is_not_waited_for(run: Run, world: MakeWorld, reach: str) -> None:
    async def main() -> None:
        async with world() as w:
            far = await w.listening("anna")
            stranger = await raw_peer(w, far).open()
            stranger.send(struct.pack("<I", bounds.HELLO_BYTES_MAX * 8))
            await until(lambda: stranger.ended)
            stranger.close()
            rogue = await raw_peer(w, far, "rogue").open()
            await rogue.shake_hands()
            rogue.send(struct.pack("<I", bounds.FRAME_BYTES_MAX + 1))
            await until(lambda: far.seen.down)
            await until(lambda: rogue.ended)
            rogue.close()
            assert [reason for reason, _ in far.seen.refusals] == ["malformed", "malformed"]

    run(main())
