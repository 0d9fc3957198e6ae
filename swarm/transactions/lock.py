"""The lock of a directory: one transaction at a time, whichever process it is in (flock(2))."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time

from .disk import PRIVATE
from .errors import TransactionBusy, TransactionError

LOOK_EVERY_S = 0.02
_ABOUT_BYTES_MAX = 1000


class Lock:
    """The lock of one directory, from `take` until `release`."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._path = os.path.join(root, PRIVATE, "lock")
        self._fd = -1

    def take(self, timeout_s: float | None, task: str) -> None:
        """Wait for it. TransactionBusy when that takes longer than `timeout_s` (None: as long as it takes)."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._try(task):
            self._give_up_after(until, timeout_s)
            time.sleep(LOOK_EVERY_S)

    async def take_async(self, timeout_s: float | None, task: str) -> None:
        """As `take`; other coroutines run meanwhile."""
        import asyncio

        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._try(task):
            self._give_up_after(until, timeout_s)
            await asyncio.sleep(LOOK_EVERY_S)

    def release(self) -> None:
        """Let the next one in."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _try(self, task: str) -> bool:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise TransactionError(
                f"{self.root} cannot be locked: {error.strerror or error}",
                hint="transactions need a filesystem with flock(2)",
            ) from error
        about = json.dumps({"pid": os.getpid(), "host": socket.gethostname()[:200], "task": task}).encode()
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, about, 0)
        except OSError:
            pass  # only who is told to wait would read it
        return True

    def _give_up_after(self, until: float | None, timeout_s: float | None) -> None:
        if until is None or time.monotonic() < until:
            return
        try:
            about = json.loads(os.pread(self._fd, _ABOUT_BYTES_MAX, 0))
            who = f"process {about['pid']} on {about['host']}" + (f", task {about['task']}" if about["task"] else "")
        except (ValueError, KeyError, TypeError):
            who = "another process"
        self.release()
        raise TransactionBusy(
            f"another transaction is open on {self.root}, by {who}; waited {timeout_s:g} s",
            hint="wait longer (timeout_s), or look what that process does",
            directory=self.root,
        )
