"""A simulated process: its clock, and what of an event loop the node's shell uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.sim.simulator import Simulator


class Handle:
    """A call that is due at some instant; the twin of `asyncio.TimerHandle`."""

    __slots__ = ("args", "callback", "cancelled", "host")

    def __init__(self, host: Host, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.host = host
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        """Not to be called any more."""
        self.cancelled = True

    def __call__(self) -> None:
        host = self.host
        if self.cancelled or not host.alive:
            return
        if host.paused:
            host.late.append(self)
        else:
            self.callback(*self.args)


class Host:
    """One life of one process at a place of the network. While it is paused, what is due waits, in order."""

    def __init__(self, sim: Simulator, place: Any, offset: float = 0.0) -> None:
        self.sim = sim
        self.place = place
        self.offset = offset
        self.alive = True
        self.paused = False
        self.late: list[Handle] = []

    def now(self) -> float:
        """The process's own clock, seconds."""
        return self.sim.now + self.offset

    time = now

    def call_later(self, delay_s: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Call in `delay_s` seconds, unless the process is gone by then."""
        return self.call_at_sim(self.sim.now + max(0.0, delay_s), callback, *args)

    def call_at_sim(self, instant: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Call at an instant of simulated time; calls for the same instant happen in the order in which they were made."""
        handle = Handle(self, callback, args)
        self.sim.at(instant, handle)
        return handle

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle:
        """Call in the next turn."""
        return self.call_later(0.0, callback, *args)

    def kill(self) -> None:
        """kill -9: nothing of it happens any more."""
        self.alive = False
        self.late.clear()

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True

    def resume(self) -> None:
        """SIGCONT: what became due meanwhile happens now, in its order."""
        self.paused = False
        late, self.late = self.late, []
        for handle in late:
            handle()
