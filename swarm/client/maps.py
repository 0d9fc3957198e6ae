"""`map`: calls for items as there is room for them, several quick ones in one task, and results in their order.

How large a task is follows from what the tasks themselves measure: items that take microseconds travel by the
thousand, those that take longer one by one. A failure is that of its item, not of those that travelled with it, and
items that take their worker down, or whose results are too large together, are tried again one by one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from swarm.client.chunks import Chunk, Source, chunk_route, is_coroutine, opened
from swarm.client.futures import Future
from swarm.client.names import durable_parent, keyed, part_of_map
from swarm.client.routes import Route, Routes
from swarm.errors import PayloadTooLarge, WorkerCrashed
from swarm.tasks import TaskOptions, options_of, told_s, waiting

WINDOW_ITEMS = 4096
WINDOW_CHUNKS = 64
"""Under way at most, when `map` is not told otherwise: so many items, or chunks where these are more."""
CHUNK_S = 0.002
"""How long a task of several items should take, and how long may be waited for its items."""
CHUNK_ITEMS_MAX = 8192
CHUNK_GROWTH = 8
PARTS_MIN = 64
"""Into so many tasks at least inputs of a known length are divided, so that all slots have some to the end."""

Chunksize = int | str
Window = int | str


class Hands(Protocol):
    """Who takes calls and chunks: a fleet."""

    def hand(self, route: Route, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Future: ...
    def hand_chunk(self, route: Route, chunk: Chunk) -> Future: ...
    @property
    def trusts(self) -> bool: ...


@dataclass(slots=True, eq=False)
class Part:
    """A task under way and the items that it stands for."""

    future: Future
    chunk: Chunk
    apart: bool
    """Its one item was handed over as a call of its own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How items become tasks."""

    single: Route
    chunked: Route | None
    size: int
    adapts: bool
    exact: bool
    """Nothing is said of the tasks that would change by being said of one item of a chunk alone."""
    packs: bool
    name: bytes = b""
    """Of the map, if its tasks have names: each has that of its first item's place."""
    apart: Callable[[tuple[Any, ...]], Route] | None = None
    """The route of one item, where it is said of each how long it takes."""


def plan(
    routes: Routes,
    fn: Any,
    options: TaskOptions,
    deadline: float | None,
    nice: int,
    chunksize: Chunksize | None,
    key: str | None = None,
    lengths: Callable[..., float] | None = None,
) -> Plan:
    """Work out the routes. ValueError for a chunksize that is none, or one for items of which each has a length of its own, told by
    `lengths`.

    What is said of a task (its time limit, its retries, that it may not be repeated) is meant for each item: then, and
    for coroutines, items are chunked only when asked by number.
    """
    said = (options_of(fn).given() if callable(fn) else {}) | options.given()
    exact = (
        not {"timeout_s", "retries", "stream", "python", "checkpoint", "transaction"} & said.keys()
        and said.get("rerun") is not False
    )
    if chunksize is None or chunksize == "auto":
        adapts, size = chunksize == "auto" and exact and not is_coroutine(fn), 1
    elif isinstance(chunksize, int) and chunksize >= 1:
        adapts, size = False, chunksize
    else:
        raise ValueError("chunksize must be >= 1.")
    apart = None
    if lengths is not None:
        if size > 1:
            raise ValueError("items whose lengths are told apart are tasks of their own: leave chunksize away")
        apart, adapts = _by_length(routes, fn, options, deadline, nice, lengths), False

    single = routes.of(fn, options, deadline, nice)
    name = part_of_map(single if key is None else keyed(single, key))
    # How long items take is not the same the next time, and chunks that depend on it would not be either.
    adapts = adapts and not name and not (single.durability and durable_parent() is not None)
    chunked, packs = chunk_route(routes, fn, options, deadline, nice) if adapts or size > 1 else (None, False)
    return Plan(single, chunked, size if chunked is not None else 1, adapts, exact, packs, name, apart)


def _by_length(
    routes: Routes, fn: Any, options: TaskOptions, deadline: float | None, nice: int, lengths: Callable[..., float]
) -> Callable[[tuple[Any, ...]], Route]:
    def route(args: tuple[Any, ...]) -> Route:
        return routes.of(fn, replace(options, expected_s=told_s(lengths(*args))), deadline, nice)

    return route


