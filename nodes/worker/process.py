"""What a worker asks of the operating system: to die with its node, and to take its children along."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_prctl: Callable[..., int] | None = None
if sys.platform == "linux":
    _prctl = ctypes.CDLL(None, use_errno=True).prctl


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send us a signal when the parent ends (prctl(2), PR_SET_PDEATHSIG); 0 takes that back.

    Where there is no prctl a worker notices by the end of its channel, at its next frame.
    """
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (PR_SET_CHILD_SUBREAPER), so that they can be found."""
    if _prctl is not None:
        _prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)


def children() -> set[int]:
    """Pids of our children, ended ones not yet waited for included; empty where there is no /proc."""
    me = str(os.getpid()).encode()
    found = set()
    try:
        names = os.listdir("/proc")
    except OSError:
        return set()
    for name in names:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                    stat = file.read(512)
            except OSError:
                continue
            # the name of the program is in brackets and may hold anything; the state and the parent follow it
            if stat.rpartition(b")")[2].split()[1] == me:
                found.add(int(name))
    return found


def kill_children(spare: frozenset[int] | set[int] = frozenset(), limit_s: float = 5.0) -> int:
    """Kill and reap all children but `spare`, and those that their end leaves to us. Returns how many were reaped.

    Gives up after `limit_s` (a process in uninterruptible sleep dies when the kernel lets it).
    """
    reaped = 0
    until = time.monotonic() + limit_s
    while victims := children() - spare:
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for pid in victims:
            while time.monotonic() < until:
                try:
                    done, _ = os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    done = pid
                if done:
                    reaped += 1
                    break
                time.sleep(0.002)
        if time.monotonic() >= until:
            break
    return reaped


def kill_group_and_children() -> None:
    """Kill what this worker started, and if it leads its process group, everything in that: itself, too."""
    kill_children(limit_s=1.0)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
