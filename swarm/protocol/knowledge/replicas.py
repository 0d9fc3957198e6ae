"""Who holds which shard: rendezvous hashing (Thaler and Ravishankar 1998, "highest random weight").

Each node has a weight for each shard, drawn from both their names; the heaviest hold it. So all agree who knows the same
members, and when one comes or goes only what it holds moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from blake3 import blake3

from swarm.protocol.knowledge.kinds import WHOLE


@dataclass(frozen=True, slots=True)
class Replication:
    """On how many nodes each shard is."""

    factor: int = 5
    whole_nodes_max: int = 16
    """Up to so many nodes each holds everything."""


def weight(shard: int, node: bytes) -> bytes:
    """How much a node is for a shard."""
    return blake3(b"knowledge shard" + shard.to_bytes(2, "big") + node).digest(8)


def holders(shard: int, nodes: Iterable[bytes], replication: Replication) -> list[bytes]:
    """The nodes that hold a shard, the heaviest first; all of them in a small fleet, or of the shard `kinds.WHOLE`, in order."""
    known = sorted(set(nodes))
    if shard == WHOLE or len(known) <= max(replication.whole_nodes_max, replication.factor):
        return known
    return sorted(known, key=lambda node: (weight(shard, node), node), reverse=True)[: replication.factor]
