"""Futures of tasks: real `concurrent.futures.Future`s, without what most of them never need.

The stock future makes a lock and a condition when it is made, which costs more than all else in submitting a task.
Here they are made when somebody first waits, adds a callback, or hands the future to `concurrent.futures.wait`.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from swarm.protocol import ids
from swarm.tasks import waiting

if TYPE_CHECKING:
    from swarm.client.engine import Engine

_OVER = (CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED)


class Future(concurrent.futures.Future[Any]):
    """The outcome of a task, now or later. Keeps every rule of `concurrent.futures.Future`."""

    # What an instance has from its class until it differs; the kernel that settles outcomes relies on the names.
    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _engine: Engine
    _batch = 0
    _index = 0
    _node = ""
    _progress: Any = None
    _listeners: tuple[Callable[[str, Any, bytes], None], ...] = ()

    def __init__(self, engine: Engine, batch: int, index: int) -> None:
        # The stock initialiser is left out on purpose: what it makes is made by the properties below when needed.
        self._engine = engine
        self._batch = batch
        self._index = index

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        made = self.__dict__.get("_condition")
        # setdefault is atomic: of two threads that come here at once both get the same one.
        return made if made is not None else self.__dict__.setdefault("_condition", threading.Condition())

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        return self.__dict__.setdefault("_waiters", [])

    @property
    def _done_callbacks(self) -> list[Callable[[Any], object]]:  # type: ignore[override]
        return self.__dict__.setdefault("_done_callbacks", [])

    def _finish(self, value: Any) -> None:
        """Called by the kernel when somebody may be waiting."""
        if not self.done():
            self.set_result(value)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, concurrent.futures.CancelledError):
            with self._condition:
                if self._state in _OVER:
                    return
                self._state = CANCELLED_AND_NOTIFIED
                for waiter in self._waiters:
                    waiter.add_cancelled(self)
                self._condition.notify_all()
            self._invoke_callbacks()  # type: ignore[attr-defined]
        elif not self.done():
            self.set_exception(error)

    # --- what people ask ----------------------------------------------------------------------------------------------

    @property
    def task_id(self) -> bytes:
        """The task's id, 16 bytes."""
        return ids.task_id(ids.batch_key(self._engine.session_id, self._batch), self._index)

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
        if self._state == FINISHED and self._exception is None:
            return self._result
        with waiting():
            return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the task raised, or None."""
        with waiting():
            return super().exception(timeout)

    def cancel(self) -> bool:
        """Cancel the task, also when it runs: its worker is ended. True unless it has its outcome already."""
        if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
            return True
        if self._state == FINISHED:
            return False
        self._engine.cancel(self._batch, self._index)
        with self._condition:
            if self._state == FINISHED:
                return False
            if self._state not in (CANCELLED, CANCELLED_AND_NOTIFIED):
                self._state = CANCELLED_AND_NOTIFIED
                for waiter in self._waiters:
                    waiter.add_cancelled(self)
                self._condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        return True

    def running(self) -> bool:
        """Whether it is known to have started."""
        return self._state == RUNNING

    def _happened(self, name: str, value: Any, body: bytes, node: str) -> None:
        if node:
            self._node = node
        if name == "progress":
            self._progress = value
        elif name == "started" and self._state == PENDING:
            self._state = RUNNING
        for listener in self._listeners:
            listener(name, value, body)


class CommandFuture(Future):
    """A command that runs somewhere: its result is {"exit", "signal", "out"}.

    Input and signals that come before it runs are kept here until it does: only then is there somebody to take them.
    """

    def __init__(self, engine: Engine, batch: int, index: int) -> None:
        super().__init__(engine, batch, index)
        self._early: list[tuple[str, Any, bytes]] = []
        self._early_lock = threading.Lock()
        self._started = False

    def send_input(self, data: bytes) -> None:
        """Write to the command's standard input."""
        if data:
            self._give("in", None, data)

    def close_input(self) -> None:
        """End the command's standard input."""
        self._give("in", None, b"")

    def signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        self._give("signal", number, b"")

    def _give(self, what: str, value: Any, body: bytes) -> None:
        with self._early_lock:
            if not self._started:
                self._early.append((what, value, body))
                return
        self._engine.give_input(self._batch, self._index, what, value, body)

    def _happened(self, name: str, value: Any, body: bytes, node: str) -> None:
        super()._happened(name, value, body, node)
        if name == "started":
            with self._early_lock:
                early, self._early = self._early, []
                self._started = True
                # Handed on under the lock, so that what is given meanwhile comes after it.
                for given in early:
                    self._engine.give_input(self._batch, self._index, *given)


class Stream(Iterator[Any]):
    """Items of a generator that runs somewhere, in order. The task waits when nobody takes them."""

    def __init__(self, future: Future, decode: Callable[[bytes], Any]) -> None:
        self.future = future
        self._decode = decode
        self._items: SimpleQueue[bytes | None] = SimpleQueue()
        self._taken = 0
        future._listeners = (*future._listeners, self._heard)
        future.add_done_callback(lambda _: self._items.put(None))

    def _heard(self, name: str, value: Any, body: bytes) -> None:
        if name == "item":
            self._items.put(body)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Any:
        with waiting():
            item = self._items.get()
        if item is None:
            self._items.put(None)
            self.future.result()
            raise StopIteration
        self._taken += 1
        self.future._engine.give_input(self.future._batch, self.future._index, "ack", self._taken, b"")
        return self._decode(item)

    def close(self) -> None:
        """End the generator."""
        self.future.cancel()
