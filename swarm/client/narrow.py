"""At most so many calls of an executor under way at once, whatever the size of the fleet."""

from __future__ import annotations

import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, PENDING
from typing import Any

AnyFuture = concurrent.futures.Future[Any]


class Held(concurrent.futures.Future[Any]):
    """The future of a call that waits for its turn, and then has the outcome of the call."""

    _begun: AnyFuture | None = None

    def cancel(self) -> bool:
        """Cancel the call, also when it runs."""
        with self._condition:
            begun = self._begun
            if begun is None:
                return super().cancel()
        return begun.cancel()

    def running(self) -> bool:
        """Whether the call is known to have started."""
        return self._begun is not None and self._begun.running()

    def follow(self, begin: Callable[[], AnyFuture]) -> AnyFuture | None:
        """Begin the call, unless it was cancelled while it waited."""
        with self._condition:
            if self._state != PENDING:
                return None
            begun = self._begun = begin()
        return begun

    def take(self, begun: AnyFuture) -> None:
        """The call has ended."""
        if not begun.cancelled():
            error = begun.exception()
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(begun.result())
            return
        with self._condition:
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]


class Narrow:
    """Lets calls begin one after the other, as others end."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._changed = threading.Condition()
        self._under = 0
        self._waiting: deque[tuple[Held, Callable[[], AnyFuture]]] = deque()

    def submit(self, begin: Callable[[], AnyFuture]) -> AnyFuture:
        """Begin a call now or later. `begin` must not raise."""
        held = Held()
        with self._changed:
            self._waiting.append((held, begin))
        self._go_on()
        return held

    def cancel_waiting(self) -> None:
        """Cancel the calls that have not begun."""
        with self._changed:
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for held, _ in waiting:
            if held.cancel():
                held.set_running_or_notify_cancel()

    def wait(self) -> None:
        """Wait until every call has begun."""
        with self._changed:
            while self._waiting:
                self._changed.wait()

    def _go_on(self) -> None:
        while True:
            with self._changed:
                if not self._waiting or self._under >= self._width:
                    return
                held, begin = self._waiting.popleft()
                self._under += 1
            begun = held.follow(begin)
            if begun is None:
                held.set_running_or_notify_cancel()
                with self._changed:
                    self._under -= 1
                    self._changed.notify_all()
                continue
            begun.add_done_callback(held.take)
            begun.add_done_callback(self._one_ended)
            with self._changed:
                self._changed.notify_all()

    def _one_ended(self, begun: AnyFuture) -> None:
        with self._changed:
            self._under -= 1
            self._changed.notify_all()
        self._go_on()
