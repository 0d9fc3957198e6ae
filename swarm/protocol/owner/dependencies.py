"""Tasks that wait for the results of others."""

from __future__ import annotations

from collections.abc import Callable

from kernels.batch import Outcomes
from kernels.tasks import TaskColumns
from swarm.protocol import ids
from swarm.protocol.owner.batches import Batch, Holdings
from swarm.protocol.owner.ending import Ending
from swarm.protocol.owner.placing import Placing
from swarm.protocol.owner.words import said
from swarm.protocol.states import Status


class Dependencies:
    """A task with dependencies is a batch of its own, held until those have ended."""

    def __init__(self, holdings: Holdings, placing: Placing, ending: Ending) -> None:
        self._holdings = holdings
        self._placing = placing
        self._ending = ending
        self._waiting: dict[bytes, dict[int, list[Batch]]] = {}
        """Batch key and index of what is waited for -> who waits."""
        self.waits: Callable[[float, Batch], None] = lambda now, batch: None
        """Told of a batch that waits."""

    def wait_for(self, now: float, batch: Batch, deps: list[bytes]) -> None:
        """Hold the one task of a batch until the tasks that it depends on have ended."""
        batch.dep_order = list(deps)
        failed: tuple[bytes, int, memoryview] | None = None
        for dep in deps:
            key, index = ids.split(dep)
            source = self._holdings.batches.get(key)
            if source is None or source is batch or index >= source.calls.count or not _lasts(source, batch):
                text = f"task {ids.text(dep)[:8]}, which this one depends on, is not known here"
                payload = said(text, "pass its result instead", batch.spec)
                self._ending.finish(now, batch, [(0, Status.DEPENDENCY, payload)])
                return
            known = source.outcome(index)
            if known is not None:
                batch.deps[dep] = bytes(known[1])
                if known[0] != Status.OK:
                    failed = (dep, known[0], known[1])
            else:
                batch.deps[dep] = None
                self._waiting.setdefault(key, {}).setdefault(index, []).append(batch)
        if failed is not None:
            self._failed(now, batch, *failed)
        elif any(value is None for value in batch.deps.values()):
            batch.columns.hold(0)
            batch.log(now, "waits for tasks", 0, 1, "", [ids.text(dep)[:8] for dep in deps])
            self.waits(now, batch)

    def are_in_log(self, deps: list[bytes], group: bytes) -> bool:
        """Whether tasks that a durable one depends on are in its log, as far as they are known here."""
        sources = [self._holdings.batches.get(ids.split(dep)[0]) for dep in deps]
        return all(it is None or _is_in_log(it, group) for it in sources)

    def give_up(self, now: float, batch: Batch) -> None:
        """A batch is another owner's now. Those of its log that wait for it are as well; the others wait in vain."""
        for dependents in self._waiting.pop(batch.key, {}).values():
            for one in dependents:
                if one.durable is None and one.columns.state(0) == TaskColumns.HELD:
                    text = "another node has taken over the task that this one depends on"
                    payload = said(text, "attach to it, and pass its result", one.spec)
                    self._ending.finish(now, one, [(0, Status.DEPENDENCY, payload)])

    def refused(self, now: float, batch: Batch) -> None:
        """A batch was not accepted, for good: those that wait for it wait in vain."""
        for dependents in self._waiting.pop(batch.key, {}).values():
            for one in dependents:
                if one.columns.state(0) == TaskColumns.HELD:
                    payload = said("the task that this one depends on was not accepted", "", one.spec)
                    self._ending.finish(now, one, [(0, Status.DEPENDENCY, payload)])

    def known(self, now: float, batch: Batch, report: Outcomes) -> None:
        """Tasks have ended: those that wait for them go on, or end as well."""
        waiting = self._waiting.get(batch.key)
        if not waiting:
            return
        for row in range(report.count):
            for dependent in waiting.pop(report.index(row), ()):
                self._ended(now, dependent, ids.task_id(batch.key, report.index(row)), report, row)
        if not waiting:
            self._waiting.pop(batch.key, None)

    def _ended(self, now: float, batch: Batch, dep: bytes, report: Outcomes, row: int) -> None:
        if batch.columns.state(0) != TaskColumns.HELD or self._holdings.batches.get(batch.key) is not batch:
            return
        if report.status(row) != Status.OK:
            self._failed(now, batch, dep, report.status(row), report.payload(row))
            return
        batch.deps[dep] = bytes(report.payload(row))
        if all(value is not None for value in batch.deps.values()):
            batch.columns.release(0)
            self._placing.push(batch, now, 1)

    def _failed(self, now: float, batch: Batch, dep: bytes, status: int, payload: memoryview) -> None:
        facts = {"task": ids.text(dep), "status": Status(status).name.lower(), "cause": bytes(payload)}
        text = f"task {ids.text(dep)[:8]}, which this one depends on, ended as {Status(status).name.lower()}"
        self._ending.finish(now, batch, [(0, Status.DEPENDENCY, said(text, "", batch.spec, facts))])


def _lasts(source: Batch, batch: Batch) -> bool:
    """Whether a task is there as long as one that depends on it: for a durable one, whether it is in the same log."""
    if batch.durable is None:
        return True
    return _is_in_log(source, batch.durable.group)


def _is_in_log(source: Batch, group: bytes) -> bool:
    return source.durable is not None and source.durable.group == group
