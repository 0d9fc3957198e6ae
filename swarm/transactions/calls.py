"""A transaction round each call of a callable: what ``@swarm.task(transaction="DIR")`` has a worker do."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any

from .transaction import StateTransaction

WAIT_S = 600.0
"""How long a call waits for its turn on the directory; its own time limit may end it before."""


def transactional(
    fn: Callable[..., Any], directory: str, *, is_coroutine: bool, seal: Callable[[Any], Any]
) -> Callable[..., Any]:
    """`fn` with a transaction round each call; relative directories are those of the process.

    `seal` is given the result before the commit and makes what is returned of it. It raises when the result cannot be sent:
    such a task fails, and a task that fails changes nothing.
    """
    if is_coroutine:

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            async with StateTransaction(directory, timeout_s=WAIT_S):
                return seal(await fn(*args, **kwargs))

        return call_async

    def call(*args: Any, **kwargs: Any) -> Any:
        with StateTransaction(directory, timeout_s=WAIT_S):
            return seal(fn(*args, **kwargs))

    return call


CODES = tuple(code for code in transactional.__code__.co_consts if isinstance(code, CodeType))
"""Of the functions above, which nobody wants to see in a traceback."""
