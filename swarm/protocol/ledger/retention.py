"""When the outcomes of a batch are forgotten: by its retention, on a leader's clock, which may be wrong."""

from __future__ import annotations

from heapq import heappop, heappush

from swarm.protocol.ledger.batch import BatchState
from swarm.protocol.ledger.config import LedgerConfig
from swarm.protocol.ledger.state import LedgerState

KEYS_MAX = 1024
"""Batches that one record forgets."""


class Retention:
    """Of one log, while this node leads it.

    A batch is forgotten `retention_s` after its last outcome, as wall clocks tell it, those of all leaders since. A leader
    whose clock is ahead would forget too soon: so at first it believes no more than `clock_slack_s` beyond the latest
    record that it found, plus the time it has led. One whose clock is behind, or an outcome that was stamped by a clock
    ahead, would keep things for ever: so what a leader has held for the whole retention itself is over as well.
    A retention of zero means until delivered: the owner proposes `Forgotten` when its client has acknowledged all, and
    what nobody fetches is forgotten after `undelivered_s`.
    """

    def __init__(self, now: float, state: LedgerState, config: LedgerConfig) -> None:
        self._config = config
        self._state = state
        self._lead_at = now
        self._lead_wall = state.wall
        self._seen_at: dict[bytes, float] = {}
        self._heap: list[tuple[float, bytes]] = []
        self._next_at = now
        """Not before this instant."""
        for batch in state.batches.values():
            self.finished(now, batch)

    def finished(self, now: float, batch: BatchState) -> None:
        """A batch has all its outcomes, if it has."""
        if batch.finished_wall is not None and batch.key not in self._seen_at:
            self._seen_at[batch.key] = now
            heappush(self._heap, (now, batch.key))

    def next_deadline(self) -> float | None:
        """When to call `due`."""
        return max(self._heap[0][0], self._next_at) if self._heap else None

    def time(self, now: float, wall: float) -> float:
        """How late it is, as far as that is believed."""
        if not self._lead_wall:
            return wall
        return min(wall, self._lead_wall + (now - self._lead_at) + self._config.clock_slack_s)

    def due(self, now: float, wall: float) -> tuple[bytes, ...]:
        """Batches whose time is over. They are named again, later, as long as they are there."""
        found: list[bytes] = []
        heap, config = self._heap, self._config
        if now < self._next_at:
            return ()
        time = self.time(now, wall)
        while heap and heap[0][0] <= now and len(found) < KEYS_MAX:
            _, key = heappop(heap)
            batch = self._state.batches.get(key)
            if batch is None or batch.finished_wall is None:
                self._seen_at.pop(key, None)
                continue
            retention_s = batch.submitted.retention_s or config.undelivered_s
            left_s = min(batch.finished_wall + retention_s - time, self._seen_at[key] + retention_s - now)
            if left_s <= 0:
                found.append(key)
                left_s = 30.0  # should the record be lost
            heappush(heap, (now + left_s, key))
        self._next_at = now + config.forget_every_s
        return tuple(found)
