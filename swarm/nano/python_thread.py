"""Python's agents on a thread of their own, beside native ones, which run without the GIL.

In virtual time both parts of a pass run at once and the pass ends when both have: what Python publishes is kept until native
agents have published theirs, so nothing that comes out is another. In real time passes go on while Python's agents are at it:
their next turns are missed (and counted) until they are through, messages that come meanwhile are kept for them, and theirs go by
a ring and are published at the end of the pass.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from queue import SimpleQueue
from threading import Thread, get_ident
from typing import Final

from kernels.lanes import SpscLane
from kernels.passes import Passes
from kernels.topics import Bus
from swarm.nano.python_ticks import PythonCohort

RING_LINES: Final = 16_384
SWITCH_S: Final = 1e-4
"""How long Python may keep the GIL while native passes want it for a moment; by default it is 5 ms."""

Outcome = tuple[list[tuple[int, int, int]], int, int] | BaseException


class PythonThread:
    """The thread, while a swarm runs."""

    def __init__(self, passes: Passes, bus: Bus, beat: memoryview | None = None) -> None:
        self._passes, self._bus = passes, bus
        self._beat = beat
        """Eight words that tell who is ticked here, as kernels/beat.h has it; None when nobody looks."""
        self._jobs: SimpleQueue[tuple[PythonCohort, int] | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[PythonCohort, Outcome]] = SimpleQueue()
        self._away = 0
        self._ring = SpscLane.create(bytearray(SpscLane.nbytes(RING_LINES))) if passes.real else None
        passes.set_apart(True, self._ring)
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(min(self._interval, SWITCH_S))
        self._thread = Thread(target=self._work, name="nano-python", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it; those who tick are waited for."""
        self._jobs.put(None)
        self._thread.join()
        sys.setswitchinterval(self._interval)
        try:
            while self._away:
                self._settle(*self._done.get())
        finally:
            self._passes.set_apart(False)

    @property
    def here(self) -> bool:
        """Whether the caller is an agent's tick."""
        return get_ident() == self._thread.ident

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            cohort, now_ns = job
            if self._beat is not None:
                self._tell(self._beat, cohort, now_ns)
            try:
                outcome: Outcome = cohort.tick(now_ns)
            except BaseException as error:  # what is no Exception ends the run, where it is waited for
                outcome = error
            if self._beat is not None:
                self._beat[1] = 0
                self._beat[0] += 1
            self._done.put((cohort, outcome))
            if self._ring is not None:
                self._passes.knock()

    def _tell(self, beat: memoryview, cohort: PythonCohort, now_ns: int) -> None:
        rows = cohort.rows_due
        beat[2], beat[3], beat[4] = (rows[0], rows[-1], len(rows)) if len(rows) else (0, 0, 0)
        beat[5], beat[6] = self._passes.made, now_ns
        beat[1] = cohort.number + 1
        beat[0] += 1

    def run_pass(self, cohorts: Sequence[PythonCohort], now_ns: int) -> None:
        """Python's part of a pass, and its native part at the same time; the caller finishes the pass."""
        if self._ring is not None:
            for cohort in cohorts:
                self._send(cohort, now_ns)
            self._passes.rest()
            return
        for cohort in cohorts:
            cohort.ready(self._passes)
            if not cohort.blocks:
                cohort.port.outbox = []
                self._jobs.put((cohort, now_ns))
        try:
            self._passes.rest()
        finally:
            wrong = [error for cohort in cohorts if (error := self._joined(cohort, now_ns)) is not None]
        if wrong:
            raise wrong[0]

    def _joined(self, cohort: PythonCohort, now_ns: int) -> BaseException | None:
        """What a cohort came to in virtual time."""
        if cohort.blocks:  # it is told at once whether there is room, so it is its turn only now
            if self._passes.watched:
                self._passes.announce(cohort.number)
            self._passes.settle(cohort.number, *cohort.tick(now_ns))
            return None
        of, outcome = self._done.get()
        assert of is cohort, "one thread ticks them in their order"
        said, cohort.port.outbox = cohort.port.outbox, None
        if isinstance(outcome, BaseException):
            return outcome
        if said:
            self._bus.publish_many(b"".join(said))
        self._passes.settle(cohort.number, *outcome)
        return None

    def _send(self, cohort: PythonCohort, now_ns: int) -> None:
        cohort.ready(self._passes)
        port = cohort.port
        port.ring, port.number = self._ring, self._passes.number
        port.heard = {topic: self._passes.heard(cohort.number, topic) for topic in port.reads}
        self._passes.forget_heard(cohort.number)
        self._passes.send(cohort.number)
        self._away += 1
        self._jobs.put((cohort, now_ns))

    def settle(self) -> None:
        """See to those who came back."""
        while not self._done.empty():
            self._settle(*self._done.get())

    def _settle(self, cohort: PythonCohort, outcome: Outcome) -> None:
        self._away -= 1
        cohort.port.ring = cohort.port.heard = None
        cohort.port.number = -1
        self._passes.settle(cohort.number, *(outcome if not isinstance(outcome, BaseException) else ([], 0, 0)))
        if isinstance(outcome, BaseException):
            raise outcome
