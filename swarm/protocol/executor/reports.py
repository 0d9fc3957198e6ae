"""What an executor tells the owners of its runs: outcomes, what goes back to them, and events."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from kernels.batch import OutcomeBuilder
from swarm.protocol.effects import Fact
from swarm.protocol.executor.effects import ExecutionEffect
from swarm.protocol.executor.orphans import Orphan, Orphans
from swarm.protocol.executor.runs import Run
from swarm.protocol.executor.table import RunTable
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Bytes, Tell
from swarm.protocol.spec import Spec
from swarm.protocol.states import Status


class Reports:
    """Tells owners, or keeps what it would tell where a run has none for the moment. `load` is what the node tells of itself."""

    def __init__(
        self,
        me: bytes,
        runs: RunTable,
        orphans: Orphans,
        load: Callable[[bytes], dict[str, Any]],
        emit: Callable[[ExecutionEffect], None],
    ) -> None:
        self._me = me
        self._runs = runs
        self._orphans = orphans
        self._load = load
        self._emit = emit

    def outcomes(self, run: Run, count: int, body: Bytes, stood_us: int = 0) -> None:
        """So many outcomes of a run, packed."""
        header = {"b": run.batch, "n": count, "d": run.dispatch}
        if stood_us:
            header["s"] = stood_us
        self._runs.gone(run)
        if run in self._orphans:
            if not self._orphans.keep(run, count, body):
                self._emit(Fact("orphan.lost", {}, {"batch": run.batch.hex()}, count))
            return
        if run.owner != self._me:
            header["l"] = self._load(run.owner)
        self._emit(Tell(run.owner, Kind.OUTCOMES, header, (body,)))

    def kept(self, orphan: Orphan) -> None:
        """What waited for a run's owner goes to it."""
        run = orphan.run
        for count, body in self._orphans.take(orphan):
            self.outcomes(run, count, body)

    def back(self, owner: bytes, dispatch: int, batch: bytes, indices: Collection[int]) -> None:
        """Tasks go back to their owner as they came."""
        builder = OutcomeBuilder()
        for index in indices:
            builder.add(index, Status.RETURNED, 0, b"")
        header = {"b": batch, "n": len(indices), "d": dispatch, "l": self._load(owner)}
        self._emit(Tell(owner, Kind.OUTCOMES, header, (builder.take(),)))

    def refused(self, run: Run, message: str) -> None:
        """What is left of a run cannot be run here or anywhere; its tasks end refused."""
        import msgpack

        body = b"F" + msgpack.packb({"message": message, "hint": "look at the node's log", "facts": {}})
        builder, count = OutcomeBuilder(), 0
        for start, stop in run.pending():
            for index in range(start, stop):
                if run.finish(index):
                    builder.add(index, Status.REFUSED, 0, body)
                    count += 1
        if count:
            self.outcomes(run, count, builder.take())

    def event(self, run: Run, index: int, name: str, value: Any, body: Bytes = b"") -> None:
        """Something about a task that runs: it started or stands still, progress, an item of a stream, output."""
        header = {"b": run.batch, "d": run.dispatch, "i": index, "e": name, "v": value}
        self._emit(Tell(run.owner, Kind.EVENT, header, (body,) if len(body) else ()))


def ended(status: int, why: str, spec: Spec) -> bytes:
    """The payload of an outcome that the node, not the task, has to tell."""
    import msgpack

    if status == Status.TIMEOUT:
        message, hint = (
            f"{spec.name or 'the task'} ran longer than its timeout of {spec.timeout_s:g} s",
            "raise timeout_s",
        )
    elif status == Status.CANCELLED:
        message, hint = f"{spec.name or 'the task'} was cancelled", ""
    elif status == Status.RETURNED:
        message, hint = f"{spec.name or 'the task'} stood still and is run again: {why}", ""
    else:
        message = f"the worker process died while it ran {spec.name or 'the task'} ({why})"
        hint = "swarm task logs shows its last output"
    return b"F" + bytes(msgpack.packb({"message": message, "hint": hint, "facts": {"why": why}}))
