"""The client over a link to a scripted node: what is submitted, what comes back, and what may go wrong."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import swarm
from swarm.errors import ConfigError, DependencyFailed, NotAccepted, NotFound, NotPicklable, RemoteTraceback, SwarmError
from swarm.payload import encode_value
from swarm.protocol.spec import parse_spec
from swarm.tasks import task
from tests.unit.client.fake_node import World


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def square(x: int) -> int:
    return x * x


def test_results_come_back(world: World) -> None:
    assert world.fleet.submit(pow, 2, 100).result(60) == 2**100
    assert world.fleet.submit(int, "ff", base=16).result(60) == 255
    assert world.fleet.submit(lambda *parts: parts, 1, (2,), {3}).result(60) == (1, (2,), {3})


def test_calls_that_come_together_travel_together_and_each_has_its_result(world: World) -> None:
    futures = [world.fleet.submit(square, x) for x in range(5000)]
    assert [future.result(60) for future in futures] == [x * x for x in range(5000)]
    node = world.nodes[0]
    assert len(node.submitted) < 1000
    assert sum(header["n"] for header in node.submitted) == 5000
    assert len({future.task_id for future in futures}) == 5000
    assert len(node.code) == 1


class SlowToPickle:
    def __reduce__(self) -> tuple[object, ...]:
        time.sleep(0.3)
        return SlowToPickle, ()


def test_no_empty_batch_goes_out_for_a_call_that_takes_long_to_encode(world: World) -> None:
    assert world.fleet.submit(isinstance, SlowToPickle(), SlowToPickle).result(60) is True
    assert [header["n"] for header in world.nodes[0].submitted] == [1]


def test_no_empty_batch_is_sent_while_arguments_are_written(world: World) -> None:
    class Slow:
        def __reduce__(self) -> tuple[type[int], tuple[int]]:
            world.fleet.submit(square, 2).result(60)  # the loop turns, and takes what there is
            return int, (3,)

    assert world.fleet.submit(int, Slow()).result(60) == 3
    assert [header["n"] for header in world.nodes[0].submitted] == [1, 1]


def test_code_is_there_before_the_batch_that_needs_it(world: World) -> None:
    for number in range(30):
        offset = number
        assert world.fleet.submit(lambda x, offset=offset: x + offset, 1).result(60) == 1 + number
    order = world.nodes[0].order
    assert order.index("code.put") < order.index("SUBMIT")
    assert order.count("code.put") == 30


def test_an_exception_is_raised_as_itself_with_the_remote_traceback(world: World) -> None:
    future = world.fleet.submit(divmod, 1, 0)
    with pytest.raises(ZeroDivisionError) as caught:
        future.result(60)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "oak" in str(caught.value.__cause__)
    assert isinstance(future.exception(), ZeroDivisionError)


def test_options_reach_the_spec_and_arguments_reach_the_callable(world: World) -> None:
    def show(**kwargs: object) -> dict[str, object]:
        return kwargs

    fleet = world.fleet
    assert fleet.submit(show, a=1, priority=swarm.LOW, needs={"memory": "1KB"}, nice=3).result(60) == {"a": 1}
    assert fleet.options(priority="HIGH", timeout_s=9).submit(show, priority=1, nice=2).result(60) == {
        "priority": 1,
        "nice": 2,
    }
    first, second = (parse_spec(header["s"]) for header in world.nodes[0].submitted)
    assert (first.priority, first.nice, first.needs["memory"], first.name) == (0, 3, 1000, "show")
    assert (second.priority, second.timeout_s) == (2, 9.0)


def test_what_the_decorator_said_holds_unless_the_call_says_otherwise(world: World) -> None:
    @task(retries=3, priority="HIGH", name="shown")
    def marked() -> int:
        return 1

    assert world.fleet.submit(marked).result(60) == 1
    assert world.fleet.submit(marked, retries=1).result(60) == 1
    first, second = (parse_spec(header["s"]) for header in world.nodes[0].submitted)
    assert (first.retries, first.priority, first.name) == (3, 2, "shown")
    assert (second.retries, second.priority) == (1, 2)


@pytest.mark.parametrize(
    "options", [{"priority": "urgent"}, {"nice": 99}, {"durability": "disk"}, {"deadline": "noon"}, {"retries": -1}]
)
def test_options_that_make_no_sense_are_refused_at_once(world: World, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        world.fleet.submit(square, 2, **options)
    assert caught.value.hint


def test_what_can_not_be_sent_says_which_argument_it_is(world: World) -> None:
    with pytest.raises(NotPicklable, match="argument 1"):
        world.fleet.submit(square, 1, threading.Lock())
    with pytest.raises(ConfigError, match="can not be called"):
        world.fleet.submit(3)  # type: ignore[arg-type]


def test_state_of_a_bound_method_is_that_of_the_call(world: World) -> None:
    class Counter:
        value = 0

        def get(self) -> int:
            return self.value

    counter = Counter()
    assert world.fleet.submit(counter.get).result(60) == 0
    counter.value = 7
    assert world.fleet.submit(counter.get).result(60) == 7
    values = [1]
    total = functools.partial(sum, values)
    assert world.fleet.submit(total).result(60) == 1
    values.append(2)
    assert world.fleet.submit(total).result(60) == 3


def test_futures_as_arguments_are_waited_for_by_the_fleet(world: World) -> None:
    node = world.nodes[0]
    gate = threading.Event()

    def hold_first(header: dict[str, object]) -> str:
        return "run" if gate.is_set() else "hold"

    node.answers = hold_first
    first = world.fleet.submit(square, 3)
    world.eventually(lambda: node.held)
    second = world.fleet.submit(divmod, first, b := 2)
    world.eventually(lambda: len(node.submitted) == 2)
    assert node.submitted[1]["d"] == [first.task_id]
    assert b == 2
    gate.set()
    for key in list(node.held):
        header, body = node.held.pop(key)
        world.do(node.run, header, body)
    assert second.result(60) == (4, 1)
    # What is done already goes as a value.
    assert world.fleet.submit(square, first).result(60) == 81
    assert "d" not in node.submitted[2]


def test_a_dependency_that_failed_fails_what_depends_on_it(world: World) -> None:
    failed = world.fleet.submit(divmod, 1, 0)
    failed.exception(60)
    future = world.fleet.submit(square, failed)
    with pytest.raises(DependencyFailed) as caught:
        future.result(60)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    stranger: concurrent.futures.Future[int] = concurrent.futures.Future()
    with pytest.raises(ConfigError, match="something else"):
        world.fleet.submit(square, stranger)


def test_cancel_ends_the_future_at_once_and_tells_the_node_in_ranges(world: World) -> None:
    node = world.nodes[0]
    node.answers = lambda header: "hold"
    futures = [world.fleet.submit(square, x) for x in range(100)]
    world.eventually(lambda: sum(header["n"] for header in node.submitted) == 100)
    assert all(future.cancel() for future in futures)
    assert all(future.cancelled() for future in futures)
    with pytest.raises(concurrent.futures.CancelledError):
        futures[0].result()
    world.eventually(lambda: world.engine.unfinished == 0)
    assert len(node.cancelled) <= len(node.submitted) + 5


def test_a_future_that_ended_can_not_be_cancelled(world: World) -> None:
    future = world.fleet.submit(square, 2)
    assert future.result(60) == 4
    assert not future.cancel()
    assert not future.cancelled()


def test_a_refusal_is_the_tasks_outcome_and_a_full_node_is_asked_again(world: World) -> None:
    node = world.nodes[0]
    node.answers = lambda header: {"reason": "not-granted", "message": "no", "hint": "ask an admin"}
    with pytest.raises(swarm.TaskRefused, match="no") as caught:
        world.fleet.submit(square, 2).result(60)
    assert caught.value.hint == "ask an admin"
    times = itertools.count()
    node.answers = lambda header: {"reason": "full", "after": 0.01} if next(times) < 3 else "run"
    assert world.fleet.submit(square, 2).result(60) == 4


def test_submit_waits_for_room_and_says_so_when_there_is_none() -> None:
    with World(window_tasks=10, submit_timeout_s=0.05) as world:
        node = world.nodes[0]
        node.answers = lambda header: "hold"
        futures = []
        with pytest.raises(NotAccepted) as caught:
            for x in range(5000):
                futures.append(world.fleet.submit(square, x))
                time.sleep(0.001)
        assert caught.value.retry_after_s > 0
        node.answers = lambda header: "run"

        def let_go() -> None:
            for header, body in list(node.held.values()):
                node.run(header, body)

        world.do(let_go)
        assert [future.result(60) for future in futures] == [x * x for x in range(len(futures))]
        assert world.fleet.submit(square, 3).result(60) == 9


def test_callbacks_may_submit_and_are_told_when_they_would_wait_for_ever(world: World) -> None:
    seen: list[object] = []
    done = threading.Event()

    def then(future: concurrent.futures.Future[int]) -> None:
        pending = world.fleet.submit(square, future.result())
        try:
            pending.result()
        except RuntimeError as error:
            seen.append(str(error))
        pending.add_done_callback(lambda one: (seen.append(one.result()), done.set()))

    world.fleet.submit(square, 3).add_done_callback(then)
    assert done.wait(60)
    assert seen[-1] == 81
    assert "callback" in str(seen[0])


def test_gather_raises_the_first_failure_and_cancels_the_rest(world: World) -> None:
    fleet, node = world.fleet, world.nodes[0]
    assert fleet.gather([fleet.submit(square, x) for x in range(3)]) == [0, 1, 4]
    failed = fleet.submit(divmod, 1, 0)
    failed.exception(60)
    node.answers = lambda header: "hold"
    held = fleet.submit(square, 2)
    with pytest.raises(ZeroDivisionError):
        fleet.gather(failed, held)
    assert held.cancelled()
    with pytest.raises(TimeoutError):
        fleet.gather(fleet.submit(square, 2), timeout=0.02)


def test_as_completed_and_wait_take_the_futures(world: World) -> None:
    fleet = world.fleet
    futures = [fleet.submit(square, x) for x in range(20)]
    assert {future.result() for future in fleet.as_completed(futures, timeout=60)} == {x * x for x in range(20)}
    done, pending = fleet.wait(futures, timeout=60)
    assert done == set(futures)
    assert not pending
    assert {one.result() for one in concurrent.futures.as_completed(futures, timeout=60)} == {x * x for x in range(20)}


def test_streams_deliver_items_and_give_credit(world: World) -> None:
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    stream = world.fleet.stream(count, 40)
    assert list(stream) == list(range(40))

    node = world.nodes[0]
    node.answers = lambda header: "hold"
    slow = world.fleet.stream(count, 0)
    key = world.eventually(lambda: next(iter(node.held), None))
    for number in range(40):
        world.do(node.event, key, 0, "item", number, encode_value(number))
    assert [next(slow) for _ in range(40)] == list(range(40))
    world.eventually(lambda: sum(value for name, value, _ in node.inputs if name == "ack") == 40)
    node.answers = lambda header: "run"

    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("gone")

    failing = world.fleet.stream(broken)
    assert next(failing) == 1
    with pytest.raises(KeyError):
        next(failing)


def test_a_stream_begun_anew_does_not_deliver_items_twice(world: World) -> None:
    node = world.nodes[0]
    node.answers = lambda header: "hold"
    stream = world.fleet.stream(iter, [])
    key = world.eventually(lambda: next(iter(node.held), None))
    for number in (0, 1, 0, 1, 2):
        world.do(node.event, key, 0, "item", number, encode_value(number))
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    stream.close()
    with pytest.raises(concurrent.futures.CancelledError):
        next(stream)


def test_progress_and_output_are_heard_from_the_first_byte(world: World) -> None:
    node = world.nodes[0]
    node.answers = lambda header: "hold"
    output: list[tuple[str, bytes]] = []
    command = world.fleet.submit_command(["cat"], stdin=True, on_output=lambda name, data: output.append((name, data)))
    command.send_input(b"early")
    key = world.eventually(lambda: next(iter(node.held), None))
    assert not command.running()
    world.do(node.event, key, 0, "started")
    world.do(node.event, key, 0, "out", 0, b"hello")
    world.do(node.event, key, 0, "err", 5, b"oops")
    world.do(node.event, key, 0, "progress", {"done": 1, "total": 2, "note": ""})
    world.eventually(lambda: command.progress)
    assert command.running()
    assert output == [("out", b"hello"), ("err", b"oops")]
    assert command.node == "oak"
    assert command.progress["done"] == 1
    command.signal(15)
    command.close_input()
    world.eventually(lambda: len(node.inputs) == 3)
    assert node.inputs == [("in", 0, b"early"), ("signal", 15, b""), ("in", 5, b"")]
    assert node.granted == [[[0, 1]]], "a command begins only with the client's grant"


def test_questions_are_answered_or_refused_in_the_nodes_words(world: World) -> None:
    assert world.fleet.members()[0]["name"] == "oak"
    assert world.fleet.get("abc", timeout=1) == "kept"
    with pytest.raises(NotFound, match="no nonsense") as caught:
        world.fleet.query("nonsense")
    assert caught.value.hint == "ask for something else"
    with pytest.raises(SwarmError, match="did not answer"):
        world.fleet.query("silent", timeout_s=0.02)


def test_leaving_waits_for_what_is_unfinished_and_leaving_by_an_exception_cancels_it() -> None:
    world = World()
    with world.fleet as fleet:
        futures = [fleet.submit(square, x) for x in range(100)]
    assert [future.result(0) for future in futures] == [x * x for x in range(100)]
    with pytest.raises(RuntimeError, match="closed"):
        world.fleet.submit(square, 2)

    world = World()
    world.nodes[0].answers = lambda header: "hold"
    with pytest.raises(KeyboardInterrupt), world.fleet as fleet:
        held = fleet.submit(square, 2)
        raise KeyboardInterrupt
    assert held.cancelled()
    world.fleet.close()


def test_a_message_that_breaks_the_protocol_costs_the_node_its_link_and_nothing_is_lost(world: World) -> None:
    node = world.nodes[0]
    node.answers = lambda header: "hold"
    future = world.fleet.submit(square, 5)
    key = world.eventually(lambda: next(iter(node.held), None))
    node.answers = lambda header: "run"
    world.do(node.outcomes, key, [(99, 0, b"M\x00")])
    assert future.result(60) == 25


def test_a_listener_that_fails_disturbs_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    node = world.nodes[0]
    node.answers = lambda header: "hold"
    future = world.fleet.submit(square, 5)
    future.add_progress_callback(lambda progress: 1 / 0)
    key = world.eventually(lambda: next(iter(node.held), None))
    world.do(node.event, key, 0, "progress", {"done": 1})
    world.eventually(lambda: future.progress)
    world.do(node.run, *node.held[key])
    assert future.result(60) == 25
    assert "ZeroDivisionError" in caplog.text


def test_ctrl_c_is_seen_by_who_waits_for_a_result_whichever_thread_the_system_gave_it_to(world: World) -> None:
    world.nodes[0].answers = lambda header: "hold"
    future = world.fleet.submit(square, 2)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    sender = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    try:
        # A thread of its own has the mask of who starts it: it is the client's that takes the signal.
        sender.start()
        with pytest.raises(KeyboardInterrupt):
            future.result(60)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert time.monotonic() - began < 30, "long before the end of the wait"
    with pytest.raises(TimeoutError):
        future.result(0.05)
    future.cancel()


def test_a_call_says_how_long_it_waits_and_urgent_ones_have_room_of_their_own() -> None:
    with World(window_tasks=64) as world:
        world.nodes[0].answers = lambda header: "hold"
        futures = []
        began = time.monotonic()
        with pytest.raises(NotAccepted) as caught:
            for x in range(5000):
                futures.append(world.fleet.submit(square, x, submit_timeout_s=0))
        assert time.monotonic() - began < 60, "a connection that waits for ever does not, where a call says so"
        assert caught.value.retry_after_s > 0 and "under way" in str(caught.value)
        with pytest.raises(NotAccepted):
            world.fleet.options(submit_timeout_s=0.01).submit(square, 1)
        urgent = world.fleet.submit(square, 9, priority=swarm.CRITICAL, submit_timeout_s=0)
        with pytest.raises(ConfigError, match="no time in seconds"):
            world.fleet.submit(square, 1, submit_timeout_s=-1)
        world.fleet.cancel(futures, urgent)


def test_while_a_node_is_full_submit_waits_or_says_when_to_come_back(world: World) -> None:
    node = world.nodes[0]
    node.answers = lambda header: {"reason": "full", "after": 3.0, "message": "no room"}
    first = world.fleet.submit(square, 2)
    while not world.engine.room.refused_until:
        time.sleep(0.001)
    with pytest.raises(NotAccepted, match="the node is full") as caught:
        world.fleet.submit(square, 3, submit_timeout_s=0)
    assert 0 < caught.value.retry_after_s <= 3.0
    urgent = world.fleet.submit(square, 5, priority=swarm.CRITICAL, submit_timeout_s=0)
    node.answers = lambda header: "run"
    # What was refused is handed over again when the node said; who waits for room goes on then.
    assert world.fleet.submit(square, 4).result(60) == 16
    assert (first.result(60), urgent.result(60)) == (4, 25)


@pytest.mark.parametrize(
    ("said", "most"),
    [({"batch_tasks_max": 100}, 96), ({"batch_tasks_max": 1 << 40}, 1024), ({"batch_tasks_max": 1}, 32), ({}, 1024)],
)
def test_no_more_tasks_are_in_a_batch_than_the_node_takes_at_once(said: dict[str, int], most: int) -> None:
    """One of more is refused by a node of a small queue, whoever else is there."""
    with World(says=said) as world:
        (node,) = world.nodes
        futures: list[Any] = []
        # In its loop, so that nothing is taken while a batch is filled.
        world.do(lambda: futures.extend([world.fleet.submit(abs, -number) for number in range(3000)]))
        assert [future.result(60) for future in futures] == list(range(3000))
        world.eventually(lambda: world.engine.batches._tasks_max == most)
        first = len(node.submitted)
        world.do(lambda: futures.extend([world.fleet.submit(abs, -number) for number in range(3000, 6000)]))
        assert futures[-1].result(60) == 5999
        world.eventually(lambda: len(node.ran) == 6000)
        assert max(header["n"] for header in node.submitted[:first]) <= max(most, 32) + 1
        assert max(header["n"] for header in node.submitted[first:]) == most + 1
