"""Telling a death for lack of memory from others."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from nodes import oom
from nodes.oom import OutOfMemory, kills
from nodes.pool import Pool, PoolConfig


def test_the_count_of_the_kernel_is_read(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    assert kills(vmstat) == 0, "there is none"
    vmstat.write_text("nr_free_pages 7\noom_kill 29\nnr_zone 1\n")
    assert kills(vmstat) == 29
    vmstat.write_text("nr_free_pages 7\n")
    assert kills(vmstat) == 0


def test_one_that_was_counted_lately_is_new_and_one_of_before_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oom, "LOOK_EVERY_S", 0.02)
    counted = [29]

    async def goes() -> None:
        watch = OutOfMemory(asyncio.get_running_loop(), lambda: counted[0])
        assert not watch.killed()
        counted[0] = 30
        assert watch.killed()
        await asyncio.sleep(0.5)
        assert not watch.killed(), "that was long ago"
        watch.close()

    asyncio.run(goes())


class Handler:
    """Hears how workers ended."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.whys: asyncio.Queue[str] = asyncio.Queue()

    def worker_ready(self, worker: int, info: Any) -> None:
        self.ready.set()

    def worker_exited(self, worker: int, why: str) -> None:
        self.whys.put_nowait(why)

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


@pytest.mark.parametrize(("counts", "ours", "why"), [(1, False, ", out of memory"), (0, False, ""), (1, True, "")])
def test_a_worker_that_the_kernel_has_ended_says_so(
    counts: int, ours: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = [29]
    monkeypatch.setattr("nodes.pool.OutOfMemory", lambda loop: OutOfMemory(loop, lambda: counted[0]))

    async def goes() -> str:
        handler = Handler()
        pool = Pool(PoolConfig(environment=os.environ), handler, asyncio.get_running_loop())
        pool.start(1, "")
        await asyncio.wait_for(handler.ready.wait(), 30)
        counted[0] += counts
        if ours:
            pool.stop(1, "kill")
        else:
            os.kill(pool.pids()[1], signal.SIGKILL)
        said = await asyncio.wait_for(handler.whys.get(), 30)
        pool.kill_all()
        return said

    assert asyncio.run(goes()) == f"signal 9{why}"
