"""Attempts that did not simply end well: what their end means for the task, and when it runs again."""

from __future__ import annotations

from collections.abc import Callable

from kernels.batch import Outcomes
from kernels.tasks import TaskColumns
from swarm.protocol.effects import Fact
from swarm.protocol.ledger.records import Token
from swarm.protocol.lessons.heeding import Retry
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Tell
from swarm.protocol.owner.batches import Batch, Dispatch, Holdings
from swarm.protocol.owner.ending import Ending, Said
from swarm.protocol.owner.placing import Placing
from swarm.protocol.owner.returning import came_back
from swarm.protocol.owner.words import quarantined, ranges, said, words_of
from swarm.protocol.states import Status, after_attempt

RETRY = 2
"""The timer of a task that waits its backoff."""


class Attempts:
    """Looks at tasks one by one, which only those that failed, came back or were lost need."""

    def __init__(self, holdings: Holdings, placing: Placing, ending: Ending) -> None:
        self._holdings = holdings
        self._placing = placing
        self._ending = ending
        self.learn: Callable[[float, Dispatch, int, int, memoryview, int], Retry | None]
        """Told of an attempt (now, dispatch, index, status, payload, crashes) that may be a lesson; what follows from it."""
        self.went_well: Callable[[float, Dispatch], None]
        """Told that tasks went well, of a batch that has lessons."""
        self.redirect: Callable[[float, Dispatch, Outcomes], None]
        """Hands what came back unbegun, and was approved to be stolen, to who asked for it."""
        self.saved: Callable[[float, Batch, int, memoryview, str, Token | None], bool]
        """Told of a task (now, batch, index, state, node, its token in a log) that ended itself at a safe point; whether it may
        run again at once."""
        self.counted: Callable[[Batch, list[tuple[int, int, int]]], None]
        """Writes (index, crashes, retries) of tasks of a durable batch, that run again, into its log."""

    def sort_out(self, now: float, dispatch: Dispatch, report: Outcomes) -> None:
        """Outcomes that are not all fine: look at each."""
        self.redirect(now, dispatch, report)
        batch, columns, number = dispatch.batch, dispatch.batch.columns, dispatch.number
        ended: Said = []
        ready = 0
        left = 0
        fine = False
        counted: list[tuple[int, int, int]] = []
        for row in range(report.count):
            index, status = report.index(row), report.status(row)
            if not columns.holds(index, number):
                continue
            left += 1
            cancelled = batch.is_cancelled(index)
            if status == Status.RETURNED and batch.abandoned:
                came_back(batch, index)
            crashes = columns.crashed(index) if status == Status.CRASHED else 0
            retries_left = batch.spec.retries - batch.retries.get(index, 0) if status == Status.RETRY else 0
            final = after_attempt(
                status, rerun=batch.spec.rerun, retries_left=retries_left, crashes=crashes, cancelled=cancelled
            )
            node = dispatch.executor.name
            retry = None
            if status == Status.OK:
                fine = True
            else:
                retry = self.learn(now, dispatch, index, final or status, report.payload(row), crashes)
            if final is not None and retry is not None and not cancelled:
                ready += self._again(now, batch, index, Status.RETRY, report.payload(row), node, retry)
                counted.append((index, crashes, batch.retries.get(index, 0)))
                continue
            if final is None:
                ready += self._again(now, batch, index, status, report.payload(row), node, None, dispatch.token)
                counted.append((index, crashes, batch.retries.get(index, 0)))
                continue
            payload = report.payload(row)
            if final == Status.CANCELLED and status != Status.CANCELLED:
                payload = memoryview(said("the task was cancelled", "", batch.spec))
            elif final == Status.QUARANTINED:
                payload = memoryview(quarantined(batch.spec, crashes, node, payload))
            batch.log(now, Status(final).name.lower(), index, index + 1, node, words_of(payload))
            ended.append((index, final, payload))
        self._placing.returned(dispatch, left)
        if report.count and left:
            self._placing.ran(now, dispatch, report, sum(1 for row in range(report.count) if report.run_us(row)))
        self._ending.finish(now, batch, ended, dispatch.token)
        if fine and batch.untied:
            self.went_well(now, dispatch)
        if counted and batch.durable is not None:
            self.counted(batch, counted)
        if ready:
            self._placing.push(batch, batch.submitted_at, ready)

    def _again(
        self, now: float, batch: Batch, index: int, status: int, payload: memoryview, node: str,
        given: Retry | None = None, token: Token | None = None,
    ) -> int:  # fmt: skip
        """A task runs again: at once (1), or after its backoff (0). `given` because of a lesson."""
        batch.log(now, Status(status).name.lower(), index, index + 1, node, words_of(payload))
        if status == Status.RETRY:
            tried = batch.retries[index] = batch.retries.get(index, 0) + 1
            batch.columns.hold(index)
            wait = batch.spec.backoff(tried)
            if given is not None:
                wait = max(wait, given.delay_ms / 1000)
                batch.log(now, "tried again as a lesson says", index, index + 1, "", given.why)
            self._holdings.timers.at(now + wait, RETRY, (batch, index))
            self._holdings.emit(Fact("task.retried", {}, {"batch": batch.key.hex(), "index": index, "wait_s": wait}))
            return 0
        if status == Status.SAVED:
            if not self.saved(now, batch, index, payload, node, token if batch.durable is not None else None):
                return 0
        elif status != Status.RETURNED:
            self._holdings.emit(
                Fact("task.rerun", {"why": Status(status).name.lower()}, {"batch": batch.key.hex(), "index": index})
            )
        batch.columns.release(index)
        return 1

    def retry(self, batch: Batch, index: int) -> None:
        """The backoff of a task is over."""
        here = self._holdings.by_number.get(batch.number) is batch
        if here and batch.columns.state(index) == TaskColumns.HELD:
            batch.columns.release(index)
            self._placing.push(batch, batch.submitted_at, 1)

    def lost(self, now: float, dispatch: Dispatch, indices: list[int], why: str) -> None:
        """Tasks were lost with their executor, or on the way: they run again, or end as lost."""
        batch = dispatch.batch
        ended: Said = []
        ready = 0
        for start, stop in ranges(indices):
            batch.log(now, "lost", start, stop, dispatch.executor.name, why)
        for index in indices:
            final = after_attempt(
                Status.LOST, rerun=batch.spec.rerun or not dispatch.sent, retries_left=0, crashes=0,
                cancelled=batch.is_cancelled(index),
            )  # fmt: skip
            if final is None:
                batch.columns.release(index)
                ready += 1
            else:
                hint = "it may have run; whether it did is not known" if final == Status.LOST else ""
                text = f"{batch.spec.name or 'the task'} was on {dispatch.executor.name}: {why}"
                ended.append((index, final, said(text, hint, batch.spec)))
        if ready:
            if batch.durable is not None:
                batch.durable.again = True
            self._holdings.emit(
                Fact("task.moved", {}, {"batch": batch.key.hex(), "from": dispatch.executor.name, "why": why}, ready)
            )
            if batch.client is not None:
                header = {"b": batch.key, "i": dispatch.start, "e": "moved", "v": [ready, dispatch.executor.name]}
                self._holdings.emit(Tell(batch.client, Kind.EVENT, header))
            self._placing.push(batch, batch.submitted_at, ready)
        self._ending.finish(now, batch, ended)
