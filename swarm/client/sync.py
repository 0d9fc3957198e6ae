"""`swarm.connect()`: the fleet, for ordinary code."""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED
from pathlib import Path
from typing import Any

from kernels.batch import encode_plain
from swarm.client.buffers import Buffers
from swarm.client.engine import QUERY_TIMEOUT_S, Engine
from swarm.client.futures import CommandFuture, Future, Stream
from swarm.client.routes import ROUTES_MAX, Route, Routes, command_route
from swarm.errors import ConfigError, NotFound, TaskError
from swarm.paths import Home
from swarm.payload import decode_value, encode_call
from swarm.payload_failure import error_of
from swarm.protocol import ids
from swarm.protocol.states import Status
from swarm.tasks import TaskOptions

MAP_WINDOW = 4096
"""Items that `map` has under way at most, when it is not told otherwise."""
CHUNK_SECONDS = 0.01

_OPTION_NAMES = frozenset(
    ("name", "retries", "retry_on", "backoff_s", "needs", "labels", "timeout_s", "priority", "rerun", "stream", "python")
)
_CALL_NAMES = _OPTION_NAMES | {"deadline", "nice", "durability"}
_NO_OPTIONS = TaskOptions()


class Options:
    """A fleet together with options for what is submitted: `fleet.options(priority=LOW).submit(f, x)`."""

    def __init__(self, fleet: Fleet, options: Mapping[str, Any]) -> None:
        self._fleet = fleet
        self._deadline, self._nice, self._options = _checked(dict(options))

    def submit(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Future:
        """Run `fn(*args, **kwargs)` somewhere; every keyword goes to the callable."""
        return self._fleet._submit(fn, args, kwargs, self._options, self._deadline, self._nice)

    def map(self, fn: Callable[..., Any] | str, /, *iterables: Iterable[Any], **options: Any) -> Iterator[Any]:
        """As `Fleet.map`, with these options."""
        return self._fleet._map(fn, iterables, self._options, self._deadline, self._nice, **options)


class Fleet:
    """A connection to a fleet. Use it in a `with` statement, or close it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._routes = Routes()
        self._known: dict[Any, Route] = {}
        self._buffers = Buffers(engine.query, self._reach, self._release)
        engine._source = self._buffers

    def _reach(self) -> str:
        link = self._engine.link
        return "lan" if link is None else link.reach

    def _release(self, blob_id: bytes) -> None:
        engine = self._engine
        if not engine.closed:
            engine._loop.call_soon_threadsafe(engine._ask, "segment.release", {"ids": [blob_id]}, b"")

    # --- work ---------------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Future:
        """Run `fn(*args, **kwargs)` somewhere in the fleet; a future of its result.

        The keywords priority, nice, needs, labels, timeout_s (seconds), deadline (seconds since the epoch), retries,
        retry_on, backoff_s, rerun, stream, python, name and durability are options of the task, not arguments; a
        callable that has such keywords itself is submitted with `options(…).submit`.
        """
        if not kwargs:
            # The way of most tasks: a callable seen before, without options.
            try:
                route = self._known.get(fn)
            except TypeError:
                route = None  # not hashable
            if route is not None:
                for value in args:
                    if isinstance(value, concurrent.futures.Future):
                        return self._hand_after(route, args, {}, Future)
                return self._engine.submit(route.raw, route.rerun, args, None, self._buffers, Future)
        elif not _CALL_NAMES.isdisjoint(kwargs):
            options = {key: kwargs.pop(key) for key in _CALL_NAMES.intersection(kwargs)}
            deadline, nice, chosen = _checked(options)
            return self._submit(fn, args, kwargs, chosen, deadline, nice)
        return self._submit(fn, args, kwargs, _NO_OPTIONS, None, 0)

    def _submit(
        self,
        fn: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions,
        deadline: float | None,
        nice: int,
        make: type[Future] = Future,
    ) -> Future:
        route = self._routes.of(fn, options, deadline, nice)
        if options is _NO_OPTIONS and deadline is None and not nice and not route.stream:
            if len(self._known) >= ROUTES_MAX:
                self._known.clear()
            with contextlib.suppress(TypeError):
                self._known[fn] = route
        return self._hand(route, args, kwargs, make)

    def _hand(self, route: Route, args: tuple[Any, ...], kwargs: dict[str, Any], make: type[Future]) -> Future:
        if route.code is not None:
            self._engine.add_code(route.code.digest, route.code.blob)
        for value in args:
            if isinstance(value, concurrent.futures.Future):
                return self._hand_after(route, args, kwargs, make)
        for value in kwargs.values():
            if isinstance(value, concurrent.futures.Future):
                return self._hand_after(route, args, kwargs, make)
        return self._engine.submit(route.raw, route.rerun, args, kwargs or None, self._buffers, make)

    def _hand_after(self, route: Route, args: tuple[Any, ...], kwargs: dict[str, Any], make: type[Future]) -> Future:
        """Arguments that are futures: those that are done go as values, the others are waited for by the node."""
        fills: list[tuple[int | str, int]] = []
        deps: list[bytes] = []

        def resolved(place: int | str, value: Any) -> Any:
            if not isinstance(value, concurrent.futures.Future):
                return value
            if value.done():
                return value.result()
            if not isinstance(value, Future) or value._engine is not self._engine:
                raise ConfigError(
                    "an argument is a future of something else than this connection",
                    hint="wait for it and pass its result",
                )
            task = value.task_id
            if task not in deps:
                deps.append(task)
            fills.append((place, deps.index(task)))
            return None

        values = tuple(resolved(place, value) for place, value in enumerate(args))
        named = {key: resolved(key, value) for key, value in kwargs.items()}
        if not deps:
            return self._hand(route, values, named, make)
        payload = encode_call(values, named, self._buffers, fills=fills)
        return self._engine.submit_after(route.raw, route.rerun, payload, deps, make)

    def options(self, **options: Any) -> Options:
        """This fleet with options for what is submitted through it."""
        return Options(self, options)

    def map(
        self,
        fn: Callable[..., Any] | str,
        /,
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        window: int = MAP_WINDOW,
        ordered: bool = True,
        timeout: float | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Results of `fn` over the items, in their order (or as they come, with `ordered=False`).

        Items are taken as there is room for them: at most `window` are under way, so endless iterators will do.
        `chunksize` items make one task; None lets it follow from how long an item takes.
        """
        deadline, nice, chosen = _checked(options)
        return self._map(
            fn, iterables, chosen, deadline, nice, chunksize=chunksize, window=window, ordered=ordered, timeout=timeout
        )

    def _map(
        self,
        fn: Callable[..., Any] | str,
        iterables: Sequence[Iterable[Any]],
        options: TaskOptions,
        deadline: float | None,
        nice: int,
        *,
        chunksize: int | None = None,
        window: int = MAP_WINDOW,
        ordered: bool = True,
        timeout: float | None = None,
    ) -> Iterator[Any]:
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        ends = None if timeout is None else time.monotonic() + timeout
        items = zip(*iterables)
        chunked = chunksize is not None and chunksize > 1 and not isinstance(fn, str)
        if chunked:
            assert chunksize is not None
            parts = _chunks(items, chunksize)
            named = options if options.name else _named(options, fn)
            route = self._routes.of(_Chunk(fn), named, deadline, nice)
            window = max(2, window // chunksize)
            calls: Iterator[tuple[Any, ...]] = ((part,) for part in parts)
        else:
            route = self._routes.of(fn, options, deadline, nice)
            calls = iter(items)
        # Begun at once, as the standard library's executors do; the rest as results are taken.
        begun: deque[Future] = deque()
        for _ in range(window):
            call = next(calls, None)
            if call is None:
                break
            begun.append(self._hand(route, call, {}, Future))
        return self._results(route, calls, begun, ordered, chunked, ends)

    def _results(
        self,
        route: Route,
        calls: Iterator[tuple[Any, ...]],
        begun: deque[Future],
        ordered: bool,
        chunked: bool,
        ends: float | None,
    ) -> Iterator[Any]:
        try:
            while begun:
                left = None if ends is None else ends - time.monotonic()
                if ordered:
                    value = begun[0].result(left)
                    begun.popleft()
                else:
                    done = concurrent.futures.wait(begun, left, FIRST_COMPLETED).done
                    if not done:
                        raise TimeoutError
                    first = next(iter(done))
                    begun.remove(first)
                    value = first.result()
                call = next(calls, None)
                if call is not None:
                    begun.append(self._hand(route, call, {}, Future))
                if chunked:
                    yield from value
                else:
                    yield value
        finally:
            for future in begun:
                future.cancel()

    def gather(self, futures: Iterable[concurrent.futures.Future[Any]], timeout: float | None = None) -> list[Any]:
        """The results of all, in their order; the first failure is raised, and the rest cancelled."""
        found = list(futures)
        ends = None if timeout is None else time.monotonic() + timeout
        try:
            return [one.result(None if ends is None else max(0.0, ends - time.monotonic())) for one in found]
        except BaseException:
            for one in found:
                one.cancel()
            raise

    @staticmethod
    def as_completed(
        futures: Iterable[concurrent.futures.Future[Any]], timeout: float | None = None
    ) -> Iterator[concurrent.futures.Future[Any]]:
        """Futures as they end."""
        return concurrent.futures.as_completed(futures, timeout)

    @staticmethod
    def wait(
        futures: Iterable[concurrent.futures.Future[Any]],
        timeout: float | None = None,
        return_when: str = concurrent.futures.ALL_COMPLETED,
    ) -> Any:
        """(done, not done), as `concurrent.futures.wait`."""
        return concurrent.futures.wait(list(futures), timeout, return_when)

    @staticmethod
    def cancel(futures: Iterable[concurrent.futures.Future[Any]]) -> int:
        """Cancel tasks, also those that run; how many will not have a result."""
        return sum(1 for future in futures if future.cancel())

    def stream(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Stream:
        """Items of a generator that runs somewhere, as it yields them."""
        options = {key: kwargs.pop(key) for key in _CALL_NAMES.intersection(kwargs)}
        deadline, nice, chosen = _checked(options | {"stream": True})
        future = self._submit(fn, args, kwargs, chosen, deadline, nice)
        return Stream(future, lambda body: decode_value(body, self._buffers, trusted=True))

    def submit_command(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        files_in: Iterable[str | Path | tuple[str, str | Path]] = (),
        files_out: Iterable[str] = (),
        stdin: bool = False,
        on_output: Callable[[str, bytes], None] | None = None,
        **options: Any,
    ) -> CommandFuture:
        """Run a command somewhere, in a fresh directory. Its future's result is {"exit", "signal", "out"}.

        `files_in` are put into its directory (a path, or (name there, path here)); `files_out` are names there, which
        come back as {name: bytes} in the result. `on_output("out" | "err", bytes)` is called as it writes.
        """
        argv = [str(part) for part in argv]
        if not argv:
            raise ConfigError("there is no command", hint="give its name and arguments")
        deadline, nice, chosen = _checked(options)
        route = command_route(argv[0], chosen, deadline, nice)
        staged = []
        for entry in files_in:
            there, here = entry if isinstance(entry, tuple) else (str(entry), entry)
            path = Path(here)
            try:
                ref = self._buffers.put_file(path)
            except OSError as error:
                raise NotFound(f"can not read {path}: {error.strerror or error}", hint="is the path right?") from error
            staged.append([there, ref.id, ref.size, path.stat().st_mode & 0o777])
        details = {"env": dict(env or {}), "in": staged, "out": list(files_out), "stdin": stdin, "tty": False}
        payload = encode_plain([argv, details])
        if payload is None:
            raise ConfigError("the command's arguments are too long or hold what is no text", hint="stage files with --in")
        future = self._engine.submit(route.raw, route.rerun, None, None, payload, CommandFuture)
        assert isinstance(future, CommandFuture)
        if on_output is not None:
            listener = on_output
            future._listeners = (
                *future._listeners,
                lambda name, value, body: listener(name, body) if name in ("out", "err") else None,
            )
        return future

    def fetch_file(self, blob_id: bytes, size: int) -> bytes:
        """The content of a file that a command left."""
        return bytes(self._buffers.open_file(blob_id, size))

    # --- the fleet ----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The fleet's name."""
        return self._engine.fleet_name

    def get(self, task: str | bytes, timeout: float | None = None) -> Any:
        """The result of a task by its id, or a prefix of it that is unambiguous, from whichever node knows it."""
        text = ids.text(task) if isinstance(task, bytes) else task
        ends = None if timeout is None else time.monotonic() + timeout
        pause_s = 0.02
        while True:
            shown, payload = self._engine.query("result", {"task": text})
            if payload:
                status = Status[shown["state"].upper()]
                if status == Status.OK:
                    return decode_value(payload, self._buffers, trusted=True)
                raise error_of(status, payload, trusted=True)
            if ends is not None and time.monotonic() >= ends:
                raise TimeoutError(f"task {text[:8]} is {shown.get('state')}")
            time.sleep(pause_s)
            pause_s = min(0.5, pause_s * 1.5)

    def members(self) -> list[dict[str, Any]]:
        """The nodes of the fleet."""
        return list(self.query("members")["members"])

    def query(self, method: str, timeout_s: float = QUERY_TIMEOUT_S, **args: Any) -> dict[str, Any]:
        """Ask the node something; SwarmError with its words when it says no."""
        value, body = self._engine.query(method, args, timeout_s=timeout_s)
        return value if isinstance(value, dict) else {"value": value, "body": body}

    def close(self, *, cancel: bool = False) -> None:
        """Disconnect. Waits for what is unfinished, unless it is to be cancelled."""
        engine = self._engine
        if engine.closed:
            return
        unfinished = [
            future for futures in list(engine._futures.values()) for future in list(futures) if future is not None
        ]
        if cancel:
            for future in unfinished:
                future.cancel()
        else:
            concurrent.futures.wait(unfinished)
        engine.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close(cancel=kind is not None)


def connect(
    home: Home | None = None, *, seeds: Iterable[str] = (), timeout_s: float = 3.0, durability: str = "none"
) -> Fleet:
    """Connect to the fleet of this home. FleetNotFound when no node is reached within `timeout_s` seconds."""
    _durable(durability)
    from swarm.client.routes import session_for_here

    engine = Engine(home or Home.resolve(), seeds=seeds, session=session_for_here())
    engine.open(timeout_s)
    return Fleet(engine)


class _Chunk:
    """Several items as one task: a call of the callable for each."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn

    def __call__(self, items: Sequence[Sequence[Any]]) -> list[Any]:
        fn = self._fn
        return [fn(*item) for item in items]

    def __hash__(self) -> int:
        return hash(self._fn)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Chunk) and other._fn == self._fn


def _chunks(items: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[list[Any]]]:
    part: list[list[Any]] = []
    for item in items:
        part.append(list(item))
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _named(options: TaskOptions, fn: Any) -> TaskOptions:
    import dataclasses

    from swarm.payload_code import display_name

    return dataclasses.replace(options, name=display_name(fn))


def _checked(options: dict[str, Any]) -> tuple[float | None, int, TaskOptions]:
    unknown = sorted(set(options) - _CALL_NAMES)
    if unknown:
        raise ConfigError(f"there is no option {unknown[0]!r}", hint=f"there are {', '.join(sorted(_CALL_NAMES))}")
    _durable(options.pop("durability", "none"))
    deadline = options.pop("deadline", None)
    nice = options.pop("nice", 0)
    if not isinstance(nice, int) or not -20 <= nice <= 19:
        raise ConfigError(f"nice={nice!r} is not a whole number from -20 to 19")
    return deadline, nice, TaskOptions.of(**options) if options else _NO_OPTIONS


def _durable(durability: str) -> None:
    if durability != "none":
        raise ConfigError(
            f"durability={durability!r} is not there yet",
            hint="with 'none' a task lives as long as the script that submitted it",
        )


__all__ = ["Fleet", "Options", "TaskError", "connect"]
