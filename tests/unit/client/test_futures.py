"""Futures keep the rules of `concurrent.futures`, whichever way they end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import threading
import time
import weakref
from typing import Any

import pytest

from kernels.batch import OutcomeBuilder, Outcomes, settle
from swarm.client.futures import Future
from swarm.errors import TaskCancelled, TaskFailed
from swarm.protocol import ids


class Engine:
    session_id = b"session!"

    def __init__(self) -> None:
        self.cancelled: list[tuple[int, int]] = []

    def cancel(self, number: int, index: int) -> None:
        self.cancelled.append((number, index))

    def refuse_in_own_thread(self, what: str) -> None: ...


class Batch:
    def __init__(self) -> None:
        self.engine = Engine()
        self.number = 1
        self.key = ids.batch_key(self.engine.session_id, self.number)


def make(index: int = 0) -> Future:
    return Future(Batch(), index)  # type: ignore[arg-type]


def by_kernel(futures: list[Any], values: list[Any]) -> None:
    builder = OutcomeBuilder()
    for index, value in enumerate(values):
        builder.add_plain(index, 1, value)
    settle(Outcomes(builder.take(), len(values)), futures, lambda *other: None)


def test_a_future_that_nobody_waits_on_has_no_lock() -> None:
    future = make()
    by_kernel([future], [42])
    assert future.done()
    assert future.result() == 42
    assert future.exception() is None
    assert not future.cancelled()
    assert not future.running()
    assert "_condition" not in future.__dict__


@pytest.mark.parametrize("kernel", [True, False])
def test_somebody_who_waits_is_woken(kernel: bool) -> None:
    future = make()
    found: list[Any] = []
    waiter = threading.Thread(target=lambda: found.append(future.result(60)))
    waiter.start()
    while "_condition" not in future.__dict__:
        time.sleep(0.001)
    if kernel:
        by_kernel([future], ["value"])
    else:
        future._finish("value")
    waiter.join(60)
    assert found == ["value"]


def test_waiting_ends_with_the_timeout() -> None:
    future = make()
    with pytest.raises(TimeoutError):
        future.result(0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.exception(timeout=0)
    assert not future.done()


def test_callbacks_are_called_in_their_order_once_and_their_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    future = make()
    seen: list[Any] = []
    future.add_done_callback(lambda one: seen.append(("first", one.result())))
    future.add_done_callback(lambda one: 1 / 0)
    future.add_done_callback(lambda one: seen.append(("third", one is future)))
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        by_kernel([future], [1])
    assert seen == [("first", 1), ("third", True)]
    assert "ZeroDivisionError" in caplog.text
    future.add_done_callback(lambda one: seen.append("at once"))
    assert seen[-1] == "at once"


def test_cancelling_tells_the_engine_and_wakes_everybody() -> None:
    future = make(3)
    seen: list[Any] = []
    future.add_done_callback(lambda one: seen.append(one.cancelled()))
    assert future.cancel()
    assert future.cancel()
    assert seen == [True]
    assert future._batch.engine.cancelled == [(1, 3)]
    assert future.done()
    with pytest.raises(concurrent.futures.CancelledError) as caught:
        future.result()
    assert isinstance(caught.value, TaskCancelled)
    with pytest.raises(concurrent.futures.CancelledError):
        future.exception()
    # An outcome that comes late changes nothing.
    by_kernel([future], [1])
    future._fail(ValueError())
    assert future.cancelled()


def test_an_error_is_raised_each_time_and_keeps_no_frames_alive() -> None:
    future = make()
    future._fail(TaskFailed("it failed"))
    for _ in range(2):
        with pytest.raises(TaskFailed, match="it failed"):
            future.result()
    assert isinstance(future.exception(), TaskFailed)
    gone = weakref.ref(future)
    gc.disable()
    try:
        del future
        assert gone() is None
    finally:
        gc.enable()


def test_the_standard_functions_take_these_futures() -> None:
    futures = [make(index) for index in range(4)]
    by_kernel(futures[:2], [0, 1])

    def later() -> None:
        futures[2]._finish(2)
        futures[3].cancel()

    timer = threading.Timer(0.02, later)
    timer.start()
    done, pending = concurrent.futures.wait(futures, timeout=5, return_when=concurrent.futures.FIRST_COMPLETED)
    assert futures[0] in done
    assert set(concurrent.futures.as_completed(futures, timeout=60)) == set(futures)
    done, pending = concurrent.futures.wait(futures, timeout=60)
    assert done == set(futures)
    assert not pending
    failing = make()
    threading.Timer(0.01, lambda: failing._fail(ValueError("x"))).start()
    result = concurrent.futures.wait([failing, make()], 5, concurrent.futures.FIRST_EXCEPTION)
    assert result.done == {failing}


def test_settling_and_cancelling_at_once_leaves_one_outcome() -> None:
    for _ in range(200):
        future = make()
        ends: list[Any] = []
        future.add_done_callback(lambda one, ends=ends: ends.append(one._state))
        barrier = threading.Barrier(2)

        def cancel(future: Future = future, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            future.cancel()

        other = threading.Thread(target=cancel)
        other.start()
        barrier.wait()
        by_kernel([future], [1])
        other.join()
        assert len(ends) == 1
        if not future.cancelled():
            assert future.result() == 1


def test_events_are_told_to_those_who_listen() -> None:
    future = make()
    seen: list[Any] = []
    future.add_progress_callback(seen.append)
    future._happened("progress", {"done": 1}, b"", "oak")
    future._happened("started", None, b"", "")
    assert seen == [{"done": 1}]
    assert (future.progress, future.node, future.running()) == ({"done": 1}, "oak", True)
    by_kernel([future], [5])
    assert future.result() == 5
    future._happened("started", None, b"", "")
    assert not future.running()


def test_ids_are_those_of_the_batch() -> None:
    future = make(7)
    assert future.task_id == b"session!" + (1).to_bytes(4, "big") + (7).to_bytes(4, "big")
    assert len(future.id) == 26


def test_futures_can_be_awaited() -> None:
    async def main() -> None:
        done, later, failing = make(), make(), make()
        by_kernel([done], ["done"])
        threading.Timer(0.02, lambda: (later._finish("later"), failing._fail(KeyError("k")))).start()
        assert await asyncio.gather(done, later) == ["done", "later"]
        with pytest.raises(KeyError):
            await failing
        waiting = make()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, 0.01)
        assert waiting.cancelled(), "who gives up waiting gives up the task"
        shielded = make()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(shielded.ended())), 0.01)
        assert not shielded.cancelled()
        shielded._finish(1)
        many = [make(index) for index in range(500)]
        threading.Timer(0.01, lambda: [one._finish(index) for index, one in enumerate(many)]).start()
        assert await asyncio.gather(*many) == list(range(500))

    asyncio.run(main())
