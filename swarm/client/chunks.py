"""Chunks: several calls of one callable in one task. What they are made of, how they are handed over and opened.

Items that are plain go as one packed payload, written and read by a kernel. Others go as a list, pickled. Guest
interpreters have nothing of ours, and are given a callable for several items instead (:func:`in_chunks`).
"""

from __future__ import annotations

import concurrent.futures
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from kernels.chunks import WIDTH_MAX, pack, unpack
from swarm.client.routes import Route, Routes
from swarm.payload_code import display_name
from swarm.payload_failure import error_of
from swarm.protocol.states import Status
from swarm.tasks import TaskOptions, options_of
from transport.bounds import CHUNK_BYTES_MAX

HEAD_BYTES = 8
"""Of a packed payload, before its items; one byte follows them."""


@dataclass(slots=True)
class Chunk:
    """Items that make one task: packed, or as a list. An item is the one argument of its call, or a tuple of `width`."""

    count: int
    width: int
    packed: bytes | None
    listed: list[Any] | None = None
    first: int = 0
    """The place of the first one among all items."""

    def items(self) -> list[Any]:
        """The items, whatever they are kept as."""
        if self.packed is not None:
            return unpack(memoryview(self.packed)[HEAD_BYTES:-1], self.width)
        assert self.listed is not None
        return self.listed

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the task is called with."""
        return self.items(), self.width

    @property
    def call(self) -> tuple[Any, ...]:
        """The arguments of its first call."""
        item = self.items()[0]
        return (item,) if self.width == 1 else item

    def each(self) -> list[Chunk]:
        """A chunk for each item."""
        return [Chunk(1, self.width, None, [item], self.first + place) for place, item in enumerate(self.items())]

    @property
    def waits(self) -> bool:
        """Whether an argument is a future: such a call goes by itself, so that the fleet waits for it."""
        if self.listed is None:
            return False
        if self.width == 1:
            return any(isinstance(item, concurrent.futures.Future) for item in self.listed)
        return any(isinstance(value, concurrent.futures.Future) for item in self.listed for value in item)


class Source:
    """The items of a map, in chunks of the size that is asked for."""

    def __init__(self, iterables: Sequence[Iterable[Any]], *, packs: bool = True) -> None:
        self._width = len(iterables)
        # One iterable needs no tuples; and of several, zip makes no new tuple when nobody keeps the last.
        self._items = iter(iterables[0]) if len(iterables) == 1 else zip(*iterables)
        # Once something was not plain, the next will not be either.
        self._packs = packs and 1 <= self._width <= WIDTH_MAX

    def next(self, count: int, limit_ns: int = 0) -> Chunk | None:
        """The next `count` items or less: what fits into one payload, and what came within `limit_ns`. None at the end."""
        if not self._packs:
            return self._listed(list(islice(self._items, count)))
        packed, have, left = pack(self._items, self._width, count, CHUNK_BYTES_MAX, limit_ns)
        if not left:
            return Chunk(have, self._width, packed) if have else None
        self._packs = False
        before = Chunk(have, self._width, packed).items() if have else []
        return self._listed([*before, *left, *islice(self._items, count - have - 1)])

    def _listed(self, items: list[Any]) -> Chunk | None:
        return Chunk(len(items), self._width, None, items) if items else None


def opened(said: Any, task: str, trusted: bool) -> tuple[list[Any], BaseException | None, float]:
    """What a chunk says: the values, what its next item raised, and seconds. Pickles are loaded if it is `trusted`."""
    values, failure, seconds = said
    error = None if failure is None else error_of(Status.FAILED, failure, trusted=trusted, task=task)
    return values, error, seconds


def chunk_route(
    routes: Routes, fn: Any, options: TaskOptions, deadline: float | None = None, nice: int = 0
) -> tuple[Route | None, bool]:
    """Where chunks of calls of `fn` go, and whether they may be packed. None when such calls can not be put together."""
    marked = options_of(fn) if callable(fn) else TaskOptions()
    if not (options.python or marked.python):
        return routes.chunked(fn, options, deadline, nice), True
    if not callable(fn) or marked.reflect is not None:  # a guest looks at the result of each call
        return None, False
    given = {"name": display_name(fn)} | marked.given() | options.given()
    return routes.of(in_chunks(fn), TaskOptions(**given), deadline, nice), False


def in_chunks(fn: Callable[..., Any]) -> Callable[[Sequence[Any], int], Any]:
    """A callable for the items of a chunk, for guest interpreters. An exception is that of the task."""
    if is_coroutine(fn):

        async def run(items: Sequence[Any], width: int) -> Any:
            import asyncio

            return [list(await asyncio.gather(*(fn(item) if width == 1 else fn(*item) for item in items))), None, 0.0]

        return run

    def chunk(items: Sequence[Any], width: int) -> Any:
        return [[fn(item) if width == 1 else fn(*item) for item in items], None, 0.0]

    return chunk


def is_coroutine(fn: Any) -> bool:
    """Whether calling it gives something to be awaited."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004
