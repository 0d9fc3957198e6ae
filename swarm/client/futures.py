"""Futures of tasks: real `concurrent.futures.Future`s, without what most of them never need.

The stock future makes a lock and a condition when it is made, which costs more than all else in submitting a task.
Here they are made when somebody first waits, adds a callback, or hands the future to `concurrent.futures.wait`. Until
then a state is one entry of a dictionary, written whole, so that it can be read without a lock.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from kernels.batch import attributes
from swarm.protocol import ids
from swarm.tasks import waiting

if TYPE_CHECKING:
    from swarm.client.batches import Batch
    from swarm.client.receipts import Receiving

T = TypeVar("T")

_OVER = (FINISHED, CANCELLED_AND_NOTIFIED, CANCELLED)

SIGNAL_SLICE_S = 0.2
"""The longest that a thread waits at a stretch. A signal (Ctrl-C) that another thread was given, or that came just before
the wait began, is seen by the main thread only between two waits."""

Listener = Callable[[str, Any, bytes], None]
"""Told of a task's events: name, value, bulk. Called in the client's thread."""


class Future(concurrent.futures.Future[Any]):
    """The outcome of a task, now or later. Keeps every rule of `concurrent.futures.Future`; can be awaited, too.

    One difference: `cancel` also ends a task that runs. Callbacks are called in the client's own thread, where nothing
    may wait for another task.
    """

    # What an instance has from its class until it differs; the kernel that settles outcomes relies on the names.
    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _node = ""
    _progress: Any = None
    _listeners: tuple[Listener, ...] = ()

    def __init__(self, batch: Batch, index: int) -> None:
        # The stock initialiser is left out on purpose: what it makes is made by the properties below when needed.
        self._batch = batch
        self._index = index

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        made: threading.Condition | None = attributes(self).get("_condition")
        # setdefault is atomic: of two threads that come here at once both get the same one.
        return made if made is not None else _made(self, "_condition", threading.Condition())

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        return _made(self, "_waiters", [])

    @property
    def _done_callbacks(self) -> list[Callable[[Any], object]]:
        return _made(self, "_done_callbacks", [])

    # --- ending: called by the engine and the kernel ------------------------------------------------------------------

    def _finish(self, value: Any) -> None:
        """The task has a value. The kernel comes here when somebody may be waiting."""
        self._end(FINISHED, value, None)

    def _fail(self, error: BaseException) -> None:
        """The task has none. An outcome that comes after another changes nothing."""
        cancelled = isinstance(error, concurrent.futures.CancelledError)
        self._end(CANCELLED_AND_NOTIFIED if cancelled else FINISHED, None, error)

    def _end(self, state: str, value: Any, error: BaseException | None) -> bool:
        condition = self._condition
        with condition:
            if self._state in _OVER:
                return False
            self._result = value
            self._exception = error
            self._state = state
            for waiter in attributes(self).get("_waiters", ()):
                if state != FINISHED:
                    waiter.add_cancelled(self)
                elif error is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            condition.notify_all()
        if "_done_callbacks" in attributes(self):
            self._invoke_callbacks()  # type: ignore[attr-defined]
        return True

    def _happened(self, name: str, value: Any, body: bytes, node: str) -> None:
        if node:
            self._node = node
        if name == "progress":
            self._progress = value
        elif name == "started":
            with self._condition:
                if self._state == PENDING:
                    self._state = RUNNING
        for listener in self._listeners:
            listener(name, value, body)

    # --- what people ask ----------------------------------------------------------------------------------------------

    @property
    def task_id(self) -> bytes:
        """The task's id, 16 bytes."""
        return ids.task_id(self._batch.key, self._index)

    @property
    def batch_id(self) -> str:
        """The id of the batch that the task is part of: `swarm.attach` takes it, too."""
        return ids.batch_text(self._batch.key)

    @property
    def receipt(self) -> Receiving:
        """The receipt of the batch that the task is part of: ``future.receipt.result()`` waits for it, as does
        ``await future.receipt``. It tells on how many disks and hosts the task is (`Receipt`)."""
        return self._batch.receipt()

    @property
    def id(self) -> str:
        """The task's id as people see it; any prefix that is unambiguous will do elsewhere."""
        return ids.text(self.task_id)

    @property
    def progress(self) -> Any:
        """What the task last reported of its progress: {"done", "total", "note"}, or None."""
        return self._progress

    @property
    def node(self) -> str:
        """The name of the node that last said something of the task, or the empty text."""
        return self._node

    def add_progress_callback(self, function: Callable[[Any], None]) -> None:
        """Have `function(progress)` called in the client's thread whenever the task reports progress."""
        self._listeners = (*self._listeners, lambda name, value, body: function(value) if name == "progress" else None)

    def result(self, timeout: float | None = None) -> Any:
        """The task's result; raises what it raised. TimeoutError after `timeout` seconds."""
        if self._state not in _OVER:
            self.wait(timeout)
        error = self._exception
        if error is None and self._state == FINISHED:
            return self._result
        try:
            raise self._cancelled_error() if error is None else error
        finally:
            # The exception holds this frame: without this they would keep each other alive.
            del error
            self = None  # type: ignore[assignment]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the task raised, or None. CancelledError when it was cancelled."""
        if self._state not in _OVER:
            self.wait(timeout)
        if self._state != FINISHED:
            raise self._exception or self._cancelled_error()
        return self._exception

    def done(self) -> bool:
        """Whether it has its outcome."""
        return self._state in _OVER

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._state in (CANCELLED_AND_NOTIFIED, CANCELLED)

    def running(self) -> bool:
        """Whether it is known to have started. Nodes tell that of commands and of what may not be repeated."""
        return self._state == RUNNING

    def cancel(self) -> bool:
        """Cancel the task, also when it runs: its worker is ended. True unless it has its outcome already."""
        if self._state in _OVER:
            return self._state != FINISHED
        if not self._end(CANCELLED_AND_NOTIFIED, None, self._cancelled_error()):
            return self._state != FINISHED
        self._batch.engine.cancel(self._batch.number, self._index)
        return True

    def reprioritize(self, priority: int | None = None, nice: int | None = None) -> bool:
        """Have the task sooner or later from now on, whether it waits or runs: of another priority, another nice, or both. One
        that runs and is raised makes way for nothing that is no longer above it; one that stands still goes on when its
        turn has come. True unless it has its outcome already."""
        from swarm.client.attached import asked_urgency
        from swarm.errors import NotFound

        asked = asked_urgency(priority, nice)
        if self._state in _OVER:
            return False
        try:
            self._batch.engine.query("batch.nice", {"batch": self._batch.key, "index": self._index, **asked})
        except NotFound:
            if self._state not in _OVER:
                raise
            return False
        return self._state not in _OVER

    def _cancelled_error(self) -> BaseException:
        from swarm.errors import TaskCancelled

        return TaskCancelled(f"task {self.id[:8]} was cancelled", task=self.id)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has its outcome, whatever that is. TimeoutError after `timeout` seconds."""
        if self._state in _OVER:
            return
        self._batch.engine.refuse_in_own_thread("wait for a task")
        condition = self._condition
        ends = None if timeout is None else time.monotonic() + timeout
        with waiting(), condition:
            while self._state not in _OVER:
                left_s = SIGNAL_SLICE_S if ends is None else min(SIGNAL_SLICE_S, ends - time.monotonic())
                if left_s <= 0:
                    raise TimeoutError
                condition.wait(left_s)

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait in a coroutine. When that is cancelled, so is the task (see `asyncio.shield`)."""
        if self._state not in _OVER:
            try:
                yield from self._waiter()
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result()

    async def ended(self) -> None:
        """Wait in a coroutine until it has its outcome, whatever that is. Being cancelled does not cancel the task."""
        if self._state not in _OVER:
            await self._waiter()

    def _waiter(self) -> asyncio.Future[None]:
        waker = _waker(asyncio.get_running_loop())
        waiter: asyncio.Future[None] = waker.loop.create_future()
        self.add_done_callback(lambda _: waker.wake(waiter))
        return waiter


def _made(future: Future, name: str, value: T) -> T:
    kept: T = attributes(future).setdefault(name, value)
    return kept


class _Waker:
    """Wakes coroutines of one event loop from the client's thread: once for all whose tasks ended together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ended: deque[asyncio.Future[None]] = deque()
        self._called = False

    def wake(self, waiter: asyncio.Future[None]) -> None:
        self._ended.append(waiter)
        if not self._called:
            self._called = True
            try:
                self.loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                pass  # the loop is closed: nobody waits there any more

    def _drain(self) -> None:
        # Before the queue is emptied: what is added from here on is either seen below or calls again.
        self._called = False
        while self._ended:
            waiter = self._ended.popleft()
            if not waiter.done():
                waiter.set_result(None)


_wakers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Waker] = WeakKeyDictionary()


def _waker(loop: asyncio.AbstractEventLoop) -> _Waker:
    found = _wakers.get(loop)
    if found is None:
        found = _wakers[loop] = _Waker(loop)
    return found
