"""What is asked for while the log that has it is between two leaders: it is looked for again until there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from nodes.fabric import boottime_s
from swarm.errors import NoQuorum, NotFound

WAIT_S = 5.0
"""So long for others to elect one: it takes a second or two when the last one is gone."""
LOOK_EVERY_S = 0.2

T = TypeVar("T")


class Logs(Protocol):
    """The logs that a node keeps a copy of (`nodes.ledger.LedgerShell`)."""

    def unled(self) -> int: ...


async def sought(logs: Logs | None, look: Callable[[], Awaitable[T | None]], missing: NotFound) -> T:
    """What `look` finds. Where that is nothing: `missing`, or NoQuorum as long as a log that may have it has no leader who could tell."""
    ends = boottime_s() + WAIT_S
    while True:
        # Counted before, too: who is elected while others are asked may not have been asked. And after, since one may end meanwhile.
        unled = 0 if logs is None else logs.unled()
        found = await look()
        if found is not None:
            return found
        unled = unled or (0 if logs is None else logs.unled())
        if not unled:
            raise missing
        if boottime_s() >= ends:
            raise NoQuorum(
                f"{missing.message}, and who leads {unled} of the logs that this node keeps is not known at the moment",
                hint="ask again in a few seconds; swarm status shows who is missing",
            )
        await asyncio.sleep(LOOK_EVERY_S)
