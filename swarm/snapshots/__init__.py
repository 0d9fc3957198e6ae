"""Snapshots: shards of records in files that open in no time, are checked when they are touched, and share what did not change.

The format is specified in docs/reference/snapshot-format.md.
"""

from __future__ import annotations

from swarm.snapshots.errors import (
    SnapshotDamaged,
    SnapshotError,
    SnapshotExists,
    SnapshotKeyNeeded,
    SnapshotMalformed,
    SnapshotUntrusted,
)
from swarm.snapshots.manifest import Manifest, ShardLine
from swarm.snapshots.reading import Shard
from swarm.snapshots.snapshot import Created, Snapshot, create, read_manifest

__all__ = [
    "Created",
    "Manifest",
    "Shard",
    "ShardLine",
    "Snapshot",
    "SnapshotDamaged",
    "SnapshotError",
    "SnapshotExists",
    "SnapshotKeyNeeded",
    "SnapshotMalformed",
    "SnapshotUntrusted",
    "create",
    "read_manifest",
]
