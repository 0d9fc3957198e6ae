"""`swarm.Executor` where there is no fleet: it starts a node for itself, and takes it away again."""

from __future__ import annotations

import concurrent.futures
import os
import time
from pathlib import Path

import pytest

import swarm
from swarm.paths import Home
from tests.e2e.fleets import until


def _fails() -> None:
    raise LookupError("there")


def test_an_executor_keeps_the_rules_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_HOME", str(tmp_path / "none"))
    with swarm.Executor(max_workers=2) as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        assert executor.submit(pow, 2, 10).result(60) == 1024
        assert executor.submit(dict, name=1).result(60) == {"name": 1}
        assert list(executor.map(abs, range(-50, 0), chunksize=8)) == list(range(50, 0, -1))
        with pytest.raises(LookupError):
            executor.submit(_fails).result(60)
        with pytest.raises(concurrent.futures.TimeoutError):
            list(executor.map(time.sleep, [10], timeout=0.2))
        called: list[int] = []
        future = executor.submit(abs, -3)
        future.add_done_callback(lambda done: called.append(done.result()))
        until(lambda: called == [3], 60, "it is called, soon after the future is done")
        node = int(executor.submit(os.getppid).result(60))
        last = executor.submit(time.sleep, 0.2)
    assert last.done(), "shutdown waits"
    with pytest.raises(RuntimeError):
        executor.submit(abs, 1)
    assert not Path(f"/proc/{node}").exists()


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError):
        swarm.Executor(max_workers=0)


def test_no_fleet_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(swarm.FleetNotFound) as caught:
        swarm.connect(Home.resolve({"SWARM_HOME": str(tmp_path)}), timeout_s=0.2)
    assert "swarm node" in caught.value.hint
