"""Looks at results: what a callable's author reports of them is a lesson, as at home (`nodes.worker.reflection`)."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any


def reflection_of(fn: Any) -> Any:
    """What ``@swarm.task(reflect=…)`` said of a callable; None if nothing."""
    for candidate in (fn, getattr(fn, "__func__", None), getattr(fn, "func", None)):
        found = getattr(getattr(candidate, "__swarm_task__", None), "reflect", None)
        if found is not None:
            return found
    return None


def reflecting(fn: Any) -> Any:
    """The callable, with a look at each result if its author asked for it."""
    reflect = reflection_of(fn)
    if reflect is None:
        return fn

    async def waited(*args: Any, **kwargs: Any) -> Any:
        value = await fn(*args, **kwargs)
        look(reflect, value)
        return value

    def called(*args: Any, **kwargs: Any) -> Any:
        value = fn(*args, **kwargs)
        look(reflect, value)
        return value

    asks = fn if hasattr(fn, "__code__") else getattr(fn, "__call__", fn)  # noqa: B004 - the method is wanted
    return waited if inspect.iscoroutinefunction(asks) else called


def look(reflect: Any, value: Any) -> None:
    """Tell what it says of a result. The result stays what it is, whatever becomes of this."""
    try:
        said = reflect(value)
        lesson = importlib.import_module("swarm").lesson
        if isinstance(said, str) and said:
            lesson(said)
        elif isinstance(said, dict):
            lesson(**said)
        elif said is not None and said != "":
            kind = type(said).__name__
            raise TypeError(f"it returned {kind}, where None, a cause, or what swarm.lesson() takes is meant")
    except Exception as error:
        print(f"swarm: reflect= of this task failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
