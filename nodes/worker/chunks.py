"""Running chunks: tasks that stand for many calls of one callable, and report the results of all in one outcome.

What a chunk is told: the arguments of its calls (see :mod:`kernels.chunks`) and how many of them make one call. What
it says: [results, the failure of the call after these or None, seconds that it took]. So an exception is that of its
call, and the calls before it are not lost. Only where tries are to be repeated the exception is the task's.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import CoroutineType, TracebackType
from typing import Any

from kernels.batch import decode_call as decode_plain_call
from kernels.batch import encode_plain
from kernels.chunks import call_each, unpack
from kernels.clock import boottime_ns
from kernels.slots import SlotPage
from nodes.worker.calls import Calls, ours
from nodes.worker.channel import ChannelClosed
from nodes.worker.report import OK, Reporter
from nodes.worker.runs import Context, Run
from swarm.payload import PayloadError, dump
from transport.bounds import INLINE_BYTES_MAX, WORKER_OUTCOMES_AGE_S

_FLUSH_NS = int(WORKER_OUTCOMES_AGE_S * 1e9)
_KERNEL = "kernels.chunks"


class Chunks:
    """Runs the chunks of a slice, one after the other, in the main thread."""

    def __init__(
        self, page: SlotPage, reporter: Reporter, context: Context, calls: Calls, result_bytes_max: int | None
    ) -> None:
        self._page = page
        self._reporter = reporter
        self._context = context
        self._calls = calls
        self._inline_bytes_max = min(result_bytes_max or INLINE_BYTES_MAX, INLINE_BYTES_MAX)

    def run(self, run: Run, fn: Callable[..., Any]) -> None:
        """Claim and run what is left of the slice. ChannelClosed when the node is gone."""
        context, page, slot = self._context, self._page, run.slot
        context.run = run
        flush_at = boottime_ns() + _FLUSH_NS
        try:
            while (i := page.claim(slot)) >= 0:
                began = boottime_ns()
                if began >= flush_at:
                    self._reporter.flush()
                    flush_at = boottime_ns() + _FLUSH_NS
                context.index = index = run.start + i
                page.begin(slot, i, began)
                values: list[Any] = []
                error: BaseException | None = None
                try:
                    items, width = self._items(run, i)
                    call_each(fn, items, width, values)
                    values = self._awaited(values)
                except ChannelClosed:
                    raise
                except BaseException as raised:
                    error = raised
                page.end()
                self._report(run, index, began, values, error)
                items = error = None
        finally:
            context.index = -1
            context.run = None

    def side_by_side(self, run: Run, fn: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        """A chunk of coroutines as one coroutine, in which they run at once."""
        attempt, whole = run.attempt, bool(run.spec.retries)

        async def chunk(items: Any, width: int) -> Any:
            import asyncio

            if isinstance(items, bytes | bytearray | memoryview):
                items = unpack(items, width)
            begun = (fn(item) if width == 1 else fn(*item) for item in items)
            values = await asyncio.gather(*begun, return_exceptions=not whole)
            for place, value in enumerate(values):
                if isinstance(value, BaseException) and not whole:
                    return [values[:place], self._reporter.told(value, attempt, ()), 0.0]
            return [values, None, 0.0]

        return chunk

    def _items(self, run: Run, i: int) -> tuple[Any, int]:
        try:
            args, _ = decode_plain_call(run.calls.payload(i))
        except ValueError:
            args, _ = self._calls.decode(run, i)
        match args:
            case (items, int(width)):
                return items, width
        raise PayloadError("the payload is not a chunk: items and their width were expected")

    def _awaited(self, values: list[Any]) -> list[Any]:
        """Values of an ordinary function that returns coroutines: they are awaited here."""
        wait = self._calls.await_value
        if values and wait is not None and type(values[0]) is CoroutineType:
            return [wait(value) if isinstance(value, CoroutineType) else value for value in values]
        return values

    def _report(self, run: Run, index: int, began: int, values: list[Any], error: BaseException | None) -> None:
        failure = None
        if error is not None:
            error.__traceback__ = _behind_kernel(error.__traceback__)
            if run.spec.retries:
                self._calls.failed(run, index, began, error)
                return
            failure = self._reporter.told(error, run.attempt, ours())
            error.__traceback__ = None  # its frames hold the arguments
        took_ns = boottime_ns() - began
        said = [values, failure, took_ns / 1e9]
        body = encode_plain(said, self._inline_bytes_max)
        if body is not None:
            self._reporter.add(index, OK, took_ns // 1000, body)
            return
        self._calls.here(run, index)
        status, body = self._reporter.payload(said)
        if status != OK and (bad := _unsendable(values)) is not None:
            said = [values[:bad], self._reporter.payload(values[bad])[1], took_ns / 1e9]
            status, body = self._reporter.payload(said)
        self._reporter.add(index, status, took_ns // 1000, body)


def _unsendable(values: list[Any]) -> int | None:
    """The place of the first value that cannot be written."""
    for place, value in enumerate(values):
        try:
            if encode_plain(value) is None:
                dump(value)
        except Exception:
            return place
    return None


def _behind_kernel(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without our frames at its head: this module's, and those that the kernel leaves."""
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in (__name__, _KERNEL):
        trace = trace.tb_next
    return trace
