"""What tasks of a guest return: one value, or items as they come."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

from .channel import Channel, Closed
from .failures import notice
from .payloads import Payloads
from .plain import unpack

OK, FAILED = 0, 1
WINDOW = 16
"""Items of a stream that are not taken yet."""


class Sealed:
    """A result that is written already: before what the task did was made to last."""

    def __init__(self, body: bytes) -> None:
        self.body = body


class Results:
    """Values as payloads, within the bound."""

    def __init__(self, payloads: Payloads, limit: int) -> None:
        self.payloads = payloads
        self.limit = limit

    def of(self, value: Any) -> tuple[int, bytes]:
        """(status, payload) of what a task returned."""
        if type(value) is Sealed:
            return OK, value.body
        if isinstance(value, (types.GeneratorType, types.AsyncGeneratorType)):
            hint = "to deliver its items as they come, say stream=True; else return a list of them"
            facts: Any = {"error": "NotPicklable"}
            return FAILED, notice("the task returned a generator, which lives only in its worker", hint, facts)
        try:
            body = self.payloads.encode(value)
        except Closed:
            raise
        except Exception as error:
            kind = type(value).__qualname__
            hint = "return what it is made from: a path, plain data"
            if importlib.util.find_spec("cloudpickle") is None:
                hint += "; or install cloudpickle in " + sys.prefix
            said = f"the result, of type {kind}, cannot be pickled: {error}"
            return FAILED, notice(said, hint, {"error": "NotPicklable"})
        if len(body) > self.limit:
            facts = {"error": "PayloadTooLarge", "size_bytes": len(body), "limit_bytes": self.limit}
            said = f"the result takes {len(body)} bytes; at most {self.limit} are carried"
            return FAILED, notice(said, "return less, or write it to a file and return the path", facts)
        return OK, body

    def sealed(self, value: Any) -> Any:
        """A result that is written now."""
        status, body = self.of(value)
        if status != OK:
            raise TypeError(unpack(body[1:])["message"])
        return Sealed(body)


class Streams:
    """Results that go item by item, as far as there is credit for them."""

    def __init__(self, channel: Channel, results: Results) -> None:
        self.channel = channel
        self.results = results
        self.credit: dict[tuple[int, int], int] = {}

    def acknowledged(self, run: int, index: int, items: int) -> None:
        """So many more may be sent."""
        if (run, index) in self.credit:
            self.credit[run, index] += items

    def deliver(self, run: int, index: int, items: Any) -> Any:
        """Send the items of a task; what its generator returned."""
        if hasattr(items, "__aiter__") or isinstance(items, types.CoroutineType):
            return asyncio_run(self._deliver_async(run, index, items))
        iterator = iter(items)
        number = 0
        self.credit[run, index] = WINDOW
        try:
            while True:
                try:
                    value = next(iterator)
                except StopIteration as end:
                    return end.value
                self._item(run, index, number, value)
                number += 1
        finally:
            del self.credit[run, index]

    async def _deliver_async(self, run: int, index: int, items: Any) -> None:
        if isinstance(items, types.CoroutineType):
            items = await items
        number = 0
        self.credit[run, index] = WINDOW
        try:
            async for value in items:
                self._item(run, index, number, value)
                number += 1
        finally:
            del self.credit[run, index]

    def _item(self, run: int, index: int, number: int, value: Any) -> None:
        while self.credit[run, index] <= 0:
            self.channel.pump()
        self.credit[run, index] -= 1
        status, body = self.results.of(value)
        if status != OK:
            raise TypeError(unpack(body[1:])["message"])
        self.channel.event(run, index, "item", [number, body])


def asyncio_run(coroutine: Any) -> Any:
    """What a coroutine returns; asyncio takes long to import, and most tasks do not need it."""
    import asyncio

    return asyncio.run(coroutine)
