"""Whether the kernel has ended processes of this machine since it ran out of memory: it tells nobody why a process is gone (signal 9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

LOOK_EVERY_S = 2.0
VMSTAT = Path("/proc/vmstat")


def kills(vmstat: Path = VMSTAT) -> int:
    """How many it has ended since it began (``oom_kill`` of proc_vmstat(5)); 0 where it does not say."""
    try:
        lines = vmstat.read_bytes().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(b"oom_kill ")), 0)


class OutOfMemory:
    """Looks now and then, so that a death by signal 9 can be told from others: one was counted within the last `LOOK_EVERY_S` seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, count: Callable[[], int] = kills) -> None:
        self._loop = loop
        self._count = count
        self._seen = self._before = count()
        self._timer = loop.call_later(LOOK_EVERY_S, self._look)

    def killed(self) -> bool:
        """Whether it has ended some process just now."""
        return self._count() > self._before

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        # What was counted just before this look is still new for one round.
        self._before, self._seen = self._seen, self._count()
        self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
