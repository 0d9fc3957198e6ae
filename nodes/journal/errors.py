"""Why a journal is not opened, and what is said when it cannot go on."""

from __future__ import annotations

from enum import Enum

from swarm.errors import SystemRefused


class Reason(Enum):
    """What is wrong with a journal that is not opened. Nothing is changed in it."""

    MISSING = "missing"
    """There is none, and none is to be made."""
    LOCKED = "locked"
    """Another process has it open."""
    FOREIGN = "foreign"
    """It belongs to another fleet, or there are files in its directory that are none of a journal."""
    OTHER_NODE = "other-node"
    NEWER = "newer"
    """It was written by a later version."""
    HALF_DELETED = "half-deleted"
    """Files that must be there are gone."""
    LOST = "lost"
    """Votes may be gone from both places in which they are kept: the node needs a new identity."""
    UNREADABLE = "unreadable"
    """The system does not let it be read, or what is there is no journal."""
    READ_ONLY = "read-only"
    NO_SPACE = "no-space"
    """There is no space for what has to be written before anything can be."""
    AWAY = "away"
    """The database is not there, or does not let this node in."""
    UNSAFE = "unsafe"
    """The database does not sync what it is told to keep."""


class JournalRefused(SystemRefused):
    """A journal is not opened, for a `reason`."""

    reason: Reason

    def __init__(self, reason: Reason, message: str, *, hint: str = "", **facts: object) -> None:
        super().__init__(message, hint=hint, **facts)
        self.reason = reason
