"""Calls made one after the other: by the direct lane they have what every task has, and when the lane ends, nothing is
lost."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import swarm
from swarm.client.direct import DirectFuture
from swarm.client.sync import NOTHING_CHOSEN, Fleet
from tests.e2e.fleets import Nodes, until


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path_factory.mktemp("d"))
    nodes.start("oak", "--workers", "2")
    yield nodes
    assert nodes.stop_all() == {"oak": 0}


@pytest.fixture(scope="module")
def fleet(nodes: Nodes) -> Iterator[Fleet]:
    with nodes.connect("oak") as fleet:
        yield fleet


def lone(fleet: Fleet) -> None:
    """Have the client on the direct lane."""

    def granted() -> bool:
        assert fleet.submit(abs, -1).result(60) == 1
        return fleet._engine.lane.open

    until(granted, 60, "no slot was granted")


def direct(fleet: Fleet, fn: object, /, *args: object, **kwargs: object) -> DirectFuture:
    """The first call of `fn`, and it goes directly: its code was given to the node before."""
    route = fleet.route(fn, NOTHING_CHOSEN)  # type: ignore[arg-type]
    if route.code is not None and not route.known:
        fleet._engine.query("code.put", {"digest": route.code.digest}, route.code.blob)
    route.known = True
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lone(fleet)
        future = fleet._engine.lane.call(route, args, kwargs)
        if future is not None:
            assert isinstance(future, DirectFuture)
            return future
    raise AssertionError("it does not go directly")


def when_there(path: str, number: int) -> int:
    """The number, once the file is there: until then nothing that was submitted with it has ended."""
    deadline = time.monotonic() + 60
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.005)
    return number


def test_lone_calls_go_directly_and_together_they_go_through_the_node(fleet: Fleet, tmp_path: Path) -> None:
    assert direct(fleet, max, 3, 4).result(60) == 4
    go = tmp_path / "go"
    together = [fleet.submit(when_there, str(go), number) for number in range(50)]
    go.touch()
    assert [one.result(60) for one in together] == list(range(50))
    assert sum(isinstance(one, DirectFuture) for one in together) <= 1, "only the first was alone"


def test_what_ends_a_call_arrives_as_from_any_task(fleet: Fleet) -> None:
    def fails(key: str) -> None:
        raise KeyError(key)

    with pytest.raises(KeyError, match="missing") as caught:
        direct(fleet, fails, "missing").result(60)
    assert "in fails" in str(caught.value.__cause__)

    def about() -> list[object]:
        task = swarm.current_task()
        assert task is not None
        return [task.id, task.attempt, task.node]

    future = direct(fleet, about)
    assert future.result(60) == [future.task_id, 1, "oak"]
    assert future.receipt.result(0).copies == 0
    assert direct(fleet, np.arange, 5).result(60).tolist() == [0, 1, 2, 3, 4]
    large = direct(fleet, np.ones, 300_000).result(60)
    assert large.sum() == 300_000


def test_a_coroutine_function_is_run_as_ever(fleet: Fleet) -> None:
    async def soon(value: int) -> int:
        await asyncio.sleep(0.001)
        return value + 1

    for value in range(20):
        lone(fleet)
        assert fleet.submit(soon, value).result(60) == value + 1


def test_every_way_to_wait(fleet: Fleet) -> None:
    assert [one.result() for one in fleet.as_completed([direct(fleet, abs, -2)], 20)] == [2]
    assert fleet.wait([direct(fleet, abs, -3)], 20).done.pop().result() == 3

    called: list[tuple[int, str]] = []
    ended = threading.Event()

    def callback(future: concurrent.futures.Future[int]) -> None:
        called.append((future.result(), threading.current_thread().name))
        ended.set()

    future = direct(fleet, abs, -4)
    future.add_done_callback(callback)
    assert future.result(60) == 4
    assert ended.wait(20)
    assert called == [(4, "swarm-client")] or called == [(4, "MainThread")]  # it may have been over when it was added

    async def awaits() -> int:
        return int(await direct(fleet, abs, -5))

    assert asyncio.run(awaits()) == 5

    future = direct(fleet, abs, -6)
    until(future.done, 60)
    assert future.result(0) == 6
    assert fleet.submit(abs, direct(fleet, abs, -7)).result(60) == 7


def test_progress_is_heard(fleet: Fleet) -> None:
    def counts() -> int:
        for step in range(3):
            swarm.progress(step + 1, 3)
        return 3

    heard: list[object] = []
    future = direct(fleet, counts)
    future.add_progress_callback(lambda said: heard.append(said["done"]))
    assert future.result(60) == 3
    assert future.progress["done"] == 3
    assert heard == [] or heard[-1] == 3


def test_a_wait_that_is_too_short_changes_nothing(fleet: Fleet) -> None:
    def naps() -> str:
        time.sleep(0.3)
        return "rested"

    future = direct(fleet, naps)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    assert not future.done()
    assert future.result(60) == "rested"

    def goes_through() -> bool:
        lone(fleet)
        next_one = fleet.submit(naps)
        assert next_one.result(60) == "rested"
        return not isinstance(next_one, DirectFuture)

    until(goes_through, 60, "what is known to take long goes through the node")


def has_said(path: str) -> bool:
    """Whether a task has written there."""
    return os.path.exists(path) and bool(Path(path).read_text())


def waits(go: str, mark: str) -> None:
    """Says who runs it, waits for a file, and leaves a mark."""
    Path(mark + ".pid").write_text(str(os.getpid()))
    while not os.path.exists(go):
        time.sleep(0.005)
    Path(mark).touch()


def test_cancel_ends_the_call_and_the_next_has_a_slot(fleet: Fleet, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    future = direct(fleet, waits, str(tmp_path / "go"), str(mark))
    until(lambda: has_said(f"{mark}.pid"), 60, "it runs")
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    assert direct(fleet, abs, -1).result(60) == 1
    pid = Path(f"{mark}.pid").read_text()
    until(lambda: not Path(f"/proc/{pid}").exists(), 60, "its worker is ended")
    (tmp_path / "go").touch()
    time.sleep(0.2)
    assert not mark.exists()


def test_a_call_that_kills_its_worker_is_tried_again_by_the_node(fleet: Fleet, tmp_path: Path) -> None:
    def once(path: str) -> str:
        if not os.path.exists(path):
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        return "second time"

    assert direct(fleet, once, str(tmp_path / "once")).result(60) == "second time"

    def always() -> None:
        os._exit(3)

    with pytest.raises(swarm.TaskQuarantined):
        direct(fleet, always).result(60)


def meets(mine: str, other: str) -> bool:
    """Whether the other one runs while this one does."""
    Path(mine).touch()
    deadline = time.monotonic() + 60
    while not os.path.exists(other) and time.monotonic() < deadline:
        time.sleep(0.005)
    return os.path.exists(other)


def test_other_work_gets_the_slot_back(nodes: Nodes, fleet: Fleet, tmp_path: Path) -> None:
    """Two slots, one of them granted: two long tasks of somebody else start all the same."""
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    with nodes.connect("oak") as other:
        lone(fleet)
        futures = [other.submit(meets, here, there), other.submit(meets, there, here)]
        assert [one.result(90) for one in futures] == [True, True], "they ran one after the other"
        assert fleet.submit(abs, -9).result(60) == 9


def test_what_it_printed_and_how_it_went_can_be_asked_for(nodes: Nodes, fleet: Fleet) -> None:
    def says(word: str) -> None:
        print("said", word)

    future = direct(fleet, says, "hello")
    future.result(60)
    task = future.id

    def logs() -> bool:
        said = nodes.cli("task", "logs", task)
        return said.returncode == 0 and said.stdout == b"said hello\n"

    until(logs, 60, "its output is not there")
    shown = nodes.cli("task", "explain", task)
    assert shown.returncode == 0, shown.stderr
    assert b"ran directly on worker" in shown.stdout
    assert b"ok" in nodes.cli("task", "show", task).stdout
    waited = nodes.cli("task", "wait", task)
    assert waited.returncode == 0, (waited.returncode, waited.stderr)


def test_leaving_waits_for_a_call_and_leaving_by_an_exception_cancels_it(nodes: Nodes, tmp_path: Path) -> None:
    def marks(path: str, nap_s: float) -> None:
        time.sleep(nap_s)
        Path(path).touch()

    with nodes.connect("oak") as fleet:
        direct(fleet, marks, str(tmp_path / "waited"), 0.2)
    assert (tmp_path / "waited").exists()

    fleet = nodes.connect("oak")
    with pytest.raises(ZeroDivisionError), fleet:
        future = direct(fleet, waits, str(tmp_path / "go"), str(tmp_path / "cancelled"))
        until(lambda: has_said(str(tmp_path / "cancelled.pid")), 60, "it runs")
        raise ZeroDivisionError
    assert future.cancelled()
    pid = (tmp_path / "cancelled.pid").read_text()
    until(lambda: not Path(f"/proc/{pid}").exists(), 60, "its worker is ended")
    (tmp_path / "go").touch()
    time.sleep(0.2)
    assert not (tmp_path / "cancelled").exists()


def test_a_child_of_fork_leaves_the_lane_alone(fleet: Fleet) -> None:
    lone(fleet)
    child = os.fork()
    if not child:
        try:
            fleet.submit(abs, -1)
        except RuntimeError:
            os._exit(7)
        finally:
            os._exit(8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert fleet.submit(abs, -2).result(60) == 2


def test_with_direct_false_nothing_goes_directly(nodes: Nodes) -> None:
    os.environ["SWARM_NODE_SOCKET"] = str(nodes.home.node_socket("oak"))
    try:
        with swarm.connect(nodes.home, timeout_s=60, direct=False) as fleet:
            for _ in range(20):
                future = fleet.submit(abs, -1)
                assert future.result(60) == 1
            assert not fleet._engine.lane.open
            assert fleet.get(future.id, 20) == 1
    finally:
        del os.environ["SWARM_NODE_SOCKET"]


def test_many_threads_share_a_lane(fleet: Fleet) -> None:
    wrong: list[object] = []

    def calls(start: int) -> None:
        for number in range(start, start + 200):
            if (got := fleet.submit(abs, -number).result(60)) != number:
                wrong.append((number, got))

    threads = [threading.Thread(target=calls, args=(1000 * each,)) for each in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert not wrong
    assert not fleet.unfinished


SLOW_HASH = """
import swarm, sys, time
with swarm.connect(timeout_s=60) as fleet:
    def work(n):
        return n * n
    number = 0
    going = False
    while number < 3000:
        assert fleet.submit(work, number).result(60) == number * number
        number += 1
        if number >= 300 and not going and fleet._engine.lane.open:
            going = True
            print("going", flush=True)
print("done", number)
"""


def test_a_node_that_stops_or_dies_under_lone_calls_loses_none(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    nodes.start("ash", "--workers", "1")
    nodes.start("elm", "--workers", "1")
    until(lambda: b'"state": "alive"' in nodes.cli("--json", "members").stdout, 60)
    script = tmp_path / "lone.py"
    script.write_text(SLOW_HASH)
    import subprocess

    env = {**nodes.env, "PYTHONPATH": str(Path(__file__).parents[2])}
    env["SWARM_NODE_SOCKET"] = str(nodes.home.node_socket("ash"))
    process = subprocess.Popen([sys.executable, str(script)], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    nodes.kill("ash")
    out, _ = process.communicate(timeout=60)
    assert out == "done 3000\n"
    assert nodes.stop_all() == {"elm": 0}