class Feed:
    """Takes items, has tasks made of them, and opens their results. The caller does the waiting."""

    def __init__(
        self,
        hands: Hands,
        plan: Plan,
        iterables: Sequence[Iterable[Any]],
        *,
        window: Window | None = "auto",
        ordered: bool = True,
    ) -> None:
        if window is not None and window != "auto" and (not isinstance(window, int) or window < 1):
            raise ValueError("window must be >= 1.")
        self._hands = hands
        self._plan = plan
        self._source = Source(iterables, packs=plan.packs)
        self._limit_ns = int(CHUNK_S * 1e9) if plan.adapts else 0
        self._window = window if isinstance(window, int) else None
        self._eager = window is None
        self._ordered = ordered
        self._size = plan.size
        self._size_max = CHUNK_ITEMS_MAX
        lengths = [len(one) for one in iterables if isinstance(one, Sized)]
        if lengths and plan.adapts:
            self._size_max = max(1, min(CHUNK_ITEMS_MAX, min(lengths) // PARTS_MIN))
        self._exhausted = False
        self._taken = 0
        self._under = 0
        self._begun: deque[Part] = deque()  # when results come in order
        self._open: set[Part] = set()  # when they come as they end
        self._ended: SimpleQueue[Part] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None

    @property
    def busy(self) -> bool:
        """Whether results are to come."""
        return bool(self._begun or self._open)

    def fill(self) -> None:
        """Begin tasks until the window is full, the items run out, or there is a result to be taken."""
        try:
            while not self._exhausted and (self._eager or self._has_room()) and (self._eager or not self._ready()):
                self.begin_one()
        except BaseException:
            self.cancel()
            raise

    def begin_one(self) -> None:
        """Begin one more task, if there are items for one and the window is not full."""
        if self._exhausted or not self._has_room():
            return
        # A window that was asked for is one of items, however many of them make a task.
        size = self._size if self._window is None else min(self._size, self._window - self._under)
        chunk = self._source.next(size, self._limit_ns)
        if chunk is None:
            self._exhausted = True
            return
        chunk.first = self._taken
        self._taken += chunk.count
        if self._plan.chunked is None or chunk.waits:
            self._put([self._begin(one, apart=True) for one in chunk.each()])
        else:
            self._put([self._begin(chunk)])

    def _put(self, parts: list[Part], *, at_once: bool = False) -> None:
        self._under += sum(part.chunk.count for part in parts)
        if not self._ordered:
            for part in parts:
                self._open.add(part)
                self._watch(part)
        elif at_once:
            self._begun.extendleft(reversed(parts))
        else:
            self._begun.extend(parts)

    def _begin(self, chunk: Chunk, *, apart: bool = False) -> Part:
        apart = apart or self._plan.chunked is None
        route = self._plan.single if apart else self._plan.chunked
        if apart and self._plan.apart is not None:
            route = self._plan.apart(chunk.call)
        assert route is not None
        if self._plan.name:
            route = replace(route, name=b"%s%d%s" % (self._plan.name, chunk.first, b"" if apart else b"+"), open=None)
        if apart:
            return Part(self._hands.hand(route, chunk.call, None), chunk, True)
        return Part(self._hands.hand_chunk(route, chunk), chunk, False)

    def _watch(self, part: Part) -> None:
        part.future.add_done_callback(lambda _: self._has_ended(part))

    def _has_room(self) -> bool:
        if self._eager:
            return True
        return self._under < (self._window or max(WINDOW_ITEMS, WINDOW_CHUNKS * self._size))

    def _ready(self) -> bool:
        if not self._ordered:
            return not self._ended.empty()
        return bool(self._begun) and self._begun[0].future.done()

    def first(self) -> Part:
        """The part whose result comes next, when they come in order."""
        return self._begun[0]

    def next_ended(self, timeout_s: float | None) -> Part:
        """A part that has ended, when they come as they end. TimeoutError."""
        try:
            with waiting():
                return self._ended.get(timeout=timeout_s)
        except Empty:
            raise TimeoutError from None

    async def next_ended_async(self) -> Part:
        """As `next_ended`, for coroutines."""
        while self._ended.empty():
            self._news = self._news or asyncio.Event()
            self._news.clear()
            self._loop = asyncio.get_running_loop()
            if self._ended.empty():
                await self._news.wait()
        return self._ended.get()

    def _has_ended(self, part: Part) -> None:
        self._ended.put(part)
        if self._loop is not None and self._news is not None:
            try:
                self._loop.call_soon_threadsafe(self._news.set)
            except RuntimeError:
                pass  # the loop is closed: nobody takes results any more

    def open(self, part: Part) -> tuple[list[Any], BaseException | None]:
        """The values of a part that has ended, and what its next item raised."""
        if self._ordered:
            self._begun.popleft()
        else:
            self._open.discard(part)
        self._under -= part.chunk.count
        error = part.future.exception()
        if part.apart:
            return ([], error) if error is not None else ([part.future.result()], None)
        if error is not None:
            if part.chunk.count == 1 or not self._plan.exact or not isinstance(error, WorkerCrashed | PayloadTooLarge):
                return [], error
            # One of them takes workers down, or they are too much together: each by itself, at its place.
            if self._plan.adapts:
                self._size = self._size_max = 1 if isinstance(error, WorkerCrashed) else max(1, part.chunk.count // 2)
            self._put([self._begin(one) for one in part.chunk.each()], at_once=True)
            return [], None
        values, failed, seconds = opened(part.future.result(), part.future.id, self._hands.trusts)
        if self._plan.adapts:
            self._adapt(seconds, len(values))
        return values, failed

    def _adapt(self, seconds: float, count: int) -> None:
        if count and seconds > 0:
            wished = int(CHUNK_S * count / seconds)
            self._size = max(1, min(wished, self._size * CHUNK_GROWTH, self._size_max))

    def cancel(self) -> None:
        """Give up what is under way."""
        for part in (*self._begun, *self._open):
            part.future.cancel()
        self._begun.clear()
        self._open.clear()

    def results(self, ends: float | None) -> Iterator[Any]:
        """The results, waiting for them; until `ends` (monotonic seconds). TimeoutError.

        Dropping or closing the iterator cancels what is under way, also when nothing was taken from it.
        """
        found = self._results(ends)
        next(found)  # into its `try`: of a generator that was not begun, closing it runs nothing
        return found

    def _results(self, ends: float | None) -> Iterator[Any]:
        try:
            yield None
            while True:
                self.fill()
                if not self.busy:
                    return
                left_s = None if ends is None else max(0.0, ends - time.monotonic())
                if self._ordered:
                    part = self.first()
                    part.future.wait(left_s)
                else:
                    part = self.next_ended(left_s)
                values, error = self.open(part)
                self.begin_one()
                yield from values
                if error is not None:
                    raise error
        finally:
            self.cancel()
