"""`swarm.Executor` by the rules of the standard library's executors."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from swarm.client import executor as module
from swarm.client.executor import Executor
from swarm.client.narrow import Narrow
from swarm.errors import FleetNotFound, NotPicklable
from tests.unit.client.fake_node import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with World() as made:
        monkeypatch.setattr(module, "connect", lambda home, timeout_s: made.fleet)
        yield made


def square(x: int) -> int:
    return x * x


def test_calls_are_made_and_keywords_go_to_them(world: World) -> None:
    with Executor() as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        assert executor.submit(pow, 2, 5).result(60) == 32
        assert executor.submit(int, "ff", base=16).result(60) == 255
        assert executor.submit(dict, priority=1, name="x").result(60) == {"priority": 1, "name": "x"}


def test_map_keeps_the_order_and_takes_the_items_at_once(world: World) -> None:
    with Executor() as executor:
        taken: list[int] = []
        items = (taken.append(x) or x for x in range(100))  # type: ignore[func-returns-value]
        results = executor.map(square, items)
        assert taken == list(range(100))
        assert list(results) == [x * x for x in range(100)]
        assert list(executor.map(pow, [2, 3], [3, 2], chunksize=7)) == [8, 9]
        assert list(executor.map(square, range(10), chunksize=3)) == [x * x for x in range(10)]
        few = executor.map(square, (taken.append(x) or x for x in range(1000)), buffersize=3)  # type: ignore[func-returns-value]
        assert len(taken) == 103
        assert [next(few) for _ in range(3)] == [0, 1, 4]
        with pytest.raises(ZeroDivisionError):
            list(executor.map(divmod, [1, 1], [1, 0]))
        for wrong in ({"chunksize": 0}, {"buffersize": 0}):
            with pytest.raises(ValueError):
                executor.map(square, [1], **wrong)  # type: ignore[arg-type]


def test_map_ends_with_its_timeout(world: World) -> None:
    world.nodes[0].answers = lambda header: "hold"
    executor = Executor()
    with pytest.raises(TimeoutError):
        list(executor.map(square, range(3), timeout=0.02))
    world.eventually(lambda: world.engine.unfinished == 0)
    executor.shutdown()


def test_after_shutdown_nothing_is_taken_and_what_there_was_has_ended(world: World) -> None:
    executor = Executor()
    futures = [executor.submit(square, x) for x in range(200)]
    executor.shutdown()
    assert [future.result(0) for future in futures] == [x * x for x in range(200)]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 1)
    executor.shutdown()
    Executor().shutdown()


def test_shutdown_without_waiting_lets_calls_end(world: World) -> None:
    executor = Executor()
    future = executor.submit(square, 4)
    executor.shutdown(wait=False)
    assert future.result(60) == 16


def test_shutdown_may_cancel_what_has_not_begun(world: World) -> None:
    node = world.nodes[0]
    node.answers = lambda header: "hold"
    executor = Executor()
    futures = [executor.submit(square, x) for x in range(5)]
    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    assert node.cancelled[0]["k"] is False, "what runs is not killed"


def test_what_can_not_be_pickled_is_the_futures_failure(world: World) -> None:
    with Executor() as executor:
        future = executor.submit(square, threading.Lock())
        assert isinstance(future.exception(60), NotPicklable)
        assert isinstance(future.exception(60), TypeError)


def test_an_executor_that_is_collected_lets_its_calls_end(world: World) -> None:
    executor = Executor()
    future = executor.submit(square, 6)
    del executor
    gc.collect()
    assert future.result(60) == 36


def test_at_most_so_many_calls_are_under_way(world: World) -> None:
    node = world.nodes[0]
    node.answers = lambda header: "hold"
    executor = Executor(max_workers=2)
    futures = [executor.submit(square, x) for x in range(6)]
    world.eventually(lambda: sum(header["n"] for header in node.submitted) == 2)
    time.sleep(0.02)
    assert sum(header["n"] for header in node.submitted) == 2
    assert futures[5].cancel()
    node.answers = lambda header: "run"
    for header, body in list(node.held.values()):
        world.do(node.run, header, body)
    assert [future.result(60) for future in futures[:5]] == [0, 1, 4, 9, 16]
    assert futures[5].cancelled()
    assert len(node.ran) == 5
    done, pending = concurrent.futures.wait(futures, timeout=60)
    assert not pending
    executor.shutdown()


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError):
        Executor(max_workers=0)


def test_with_a_home_that_has_no_fleet_it_says_so(tmp_path: Any) -> None:
    with Executor(home=tmp_path) as executor, pytest.raises(FleetNotFound):
        executor.submit(square, 1)


def test_narrow_lets_calls_begin_as_others_end() -> None:
    begun: list[concurrent.futures.Future[int]] = []

    def begin() -> concurrent.futures.Future[int]:
        future: concurrent.futures.Future[int] = concurrent.futures.Future()
        begun.append(future)
        return future

    narrow = Narrow(2)
    held = [narrow.submit(begin) for _ in range(5)]
    assert len(begun) == 2
    begun[0].set_result(1)
    assert len(begun) == 3
    begun[1].set_exception(KeyError("k"))
    assert len(begun) == 4
    assert held[0].result(0) == 1
    assert isinstance(held[1].exception(0), KeyError)
    begun[2].cancel()
    begun[2].set_running_or_notify_cancel()
    assert held[2].cancelled()
    narrow.cancel_waiting()
    narrow.wait()
    assert not held[4].done()
    begun[3].set_result(3)
    begun[4].set_result(4)
    assert [held[3].result(0), held[4].result(0)] == [3, 4]
