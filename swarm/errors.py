"""What can go wrong, as types: a message of one line, a hint what to do about it, and the facts as attributes.

Every error that a user can meet is a :class:`SwarmError`. Those that end a task are :class:`TaskError`. Where the
standard library has a name for it, the error is that, too (``TimeoutError``, ``CancelledError``, ``TypeError``,
``ValueError``), so that code written for its executors goes on working.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any, ClassVar

from swarm.exit_codes import ExitCode


class SwarmError(Exception):
    """The root. ``message`` is one line; ``hint`` says what to do; ``facts`` are readable as attributes.

    >>> error = SwarmError("port 9464 is in use", hint="choose another: --http-port", port=9464)
    >>> error.port, str(error)
    (9464, 'port 9464 is in use')
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    message: str
    hint: str
    facts: dict[str, Any]

    def __init__(self, message: str = "", *, hint: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts

    def __getattr__(self, name: str) -> Any:
        # only reached when there is no such attribute; facts itself may be missing while an unpickler fills the object
        facts = self.__dict__.get("facts")
        if facts is not None and name in facts:
            return facts[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __str__(self) -> str:
        return self.message


class ConfigError(SwarmError, ValueError):
    """A setting is unknown, malformed, or does not go with another."""

    exit_code = ExitCode.CONFIG


class UsageError(SwarmError, ValueError):
    """A command line that argparse cannot see to be wrong."""

    exit_code = ExitCode.USAGE


class SystemRefused(SwarmError):
    """The operating system said no: a full disk, a port in use, a file that may not be read."""

    exit_code = ExitCode.SYSTEM


class StoreFull(SystemRefused):
    """All blobs that a node keeps are in use, so there is no room for another one at the moment."""


class NotFound(SwarmError, LookupError):
    """No such task, member or file, or an id prefix that is not unique (``matches`` has those it could mean)."""

    exit_code = ExitCode.NOT_FOUND


class FleetNotFound(SwarmError, ConnectionError):
    """No fleet was found in time, or the connection to it is gone and no other node took over."""

    exit_code = ExitCode.NO_FLEET


class JoinRefused(SwarmError, PermissionError):
    """The fleet did not admit this machine: a bad, expired, used or foreign token, a revoked certificate."""

    exit_code = ExitCode.DENIED


class NotAccepted(SwarmError):
    """The fleet is full. ``retry_after_s`` (seconds) says when it is worth asking again."""

    exit_code = ExitCode.BUSY
    retry_after_s: float

    def __init__(self, message: str = "", *, retry_after_s: float = 1.0, hint: str = "", **facts: Any) -> None:
        super().__init__(message, hint=hint, **facts)
        self.retry_after_s = retry_after_s


class MoveRefused(SwarmError):
    """A task was not moved, and goes on where it is. ``reason`` says why in a word: ``not-running``, ``no-checkpoint``, ``there``,
    ``unfit``, ``moving``, ``ended``, ``unsaved`` or ``gone``."""

    exit_code = ExitCode.REFUSED


class MoveBusy(MoveRefused):
    """The node to which a task was to be moved has no slot for it at the moment, drains, or is not reached (``reason`` is ``busy``)."""

    exit_code = ExitCode.BUSY


class MoveLate(MoveRefused, TimeoutError):
    """A task that was to be moved came to no safe point in time (``reason`` is ``late``)."""

    exit_code = ExitCode.TIMEOUT


class NoQuorum(SwarmError):
    """What became of something durable is not known at the moment: of the hosts that keep it, fewer than two are there."""

    exit_code = ExitCode.BUSY


class PayloadTooLarge(SwarmError, ValueError):
    """Arguments or a result over the limit (``size_bytes``, ``limit_bytes``)."""

    exit_code = ExitCode.DATA


class NotPicklable(SwarmError, TypeError):
    """A callable, an argument or a result that can not be sent by value."""

    exit_code = ExitCode.DATA


class TaskError(SwarmError):
    """A task ended without a value. Facts, where known: ``task`` (text id), ``node``, ``attempt``."""


class TaskFailed(TaskError):
    """The task raised an exception that could not be brought here as itself.

    Fact ``type`` names it, ``traceback`` is its text.
    An exception that could be brought here is raised as itself, caused by a :class:`RemoteTraceback`.
    """


class TaskTimeout(TaskError, TimeoutError):
    """The task ran longer than its ``timeout_s`` and was killed, its process group with it."""

    exit_code = ExitCode.TIMEOUT


class TaskCancelled(TaskError, concurrent.futures.CancelledError):
    """The task was cancelled, before it ran or while it ran."""

    exit_code = ExitCode.CANCELLED


class WorkerCrashed(TaskError):
    """The worker process died while this task ran in it, as often as the task may be tried."""


class TaskQuarantined(WorkerCrashed):
    """The task took too many workers down with it and is not tried again."""


class TaskLost(TaskError):
    """The task may have run, may not be repeated, and what came of it is not known."""

    exit_code = ExitCode.LOST


class TaskRefused(TaskError):
    """Nobody will run it: not granted, an unknown callable, or needs that no node of the fleet can ever meet."""

    exit_code = ExitCode.REFUSED


class TaskExpired(TaskError):
    """The task's deadline passed before it started."""

    exit_code = ExitCode.REFUSED


class DependencyFailed(TaskError):
    """A task that this one waited for did not end with a value."""


class RemoteTraceback(Exception):
    """The text of a traceback from another process, printed where Python prints the cause of an exception."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text.rstrip()}\n" if self.text else ""
