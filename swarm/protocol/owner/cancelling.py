"""Cancelling: tasks that nobody wants any more, since they were given up, their deadline passed or their client is gone."""

from __future__ import annotations

from kernels.tasks import TaskColumns
from swarm.protocol.owner.batches import Batch, Holdings
from swarm.protocol.owner.clients import Clients
from swarm.protocol.owner.ending import EXPIRE, Ending, Said
from swarm.protocol.owner.leading import Leading
from swarm.protocol.owner.placing import Placing
from swarm.protocol.owner.recording import Recording
from swarm.protocol.owner.relief import Relief
from swarm.protocol.owner.words import merged, said
from swarm.protocol.states import Status


class Cancelling:
    """Ends what waits, and has what runs ended where it does."""

    def __init__(
        self,
        holdings: Holdings,
        placing: Placing,
        ending: Ending,
        clients: Clients,
        recording: Recording,
        leading: Leading,
        relief: Relief,
    ) -> None:
        self._holdings = holdings
        self._placing = placing
        self._ending = ending
        self._clients = clients
        self._recording = recording
        self._leading = leading
        self._relief = relief

    def cancel(self, now: float, key: bytes, ranges: list[tuple[int, int]] | None, *, kill: bool = True) -> None:
        """The client, or somebody for it, gives tasks up: those waiting end now, those running are ended if `kill`."""
        batch = self._holdings.batches.get(key)
        if batch is None or batch.finished_at is not None:
            return
        wanted = merged(ranges) if ranges is not None else [(0, batch.calls.count)]
        batch.cancelled = merged([*batch.cancelled, *wanted])
        if kill:
            batch.killed = merged([*batch.killed, *wanted])
        if batch.durable is not None:
            self._recording.cancelled(batch, wanted, kill)
        ended: Said = []
        payload = said("the task was cancelled", "", batch.spec)
        dispatched: set[int] = set()
        columns = batch.columns
        adopting = self._leading.is_adopting(batch)  # who has it is not known yet, and is told when it is
        for start, stop in wanted:
            batch.log(now, "cancelled", start, stop)
            for index in range(max(0, start), min(stop, batch.calls.count)):
                state = columns.state(index)
                if state == TaskColumns.DISPATCHED:
                    dispatched.add(columns.token(index))
                elif state != TaskColumns.DONE and not adopting:
                    ended.append((index, Status.CANCELLED, payload))
        waiting = self._placing.withdraw(batch)
        self._ending.finish(now, batch, ended)
        if waiting and batch.columns.ready:
            # Who waited for what ended lent it his urgency, and has it back: that may have put the others into the queue already.
            self._placing.withdraw(batch)
            self._placing.push(batch, now, batch.columns.ready)
        for number in sorted(dispatched):
            dispatch = self._placing.dispatches.get(number)
            if dispatch is not None:
                self._placing.recall(dispatch, wanted, kill)
        self._relief.came_back(now)
        self._placing.pump(now)

    def client_gone(self, now: float, client: bytes) -> None:
        """The lease of a client may be over: what only it wanted is given up."""
        left = self._clients.lease_over(now, client)
        for batch in left:
            self._placing.withdraw(batch)  # the end of one makes room, and none of the others is to begin in it
        for batch in left:
            self.cancel(now, batch.key, None)
        self._ending.shed(now)  # what was kept for it

    def expire(self, now: float, batch: Batch) -> None:
        """The deadline of a batch has passed: what has not begun will not."""
        if batch.finished_at is not None or self._holdings.by_number.get(batch.number) is not batch:
            return
        if self._leading.is_adopting(batch):
            self._holdings.timers.at(now + self._holdings.config.adopt_s, EXPIRE, batch)  # some of it may run
            return
        self._placing.withdraw(batch)
        payload = said("its deadline passed before it could start", "", batch.spec)
        ended: Said = []
        for start, stop in batch.pending():
            for index in range(start, stop):
                if batch.columns.state(index) != TaskColumns.DISPATCHED:
                    ended.append((index, Status.EXPIRED, payload))
        self._ending.finish(now, batch, ended)
