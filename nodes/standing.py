"""What stands still on a node: looked at every second, for its memory, and for whether its owners still count on this node."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from swarm.protocol.execution import Execution
from transport.links import Link

LOOK_EVERY_S = 1.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Memory(Protocol):
    """Who knows what workers keep in memory: `nodes.pool.Pool`."""

    def memory(self, workers: Collection[int]) -> Mapping[int, int]: ...


class Standing:
    """Looks as long as something stands still."""

    def __init__(
        self,
        me: bytes,
        execution: Execution,
        pool: Callable[[], Memory],
        links: Mapping[bytes, Link],
        ask: Callable[[Link, str, Mapping[str, Any], Callable[[Any, Any], None]], None],
        turn: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
    ) -> None:
        self._me = me
        self._execution = execution
        self._pool = pool
        self._links = links
        self._ask = ask
        self._turn = turn
        self._loop = loop
        self._now = now
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Something may have been suspended."""
        if self._timer is None and self._execution.suspended:
            self._execution.leases.looked(self._now())
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        now, execution = self._now(), self._execution
        standing = execution.standing()
        if not standing:
            execution.leases.rest()
            return
        if execution.leases.looked(now):
            for owner in sorted({owner for owners in standing.values() for owner in owners} - {self._me}):
                execution.leases.unsure(owner)
        for owner in execution.leases.doubted():
            link = self._links.get(owner)
            if link is not None and link.up:
                self._ask(link, "dispatches", {}, self._answered(owner, link))
        execution.suspended_memory(now, self._pool().memory(standing))
        self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
        self._turn()

    def _answered(self, owner: bytes, link: Link) -> Callable[[Any, Any], None]:
        def done(value: Any, error: Any) -> None:
            # Over the link that there was before: whatever it took back meanwhile was said before this answer.
            if error is None and self._links.get(owner) is link and link.up:
                self._execution.leases.renewed(owner)
                self._execution.go_on(self._now())
                self._turn()

        return done


def resident_bytes(groups: Collection[int]) -> dict[int, int]:
    """What the processes of each group have in memory for themselves, by /proc/PID/statm; empty where there is none.

    Pages of files and of shared memory are not counted: they are others', too, or are written back when they are wanted.
    """
    found: dict[int, int] = dict.fromkeys(groups, 0)
    try:
        names = os.listdir("/proc")
    except OSError:
        return {}
    for name in names:
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                group = int(file.read(512).rpartition(b")")[2].split()[2])
            if group not in found:
                continue
            with open(f"/proc/{name}/statm", "rb", buffering=0) as file:
                words = file.read(128).split()
        except (OSError, ValueError, IndexError):
            continue  # it has just ended
        found[group] += (int(words[1]) - int(words[2])) * PAGE_BYTES
    return found
