"""From outcomes and events to futures: in the client's loop, without touching a task that went well."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kernels.batch import settle
from swarm.client.buffers import Buffers
from swarm.client.commands import CommandFuture
from swarm.client.futures import Future
from swarm.errors import DependencyFailed, TaskCancelled, TaskError, TaskLost, TaskRefused
from swarm.payload import decode_value
from swarm.payload_failure import error_of
from swarm.protocol.session import Delivered, Ended, Happened
from swarm.protocol.states import Status

_log = logging.getLogger("swarm.client")

_KINDS: dict[int, type[TaskError]] = {
    Status.LOST: TaskLost,
    Status.CANCELLED: TaskCancelled,
    Status.DEPENDENCY: DependencyFailed,
}


class Settling:
    """The futures of what was handed over, by batch."""

    def __init__(self) -> None:
        self.source: Buffers | None = None
        """Where buffers of results are taken from."""
        self._futures: dict[int, list[Any]] = {}
        self._openers: ThreadPoolExecutor | None = None

    def expect(self, number: int, futures: list[Any]) -> None:
        """A batch is handed over."""
        self._futures[number] = futures

    def deliver(self, it: Delivered, trusted: bool) -> None:
        """Outcomes came. Pickles in them are loaded if the node is `trusted`: granted ``code``."""
        futures = self._futures.get(it.batch)
        if futures is None:
            return

        def other(index: int, status: int, payload: memoryview) -> None:
            future = futures[index]
            futures[index] = None
            if future is not None:
                self.settle_one(future, status, payload, trusted)

        settle(it.outcomes, futures, other)
        if it.last:
            del self._futures[it.batch]

    def end(self, it: Ended) -> None:
        """The session itself says how tasks ended."""
        futures = self._futures.get(it.batch)
        if futures is None:
            return
        kind = _KINDS.get(it.status, TaskRefused)
        for index in it.indices:
            future, futures[index] = futures[index], None
            if future is not None:
                future._fail(kind(it.message, hint=it.hint, task=future.id))
        if it.last:
            del self._futures[it.batch]

    def happen(self, it: Happened) -> None:
        """Something about a task that runs. What a listener raises is logged, as a callback's error is."""
        futures = self._futures.get(it.batch)
        future = futures[it.index] if futures else None
        if future is not None:
            try:
                future._happened(it.name, it.value, it.body, it.node)
            except Exception:
                _log.exception("a listener of task %s failed", future.id)

    def relinked(self) -> None:
        """There is a link again: what commands were sent last may not have arrived."""
        for futures in list(self._futures.values()):
            first = next((future for future in futures if future is not None), None)
            if isinstance(first, CommandFuture):  # all of a batch are of one kind
                for future in futures:
                    if future is not None:
                        future.relinked()

    def fail_all(self, unsent: Iterable[list[Any]], error: BaseException) -> None:
        """Nothing more comes for anything."""
        for futures in (*unsent, *list(self._futures.values())):
            for index, future in enumerate(futures):
                futures[index] = None
                if future is not None:
                    future._fail(error)
        self._futures.clear()

    def wait_opened(self, timeout_s: float | None) -> None:
        """Wait until results whose buffers are being opened are there."""
        if self._openers is not None:
            self._openers.submit(int).result(timeout_s)

    def close(self) -> None:
        """Open no more buffers."""
        if self._openers is not None:
            self._openers.shutdown(wait=False)

    def settle_one(self, future: Future, status: int, payload: bytes | memoryview, trusted: bool) -> None:
        """End a future with an outcome, in the client's own thread."""
        if status == Status.OK and len(payload) and payload[0] in b"BR":
            # Its buffers have to be asked for, and the answer comes by the very loop that this runs in.
            if self._openers is None:
                self._openers = ThreadPoolExecutor(1, "swarm-client-buffers")
            self._openers.submit(self.load, future, status, bytes(payload), trusted)
        else:
            self.load(future, status, payload, trusted)

    def load(self, future: Future, status: int, payload: bytes | memoryview, trusted: bool) -> None:
        """End a future with an outcome, in a thread that may ask the node for buffers."""
        try:
            if status == Status.OK:
                future._finish(decode_value(payload, self.source, trusted=trusted))
            else:
                future._fail(error_of(status, payload, trusted=trusted, task=future.id))
        except BaseException as error:
            # A result that cannot be loaded here is the task's failure, never the engine's.
            future._fail(error)
