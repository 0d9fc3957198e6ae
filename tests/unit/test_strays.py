"""Processes of a suspended task that are in sessions of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nodes.strays import AGAIN_S, Strays, descendants

pytestmark = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="this kernel lists no children"
)

FAMILY = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
near = subprocess.Popen(sleep)
far = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], start_new_session=True, stdout=subprocess.PIPE)
halted = subprocess.Popen(sleep, start_new_session=True)
print(near.pid, far.pid, int(far.stdout.readline()), halted.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def family() -> Iterator[list[int]]:
    """A worker; its child in its group, one in a session of its own, a child of that, and one that is stopped already."""
    worker = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, start_new_session=True)
    assert worker.stdout is not None
    pids = [worker.pid, *map(int, worker.stdout.readline().split())]
    os.kill(pids[4], signal.SIGSTOP)
    until(lambda: stands(pids[4]))
    yield pids
    for pid in reversed(pids):
        os.kill(pid, signal.SIGKILL)
    worker.wait()
    worker.stdout.close()


def stands(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def until(done: object) -> None:
    limit = time.monotonic() + 30
    while not done():  # type: ignore[operator]
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_all_that_descends_is_found(family: list[int]) -> None:
    assert sorted(descendants(family[0])) == sorted(family[1:])
    assert descendants(2**22 + 1) == []


def test_what_is_in_other_groups_is_stopped_and_goes_on_but_for_what_stood_before(family: list[int]) -> None:
    worker, near, far, under, halted = family
    loop = asyncio.new_event_loop()
    strays = Strays(loop)
    strays.stop(7, worker, (worker,))
    until(lambda: stands(far) and stands(under))
    assert not stands(near), "its group was stopped by others"
    strays.go_on(7)
    until(lambda: not stands(far) and not stands(under))
    assert stands(halted), "it was stopped by somebody else"
    strays.go_on(7)
    loop.close()


def test_what_was_just_being_started_is_found_a_little_later(family: list[int]) -> None:
    worker, _, far, _, _ = family
    loop = asyncio.new_event_loop()
    strays = Strays(loop)
    strays.stop(7, worker, (worker,))
    os.kill(far, signal.SIGCONT)  # as if it had not been there yet
    until(lambda: not stands(far))
    limit = time.monotonic() + 30
    while not stands(far):  # what is told to stop does so when it has its turn
        assert time.monotonic() < limit
        loop.run_until_complete(asyncio.sleep(AGAIN_S))
    strays.close()
    assert stands(far), "who ends a worker ends it, too"
    loop.close()
