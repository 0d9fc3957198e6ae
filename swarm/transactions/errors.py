"""What can go wrong with a transaction of files.

This package is also loaded by guest workers, under interpreters that have nothing of ours: it is written for the standard
library of Python 3.9 and takes its error base from the library only where that is.
"""

from __future__ import annotations

from typing import Any, ClassVar

try:
    from swarm.errors import SwarmError, SystemRefused
    from swarm.exit_codes import ExitCode

    _BUSY, _REFUSED, _DATA = ExitCode.BUSY, ExitCode.REFUSED, ExitCode.DATA
except ImportError:  # a guest interpreter

    class SwarmError(Exception):  # type: ignore[no-redef]
        """One line, a hint, and facts; see swarm/errors.py."""

        def __init__(self, message: str = "", *, hint: str = "", **facts: Any) -> None:
            super().__init__(message)
            self.message, self.hint, self.facts = message, hint, facts

    class SystemRefused(SwarmError):  # type: ignore[no-redef]
        """The operating system said no."""

    _BUSY, _REFUSED, _DATA = 75, 5, 65  # type: ignore[assignment]


class TransactionError(SystemRefused):
    """A transaction could not be begun or committed. Nothing of it was applied, unless a subclass says otherwise."""


class TransactionBusy(TransactionError, TimeoutError):
    """Another transaction on the same directory did not end within the time that was given to wait for it."""

    exit_code: ClassVar[Any] = _BUSY


class TransactionFenced(TransactionError):
    """A later attempt of the same task has begun on this directory: this one may not commit, and was rolled back."""

    exit_code: ClassVar[Any] = _REFUSED


class TransactionUndecided(TransactionError):
    """The disk failed in the middle of a commit and of taking it back.

    The journal stays: the next opening, or :meth:`StateTransaction.recover`, makes it all or nothing.
    """


class TransactionDamaged(TransactionError):
    """What an interrupted commit left cannot be read or does not match its checksums. Nothing was touched."""

    exit_code: ClassVar[Any] = _DATA


class PathRefused(TransactionError, ValueError):
    """A name that is not inside the directory, leads out of it by a symbolic link, or is of a kind that is not handled."""

    exit_code: ClassVar[Any] = _DATA
