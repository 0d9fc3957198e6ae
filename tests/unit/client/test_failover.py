"""What becomes of tasks when the node that has them goes away, stops, or comes back."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest

from swarm.errors import DependencyFailed, FleetNotFound, TaskLost
from swarm.payload import encode_value
from swarm.protocol.states import Status
from tests.unit.client.fake_node import World


def square(x: int) -> int:
    return x * x


def test_unfinished_tasks_go_to_the_next_node_and_finished_ones_do_not() -> None:
    with World("oak", "elm") as world:
        oak, elm = world.nodes
        oak.answers = lambda header: "hold"
        futures = [world.fleet.submit(square, x) for x in range(10)]
        world.eventually(lambda: sum(header["n"] for header in oak.submitted) == 10)
        for key, (header, body) in list(oak.held.items()):
            world.do(oak.run, header, body, [row for row in range(header["n"]) if row % 2 == 0])
        assert sum(future.result(60) is not None for future in futures if future._index % 2 == 0) >= 5
        world.kill("oak")
        assert [future.result(60) for future in futures] == [x * x for x in range(10)]
        assert not set(oak.ran) & set(elm.ran), "what has ended does not run again"
        assert len(elm.ran) + len(oak.ran) == 10
        assert all(header["w"] == 1 for header in elm.submitted)
        assert elm.order.index("code.put") < elm.order.index("SUBMIT")


def test_a_link_that_went_down_before_it_was_in_use_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with World("oak", "elm") as world:
        oak, _ = world.nodes
        oak.answers = lambda header: "hold"
        future = world.fleet.submit(square, 4)
        world.eventually(lambda: oak.submitted)
        find, ended = world.engine._finder.find, []  # type: ignore[union-attr]

        async def found(*args: Any) -> Any:
            link = await find(*args)
            if len(ended) < 2:  # its node ended just when it had taken it
                link.close("gone again")
                ended.append(link)
                await asyncio.sleep(0.05)  # and this is told before it is used
            return link

        monkeypatch.setattr(world.engine._finder, "find", found)
        world.kill("oak")
        assert future.result(60) == 16 and len(ended) == 2


def test_what_may_not_be_repeated_and_was_granted_a_start_ends_lost() -> None:
    with World("oak", "elm") as world:
        oak, elm = world.nodes
        oak.answers = lambda header: "hold"
        begun = world.fleet.submit(square, 2, rerun=False)
        world.eventually(lambda: oak.granted)
        world.kill("oak")
        with pytest.raises(TaskLost, match="gone") as caught:
            begun.result(60)
        assert caught.value.hint
        assert not elm.ran
        assert world.fleet.submit(square, 3, rerun=False).result(60) == 9


def test_what_may_not_be_repeated_and_was_not_granted_runs_elsewhere() -> None:
    with World("oak", "elm") as world:
        oak, elm = world.nodes
        oak.say = lambda *_: None  # type: ignore[method-assign]
        oak.answers = lambda header: "hold"
        future = world.fleet.submit(square, 4, rerun=False)
        world.eventually(lambda: oak.submitted)
        world.kill("oak")
        assert future.result(60) == 16


def test_a_task_cancelled_on_the_way_does_not_run_on_the_next_node() -> None:
    with World("oak", "elm") as world:
        oak, elm = world.nodes
        oak.answers = lambda header: "hold"
        oak.on_cancel = lambda header, body: oak.cancelled.append(header)  # type: ignore[method-assign]
        first, second = world.fleet.submit(square, 2), world.fleet.submit(square, 3)
        world.eventually(lambda: len(oak.submitted) == len(oak.held) >= 1)
        assert first.cancel()
        world.eventually(lambda: oak.cancelled)
        world.kill("oak")
        assert second.result(60) == 9
        world.eventually(lambda: world.engine.unfinished == 0)
        assert len(elm.ran) == 1


def test_the_same_process_again_is_asked_to_go_on_and_nothing_is_lost() -> None:
    with World("oak") as world:
        oak = world.nodes[0]
        oak.answers = lambda header: "hold"
        future = world.fleet.submit(square, 2, rerun=False)
        world.eventually(lambda: oak.granted)
        world.do(lambda: world.engine.link and world.engine.link.close("a test"))
        world.eventually(lambda: len(oak.submitted) == 2)
        assert "w" not in oak.submitted[1]
        # It was granted, is granted again in case that was lost, and a last time since the node asks anew.
        world.eventually(lambda: len(oak.granted) == 3)
        assert oak.granted == [[[0, 1]]] * 3
        world.do(oak.outcomes, oak.submitted[0]["b"], [(0, Status.OK, encode_value(4))])
        assert future.result(60) == 4


def test_a_node_that_drains_is_left_for_another_one() -> None:
    with World("oak", "elm") as world:
        oak, elm = world.nodes
        world.eventually(lambda: world.finder.places)
        oak.answers = lambda header: {"reason": "draining", "message": "stops", "after": 0.0}
        assert world.fleet.submit(square, 6).result(60) == 36
        assert len(elm.ran) == 1
        assert world.fleet.node == "elm"


def test_a_node_that_drains_is_not_left_while_something_runs_there_that_may_not_be_repeated() -> None:
    from swarm.protocol.messages import Kind

    with World("oak", "elm") as world:
        oak, elm = world.nodes
        world.eventually(lambda: world.finder.places)
        oak.answers = lambda header: "hold"
        future = world.fleet.submit(square, 6, rerun=False)
        world.eventually(lambda: oak.granted)
        world.do(oak.say, Kind.GOODBYE, {"reason": "draining"})
        time.sleep(0.05)
        assert world.fleet.node == "oak"
        world.do(oak.outcomes, oak.submitted[0]["b"], [(0, Status.OK, encode_value(36))])
        assert future.result(60) == 36
        world.eventually(lambda: world.engine.link and world.engine.link.identity.name == "elm")


def test_a_task_that_waits_for_another_one_takes_it_along() -> None:
    with World("oak", "elm") as world:
        oak, elm = world.nodes
        oak.answers = lambda header: "hold" if header.get("d") or not oak.submitted[:-1] else "run"
        first = world.fleet.submit(square, 3)
        key = world.eventually(lambda: next(iter(oak.held), None))
        second = world.fleet.submit(square, first)
        world.eventually(lambda: len(oak.held) == 2)
        world.do(oak.run, *oak.held[key])
        assert first.result(60) == 9
        world.kill("oak")
        assert second.result(60) == 81
        assert len(elm.ran) == 2, "the next node knows nothing of the result, so it is made again"


def test_a_result_that_may_not_be_made_again_fails_what_waits_for_it() -> None:
    with World("oak", "elm") as world:
        oak, elm = world.nodes
        oak.answers = lambda header: "hold"
        first = world.fleet.submit(square, 3, rerun=False)
        key = world.eventually(lambda: next(iter(oak.held), None))
        second = world.fleet.submit(square, first)
        world.eventually(lambda: len(oak.held) == 2)
        world.do(oak.run, *oak.held[key])
        assert first.result(60) == 9
        world.kill("oak")
        with pytest.raises(DependencyFailed):
            second.result(60)
        assert not elm.ran


def test_without_any_node_left_everything_fails_with_a_hint_in_the_time_that_was_set() -> None:
    with World("oak", reconnect_timeout_s=0.1) as world:
        oak = world.nodes[0]
        oak.answers = lambda header: "hold"
        future = world.fleet.submit(square, 3)
        world.eventually(lambda: oak.held)
        world.kill("oak")
        with pytest.raises(FleetNotFound):
            future.result(60)
        with pytest.raises(FleetNotFound):
            world.fleet.submit(square, 3)
        assert not world.fleet.usable


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_told_to_connect_anew() -> None:
    with World("oak") as world:
        assert world.fleet.submit(square, 3).result(60) == 9
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                world.fleet.submit(square, 3)
            except RuntimeError as error:
                status = 0 if "fork" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert world.fleet.submit(square, 4).result(60) == 16
