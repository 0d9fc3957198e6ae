"""Workers to test: one home worker for a module's tests, since most of them do it no harm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.worker.driver import Driver

SAMPLES = """
import os, sys, swarm

def twice(x, plus=0):
    return 2 * x + plus

@swarm.task(retries=2)
def marked():
    task = swarm.current_task()
    return [task.id, list(task.token), task.attempt, task.name, task.node]

def urgency():
    return swarm.current_task().priority

class Outer:
    @staticmethod
    def inner():
        return "inner"

not_callable = 5
"""


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with modules that workers may import."""
    folder = tmp_path_factory.mktemp("samples")
    (folder / "sample_tasks.py").write_text(SAMPLES)
    (folder / "broken_tasks.py").write_text("import nowhere_to_be_found\n")
    return folder


@pytest.fixture(scope="module")
def _shared(samples: Path) -> Iterator[Driver]:
    with Driver(modules=["sample_tasks", "broken_tasks", "math", "os"], path=[str(samples)]) as driver:
        yield driver


@pytest.fixture
def worker(_shared: Driver) -> Driver:
    """A home worker that other tests have used before; what it said to them is forgotten."""
    _shared.events.clear()
    _shared.requests.clear()
    _shared.others.clear()
    _shared.on_event = lambda *event: None
    return _shared
