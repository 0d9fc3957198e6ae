"""`map`: calls for items as there is room for them, several quick ones in one task, and results in their order.

How large a task is follows from what the tasks themselves measure: items that take microseconds travel by the hundred,
those that take longer one by one. A failure is that of its item, not of those that travelled with it.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

from swarm.client.futures import Future
from swarm.client.routes import Route, Routes
from swarm.errors import WorkerCrashed
from swarm.payload_code import display_name
from swarm.payload_failure import error_of
from swarm.protocol.states import Status
from swarm.tasks import TaskOptions, options_of, waiting

WINDOW_ITEMS = 4096
"""Items under way at most, when `map` is not told otherwise."""
CHUNK_S = 0.002
"""How long a task of several items should take."""
CHUNK_ITEMS_MAX = 512
CHUNK_GROWTH = 8
PARTS_MIN = 64
"""Into so many tasks at least inputs of a known length are divided, so that all slots have some to the end."""

Chunk = int | str
Submit = Callable[[Route, tuple[Any, ...]], Future]


def in_chunks(fn: Callable[..., Any], *, whole: bool) -> Callable[[Sequence[Sequence[Any]]], Any]:
    """A callable for several items at once: [values, failure of the next item or None, seconds].

    With `whole` an exception is that of the task. It travels by value and needs nothing of ours where it runs, unless
    an exception has to be told: guest workers have nothing of ours, and for them `whole` is asked.
    """
    if is_coroutine(fn):

        async def run(items: Sequence[Sequence[Any]]) -> Any:
            import asyncio

            return [list(await asyncio.gather(*(fn(*item) for item in items))), None, 0.0]

        return run

    def chunk(items: Sequence[Sequence[Any]]) -> Any:
        from time import perf_counter

        began = perf_counter()
        values = []
        try:
            for item in items:
                values.append(fn(*item))
        except Exception as error:
            if whole:
                raise
            from swarm.payload_failure import encode_failure
            from swarm.tasks import current_task

            task = current_task()
            node, attempt = (task.node, task.attempt) if task is not None else ("", 0)
            return [values, encode_failure(error, node=node, attempt=attempt, ours=(chunk.__code__,)), 0.0]
        return [values, None, perf_counter() - began]

    return chunk


def is_coroutine(fn: Any) -> bool:
    """Whether calling it gives something to be awaited."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


@dataclass(slots=True, eq=False)
class Part:
    """A task under way and the items that it stands for."""

    future: Future
    items: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How items become tasks."""

    single: Route
    chunked: Route | None
    size: int
    adapts: bool


def plan(
    routes: Routes, fn: Any, options: TaskOptions, deadline: float | None, nice: int, chunksize: Chunk | None
) -> Plan:
    """Work out the routes. ValueError for a chunksize that is none.

    What is said of a task (its time limit, its retries, that it may not be repeated) is meant for each item: then, and
    for coroutines, items are chunked only when asked by number.
    """
    if chunksize is None or chunksize == "auto":
        said = (options_of(fn).given() if callable(fn) else {}) | options.given()
        apart = {"timeout_s", "retries", "python", "stream"} & said.keys() or said.get("rerun") is False
        adapts = callable(fn) and not apart and not is_coroutine(fn)
        size = 1
    elif isinstance(chunksize, int) and chunksize >= 1:
        adapts, size = False, chunksize
    else:
        raise ValueError("chunksize must be >= 1.")
    single = routes.of(fn, options, deadline, nice)
    chunked = None
    if (adapts or size > 1) and callable(fn):
        marked = options_of(fn)
        named = replace(_over(marked, options), name=options.name or marked.name or display_name(fn))
        chunked = routes.of(in_chunks(fn, whole=not adapts), named, deadline, nice)
    return Plan(single, chunked, size if chunked is not None else 1, adapts)


def _over(first: TaskOptions, then: TaskOptions) -> TaskOptions:
    return TaskOptions(**(first.given() | then.given()))


class Feed:
    """Takes items, has tasks made of them, and opens their results. The caller does the waiting."""

    def __init__(
        self,
        submit: Submit,
        plan: Plan,
        iterables: Sequence[Iterable[Any]],
        *,
        window: int | None = WINDOW_ITEMS,
        ordered: bool = True,
    ) -> None:
        if window is not None and window < 1:
            raise ValueError("window must be >= 1.")
        self._submit = submit
        self._plan = plan
        self._items = zip(*iterables)
        self._window = window
        self._eager = window is None
        self._ordered = ordered
        self._size = plan.size
        self._size_max = CHUNK_ITEMS_MAX
        lengths = [len(one) for one in iterables if isinstance(one, Sized)]
        if lengths and plan.adapts:
            self._size_max = max(1, min(CHUNK_ITEMS_MAX, min(lengths) // PARTS_MIN))
        self._exhausted = False
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
        chunked = self._plan.chunked
        items = list(islice(self._items, self._size if chunked is not None else 1))
        if not items:
            self._exhausted = True
            return
        self._put([self._begin(items)])

    def _put(self, parts: list[Part], *, at_once: bool = False) -> None:
        self._under += sum(len(part.items) for part in parts)
        if not self._ordered:
            self._open.update(parts)
        elif at_once:
            self._begun.extendleft(reversed(parts))
        else:
            self._begun.extend(parts)

    def _begin(self, items: list[tuple[Any, ...]]) -> Part:
        chunked = self._plan.chunked
        if chunked is None:
            future = self._submit(self._plan.single, items[0])
        else:
            future = self._submit(chunked, ([list(item) for item in items],))
        part = Part(future, items)
        if not self._ordered:
            future.add_done_callback(lambda _: self._has_ended(part))
        return part

    def _has_room(self) -> bool:
        return self._window is None or self._under < self._window

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
        self._under -= len(part.items)
        error = part.future.exception()
        if self._plan.chunked is None:
            return ([], error) if error is not None else ([part.future.result()], None)
        if error is not None:
            if isinstance(error, WorkerCrashed) and self._plan.adapts and len(part.items) > 1:
                # One of them takes workers down: each by itself, so that the others are not lost with it.
                again = [self._begin([item]) for item in part.items]
                self._under += len(again)
                self._begun.extendleft(reversed(again))
                self._size_max = 1
                self._size = 1
                return [], None
            return [], error
        values, failure, seconds = part.future.result()
        if self._plan.adapts:
            self._adapt(seconds, len(values))
        if failure is not None:
            return values, error_of(Status.FAILED, failure, trusted=True, task=part.future.id)
        return values, None

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
        """The results, waiting for them; until `ends` (monotonic seconds). TimeoutError."""
        try:
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
