"""The epoch of a node: how often it was started."""

from __future__ import annotations

from pathlib import Path

from nodes.machine import read_number
from swarm.errors import SystemRefused


def next_epoch(directory: Path) -> int:
    """A number above that of every earlier start; dispatch numbers (fencing tokens) begin with it.

    SystemRefused when it can not be written to the node's directory.
    """
    path = directory / "epoch"
    epoch = read_number(path) + 1
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(str(epoch))
        temporary.replace(path)
    except OSError as error:
        raise SystemRefused(
            f"can not write {path}: {error.strerror or error}",
            hint="free some space; a node that forgets its epoch could give one token twice",
            path=str(path),
        ) from error
    return epoch
