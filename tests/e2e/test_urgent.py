"""Urgent work on real nodes whose slots are all taken: it begins at once, what it displaced stands still and goes on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nodes.niceness import way
from swarm import CRITICAL, HIGH, LOW
from swarm.client.futures import Future
from swarm.client.sync import Fleet
from tests.e2e.fleets import Nodes, until


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path / "w", settings={"SWARM_LEDGER_ENABLED": "false", "SWARM_HTTP_ENABLED": "false"})
    yield nodes
    assert set(nodes.stop_all().values()) <= {0}


def counts(stop: str, pid: str) -> tuple[int, int]:
    """Counts until a file is there; in steps whose sum is known, so that a lost one shows."""
    Path(pid).write_text(str(os.getpid()))
    steps = total = 0
    while not os.path.exists(stop):
        steps += 1
        total += steps
    return steps, total


def holds(until_there: str) -> str:
    """Waits for a file."""
    while not os.path.exists(until_there):
        time.sleep(0.005)
    return "held"


def low_work(fleet: Fleet, slots: int, there: Path) -> tuple[list[Future], list[psutil.Process]]:
    """Takes all slots with tasks that compute; those, and their processes once they run."""
    pids = [there / f"pid{number}" for number in range(slots)]
    futures = [fleet.submit(counts, str(there / "stop"), str(pid), priority=LOW) for pid in pids]
    until(lambda: all(pid.exists() and pid.read_text() for pid in pids), 60, "all run")
    return futures, [psutil.Process(int(pid.read_text())) for pid in pids]


def standing(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.status() == psutil.STATUS_STOPPED]


def test_what_is_displaced_uses_no_processor_and_ends_as_if_nothing_had_been(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("oak", "--workers", "2")
    with nodes.connect("oak") as fleet:
        futures, processes = low_work(fleet, 2, tmp_path)
        assert not standing(processes)
        urgent = fleet.submit(holds, str(tmp_path / "go"), priority=CRITICAL)
        until(lambda: len(standing(processes)) == 1, 60, "one makes way")
        (stopped,) = standing(processes)
        before = stopped.cpu_times()
        time.sleep(0.5)
        assert stopped.cpu_times()[:2] == before[:2] and not urgent.done()
        index = processes.index(stopped)
        lines = nodes.cli("task", "explain", futures[index].id).stdout.decode()
        assert "suspended on oak" in lines and "holds" in lines and "is more urgent" in lines, lines
        assert json.loads(nodes.cli("task", "show", "--json", futures[index].id).stdout)["state"] == "suspended"
        (tmp_path / "go").touch()
        assert urgent.result(60) == "held"
        until(lambda: not standing(processes), 60, "it goes on")
        (tmp_path / "stop").touch()
        for future in futures:
            steps, total = future.result(60)
            assert total == steps * (steps + 1) // 2
        lines = nodes.cli("task", "explain", futures[index].id).stdout.decode()
        stood = re.search(r"resumed on oak\n *it stood still for ([0-9.]+) s", lines)
        assert stood is not None and float(stood[1]) >= 0.5, lines
        assert all(one.is_running() for one in processes), "nobody was killed"


def test_a_command_stands_still_with_all_its_processes(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        forever = f"while [ ! -e {tmp_path}/stop ]; do :; done"
        loop = f"echo $$ >{tmp_path}/sh; ({forever}) & setsid sh -c '{forever}' & wait; echo over"
        low = fleet.submit_command(["sh", "-c", loop], priority=LOW)
        until(lambda: (tmp_path / "sh").exists() and (tmp_path / "sh").read_text().strip(), 60)
        shell = psutil.Process(int((tmp_path / "sh").read_text()))
        until(lambda: len({os.getsid(one.pid) for one in shell.children()}) == 2, 60, "one is in a session of its own")
        urgent = fleet.submit(holds, str(tmp_path / "go"), priority=HIGH)
        family = [shell, *shell.children(recursive=True)]
        until(lambda: len(standing(family)) == len(family) > 2, 60, "all of it stands still")
        (tmp_path / "go").touch()
        assert urgent.result(60) == "held"
        until(lambda: not standing(family), 60)
        (tmp_path / "stop").touch()
        assert low.result(60)["exit"] == 0


def test_it_begins_on_another_node_when_that_is_where_the_slots_are(nodes: Nodes, tmp_path: Path) -> None:
    for name in ("oak", "elm"):
        nodes.start(name, "--workers", "1")
    with nodes.connect("oak") as fleet:
        until(lambda: sum(one["state"] == "alive" for one in fleet.members()) == 2, 60)
        futures, processes = low_work(fleet, 2, tmp_path)
        urgent = [fleet.submit(holds, str(tmp_path / "go"), priority=CRITICAL) for _ in range(2)]
        assert len({one.ppid() for one in processes}) == 2, "a slot on each node"
        until(lambda: len(standing(processes)) == 2, 60, "both make way")
        shown = {"critical": {"running": 1, "suspended": 0}, "low": {"running": 0, "suspended": 1}}
        until(lambda: [one["classes"] for one in fleet.members()] == [shown] * 2, 60, "each node tells its classes")
        classes = "1 critical, 0 low (1 suspended)"
        until(lambda: nodes.cli("status").stdout.decode().count(classes) == 2, 60, "whichever node is asked")
        (tmp_path / "go").touch()
        assert [one.result(60) for one in urgent] == ["held"] * 2
        (tmp_path / "stop").touch()
        assert all(total == steps * (steps + 1) // 2 for steps, total in (one.result(60) for one in futures))


def test_a_node_that_ends_leaves_nobody_standing(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("oak", "--workers", "1")
    with contextlib.suppress(Exception), nodes.connect("oak") as fleet:
        _, processes = low_work(fleet, 1, tmp_path)
        fleet.submit(holds, str(tmp_path / "go"), priority=CRITICAL)
        until(lambda: standing(processes), 60)
        killer = threading.Thread(target=nodes.kill, args=("oak",))
        killer.start()
        killer.join()
        raise RuntimeError("enough")
    until(lambda: not any(one.is_running() for one in processes), 60, "its workers ended with it")


async def steps(stop: str, pid: str, at: str) -> int:
    """Steps of some milliseconds, each from one await to the next; "in" and "out" tell where it is."""
    import asyncio

    Path(pid).write_text(str(os.getpid()))
    count = 0
    with open(at, "wb", buffering=0) as file:
        while not os.path.exists(stop):
            os.pwrite(file.fileno(), b"in ", 0)
            time.sleep(0.02)
            count += 1
            os.pwrite(file.fileno(), b"out", 0)
            await asyncio.sleep(0)
    return count


async def stays(stop: str, pid: str) -> str:
    """Awaits nothing."""
    Path(pid).write_text(str(os.getpid()))
    while not os.path.exists(stop):
        pass
    return "over"


def test_coroutines_stand_still_between_two_steps_and_one_that_awaits_nothing_where_it_is(tmp_path: Path) -> None:
    for hold_s, low, told in (("30", steps, b"out"), ("0.05", stays, b"")):
        here = tmp_path / told.decode()
        here.mkdir(exist_ok=True)
        nodes = Nodes(here / "w", settings={"SWARM_LEDGER_ENABLED": "false", "SWARM_HOLD_S": hold_s})
        nodes.start("oak", "--workers", "1")
        with nodes.connect("oak") as fleet:
            more = [str(here / "at")] if told else []
            future = fleet.submit(low, str(here / "stop"), str(here / "pid"), *more, priority=LOW)
            until(lambda here=here: (here / "pid").exists() and (here / "pid").read_text(), 60)
            process = psutil.Process(int((here / "pid").read_text()))
            for turn in range(3):
                urgent = fleet.submit(holds, str(here / f"go{turn}"), priority=CRITICAL)
                until(lambda process=process: standing([process]), 60, "it makes way")
                if told:
                    assert (here / "at").read_bytes() == told, "nothing is cut in the middle"
                (here / f"go{turn}").touch()
                assert urgent.result(60) == "held"
                until(lambda process=process: not standing([process]), 60, "it goes on")
            (here / "stop").touch()
            assert future.result(60)
        assert nodes.stop_all() == {"oak": 0}


def niceness_of(pid: int, way: str) -> int:
    """The nice value that counts for a process."""
    if way == "autogroup":
        return int(Path(f"/proc/{pid}/autogroup").read_text().split()[-1])
    return os.getpriority(os.PRIO_PROCESS, pid)


def test_low_work_runs_at_a_lower_share_and_what_comes_after_it_does_not(nodes: Nodes, tmp_path: Path) -> None:
    how = way()
    if not how:
        pytest.skip("on this machine a process that was lowered can not be raised again")
    nodes.start("oak", "--workers", "2")
    with nodes.connect("oak") as fleet:
        assert "nice 10" in fleet.query("status")["node"]["low_work"]
        futures, processes = low_work(fleet, 2, tmp_path)
        until(lambda: all(niceness_of(one.pid, how) == 10 for one in processes), 60, "they are lowered")
        (tmp_path / "stop").touch()
        assert all(one.result(60) for one in futures)
        lowered = {one.pid for one in processes}
        assert fleet.submit(os.getpid, priority=LOW).result(60) in lowered, "LOW work goes where it is low already"
        files = [tmp_path / f"usual{number}" for number in range(2)]
        usual = [fleet.submit(counts, str(tmp_path / "end"), str(file)) for file in files]
        until(lambda: all(file.exists() and file.read_text() for file in files), 60, "both run")
        pids = {int(file.read_text()) for file in files}
        assert pids & lowered, "there is one process more at most"
        until(lambda: all(niceness_of(pid, how) == 0 for pid in pids), 60, "and raised for what is not LOW")
        (tmp_path / "end").touch()
        assert all(one.result(60) for one in usual)
        loop = f"echo $$ >{tmp_path}/sh; while [ ! -e {tmp_path}/over ]; do sleep 0.05; done"
        command = fleet.submit_command(["sh", "-c", loop], priority=LOW)
        until(lambda: (tmp_path / "sh").exists() and (tmp_path / "sh").read_text().strip(), 60)
        until(lambda: niceness_of(int((tmp_path / "sh").read_text()), how) == 10, 60, "commands as well")
        (tmp_path / "over").touch()
        assert command.result(60)["exit"] == 0


def classes(deeper: int) -> list[int]:
    """The classes of this task and of those below it."""
    import swarm

    current = swarm.current_task()
    assert current is not None
    if not deeper:
        return [current.priority]
    with swarm.connect(timeout_s=60) as fleet:
        given = {"priority": LOW} if deeper == 1 else {}
        return [current.priority, *fleet.submit(classes, deeper - 1, **given).result(60)]


def test_what_a_task_submits_is_as_urgent_as_itself(nodes: Nodes) -> None:
    nodes.start("oak", "--workers", "1", "--executor", f"other={sys.executable}")
    with nodes.connect("oak") as fleet:
        assert fleet.submit(classes, 2, priority=CRITICAL).result(60) == [CRITICAL, CRITICAL, LOW], (
            "unless it says otherwise"
        )
        assert fleet.submit(classes, 0).result(60) == [1]
        assert fleet.submit(classes, 0, priority=HIGH, python="other").result(60) == [HIGH]
