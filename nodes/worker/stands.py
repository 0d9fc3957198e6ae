"""Tasks that say themselves where they may stand still: between two passes of a population, say, and not in the middle of one."""

from __future__ import annotations

import threading
import time

from nodes.worker.channel import HELD, HELD_ON, HOLDABLE, Channel

LOOK_EVERY_S = 0.001
"""How often a task that computes looks whether the node has said anything: each time costs a system call."""


class Stands:
    """The place where the task that runs stands still, for the worker's main thread."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._main = threading.get_ident()
        self._held = 0
        """The order under which it stands still; 0: none."""
        self._look_at_s = 0.0

    def hold(self, order: int) -> None:
        """Stand still at the next place; 0: go on."""
        self._held = order

    def places(self, begins: bool) -> None:
        """The running task begins, or ends, to call `stand` now and then."""
        if threading.get_ident() == self._main:
            self._channel.send(HOLDABLE, flags=HELD_ON if begins else 0)

    def stand(self) -> float:
        """Stand still for as long as the node wants it; for how many seconds that was. ChannelClosed when the node goes away."""
        now_s = time.monotonic()
        if now_s < self._look_at_s or threading.get_ident() != self._main:
            return 0.0
        self._look_at_s = now_s + LOOK_EVERY_S
        self._channel.drain()
        if not self._held:
            return 0.0
        told = 0
        while self._held:
            if told != self._held:
                told = self._held
                self._channel.send(HELD, run=told)
            self._channel.pump()
        return time.monotonic() - now_s
