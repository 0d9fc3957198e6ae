"""What a node does about the members of the groups that it leads, and about handing over when it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from swarm.protocol.effects import Fact
from swarm.protocol.ledger.config import VOTERS, LedgerConfig
from swarm.protocol.ledger.effects import Drained, Effect
from swarm.protocol.ledger.group import Group
from swarm.protocol.ledger.members import Change, Node, Presence, View, What, next_change
from swarm.protocol.raft.effects import Proposed
from swarm.protocol.raft.effects import Refusal as RaftRefusal
from swarm.protocol.raft.node import RaftNode
from swarm.protocol.raft.raft import Raft

_NEVER = float("inf")
NODES_MAX = 4096
"""Nodes that are away and still known."""


class Steward:
    """Knows the fleet, and has changes of members proposed, one at a time in each group."""

    def __init__(
        self, now: float, me: bytes, host: bytes, config: LedgerConfig, raft: RaftNode, groups: Mapping[bytes, Group]
    ) -> None:
        self._me = me
        self._began = now
        self._config = config
        self._raft = raft
        self._groups = groups
        self.nodes: dict[bytes, Node] = {me: Node(host, Presence.ALIVE, now)}
        self.at = now
        """When to look again."""
        self.provided: Callable[[bytes, bytes], bool] = lambda group, id: True
        """Whether a learner has what lies beside a log, or is waited for no longer."""
        self._draining = False
        self._for_good = False
        self._drained: tuple[bytes, ...] | None = None
        """What was said to be left."""

    def host(self, id: bytes) -> bytes:
        """On which machine a node is; an unknown one has one of its own."""
        node = self.nodes.get(id)
        return id if node is None else node.host

    def preferred(self, home: bytes) -> bytes | None:
        """Who is to lead the group of a home: the home, unless it is leaving."""
        if home == self._me:
            return None if self._draining else home
        node = self.nodes.get(home)
        leaves = node is not None and node.presence in (Presence.DRAINING, Presence.LEAVING, Presence.GONE)
        return None if leaves else home

    def knows(self, id: bytes) -> bool:
        """Whether a node is a member of the fleet, as far as is known here."""
        node = self.nodes.get(id)
        return node is not None and node.presence is not Presence.GONE

    def seen(self, now: float, rows: Iterable[tuple[bytes, bytes, Presence]]) -> None:
        """All members of the fleet but this one; who is not named is away."""
        given = {id: (host, presence) for id, host, presence in rows if id != self._me}
        for id, node in self.nodes.items():
            if id != self._me and id not in given:
                given[id] = (node.host, node.presence if node.presence is Presence.GONE else Presence.AWAY)
        nodes = {self._me: self.nodes[self._me]}
        for id in sorted(given):
            host, presence = given[id]
            before = self.nodes.get(id)
            since = before.since if before is not None and before.presence is presence else now
            nodes[id] = Node(host, presence, since)
        if len(nodes) > NODES_MAX:
            old = sorted(
                (node.since, id) for id, node in nodes.items() if node.presence in (Presence.AWAY, Presence.GONE)
            )
            for _, id in old[: len(nodes) - NODES_MAX]:
                del nodes[id]
        if nodes != self.nodes:
            self.nodes = nodes
            self._prefer(now)
            self.unsettle(now)

    def unsettle(self, now: float) -> None:
        """Something is new: all groups are to be looked at."""
        for group in self._groups.values():
            group.settled = False
        self.at = min(self.at, now)

    def _prefer(self, now: float) -> None:
        for name, group in self._groups.items():
            self._raft.prefer(now, name, self.preferred(group.home))

    def drain(self, now: float, for_good: bool) -> None:
        """Hands over leadership, and with `for_good` all parts in groups."""
        self._draining, self._for_good, self._drained = True, for_good, None
        presence = Presence.LEAVING if for_good else Presence.DRAINING
        self.nodes[self._me] = self.nodes[self._me]._replace(presence=presence, since=now)
        self._prefer(now)
        self.unsettle(now)

    def look(self, now: float) -> list[Effect]:
        """Looks at all groups that are not as they should be."""
        effects: list[Effect] = []
        self.at = _NEVER
        for name, group in sorted(self._groups.items()):
            raft = self._raft.group(name)
            if raft is None or group.local or group.settled or not raft.leads:
                continue
            change = self._next(now, group, raft) if raft.established else None
            if change is not None:
                effects += self._do(now, group, raft, change)
            group.settled = change is None and self._rests(now, group, raft)
            if not group.settled:
                self.at = now + self._config.policy_every_s
        if self._draining:
            self.at = now + self._config.policy_every_s
            effects += self._hand_over(now)
        away = [node.since for node in self.nodes.values() if node.presence is Presence.AWAY]
        for since in (self._began, *away):  # who was never heard of is away since this one began to look
            gone_at = since + self._config.replace_after_s
            if now < gone_at < self.at:
                self.at = gone_at
                for group in self._groups.values():
                    group.settled = False
        return effects

    def _rests(self, now: float, group: Group, raft: Raft) -> bool:
        """Whether nothing will change as long as nobody comes or goes."""
        members = raft.members
        soon = any(now - at < self._config.readd_after_s for at in group.removed_at.values())
        return (
            raft.established
            and not soon
            and len(members.voters) in (1, VOTERS)
            and (not members.learners or len(members.voters) == len(members.learners) == 1)
        )

    def _next(self, now: float, group: Group, raft: Raft) -> Change | None:
        return next_change(
            View(
                group.home,
                self._me,
                raft.members,
                self.nodes,
                now,
                self._config,
                raft.absent,
                lambda id: raft.caught_up(id) and self.provided(group.name, id),
                group.removed_at,
                self._began,
            )
        )

    def _do(self, now: float, group: Group, raft: Raft, change: Change) -> list[Effect]:
        name, id = group.name, change.id
        did: Proposed | RaftRefusal | None
        match change.what:
            case What.ADD:
                did = self._raft.add_learner(now, name, id)
            case What.PROMOTE:
                did = self._raft.promote(now, name, id)
            case What.REMOVE:
                did = self._raft.remove(now, name, id)
                if isinstance(did, Proposed):
                    group.removed_at[id] = now
            case What.TRANSFER:
                did = self._raft.transfer(now, name, id)
        if isinstance(did, RaftRefusal):
            return []
        return [Fact("ledger.members", {"change": change.what.value}, {"group": name, "node": id})]

    def _hand_over(self, now: float) -> list[Effect]:
        left: list[bytes] = []
        busy = False
        for name, group in sorted(self._groups.items()):
            raft = self._raft.group(name)
            if raft is None:
                continue
            if group.local:
                if group.state.unfinished:
                    left.append(name)
                continue
            others = [id for id in raft.members.all if id != self._me and self._there(id) and id not in raft.absent]
            heirs = [id for id in others if id in raft.members.voters]
            if raft.leads and heirs:
                busy = True
                if not raft.handing_over:
                    heirs.sort(key=lambda id: (not raft.caught_up(id), id != group.home))
                    self._raft.transfer(now, name, heirs[0])
            elif raft.leads and self._for_good and others:
                busy = True  # a learner will be a voter soon
            elif raft.leads:
                left.append(name)
            elif self._for_good and self._me in raft.members.all and not group.removed and raft.leader is not None:
                busy = True
        if busy or self._drained == tuple(left):
            return []
        self._drained = tuple(left)
        return [Drained(self._drained)]

    def _there(self, id: bytes) -> bool:
        node = self.nodes.get(id)
        return node is not None and node.presence is Presence.ALIVE
