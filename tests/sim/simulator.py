"""A deterministic simulator: virtual time, one heap of events, processes that are state machines.

What runs in it is what runs in a node: a process is told what came and what time it is, and gives back what it sends.
One seed is one run: the trace hash over all events says whether two runs were the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from typing import Any, Protocol
from zlib import crc32

Endpoint = Hashable


class Process(Protocol):
    """A state machine with an endpoint. `now` is seconds on the process's own clock, which has an arbitrary zero."""

    def receive(self, now: float, source: Any, payload: Any) -> None:
        """Something came from the network."""

    def tick(self, now: float) -> None:
        """The instant of `next_deadline` has come."""

    def next_deadline(self) -> float | None:
        """When `tick` wants to be called."""

    def take(self) -> list[tuple[Any, Any]]:
        """What to send since the last call: (destination, payload)."""


class Medium(Protocol):
    """What is between processes."""

    def delays(self, source: Any, destination: Any) -> tuple[float, ...]:
        """Seconds until each copy of one message arrives; none if it is lost."""


class Slot:
    """A place where one process after the other runs."""

    __slots__ = ("endpoint", "generation", "inbox", "offset", "paused", "process", "timer_at", "trace")

    def __init__(self, endpoint: Any, offset: float, trace: int) -> None:
        self.endpoint = endpoint
        self.offset = offset
        """Its clock minus simulated time, seconds."""
        self.trace = trace
        self.process: Process | None = None
        self.generation = 0
        self.paused = False
        self.inbox: list[tuple[Any, Any]] = []
        self.timer_at = float("inf")


_TRACE = struct.Struct("<dII").pack
_TIMER, _DELIVER, _CALL = range(3)


class Simulator:
    """The event queue and the clock. `now` is simulated seconds from 0."""

    def __init__(self, medium: Medium, inbox_max: int = 256) -> None:
        self.now = 0.0
        self.events = 0
        self.trace = 0
        self.slots: dict[Any, Slot] = {}
        self._medium = medium
        self._heap: list[tuple[float, int, int, Any, Any, Any]] = []
        self._count = 0
        self._inbox_max = inbox_max

    # Processes.

    def start(self, endpoint: Any, process: Process, offset: float = 0.0) -> None:
        """Runs a process at an endpoint, in place of the one before if there was one."""
        slot = self.slots.get(endpoint)
        if slot is None:
            slot = self.slots[endpoint] = Slot(endpoint, offset, len(self.slots) + 1)
        slot.process = process
        slot.generation += 1
        slot.paused = False
        slot.inbox.clear()
        slot.timer_at = float("inf")
        self.settle(endpoint)

    def stop(self, endpoint: Any) -> None:
        """The process is gone, as by kill -9."""
        slot = self.slots[endpoint]
        slot.process = None
        slot.generation += 1
        slot.paused = False
        slot.inbox.clear()

    def pause(self, endpoint: Any) -> None:
        """The process does not run (SIGSTOP); what comes waits in its socket, up to a bound."""
        self.slots[endpoint].paused = True

    def resume(self, endpoint: Any, timers_first: bool = False) -> None:
        """The process runs again: its timers are late, its socket is full."""
        slot = self.slots[endpoint]
        if not slot.paused or slot.process is None:
            return
        slot.paused = False
        waiting, slot.inbox = slot.inbox, []
        own_now = self.now + slot.offset
        if timers_first:
            slot.process.tick(own_now)
        for source, payload in waiting:
            slot.process.receive(own_now, source, payload)
        slot.process.tick(own_now)
        slot.timer_at = float("inf")
        self.settle(endpoint)

    def clock(self, endpoint: Any) -> float:
        """The time on the clock of the process there."""
        return self.now + self.slots[endpoint].offset

    def settle(self, endpoint: Any) -> None:
        """Sends what the process at an endpoint wants to send; call after touching it from outside."""
        slot = self.slots[endpoint]
        assert slot.process is not None
        self._after(slot, slot.process)

    # Time.

    def at(self, instant: float, call: Callable[[], None]) -> None:
        """Calls something at an instant of simulated time: faults, scripts, checks."""
        self._count += 1
        heappush(self._heap, (instant, self._count, _CALL, call, None, None))

    def run(self, until: float) -> None:
        """Runs all events up to and including an instant."""
        heap = self._heap
        slots = self.slots
        while heap and heap[0][0] <= until:
            now, _, kind, target, source, payload = heappop(heap)
            self.now = now
            self.events += 1
            if kind == _DELIVER:
                slot = slots.get(target)
                if slot is None or slot.process is None:
                    continue
                if slot.paused:
                    if len(slot.inbox) < self._inbox_max:
                        slot.inbox.append((source, payload))
                    continue
                self.trace = crc32(_TRACE(now, slot.trace, 1), self.trace)
                slot.process.receive(now + slot.offset, source, payload)
                self._after(slot, slot.process)
            elif kind == _TIMER:
                slot = target
                if slot.generation != source or slot.paused or now < slot.timer_at:
                    continue
                slot.timer_at = float("inf")
                process = slot.process
                deadline = process.next_deadline()
                if deadline is not None and deadline <= now + slot.offset:
                    self.trace = crc32(_TRACE(now, slot.trace, 2), self.trace)
                    process.tick(now + slot.offset)
                self._after(slot, process)
            else:
                self.trace = crc32(_TRACE(now, 0, 3), self.trace)
                target()
        self.now = max(self.now, until)

    def trace_in(self, data: bytes) -> None:
        """Makes the trace depend on something that a process did."""
        self.trace = crc32(data, self.trace)

    def _after(self, slot: Slot, process: Process) -> None:
        now = self.now
        heap = self._heap
        sent = process.take()
        if sent:
            source = slot.endpoint
            delays = self._medium.delays
            for destination, payload in sent:
                for delay in delays(source, destination):
                    self._count += 1
                    heappush(heap, (now + delay, self._count, _DELIVER, destination, source, payload))
        deadline = process.next_deadline()
        if deadline is not None:
            # The least bit later rather than earlier: a clock with an offset rounds.
            when = max(deadline - slot.offset, now) + 1e-9
            if when < slot.timer_at:
                slot.timer_at = when
                self._count += 1
                heappush(heap, (when, self._count, _TIMER, slot, slot.generation, None))
