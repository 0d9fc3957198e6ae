"""What a client has asked its node and has no answer to yet. Used by the client's thread alone."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from swarm.errors import FleetNotFound, SwarmError
from swarm.protocol.messages import Kind, encode
from transport.links import Link, LinkClosed, LinkOverflow

Answer = Future[tuple[Any, bytes]]


class Queries:
    """Questions by number."""

    def __init__(self) -> None:
        self._open: dict[int, Answer] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, link: Link | None, answer: Answer, method: str, args: Mapping[str, Any], body: bytes) -> None:
        """Ask over a link; `answer` is set when the node has said something, or cannot be asked."""
        if link is None:
            answer.set_exception(FleetNotFound("there is no node at the moment", hint="it is being looked for"))
            return
        self._last += 1
        self._open[self._last] = answer
        try:
            link.send(encode(Kind.QUERY, {"q": self._last, "m": method, "a": args}), body)
        except (LinkClosed, LinkOverflow) as error:
            del self._open[self._last]
            answer.set_exception(SwarmError(str(error), hint="try again"))

    def replied(self, header: dict[str, Any], body: memoryview) -> None:
        """The node answers one: with a value, or with an error by the name of its class in `swarm.errors`."""
        answer = self._open.pop(header.get("q", 0), None)
        if answer is None or answer.done():
            return
        error = header.get("e")
        if error is None:
            answer.set_result((header.get("v"), bytes(body)))
            return
        from swarm import errors

        name, message, hint = error[:3]
        kind = getattr(errors, str(name), SwarmError)
        if not (isinstance(kind, type) and issubclass(kind, SwarmError)):
            kind = SwarmError
        answer.set_exception(kind(str(message), hint=str(hint)))

    def fail(self, error: Exception) -> None:
        """The link is gone, and with it whoever would have answered."""
        answers, self._open = self._open, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(error)
