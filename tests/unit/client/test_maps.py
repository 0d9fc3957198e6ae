"""`map`: order, windows, chunks, failures, endless inputs."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kernels.batch import Calls
from kernels.chunks import unpack
from swarm.client.chunks import Source, in_chunks
from swarm.errors import ConfigError, PayloadTooLarge, RemoteTraceback, WorkerCrashed
from swarm.payload import decode_call
from swarm.payload_failure import encode_notice
from swarm.protocol.spec import parse_spec
from swarm.protocol.states import Status
from tests.unit.client.fake_node import World


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def square(x: int) -> int:
    return x * x


def seven(x: int) -> int:
    if x == 7:
        raise ValueError("seven")
    return x


@pytest.mark.parametrize("chunksize", ["auto", None, 1, 3, 1000])
@pytest.mark.parametrize("ordered", [True, False])
def test_every_item_has_its_result(world: World, chunksize: Any, ordered: bool) -> None:
    found = list(world.fleet.map(square, range(1000), chunksize=chunksize, ordered=ordered, timeout=60))
    expected = [x * x for x in range(1000)]
    assert found == expected if ordered else sorted(found) == expected


def test_several_iterables_are_taken_side_by_side_and_none_gives_nothing(world: World) -> None:
    assert list(world.fleet.map(pow, [2, 3, 4], (5, 2))) == [32, 9]
    assert list(world.fleet.map(square, [])) == []
    assert list(world.fleet.map(square, [], chunksize=5)) == []


def test_quick_items_travel_together_and_slow_ones_alone(world: World) -> None:
    node = world.nodes[0]
    assert sum(world.fleet.map(square, iter(range(20_000)))) == sum(x * x for x in range(20_000))
    assert len(node.ran) < 5_000
    del node.ran[:]
    list(world.fleet.map(time.sleep, [0.003] * 20))
    assert len(node.ran) == 20
    del node.ran[:]
    assert len(list(world.fleet.map(square, range(500), timeout_s=5))) == 500
    assert len(node.ran) == 500, "a time limit is one of an item"


def test_how_long_each_item_takes_may_be_told(world: World) -> None:
    node = world.nodes[0]
    assert list(world.fleet.map(pow, [2, 3, 4], [5, 2, 1], expected_s=lambda base, power: float(base**power))) == [
        32,
        9,
        4,
    ]
    assert sorted(parse_spec(header["s"]).expected_s or 0.0 for header in node.submitted) == [
        4.0,
        pytest.approx(9.0, rel=0.1),
        32.0,
    ]
    with pytest.raises(ValueError, match="chunksize"):
        world.fleet.map(square, [1], chunksize=2, expected_s=abs)
    with pytest.raises(ConfigError, match="expected_s"):
        world.fleet.submit(square, 1, expected_s=abs)
    with pytest.raises(ConfigError, match="expected_s"):
        list(world.fleet.map(square, [-1], expected_s=lambda x: x))


def test_endless_inputs_are_taken_as_there_is_room(world: World) -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for taken in itertools.count():
            yield taken

    results = world.fleet.map(square, numbers(), window=50, chunksize=1)
    assert list(itertools.islice(results, 100)) == [x * x for x in range(100)]
    assert taken <= 151
    results.close()  # type: ignore[attr-defined]
    world.eventually(lambda: world.engine.unfinished == 0)


def test_slow_inputs_do_not_hold_results_back(world: World) -> None:
    began = time.monotonic()

    def slowly() -> Iterator[int]:
        for number in range(1000):
            yield number
            time.sleep(0.01)

    results = world.fleet.map(square, slowly())
    assert next(results) == 0
    assert time.monotonic() - began < 60
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("chunksize", ["auto", 1, 5, 20])
def test_a_failure_comes_when_it_is_its_items_turn(world: World, chunksize: Any) -> None:
    results = world.fleet.map(seven, range(20), chunksize=chunksize)
    found = []
    with pytest.raises(ValueError, match="seven") as caught:
        for value in results:
            found.append(value)
    assert found == list(range(7))
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "seven" in str(caught.value.__cause__)


def test_an_input_that_fails_cancels_what_was_begun(world: World) -> None:
    world.nodes[0].answers = lambda header: "hold"

    def inputs() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        world.fleet.map(square, inputs())
    world.eventually(lambda: world.engine.unfinished == 0)


def test_leaving_the_iteration_cancels_what_is_under_way(world: World) -> None:
    world.nodes[0].answers = lambda header: "hold"
    world.fleet.map(square, range(100)).close()  # type: ignore[attr-defined]
    world.eventually(lambda: world.engine.unfinished == 0)
    world.fleet.map(square, range(100))
    world.eventually(lambda: world.engine.unfinished == 0)
    results = world.fleet.map(square, range(100), timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)
    world.eventually(lambda: world.engine.unfinished == 0)
    with pytest.raises(TimeoutError):
        next(world.fleet.map(square, range(100), ordered=False, timeout=0.05))


@pytest.mark.parametrize("chunksize", ["auto", 50])
def test_items_that_crash_their_worker_do_not_take_their_neighbours_along(world: World, chunksize: Any) -> None:
    node = world.nodes[0]
    run = node.run

    def crashing(header: dict[str, Any], body: bytes, only: Any = None) -> None:
        calls = Calls(body, header["n"])
        parts = [items_of(calls.payload(row)) for row in range(header["n"])]
        crashed = [row for row, items in enumerate(parts) if 13 in items]
        run(header, body, [row for row in range(header["n"]) if row not in crashed])
        if crashed:
            node.outcomes(header["b"], [(row, Status.CRASHED, encode_notice("the worker died")) for row in crashed])

    node.run = crashing  # type: ignore[method-assign]
    results = world.fleet.map(square, iter(range(300)), window=None, chunksize=chunksize)
    found = []
    with pytest.raises(WorkerCrashed):
        for value in results:
            found.append(value)
    assert found == [x * x for x in range(13)]
    with pytest.raises(WorkerCrashed):
        for value in world.fleet.map(square, range(300), ordered=False, chunksize=chunksize, timeout=60):
            assert value != 169


def items_of(payload: Any) -> list[Any]:
    items, width = decode_call(payload, trusted=True).args
    return unpack(items, width) if isinstance(items, bytes) else items


def test_results_that_are_too_large_together_come_one_by_one(world: World) -> None:
    node = world.nodes[0]
    run = node.run

    def narrow(header: dict[str, Any], body: bytes, only: Any = None) -> None:
        calls = Calls(body, header["n"])
        large = [row for row in range(header["n"]) if len(items_of(calls.payload(row))) > 4]
        run(header, body, [row for row in range(header["n"]) if row not in large])
        if large:
            told = encode_notice("too large", "", {"error": "PayloadTooLarge"})
            node.outcomes(header["b"], [(row, Status.FAILED, told) for row in large])

    node.run = narrow  # type: ignore[method-assign]
    assert list(world.fleet.map(square, range(20), chunksize=10)) == [x * x for x in range(20)]
    assert list(world.fleet.map(square, iter(range(2000)))) == [x * x for x in range(2000)]
    with pytest.raises(PayloadTooLarge):
        list(world.fleet.map(square, range(20), chunksize=10, rerun=False))


class Point:
    """Not plain."""

    def __init__(self, x: int) -> None:
        self.x = x


def abscissa(point: Any) -> Any:
    return point.x if isinstance(point, Point) else point


@pytest.mark.parametrize("chunksize", ["auto", None, 1, 7, 100])
def test_items_of_any_type_keep_their_places(world: World, chunksize: Any) -> None:
    items = [Point(i) if i % 50 == 30 else i for i in range(200)]
    assert list(world.fleet.map(abscissa, items, chunksize=chunksize)) == list(range(200))
    pairs = zip(range(200), items)
    assert list(world.fleet.map(lambda pair: abscissa(pair[1]), pairs, chunksize=chunksize)) == list(range(200))


@pytest.mark.parametrize("chunksize", ["auto", 4])
def test_items_that_are_futures_are_waited_for_by_the_fleet(world: World, chunksize: Any) -> None:
    items = [1, 2, world.fleet.submit(square, 5), 4, 5]
    assert list(world.fleet.map(square, items, chunksize=chunksize)) == [1, 4, 625, 16, 25]


def test_callables_by_name_travel_in_chunks_too(world: World) -> None:
    world.nodes[0].answers = lambda header: "hold"
    results = world.fleet.map("math:sqrt", range(100), chunksize=10)
    world.eventually(lambda: sum(header["n"] for header in world.nodes[0].submitted) == 10)
    spec = parse_spec(world.nodes[0].submitted[0]["s"])
    assert spec.chunked and spec.fn == ("name", "math:sqrt", "sqrt")
    results.close()  # type: ignore[attr-defined]


def test_for_guests_chunks_are_made_of_what_every_python_has(world: World) -> None:
    assert list(world.fleet.map(pow, range(20), [2] * 20, chunksize=6, python="old")) == [x * x for x in range(20)]
    spec = parse_spec(world.nodes[0].submitted[0]["s"])
    assert not spec.chunked and spec.python == "old"


def test_what_fits_into_a_chunk_is_bounded_in_bytes() -> None:
    source = Source([(b"x" * 1000 for _ in range(2000))])
    counts = []
    while (chunk := source.next(10_000)) is not None:
        counts.append(chunk.count)
        assert chunk.packed is not None and len(chunk.packed) < 600_000
    assert sum(counts) == 2000 and len(counts) > 3


@pytest.mark.parametrize("how", [{"chunksize": 0}, {"chunksize": "many"}, {"window": 0}])
def test_sizes_that_make_no_sense_are_refused(world: World, how: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        world.fleet.map(square, [1], **how)


def test_chunks_of_coroutines_run_side_by_side() -> None:
    import asyncio

    async def main() -> None:
        gate = asyncio.Event()

        async def wait(x: int) -> int:
            if x == 2:
                gate.set()
            await gate.wait()
            return x

        assert await in_chunks(wait)([0, 1, 2], 1) == [[0, 1, 2], None, 0.0]

    asyncio.run(main())


def test_options_of_map_are_those_of_its_tasks(world: World) -> None:
    assert list(world.fleet.options(priority="LOW").map(square, [1, 2], chunksize=2)) == [1, 4]
    assert list(world.fleet.map(square, [3], name="mine", labels=["x"])) == [9]
    first, second = (parse_spec(header["s"]) for header in world.nodes[0].submitted)
    assert (first.name, first.priority) == ("square", 0)
    assert (second.name, second.labels) == ("mine", ("x",))


def test_ctrl_c_while_waiting_cancels_what_is_under_way(world: World) -> None:
    world.nodes[0].answers = lambda header: "hold"
    results = world.fleet.map(square, range(10))
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.1, signal.pthread_kill, [main, signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        next(results)
    world.eventually(lambda: world.engine.unfinished == 0)


def test_a_window_is_one_of_items_however_many_make_a_task(world: World) -> None:
    taken = itertools.count()
    results = world.fleet.map(square, (next(taken) for _ in itertools.count()), window=50)
    assert [next(results) for _ in range(200)] == [x * x for x in range(200)]
    assert next(taken) <= 200 + 50 + 1
