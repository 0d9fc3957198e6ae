"""Attaching to a task or a batch: what is asked, what comes of the answers, and what is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import swarm
from kernels.batch import OutcomeBuilder, Outcomes
from swarm.client.aio import AsyncFleet
from swarm.errors import NoQuorum, NotFound
from swarm.payload import encode_value
from swarm.payload_failure import encode_failure, encode_notice
from swarm.protocol import ids
from swarm.protocol.messages import Kind
from swarm.protocol.states import Status
from tests.unit.client.fake_node import World

KEY = bytes(range(12))
TASK = ids.task_id(KEY, 1)


class Kept:
    """A node's answers about one batch: reports come one a question, and "unknown" when it is told to say so."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.node = world.nodes[0]
        self.reports: list[tuple[int, bytes]] = []
        self.shown: dict[str, Any] = {"count": 3, "name": "f", "done": 0, "state": "running", "chunked": False}
        self.refusals: list[Any] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.node.on_query = self.on_query  # type: ignore[method-assign]
        self.over = False

    def add(self, *rows: tuple[int, int, bytes]) -> None:
        builder = OutcomeBuilder()
        for index, status, payload in rows:
            builder.add(index, status, 5, payload)
        self.reports.append((len(rows), builder.take()))

    def on_query(self, header: dict[str, Any], body: bytes) -> None:
        method, args = header["m"], header["a"]
        if not method.startswith("batch"):
            return
        self.asked.append((method, args))
        value, answer = dict(self.shown), b""
        if self.refusals:
            refusal = self.refusals.pop(0)
            if refusal == "later":
                value = {"known": False, "absent": []}
            else:
                self.node.say(Kind.REPLY, {"q": header["q"], "e": [*refusal, "a hint", {}]})
                return
        elif method == "batch.outcomes" and "index" in args:
            value["status"] = None
            for count, columns in self.reports:
                found = Outcomes(columns, count)
                for row in range(count):
                    if found.index(row) == args["index"]:
                        value["status"], answer = found.status(row), bytes(found.payload(row))
        elif method == "batch.outcomes":
            at = args["cursor"]
            parts = self.reports[at : at + 1]
            value |= {"parts": [[count, len(columns)] for count, columns in parts], "cursor": at + len(parts)}
            value["over"] = self.over and at + len(parts) == len(self.reports)
            answer = b"".join(columns for _, columns in parts)
        self.node.say(Kind.REPLY, {"q": header["q"], "v": value}, answer)


@pytest.fixture
def kept() -> Iterator[Kept]:
    with World("oak") as world:
        yield Kept(world)


def fine(index: int, value: Any) -> tuple[int, int, bytes]:
    return index, Status.OK, encode_value(value)


def test_results_of_a_batch_come_in_order_each_once(kept: Kept) -> None:
    kept.add(fine(2, "c"), fine(0, "a"))
    kept.add(fine(1, "b"), fine(2, "again, from the next leader"))
    kept.over = True
    found = kept.world.fleet.attach(ids.batch_text(KEY))
    assert (found.count, found.name, found.index, found.id) == (3, "f", None, ids.batch_text(KEY))
    assert list(found.outcomes(5)) == [(2, "c"), (0, "a"), (1, "b")]
    assert found.result(60) == ["a", "b", "c"]
    assert kept.world.fleet.attach(KEY).result(60) == ["a", "b", "c"]


def test_failures_are_values_of_outcomes_and_raised_by_result(kept: Kept) -> None:
    failure = encode_failure(KeyError("missing"), node="oak", attempt=1)
    kept.add(fine(0, 1), (1, Status.FAILED, failure), (2, Status.LOST, encode_notice("gone")))
    kept.over = True
    found = kept.world.fleet.attach(KEY)
    kinds = [type(value) for _, value in found.outcomes(5)]
    assert kinds == [int, KeyError, swarm.TaskLost]
    with pytest.raises(KeyError):
        found.result(60)


def test_a_task_has_its_own_result(kept: Kept) -> None:
    kept.add(fine(1, "mine"))
    found = kept.world.fleet.attach(ids.text(TASK))
    assert (found.index, found.id) == (1, ids.text(TASK))
    assert found.result(60) == "mine" and found.done()
    other = kept.world.fleet.attach(ids.task_id(KEY, 2))
    assert not other.done()
    with pytest.raises(TimeoutError, match="no outcome yet"):
        other.result(0.05)


def test_what_map_has_put_together_comes_apart(kept: Kept) -> None:
    kept.shown |= {"count": 2, "chunked": True}
    kept.add(fine(1, [[3, 4], None, 0.1]), fine(0, [[1, 2], None, 0.1]))
    kept.over = True
    assert kept.world.fleet.attach(KEY).result(60) == [1, 2, 3, 4]


def test_what_is_not_known_for_a_moment_is_asked_again(kept: Kept) -> None:
    kept.add(fine(0, 1), fine(1, 2), fine(2, 3))
    kept.over = True
    kept.refusals = [("NoQuorum", "who leads is not known"), "later"]
    found = kept.world.fleet.attach(KEY)
    kept.refusals = ["later", ("NoQuorum", "who leads is not known")]
    assert found.result(60) == [1, 2, 3]


def test_without_a_quorum_it_says_so_in_time(kept: Kept) -> None:
    kept.refusals = [("NoQuorum", "who leads is not known")] * 100
    with pytest.raises(NoQuorum) as caught:
        kept.world.fleet.attach(KEY, timeout=0.3)
    assert caught.value.hint == "a hint"


@pytest.mark.parametrize("text", ["", "xyz", "0" * 25, "!" * 26, bytes(3), bytes(17)])
def test_what_is_no_id_is_not_found(kept: Kept, text: Any) -> None:
    with pytest.raises(NotFound):
        kept.world.fleet.attach(text)
    assert kept.asked == []


def test_an_id_that_nobody_keeps_and_a_task_beyond_its_batch_are_not_found(kept: Kept) -> None:
    kept.refusals = [("NotFound", "no batch is kept")]
    with pytest.raises(NotFound, match="kept"):
        kept.world.fleet.attach(KEY)
    with pytest.raises(NotFound, match="3 tasks"):
        kept.world.fleet.attach(ids.task_id(KEY, 3))


def test_cancelling_names_the_task_or_the_batch(kept: Kept) -> None:
    kept.world.fleet.attach(TASK).cancel()
    kept.world.fleet.attach(KEY).cancel()
    assert [args for method, args in kept.asked if method == "batch.cancel"] == [
        {"batch": KEY, "index": 1},
        {"batch": KEY},
    ]


def test_coroutines_attach_too(kept: Kept) -> None:
    kept.add(fine(0, 1), fine(1, 2), fine(2, 3))
    kept.over = True

    async def main() -> Any:
        found = await AsyncFleet(kept.world.fleet).attach(KEY)
        values = [value async for _, value in found.outcomes(5)]
        return values, await found, await found.done(), (await found.status())["name"]

    assert asyncio.run(main()) == ([1, 2, 3], [1, 2, 3], False, "f")


def test_ids_of_batches_are_no_ids_of_tasks() -> None:
    assert ids.parse_any(ids.batch_text(KEY)) == (KEY, None)
    assert ids.parse_any(ids.text(TASK)) == (KEY, 1)
