"""Urgency: class and nice of tasks, changed while they wait or run, and inherited from what waits for them.

A task is as urgent as it was said to be, or as the most urgent of those that wait for it, if that is more (priority inheritance:
Sha, Rajkumar, Lehoczky, "Priority inheritance protocols", 1990). That lasts while they wait, and is passed on to what the task waits for itself.
"""

from __future__ import annotations

from kernels.batch import Outcomes
from kernels.tasks import TaskColumns
from swarm.protocol import ids
from swarm.protocol.effects import Fact
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Tell
from swarm.protocol.owner.batches import Batch, Dispatch, Holdings
from swarm.protocol.owner.placing import Placing
from swarm.protocol.owner.recording import Recording
from swarm.protocol.owner.words import ranges as ranges_of
from swarm.protocol.states import Priority

DEPTH_MAX = 64
"""Of tasks that wait for tasks: so far is urgency passed on."""
Ranges = list[tuple[int, int]]


class Urgency:
    """Changes how urgent tasks are, wherever they are."""

    def __init__(self, holdings: Holdings, placing: Placing, recording: Recording) -> None:
        self._holdings = holdings
        self._placing = placing
        self._recording = recording
        self._waits_for: dict[bytes, set[bytes]] = {}
        """Who waits (the id of a task) -> the ids of the tasks that it waits for."""
        self._children: dict[bytes, set[bytes]] = {}
        """Tasks -> batches that they submitted and that have not ended."""
        self._parents: dict[bytes, int] = {}
        """Tasks that run on this node and wait for something, and their classes."""
        placing.adopted = self._adopted
        recording.granted = self._tell_apart

    # --- changed ------------------------------------------------------------------------------------------------------

    def change(self, now: float, batch: Batch, ranges: Ranges | None, priority: int | None, nice: int | None) -> None:
        """Tasks of a batch (None: all of them) are of another class or nice from here on; None keeps what it is."""
        if batch.finished_at is not None:
            return
        count = batch.calls.count
        inside = [(0, count)] if ranges is None else [(max(0, start), min(stop, count)) for start, stop in ranges]
        inside = [(start, stop) for start, stop in inside if start < stop]
        if inside == [(0, count)]:
            before = batch.own
            batch.own = (before[0] if priority is None else priority, before[1] if nice is None else nice)
            batch.own_apart.clear()
            changed: Ranges | None = None
        else:
            changed = []
            for start, stop in inside:
                for index in range(start, stop):
                    if batch.columns.state(index) == TaskColumns.DONE:
                        continue
                    before = batch.own_apart.get(index, batch.own)
                    batch.own_apart[index] = (
                        before[0] if priority is None else priority, before[1] if nice is None else nice,
                    )  # fmt: skip
                    changed.append((index, index + 1))
            if not changed:
                return
        for start, stop in inside:
            words = _words(*batch.own_apart.get(start, batch.own))
            batch.log(now, "reprioritized", start, stop, "", words)
        self._holdings.emit(Fact("task.reprioritized", {}, {"batch": batch.key.hex()}))
        if batch.durable is not None:
            self._recording.reprioritized(batch, inside)
        self._settle(now, batch, changed)

    # --- inherited ----------------------------------------------------------------------------------------------------

    def awaited(self, now: float, task: bytes, by: bytes, priority: int, depth: int = 0) -> None:
        """A task of this owner is waited for by another of this class, wherever that is."""
        key, index = ids.split(task)
        batch = self._holdings.batches.get(key)
        if batch is None or batch.finished_at is not None or not 0 <= index < batch.calls.count or depth > DEPTH_MAX:
            return
        if batch.columns.state(index) == TaskColumns.DONE or batch.awaited.get(index, {}).get(by) == priority:
            return
        before = batch.urgency(index)
        batch.awaited.setdefault(index, {})[by] = priority
        self._waits_for.setdefault(by, set()).add(task)
        self._inherit(now, batch, index, before, depth)

    def awaited_no_more(self, now: float, task: bytes, by: bytes, depth: int = 0) -> None:
        """That wait is over."""
        waits = self._waits_for.get(by)
        if waits is not None:
            waits.discard(task)
            if not waits:
                del self._waits_for[by]
        key, index = ids.split(task)
        batch = self._holdings.batches.get(key)
        if batch is None or by not in batch.awaited.get(index, ()):
            return
        before = batch.urgency(index)
        del batch.awaited[index][by]
        if not batch.awaited[index]:
            del batch.awaited[index]
        self._inherit(now, batch, index, before, depth)

    def waiter_changed(self, now: float, by: bytes, priority: int, depth: int = 0) -> None:
        """Somebody who waits for tasks of this owner is of another class from here on."""
        for task in sorted(self._waits_for.get(by, ())):
            self.awaited(now, task, by, priority, depth)

    def _gone(self, now: float, by: bytes) -> None:
        """Somebody who waited waits no more for anything: it has ended, or its process is gone."""
        for task in sorted(self._waits_for.get(by, ())):
            self.awaited_no_more(now, task, by)

    def waits(self, now: float, batch: Batch) -> None:
        """The one task of a batch waits for those that it depends on."""
        by = ids.task_id(batch.key, 0)
        for dep in batch.dep_order:
            if batch.deps.get(dep) is None:
                self.awaited(now, dep, by, batch.urgency(0)[0])

    def own_class(self, task: bytes) -> int | None:
        """The class that one of this owner's tasks was given, whoever waits for it; None where it is not this owner's."""
        key, index = ids.split(task)
        batch = self._holdings.batches.get(key)
        return None if batch is None else batch.own_apart.get(index, batch.own)[0]

    def child(self, now: float, batch: Batch, inherited: int | None = None) -> None:
        """A task has submitted a batch, of the class that it has itself by now (`inherited`) unless it said otherwise."""
        parent = batch.spec.parent
        if inherited is not None and inherited != batch.own[0]:
            self.change(now, batch, None, inherited, None)
        if parent and batch.finished_at is None:
            self._children.setdefault(parent, set()).add(batch.key)
            self._parent(now, batch, self._parents.get(parent, -1))

    def parent_waits(self, now: float, parent: bytes, priority: int) -> None:
        """A task that runs on this node waits: what it submitted is as urgent meanwhile."""
        if self._parents.get(parent) != priority:
            self._parents[parent] = priority
            self._children_of(now, parent, priority)

    def parent_goes_on(self, now: float, parent: bytes) -> None:
        """It waits no more, or is gone."""
        if self._parents.pop(parent, None) is not None:
            self._children_of(now, parent, -1)

    def _children_of(self, now: float, parent: bytes, priority: int) -> None:
        for key in sorted(self._children.get(parent, ())):
            batch = self._holdings.batches.get(key)
            if batch is not None and batch.finished_at is None:
                self._parent(now, batch, priority)

    def _parent(self, now: float, batch: Batch, priority: int) -> None:
        if batch.parent_waits == priority:
            return
        own, batch.parent_waits = max(batch.own[0], batch.parent_waits), priority
        if max(batch.own[0], priority) != own:
            what = "raised" if priority > own else "falls back"
            batch.log(now, what, 0, batch.calls.count, "", "what submitted it waits" if priority >= 0 else "")
            self._settle(now, batch, None)

    def known(self, now: float, batch: Batch, report: Outcomes) -> None:
        """Tasks have ended."""
        if self._waits_for:
            for row in range(report.count):
                self._ended(now, batch, report.index(row))
        if self._children and batch.spec.parent and batch.columns.done == batch.calls.count:
            mine = self._children.get(batch.spec.parent, set())
            mine.discard(batch.key)
            if not mine:
                self._children.pop(batch.spec.parent, None)

    def _ended(self, now: float, batch: Batch, index: int) -> None:
        """A task has ended: it waits for nothing, and nobody for it."""
        for by in list(batch.awaited.pop(index, ())):
            waits = self._waits_for.get(by)
            if waits is not None:
                waits.discard(ids.task_id(batch.key, index))
                if not waits:
                    del self._waits_for[by]
        if self._waits_for:
            self._gone(now, ids.task_id(batch.key, index))

    def _inherit(self, now: float, batch: Batch, index: int, before: tuple[int, int], depth: int) -> None:
        after = batch.urgency(index)
        if after == before or batch.finished_at is not None:
            return
        what = "raised" if after[0] > batch.own_apart.get(index, batch.own)[0] else "falls back"
        batch.log(now, what, index, index + 1, "", _words(*after))
        self._settle(now, batch, None if batch.calls.count == 1 else [(index, index + 1)], depth)

    # --- made so ------------------------------------------------------------------------------------------------------

    def _settle(self, now: float, batch: Batch, ranges: Ranges | None, depth: int = 0) -> None:
        """Make it so, where the tasks are."""
        placing = self._placing
        placing.withdraw(batch)
        if batch.calls.count == 1:
            batch.priority, batch.nice = batch.urgency(0)
        else:
            batch.priority, batch.nice = base = (max(batch.own[0], batch.parent_waits), batch.own[1])
            batch.apart = {
                index: urgency for index in sorted({*batch.own_apart, *batch.awaited})
                if (urgency := batch.urgency(index)) != base
            }  # fmt: skip
        if batch.columns.ready:
            placing.push(batch, batch.submitted_at, batch.columns.ready)
        for dispatch in placing.of(batch):
            if ranges is None:
                placing.reprioritized(dispatch, batch.priority, batch.nice)
                self._tell(dispatch, None, batch.priority, batch.nice)
                self._tell_apart(dispatch)
                continue
            for start, stop in ranges:
                if start < dispatch.stop and dispatch.start < stop:
                    self._tell(dispatch, [(start, stop)], *batch.urgency(start))
        if self._waits_for:
            inside = [(0, batch.calls.count)] if ranges is None else ranges
            for by in [by for by in self._waits_for if by[: ids.BATCH_KEY_BYTES] == batch.key]:
                index = ids.split(by)[1]
                if any(start <= index < stop for start, stop in inside):
                    self.waiter_changed(now, by, batch.urgency(index)[0], depth + 1)

    def _tell(self, dispatch: Dispatch, ranges: Ranges | None, priority: int, nice: int) -> None:
        if not dispatch.sent:
            return
        header = {"d": dispatch.number, "r": None if ranges is None else [list(pair) for pair in ranges]}
        batch = dispatch.batch
        own = batch.own if ranges is None else batch.own_apart.get(ranges[0][0], batch.own)
        header |= {"p": priority, "n": nice, "o": own[0]}
        self._holdings.emit(Tell(dispatch.executor.id, Kind.REPRIORITIZE, header))

    def _tell_apart(self, dispatch: Dispatch) -> None:
        """Tasks of a dispatch are more or less urgent than the others of it."""
        by_urgency: dict[tuple[int, int], list[int]] = {}
        for index, urgency in dispatch.batch.apart.items():
            if dispatch.start <= index < dispatch.stop and urgency != (dispatch.priority, dispatch.nice):
                by_urgency.setdefault(urgency, []).append(index)
        for urgency in sorted(by_urgency):
            self._tell(dispatch, ranges_of(by_urgency[urgency]), *urgency)

    def _adopted(self, dispatch: Dispatch) -> None:
        batch = dispatch.batch
        if (batch.priority, batch.nice) != (batch.spec.priority, batch.spec.nice):
            self._tell(dispatch, None, batch.priority, batch.nice)
        self._tell_apart(dispatch)


def _words(priority: int, nice: int) -> str:
    return f"{Priority(priority).name}, nice {nice}"
