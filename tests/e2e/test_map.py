"""`map` on a real node: chunks, and what happens to the items of one."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import swarm
from swarm.client.sync import Fleet
from swarm.errors import RemoteTraceback, WorkerCrashed
from tests.e2e.fleets import Nodes, until


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path_factory.mktemp("m"))
    nodes.start("oak", "--workers", "2", "--modules", "math,operator")
    yield nodes
    assert nodes.stop_all() == {"oak": 0}


@pytest.fixture(scope="module")
def fleet(nodes: Nodes) -> Iterator[Fleet]:
    with nodes.connect("oak") as fleet:
        yield fleet


@pytest.mark.parametrize("chunksize", ["auto", 500, 5000])
@pytest.mark.parametrize("ordered", [True, False])
def test_many_quick_items(fleet: Fleet, chunksize: Any, ordered: bool) -> None:
    found = list(fleet.map(lambda x: 3 * x, range(30_000), chunksize=chunksize, ordered=ordered, timeout=60))
    assert (found if ordered else sorted(found)) == list(range(0, 90_000, 3))


@pytest.mark.parametrize("chunksize", ["auto", 100])
def test_callables_by_name_and_several_arguments(fleet: Fleet, chunksize: Any) -> None:
    assert list(fleet.map("math:sqrt", (x * x for x in range(500)), chunksize=chunksize)) == list(range(500))
    sums = fleet.map("operator:add", range(500), itertools.count(1), chunksize=chunksize)
    assert list(sums) == list(range(1, 1000, 2))


@pytest.mark.parametrize("chunksize", ["auto", 100])
def test_a_failure_is_that_of_its_item(fleet: Fleet, chunksize: Any) -> None:
    def inverse(x: int) -> float:
        return 1 / (x - 250)

    results = fleet.map(inverse, range(400), chunksize=chunksize)
    found = []
    with pytest.raises(ZeroDivisionError) as caught:
        for value in results:
            found.append(value)
    assert found == [1 / (x - 250) for x in range(250)]
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    text = str(caught.value.__cause__)
    assert "in inverse" in text and "(on oak, attempt 1)" in text and "chunks" not in text


@pytest.mark.parametrize("chunksize", ["auto", 40])
def test_a_crash_costs_the_items_of_its_chunk_another_run_and_nobody_else(
    fleet: Fleet, tmp_path: Path, chunksize: Any
) -> None:
    log = tmp_path / "log"

    def noted(x: int) -> int:
        with open(log, "a") as file:
            file.write(f"{x}\n")
        if x == 133:
            os._exit(3)
        time.sleep(0.0002)  # a chunk that took a millisecond is reported before the next one begins
        return x

    found = []
    with pytest.raises(WorkerCrashed):
        for value in fleet.map(noted, range(200), chunksize=chunksize, timeout=60):
            found.append(value)
    assert found == list(range(133))
    runs = Counter(int(line) for line in log.read_text().split())
    repeated = {x for x, count in runs.items() if count > 1}
    size = 40 if chunksize == 40 else 64
    assert 133 in repeated and all(133 - size < x < 133 + size for x in repeated), sorted(repeated)


def test_leaving_a_map_ends_the_chunks_that_run(fleet: Fleet, tmp_path: Path) -> None:
    def slow(x: int) -> None:
        (tmp_path / str(os.getpid())).touch()
        if x:
            time.sleep(600)

    results = fleet.map(slow, [0, 1] * 50, chunksize=2)
    until(lambda: len(list(tmp_path.iterdir())) == 2, 60)
    results.close()  # type: ignore[attr-defined]
    for path in tmp_path.iterdir():
        until(lambda pid=int(path.name): not Path(f"/proc/{pid}").exists(), 60)  # type: ignore[misc]
    assert list(fleet.map(abs, range(10), chunksize=5)) == list(range(10))


def test_a_time_limit_is_the_chunks_when_its_size_was_asked_for(fleet: Fleet) -> None:
    results = fleet.map(time.sleep, [0, 0, 60, 0], chunksize=2, timeout_s=3)
    assert [next(results), next(results)] == [None, None]
    with pytest.raises(swarm.TaskTimeout):
        next(results)


def test_coroutines(fleet: Fleet) -> None:
    async def nap(x: int) -> int:
        import asyncio

        await asyncio.sleep(0.01)
        return x

    assert list(fleet.map(nap, range(64), chunksize=32)) == list(range(64))
    assert list(fleet.map(lambda x: nap(x), range(8))) == list(range(8))


def test_an_executor_maps_in_chunks(nodes: Nodes) -> None:
    with swarm.Executor(home=nodes.home) as executor:
        assert sum(executor.map(abs, range(10_000), chunksize=1000)) == 49_995_000
        assert list(executor.map(pow, range(10), [2] * 10, chunksize=4)) == [x * x for x in range(10)]
        results = executor.map(lambda x: 1 // (x - 5), range(10), chunksize=4)
        with pytest.raises(ZeroDivisionError):
            assert list(itertools.islice(results, 5)) == [1 // (x - 5) for x in range(5)]
            next(results)
