"""Streams: the items of a generator that runs somewhere, as it yields them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from swarm.client.futures import SIGNAL_SLICE_S, Future
from swarm.tasks import waiting
from transport.bounds import INPUT_CHUNK_BYTES, WORKER_STREAM_WINDOW_COUNT

if TYPE_CHECKING:
    from swarm.client.batches import Batch

ACK_EVERY = WORKER_STREAM_WINDOW_COUNT // 2
"""Items that are taken before the worker gets credit for them: half its window, so that it need not wait."""

Wake = Callable[[], None]


class StreamFuture(Future):
    """The future of a generator; items that come before its stream is there are kept by it."""

    def __init__(self, batch: Batch, index: int) -> None:
        super().__init__(batch, index)
        self._items: SimpleQueue[bytes | None] = SimpleQueue()
        self._expected = 0
        self._credit = 0
        self._credit_lock = threading.Lock()
        self._wake: Wake | None = None
        # Made here, so that the kernel never ends this future behind the back of `_end`.
        assert self._condition

    def _happened(self, name: str, value: Any, body: bytes, node: str) -> None:
        super()._happened(name, value, body, node)
        if name != "item":
            return
        if value != self._expected:
            # Another attempt of the generator began anew: what was delivered before is not delivered twice.
            self._taken()
            return
        self._expected += 1
        self._items.put(body)
        if self._wake is not None:
            self._wake()

    def _end(self, state: str, value: Any, error: BaseException | None) -> bool:
        ended = super()._end(state, value, error)
        self._items.put(None)
        if self._wake is not None:
            self._wake()
        return ended

    def tell(self, letter: bytes) -> None:
        """Tell the generator something, at most INPUT_CHUNK_BYTES; it looks by `swarm.tasks.told`. It may be lost, if the
        generator has not begun or a connection is down: tell it again until what it yields shows that it heard.
        """
        if len(letter) > INPUT_CHUNK_BYTES:
            raise ValueError(f"a letter of {len(letter)} bytes; at most {INPUT_CHUNK_BYTES} are carried")
        self._batch.engine.give_input(self._batch.number, self._index, "in", 0, letter)

    def _taken(self) -> None:
        """An item was consumed: the worker may send another one."""
        with self._credit_lock:
            self._credit += 1
            if self._credit < ACK_EVERY:
                return
            credit, self._credit = self._credit, 0
        self._batch.engine.give_input(self._batch.number, self._index, "ack", credit, b"")


class Stream(Iterator[Any]):
    """Items of a generator that runs somewhere, in order. The generator waits when nobody takes them.

    When the node that ran it is lost, it is begun anew elsewhere, and items that were delivered are left out: they
    count as the same if the generator yields the same again. Closing the stream ends the generator.
    """

    def __init__(self, future: StreamFuture, decode: Callable[[bytes], Any]) -> None:
        self.future = future
        self._decode = decode

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Any:
        self.future._batch.engine.refuse_in_own_thread("take items of a stream")
        with waiting():
            item = self._next_item()
        if item is None:
            self.future._items.put(None)
            self.future.result()
            raise StopIteration
        self.future._taken()
        return self._decode(item)

    def _next_item(self) -> bytes | None:
        while True:
            try:
                return self.future._items.get(timeout=SIGNAL_SLICE_S)
            except Empty:
                continue

    def close(self) -> None:
        """End the generator."""
        self.future.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream(AsyncIterator[Any]):
    """As `Stream`, for ``async for``."""

    def __init__(self, future: StreamFuture, decode: Callable[[bytes], Any]) -> None:
        self.future = future
        self._decode = decode
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        future._wake = self._wake

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            pass  # the loop is closed: nobody takes items any more

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Any:
        items = self.future._items
        while items.empty():
            self._news.clear()
            if items.empty():
                await self._news.wait()
        item = items.get()
        if item is None:
            items.put(None)
            self.future.result()
            raise StopAsyncIteration
        self.future._taken()
        return self._decode(item)

    async def aclose(self) -> None:
        """End the generator."""
        self.future.cancel()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
