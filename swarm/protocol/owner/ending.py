"""Ending: final outcomes on their way to the client and to what waits for them, and for how long they are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernels.batch import Calls, OutcomeBuilder, Outcomes
from swarm.protocol.effects import Fact
from swarm.protocol.ledger.batch import without_arguments
from swarm.protocol.ledger.records import Token
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Bytes, Tell
from swarm.protocol.owner.batches import Batch, Holdings
from swarm.protocol.owner.put_away import put_away
from swarm.protocol.states import Status

WORDS = {int(status): status.name.lower() for status in Status}
FORGET = 1
"""The timer of what is kept long enough."""
EXPIRE = 4
"""The timer of a batch's deadline."""
SPARED_MAX = 64
"""So many that are still wanted are passed over at one look."""
LOOK_S = 1.0
"""How often to look whether what is kept for somebody may go."""
RETENTION = 5
"""The timer of a durable batch that is kept for its own time."""

Said = list[tuple[int, int, bytes | memoryview]]
"""(index, status, payload) of tasks that the owner itself ends."""


class Ending:
    """Each task's one outcome."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._forgetting = False
        self.known: Callable[[float, Batch, Outcomes], None]
        """Told of every outcome, for those that wait for it."""
        self.over: Callable[[int], None] = lambda number: None
        """Told of every batch that is finished, by its number."""
        self.record: Callable[[float, Batch, Token | None, Outcomes, Bytes], None]
        """Writes outcomes of a durable batch into its log; `reveal` follows when they are committed."""
        self.waits: Callable[[bytes], bool] = lambda client: False
        """Whether a client is still to take what it was told: its link is behind, or it is away and may come back."""

    def settled(self, now: float, batch: Batch, report: Outcomes, body: Bytes, token: Token | None = None) -> None:
        """Final outcomes. Those of a durable batch nobody hears of before they are committed."""
        if batch.saved:
            for row in range(report.count):
                batch.saved.pop(report.index(row), None)
        if batch.durable is None:
            self.reveal(now, batch, report, body)
        else:
            self.record(now, batch, token, report, body)

    def reveal(self, now: float, batch: Batch, report: Outcomes, body: Bytes) -> None:
        """Outcomes that stand: to the client, to those that wait for them, and into what is kept."""
        holdings = self._holdings
        holdings.tasks -= report.count
        holdings.drain.ended(now, report.count)
        batch.outcomes.append((report, body))
        batch.outcome_bytes += report.nbytes
        holdings.outcome_bytes += report.nbytes
        if batch.client is not None:
            self._holdings.emit(Tell(batch.client, Kind.OUTCOMES, {"b": batch.key, "n": report.count}, (body,)))
            for client in batch.others:
                self._holdings.emit(Tell(client, Kind.OUTCOMES, {"b": batch.key, "n": report.count}, (body,)))
        self.known(now, batch, report)

    def count(self, batch: Batch, status: int, count: int, report: Outcomes | None = None) -> None:
        """So many tasks of a batch ended in one way."""
        batch.counts[status] = batch.counts.get(status, 0) + count
        labels = {"status": WORDS[status], "kind": batch.spec.kind}
        if report is not None:
            fields: dict[str, Any] = {"outcomes": report}
        else:
            fields = {"batch": batch.key.hex(), "name": batch.spec.name}
        self._holdings.emit(Fact("task.finished", labels, fields, count))

    def finish(self, now: float, batch: Batch, ended: Said, token: Token | None = None) -> None:
        """Give tasks their final outcomes here: those of an attempt with its token, or the owner's own verdicts."""
        builder, count = OutcomeBuilder(), 0
        for index, status, payload in ended:
            if batch.columns.finish(index):
                builder.add(index, status, 0, bytes(payload))
                count += 1
                self.count(batch, status, 1)
        if count:
            body = builder.take()
            self.settled(now, batch, Outcomes(body, count), body, token)
        self.close_if_done(now, batch)

    def close_if_done(self, now: float, batch: Batch) -> None:
        """A batch whose tasks have all ended is kept for a while."""
        if batch.finished_at is not None or batch.columns.done < batch.calls.count:
            return
        if batch.durable is not None and batch.durable.open:
            return  # what is not committed may not be forgotten
        batch.finished_at = now
        batch.log(now, "finished", 0, batch.calls.count)
        holdings = self._holdings
        holdings.bytes -= batch.calls.nbytes
        holdings.outcome_bytes -= batch.outcome_bytes
        holdings.by_number.pop(batch.number, None)
        self.over(batch.number)
        # What is kept is kept for its outcomes; of its calls only how many there were is asked then.
        batch.calls = Calls(bytes(4 * batch.calls.count), batch.calls.count)
        if batch.durable is None:
            taken = put_away(batch)
            holdings.retained[batch.key] = taken
            holdings.retained_bytes += taken
            self.shed(now)
        else:
            batch.calls = without_arguments(batch.calls.count)
            holdings.timers.at(now + batch.durable.retention_s, RETENTION, batch)

    def forget(self, key: bytes) -> None:
        """Keep a finished batch no longer."""
        self._holdings.retained_bytes -= self._holdings.retained.pop(key, 0)
        self._holdings.batches.pop(key, None)

    def forget_until(self, now: float) -> None:
        """What was kept for its time is kept no longer."""
        self._forgetting = False
        while (oldest := self._oldest(now)) is not None and oldest[1] <= now:
            self.forget(oldest[0])
        self.shed(now)

    def _oldest(self, now: float) -> tuple[bytes, float] | None:
        """What goes next, and when its time is over: the oldest, but for what somebody is to come back for."""
        holdings = self._holdings
        wanted, spared = holdings.wanted, []
        found: tuple[bytes, float] | None = None
        for key in holdings.retained:
            batch = holdings.batches[key]
            if wanted.get(key, now) <= now and not any(self.waits(client) for client in batch.clients):
                found = key, (batch.finished_at or now) + holdings.config.retention_s
                break
            spared.append(key)
            if len(spared) == SPARED_MAX:
                break
        for key in spared:
            holdings.retained.move_to_end(key)  # not looked at each time
        return found

    def shed(self, now: float) -> None:
        """Keep what is kept within its bounds; the oldest go first."""
        holdings, config = self._holdings, self._holdings.config
        while (
            len(holdings.retained) > config.retained_batches_max or holdings.retained_bytes > config.retained_bytes_max
        ) and (oldest := self._oldest(now)) is not None:
            self.forget(oldest[0])
        if holdings.retained and not self._forgetting:
            self._forgetting = True
            oldest = self._oldest(now)
            holdings.timers.at(now + LOOK_S if oldest is None else oldest[1], FORGET)
