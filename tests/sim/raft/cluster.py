"""Nodes side by side without disks, network or faults: messages come at once, time is told. For tests of one thing, and for
measuring."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from random import Random

from swarm.protocol.raft import wire
from swarm.protocol.raft.config import DEFAULT, RaftConfig
from swarm.protocol.raft.effects import Effect, Leading, Send, Sync
from swarm.protocol.raft.entries import Members, Recovered, Snapshot
from swarm.protocol.raft.node import RaftNode
from swarm.protocol.raft.raft import Raft
from swarm.protocol.raft.wire import Message

GROUP = b"group"


def id_of(number: int) -> bytes:
    """The id of a node."""
    return b"%016d" % number


class Cluster:
    """`count` nodes, voters of `groups`; syncs are done at once unless `hold` has them wait."""

    def __init__(
        self,
        count: int = 3,
        groups: Iterable[bytes] = (GROUP,),
        config: RaftConfig = DEFAULT,
        preferred: int | None = 0,
        recovered: Recovered | None = None,
    ) -> None:
        self.now = 0.0
        self.config = config
        self.members = Members.of(id_of(number) for number in range(count))
        self.nodes: dict[bytes, RaftNode] = {}
        self.events: dict[bytes, list[Effect]] = {}
        self.held: dict[bytes, deque[int]] = {}
        self.writes: dict[bytes, list[Sync]] = {}
        self.hold: set[bytes] = set()
        """Nodes whose syncs wait."""
        self.cut: Callable[[bytes, bytes], bool] = lambda source, to: False
        self.drop: Callable[[bytes, bytes, Message], bool] | None = None
        self.frames = 0
        self.preferred = None if preferred is None else id_of(preferred)
        found = recovered or Recovered(snapshot=Snapshot(members=self.members))
        for number in range(count):
            self.add(number, {group: found for group in groups})

    def add(self, number: int, groups: dict[bytes, Recovered]) -> RaftNode:
        """One more node, or a node that starts anew."""
        id = id_of(number)
        boot = b"%08d" % (self.frames + number)
        node = self.nodes[id] = RaftNode(self.now, id, boot, Random(number + self.frames), self.config)
        self.events[id], self.held[id], self.writes[id] = [], deque(), []
        for group, found in groups.items():
            node.create(self.now, group, found, self.preferred)
        return node

    def node(self, number: int) -> RaftNode:
        """A node."""
        return self.nodes[id_of(number)]

    def raft(self, number: int, group: bytes = GROUP) -> Raft:
        """A node's part in a group."""
        raft = self.nodes[id_of(number)].group(group)
        assert raft is not None
        return raft

    def leader(self, group: bytes = GROUP) -> int | None:
        """Who leads, in the latest term."""
        found = [(raft.term, int(id)) for id, node in self.nodes.items() if (raft := node.group(group)) and raft.leads]
        return max(found)[1] if found else None

    def turn(self) -> None:
        """Everybody takes turns until nobody has anything to say."""
        busy = True
        while busy:
            busy = False
            for id, node in self.nodes.items():
                for effect in node.take():
                    if type(effect) is Send:
                        busy = True
                        self._carry(id, effect)
                    elif type(effect) is Sync:
                        self.held[id].append(effect.number)
                        self.writes[id].append(effect)
                    else:
                        self.events[id].append(effect)
                if self.held[id] and id not in self.hold:
                    node.synced(self.now, self.held[id][-1])
                    self.held[id].clear()
                    busy = True

    def _carry(self, source: bytes, effect: Send) -> None:
        self.frames += 1
        if effect.to not in self.nodes or self.cut(source, effect.to):
            return
        payload = effect.payload
        if self.drop is not None:
            frame = wire.decode(payload)
            kept = [message for message in frame.messages if not self.drop(source, effect.to, message)]
            payload = wire.encode(frame.boot, frame.beat, kept)
        self.nodes[effect.to].receive(self.now, source, payload)

    def run(self, for_s: float) -> None:
        """Lets time go by."""
        until = self.now + for_s
        self.turn()
        while True:
            instants = [at for node in self.nodes.values() if (at := node.next_deadline()) is not None]
            nearest = min(instants, default=until)
            if nearest > until:
                self.now = until
                return
            self.now = max(self.now, nearest)
            for node in self.nodes.values():
                at = node.next_deadline()
                if at is not None and at <= self.now:
                    node.tick(self.now)
            self.turn()

    def elect(self, group: bytes = GROUP, within_s: float = 6.0) -> int:
        """Waits for a leader; the preferred one if there is one."""
        until = self.now + within_s
        while self.now < until:
            leader = self.leader(group)
            if leader is not None and self.preferred in (None, id_of(leader)):
                self.run(self.config.heartbeat_s)
                return leader
            self.run(self.config.heartbeat_s / 2)
        raise AssertionError("no leader")

    def led_terms(self, group: bytes = GROUP) -> list[int]:
        """Terms in which somebody has led, sorted."""
        return sorted(
            effect.term
            for events in self.events.values()
            for effect in events
            if type(effect) is Leading and effect.group == group
        )
