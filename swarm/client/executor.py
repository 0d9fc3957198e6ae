"""`swarm.Executor`: the fleet as a `concurrent.futures.Executor`, for code that was written for one."""

from __future__ import annotations

import atexit
import concurrent.futures
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from swarm.client.futures import Future
from swarm.client.local_node import LocalNode
from swarm.client.maps import in_chunks, is_coroutine
from swarm.client.sync import Fleet, connect
from swarm.errors import FleetNotFound
from swarm.paths import Home
from swarm.payload_code import display_name
from swarm.tasks import waiting

T = TypeVar("T")

FLEET_TIMEOUT_S = 1.0
"""How long a fleet is looked for before a node of one's own is started."""


class Executor(concurrent.futures.Executor):
    """Runs callables in the fleet, or, where there is none, on a node that it starts for itself and stops again.

    Keeps the rules of the standard library's executors: futures that are pending when the interpreter ends are waited
    for, `shutdown` with ``cancel_futures`` cancels those that have not begun, and submitting after it raises
    RuntimeError. One thing is more: cancelling a future whose call runs ends that call.

    `max_workers` limits how many calls are under way at once: with a node of its own it is the number of its workers.
    `home` is whose fleet is used, as for `swarm.connect`.
    """

    def __init__(self, max_workers: int | None = None, home: Home | str | Path | None = None) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        self._lock = threading.Lock()
        self._state = _State(max_workers)
        # Cheap to make, as the standard executors are: whom it works with is found out at the first call.
        self._home = home
        self._opening = threading.Lock()
        self._shut = False
        self._state_end = weakref.finalize(self, self._state.end_later)
        _states.add(self._state)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """Schedule ``fn(*args, **kwargs)``; every keyword goes to the callable."""
        state = self._state
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
        fleet = state.fleet or self._open()
        return state.submit(fleet, fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Results of `fn` over the items, in order. The items are collected at once, unless `buffersize` is given.

        With `chunksize` as many items make one task. TimeoutError when a result is not there in time; exceptions are
        raised when their item's turn comes.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        items = zip(*iterables)
        return _Mapped(self, fn, items, chunksize, buffersize).results(timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. Waits for those there are; with `cancel_futures`, those that have not begun are cancelled."""
        with self._lock:
            self._shut = True
        state = self._state
        if cancel_futures:
            state.cancel_pending()
        if wait:
            with waiting():
                state.end()
        else:
            state.end_later()

    def _open(self) -> Fleet:
        with self._opening:
            state = self._state
            if state.fleet is None:
                try:
                    fleet = connect(self._home, timeout_s=FLEET_TIMEOUT_S)
                except FleetNotFound:
                    if self._home is not None:
                        raise
                    state.node = LocalNode(state.max_workers)
                    fleet = state.node.connect()
                    state.limit = None
                state.fleet = fleet
            return state.fleet


class _State:
    """What an executor leaves behind when it is collected: calls under way, a connection, a node."""

    def __init__(self, max_workers: int | None) -> None:
        self.max_workers = max_workers
        self.limit = max_workers
        self.fleet: Fleet | None = None
        self.node: LocalNode | None = None
        self._changed = threading.Condition()
        self._under: dict[Future, None] = {}
        self._waiting: deque[tuple[_Held, Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = deque()
        self._ended = False
        self._ending: threading.Thread | None = None

    def submit(
        self, fleet: Fleet, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> concurrent.futures.Future[Any]:
        route = fleet.route(fn, _NOTHING)
        if self.limit is None:
            return self._started(fleet.hand(route, args, kwargs or None))
        with self._changed:
            if len(self._under) >= self.limit or self._waiting:
                held = _Held()
                self._waiting.append((held, fn, args, kwargs))
                return held
            future = fleet.hand(route, args, kwargs or None)
            self._under[future] = None
        future.add_done_callback(self._one_ended)
        return future

    def _started(self, future: Future) -> Future:
        return future

    def _one_ended(self, future: concurrent.futures.Future[Any]) -> None:
        """One ended: one that waits may begin. In the client's thread."""
        begun: Future | None = None
        with self._changed:
            self._under.pop(future, None)  # type: ignore[call-overload]
            while self._waiting and begun is None:
                held, fn, args, kwargs = self._waiting.popleft()
                if not held.set_running_or_notify_cancel():
                    continue
                fleet = self.fleet
                assert fleet is not None
                try:
                    begun = fleet.hand(fleet.route(fn, _NOTHING), args, kwargs or None)
                except BaseException as error:
                    held.set_exception(error)
                    continue
                self._under[begun] = None
                held.follow(begun)
            self._changed.notify_all()
        if begun is not None:
            begun.add_done_callback(self._one_ended)

    def cancel_pending(self) -> None:
        """Cancel what has not begun."""
        with self._changed:
            waiting, self._waiting = self._waiting, deque()
        for held, _, _, _ in waiting:
            held.cancel()
            held.set_running_or_notify_cancel()
        fleet = self.fleet
        if fleet is not None:
            fleet.cancel_pending()

    def end(self) -> None:
        """Wait for what is under way, then leave, and stop a node of one's own."""
        with self._changed:
            while self._waiting:
                self._changed.wait()
            if self._ended:
                return
            self._ended = True
        try:
            if self.fleet is not None:
                self.fleet.close()
        except BaseException:
            if self.fleet is not None:
                self.fleet.close(cancel=True)
            raise
        finally:
            if self.node is not None:
                self.node.stop()

    def end_later(self) -> None:
        """As `end`, without waiting for it."""
        if self.fleet is None and self.node is None:
            self._ended = True
        elif not self._ended and self._ending is None:
            self._ending = threading.Thread(target=self.end, name="swarm-executor-end", daemon=True)
            self._ending.start()

    def finish(self) -> None:
        """At the interpreter's end: everything has ended when this returns."""
        if self._ending is not None:
            self._ending.join()
        self.end()


class _Held(concurrent.futures.Future[Any]):
    """A call that waits because `max_workers` are under way already."""

    _begun: Future | None = None

    def follow(self, begun: Future) -> None:
        """The call has begun: its outcome is this future's."""
        self._begun = begun
        begun.add_done_callback(self._take)

    def cancel(self) -> bool:
        """Cancel the call, also when it runs."""
        return super().cancel() if self._begun is None else self._begun.cancel()

    def _take(self, begun: concurrent.futures.Future[Any]) -> None:
        if begun.cancelled():
            from concurrent.futures._base import CANCELLED_AND_NOTIFIED

            with self._condition:  # type: ignore[attr-defined]
                self._state = CANCELLED_AND_NOTIFIED
                for waiter in self._waiters:  # type: ignore[attr-defined]
                    waiter.add_cancelled(self)
                self._condition.notify_all()  # type: ignore[attr-defined]
            self._invoke_callbacks()  # type: ignore[attr-defined]
            return
        error = begun.exception()
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(begun.result())


class _Mapped:
    """One call of `map`."""

    def __init__(
        self, executor: Executor, fn: Callable[..., Any], items: Iterator[Any], chunksize: int, buffersize: int | None
    ) -> None:
        self._executor = weakref.ref(executor)
        self._fn = fn
        self._items = items
        self._chunksize = chunksize
        self._chunk = in_chunks(fn, whole=True) if chunksize > 1 else None
        self._futures: deque[concurrent.futures.Future[Any]] = deque()
        while (buffersize is None or len(self._futures) < buffersize) and self._next():
            pass

    def _next(self) -> bool:
        executor = self._executor()
        if executor is None or (executor._shut and self._futures):
            return False
        if self._chunk is None:
            for item in self._items:
                self._futures.append(executor.submit(self._fn, *item))
                return True
            return False
        part = [list(item) for _, item in zip(range(self._chunksize), self._items)]
        if part:
            self._futures.append(executor.submit(self._chunk, part))
        return bool(part)

    def results(self, timeout: float | None) -> Iterator[Any]:
        import time

        ends = None if timeout is None else time.monotonic() + timeout

        def iterate() -> Iterator[Any]:
            try:
                while self._futures:
                    self._next()
                    value = self._futures[0].result(None if ends is None else ends - time.monotonic())
                    self._futures.popleft()
                    if self._chunk is None:
                        yield value
                    else:
                        yield from value[0]
            finally:
                for future in self._futures:
                    future.cancel()

        return iterate()


_states: weakref.WeakSet[_State] = weakref.WeakSet()


def _finish_all() -> None:
    """At the interpreter's end: pending calls are waited for, as the standard library's executors do."""
    for state in list(_states):
        state.finish()


atexit.register(_finish_all)
