"""What every reach promises: the same tests over memory, Unix streams and ZeroMQ."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import re
import resource
import sys
import time
from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Fleet, World, both_loops, until, with_other_keys

from transport import bounds
from transport.links import HandshakeFailed, LinkClosed, LinkOverflow, LinkSettings

Run = Callable[..., Any]
MakeWorld = Callable[[], contextlib.AbstractAsyncContextManager[World]]
BRIEF = LinkSettings(keepalive_idle_s=0.2, keepalive_silence_s=0.6, keepalive_tick_s=0.05, linger_s=0.2)


def test_peers_know_each_other(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far = await w.listening("anna", info={"listen": ["tcp://10.0.0.1:1"]}, boot=b"anna-bo1")
            near = w.peer("bert", boot=b"bert-bo1")
            link = await w.dial(near, far, expect=far.credentials.id)
            await until(lambda: far.seen.links)
            other = far.seen.links[0]
            assert link.identity == far.credentials.identity
            assert other.identity == near.credentials.identity
            assert (link.boot, other.boot) == (b"anna-bo1", b"bert-bo1")
            assert link.info["listen"] == ["tcp://10.0.0.1:1"]
            assert (link.dialled, other.dialled) == (True, False)
            assert link.reach == {"memory": "memory", "stream": "host", "zmq": "lan"}[w.reach]
            assert near.seen.links == [link]
            assert link.up
            assert other.up

    run(main())


@both_loops
def test_messages_arrive_in_order_and_in_batches(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, near, out, back = await w.pair()
            sent = [f"{i}".encode() * (i % 50) for i in range(20_000)]
            for i, message in enumerate(sent):
                out.send(message)
                back.send(message)
                if i % 3000 == 0:
                    await asyncio.sleep(0)
            await until(lambda: len(far.seen.messages) == len(near.seen.messages) == len(sent))
            assert far.seen.messages == sent
            assert near.seen.messages == sent
            assert len(far.seen.batches) < len(sent) / 100, "a frame for each of many small messages"
            assert max(far.seen.batches) <= bounds.BATCH_COUNT_MAX
            assert not far.seen.refusals
            assert not near.seen.refusals

    run(main())


@both_loops
def test_large_messages_cross_whole(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, _near, out, _ = await w.pair()
            large = os.urandom(8 * bounds.MIB)
            numbers = array.array("I", range(100_000))
            out.send(b"before")
            out.send(b"head", large, bytearray(b"tail"))
            out.send(memoryview(numbers))
            out.send(*[b"%06d" % i for i in range(20_000)])
            out.send(b"")
            out.send(large[: bounds.SMALL_BYTES_MAX])
            out.send(large[: bounds.SMALL_BYTES_MAX + 1])
            out.send(b"after")
            await until(lambda: len(far.seen.messages) == 8)
            first, second, third, fourth, fifth, sixth, seventh, last = far.seen.messages
            assert first == b"before"
            assert second == b"head" + large + b"tail"
            assert third == numbers.tobytes()
            assert fourth == b"".join(b"%06d" % i for i in range(20_000))
            assert fifth == b""
            assert (sixth, seventh) == (large[: bounds.SMALL_BYTES_MAX], large[: bounds.SMALL_BYTES_MAX + 1])
            assert last == b"after"
            assert all(type(message) is bytes for message in far.seen.messages)

    run(main())


def test_each_new_link_is_told_what_holds_then(run: Run, world: MakeWorld) -> None:
    class Changing(UserDict[str, object]):
        def __getitem__(self, key: str) -> object:
            return now if key == "durability" else super().__getitem__(key)

    async def main() -> None:
        nonlocal now
        async with world() as w:
            said = Changing({"version": [1, 1], "host": b"h" * 16, "listen": [], "durability": ""})
            far, near = await w.listening("anna", said=said), w.peer("bert")
            for now in ("none", "fleet"):
                assert (await w.dial(near, far)).info["durability"] == now

    now = ""
    run(main())


def test_small_parts_may_be_reused_after_send(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, _, out, _ = await w.pair()
            scratch = bytearray(b"first")
            out.send(scratch)
            scratch[:] = b"other"
            await until(lambda: far.seen.messages)
            assert far.seen.messages == [b"first"]

    run(main())


@both_loops
def test_flush_sends_at_once_and_replies_come_back(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, near, out, _ = await w.pair()
            far.seen.on_messages = lambda link, messages: [link.send(b"re:", message) for message in messages] and None
            for i in range(200):
                out.send(b"%d" % i)
                out.flush()
                assert out.queued_bytes == 0
                await until(lambda: len(near.seen.messages) == i + 1)
            assert near.seen.messages == [b"re:%d" % i for i in range(200)]

    run(main())


@both_loops
def test_congestion_shows_and_clears(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            settings = LinkSettings(window_bytes=100_000, window_count=100)
            far, near, out, _ = await w.pair(settings=settings)
            assert not out.congested
            for i in range(1000):
                out.send(b"%04d" % i * 250)
            assert out.congested
            assert out.queued_bytes > 0
            await until(lambda: near.seen.writable)
            assert not out.congested
            await until(lambda: len(far.seen.messages) == 1000)
            assert far.seen.messages == [b"%04d" % i * 250 for i in range(1000)]
            near.seen.writable.clear()
            for _ in range(101):
                out.send(b"")
            assert out.congested, "messages are counted too"
            await until(lambda: near.seen.writable == [out])
            out.send(bytes(300_000))
            assert out.congested, "one message above the window"
            await until(lambda: len(far.seen.messages) == 1102)
            await until(lambda: not out.congested)

    run(main())


def test_the_wire_never_holds_more_than_the_window(run: Run, world: MakeWorld) -> None:
    """The receiver's window counts, when it is the smaller one."""

    async def main() -> None:
        async with world() as w:
            far = await w.listening("anna", settings=LinkSettings(window_bytes=10_000, window_count=10))
            near = w.peer("bert")
            out = await w.dial(near, far)
            for _ in range(40):
                out.send(bytes(1000))
            out.flush()
            assert out.queued_bytes == 30_000
            await until(lambda: len(far.seen.messages) == 40)

    run(main())


