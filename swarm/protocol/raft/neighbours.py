"""Groups at rest: what one heartbeat from node to node keeps alive.

A group in which all is done sends nothing and has no timer. Its followers hang it on the node of its leader, its leader on
the nodes of the others; one heartbeat between two nodes stands for all groups that hang there. A node that is silent, or that
was restarted, wakes them, and each goes on as Raft does. So does any message of the group itself. (CockroachDB's
coalesced heartbeats and quiescence, without its liveness table.)
"""

from __future__ import annotations

from collections.abc import Iterable

from swarm.protocol.raft.config import RaftConfig
from swarm.protocol.raft.wire import BEAT, BEAT_NONE, BEAT_REPLY

_NEVER = float("inf")
MISSED_HEARTBEATS = 10
"""Heartbeats after which a node is called again that is missed, and on which nothing else depends."""


class Neighbour:
    """Another node, as far as groups at rest depend on it."""

    __slots__ = ("beat", "boot", "followed", "heard_at", "led", "missed", "tick_at")

    def __init__(self) -> None:
        self.boot = b""
        """Of its process, as its last frame says."""
        self.heard_at = float("-inf")
        self.led: set[bytes] = set()
        """Groups at rest that this node leads and the other one is a member of."""
        self.followed: set[bytes] = set()
        """Groups at rest that the other one leads."""
        self.missed: set[bytes] = set()
        """Groups that this node leads and that rest without the other one, a member that was not there."""
        self.tick_at: float | None = None
        self.beat = BEAT_NONE
        """To be said with the next frame."""


class Neighbours:
    """All other nodes with groups in common."""

    __slots__ = ("_config", "_places", "_talk", "table")

    def __init__(self, config: RaftConfig) -> None:
        self._config = config
        self.table: dict[bytes, Neighbour] = {}
        self._places: dict[bytes, tuple[bool, tuple[bytes, ...], tuple[bytes, ...]]] = {}
        """Where a group hangs: whether it is led here, on whom, and who is missed."""
        self._talk: set[bytes] = set()

    def get(self, id: bytes) -> Neighbour:
        """A node; known from here on."""
        neighbour = self.table.get(id)
        if neighbour is None:
            neighbour = self.table[id] = Neighbour()
        return neighbour

    def interval_s(self, id: bytes) -> float | None:
        """After what time a node has its turn; None if nothing that rests depends on it. Who is only missed is called now and then."""
        neighbour = self.table[id]
        if neighbour.led or neighbour.followed:
            return self._config.heartbeat_s
        return self._config.heartbeat_s * MISSED_HEARTBEATS if neighbour.missed else None

    @property
    def resting(self) -> int:
        """How many groups are at rest."""
        return len(self._places)

    def hang(
        self, now: float, group: bytes, led: bool, others: Iterable[bytes], missed: Iterable[bytes] = ()
    ) -> list[bytes]:
        """A group goes to rest, without those that are missed: any frame of theirs wakes it. Nodes that need a timer."""
        place = (led, tuple(others), tuple(missed))
        if self._places.get(group) == place:
            return []
        self.unhang(group)
        self._places[group] = place
        for other in place[1]:
            neighbour = self.get(other)
            (neighbour.led if led else neighbour.followed).add(group)
        for other in place[2]:
            self.get(other).missed.add(group)
        by = now + self._config.heartbeat_s
        bare = [other for other in place[1] if (self.table[other].tick_at or _NEVER) > by]
        return bare + [other for other in place[2] if self.table[other].tick_at is None]

    def unhang(self, group: bytes) -> None:
        """A group is awake, or gone."""
        place = self._places.pop(group, None)
        if place is not None:
            for other in place[1]:
                neighbour = self.table[other]
                (neighbour.led if place[0] else neighbour.followed).discard(group)
            for other in place[2]:
                self.table[other].missed.discard(group)

    def heard(self, now: float, sender: bytes, boot: bytes, beat: int) -> list[bytes]:
        """A frame came. Groups to be woken, sorted: the sender was restarted and knows nothing of their rest."""
        neighbour = self.get(sender)
        neighbour.heard_at = now
        woken = []
        if neighbour.boot != boot:
            if neighbour.boot:
                woken = sorted(neighbour.led | neighbour.followed)
            neighbour.boot = boot
        if neighbour.missed:
            woken = sorted(neighbour.missed.union(woken))
        if beat == BEAT:
            self._say(sender, neighbour, BEAT_REPLY)
        return woken

    def call(self, id: bytes) -> None:
        """Says to a node that this one is here, and looks for the leader of a group."""
        self._say(id, self.get(id), BEAT)

    def tick(self, now: float, late_s: float, id: bytes) -> list[bytes]:
        """The timer of a node. Groups to be woken, sorted: it is silent. Time in which this process did not run counts
        against nobody."""
        neighbour = self.table[id]
        if late_s > self._config.heartbeat_s:
            neighbour.heard_at = max(neighbour.heard_at, now - self._config.heartbeat_s)
        if neighbour.led or neighbour.missed:
            # Who is missed may lead the group as well, in another term, and rest without this node: one of the two has to speak.
            self._say(id, neighbour, BEAT)
        if now - neighbour.heard_at >= self._config.election_timeout_s:
            return sorted(neighbour.led | neighbour.followed)
        return []

    def take_talk(self) -> list[bytes]:
        """Nodes to which something is to be said, sorted."""
        talk = sorted(self._talk)
        self._talk.clear()
        return talk

    def _say(self, id: bytes, neighbour: Neighbour, beat: int) -> None:
        if neighbour.beat != BEAT:
            neighbour.beat = beat
        self._talk.add(id)
