"""`swarm.connect_async()`: the fleet, for coroutines. The same engine; what waits is awaited instead.

The engine keeps its own thread and loop, so that a coroutine that computes for a while does not make the node believe
that its client is gone. Futures are awaited directly; all that ended together wake their loop once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future as StdFuture
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.client.attached import ATTACH_TIMEOUT_S, Attached
from swarm.client.commands import CommandFuture
from swarm.client.engine import QUERY_TIMEOUT_S, RECONNECT_TIMEOUT_S
from swarm.client.futures import Future
from swarm.client.maps import Chunksize, Feed, Window, plan
from swarm.client.moves import SLACK_S, WITHIN_S, moved
from swarm.client.options import CALL_NAMES, AnyFuture, Chosen, Fn, chosen, flat
from swarm.client.streams import AsyncStream
from swarm.client.sync import Fleet, connect
from swarm.paths import Home
from swarm.protocol import ids

if TYPE_CHECKING:
    from swarm.client.knowledge import AsyncKnowledge


class AsyncOptions:
    """A fleet together with options for what is submitted: ``fleet.options(priority=LOW).submit(f, x)``."""

    def __init__(self, fleet: AsyncFleet, options: Mapping[str, Any]) -> None:
        self._fleet = fleet
        self._chosen = chosen(dict(options))

    def submit(self, fn: Fn, /, *args: Any, **kwargs: Any) -> Future:
        """Run ``fn(*args, **kwargs)`` somewhere; every keyword goes to the callable."""
        self._fleet.refuse_when_full()
        inner = self._fleet.inner
        return inner.hand(inner.route(fn, self._chosen), args, kwargs)

    def map(self, fn: Fn, /, *iterables: Iterable[Any], **how: Any) -> AsyncIterator[Any]:
        """As `AsyncFleet.map`, with these options."""
        return self._fleet.mapped(fn, iterables, self._chosen, **how)

    def stream(self, fn: Fn, /, *args: Any, **kwargs: Any) -> AsyncStream:
        """As `AsyncFleet.stream`, with these options."""
        return self._fleet.streamed(fn, args, kwargs, self._chosen)


class AsyncFleet:
    """A connection to a fleet. Use it in an ``async with`` statement, or `close` it.

    Leaving the block waits for what is unfinished; leaving it by an exception or by being cancelled cancels it.
    """

    def __init__(self, inner: Fleet) -> None:
        self.inner = inner
        """The same connection for ordinary code: it may be used by other threads."""

    def submit(self, fn: Fn, /, *args: Any, **kwargs: Any) -> Future:
        """Run ``fn(*args, **kwargs)`` somewhere in the fleet; ``await`` what it returns for the result.

        Options and arguments as for `Fleet.submit`. NotAccepted when too much is under way: it can not wait here, so
        ``await fleet.room()`` before, or use `map`. Arguments over 64 KiB are handed to the node before it returns.
        """
        self.refuse_when_full()
        return self.inner.submit(fn, *args, **kwargs)

    async def room(self) -> None:
        """Wait until `submit` takes tasks. NotAccepted after the connection's `submit_timeout_s`."""
        room = self.inner._engine.room
        if room.full:
            await asyncio.to_thread(room.wait)

    def refuse_when_full(self) -> None:
        """NotAccepted when too much is under way."""
        room = self.inner._engine.room
        if room.full:
            raise room.refusal(
                "and waiting would hold up the loop", "`await fleet.room()` before submitting, or use `fleet.map`"
            )

    def options(self, **options: Any) -> AsyncOptions:
        """This fleet with options for what is submitted through it."""
        return AsyncOptions(self, options)

    def map(
        self,
        fn: Fn,
        /,
        *iterables: Iterable[Any],
        chunksize: Chunksize | None = "auto",
        window: Window = "auto",
        ordered: bool = True,
        timeout: float | None = None,
        **options: Any,
    ) -> AsyncIterator[Any]:
        """Results of `fn` over the items, for ``async for``; as `Fleet.map`."""
        return self.mapped(
            fn, iterables, chosen(options), chunksize=chunksize, window=window, ordered=ordered, timeout=timeout
        )

    async def mapped(
        self,
        fn: Fn,
        iterables: Sequence[Iterable[Any]],
        options: Chosen,
        *,
        chunksize: Chunksize | None = "auto",
        window: Window = "auto",
        ordered: bool = True,
        timeout: float | None = None,
    ) -> AsyncIterator[Any]:
        """As `map`, with options worked out before."""
        inner = self.inner
        ends = None if timeout is None else time.monotonic() + timeout
        how = plan(
            inner._routes, fn, options.task, options.deadline, options.nice, chunksize, options.key, options.lengths
        )
        feed = Feed(inner, how, iterables, window=window, ordered=ordered)
        try:
            while True:
                await self.room()
                feed.fill()
                if not feed.busy:
                    return
                async with asyncio.timeout(None if ends is None else max(0.0, ends - time.monotonic())):
                    if ordered:
                        part = feed.first()
                        await _ended(part.future)
                    else:
                        part = await feed.next_ended_async()
                values, error = feed.open(part)
                await self.room()
                feed.begin_one()
                for value in values:
                    yield value
                if error is not None:
                    raise error
        finally:
            feed.cancel()

    async def gather(self, *futures: Any, timeout: float | None = None) -> list[Any]:
        """The results of all, in their order; the first failure is raised, and the rest cancelled."""
        found = flat(futures)
        try:
            async with asyncio.timeout(timeout):
                return [await _wrapped(one) for one in found]
        except BaseException:
            self.cancel(found)
            raise

    async def as_completed(
        self, futures: Iterable[AnyFuture], timeout: float | None = None
    ) -> AsyncIterator[AnyFuture]:
        """Futures as they end, for ``async for``."""
        found = list(futures)
        loop = asyncio.get_running_loop()
        ended: asyncio.Queue[AnyFuture] = asyncio.Queue()
        for one in found:
            one.add_done_callback(lambda future: loop.call_soon_threadsafe(ended.put_nowait, future))
        until = None if timeout is None else loop.time() + timeout
        for _ in found:
            async with asyncio.timeout_at(until):
                future = await ended.get()
            yield future

    async def wait(
        self, futures: Iterable[AnyFuture], timeout: float | None = None, return_when: str = asyncio.ALL_COMPLETED
    ) -> tuple[set[AnyFuture], set[AnyFuture]]:
        """(done, not done), as `asyncio.wait`; cancels nothing."""
        found = list(futures)
        watched = {asyncio.ensure_future(_ended(one)): one for one in found}
        try:
            if watched:
                await asyncio.wait(watched, timeout=timeout, return_when=_RETURN_WHEN.get(return_when, return_when))
        finally:
            for task in watched:
                task.cancel()
        done = {one for one in found if one.done()}
        return done, set(found) - done

    def cancel(self, *futures: Any) -> int:
        """Cancel tasks, also those that run; how many will not have a result."""
        return self.inner.cancel(*futures)

    def stream(self, fn: Fn, /, *args: Any, **kwargs: Any) -> AsyncStream:
        """Items of a generator that runs somewhere, as it yields them, for ``async for``."""
        options = {key: kwargs.pop(key) for key in CALL_NAMES.intersection(kwargs)}
        return self.streamed(fn, args, kwargs, chosen(options))

    def streamed(self, fn: Fn, args: tuple[Any, ...], kwargs: dict[str, Any], options: Chosen) -> AsyncStream:
        """As `stream`, with options worked out before."""
        self.refuse_when_full()
        return AsyncStream(self.inner.stream_future(fn, args, kwargs, options), self.inner.decode)

    async def submit_command(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        files_in: Iterable[str | Path | tuple[str, str | Path]] = (),
        files_out: Iterable[str] = (),
        stdin: bool = False,
        on_output: Callable[[str, bytes], object] | None = None,
        **options: Any,
    ) -> CommandFuture:
        """As `Fleet.submit_command`; returns when the files are staged. `on_output` is called in the client's thread."""
        return await asyncio.to_thread(
            lambda: self.inner.submit_command(
                argv,
                env=env,
                files_in=files_in,
                files_out=files_out,
                stdin=stdin,
                on_output=on_output,
                **options,
            )
        )

    async def fetch_file(self, blob_id: bytes, size: int) -> bytes:
        """The content of a file that a command left."""
        return await asyncio.to_thread(self.inner.fetch_file, blob_id, size)

    # --- the fleet ----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The fleet's name."""
        return self.inner.name

    @property
    def node(self) -> str:
        """The name of the node that this client is linked to; empty while it looks for one."""
        return self.inner.node

    @property
    def unfinished(self) -> int:
        """Tasks handed over that have no outcome yet."""
        return self.inner.unfinished

    async def get(self, task: str | bytes, timeout: float | None = None) -> Any:
        """The result of a task by its id, or a prefix of it that is unambiguous, from whichever node knows it."""
        text = ids.text(task) if isinstance(task, bytes) else task
        pause_s = 0.02
        async with asyncio.timeout(timeout):
            while True:
                shown, payload = await self._ask("result", {"task": text}, QUERY_TIMEOUT_S)
                found, value = await asyncio.to_thread(self.inner.outcome, text, shown, payload)
                if found:
                    return value
                await asyncio.sleep(pause_s)
                pause_s = min(0.5, pause_s * 1.5)

    async def attach(self, task: str | bytes, timeout: float | None = ATTACH_TIMEOUT_S) -> AsyncAttached:
        """A task or a batch by its id, whoever submitted it and wherever; as `Fleet.attach`."""
        return AsyncAttached(await asyncio.to_thread(self.inner.attach, task, timeout))

    async def detach(self, timeout: float | None = None) -> None:
        """Wait until every durable task handed over is accepted, and leave; as `Fleet.detach`."""
        await asyncio.to_thread(self.inner.detach, timeout)

    async def members(self) -> list[dict[str, Any]]:
        """The nodes of the fleet: name, id, state, slots, busy, labels, address and more."""
        return list((await self.query("members"))["members"])

    async def move(self, task: Future | str, node: str, *, within_s: float = WITHIN_S) -> dict[str, Any]:
        """As `Fleet.move`."""
        name = task.id if isinstance(task, Future) else str(task)
        return moved(await self.query("move", within_s + SLACK_S, task=name, node=node, within_s=within_s))

    async def plan(self, fn: Fn | None = None, /, *, count: int = 1, **options: Any) -> dict[str, Any]:
        """As `Fleet.plan`."""
        from swarm.client.plans import asked

        return await self.query("plan", **asked(fn, count, options))

    @property
    def knowledge(self) -> AsyncKnowledge:
        """What the fleet knows: `put`, `get`, `query`, `watch` and more."""
        from swarm.client.knowledge import AsyncKnowledge

        return AsyncKnowledge(self.inner._engine)

    async def query(self, method: str, timeout_s: float = QUERY_TIMEOUT_S, **args: Any) -> dict[str, Any]:
        """Ask the node something; SwarmError with its words when it says no."""
        value, body = await self._ask(method, args, timeout_s)
        return value if isinstance(value, dict) else {"value": value, "body": body}

    async def _ask(self, method: str, args: Mapping[str, Any], timeout_s: float) -> tuple[Any, bytes]:
        async with asyncio.timeout(timeout_s):
            return await asyncio.wrap_future(self.inner._engine.asking(method, args))

    async def close(self, *, cancel: bool = False) -> None:
        """Disconnect. Waits for what is unfinished, unless it is to be cancelled."""
        engine = self.inner._engine
        try:
            while not cancel and not engine.closed and not await asyncio.to_thread(engine.wait_idle, _PATIENCE_S):
                pass
        finally:
            await asyncio.shield(asyncio.to_thread(engine.close, cancel=cancel))

    async def __aenter__(self) -> AsyncFleet:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self.inner.leaving(error)
        await self.close(cancel=kind is not None)


