"""Running callables: the loop for ordinary ones, and streams of items. Coroutines are run in :mod:`.coroutines`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import CodeType, CoroutineType
from typing import Any

from kernels.batch import decode_call as decode_plain_call
from kernels.clock import boottime_ns
from kernels.slots import SlotPage
from nodes.worker.channel import ACK, INPUT, Channel, ChannelClosed, Frame
from nodes.worker.report import REFUSED, SAVED, Reporter
from nodes.worker.runs import Context, Run
from nodes.worker.segments import Segments
from swarm.payload import Call, decode_call, decode_value
from swarm.tasks import saved_in
from transport.bounds import WORKER_OUTCOMES_AGE_S, WORKER_OUTCOMES_COUNT_MAX, WORKER_STREAM_WINDOW_COUNT

_FLUSH_NS = int(WORKER_OUTCOMES_AGE_S * 1e9)


class Calls:
    """Runs the tasks of a slice, one after the other, in the main thread."""

    def __init__(
        self, channel: Channel, page: SlotPage, reporter: Reporter, segments: Segments, context: Context
    ) -> None:
        self._channel = channel
        self._page = page
        self._reporter = reporter
        self._segments = segments
        self._context = context
        self._credit: dict[tuple[int, int], int] = {}
        self.await_value: Callable[[Coroutine[Any, Any, Any]], Any] | None = None
        """Runs a coroutine that an ordinary function returned."""

    def run(self, run: Run, fn: Callable[..., Any]) -> None:
        """Claim and run what is left of the slice. ChannelClosed when the node is gone."""
        claim, begin, end, now = self._page.claim, self._page.begin, self._page.end, boottime_ns
        payload, add_plain, decode = run.calls.payload, self._reporter.builder.add_plain, decode_plain_call
        context, slot, start = self._context, run.slot, run.start
        context.run = run
        flush_at = now() + _FLUSH_NS
        left = WORKER_OUTCOMES_COUNT_MAX
        try:
            while (i := claim(slot)) >= 0:
                began = now()
                if began >= flush_at or not left:
                    self._reporter.flush()
                    flush_at = now() + _FLUSH_NS
                    left = WORKER_OUTCOMES_COUNT_MAX
                left -= 1
                context.index = index = start + i
                begin(slot, i, began)
                try:
                    try:
                        args, kwargs = decode(payload(i))
                    except ValueError:
                        args, kwargs = self.decode(run, i)
                    value = fn(*args, **kwargs)
                except ChannelClosed:
                    raise
                except BaseException as error:
                    end()
                    self.failed(run, index, began, error)
                else:
                    end()
                    if not add_plain(index, (now() - began) // 1000, value):
                        self.finished(run, index, began, value)
                    del value
                args = kwargs = None  # type: ignore[assignment]
        finally:
            context.index = -1
            context.run = None

    def stream(self, run: Run, fn: Callable[..., Any]) -> None:
        """As `run`, for callables whose items are delivered as they come; the outcome is a generator's return value."""
        slot = run.slot
        context = self._context
        context.run = run
        try:
            while (i := self._page.claim(slot)) >= 0:
                self._reporter.flush()
                began = boottime_ns()
                context.index = index = run.start + i
                self._page.begin(slot, i, began)
                try:
                    args, kwargs = self.decode(run, i)
                    value = self._deliver(run, index, fn(*args, **kwargs))
                except ChannelClosed:
                    raise
                except BaseException as error:
                    self._page.end()
                    self.failed(run, index, began, error)
                else:
                    self._page.end()
                    self.finished(run, index, began, value)
                finally:
                    self._credit.pop((run.number, index), None)
                    context.letters.pop((run.number, index), None)
        finally:
            context.index = -1
            context.run = None

    def decode(self, run: Run, i: int) -> Call:
        """The arguments of the run's i-th call, whatever they are written in."""
        self.here(run, run.start + i)
        dependencies = [decode_value(body, self._segments, trusted=run.spec.granted) for body in run.deps]
        return decode_call(run.calls.payload(i), self._segments, trusted=run.spec.granted, dependencies=dependencies)

    def here(self, run: Run, index: int) -> None:
        """Say for which task buffers are stored from here on."""
        self._segments.run, self._segments.index = run.number, index

    def finished(self, run: Run, index: int, began: int, value: Any) -> None:
        """Report a value that is not plain."""
        try:
            if isinstance(value, CoroutineType) and self.await_value is not None:
                self._context.index = index
                self._page.begin(run.slot, index - run.start, began)
                try:
                    value = self.await_value(value)
                finally:
                    self._page.end()
            self.here(run, index)
            self._reporter.value(index, (boottime_ns() - began) // 1000, value)
        except ChannelClosed:
            raise
        except BaseException as error:
            self.failed(run, index, began, error)

    def failed(self, run: Run, index: int, began: int, error: BaseException) -> None:
        """Report an exception."""
        run_us = (boottime_ns() - began) // 1000
        saved = None if isinstance(error, Exception) else saved_in(error)
        if saved is not None:
            error.__traceback__ = None
            self._reporter.add(index, SAVED, 0, saved.payload)  # how long such tasks take it does not tell
            return
        retry = run.spec.retried(error)
        self._reporter.failure(index, run_us, error, retry=retry, attempt=run.attempt, ours=ours())
        error.__traceback__ = None  # its frames hold the arguments

    def refuse(self, run: Run, message: str, hint: str, facts: dict[str, Any]) -> None:
        """End all tasks of a slice without having run them."""
        while (i := self._page.claim(run.slot)) >= 0:
            self._reporter.notice(run.start + i, REFUSED, message, hint, facts)

    def acknowledged(self, frame: Frame) -> bool:
        """Take what is for a stream that runs: an ACK (its consumer has taken items), or what it is told."""
        if frame.kind not in (ACK, INPUT):
            return False
        key = (frame.run, int.from_bytes(frame.body[:4], "little"))
        if frame.kind == INPUT:
            if key not in self._credit:
                return False
            self._context.hear(*key, bytes(frame.body[12:]))
            return True
        if key in self._credit:
            self._credit[key] += int.from_bytes(frame.body[4:8], "little")
        return True

    def item(self, run: Run, index: int, number: int, value: Any) -> None:
        """Send an item of a stream. What cannot be sent ends the stream."""
        self.here(run, index)
        status, body = self._reporter.payload(value)
        if status:
            from swarm.payload_failure import error_of

            raise error_of(status, body)
        self._channel.event(run.number, index, "item", [number, body])

    def _deliver(self, run: Run, index: int, items: Any) -> Any:
        if hasattr(items, "__aiter__") or isinstance(items, CoroutineType):
            assert self.await_value is not None
            return self.await_value(self._deliver_async(run, index, items))
        key = (run.number, index)
        self._credit[key] = WORKER_STREAM_WINDOW_COUNT
        iterator: Iterator[Any] = iter(items)
        number = 0
        while True:
            try:
                value = next(iterator)
            except StopIteration as end:
                return end.value
            while self._credit[key] <= 0:
                self._channel.pump()
            self._credit[key] -= 1
            self.item(run, index, number, value)
            number += 1

    async def _deliver_async(self, run: Run, index: int, items: Any) -> None:
        import asyncio

        if isinstance(items, CoroutineType):
            items = await items
        key = (run.number, index)
        self._credit[key] = WORKER_STREAM_WINDOW_COUNT
        number = 0
        async for value in items:
            while self._credit[key] <= 0:
                # the loop reads the channel; a poll keeps this free of what only streams would need there
                await asyncio.sleep(0.002)
            self._credit[key] -= 1
            self.item(run, index, number, value)
            number += 1


def ours() -> tuple[CodeType, ...]:
    """The code of ours that stands at the head of a task's traceback."""
    return _OURS


def leave_out(codes: Iterable[CodeType]) -> None:
    """More code of ours, which is loaded only where it is needed."""
    global _OURS
    _OURS = (*_OURS, *codes)


_OURS: tuple[CodeType, ...] = (
    Calls.run.__code__,
    Calls.stream.__code__,
    Calls.decode.__code__,
    Calls.finished.__code__,
    Calls._deliver.__code__,
    Calls._deliver_async.__code__,
    decode_call.__code__,
    decode_value.__code__,
)
