"""A lower share of the processors for workers that run LOW work, and the usual one again for others.

Beside what the slots are for: what else runs on the machine, its owner's work first of all, and urgent tasks that begin while LOW ones still
run, get most of a processor at once. How, as far as it can be taken back without privileges:

* The nice value of the *autogroup* of the worker's session (sched(7)), where the kernel groups processes by sessions, as desktops and most
  servers have it. Between sessions the nice value of a process counts for nothing then; that of a group may be raised and lowered
  again by its owner, once in a tenth of a second.
* The nice value of the worker's processes, where sessions are not grouped and the user may lower it again (`RLIMIT_NICE`, `CAP_SYS_NICE`).
* Else not at all: a process that stayed at a nice value would be a slow one for everybody after.
"""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path

LOW = 10
"""The nice value: about a tenth of the time of one that has 0."""
AGAIN_S = 0.12
"""The kernel takes one change of an autogroup in a tenth of a second from those without privileges."""
CAP_SYS_NICE = 23


def way(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> str:
    """How workers can be lowered and raised again on this machine: "autogroup", "nice", or "" where they can not."""
    if _text(proc / "sys/kernel/sched_autogroup_enabled").strip() == "1" and _in_root_group(proc, cgroups):
        return "autogroup"
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
    except (AttributeError, ValueError, OSError):
        return ""
    effective = next((line for line in _text(proc / "self/status").splitlines() if line.startswith("CapEff:")), "")
    privileged = bool(effective) and bool(int(effective.split()[1], 16) >> CAP_SYS_NICE & 1)
    return "nice" if privileged or limit == resource.RLIM_INFINITY or limit >= 20 - mine else ""


def _in_root_group(proc: Path, cgroups: Path) -> bool:
    """Whether processor time of ours is not accounted to a control group: else those count, and autogroups do not."""
    for line in _text(proc / "self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "cpu" in controllers.split(",") and path != "/":
            return False
        if number == "0" and path != "/" and "cpu" in _text(cgroups / "cgroup.subtree_control").split():
            return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


class Niceness:
    """Lowers and raises processes, each with its session; what the kernel does not take yet is tried again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, how: str | None = None) -> None:
        self.way = way() if how is None else how
        self._loop = loop
        self._wanted: dict[int, bool] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def told(self) -> str:
        """In a line, for people."""
        if self.way == "autogroup":
            return f"LOW work runs at nice {LOW}, by the autogroups of its sessions"
        if self.way == "nice":
            return f"LOW work runs at nice {LOW}"
        return "LOW work runs as any other: this user could not raise its processes again (RLIMIT_NICE is too low)"

    def set(self, pid: int, low: bool) -> None:
        """Lower the session that a process leads, or raise it again."""
        if self.way:
            self._wanted.pop(pid, None)
            self._wanted[pid] = low
            if self._timer is None:
                self._change()

    def close(self) -> None:
        """Change nothing any more."""
        self._wanted.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _change(self) -> None:
        self._timer = None
        # To be raised is more urgent than to be lowered.
        for pid, low in sorted(self._wanted.items(), key=lambda entry: entry[1]):
            try:
                self._write(pid, LOW if low else 0)
            except BlockingIOError:
                self._timer = self._loop.call_later(AGAIN_S, self._change)
                return
            except OSError:
                pass  # it has ended
            del self._wanted[pid]

    def _write(self, pid: int, nice: int) -> None:
        if self.way == "autogroup":
            with open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as file:
                file.write(str(nice))
        else:
            os.setpriority(os.PRIO_PGRP, pid, nice)
