"""What workers may leave behind when they end: directories of commands, and processes that are in nobody's group.

A worker is the subreaper of what its tasks start (prctl(2), PR_SET_CHILD_SUBREAPER), and the node that of its workers.
So what a task has started, in a session of its own even, is a child of its worker as long as that lives, and then a
child of the node: there it is ended. A task that is over or cancelled is over with all that it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

from nodes import locked_directory
from nodes.worker.process import adopt_orphans, children, kill_children

AGAIN_S = 0.05
"""What was killed has gone by then, and what it had started has come to us."""
CLOSE_MAX_S = 10.0
"""Until all that was killed is gone; see KILLED_MAX_S of the pool."""


class Leavings:
    """Clears up after the workers of one node.

    Args:
        directory: the node's own, for directories of commands; see `scratch_directory`.
        adopts: whether this process is the node's alone. Then every child of it that is no worker, and was not there at
            the beginning, is what a worker has left. Else only groups of processes are ended, by the pool.
    """

    def __init__(self, directory: Path, loop: asyncio.AbstractEventLoop, *, adopts: bool) -> None:
        self._directory = directory
        self._loop = loop
        self.adopts = adopts
        self._before = children() if adopts else set()
        self._again: asyncio.TimerHandle | None = None
        if adopts:
            adopt_orphans()

    def directory_of(self, worker: int) -> Path:
        """Where a worker makes directories of commands. It need not be there: without room callables still run."""
        directory = self._directory / str(worker)
        with contextlib.suppress(OSError):
            directory.mkdir(mode=0o700)
        return directory

    def ended(self, worker: int, alive: Callable[[], Iterable[int]]) -> None:
        """A worker is gone; `alive` gives the pids of those that are not."""
        directory = self._directory / str(worker)
        try:
            directory.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            # It was killed while it ran a command. There may be much in it: not in the loop's time.
            self._loop.run_in_executor(None, locked_directory.clear, directory)
        if self.adopts:
            self._sweep(alive)

    def close(self) -> None:
        """Remove all that is left. Every worker has ended. Blocks for a moment."""
        if self._again is not None:
            self._again.cancel()
        if self.adopts:
            kill_children(self._before, CLOSE_MAX_S)
        locked_directory.remove(self._directory)

    def _sweep(self, alive: Callable[[], Iterable[int]]) -> None:
        left = False
        for pid in children().difference(self._before, alive()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            left = True
        if left:
            if self._again is not None:
                self._again.cancel()
            self._again = self._loop.call_later(AGAIN_S, self._sweep, alive)


def scratch_directory(name: str) -> Path:
    """The place for directories of commands of a node: in TMPDIR, or /tmp. SystemRefused when there is no room."""
    parent = Path(os.environ.get("TMPDIR") or "/tmp") / f"swarm-tasks-{os.getuid()}"
    return locked_directory.make(parent, name)
