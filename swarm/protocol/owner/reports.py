"""Reports of executors: outcomes under a dispatch number, and what tasks that run have to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernels.batch import Outcomes
from swarm.protocol.effects import Fact
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Bytes, Tell
from swarm.protocol.owner.attempts import Attempts
from swarm.protocol.owner.batches import Dispatch, Holdings
from swarm.protocol.owner.ending import Ending
from swarm.protocol.owner.heeding import Heeding
from swarm.protocol.owner.keeping import Keeping
from swarm.protocol.owner.moving import Moving
from swarm.protocol.owner.placing import Placing
from swarm.protocol.owner.relief import Relief
from swarm.protocol.owner.words import why_it_stood
from swarm.protocol.states import Status


class Reports:
    """Takes what executors say of this owner's tasks."""

    def __init__(
        self,
        holdings: Holdings,
        placing: Placing,
        ending: Ending,
        attempts: Attempts,
        heeding: Heeding,
        keeping: Keeping,
        moving: Moving,
        relief: Relief,
    ) -> None:
        self._holdings = holdings
        self._placing = placing
        self._ending = ending
        self._attempts = attempts
        self._heeding = heeding
        self._keeping = keeping
        self._moving = moving
        self._relief = relief
        keeping.take = self.take

    def outcomes(
        self, now: float, executor: bytes, number: int, count: int, body: Bytes, load: Any = None, stood_us: Any = 0
    ) -> None:
        """An executor reports outcomes under a dispatch number; rows that are not out under it are ignored. Some of their tasks
        stood still for `stood_us` microseconds together.

        ValueError when the columns are malformed.
        """
        placing = self._placing
        it = placing.executors.get(executor)
        if it is not None and isinstance(load, Mapping) and not it.local:
            it.heard(load)
            self._moving.heard(now, it)
        dispatch = placing.out(number, executor)
        if dispatch is None:
            self._holdings.emit(Fact("outcome.stale", {}, {"executor": executor.hex(), "dispatch": number}, count))
            return
        report = Outcomes(body, count)
        if type(stood_us) is int and stood_us > 0:
            dispatch.stood_us += stood_us
        if dispatch.batch.durable is None or not self._keeping.holds_back(now, dispatch, report, body):
            self.take(now, dispatch, report, body)
        placing.pump(now)

    def take(self, now: float, dispatch: Dispatch, report: Outcomes, body: Bytes) -> None:
        """Outcomes of what is out: those that went well together, others one by one."""
        placing, number, count = self._placing, dispatch.number, report.count
        batch = dispatch.batch
        columns = batch.columns
        placing.settle(dispatch, count, max(0, report.run_us_total - dispatch.stood_us) / 1e6)
        if report.all_ok and columns.accepts(report, number):
            columns.settle(report, number)
            placing.ran(now, dispatch, report, count)
            self._ending.settled(now, batch, report, body, dispatch.token)
            self._ending.count(batch, Status.OK, count, report)
            placing.returned(dispatch, count)
            if batch.untied:
                self._heeding.went_well(now, dispatch)
        else:
            self._attempts.sort_out(now, dispatch, report)
        self._relief.came_back(now)
        self._ending.close_if_done(now, batch)

    def event(self, now: float, executor: bytes, number: int, index: int, name: str, value: Any, body: Bytes) -> None:
        """An executor says something about a task that runs: passed on to the client."""
        dispatch = self._placing.out(number, executor)
        if dispatch is None:
            return
        batch = dispatch.batch
        if not 0 <= index < batch.calls.count or not batch.columns.holds(index, number):
            return
        if name == "progress":
            batch.progress[index] = value
        elif name == "lesson":
            self._heeding.reflected(now, dispatch, index, value)
            self._placing.pump(now)
            return
        elif name in ("suspended", "resumed"):
            batch.log(now, name, index, index + 1, dispatch.executor.name, why_it_stood(name, value))
            self._relief.stood(now, dispatch, index, name == "suspended", value)
        elif name == "unsaved":
            self._moving.unsaved(now, batch, index, str(value))
            return
        if batch.client is not None:
            header = {"b": batch.key, "i": index, "e": name, "v": value, "w": dispatch.executor.name}
            for client in batch.clients:
                self._holdings.emit(Tell(client, Kind.EVENT, header, (body,) if len(body) else ()))
