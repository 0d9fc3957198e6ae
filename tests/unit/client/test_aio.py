"""The async client: what is awaited, what is cancelled."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from swarm.client.aio import AsyncFleet
from swarm.errors import NotAccepted
from tests.unit.client.fake_node import World


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


@pytest.fixture
def small() -> Iterator[World]:
    """Whoever waits for room there waits for a moment only."""
    with World(window_tasks=1000, submit_timeout_s=0.05) as made:
        yield made


def square(x: int) -> int:
    return x * x


def count(n: int) -> Iterator[int]:
    yield from range(n)


def test_results_are_awaited(world: World) -> None:
    async def main() -> None:
        fleet = AsyncFleet(world.fleet)
        assert await fleet.submit(square, 3) == 9
        assert await fleet.options(priority="LOW").submit(square, 3) == 9
        assert await asyncio.gather(*(fleet.submit(square, x) for x in range(300))) == [x * x for x in range(300)]
        assert await fleet.gather([fleet.submit(square, x) for x in range(3)]) == [0, 1, 4]
        with pytest.raises(ZeroDivisionError):
            await fleet.submit(divmod, 1, 0)
        assert (await fleet.members())[0]["name"] == "oak"
        assert await fleet.get("abc", timeout=1) == "kept"
        assert (fleet.node, fleet.unfinished) == ("oak", 0)

    asyncio.run(main())


@pytest.mark.parametrize("ordered", [True, False])
def test_map_and_stream_are_iterated(world: World, ordered: bool) -> None:
    async def main() -> None:
        fleet = AsyncFleet(world.fleet)
        found = [value async for value in fleet.map(square, range(3000), ordered=ordered, window=500)]
        assert sorted(found) == [x * x for x in range(3000)]
        async for value in fleet.map(square, itertools.count(), chunksize=1, window=20):
            if value >= 100:
                break
        assert [item async for item in fleet.stream(count, 30)] == list(range(30))
        with pytest.raises(ValueError):
            async for _ in fleet.options(priority=0).map(int, ["1", "x"]):
                pass

    asyncio.run(main())


def test_as_completed_and_wait(world: World) -> None:
    async def main() -> None:
        fleet = AsyncFleet(world.fleet)
        futures = [fleet.submit(square, x) for x in range(5)]
        assert {future.result() async for future in fleet.as_completed(futures, timeout=60)} == {0, 1, 4, 9, 16}
        world.nodes[0].answers = lambda header: "hold"
        held = fleet.submit(square, 2)
        done, pending = await fleet.wait([*futures, held], timeout=0.02)
        assert (done, pending) == (set(futures), {held})
        done, _ = await fleet.wait([*futures, held], return_when="FIRST_COMPLETED", timeout=60)
        assert done == set(futures)
        assert not held.done()

    asyncio.run(main())


def test_a_cancelled_coroutine_cancels_its_tasks(world: World) -> None:
    async def main() -> None:
        fleet = AsyncFleet(world.fleet)
        world.nodes[0].answers = lambda header: "hold"
        futures = [fleet.submit(square, x) for x in range(3)]
        gathering = asyncio.create_task(fleet.gather(futures))
        await asyncio.sleep(0.01)
        gathering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathering
        assert all(future.cancelled() for future in futures)
        with pytest.raises(TimeoutError):
            await fleet.gather(held := fleet.submit(square, 1), timeout=0.01)
        assert held.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            await held

    asyncio.run(main())


def test_too_much_is_refused_and_room_is_waited_for(small: World) -> None:
    async def main() -> None:
        fleet = AsyncFleet(small.fleet)
        node = small.nodes[0]
        node.answers = lambda header: "hold"
        futures = []
        refused = []
        while len(futures) < 1000:
            # A batch that is changing hands counts twice, so that a few are refused early.
            try:
                futures.append(fleet.submit(square, 1))
            except NotAccepted as error:
                refused.append(error)
                small.do(int)  # the client's own thread has its turn
        with pytest.raises(NotAccepted, match="under way"):
            fleet.submit(square, 1)
        assert len(refused) < 500
        with pytest.raises(NotAccepted):
            await fleet.room()
        threading.Timer(0.01, fleet.cancel, [futures]).start()
        until = time.monotonic() + 60
        while True:
            try:
                await fleet.room()
                break
            except NotAccepted:
                assert time.monotonic() < until
        node.answers = lambda header: "run"
        assert await fleet.submit(square, 4) == 16

    asyncio.run(main())


def test_leaving_waits_or_cancels() -> None:
    async def main() -> None:
        world = World()
        async with AsyncFleet(world.fleet) as fleet:
            future = fleet.submit(square, 5)
        assert future.result(0) == 25
        world = World()
        world.nodes[0].answers = lambda header: "hold"
        with pytest.raises(KeyError):
            async with AsyncFleet(world.fleet) as fleet:
                held = fleet.submit(square, 5)
                raise KeyError
        assert held.cancelled()

    asyncio.run(main())
