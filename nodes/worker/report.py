"""What a worker has to say about its tasks: outcomes, collected into columns and sent in batches."""

from __future__ import annotations

import operator
import struct
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import AsyncGeneratorType, CodeType, CoroutineType, GeneratorType
from typing import Any

from kernels.batch import OutcomeBuilder
from nodes.worker.channel import OUTCOMES, Channel, ChannelClosed
from swarm.payload import BlobSink, encode_value
from transport.bounds import INLINE_BYTES_MAX, OUT_OF_BAND_BYTES, WORKER_OUTCOMES_AGE_S

OK = 0
FAILED = 1
TIMEOUT = 3
REFUSED = 6
RETRY = 16
SAVED = 18


_COUNT = struct.Struct("<I")
_TICK_S = 5 * WORKER_OUTCOMES_AGE_S
_PARK_AFTER_S = 0.1
_LAZY = (GeneratorType, AsyncGeneratorType, CoroutineType)


class Encoded:
    """A result whose payload was made already: before what the task did was made to last."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body


class Reporter:
    """Collects the outcomes of one run at a time, and sends them.

    The worker's main thread adds and flushes. A slow task may begin right after quick ones, so a second thread sends
    what has been lying there while the main thread is busy; it sleeps while no run is in progress.
    """

    def __init__(self, channel: Channel, sink: BlobSink, node: str, result_bytes_max: int | None = None) -> None:
        self._channel = channel
        self._sink = sink
        self.node = node
        self._limit = result_bytes_max
        self.builder = OutcomeBuilder()
        self.run = 0
        # The count has to be of the very outcomes that are taken, while the other thread may be adding some: all calls
        # in this are C, so that the interpreter switches threads before it or after it and not within.
        self._take: tuple[Callable[[], Any], ...] = (partial(getattr, self.builder, "count"), self.builder.take)
        self._sending = threading.Lock()
        self._awake = threading.Event()
        self._busy = False
        self._thread: threading.Thread | None = None

    def begin(self, run: int, count: int) -> None:
        """A run of `count` tasks begins; outcomes added from here on are of this run."""
        self.run = run
        if count > 1:  # the outcome of a single task is sent at its end
            self._busy = True
            if not self._awake.is_set():
                self._awake.set()
                if self._thread is None:
                    self._thread = threading.Thread(target=self._tick, name="swarm-outcomes", daemon=True)
                    self._thread.start()

    def end(self) -> None:
        """The run ends: send what is left."""
        self._busy = False
        self.flush()

    def flush(self) -> None:
        """Send the outcomes collected so far. ChannelClosed when the node is gone."""
        with self._sending:
            count, columns = map(operator.call, self._take)
            if count:
                self._channel.send(OUTCOMES, _COUNT.pack(count) + columns, run=self.run)

    def value(self, index: int, run_us: int, value: Any) -> None:
        """Add a result of any type; what cannot be sent becomes a failure."""
        if self.builder.add_plain(index, run_us, value):
            return
        status, payload = self.payload(value)
        self.add(index, status, run_us, payload)

    def add(self, index: int, status: int, run_us: int, payload: bytes) -> None:
        """Add an outcome; a large one is sent at once."""
        self.builder.add(index, status, run_us, payload)
        if len(payload) > OUT_OF_BAND_BYTES:
            self.flush()

    def payload(self, value: Any) -> tuple[int, bytes]:
        """A value as (status, payload): OK, or FAILED with the reason why it cannot be sent."""
        from swarm.payload_failure import encode_notice

        if type(value) is Encoded:
            return OK, value.body
        if isinstance(value, _LAZY):
            shown = {GeneratorType: "a generator", AsyncGeneratorType: "an async generator"}.get(
                type(value), "a coroutine"
            )
            if isinstance(value, CoroutineType | GeneratorType):
                value.close()
            return FAILED, encode_notice(
                f"the task returned {shown}, which lives only in its worker",
                "to deliver its items as they come, say stream=True; else return a list of them",
                {"error": "NotPicklable"},
            )
        try:
            return OK, encode_value(
                value,
                self._sink,
                limit_bytes=min(self._limit or INLINE_BYTES_MAX, INLINE_BYTES_MAX),
                total_bytes_max=self._limit,
            )
        except ChannelClosed:
            raise
        except Exception as error:
            from swarm.errors import NotPicklable, PayloadTooLarge

            if isinstance(error, NotPicklable | PayloadTooLarge):
                return FAILED, encode_notice(error.message, error.hint, {"error": type(error).__name__} | error.facts)
            return FAILED, encode_notice(
                f"the result could not be stored: {type(error).__name__}: {error}", getattr(error, "hint", "")
            )

    def failure(
        self, index: int, run_us: int, error: BaseException, *, retry: bool, attempt: int, ours: Iterable[CodeType]
    ) -> None:
        """Add an exception of a task."""
        self.builder.add(index, RETRY if retry else FAILED, run_us, self.told(error, attempt, ours))

    def told(self, error: BaseException, attempt: int, ours: Iterable[CodeType]) -> bytes:
        """The payload of an exception of a task."""
        from swarm.payload_failure import encode_failure

        return encode_failure(error, node=self.node, attempt=attempt, ours=ours)

    def notice(
        self, index: int, status: int, message: str, hint: str = "", facts: dict[str, Any] | None = None
    ) -> None:
        """Add an outcome that is no exception of the task."""
        from swarm.payload_failure import encode_notice

        self.builder.add(index, status, 0, encode_notice(message, hint, facts))

    def _tick(self) -> None:
        quiet_s = 0.0
        while True:
            if quiet_s >= _PARK_AFTER_S:
                self._awake.clear()
                if not self._busy:
                    self._awake.wait()
                quiet_s = 0.0
            time.sleep(_TICK_S)
            if not self._busy:
                quiet_s += _TICK_S
                continue
            quiet_s = 0.0
            if self.builder.count:
                try:
                    self.flush()
                except ChannelClosed:
                    return  # the main thread will see it, too