_PATIENCE_S = 0.5
"""How long a thread waits at a stretch for what a coroutine may be cancelled in."""

_RETURN_WHEN = {"ALL_COMPLETED": asyncio.ALL_COMPLETED, "FIRST_COMPLETED": asyncio.FIRST_COMPLETED}


class AsyncAttached:
    """As `Attached`, for coroutines. A call that is cancelled ends when the node has answered what it was asked last."""

    def __init__(self, inner: Attached) -> None:
        self.inner = inner
        """The same handle for ordinary code."""

    @property
    def id(self) -> str:
        """Its id, as people see it."""
        return self.inner.id

    @property
    def count(self) -> int:
        """Tasks of the batch."""
        return self.inner.count

    async def status(self) -> dict[str, Any]:
        """What is known of its batch."""
        return await asyncio.to_thread(self.inner.status)

    async def done(self) -> bool:
        """Whether it has ended."""
        return await asyncio.to_thread(self.inner.done)

    async def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended, whatever its outcome."""
        await asyncio.to_thread(self.inner.wait, timeout)

    async def result(self, timeout: float | None = None) -> Any:
        """Its result, or those of its tasks in their order."""
        return await asyncio.to_thread(self.inner.result, timeout)

    async def outcomes(self, timeout: float | None = None) -> AsyncIterator[tuple[int, Any]]:
        """(index, value or exception) of each task of a batch, as they end, for ``async for``."""
        found = self.inner.outcomes(timeout)
        while (one := await asyncio.to_thread(next, found, None)) is not None:
            yield one

    async def cancel(self) -> None:
        """Cancel it."""
        await asyncio.to_thread(self.inner.cancel)

    async def reprioritize(self, priority: int | None = None, nice: int | None = None) -> None:
        """Have it sooner or later from now on, whether it waits or runs."""
        await asyncio.to_thread(self.inner.reprioritize, priority, nice)

    def __await__(self) -> Generator[Any, None, Any]:
        return self.result().__await__()


class _Connecting:
    """``await connect_async()`` gives the fleet; ``async with connect_async() as fleet`` closes it, too."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._fleet: AsyncFleet | None = None

    async def _open(self) -> AsyncFleet:
        connecting = asyncio.ensure_future(asyncio.to_thread(connect, **self._options))
        try:
            return AsyncFleet(await asyncio.shield(connecting))
        except asyncio.CancelledError:
            # The thread goes on: what it comes back with is closed.
            connecting.add_done_callback(_close_unwanted)
            raise

    def __await__(self) -> Generator[Any, None, AsyncFleet]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncFleet:
        self._fleet = await self._open()
        return self._fleet

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if self._fleet is not None:
            await self._fleet.__aexit__(kind, error, trace)


