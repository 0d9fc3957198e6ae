"""Safe points: a task that the node wants moved ends at its next one, and its state is its outcome."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from nodes.worker.channel import ASKED, SAVE, Channel, Frame
from nodes.worker.report import Reporter
from nodes.worker.segments import Segments
from swarm.payload import decode_value
from swarm.tasks import Saved

if TYPE_CHECKING:
    from nodes.worker.runs import Run

LOOK_EVERY_S = 0.001
"""How often a task that computes looks whether the node has said anything: each time costs a system call."""
UNSAVED = "unsaved"
"""The event that says why a task could not be ended at a safe point: its state cannot be sent."""


class SafePoints:
    """Which tasks of this worker are to be moved, and what those go on from that were."""

    def __init__(self, channel: Channel, reporter: Reporter, segments: Segments) -> None:
        self._channel = channel
        self._reporter = reporter
        self._segments = segments
        self.asked: set[tuple[int, int]] = set()
        """(run, index) of tasks that are to be moved."""
        self._main = threading.get_ident()
        self.look_at_s = 0.0
        """Until then (monotonic) nothing is looked for."""

    def takes(self, frame: Frame) -> bool:
        """Note that a task is to be moved, or is not any more."""
        if frame.kind != SAVE:
            return False
        task = (frame.run, int.from_bytes(frame.body[:4], "little"))
        if frame.flags & ASKED:
            self.asked.add(task)
        else:
            self.asked.discard(task)
        return True

    def over(self, run: int) -> None:
        """A run is over: nothing of it is asked any more."""
        if self.asked:
            self.asked = {task for task in self.asked if task[0] != run}

    def restore(self, run: Run, index: int, default: Any) -> Any:
        """What a task goes on from."""
        saved = run.saved.get(index)
        if saved is None:
            return default
        self._segments.run, self._segments.index = run.number, index
        return decode_value(saved[1], self._segments, trusted=run.spec.granted)

    def checkpoint(self, run: Run, index: int, state: Any, reads: bool) -> None:
        """Saved, if a task is to be moved and its state can be sent. `reads`: nobody else reads the channel meanwhile."""
        now = time.monotonic()
        if now >= self.look_at_s:
            self.look_at_s = now + LOOK_EVERY_S
            if reads and threading.get_ident() == self._main:
                self._channel.drain()
        if not self.asked or (run.number, index) not in self.asked:
            return
        if callable(state):
            state = state()
        self._segments.run, self._segments.index = run.number, index
        status, payload = self._reporter.payload(state)
        if status:
            from swarm.payload_failure import error_of

            self.asked.discard((run.number, index))
            self._channel.event(run.number, index, UNSAVED, str(error_of(status, payload))[:500])
            return
        raise Saved(payload)
