"""Questions and answers over links: what people, clients and peers ask a node.

A method is a function of (asker's link, arguments, body) registered by name; it returns a value, or an awaitable of one.
SwarmError from it becomes the asker's error, with its hint.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from swarm.errors import SwarmError
from swarm.protocol.messages import Kind, encode
from transport.identity import Untrusted
from transport.links import Link, LinkClosed, LinkOverflow
from transport.private_files import FleetError

ASK_TIMEOUT_S = 10.0
PENDING_PER_LINK_MAX = 1024

Answer = tuple[Any, bytes]
Method = Callable[[Link, Mapping[str, Any], memoryview], Any]
Done = Callable[[Any, Any, bytes], None]


class AskFailed(SwarmError):
    """A peer could not or would not answer."""


class Switchboard:
    """Answers queries that come in, and matches replies to queries that went out."""

    def __init__(self, loop: asyncio.AbstractEventLoop, crashed: Callable[[str, BaseException], None]) -> None:
        self._loop = loop
        self._crashed = crashed
        self._methods: dict[str, Method] = {}
        self._numbers = itertools.count(1)
        self._asked: dict[tuple[int, int], tuple[Done, asyncio.TimerHandle]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering: dict[int, int] = {}

    def serve(self, name: str, method: Method) -> None:
        """Answer `name` with `method`."""
        assert name not in self._methods, name
        self._methods[name] = method

    # --- coming in ----------------------------------------------------------------------------------------------------

    def query(self, link: Link, number: int, method: str, args: Mapping[str, Any], body: memoryview) -> None:
        """Answer a peer's query, at once or later."""
        function = self._methods.get(method)
        if function is None:
            self._fail(
                link, number, "unknown-method", f"this node does not know {method!r}", "is it of an older version?"
            )
            return
        try:
            value = function(link, args, body)
        except (SwarmError, FleetError, Untrusted) as error:
            self._fail_with(link, number, error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._fail(link, number, "bad-arguments", f"{method}: {type(error).__name__}: {error}", "")
        else:
            if inspect.isawaitable(value):
                if self._answering.get(id(link), 0) >= PENDING_PER_LINK_MAX:
                    self._fail(link, number, "busy", "too many questions at once", "ask again in a moment")
                    return
                task = self._loop.create_task(self._later(link, number, method, value))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._reply(link, number, value)

    async def _later(self, link: Link, number: int, method: str, value: Awaitable[Any]) -> None:
        self._answering[id(link)] = self._answering.get(id(link), 0) + 1
        try:
            self._reply(link, number, await value)
        except (SwarmError, FleetError, Untrusted) as error:
            self._fail_with(link, number, error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._fail(link, number, "bad-arguments", f"{method}: {type(error).__name__}: {error}", "")
        except OSError as error:
            self._fail(link, number, "system", f"{method}: {error.strerror or error}", "see the node's log")
        except Exception as error:
            self._crashed(method, error)
            self._fail(
                link,
                number,
                "internal",
                f"{method} failed on the node: {type(error).__name__}: {error}",
                "see the node's log",
            )
        finally:
            left = self._answering[id(link)] - 1
            if left:
                self._answering[id(link)] = left
            else:
                del self._answering[id(link)]

    def _reply(self, link: Link, number: int, value: Any) -> None:
        body = b""
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], bytes | bytearray | memoryview):
            value, body = value[0], bytes(value[1])
        self._send(link, {"q": number, "v": value}, body)

    def _fail_with(self, link: Link, number: int, error: SwarmError | FleetError | Untrusted) -> None:
        self._fail(link, number, type(error).__name__, str(error), error.hint)

    def _fail(self, link: Link, number: int, kind: str, message: str, hint: str) -> None:
        self._send(link, {"q": number, "e": [kind, message, hint, {}]}, b"")

    @staticmethod
    def _send(link: Link, header: dict[str, Any], body: bytes) -> None:
        try:
            link.send(encode(Kind.REPLY, header), body)
        except (LinkClosed, LinkOverflow):
            pass  # The asker is gone, or does not read; its own deadline tells it.

    # --- going out ----------------------------------------------------------------------------------------------------

    def ask(
        self,
        link: Link,
        method: str,
        args: Mapping[str, Any],
        done: Done,
        body: bytes = b"",
        timeout_s: float = ASK_TIMEOUT_S,
    ) -> None:
        """Ask a peer. `done(value, error, body)` is called once; `error` is [kind, message, hint, facts] or None."""
        number = next(self._numbers)
        key = (id(link), number)
        timer = self._loop.call_later(
            timeout_s, self._answered, key, None, ["timeout", f"no answer to {method} in {timeout_s:g} s", "", {}], b""
        )
        self._asked[key] = (done, timer)
        try:
            link.send(encode(Kind.QUERY, {"q": number, "m": method, "a": dict(args)}), body)
        except (LinkClosed, LinkOverflow) as error:
            self._loop.call_soon(self._answered, key, None, ["link", str(error), "", {}], b"")

    async def asked(
        self, link: Link, method: str, args: Mapping[str, Any], body: bytes = b"", timeout_s: float = ASK_TIMEOUT_S
    ) -> Answer:
        """Ask a peer and wait. AskFailed when it cannot or will not answer."""
        future: asyncio.Future[Answer] = self._loop.create_future()

        def done(value: Any, error: Any, body: bytes) -> None:
            if future.done():
                return
            if error is None:
                future.set_result((value, body))
            else:
                future.set_exception(AskFailed(str(error[1]), hint=str(error[2]), kind=error[0]))

        self.ask(link, method, args, done, body, timeout_s)
        return await future

    def reply(self, link: Link, number: int, header: Mapping[str, Any], body: memoryview) -> None:
        """A peer's reply to something asked here."""
        error = header.get("e")
        if error is not None and not (isinstance(error, list) and len(error) >= 3):
            raise ValueError("the error of a reply is malformed")
        self._answered((id(link), number), header.get("v"), error, bytes(body))

    def _answered(self, key: tuple[int, int], value: Any, error: Any, body: bytes) -> None:
        waiting = self._asked.pop(key, None)
        if waiting is None:
            return
        done, timer = waiting
        timer.cancel()
        done(value, error, body)

    def link_down(self, link: Link) -> None:
        """Nobody answers on this link any more."""
        for key in [key for key in self._asked if key[0] == id(link)]:
            self._answered(key, None, ["link", "the link is down", "", {}], b"")

    async def close(self) -> None:
        """Give up what is being answered."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for key in list(self._asked):
            self._answered(key, None, ["closing", "this node is stopping", "", {}], b"")