def test_overflow_is_refused_and_loses_nothing(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            settings = LinkSettings(window_bytes=1000, outstanding_bytes_max=10_000, outstanding_count_max=50)
            far, _near, out, _ = await w.pair(settings=settings)
            taken = 0
            with pytest.raises(LinkOverflow) as caught:
                while True:
                    out.send(bytes(1000))
                    taken += 1
            assert taken == 10
            assert caught.value.facts["outstanding_bytes"] == 10_000
            with pytest.raises(LinkOverflow):
                out.send(bytes(bounds.MESSAGE_BYTES_MAX + 1))
            await until(lambda: len(far.seen.messages) == taken)
            with pytest.raises(LinkOverflow):
                for _ in range(51):
                    out.send(b"")
            assert out.up
            await until(lambda: len(far.seen.messages) == taken + 50)

    run(main())


@both_loops
def test_goodbye_comes_after_what_was_sent_and_says_why(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, near, out, back = await w.pair()
            for i in range(100):
                out.send(b"%d" % i)
            out.close("moving house")
            out.close("again")
            assert not out.up
            assert near.seen.down == [], "the handler is told in a later turn"
            with pytest.raises(LinkClosed, match="moving house"):
                out.send(b"late")
            out.flush()
            await until(lambda: far.seen.down and near.seen.down)
            assert len(far.seen.messages) == 100
            assert near.seen.down == [(out, "closed: moving house")]
            assert far.seen.down == [(back, "peer: moving house")]

    run(main())


def test_the_accepting_side_closes_too(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, near, out, back = await w.pair()
            back.send(b"last")
            back.close("full")
            await until(lambda: far.seen.down and near.seen.down)
            assert near.seen.messages == [b"last"]
            assert near.seen.down == [(out, "peer: full")]
            again = await w.dial(near, far)
            again.send(b"hello again")
            await until(lambda: far.seen.messages == [b"hello again"])

    run(main())


def test_closing_a_node_tells_all_its_peers(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far = await w.listening("anna")
            peers = [w.peer(f"p{i}") for i in range(5)]
            for peer in peers:
                await w.dial(peer, far)
            await until(lambda: len(far.seen.links) == 5)
            await asyncio.wait_for(far.links.close(), 30)
            assert len(far.seen.down) == 5, "close returns when every link_down was called"
            await until(lambda: all(peer.seen.down for peer in peers))
            assert {peer.seen.down[0][1] for peer in peers} == {"peer: shutting down"}
            with pytest.raises(HandshakeFailed):
                await w.dial(peers[0], far)
            with pytest.raises(HandshakeFailed, match="closed"):
                await far.links.connect(far.endpoint, server_key=far.key)

    run(main())


def test_several_listeners_and_links_at_once(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far = await w.listening("anna")
            second = await far.links.listen(w.fresh_endpoint().replace(".sock", "b.sock"))
            assert second != far.endpoint
            near = w.peer("bert")
            links = await asyncio.gather(
                *(near.links.connect(e, server_key=far.key) for e in [far.endpoint, second] * 10)
            )
            assert len(set(links)) == 20
            for i, link in enumerate(links):
                link.send(b"%d" % i)
            await until(lambda: len(far.seen.messages) == 20)
            links[3].close("one of many")
            await until(lambda: len(far.seen.down) == 1)
            links[4].send(b"still here")
            await until(lambda: far.seen.messages[-1] == b"still here")

    run(main())


@pytest.mark.parametrize("by", ["message", "silence"])
def test_a_revoked_peer_is_cut_while_open(run: Run, world: MakeWorld, by: str) -> None:
    async def main() -> None:
        async with world() as w:
            far, near, out, back = await w.pair()
            far.trust.apply_revocation(w.fleet.revoke(near.credentials.identity))
            if by == "message":
                out.send(b"once more")
            await until(lambda: far.seen.down)
            assert far.seen.down == [(back, "revoked")]
            assert far.seen.messages == []
            await until(lambda: near.seen.down)
            with pytest.raises(HandshakeFailed) as caught:
                await w.dial(near, far)
            assert (caught.value.reason, caught.value.remote) == ("revoked", True)

    run(main())


def test_a_certificate_that_expires_ends_the_link(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            credentials = w.fleet.credentials("bert", ends_s=3600)
            skew = [0.0]
            far = await w.listening("anna", wall=lambda: credentials.identity.expires_s - 10 + skew[0])
            near = w.peer("bert", credentials=credentials)
            await w.dial(near, far)
            await until(lambda: far.seen.links)
            skew[0] = 10.0
            await until(lambda: far.seen.down)
            assert far.seen.down[0][1] == "expired"

    run(main())


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("fleet", "wrong-fleet"),
        ("expired", "expired"),
        ("early", "not-yet-valid"),
        ("keys", "key-mismatch"),
        ("version", "version"),
    ],
)
def test_who_is_refused_hears_why(run: Run, world: MakeWorld, reach: str, case: str, reason: str) -> None:
    async def main() -> None:
        async with world() as w:
            far = await w.listening("anna")
            more: dict[str, Any] = {}
            if case == "fleet":
                more["fleet"] = Fleet()
            elif case == "expired":
                more["credentials"] = w.fleet.credentials("bert", begins_s=-7200, ends_s=-3600)
            elif case == "early":
                more["credentials"] = w.fleet.credentials("bert", begins_s=3000)
            elif case == "keys":
                more["credentials"] = with_other_keys(w.fleet.credentials("bert"))
            else:
                more["info"] = {"version": [7, 8]}
            near = w.peer("bert", **more)
            with pytest.raises(HandshakeFailed) as caught:
                await w.dial(near, far)
            assert (caught.value.reason, caught.value.remote) == (reason, True)
            if case == "version":
                assert "upgrade" in caught.value.hint
            await until(lambda: far.seen.refusals)
            assert [said for said, _ in far.seen.refusals] == [reason]
            assert not far.seen.links
            good = w.peer("carl")
            (await w.dial(good, far)).send(b"fine")
            await until(lambda: far.seen.messages == [b"fine"])

    if case == "keys" and reach == "stream":
        run(_refused_proof(world))
    else:
        run(main())


async def _refused_proof(world: MakeWorld) -> None:
    """On a reach that signs, the dialler believes in the link until its proof has been judged."""
    async with world() as w:
        far = await w.listening("anna")
        near = w.peer("bert", credentials=with_other_keys(w.fleet.credentials("bert")))
        link = await w.dial(near, far)
        await until(lambda: near.seen.down)
        assert near.seen.down == [(link, "peer: key-mismatch")]
        assert [said for said, _ in far.seen.refusals] == ["key-mismatch"]
        assert not far.seen.links


def test_somebody_else_answering_is_refused(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, near = await w.listening("anna"), w.peer("bert")
            with pytest.raises(HandshakeFailed) as caught:
                await w.dial(near, far, expect=bytes(16))
            assert (caught.value.reason, caught.value.remote) == ("unexpected-id", False)
            with pytest.raises(HandshakeFailed) as caught:
                await near.links.connect(far.endpoint, server_key=near.key, timeout_s=2)
            assert caught.value.reason in ("disconnected", "timeout", "key-mismatch")
            assert not near.seen.links

    run(main())


def test_a_dialler_refuses_a_listener_that_is_revoked(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, near = await w.listening("anna"), w.peer("bert")
            near.trust.apply_revocation(w.fleet.revoke(far.credentials.identity))
            with pytest.raises(HandshakeFailed) as caught:
                await w.dial(near, far)
            assert (caught.value.reason, caught.value.remote) == ("revoked", False)
            await until(lambda: len(far.seen.down) == len(far.seen.links))

    run(main())


@pytest.mark.parametrize("theirs", [[1, 2], [0, 1], [1, 1]])
def test_this_version_and_its_neighbours_are_spoken(run: Run, world: MakeWorld, theirs: list[int]) -> None:
    async def main() -> None:
        async with world() as w:
            far = await w.listening("anna", info={"version": [1, 1]})
            near = w.peer("bert", info={"version": theirs, "something new": {"deep": [1, None, b"x"]}})
            link = await w.dial(near, far)
            await until(lambda: far.seen.links)
            assert link.version == far.seen.links[0].version == 1
            assert far.seen.links[0].info["version"] == theirs
            assert far.seen.links[0].info["something new"] == {"deep": [1, None, b"x"]}
            link.send(b"across versions")
            await until(lambda: far.seen.messages)

    run(main())


@both_loops
def test_nobody_there_is_said_at_once(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            near = w.peer("bert")
            with pytest.raises(HandshakeFailed) as caught:
                await near.links.connect(w.nobody(), server_key=near.key)
            assert caught.value.reason == "unreachable"
            assert w.nobody().rpartition("/")[2] in str(caught.value)

    run(main())


def test_a_connect_can_be_cancelled(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, near = await w.listening("anna"), w.peer("bert")
            connecting = asyncio.ensure_future(w.dial(near, far))
            await asyncio.sleep(0)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            link = await w.dial(near, far)
            link.send(b"second try")
            await until(lambda: far.seen.messages == [b"second try"])

    run(main())


@both_loops
def test_a_handler_that_fails_loses_nothing_else(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, _near, out, _ = await w.pair()

            def fail(link: Any, messages: list[bytes]) -> None:
                if b"bad" in messages:
                    raise RuntimeError("a programmer's error")

            far.seen.on_messages = fail
            for message in (b"good", b"bad", b"better", b"best"):
                out.send(message)
                out.flush()
            await until(lambda: len(far.seen.messages) == 4)
            assert out.up

    run(main(), expect_errors=1)


def test_a_busy_loop_does_not_lose_its_peers(run: Run, world: MakeWorld) -> None:
    """Silence while this side did not listen is not held against the peer."""

    async def main() -> None:
        async with world() as w:
            far, near, out, _ = await w.pair(settings=BRIEF)
            await asyncio.sleep(0.1)
            time.sleep(1.0)
            await asyncio.sleep(0.3)
            assert not far.seen.down
            assert not near.seen.down
            out.send(b"still")
            await until(lambda: far.seen.messages)

    run(main())


def test_idle_links_stay_up(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, near, _, _ = await w.pair(settings=BRIEF)
            await asyncio.sleep(1.5)
            assert not far.seen.down
            assert not near.seen.down
            assert not far.seen.refusals

    run(main())


def test_a_newcomer_may_ask_to_join_and_nothing_else(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far = await w.listening("anna")
            if w.reach == "stream":
                assert not hasattr(far.links, "join"), "newcomers join from other hosts, or into their own home"
                return
            stranger = w.peer("bert", fleet=Fleet())
            asked: list[bytes] = []

            def answer(message: bytes, address: str) -> bytes | None:
                asked.append(message)
                return b"welcome" if message == b"token" else None

            far.seen.on_join = answer
            assert await stranger.links.join(far.endpoint, b"token", server_key=far.key) == b"welcome"
            with pytest.raises(HandshakeFailed) as caught:
                await stranger.links.join(far.endpoint, b"guess", server_key=far.key)
            assert (caught.value.reason, caught.value.remote) == ("not-accepted", True)
            assert asked == [b"token", b"guess"]
            with pytest.raises(HandshakeFailed):
                await stranger.links.join(far.endpoint, bytes(bounds.JOIN_BYTES_MAX + 1), server_key=far.key)
            assert asked == [b"token", b"guess"]
            assert not far.seen.links

    run(main())


@both_loops
def test_no_descriptor_outlives_the_links(run: Run, world: MakeWorld) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("only Linux lists a process's descriptors")

    async def main() -> None:
        async with world() as w:
            far, near, out, _ = await w.pair()
            out.send(bytes(2 * bounds.MIB))
            await until(lambda: far.seen.messages)
            with contextlib.suppress(HandshakeFailed):
                await near.links.connect(w.nobody(), server_key=near.key)
            out.close("done")
            await until(lambda: far.seen.down)
            await w.dial(near, far)

    run(main())  # what is made once for the process
    before = len(list(descriptors.iterdir()))
    for _ in range(3):
        run(main())
    assert len(list(descriptors.iterdir())) <= before, sys.platform


@pytest.mark.parametrize("reach", ["stream", "zmq"])
def test_without_descriptors_a_connect_fails_and_later_works(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, near, out, _ = await w.pair()
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            held: list[int] = []
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 200), limits[1]))
                with contextlib.suppress(OSError):
                    while True:
                        held.append(os.dup(0))
                with pytest.raises(HandshakeFailed) as caught:
                    await w.dial(near, far)
                assert caught.value.reason == "busy"
                assert "ulimit" in caught.value.hint
            finally:
                for fd in held:
                    os.close(fd)
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            out.send(b"still up")
            (await w.dial(near, far)).send(b"and more")
            await until(lambda: sorted(far.seen.messages) == [b"and more", b"still up"])

    run(main())


@pytest.mark.parametrize("reach", ["stream", "zmq"])
def test_an_endpoint_in_use_is_said(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, other = await w.listening("anna"), w.peer("bert")
            with pytest.raises(OSError, match=re.escape(far.endpoint.removeprefix("unix://"))):
                await other.links.listen(far.endpoint)
            (await w.dial(other, far)).send(b"the first is unharmed")
            await until(lambda: far.seen.messages)

    run(main())


@pytest.mark.parametrize("reach", ["zmq"])
@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_all_of_ipv4_and_all_of_ipv6_are_listened_at_on_one_port(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            for hosts in (("0.0.0.0", "[::]"), ("[::]", "0.0.0.0")):  # noqa: S104 -- that is what is asked
                far, near = w.peer("anna"), w.peer("bert")
                port = (await far.links.listen(f"tcp://{hosts[0]}:*")).rpartition(":")[2]
                await far.links.listen(f"tcp://{hosts[1]}:{port}")
                for host in ("127.0.0.1", "[::1]"):
                    link = await near.links.connect(f"tcp://{host}:{port}", server_key=far.key)
                    link.send(host.encode())
                await until(lambda far=far: len(far.seen.links) == 2)
                with pytest.raises(OSError, match="in use"):
                    await w.peer("carl").links.listen(f"tcp://[::]:{port}")

    run(main())


@pytest.mark.parametrize("reach", ["stream"])
def test_a_directory_that_others_may_enter_is_refused(run: Run, world: MakeWorld, short_directory: Path) -> None:
    async def main() -> None:
        async with world() as w:
            short_directory.chmod(0o755)
            with pytest.raises(PermissionError, match="chmod 700"):
                await w.listening("anna")
            short_directory.chmod(0o700)
            far = await w.listening("anna")
            path = Path(far.endpoint.removeprefix("unix://"))
            assert path.stat().st_mode & 0o777 == 0o600
            await far.links.close()
            assert not path.exists()
            with pytest.raises(OSError, match="longer than"):
                await w.peer("bert").links.listen(str(short_directory / ("x" * 120)))
            with pytest.raises(HandshakeFailed, match="longer than"):
                await w.peer("dora").links.connect(str(short_directory / ("x" * 120)))
            path.write_text("precious")
            with pytest.raises(FileExistsError):
                await w.peer("carl").links.listen(str(path))
            assert path.read_text() == "precious"

    run(main())


@pytest.mark.parametrize("reach", ["stream"])
def test_another_user_is_turned_away(run: Run, world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world() as w:
            far, near = await w.listening("anna"), w.peer("bert")
            monkeypatch.setattr("transport.stream_links.peer_uid", lambda sock: os.getuid() + 1)
            with pytest.raises(HandshakeFailed) as caught:
                await w.dial(near, far)
            assert caught.value.reason == "wrong-user"
            await until(lambda: [reason for reason, _ in far.seen.refusals] == ["wrong-user"])
            assert not far.seen.links

    run(main())
