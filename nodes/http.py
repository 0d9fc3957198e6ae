"""The page for monitoring: ``/metrics``, ``/healthz``, ``/readyz``. HTTP/1.1 (RFC 9112), GET and HEAD, nothing else.

A framework would be larger than what it serves. Everything that comes from outside is bounded: bytes of a request, its
time, and how many connections there are at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from nodes.settings import HttpSection
from swarm.errors import SystemRefused

HEADER_BYTES_MAX: Final = 8 * 1024
CONNECTIONS_MAX: Final = 64
REQUEST_TIMEOUT_S: Final = 5.0  # for a whole header to arrive, and for a whole answer to leave
IDLE_TIMEOUT_S: Final = 75.0  # scrapers keep their connection; Prometheus asks every 15 to 60 s
DEFAULT_PORT: Final = 9464  # the one that OpenTelemetry's Prometheus exporters use
LINGER_S: Final = 1.0
LINGER_BYTES_MAX: Final = 1 << 20
TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one page says."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether something is as it should be, and why (not)."""

    ok: bool
    why: str = ""
    facts: tuple[tuple[str, str | int | float | bool], ...] = ()


class HttpServer:
    """Serves the three pages.

    Args:
        settings: where to listen.
        metrics: takes an Accept header, returns a body and its content type (``Telemetry.metrics``).
        health: is the node's loop turning? Asked for ``/healthz``; not ok is a reason to restart it.
        ready: does the node take work? Asked for ``/readyz``; not ok is a reason to send work elsewhere.
    """

    def __init__(
        self,
        settings: HttpSection,
        *,
        metrics: Callable[[str], tuple[bytes, str]],
        health: Callable[[], Condition],
        ready: Callable[[], Condition],
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._pages: dict[str, Callable[[str], Answer]] = {
            "/": lambda _: Answer(HTTPStatus.OK, b"/metrics\n/healthz\n/readyz\n"),
            "/metrics": self._metrics_page,
            "/healthz": lambda _: _condition_page(health()),
            "/readyz": lambda _: _condition_page(ready()),
        }
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> tuple[str, int] | None:
        """Listen. Returns the address and port, or None when it is switched off.

        Raises:
            SystemRefused: the port that was asked for is taken, or the address is not one of this machine.
        """
        if not self._settings.enabled:
            return None
        asked = self._settings.port
        try:
            self._server = await self._listen(DEFAULT_PORT if asked is None else asked)
        except OSError as error:
            if asked is not None or error.errno != errno.EADDRINUSE:
                raise self._refused(error, asked) from None
            try:
                self._server = await self._listen(0)  # the second node of a machine
            except OSError as second:
                raise self._refused(second, 0) from None
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    async def close(self) -> None:
        """Stop listening and end the connections."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections):
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    async def _listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(
            self._accepted, self._settings.host, port, limit=HEADER_BYTES_MAX, backlog=CONNECTIONS_MAX
        )

    def _refused(self, error: OSError, port: int | None) -> SystemRefused:
        port = DEFAULT_PORT if port is None else port
        return SystemRefused(
            f"can not serve metrics on {self._settings.host}:{port}: {error.strerror or error}",
            hint="choose another port (--http-port 0 takes a free one), or leave it off: --no-http-enabled",
            port=port,
        )

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            writer.write(_encode(Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"too many connections\n"), close=True))
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            timeout_s = REQUEST_TIMEOUT_S
            while True:
                answer, head_only, close = await self._one(reader, timeout_s)
                if answer is None:
                    return
                writer.write(_encode(answer, head_only=head_only, close=close))
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    await writer.drain()
                if close:
                    await _let_go(reader, writer)
                    return
                timeout_s = IDLE_TIMEOUT_S
        except (ConnectionError, TimeoutError):
            return
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, timeout_s: float) -> tuple[Answer | None, bool, bool]:
        """One request: (its answer or None at the end, whether only the head is wanted, whether to close after it)."""
        try:
            async with asyncio.timeout(timeout_s):
                first = await reader.read(1)
            if not first:
                return None, False, True
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                raw = first + await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None, False, True
        except asyncio.LimitOverrunError:
            return Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"header too large\n"), False, True
        parsed = _parse(raw)
        if parsed is None:
            return Answer(HTTPStatus.BAD_REQUEST, b"not HTTP/1.1\n"), False, True
        method, target, version, headers = parsed
        # a body would be read as the next request: none is taken, and the connection ends with the answer
        close = (
            version != "HTTP/1.1"
            or "close" in headers.get("connection", "").lower()
            or headers.get("content-length", "0") != "0"
            or "transfer-encoding" in headers
        )
        if version == "HTTP/1.1" and "host" not in headers:
            return Answer(HTTPStatus.BAD_REQUEST, b"no Host header\n"), False, True
        if method not in ("GET", "HEAD"):
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"GET and HEAD only\n"), False, True
        page = self._pages.get(target.partition("?")[0])
        if page is None:
            return Answer(HTTPStatus.NOT_FOUND, b"there are /metrics, /healthz and /readyz\n"), method == "HEAD", close
        return page(headers.get("accept", "")), method == "HEAD", close

    def _metrics_page(self, accept: str) -> Answer:
        body, content_type = self._metrics(accept)
        return Answer(HTTPStatus.OK, body, content_type)


async def _let_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait a little for the other side to close (RFC 9112, 9.6); closing on unread bytes would reset it."""
    writer.write_eof()
    async with asyncio.timeout(LINGER_S):
        left = LINGER_BYTES_MAX
        while left > 0 and (chunk := await reader.read(1 << 16)):
            left -= len(chunk)


def _condition_page(condition: Condition) -> Answer:
    status = HTTPStatus.OK if condition.ok else HTTPStatus.SERVICE_UNAVAILABLE
    said = {"ok": condition.ok, **({"why": condition.why} if condition.why else {}), **dict(condition.facts)}
    return Answer(status, json.dumps(said).encode() + b"\n", "application/json")


def _parse(raw: bytes) -> tuple[str, str, str, dict[str, str]] | None:
    lines = raw.decode("latin-1").split("\r\n")
    request = lines[0].split(" ")
    if len(request) != 3 or request[2] not in ("HTTP/1.0", "HTTP/1.1") or not request[1].startswith("/"):
        return None
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not line:
            continue
        if not colon or not name or name != name.strip():
            return None
        headers[name.lower()] = (
            f"{headers[name.lower()]}, {value.strip()}" if name.lower() in headers else value.strip()
        )
    return request[0], request[1], request[2], headers


def _encode(answer: Answer, *, head_only: bool = False, close: bool = False) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
    ]
    if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    if close:
        lines.append("Connection: close")
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head if head_only else head + answer.body
