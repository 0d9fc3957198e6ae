"""Priorities and outcome statuses, and which step follows which outcome."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    """How urgent a task is, across the fleet."""

    LOW = 0
    STANDARD = 1
    HIGH = 2
    CRITICAL = 3


class Status(IntEnum):
    """How an attempt, or a task, ended. One byte on the wire.

    Values below 16 are final: a task has exactly one of them. From 16 on they are said between executor and owner only.
    """

    OK = 0
    FAILED = 1
    CANCELLED = 2
    TIMEOUT = 3
    CRASHED = 4
    LOST = 5
    REFUSED = 6
    DEPENDENCY = 7
    QUARANTINED = 8
    EXPIRED = 9
    RETRY = 16
    RETURNED = 17
    SAVED = 18
    """It ended itself at a safe point; the payload is its state, with which it goes on elsewhere."""


FINAL_BELOW = 16
CRASHES_MAX = 3
"""Crashes of started attempts after which a task is quarantined rather than run again."""


def after_attempt(status: int, *, rerun: bool, retries_left: int, crashes: int, cancelled: bool) -> Status | None:
    """What an attempt's end means for its task: its final status, or None when the task shall run again.

    The transition table of the owner, in one place:

    ======== ============================================ =====================
    attempt  condition                                    task
    ======== ============================================ =====================
    RETURNED cancelled                                    CANCELLED
    RETURNED                                              again
    SAVED    cancelled                                    CANCELLED
    SAVED                                                 again (from its state)
    RETRY    retries left and not cancelled               again (after backoff)
    RETRY                                                 FAILED
    CRASHED  cancelled                                    CANCELLED
    CRASHED  not repeatable                               CRASHED
    CRASHED  crashed fewer than CRASHES_MAX times         again
    CRASHED                                               QUARANTINED
    LOST     cancelled                                    CANCELLED
    LOST     repeatable                                   again
    LOST     not repeatable                               LOST
    other                                                 as it is
    ======== ============================================ =====================
    """
    match status:
        case Status.RETURNED | Status.SAVED:
            return Status.CANCELLED if cancelled else None
        case Status.RETRY:
            return None if retries_left > 0 and not cancelled else Status.FAILED
        case Status.CRASHED if cancelled:
            return Status.CANCELLED
        case Status.CRASHED if not rerun:
            return Status.CRASHED
        case Status.CRASHED:
            return None if crashes < CRASHES_MAX else Status.QUARANTINED
        case Status.LOST if cancelled:
            return Status.CANCELLED
        case Status.LOST:
            return None if rerun else Status.LOST
        case _:
            return Status(status)
