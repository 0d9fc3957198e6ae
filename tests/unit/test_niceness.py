"""Lowering processes: how it can be done on a machine, and what is wanted last is what comes."""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path

import pytest

from nodes import niceness
from nodes.niceness import LOW, Niceness, way

PLAIN = "CapEff:\t0000000000000000\n"


def machine(root: Path, autogroups: str, cgroup: str, controllers: str = "", status: str = PLAIN) -> tuple[Path, Path]:
    proc, cgroups = root / "proc", root / "cgroup"
    for path, text in {
        proc / "sys/kernel/sched_autogroup_enabled": autogroups,
        proc / "self/cgroup": cgroup,
        proc / "self/status": status,
        cgroups / "cgroup.subtree_control": controllers,
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return proc, cgroups


@pytest.mark.parametrize(
    ("autogroups", "cgroup", "controllers", "expected"),
    [
        ("1\n", "0::/\n", "", "autogroup"),
        ("1\n", "0::/user.slice/me\n", "memory pids", "autogroup"),
        ("1\n", "1:cpu:/\n0::/\n", "", "autogroup"),
        ("0\n", "0::/\n", "", ""),
        ("1\n", "0::/system.slice/swarm.service\n", "cpu memory", ""),
        ("1\n", "2:cpu,cpuacct:/docker/1\n", "", ""),
    ],
)
def test_how_a_machine_lets_it_be_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autogroups: str, cgroup: str, controllers: str, expected: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (0, 0))
    assert way(*machine(tmp_path, autogroups, cgroup, controllers)) == expected


def test_nice_values_where_they_may_be_lowered_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpriority", lambda which, who: 0)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (19, 19))
    assert way(*machine(tmp_path / "1", "0", "0::/")) == ""
    monkeypatch.setattr(resource, "getrlimit", lambda what: (20, 20))
    assert way(*machine(tmp_path / "2", "0", "0::/")) == "nice"
    monkeypatch.setattr(resource, "getrlimit", lambda what: (0, 0))
    privileged = "CapEff:\t0000000000800000\n"
    assert way(*machine(tmp_path / "3", "0", "0::/", status=privileged)) == "nice"
    assert way(tmp_path / "nothing", tmp_path / "nothing") == "", "where there is no /proc nothing is lowered"


def test_what_the_kernel_does_not_take_yet_is_tried_again_and_the_last_word_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[tuple[int, int]] = []
    busy = [True]

    def write(self: Niceness, pid: int, nice: int) -> None:
        if pid == 3:
            raise ProcessLookupError
        if busy[0]:
            raise BlockingIOError
        written.append((pid, nice))

    monkeypatch.setattr(Niceness, "_write", write)
    monkeypatch.setattr(niceness, "AGAIN_S", 0.001)

    async def main() -> None:
        it = Niceness(asyncio.get_running_loop(), "autogroup")
        it.set(3, True)
        it.set(1, True)
        it.set(2, True)
        it.set(1, False)
        await asyncio.sleep(0.02)
        assert written == []
        busy[0] = False
        while len(written) < 2:
            await asyncio.sleep(0.001)
        assert written == [(1, 0), (2, LOW)], "who is raised goes first"
        it.set(2, False)
        assert written[-1] == (2, 0)
        it.close()
        Niceness(asyncio.get_running_loop(), "").set(1, True)
        assert len(written) == 3

    asyncio.run(main())
