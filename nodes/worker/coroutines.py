"""Running coroutines: the tasks of a slice side by side, on one event loop that lives as long as the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from kernels.clock import boottime_ns
from kernels.slots import SlotPage
from nodes.worker.calls import Calls, leave_out
from nodes.worker.channel import HELD, HELD_ON, HOLDABLE, Channel, ChannelClosed
from nodes.worker.report import TIMEOUT, Reporter
from nodes.worker.runs import Context, Run
from transport.bounds import WORKER_COROUTINES_COUNT_MAX, WORKER_OUTCOMES_AGE_S


class Coroutines:
    """The worker's event loop. What tasks leave on it (sessions, pools) stays for those that come after."""

    def __init__(self, channel: Channel, page: SlotPage, reporter: Reporter, context: Context, calls: Calls) -> None:
        self._channel = channel
        self._page = page
        self._reporter = reporter
        self._context = context
        self._calls = calls
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._gone: asyncio.Event = asyncio.Event()
        self._running: dict[int, tuple[int, int]] = {}
        self._held = 0
        """The order under which all stand still; 0: none."""

    def hold(self, order: int) -> None:
        """Stand still from the next turn of the loop on, when each coroutine is at an await; 0: go on."""
        self._held = order
        if order:
            self._loop.call_soon(self._stand)

    def _stand(self) -> None:
        # The loop does not turn while this waits, so no coroutine goes on. The order may be taken back at any time.
        told = 0
        try:
            while self._held:
                if told != self._held:
                    told = self._held
                    self._channel.send(HELD, run=told)
                self._channel.pump()
        except ChannelClosed:
            self._gone.set()

    def run(self, run: Run, fn: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        """Claim and run what is left of a slice, up to WORKER_COROUTINES_COUNT_MAX tasks at once."""
        self._channel.send(HOLDABLE, flags=HELD_ON)
        try:
            self.await_value(self._slice(run, fn))
        finally:
            if not self._gone.is_set():
                self._channel.send(HOLDABLE)

    def await_value(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The value of a coroutine; frames are read meanwhile. ChannelClosed when the node goes away."""
        self._loop.add_reader(self._channel.fileno(), self._readable)
        try:
            return self._loop.run_until_complete(coroutine)
        finally:
            if self._channel.fileno() >= 0:
                self._loop.remove_reader(self._channel.fileno())
            if self._gone.is_set():
                raise ChannelClosed("the node closed the channel")

    def close(self) -> None:
        """Cancel what tasks left on the loop, and close it."""
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _slice(self, run: Run, fn: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        tasks: set[asyncio.Task[None]] = set()
        flusher = self._loop.call_later(WORKER_OUTCOMES_AGE_S, lambda: None)
        try:
            while (i := self._page.claim(run.slot)) >= 0:
                tasks.add(self._loop.create_task(self._one(run, i, fn)))
                if len(tasks) >= WORKER_COROUTINES_COUNT_MAX:
                    _, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if self._gone.is_set():
                    return
            while tasks and not self._gone.is_set():
                _, tasks = await asyncio.wait(tasks, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        finally:
            flusher.cancel()
            for task in tasks:
                task.cancel()

    async def _one(self, run: Run, i: int, fn: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        began = boottime_ns()
        index = run.start + i
        self._context.coroutine.set((run, index))
        self._running[index] = (i, began)
        self._publish(run)
        try:
            try:
                args, kwargs = self._calls.decode(run, i)
                if run.spec.timeout_s is None:
                    value = await fn(*args, **kwargs)
                else:
                    # so that one slow coroutine does not cost those beside it; the node's own timer is behind this
                    async with asyncio.timeout(run.spec.timeout_s) as limit:
                        value = await fn(*args, **kwargs)
            except ChannelClosed:
                self._gone.set()
            except TimeoutError as error:
                if run.spec.timeout_s is not None and limit.expired():
                    self._reporter.notice(index, TIMEOUT, f"ran longer than its limit of {run.spec.timeout_s:g} s")
                else:
                    self._calls.failed(run, index, began, error)
            except asyncio.CancelledError as error:
                if not self._gone.is_set():
                    self._calls.failed(run, index, began, error)
            except BaseException as error:
                self._calls.failed(run, index, began, error)
            else:
                self._calls.finished(run, index, began, value)
        except ChannelClosed:
            self._gone.set()
        finally:
            del self._running[index]
            self._publish(run)
            if not self._gone.is_set():
                self._flush()

    def _publish(self, run: Run) -> None:
        # one entry on the page for many tasks: the one that runs longest, which is what a timer looks for
        if self._running:
            i, began = min(self._running.values(), key=lambda entry: entry[1])
            self._page.begin(run.slot, i, began)
        else:
            self._page.end()

    def _flush(self) -> None:
        # at the end of this turn of the loop, with what else ends in it
        if self._reporter.builder.count == 1:
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        try:
            self._reporter.flush()
        except ChannelClosed:
            self._gone.set()

    def _readable(self) -> None:
        try:
            self._channel.pump()
        except ChannelClosed:
            self._gone.set()
            self._loop.remove_reader(self._channel.fileno())


leave_out((Coroutines._one.__code__,))
