"""What waits in one worker's hands behind a long task is not kept there while another worker has nothing to do."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kernels.batch import CallBuilder, Calls, OutcomeBuilder, Outcomes
from kernels.slots import SlotPage
from swarm.protocol.execution import Execution, ExecutionConfig
from swarm.protocol.executor.effects import HandSlice, StartWorker
from swarm.protocol.executor.handing import SHARE_AFTER_S
from swarm.protocol.resources import Capacity
from swarm.protocol.spec import Spec

ME = b"m" * 16
QUICK = Spec("call", ("name", "math:sqrt", "sqrt"), "sqrt")
LONG = Spec("call", ("name", "time:sleep", "sleep"), "sleep")


class Workers:
    """An executor with two workers, which do what a test says."""

    def __init__(self) -> None:
        self.now = 1.0
        self.it = Execution(ExecutionConfig(Capacity({"cpu": 2.0})), ME)
        self.pages: dict[int, SlotPage] = {}
        self.handed: list[HandSlice] = []
        self.dispatches = 0
        self.it.start(self.now)
        for effect in self.it.take_effects():
            assert isinstance(effect, StartWorker)
            page, fd = SlotPage.create()
            os.close(fd)
            self.pages[effect.worker] = page
            self.it.worker_started(effect.worker, page)
            self.it.worker_ready(self.now, effect.worker)
        assert len(self.pages) == 2

    def dispatch(self, spec: Spec, count: int) -> list[HandSlice]:
        self.dispatches += 1
        builder = CallBuilder()
        for _ in range(count):
            builder.add_plain((4,))
        self.it.dispatch(
            self.now, ME, dispatch=self.dispatches, batch=self.dispatches.to_bytes(12, "big"), spec=spec,
            raw=spec.encode(), granted=True, calls=Calls(builder.take(), count), first=0,
        )  # fmt: skip
        return self.slices()

    def slices(self) -> list[HandSlice]:
        new = [effect for effect in self.it.take_effects() if isinstance(effect, HandSlice)]
        self.handed += new
        return new

    def claim(self, part: HandSlice) -> int:
        """The worker takes the next task of a slice and begins it; its place in the slice, or -1."""
        place = self.pages[part.worker].claim(part.slot)
        if place >= 0:
            self.pages[part.worker].begin(part.slot, place, int(self.now * 1e9))
        return place

    def finish(self, part: HandSlice) -> int:
        """The worker runs what it can claim of a slice; how many that were."""
        builder, ran = OutcomeBuilder(), 0
        while (place := self.claim(part)) >= 0:
            builder.add_plain(part.start + place, 10, 2.0)
            self.pages[part.worker].end()
            ran += 1
        if ran:
            body = builder.take()
            self.it.worker_outcomes(self.now, part.worker, part.run, Outcomes(body, ran), memoryview(body))
        self.it.worker_slice_done(self.now, part.worker, part.slot)
        return ran

    def turn(self, later_s: float) -> list[HandSlice]:
        self.now += later_s
        due = self.it.next_deadline()
        if due is not None and due <= self.now:
            self.it.on_timer(self.now)
        return self.slices()


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    for _ in range(3):  # sqrt is known to be quick from here on
        for part in made.dispatch(QUICK, 2):
            made.finish(part)
        for part in made.slices():
            made.finish(part)
    yield made
    for page in made.pages.values():
        page.close()


def test_what_was_put_behind_a_long_task_goes_to_who_is_idle(workers: Workers) -> None:
    (long,) = workers.dispatch(LONG, 1)
    assert workers.claim(long) == 0
    queue = workers.dispatch(QUICK, 20)
    assert {part.worker for part in queue} == set(workers.pages), "some of it is put behind the long one"
    ran = 0
    while queue:
        part = queue.pop(0)
        if part.worker != long.worker:
            ran += workers.finish(part)
            queue += workers.slices()
    assert ran < 20
    for part in workers.turn(2 * SHARE_AFTER_S):
        queue.append(part)
    while queue:
        part = queue.pop(0)
        assert part.worker != long.worker, "nothing is put behind it again"
        ran += workers.finish(part)
        queue += workers.slices()
    assert ran == 20


def test_a_slice_that_is_held_up_by_one_of_its_own_tasks_is_shared(workers: Workers) -> None:
    first, *queue = workers.dispatch(QUICK, 40)
    assert first.count > 1
    assert workers.claim(first) == 0, "and this one takes long, for once"
    ran = 0
    for _ in range(20):
        while queue:
            part = queue.pop(0)
            if part.worker != first.worker:
                ran += workers.finish(part)
                queue += workers.slices()
        queue += workers.turn(SHARE_AFTER_S)
    assert ran == 39


def test_quick_tasks_stay_where_they_are(workers: Workers) -> None:
    parts = workers.dispatch(QUICK, 40)
    for part in parts:
        workers.claim(part)
    assert workers.turn(SHARE_AFTER_S / 2) == []
    assert sum(part.count for part in parts) <= 40
    deadline = workers.it.next_deadline()
    assert deadline is not None and deadline <= workers.now + SHARE_AFTER_S, "and it is looked at again"


def test_a_worker_that_went_on_is_given_slices_ahead_again(workers: Workers) -> None:
    (long,) = workers.dispatch(LONG, 1)
    workers.claim(long)
    queue = workers.dispatch(QUICK, 4)
    queue += workers.turn(2 * SHARE_AFTER_S)
    workers.pages[long.worker].end()
    builder = OutcomeBuilder()
    builder.add_plain(0, 100_000, None)
    body = builder.take()
    workers.it.worker_outcomes(workers.now, long.worker, long.run, Outcomes(body, 1), memoryview(body))
    workers.it.worker_slice_done(workers.now, long.worker, long.slot)
    queue += workers.slices()
    for _ in range(10):
        while queue:
            workers.finish(queue.pop(0))
            queue += workers.slices()
    assert {part.worker for part in workers.dispatch(QUICK, 40)} == set(workers.pages)
