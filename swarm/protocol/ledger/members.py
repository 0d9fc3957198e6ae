"""Who is to be in a group: three voters on three hosts where there are three, else one voter and a learner. Pure policy.

One change at a time is proposed by who leads, and each change is safe by itself (Ongaro 2014, 4.1); what is here decides
only which would be good. A verdict of death changes nothing; to be away for long, or to have left for good, does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from blake3 import blake3

from swarm.protocol.ledger.config import VOTERS, LedgerConfig
from swarm.protocol.raft.entries import Members


class Presence(Enum):
    """What is known of a node of the fleet."""

    ALIVE = "alive"
    AWAY = "away"
    """Suspected, dead or gone with a goodbye: it may come back."""
    DRAINING = "draining"
    """Alive, and about to be restarted: it stays a member, and should not lead."""
    LEAVING = "leaving"
    """Alive, and about to leave for good: its parts are to be handed over."""
    GONE = "gone"
    """Removed from the fleet, or gone for good by its own word."""


class Node(NamedTuple):
    """A node of the fleet."""

    host: bytes
    presence: Presence
    since: float
    """When its presence began, as seen here."""


class What(Enum):
    """Kinds of changes."""

    ADD = "add"
    """As a learner."""
    PROMOTE = "promote"
    REMOVE = "remove"
    TRANSFER = "transfer"
    """Of leadership."""


class Change(NamedTuple):
    """What to do next."""

    what: What
    id: bytes


@dataclass(slots=True)
class View:
    """What is known of a group by its leader `me`."""

    home: bytes
    me: bytes
    members: Members
    nodes: Mapping[bytes, Node]
    now: float
    config: LedgerConfig
    absent: Collection[bytes]
    """Members that do not answer the leader."""
    caught_up: Callable[[bytes], bool]
    removed_at: Mapping[bytes, float]
    """When nodes were removed that are none of the members now."""
    began: float = float("-inf")
    """Since when the leader has been looking who there is."""

    def alive(self, id: bytes) -> bool:
        """Whether a node is there."""
        node = self.nodes.get(id)
        return node is not None and node.presence not in (Presence.AWAY, Presence.GONE) and id not in self.absent

    def stays(self, id: bytes) -> bool:
        """Whether a node is to be counted on: it has not left for good, nor is about to, nor is away for long."""
        node = self.nodes.get(id)
        if node is None:
            # Whoever has just started does not know everybody yet.
            return id in self.members.all and self.now - self.began < self.config.replace_after_s
        if node.presence in (Presence.GONE, Presence.LEAVING):
            return False
        return node.presence is not Presence.AWAY or self.now - node.since < self.config.replace_after_s

    def host(self, id: bytes) -> bytes:
        """A node's host; an unknown node has one of its own."""
        node = self.nodes.get(id)
        return id if node is None else node.host


def rank(home: bytes, id: bytes) -> bytes:
    """The order in which nodes are taken into a home's group (rendezvous hashing, Thaler and Ravishankar 1998): each home has
    another one, so that groups are spread over the fleet."""
    return blake3(home + id, derive_key_context="nanoswarm group members v1").digest(8)


def wanted(view: View) -> list[bytes]:
    """Nodes on distinct hosts that should be the members, at most three, the home first if it stays."""
    home, members = view.home, view.members

    def by_rank(ids: Collection[bytes]) -> list[bytes]:
        return sorted((id for id in ids if id != home), key=lambda id: (rank(home, id), id))

    others = [
        id
        for id, node in view.nodes.items()
        if node.presence is Presence.ALIVE
        and id not in members.all
        and view.now - view.removed_at.get(id, float("-inf")) >= view.config.readd_after_s
    ]
    order = [home] if home in members.all or home in others else []
    order += by_rank(members.voters)
    order += by_rank([id for id in members.learners if view.alive(id)])
    order += by_rank(others)
    order += by_rank([id for id in members.learners if not view.alive(id)])
    found: list[bytes] = []
    hosts: set[bytes] = set()
    for id in order:
        if len(found) < VOTERS and view.stays(id) and view.host(id) not in hosts:
            found.append(id)
            hosts.add(view.host(id))
    return found


def next_change(view: View) -> Change | None:
    """What to do next, or nothing."""
    want, members = wanted(view), view.members
    full = len(want) == VOTERS
    for id in members.learners:
        if id not in want:
            return Change(What.REMOVE, id)
    for id in want:
        if id not in members.all:
            return Change(What.ADD, id)
    ready = [id for id in members.learners if view.caught_up(id) and view.alive(id)]
    surplus = [id for id in members.voters if id not in want]
    if full:
        lost = [id for id in surplus if not view.alive(id)]
        if lost and (ready or len(members.voters) > VOTERS or not members.learners):
            return _remove(view, lost[0], want)
        # From one voter the way to three leads over two, of which none can be missed: all have to be there before.
        if ready and not lost and len(ready) == len(members.learners):
            return Change(What.PROMOTE, ready[0]) if _enough(view, (*members.voters, ready[0])) else None
        if surplus and not members.learners:
            return _remove(view, surplus[0], want)
        return None
    if surplus:
        if len(surplus) == len(members.voters):
            heirs = [id for id in ready if id in want]
            return Change(What.PROMOTE, heirs[0]) if heirs else None
        return _remove(view, surplus[0], want)
    if len(members.voters) > 1:
        # Of two voters none can be missed, and neither is more than a copy: one votes, the other learns.
        keep = view.home if view.home in members.voters else view.me
        return _remove(view, next(id for id in members.voters if id != keep), want)
    return None


def _enough(view: View, voters: Collection[bytes]) -> bool:
    return 2 * sum(id == view.me or view.alive(id) for id in voters) > len(voters)


def _remove(view: View, id: bytes, want: list[bytes]) -> Change | None:
    rest = [voter for voter in view.members.voters if voter != id]
    if not rest or not _enough(view, rest):
        return None
    if id == view.me:
        heirs = [heir for heir in want if heir in rest and view.alive(heir)] or [v for v in rest if view.alive(v)]
        return Change(What.TRANSFER, heirs[0]) if heirs else None
    return Change(What.REMOVE, id)