def connect_async(
    home: Home | str | Path | None = None,
    *,
    seeds: Iterable[str] = (),
    timeout_s: float = 3.0,
    name: str | None = None,
    durability: str | None = None,
    submit_timeout_s: float | None = None,
    reconnect_timeout_s: float = RECONNECT_TIMEOUT_S,
    direct: bool = True,
) -> _Connecting:
    """As `swarm.connect`: ``async with swarm.connect_async() as fleet``, or ``fleet = await swarm.connect_async()``."""
    return _Connecting(
        {
            "home": home,
            "seeds": seeds,
            "timeout_s": timeout_s,
            "name": name,
            "durability": durability,
            "submit_timeout_s": submit_timeout_s,
            "reconnect_timeout_s": reconnect_timeout_s,
            "direct": direct,
        }
    )


def _close_unwanted(connecting: asyncio.Future[Fleet]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result()._engine.close()


async def _ended(future: AnyFuture) -> None:
    """Wait for a future whatever its outcome; being cancelled cancels nothing else."""
    if isinstance(future, Future):
        await future.ended()
    elif not future.done():
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
        await ended.wait()


async def _wrapped(future: AnyFuture) -> Any:
    if isinstance(future, Future):
        return await future
    wrapped: StdFuture[Any] = future
    return await asyncio.wrap_future(wrapped)
