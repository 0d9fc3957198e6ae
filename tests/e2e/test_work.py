"""Work on one node, as a user gives it: every kind of task, and every way in which one ends."""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import swarm
from swarm.client.sync import Fleet
from tests.e2e.fleets import Nodes, until


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path_factory.mktemp("w"))
    nodes.start("oak", "--workers", "2")
    yield nodes
    assert nodes.stop_all() == {"oak": 0}


@pytest.fixture(scope="module")
def fleet(nodes: Nodes) -> Iterator[Fleet]:
    with nodes.connect("oak") as fleet:
        yield fleet


def test_callables_of_every_origin(fleet: Fleet) -> None:
    factor = 3
    assert fleet.submit(pow, 2, 100).result(60) == 2**100
    assert fleet.submit(lambda x: x * factor, 4).result(60) == 12
    assert fleet.submit(dict, a=1).result(60) == {"a": 1}
    assert fleet.submit(str.upper, "abc").result(60) == "ABC"


def test_map_keeps_order_and_takes_endless_iterators(fleet: Fleet) -> None:
    assert list(fleet.map(lambda x: x * x, range(500))) == [x * x for x in range(500)]
    assert list(fleet.map(lambda x: x + 1, range(100), chunksize=7)) == list(range(1, 101))
    import itertools

    results = fleet.map(abs, itertools.count(), window=32)
    assert [next(results) for _ in range(100)] == list(range(100))


def test_an_exception_comes_with_its_type_and_remote_traceback(fleet: Fleet) -> None:
    def fails() -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError) as caught:
        fleet.submit(fails).result(60)
    assert "fails" in str(caught.value.__cause__)


def test_only_the_task_that_crashes_is_blamed(fleet: Fleet, tmp_path: Path) -> None:
    def may(index: int) -> int:
        if index == 37:
            os._exit(9)
        return index

    futures = [fleet.submit(may, index) for index in range(100)]
    for index, future in enumerate(futures):
        if index == 37:
            with pytest.raises(swarm.TaskQuarantined):
                future.result(60)
        else:
            assert future.result(60) == index


def test_a_timeout_ends_one_task(fleet: Fleet) -> None:
    def naps(index: int) -> int:
        time.sleep(600 if index == 3 else 0)
        return index

    # so long that the others are not held up for as much by whatever else this machine does
    futures = [fleet.submit(naps, index, timeout_s=3) for index in range(6)]
    for index, future in enumerate(futures):
        if index == 3:
            with pytest.raises(TimeoutError):
                future.result(60)
        else:
            assert future.result(60) == index


def test_cancel_ends_what_waits_and_what_runs(fleet: Fleet) -> None:
    futures = [fleet.submit(time.sleep, 600, rerun=False) for _ in range(5)]
    until(lambda: any(future.running() for future in futures), 60, "some run")
    assert all(future.cancel() for future in futures)
    assert all(future.cancelled() for future in futures)
    assert fleet.submit(abs, -1).result(60) == 1, "the workers are free again"


