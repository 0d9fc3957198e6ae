"""What a leader knows of one other member: how far its log agrees, and what is under way to it.

The three states are etcd's: a member is probed with one message at a time until it is known where its log meets the
leader's, then entries are sent without waiting, and one that lacks what the leader has dropped gets the snapshot.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from swarm.protocol.raft.config import RaftConfig


class Flow(Enum):
    """How entries are sent to a member."""

    PROBE = "probe"
    STREAM = "stream"
    SNAPSHOT = "snapshot"


class Progress:
    """Of one member, as its leader sees it."""

    __slots__ = (
        "_config", "_inflight", "_inflight_bytes", "absent", "active", "commit", "damaged", "flow", "full", "id", "match", "next",
        "paused", "round", "snapshot_index", "snapshot_offset",
    )  # fmt: skip

    def __init__(self, id: bytes, next: int, config: RaftConfig) -> None:
        self.id = id
        self.match = 0
        """Entries up to here are on its disk and are the leader's."""
        self.next = next
        """The entry to send next."""
        self.commit = 0
        """What it is known to know as committed."""
        self.flow = Flow.PROBE
        self.paused = False
        """A probe is under way; no other one before an answer or a heartbeat's."""
        self.active = True
        """It has answered since the last look (check-quorum). True at first: nobody could have answered yet."""
        self.absent = False
        """It did not answer between two looks: the group may rest without it, until it is heard again."""
        self.damaged = False
        """Its log is damaged: what it has counts for nothing."""
        self.full = False
        self.round = 0
        """The last round of heartbeats that it answered."""
        self.snapshot_index = 0
        """The snapshot that is being sent, and how much of it has come there."""
        self.snapshot_offset = 0
        self._config = config
        self._inflight: deque[tuple[int, int]] = deque()
        self._inflight_bytes = 0

    @property
    def counted(self) -> int:
        """How far it counts towards a majority."""
        return 0 if self.damaged else self.match

    @property
    def ready(self) -> bool:
        """Whether a message of entries may be sent now."""
        if self.flow is Flow.STREAM:
            return (
                len(self._inflight) < self._config.inflight_messages
                and self._inflight_bytes < self._config.inflight_bytes
            )
        return not self.paused

    @property
    def inflight_bytes(self) -> int:
        """Of entries under way."""
        return self._inflight_bytes

    def sent(self, last: int, size: int) -> None:
        """Entries up to `last`, of `size` bytes, were sent."""
        if self.flow is Flow.STREAM:
            if last >= self.next:
                self._inflight.append((last, size))
                self._inflight_bytes += size
                self.next = last + 1
        else:
            self.paused = True

    def accepted(self, match: int) -> bool:
        """It has all entries up to `match`. Whether that is news."""
        news = match > self.match
        self.match = max(self.match, match)
        self.next = max(self.next, match + 1)
        while self._inflight and self._inflight[0][0] <= match:
            self._inflight_bytes -= self._inflight.popleft()[1]
        if self.flow is Flow.PROBE or (self.flow is Flow.SNAPSHOT and news):
            self.stream()
        return news

    def rejected(self, next: int) -> None:
        """Its log does not meet the leader's where it was thought to: try `next`."""
        self.probe(max(min(next, self.next), self.match + 1))

    def stream(self) -> None:
        """Where the logs meet is known."""
        self._become(Flow.STREAM)
        self.next = self.match + 1

    def probe(self, next: int) -> None:
        """Where the logs meet is not known."""
        self._become(Flow.PROBE)
        self.next = next

    def send_snapshot(self) -> None:
        """It lacks what is no longer here."""
        self._become(Flow.SNAPSHOT)
        self.snapshot_index = self.snapshot_offset = 0

    def lost(self) -> None:
        """What is known of its log does not hold any more: it is damaged."""
        self.match = 0
        self.commit = 0
        self.damaged = True

    def answered_heartbeat(self) -> None:
        """It is there: a probe that was lost is repeated, and so is something of a window that is full."""
        self.paused = False
        if self.flow is Flow.STREAM and not self.ready and self._inflight:
            self._inflight_bytes -= self._inflight.popleft()[1]

    def _become(self, flow: Flow) -> None:
        self.flow = flow
        self.paused = False
        self._inflight.clear()
        self._inflight_bytes = 0
