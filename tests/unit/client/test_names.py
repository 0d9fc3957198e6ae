"""Names: what a task submits is known again when it is run again, and what is submitted with a key wherever that is said."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from swarm import tasks
from swarm.client.aio import AsyncFleet
from swarm.client.names import KEYED_HOME_FILE, kept_home
from swarm.client.routes import session_for_here
from swarm.client.sync import Fleet
from swarm.errors import ConfigError, TaskRefused
from swarm.protocol import ids
from swarm.protocol.ledger.homes import home_tag
from swarm.protocol.messages import Kind
from tests.unit.client.fake_node import World

PARENT = b"log" + bytes(range(9)) + bytes(4)
LEVEL = {"durability": "fleet"}


class Running:
    """An attempt of a task."""

    def __init__(
        self, number: int, task: bytes = PARENT, *, durable: bool = True, retries: int = 0, moved: int = 0
    ) -> None:
        self.facts: dict[str, Any] = {
            "id": task, "token": (3, number) if durable else (number,), "attempt": number, "lineage": (task, b"", 0),
            "name": "parent", "node": "oak", "retries": retries, "moved": moved,
        }  # fmt: skip

    def describe(self) -> Mapping[str, Any]:
        return self.facts

    def progress(self, done: float, total: float | None, note: str) -> None: ...

    def told(self) -> list[bytes]:
        return []

    def waiting(self, begins: bool) -> None: ...

    def places_to_stand(self, begins: bool) -> None: ...

    def stand(self) -> float:
        return 0.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SWARM_HOME", str(tmp_path))
    yield tmp_path
    tasks.bind(None)


def square(x: int) -> int:
    return x * x


def both(one: int, other: int) -> int:
    return one + other


_number = iter(range(1, 1 << 30))


def attempt(do: Callable[[Fleet], Any], task: bytes = PARENT, *, hold: bool = False, **how: Any) -> list[bytes]:
    """The keys of the batches that reach the node, in their order, when a task does this in one more attempt."""
    tasks.bind(Running(next(_number), task, **how))
    try:
        with World("oak") as world:
            (oak,) = world.nodes
            if hold:
                oak.answers = lambda header: "hold"
            do(world.fleet)
            world.eventually(lambda: not world.engine.batches.tasks)
            assert all(header["n"] == 1 for header in oak.submitted if header.get("D")) or not how.get("durable", True)
            return [header["b"] for header in oak.submitted]
    finally:
        tasks.bind(None)


def test_each_attempt_of_a_task_gives_its_calls_the_same_keys_in_the_log_of_the_task() -> None:
    first, second = attempt(lambda fleet: calls(fleet)), attempt(lambda fleet: calls(fleet))
    other = attempt(lambda fleet: calls(fleet), b"log" + bytes(13))
    assert first == second and len(set(first)) == 4
    assert not set(first) & set(other)
    assert {key[:3] for key in (*first, *other)} == {b"log"}


def calls(fleet: Fleet) -> None:
    for x in (1, 1, 2):
        assert fleet.submit(square, x, **LEVEL).result(60) == x * x
    assert fleet.submit(square, [7] * 3, **LEVEL).exception(20) is not None


def test_calls_are_counted_on_over_the_connections_of_an_attempt() -> None:
    at_once = attempt(calls)
    tasks.bind(Running(next(_number)))
    found: list[bytes] = []
    for x in (1, 1, 2):
        with World("oak") as world:
            assert world.fleet.submit(square, x, **LEVEL).result(60) == x * x
            found += [header["b"] for header in world.nodes[0].submitted]
    assert found == at_once[:3]


def test_children_of_what_is_kept_nowhere_have_ids_by_chance_and_travel_together() -> None:
    def do(fleet: Fleet) -> None:
        futures = [fleet.submit(square, x, **LEVEL) for x in range(20)]
        assert [future.result(60) for future in futures] == [x * x for x in range(20)]

    first, second = attempt(do, durable=False), attempt(do, durable=False)
    assert not set(first) & set(second)
    assert not attempt(lambda fleet: fleet.submit(square, 1).result(60)) == attempt(
        lambda fleet: fleet.submit(square, 1).result(60)
    ), "a child that is kept nowhere cannot be found again"


def test_calls_of_other_threads_are_told_apart_by_what_they_ask_for() -> None:
    def in_threads(order: list[int]) -> Callable[[Fleet], None]:
        def do(fleet: Fleet) -> None:
            for x in order:
                with ThreadPoolExecutor(1) as pool:
                    assert pool.submit(lambda x=x: fleet.submit(square, x, **LEVEL).result(60)).result() == x * x

        return do

    first, second = attempt(in_threads([1, 2, 3, 2])), attempt(in_threads([3, 2, 2, 1]))
    assert len(set(first)) == 4
    assert set(first) == set(second)
    assert first[1:2] == second[1:2]
    assert not set(first) & set(attempt(calls)), "and never for those of the task's own thread"


def test_calls_of_coroutines_are_told_apart_by_what_they_ask_for() -> None:
    def in_coroutines(order: list[int]) -> Callable[[Fleet], None]:
        async def do(fleet: AsyncFleet) -> None:
            for x in order:
                assert await fleet.submit(square, x, **LEVEL) == x * x

        return lambda fleet: asyncio.run(do(AsyncFleet(fleet)))

    first, second = attempt(in_coroutines([5, 6])), attempt(in_coroutines([6, 5]))
    assert len(set(first)) == 2 and first == second[::-1]


def test_what_a_task_forks_submits_under_ids_by_chance() -> None:
    tasks.bind(Running(next(_number)))
    assert session_for_here() is not None
    read, write = os.pipe()
    child = os.fork()
    if not child:
        from swarm.client.names import durable_parent

        os.write(write, b"%d%d" % (durable_parent() is None, session_for_here() is None))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"11"
    os.close(read)
    os.close(write)


def test_a_map_has_a_place_of_its_own_and_its_tasks_are_known_by_their_items() -> None:
    def do(fleet: Fleet) -> None:
        assert list(fleet.map(square, range(6), **LEVEL)) == [x * x for x in range(6)]
        assert fleet.submit(square, 9, **LEVEL).result(60) == 81

    def slowly(fleet: Fleet) -> None:
        results = fleet.map(square, range(6), window=2, **LEVEL)
        assert next(results) == 0
        assert fleet.submit(square, 9, **LEVEL).result(60) == 81
        assert list(results) == [x * x for x in range(1, 6)]

    first, second = attempt(do), attempt(slowly)
    assert len(set(first)) == 7 and set(first) == set(second), "whenever its items were taken"

    def in_chunks(fleet: Fleet) -> None:
        assert list(fleet.map(square, range(6), chunksize=4, **LEVEL)) == [x * x for x in range(6)]

    chunks = attempt(in_chunks)
    assert len(chunks) == 2 and chunks == attempt(in_chunks) and not set(chunks) & set(first)


def test_what_waits_for_another_task_is_the_same_whether_that_has_ended_or_not() -> None:
    bodies: list[list[Any]] = []

    def do(wait: bool) -> Callable[[Fleet], None]:
        def calls(fleet: Fleet) -> None:
            one = fleet.submit(square, 3, **LEVEL)
            if wait:
                assert one.result(60) == 9
            assert fleet.submit(both, one, 1, **LEVEL).result(60) == 10

        return calls

    for wait in (False, True):
        tasks.bind(Running(next(_number)))
        with World("oak") as world:
            do(wait)(world.fleet)
            bodies.append([(header["b"], header["s"], header.get("d")) for header in world.nodes[0].submitted])
    assert bodies[0] == bodies[1] and bodies[0][1][2] == [ids.task_id(bodies[0][0][0], 0)]


def test_a_connection_that_outlives_a_task_gives_the_next_ones_calls_their_own_parent() -> None:
    with World("oak") as world:
        (oak,) = world.nodes
        for task in (PARENT, b"log" + bytes(13)):
            tasks.bind(Running(next(_number), task))
            assert world.fleet.submit(square, 2, **LEVEL).result(60) == 4
        parents = [header["s"] for header in oak.submitted]
        assert parents[0] != parents[1] and PARENT in parents[0]
        assert len({header["b"] for header in oak.submitted}) == 2


def test_a_key_names_the_same_task_for_every_client_of_a_user_whichever_node_it_uses(home: Path) -> None:
    with World("oak", "elm") as world:
        oak, elm = world.nodes
        assert world.fleet.submit(square, 2, key="a", **LEVEL).result(60) == 4
        assert world.fleet.options(key="b", **LEVEL).submit(square, 2).result(60) == 4
        world.kill("oak")
        assert world.fleet.submit(square, 2, key="a", **LEVEL).result(60) == 4
        keys = [header["b"] for header in (*oak.submitted, *elm.submitted)]
        assert keys[0] == keys[2] != keys[1]
        assert keys[0][:3] == home_tag(oak.credentials.id)
    with World("fir") as world:
        assert world.fleet.submit(square, 2, key="a", **LEVEL).result(60) == 4
        assert world.nodes[0].submitted[0]["b"][:3] == keys[0][:3], "a later script says it at another node"
    assert (home / "data" / "client" / KEYED_HOME_FILE).read_text().split()[1] == oak.credentials.id.hex()


def test_the_home_of_keys_is_chosen_once_for_each_fleet(tmp_path: Path) -> None:
    file = tmp_path / "client" / KEYED_HOME_FILE
    with ThreadPoolExecutor(4) as pool:
        chosen = set(pool.map(lambda number: kept_home(file, b"f" * 16, bytes([number]) * 16), range(8)))
    assert len(chosen) == 1
    assert kept_home(file, b"g" * 16, b"z" * 16) == b"z" * 16
    assert kept_home(file, b"g" * 16, b"y" * 16) == b"z" * 16
    assert [one.name for one in file.parent.iterdir()] == [KEYED_HOME_FILE]


def test_in_a_task_a_key_is_the_tasks_own_and_comes_in_any_order() -> None:
    def keyed(names: str) -> Callable[[Fleet], None]:
        def do(fleet: Fleet) -> None:
            for name in names:
                assert fleet.submit(square, 2, key=name, **LEVEL).result(60) == 4

        return do

    first, second = attempt(keyed("ab")), attempt(keyed("ba"))
    assert first == second[::-1] and len(set(first)) == 2
    assert not set(first) & set(attempt(keyed("ab"), b"log" + bytes(13)))


def test_a_map_with_a_key_has_one_for_each_item() -> None:
    found: list[list[dict[str, Any]]] = []
    for window in (None, 2):
        with World("oak") as world:
            mapped = world.fleet.map(square, range(5), key="squares", window=window, **LEVEL)
            assert list(mapped) == [0, 1, 4, 9, 16]
            found.append(world.nodes[0].submitted)
        assert len({header["b"] for header in found[-1]}) == 5


def test_one_key_said_twice_is_one_task_and_both_hear_of_it() -> None:
    with World("oak") as world:
        (oak,) = world.nodes
        oak.answers = lambda header: "hold"
        one, same = (world.fleet.submit(square, 3, key="k", **LEVEL) for _ in range(2))
        world.eventually(lambda: len(oak.submitted) == 2)
        assert one.task_id == same.task_id
        world.do(oak.say, Kind.ACCEPTED, {"b": oak.submitted[0]["b"], "copies": 2, "hosts": 2, "e": 5, "r": 60.0})
        world.do(oak.run, *oak.held[oak.submitted[0]["b"]])
        assert (one.result(60), same.result(60)) == (9, 9)
        assert one.receipt.result(60) == same.receipt.result(60)
        oak.answers = lambda header: "run"
        assert world.fleet.submit(square, 3, key="k", **LEVEL).result(60) == 9


def test_one_key_for_two_calls_is_refused_with_both_digests_and_the_first_one_goes_on() -> None:
    with World("oak") as world:
        (oak,) = world.nodes
        oak.answers = lambda header: "hold"
        one = world.fleet.submit(square, 3, key="k", **LEVEL)
        other = world.fleet.submit(square, 4, key="k", **LEVEL)
        with pytest.raises(TaskRefused, match=r"digest is [0-9a-f]{64}, this one's [0-9a-f]{64}") as refused:
            other.result(60)
        assert "key=" in refused.value.hint
        with pytest.raises(TaskRefused):
            other.receipt.result(60)
        world.do(oak.run, *oak.held[oak.submitted[0]["b"]])
        assert one.result(60) == 9 and len(oak.submitted) == 1


def test_what_another_attempt_submitted_otherwise_is_told_with_what_to_do() -> None:
    tasks.bind(Running(next(_number)))
    with World("oak") as world:
        world.nodes[0].answers = lambda header: {
            "reason": "conflict", "message": "its digest is aa, this one's bb", "hint": "", "after": None,
        }  # fmt: skip
        with pytest.raises(TaskRefused, match="its digest is aa") as refused:
            world.fleet.submit(square, 3, **LEVEL).result(60)
        assert "same order" in refused.value.hint and "key=" in refused.value.hint


@pytest.mark.parametrize("key", ["", "k" * 257, 7, b"k", abs])
def test_a_key_is_a_short_text(key: Any) -> None:
    with World("oak") as world, pytest.raises(ConfigError, match="key="):
        world.fleet.submit(square, 3, key=key, **LEVEL)


def test_a_key_is_for_what_is_kept() -> None:
    with World("oak") as world:
        for submit in (
            lambda: world.fleet.submit(square, 3, key="k"),
            lambda: world.fleet.map(square, range(3), key="k"),
            lambda: world.fleet.stream(square, 3, key="k"),
            lambda: world.fleet.submit_command(["true"], key="k"),
        ):
            with pytest.raises(ConfigError, match="kept nowhere"):
                submit()


@pytest.mark.parametrize(("retries", "cancelled"), [(0, 1), (2, 0)])
def test_leaving_by_an_exception_that_is_tried_again_leaves_the_next_attempt_its_children(
    retries: int, cancelled: int
) -> None:
    tasks.bind(Running(next(_number), retries=retries))
    world = World("oak")
    (oak,) = world.nodes
    oak.answers = lambda header: "hold"
    with pytest.raises(KeyError), world.fleet:
        world.fleet.submit(square, 3, **LEVEL)
        world.eventually(lambda: oak.submitted)
        raise KeyError("tried again")
    assert len(oak.cancelled) == cancelled


def test_threads_of_one_task_count_each_call_once() -> None:
    def do(fleet: Fleet) -> None:
        ready = threading.Barrier(4)

        def submit() -> None:
            ready.wait(20)
            for _ in range(5):
                assert fleet.submit(square, 2, **LEVEL).result(60) == 4

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    first, second = attempt(do), attempt(do)
    assert len(set(first)) == 20 and set(first) == set(second)


def test_what_a_task_submits_after_it_was_moved_is_not_taken_for_what_it_submitted_before() -> None:
    def do(fleet: Fleet) -> None:
        for number in range(3):
            fleet.submit(square, number, **LEVEL).result(60)

    first, again = attempt(do), attempt(do, moved=1)
    assert len(first) == len(again) == 3 and not set(first) & set(again)
    assert attempt(do, moved=1) == again, "run again after a crash, from the same state"
    assert not set(attempt(do, moved=2)) & {*first, *again}
