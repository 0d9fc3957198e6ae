"""What can be wrong with a snapshot. Facts, where they are known: ``path``, ``shard``, ``chunk``, ``offset``, ``bytes``."""

from __future__ import annotations

from swarm.errors import SwarmError
from swarm.exit_codes import ExitCode


class SnapshotError(SwarmError):
    """The root of what goes wrong with snapshots."""


class SnapshotMalformed(SnapshotError, ValueError):
    """It is no snapshot, is of a later version, or says of itself what cannot be."""

    exit_code = ExitCode.DATA


class SnapshotDamaged(SnapshotError):
    """Bytes are not what the manifest says they are, or are missing: ``shard``, ``chunk`` (its number), ``file``, ``offset``, ``bytes``.

    A chunk with that hash from anywhere repairs it; ``hash`` is the one that it must have.
    """


class SnapshotKeyNeeded(SnapshotError, PermissionError):
    """It is encrypted, and the key was not given, or is another one."""

    exit_code = ExitCode.DENIED


class SnapshotUntrusted(SnapshotError, PermissionError):
    """The manifest is not signed by somebody who is believed."""

    exit_code = ExitCode.DENIED


class SnapshotExists(SnapshotError, FileExistsError):
    """There is something already where the snapshot was to be."""

    exit_code = ExitCode.USAGE
