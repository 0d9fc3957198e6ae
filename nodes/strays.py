"""Processes of a suspended task that are in none of its process groups: what it started in sessions of their own (setsid(2)).

A worker is the subreaper of what its tasks start (`nodes.worker.process`), so whatever that is, it descends from the worker, and is found by
the list of children that the kernel keeps of each thread (proc_pid_task(5)). Each is stopped through a descriptor of its own (pidfd_open(2)),
and so only what was stopped here goes on later, whoever has its number by then.

The freezer of control groups would do the same where a node may make groups. But moving a worker into one took 12 to 24 ms here
(Linux 6.18), and it took 4 to 12 ms until what was frozen stood still, against 30 us for a signal: more than an urgent task may wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection

AGAIN_S = 0.05
"""What was being started while it was looked for is there by then."""
PROCESSES_MAX = 10_000
"""Of one worker; a descriptor each is open while it stands still, so no more are stopped than fit, either."""


def descendants(pid: int) -> list[int]:
    """Pids of all that descend from a process, those it started first; empty where the kernel does not list them."""
    found: list[int] = []
    ahead = [pid]
    while ahead and len(found) < PROCESSES_MAX:
        parent = ahead.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue  # it has just ended, or there is no /proc
        for thread in threads:
            try:
                with open(f"/proc/{parent}/task/{thread}/children", "rb", buffering=0) as file:
                    children = [int(word) for word in file.readall().split()]
            except (OSError, ValueError):
                continue
            found += children
            ahead += children
    return found


def _standing(pid: int) -> tuple[int, bool] | None:
    """Its process group, and whether it stands still or has ended; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            state, _, group = file.read(512).rpartition(b")")[2].split()[:3]
    except (OSError, ValueError):
        return None
    return int(group), state in (b"T", b"t", b"Z", b"X")


class Strays:
    """Stops them beside their worker, and lets them go on with it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._stopped: dict[int, list[int]] = {}
        """Descriptors of what stands still, by worker number."""
        self._again: dict[int, asyncio.TimerHandle] = {}

    def stop(self, worker: int, pid: int, groups: Collection[int]) -> None:
        """A worker and these process groups of it were stopped: stop what else descends from it."""
        if not hasattr(signal, "pidfd_send_signal"):
            return
        self._stopped.setdefault(worker, [])
        timer = self._again.pop(worker, None)
        if timer is not None:
            timer.cancel()
        self._look(worker, pid, frozenset(groups))
        self._again[worker] = self._loop.call_later(AGAIN_S, self._look_again, worker, pid, frozenset(groups))

    def go_on(self, worker: int) -> None:
        """Let what was stopped go on."""
        for fd in self._forget(worker):
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(fd, signal.SIGCONT)
            os.close(fd)

    def ended(self, worker: int) -> None:
        """The worker is gone; what descends from it is ended by others."""
        for fd in self._forget(worker):
            os.close(fd)

    def close(self) -> None:
        """Forget all."""
        for worker in list(self._stopped):
            self.ended(worker)

    def _forget(self, worker: int) -> list[int]:
        timer = self._again.pop(worker, None)
        if timer is not None:
            timer.cancel()
        return self._stopped.pop(worker, [])

    def _look_again(self, worker: int, pid: int, groups: frozenset[int]) -> None:
        self._again.pop(worker, None)
        self._look(worker, pid, groups)

    def _look(self, worker: int, pid: int, groups: frozenset[int]) -> None:
        new = True
        while new:
            # What was stopped starts nothing any more, so this comes to an end.
            new = False
            for stray in descendants(pid):
                is_there = _standing(stray)
                if is_there is None or is_there[1] or is_there[0] in groups:
                    continue
                try:
                    fd = os.pidfd_open(stray)
                except OSError:
                    continue
                try:
                    signal.pidfd_send_signal(fd, signal.SIGSTOP)
                except OSError:
                    os.close(fd)
                    continue
                self._stopped[worker].append(fd)
                new = True
