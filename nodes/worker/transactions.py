"""Running callables within transactions of files: a task that fails, also since its result cannot be sent, changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import Any

from kernels.batch import encode_plain
from nodes.worker.callables import is_coroutine_function
from nodes.worker.calls import Calls, leave_out
from nodes.worker.report import Encoded, Reporter
from nodes.worker.runs import Context, Run
from swarm.payload import dump
from swarm.payload_failure import error_of
from swarm.transactions import CODES, transactional


class Transactions:
    """Puts a transaction round each call."""

    def __init__(self, reporter: Reporter, context: Context, calls: Calls) -> None:
        self._reporter = reporter
        self._context = context
        self._calls = calls
        leave_out((*CODES, Transactions._encoded.__code__, _checked.__code__))

    def around(self, fn: Callable[..., Any], directory: str, *, chunked: bool) -> Callable[..., Any]:
        """`fn` with a transaction on a directory round each call; in a chunk, round each call of it."""
        seal = _checked if chunked else self._encoded
        return transactional(fn, directory, is_coroutine=is_coroutine_function(fn), seal=seal)

    def _encoded(self, value: Any) -> Any:
        if encode_plain(value) is not None:
            return value
        found = self._context.current()
        if found is not None and isinstance(found[0], Run):
            self._calls.here(found[0], found[1])
        status, body = self._reporter.payload(value)
        if status:
            raise error_of(status, body)
        return Encoded(body)


def _checked(value: Any) -> Any:
    if isinstance(value, CoroutineType):
        raise TypeError("the callable returned a coroutine; within a transaction, make it an `async def`")
    if encode_plain(value) is None:
        dump(value, lambda buffer: None)  # what this raises says why it cannot be sent
    return value
