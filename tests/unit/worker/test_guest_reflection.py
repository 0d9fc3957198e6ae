"""`reflect=` under a guest interpreter: each result is looked at where it was made, with nanoswarm installed there or not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import swarm
from swarm.client.chunks import chunk_route
from swarm.tasks import TaskOptions
from tests.unit.worker.driver import Driver

CAUSE = {"cause": "the sensor is stuck", "here": True, "wait_s": 0.0, "require": "", "ask": ""}
ROOT = Path(__file__).parents[3]


def looks(value: Any) -> Any:
    if value == 3:
        raise RuntimeError("a look that fails")
    return {17: "the sensor is stuck", 18: {"cause": "the sensor is stuck"}, 19: 7}.get(value)


def lessons(guest: Driver) -> list[Any]:
    found = [data for _, _, name, data in guest.events if name == "lesson"]
    guest.events.clear()
    return found


@pytest.fixture
def guest() -> Iterator[Driver]:
    looks.__module__ = "__main__"
    with Driver(python=sys.executable) as made:
        yield made


def test_what_is_said_of_a_result_is_a_lesson_and_the_result_stays(guest: Driver) -> None:
    @swarm.task(reflect=looks)
    def measures(value: int) -> int:
        return value

    @swarm.task(reflect=looks)
    async def waits(value: int) -> int:
        import asyncio

        await asyncio.sleep(0)
        return value

    for fn in (measures, waits):
        spec = guest.spec(fn)
        assert guest.values(spec, [(1,), (17,), (18,), (3,), (19,)]) == [1, 17, 18, 3, 19]
        assert lessons(guest) == [CAUSE, CAUSE], "what fails in the look, or is no lesson, changes nothing"


def test_in_a_transaction_too(guest: Driver, tmp_path: Path) -> None:
    @swarm.task(reflect=looks, transaction=str(tmp_path))
    def measures(value: int) -> int:
        return value

    assert guest.values(guest.spec(measures), [(17,), (1,)]) == [17, 1]
    assert lessons(guest) == [CAUSE]


def test_without_nanoswarm_there() -> None:
    script = """
import importlib.util, pickle, sys, types
sys.path.insert(0, "nodes/worker")
find, importlib.util.find_spec = importlib.util.find_spec, lambda name, *more: None if name == "swarm" else find(name, *more)
from guest import library, reflection
told = []
library.offer_swarm(types.SimpleNamespace(lesson=told.append, describe=lambda: None))
import swarm
def looks(value):
    return "stuck" if value == 17 else None
@swarm.task(reflect=looks)
def measures(value):
    return value
@swarm.task
def plain(value):
    return value
assert reflection.reflecting(plain) is plain
assert [reflection.reflecting(measures)(value) for value in (1, 17)] == [1, 17]
options = sys.modules["swarm.tasks"].TaskOptions()
options.__setstate__(["name", None, 3, (1.0, 2.0), looks])
assert options.reflect is looks
print([said["cause"] for said in told])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("['stuck']", 0), done.stderr


def test_calls_that_are_looked_at_are_not_put_together_for_guests() -> None:
    @swarm.task(reflect=looks)
    def measures(value: int) -> int:
        return value

    routes: Any = None
    assert chunk_route(routes, measures, TaskOptions(python="old")) == (None, False)
