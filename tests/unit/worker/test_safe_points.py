"""Safe points in a worker: what is asked, what a task ends with, and what it goes on from."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from nodes.worker import channel as wire
from nodes.worker.report import Reporter
from nodes.worker.runs import Context, Run
from nodes.worker.safe_points import LOOK_EVERY_S, SafePoints
from nodes.worker.segments import Segments
from swarm import tasks
from swarm.payload import decode_value, encode_value


class Worker:
    """The worker's side, and the node's end of its channel."""

    def __init__(self) -> None:
        self.node, theirs = socket.socketpair()
        self.channel = wire.Channel(theirs.detach())
        segments = Segments(self.channel)
        self.context = Context(self.channel, "oak")
        self.points = SafePoints(self.channel, Reporter(self.channel, segments, "oak"), segments)
        self.context.safe_points = self.points
        self.channel.interrupts = self.points.takes
        self.run: Any = Run.__new__(Run)
        self.run.number, self.run.saved = 7, {}
        self.run.spec = SimpleNamespace(checkpoint=True, granted=True)
        self.context.run, self.context.index = self.run, 3
        tasks.bind(self.context)

    def asks(self, index: int = 3, *, asked: bool = True) -> None:
        flags = wire.ASKED if asked else 0
        self.node.sendall(wire.pack(wire.SAVE, index.to_bytes(4, "little"), run=7, flags=flags))
        time.sleep(2 * LOOK_EVERY_S)

    def said(self) -> list[Any]:
        self.node.setblocking(False)
        try:
            frames = wire.Frames().feed(self.node.recv(1 << 16))
        except BlockingIOError:
            return []
        return [msgpack.unpackb(frame.body) for frame in frames if frame.kind == wire.EVENT]


@pytest.fixture
def worker() -> Iterator[Worker]:
    it = Worker()
    yield it
    tasks.bind(None)
    it.node.close()
    it.channel.close()


def state_of(saved: tasks.Saved) -> Any:
    return decode_value(saved.payload, trusted=True)


def test_nothing_happens_until_it_is_asked_and_then_no_exception_handler_of_the_task_stops_it(worker: Worker) -> None:
    for step in range(3):
        tasks.checkpoint(step)
    made: list[int] = []
    tasks.checkpoint(lambda: made.append(1))
    assert not made, "a state is made when it is needed"
    worker.asks()
    left: list[str] = []
    with pytest.raises(tasks.Saved) as saved:
        try:
            tasks.checkpoint(lambda: {"step": 3})
        except Exception:
            left.append("caught")
        finally:
            left.append("left")
    assert state_of(saved.value) == {"step": 3} and left == ["left"]
    group = BaseExceptionGroup("a group of tasks", [ValueError(), BaseExceptionGroup("", [saved.value])])
    assert tasks.saved_in(group) is saved.value and tasks.saved_in(ValueError()) is None


@pytest.mark.parametrize("how", ["another task", "not any more", "not this one", "another thread"])
def test_who_is_not_asked_goes_on(worker: Worker, how: str) -> None:
    worker.asks(4 if how == "another task" else 3)
    if how == "not any more":
        worker.asks(asked=False)
    if how == "not this one":
        worker.run.spec.checkpoint = False
    if how == "another thread":  # which does not read the channel; it ends as soon as the main thread has read
        thread = threading.Thread(target=tasks.checkpoint, args=(1,))
        thread.start()
        thread.join(10)
        assert not worker.points.asked
    else:
        tasks.checkpoint(1)


def test_what_cannot_be_sent_is_said_once_and_the_task_goes_on(worker: Worker) -> None:
    worker.asks()
    tasks.checkpoint(line for line in "this")
    ((index, name, why),) = worker.said()
    assert (index, name) == (3, "unsaved") and "generator" in why
    time.sleep(2 * LOOK_EVERY_S)
    tasks.checkpoint(1)


def test_a_task_goes_on_from_its_own_state_and_says_how_often_it_was_moved(worker: Worker) -> None:
    assert tasks.restore("from the beginning") == "from the beginning"
    worker.run.saved = {3: (2, encode_value([1, {"a": b"b"}])), 4: (1, encode_value("another's"))}
    assert tasks.restore() == [1, {"a": b"b"}]
    worker.context.index = 5
    assert tasks.restore(0) == 0


def test_outside_of_tasks_both_do_nothing() -> None:
    tasks.bind(None)
    assert tasks.restore(7) == 7
    tasks.checkpoint(lambda: 1 / 0)


def test_what_was_asked_of_a_run_that_is_over_is_forgotten(worker: Worker) -> None:
    worker.asks()
    worker.channel.drain()
    assert worker.points.asked
    worker.points.over(8)
    assert worker.points.asked
    worker.points.over(7)
    assert not worker.points.asked
