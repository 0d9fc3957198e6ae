"""The exit statuses of the command line: one number a kind of ending, so that a script can tell them apart.

Small numbers are endings of the work, 64 and up are those of ``sysexits.h`` (BSD, 1993), 124 to 127 are those of
``timeout`` and ``env`` (coreutils), and 128 + n is a shell's way to say "ended by signal n".
"""

from __future__ import annotations

import enum
from typing import Final


class ExitCode(enum.IntEnum):
    """What a ``swarm`` command can end with. ``docs/reference/exit-codes.md`` is generated from this."""

    OK = 0, "done"
    FAILED = 1, "the work failed: a task raised, crashed or was quarantined, or some of several did"
    USAGE = 2, "the command line was not understood"
    LOST = 3, "the outcome is unknown: a task that may not be repeated may have run"
    CANCELLED = 4, "the work was cancelled, by somebody else than this command's Ctrl-C"
    REFUSED = 5, "the fleet will not run it: nothing fits, not granted, unknown callable, or its deadline has passed"
    NOT_FOUND = 6, "no such task, member or file"
    DATA = 65, "what was handed over cannot be carried: too large, or not picklable"
    NO_FLEET = 69, "no fleet found, or the node went away and no other took over"
    INTERNAL = 70, "a mistake in this software: please report it, with --debug"
    SYSTEM = 71, "the system said no: disk full, port in use, no permission on a file"
    BUSY = 75, "the fleet is full at the moment: come back later"
    DENIED = (
        77,
        "not admitted: a bad, expired or used token, a revoked or foreign certificate, a node that runs elsewhere",
    )
    CONFIG = 78, "a setting is wrong"
    TIMEOUT = 124, "it took longer than the time it was given"
    RUN_ERROR = 125, "`swarm run`: the command could not be run; any other number is the command's own"
    NOT_EXECUTABLE = 126, "`swarm run`: the command was found and could not be executed"
    NO_COMMAND = 127, "`swarm run`: no such command where it was to run"
    INTERRUPTED = 130, "Ctrl-C (128 + SIGINT)"
    TERMINATED = 143, "SIGTERM (128 + SIGTERM)"

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        """A member with its one-line meaning beside the number."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


SIGNAL_BASE: Final = 128


def of_command(exit_status: int | None, signal_number: int | None) -> int:
    """A command that ended with ``exit_status``, or by ``signal_number`` (then 128 + it), as shells do."""
    if signal_number:
        return SIGNAL_BASE + signal_number
    return (exit_status or 0) & 0xFF
