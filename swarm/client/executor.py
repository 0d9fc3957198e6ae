"""`swarm.Executor`: the fleet as a `concurrent.futures.Executor`, for code that was written for one."""

from __future__ import annotations

import atexit
import concurrent.futures
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from swarm.client.chunks import Chunk, Source, opened
from swarm.client.local_node import LocalNode
from swarm.client.narrow import Narrow
from swarm.client.options import NOTHING_CHOSEN, AnyFuture
from swarm.client.sync import Fleet, connect
from swarm.errors import FleetNotFound, NotPicklable, PayloadTooLarge
from swarm.paths import Home
from swarm.tasks import options_of, waiting

T = TypeVar("T")

FLEET_TIMEOUT_S = 1.0
"""How long a fleet is looked for before a node of one's own is started."""


class Executor(concurrent.futures.Executor):
    """Runs callables in the fleet, or, where there is none, on a node that it starts for itself and stops again.

    Keeps the rules of the standard library's executors: calls that are pending when the interpreter ends are waited
    for, `shutdown` with ``cancel_futures`` cancels those that have not begun, and submitting after it raises
    RuntimeError. One thing is more: cancelling a future whose call runs ends that call.

    `max_workers` limits how many calls are under way at once; a node of its own has as many workers. `home` is whose
    fleet is used, as for `swarm.connect`; with it, FleetNotFound is raised where there is none.
    """

    def __init__(self, max_workers: int | None = None, home: Home | str | Path | None = None) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        # Cheap to make, as the standard executors are: whom it works with is found out at the first call.
        self._back = _Back(max_workers, home)
        self._lock = threading.Lock()
        self._shut = False
        _backs.add(self._back)
        weakref.finalize(self, self._back.end_later).atexit = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """Schedule ``fn(*args, **kwargs)``; every keyword goes to the callable."""
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._back.open()
            return self._back.submit(fn, args, kwargs)

    def _submit(self, fn: Callable[..., Any], chunk: Chunk) -> AnyFuture:
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._back.open()
            return self._back.submit_chunk(fn, chunk)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Results of `fn` over the items, in order. The items are collected at once, unless `buffersize` is given.

        With `chunksize` as many items make one task. TimeoutError when a result is not there `timeout` seconds after
        the call; what an item raised is raised when its turn comes.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        ends = None if timeout is None else time.monotonic() + timeout
        items = Source(iterables, packs=chunksize > 1 and not options_of(fn).python)
        executor, back = weakref.ref(self), self._back
        begun: deque[AnyFuture] = deque()

        def begin() -> bool:
            here = executor()
            chunk = items.next(chunksize) if here is not None else None
            if here is None or chunk is None:
                return False
            if chunksize > 1:
                begun.append(here._submit(fn, chunk))
            else:
                begun.append(here.submit(fn, *chunk.call))
            return True

        def results() -> Iterator[T]:
            try:
                while begun:
                    if buffersize is not None:
                        begin()
                    value = begun[0].result(None if ends is None else max(0.0, ends - time.monotonic()))
                    begun.popleft()
                    if chunksize == 1:
                        yield value
                        continue
                    values, error, _ = opened(value, "", back.trusts)
                    yield from values
                    if error is not None:
                        raise error
            finally:
                for future in begun:
                    future.cancel()

        while (buffersize is None or len(begun) < buffersize) and begin():
            pass
        return results()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. Waits for those there are; `cancel_futures` cancels those that have not begun."""
        with self._lock:
            self._shut = True
        if cancel_futures:
            self._back.cancel_pending()
        if wait:
            with waiting():
                self._back.end()
        else:
            self._back.end_later()


class _Back:
    """What an executor works with, and what it leaves behind when it is collected."""

    def __init__(self, max_workers: int | None, home: Home | str | Path | None) -> None:
        self._max_workers = max_workers
        self._home = home
        self._fleet: Fleet | None = None
        self._node: LocalNode | None = None
        self._narrow: Narrow | None = None
        self._ending = threading.RLock()
        self._ended = False
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Find a fleet, or start a node."""
        if self._fleet is not None:
            return
        try:
            self._fleet = connect(self._home, timeout_s=FLEET_TIMEOUT_S)
            if self._max_workers is not None:
                self._narrow = Narrow(self._max_workers)
        except FleetNotFound:
            if self._home is not None:
                raise
            self._node = LocalNode(self._max_workers)
            self._fleet = self._node.connect()

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> AnyFuture:
        fleet = self._fleet
        assert fleet is not None
        return self._begin(lambda: fleet.hand(fleet.route(fn, NOTHING_CHOSEN), args, kwargs or None))

    def submit_chunk(self, fn: Callable[..., Any], chunk: Chunk) -> AnyFuture:
        fleet = self._fleet
        assert fleet is not None
        return self._begin(lambda: fleet.hand_chunk(fleet.chunk_route(fn), chunk))

    @property
    def trusts(self) -> bool:
        return self._fleet is not None and self._fleet.trusts

    def _begin(self, hand: Callable[[], AnyFuture]) -> AnyFuture:
        def begin() -> AnyFuture:
            try:
                return hand()
            except (NotPicklable, PayloadTooLarge) as error:
                failed: AnyFuture = concurrent.futures.Future()
                failed.set_exception(error)
                return failed

        return begin() if self._narrow is None else self._narrow.submit(begin)

    def cancel_pending(self) -> None:
        """Cancel what has not begun."""
        if self._narrow is not None:
            self._narrow.cancel_waiting()
        if self._fleet is not None:
            self._fleet.cancel_pending()

    def end(self) -> None:
        """Wait for what is under way, then leave, and stop a node of its own. Safe to call again."""
        with self._ending:
            if self._ended:
                return
            self._ended = True
            fleet, node, narrow = self._fleet, self._node, self._narrow
            finished = False
            try:
                if narrow is not None:
                    narrow.wait()
                if fleet is not None:
                    fleet.close()
                finished = True
            finally:
                if not finished and fleet is not None:  # Ctrl-C while it waited
                    if narrow is not None:
                        narrow.cancel_waiting()
                    fleet.close(cancel=True)
                if node is not None:
                    node.stop()

    def end_later(self) -> None:
        """As `end`, without waiting for it."""
        if self._fleet is not None and self._thread is None and not self._ended:
            self._thread = threading.Thread(target=self.end, name="swarm-executor-end", daemon=True)
            self._thread.start()


_backs: weakref.WeakSet[_Back] = weakref.WeakSet()


def _end_all() -> None:
    """At the interpreter's end: pending calls are waited for, as the standard library's executors do."""
    for back in list(_backs):
        back.end()


atexit.register(_end_all)
