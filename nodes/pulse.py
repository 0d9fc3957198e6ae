"""The pulse of a node: whether its event loop turns, and how late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

WATCHDOG_TICK_S = 0.5
LAG_UNHEALTHY_S = 5.0


class Pulse:
    """Beats for as long as the loop turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lag_s = 0.0
        self.alive: Callable[[], None] = lambda: None
        """Told that the loop turns. Set by who has a service manager to tell."""

    def beat(self) -> None:
        """Begin, or go on."""
        at = self._loop.time() + WATCHDOG_TICK_S
        self._loop.call_at(at, self._beaten, at)

    def _beaten(self, due: float) -> None:
        self._lag_s = max(0.0, self._loop.time() - due)
        if self._lag_s < LAG_UNHEALTHY_S:
            self.alive()
        self.beat()

    def health(self) -> Any:
        """Whether the loop turns."""
        from nodes.http import Condition

        facts = (("lag_s", round(self._lag_s, 3)),)
        return Condition(
            self._lag_s < LAG_UNHEALTHY_S, "" if self._lag_s < LAG_UNHEALTHY_S else "the loop is late", facts
        )
