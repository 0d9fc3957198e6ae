"""The page for monitoring: what it says, and what it does not put up with."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable

import pytest

from nodes import http
from nodes.http import CONNECTIONS_MAX, Condition, HttpServer
from nodes.settings import HttpSection
from swarm.errors import SystemRefused


class State:
    healthy = Condition(True)
    ready = Condition(True, "", (("members", 3),))
    accept = ""


def serve(check: Callable[[State, int], Awaitable[None]], settings: HttpSection | None = None) -> None:
    """Run ``check(state, port)`` beside a server, and close it."""

    async def run() -> None:
        state = State()

        def metrics(accept: str) -> tuple[bytes, str]:
            state.accept = accept
            return b"swarm_up 1\n", "text/plain; version=0.0.4"

        server = HttpServer(
            settings or HttpSection(port=0), metrics=metrics, health=lambda: state.healthy, ready=lambda: state.ready
        )
        address = await server.open()
        assert address is not None
        assert address[0] == "127.0.0.1"
        try:
            async with asyncio.timeout(20):
                await check(state, address[1])
        finally:
            await server.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", address[1])

    asyncio.run(run())


async def say(port: int, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send these bytes, read until the end; status, headers, body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    answer = await reader.read()
    writer.close()
    return parts(answer)


def parts(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


def get(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""]).encode()


def test_metrics_with_the_format_that_was_asked_for() -> None:
    async def check(state: State, port: int) -> None:
        status, headers, body = await say(port, get("/metrics?x=1", "Accept: application/openmetrics-text"))
        assert (status, body) == (200, b"swarm_up 1\n")
        assert headers["content-type"] == "text/plain; version=0.0.4"
        assert headers["content-length"] == "11"
        assert state.accept == "application/openmetrics-text"

    serve(check)


def test_health_and_readiness_are_two_questions() -> None:
    async def check(state: State, port: int) -> None:
        assert (await say(port, get("/healthz")))[0] == 200
        status, _, body = await say(port, get("/readyz"))
        assert (status, json.loads(body)) == (200, {"ok": True, "members": 3})
        state.ready = Condition(False, "draining")
        status, _, body = await say(port, get("/readyz"))
        assert (status, json.loads(body)) == (503, {"ok": False, "why": "draining"})
        assert (await say(port, get("/healthz")))[0] == 200
        state.healthy = Condition(False, "the loop is late")
        assert (await say(port, get("/healthz")))[0] == 503

    serve(check)


def test_a_connection_is_kept_and_requests_may_come_in_pieces_or_together() -> None:
    async def check(state: State, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            for piece in (b"GET /metr", b"ics HTTP/1.1\r\nHost", b": x\r\n\r", b"\n"):
                writer.write(piece)
                await writer.drain()
            assert b"200" in await reader.readline()
            await reader.readuntil(b"swarm_up 1\n")
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + get("/nothing"))
        both = await reader.read()
        assert both.count(b"HTTP/1.1 200") == 1
        assert both.count(b"HTTP/1.1 404") == 1
        writer.close()

    serve(check)


def test_head_has_the_length_and_no_body() -> None:
    async def check(state: State, port: int) -> None:
        status, headers, body = await say(port, get("/metrics").replace(b"GET", b"HEAD"))
        assert (status, headers["content-length"], body) == (200, "11", b"")

    serve(check)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"GET metrics HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nrubbish\r\n\r\n", 400),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nGET /healthz", 200),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200),
        (b"GET /metrics HTTP/1.0\r\n\r\n", 200),
        (b"GET /../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else str(value),
)
def test_odd_requests_get_one_answer_and_the_connection_ends(raw: bytes, status: int) -> None:
    async def check(state: State, port: int) -> None:
        found, headers, body = await say(port, raw)
        assert found == status
        assert b"HTTP/1.1 " not in body, "a body was read as a request"
        assert headers["connection"] == "close"
        assert (await say(port, get("/healthz")))[0] == 200

    serve(check)


def test_one_who_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_TIMEOUT_S", 0.05)

    async def check(state: State, port: int) -> None:
        for said in (b"", b"GET /me"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            assert await reader.read() == b""
            writer.close()

    serve(check)


def test_connections_are_bounded_and_come_free_again() -> None:
    async def check(state: State, port: int) -> None:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
        for reader, writer in held:  # each is known to be served
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"}\n")
        assert (await say(port, b""))[0] == 503
        for _, writer in held:
            writer.close()
        while (await say(port, get("/healthz")))[0] != 200:
            await asyncio.sleep(0.01)

    serve(check)


def test_the_usual_port_or_a_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        used = taken.getsockname()[1]
        monkeypatch.setattr(http, "DEFAULT_PORT", used)

        async def check(state: State, port: int) -> None:
            assert port != used
            assert (await say(port, get("/healthz")))[0] == 200

        serve(check, HttpSection())
        with pytest.raises(SystemRefused) as caught:
            serve(check, HttpSection(port=used))
        assert "--http-port" in caught.value.hint


def test_it_can_be_switched_off() -> None:
    async def run() -> None:
        server = HttpServer(
            HttpSection(enabled=False),
            metrics=lambda _: (b"", ""),
            health=lambda: Condition(True),
            ready=lambda: Condition(True),
        )
        assert await server.open() is None
        await server.close()

    asyncio.run(run())
