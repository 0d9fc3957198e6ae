"""Reflection: what a callable's author has looked at in each result, to report what went wrong without an exception."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from nodes.worker.callables import is_coroutine_function
from nodes.worker.calls import leave_out
from swarm.tasks import lesson


def reflecting(fn: Callable[..., Any], reflect: Callable[[Any], Any]) -> Callable[..., Any]:
    """`fn`, with `reflect` called on each result before it is reported. What it says is a lesson; the result stays what it is."""

    async def waited(*args: Any, **kwargs: Any) -> Any:
        value = await fn(*args, **kwargs)
        _look(reflect, value)
        return value

    def called(*args: Any, **kwargs: Any) -> Any:
        value = fn(*args, **kwargs)
        _look(reflect, value)
        return value

    if not _left_out:
        _left_out.append(True)
        leave_out((waited.__code__, called.__code__))
    return wraps(fn)(waited if is_coroutine_function(fn) else called)


_left_out: list[bool] = []
"""Whether tracebacks of tasks know that they begin in here."""


def _look(reflect: Callable[[Any], Any], value: Any) -> None:
    try:
        said = reflect(value)
        if isinstance(said, str) and said:
            lesson(said)
        elif isinstance(said, Mapping):
            lesson(**said)
        elif said is not None and said != "":
            raise TypeError(
                f"it returned {type(said).__name__}, where None, a cause, or what swarm.lesson() takes is meant"
            )
    except Exception as error:
        # The task has done its work: that the look at it failed is to be seen, and changes nothing.
        print(f"swarm: reflect= of this task failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
