"""When a node looks for garbage in cycles: among what is young as always, among all that it holds only when it has time.

Python's collector walks everything that was ever kept whenever a quarter as much has come since, in one go and with the loop standing
still. A node that holds some ten thousand outcomes was seen to stand for 30 to 75 ms so, with a CRITICAL task at its door. Nearly all
that it holds goes when nobody refers to it any more, without a collector. So what has lived for a while is set aside once a second
(`gc.freeze`), at the price of what came in that second, and the whole is walked when nothing is under way, or when what is set aside
has become twice as much since that was done last: garbage in cycles is bounded by that, and a node that holds the same all the time
never stands still for it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable

EVERY_S = 1.0
IDLE_S = 5.0
"""With nothing under way for so long, all is walked, once until there is work again."""
BLOCKS_MIN = 1_000_000
"""Blocks of memory below which nothing is walked before the node is idle: about what it has when it starts, twice over."""
NEVER = 1 << 30
YOUNG = 2_000
"""Objects that are made, beyond those that go, before the youngest are looked at."""


class Garbage:
    """The collector of this process, in the hands of a node; `idle` says whether nothing is under way."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        idle: Callable[[], bool],
        blocks: Callable[[], int] = sys.getallocatedblocks,
        collect: Callable[[int], int] = gc.collect,
    ) -> None:
        self._loop = loop
        self._idle = idle
        self._blocks = blocks
        self._collect = collect
        self._before = gc.get_threshold()
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since: float | None = None
        self._walked_blocks = 0
        self._changed = False
        """Whether there was work since all was walked."""

    def start(self) -> None:
        """From now on it is looked for here. What the process has by now is set aside."""
        gc.set_threshold(YOUNG, self._before[1], NEVER)
        self._walk()
        self._timer = self._loop.call_later(EVERY_S, self._look)

    def close(self) -> None:
        """As it was before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            gc.unfreeze()
            gc.set_threshold(*self._before)

    def _look(self) -> None:
        now = self._loop.time()
        self._timer = self._loop.call_later(EVERY_S, self._look)
        if not self._idle():
            self._idle_since, self._changed = None, True
            if self._blocks() > max(BLOCKS_MIN, 2 * self._walked_blocks):
                self._walk()
            else:
                self._collect(1)
                gc.freeze()
        elif self._idle_since is None:
            self._idle_since = now
        elif self._changed and now - self._idle_since >= IDLE_S:
            self._walk()

    def _walk(self) -> None:
        gc.unfreeze()
        self._collect(2)
        gc.freeze()
        self._walked_blocks, self._changed = self._blocks(), False
