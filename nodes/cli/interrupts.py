"""Ctrl-C: the first one cancels and says so, the second one leaves at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Final, Self

from nodes.cli.screen import say
from swarm.exit_codes import SIGNAL_BASE

SIGNAL_POLL_S: Final = 0.2
"""The longest that a main thread may wait for something else without looking for signals.

A signal that comes just before a lock is waited for without a limit is not seen until that wait ends (CPython looks for
signals between its instructions, and again only when a signal interrupts the wait itself).
"""


class Interrupts:
    """While it is entered, SIGINT and SIGTERM (and SIGHUP, where there is one) come to ``first``, then end the process.

    Args:
        first: called with the number of the first signal, in the main thread between two steps of it: keep it short.
        message: said on standard error with the first one, when that is a terminal.
    """

    def __init__(self, first: Callable[[int], None], message: str = "") -> None:
        self._first = first
        self._message = message
        self._before: dict[int, signal._HANDLER] = {}
        self.signal: int | None = None

    def __enter__(self) -> Self:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # a signal that is ignored on arrival stays ignored: nohup, and background jobs of scripts
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_status(self) -> int:
        """128 + the signal that came, or 0."""
        return SIGNAL_BASE + self.signal if self.signal else 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            # threads and connections are left to the system: the fleet sees the connection end, and cancels the work
            os._exit(SIGNAL_BASE + number)
        self.signal = number
        if self._message and sys.stderr.isatty():
            say(f"\n{self._message} (again to leave at once)")
        self._first(number)