def test_retries_for_the_exceptions_named(fleet: Fleet, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def flaky() -> int:
        tries = len(mark.read_text()) if mark.exists() else 0
        mark.write_text("x" * (tries + 1))
        if tries < 2:
            raise ConnectionError("not yet")
        return tries

    assert fleet.submit(flaky, retries=5, retry_on=[ConnectionError], backoff_s=0.02).result(60) == 2
    mark.unlink()
    with pytest.raises(ConnectionError):
        fleet.submit(flaky, retries=5, retry_on=[ValueError]).result(60)


def test_dependencies(fleet: Fleet) -> None:
    first = fleet.submit(lambda: time.sleep(0.2) or 5)
    second = fleet.submit(lambda x: x + 1, first)
    assert fleet.submit(lambda x, y: x * y, first, second).result(60) == 30
    failing = fleet.submit(lambda: time.sleep(0.1) or 1 / 0)
    with pytest.raises(swarm.DependencyFailed):
        fleet.submit(abs, failing).result(60)


def test_a_generator_that_runs_is_told_something(fleet: Fleet) -> None:
    def listens() -> Iterator[list[bytes]]:
        from swarm.tasks import told

        yield told()
        while True:
            heard = told()
            if heard:
                yield heard
            if b"enough" in heard:
                return
            time.sleep(0.01)

    with fleet.stream(listens) as stream:
        assert next(stream) == []
        stream.future.tell(b"first")
        assert next(stream) == [b"first"]
        with pytest.raises(ValueError, match="at most"):
            stream.future.tell(bytes(1 << 20))
        stream.future.tell(b"enough")
        assert list(stream)[-1][-1] == b"enough"
    assert fleet.submit(lambda: __import__("swarm").tasks.told()).result(60) == []


def test_a_nodes_name_is_a_label(fleet: Fleet) -> None:
    assert fleet.submit(lambda: os.environ["SWARM_NODE"], labels=["node:oak"]).result(60) == "oak"
    nowhere = fleet.submit(abs, -1, labels=["node:birch"])
    time.sleep(0.3)
    assert not nowhere.done()
    nowhere.cancel()
    assert all(not label.startswith("node:") for each in fleet.members() for label in each["labels"])


def test_streams_and_progress(fleet: Fleet) -> None:
    def items(count: int) -> Iterator[int]:
        yield from range(count)

    assert list(fleet.stream(items, 60)) == list(range(60))

    def reports() -> str:
        swarm.progress(1, 2, "half")
        time.sleep(0.3)
        return "done"

    future = fleet.submit(reports)
    assert future.result(60) == "done"
    assert future.progress is not None


def test_coroutines_of_one_slice_run_together(fleet: Fleet) -> None:
    async def nap(index: int) -> int:
        import asyncio

        await asyncio.sleep(0.05)
        return index

    assert [future.result(60) for future in [fleet.submit(nap, index) for index in range(10)]] == list(range(10))


def test_tasks_that_wait_for_tasks_do_not_lock_up(fleet: Fleet) -> None:
    def total(count: int) -> int:
        with swarm.connect(timeout_s=60) as inner:
            return sum(inner.map(abs, range(count)))

    futures = [fleet.submit(total, 5) for _ in range(5)]
    assert [future.result(60) for future in futures] == [10] * 5


def test_large_arrays_there_and_back(fleet: Fleet) -> None:
    array = np.arange(1 << 20, dtype=np.float64)
    doubled = fleet.submit(lambda a: a * 2, array).result(60)
    assert np.array_equal(doubled, array * 2)
    assert fleet.submit(len, b"x" * 1_000_000).result(60) == 1_000_000


def test_what_cannot_be_sent_says_so(fleet: Fleet) -> None:
    import threading

    with pytest.raises(swarm.NotPicklable):
        fleet.submit(abs, threading.Lock())
    with pytest.raises(Exception, match="pickle|sent"):
        fleet.submit(lambda: __import__("threading").Lock()).result(60)
    assert fleet.submit(abs, -2).result(60) == 2


def test_standard_wait_and_as_completed(fleet: Fleet) -> None:
    futures = [fleet.submit(time.sleep, 0.01 * index) for index in range(5)]
    done, waiting = concurrent.futures.wait(futures, timeout=20)
    assert (len(done), len(waiting)) == (5, 0)
    more = [fleet.submit(abs, index) for index in range(20)]
    assert {future.result() for future in concurrent.futures.as_completed(more, timeout=20)} == set(range(20))


def test_explain_logs_and_result_by_id(fleet: Fleet) -> None:
    future = fleet.submit(lambda: print("said this") or 42)
    assert future.result(60) == 42
    assert any("placed on oak" in line for line in fleet.query("explain", task=future.id)["lines"])

    def output() -> bytes:
        return b"".join(data for _, data in fleet.query("logs", task=future.id)["chunks"])

    until(lambda: output() == b"said this\n", 60, "its output is kept")
    assert fleet.get(future.id[:10]) == 42
    with pytest.raises(swarm.NotFound):
        fleet.query("task", task="zzzzzzzz")


def test_commands(fleet: Fleet, nodes: Nodes, tmp_path: Path) -> None:
    said: list[tuple[str, bytes]] = []
    command = fleet.submit_command(
        ["sh", "-c", "echo out; echo err >&2; cat; exit 3"], stdin=True, on_output=lambda *chunk: said.append(chunk)
    )
    command.send_input(b"typed\n")
    command.close_input()
    assert command.result(60)["exit"] == 3
    assert b"".join(data for stream, data in said if stream == "out") == b"out\ntyped\n"
    ran = nodes.cli("run", "--", "sh", "-c", "echo hello; exit 5")
    assert (ran.returncode, ran.stdout) == (5, b"hello\n")


def test_options_that_are_not_there_are_refused(fleet: Fleet) -> None:
    with pytest.raises(swarm.ConfigError):
        fleet.submit(abs, 1, durability="galaxy")
    with pytest.raises(swarm.ConfigError):
        fleet.submit(abs, 1, timeout_s=-1)
