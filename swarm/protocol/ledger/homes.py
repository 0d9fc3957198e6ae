"""Which log a task is in: its id begins with a tag of its home, and nodes say in which homes' groups they have a part.

A durable session is 8 bytes, the home's tag (3) and 5 random ones, so the key of a batch and the id of a task name their
home. A home has two groups: `fleet_group`, which two other nodes help to keep, and `node_group`, of which it is the
only member: there is what was submitted with ``durability="node"``, committed as soon as its own disk has it. One log for
both could not keep its word: what one disk alone has is cut off when another leader, who never saw it, comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from blake3 import blake3

from swarm.protocol.ids import BATCH_KEY_BYTES, LOG_TAG_BYTES
from swarm.protocol.raft.config import NODE_ID_BYTES

TAG_BYTES: Final = LOG_TAG_BYTES
SESSION_RANDOM_BYTES: Final = 5
SESSION_BYTES: Final = TAG_BYTES + SESSION_RANDOM_BYTES
HOMES_MAX: Final = 64
"""Homes that a node names in its own record."""
_NODE: Final = b"n"


def home_tag(home: bytes) -> bytes:
    """The 3 bytes with which the keys of a home's durable batches begin. Two homes may have the same."""
    return blake3(home, derive_key_context="nanoswarm home tag v1").digest(TAG_BYTES)


def durable_session(home: bytes, random: bytes) -> bytes:
    """The session (8 bytes) of a client whose batches go to a home's log, from 5 random bytes."""
    assert len(random) == SESSION_RANDOM_BYTES, random
    return home_tag(home) + random


def named_key(home: bytes, client: bytes, name: bytes) -> bytes:
    """The key of the durable batch that a client (its id) calls by a name: the same one whenever it says so again."""
    hasher = blake3(client, derive_key_context="nanoswarm named batch v1")
    return home_tag(home) + hasher.update(name).digest(BATCH_KEY_BYTES - TAG_BYTES)


def fleet_group(home: bytes) -> bytes:
    """The group of a home's tasks of ``durability="fleet"``."""
    return home


def node_group(home: bytes) -> bytes:
    """The group of a home's tasks of ``durability="node"``."""
    return home + _NODE


def home_of(group: bytes) -> bytes:
    """The home of a group."""
    return group[:NODE_ID_BYTES]


def is_local(group: bytes) -> bool:
    """Whether a group is its home's alone."""
    return group[NODE_ID_BYTES:] == _NODE


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node says in its own record of the groups in which it has a part."""

    voting: tuple[bytes, ...] = ()
    """Homes of whose groups it is a voter; sorted."""
    leading: tuple[bytes, ...] = ()
    """Homes whose groups it leads; sorted."""

    def info(self) -> dict[str, Any]:
        """As a value of the own record's info."""
        return {"v": list(self.voting), "l": list(self.leading)}

    @classmethod
    def read(cls, value: Any) -> Announcement:
        """From another's record; what is malformed says nothing."""
        if not isinstance(value, Mapping):
            return cls()
        return cls(_homes(value.get("v")), _homes(value.get("l")))


def _homes(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list | tuple) or len(value) > HOMES_MAX:
        return ()
    return tuple(sorted({id for id in value if type(id) is bytes and len(id) == NODE_ID_BYTES}))


def homes_of(key: bytes, announcements: Iterable[tuple[bytes, Announcement]]) -> list[tuple[bytes, tuple[bytes, ...]]]:
    """Where to ask for a batch or a task: [(home, nodes to ask, who says that it leads first)…], sorted by home.

    `announcements` are (node, what it says) of all members that live, this node included. More than one home has the same
    tag now and then: then all of them are asked, and "not here" counts once all have said so.
    """
    tag = key[:TAG_BYTES]
    leaders: dict[bytes, list[bytes]] = {}
    voters: dict[bytes, list[bytes]] = {}
    for node, said in sorted(announcements, key=lambda row: row[0]):
        for home in said.leading:
            if home_tag(home) == tag:
                leaders.setdefault(home, []).append(node)
        for home in said.voting:
            if home_tag(home) == tag:
                voters.setdefault(home, []).append(node)
    return [
        (home, tuple(dict.fromkeys((*leaders.get(home, ()), *voters.get(home, ())))))
        for home in sorted(leaders.keys() | voters.keys())
    ]
