"""The options of a call, as people write them."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from typing import Any

from swarm.errors import ConfigError
from swarm.tasks import TaskOptions

_OPTION_NAMES = frozenset(
    (
        "name",
        "retries",
        "retry_on",
        "backoff_s",
        "needs",
        "labels",
        "timeout_s",
        "priority",
        "rerun",
        "stream",
        "python",
        "durability",
        "checkpoint",
        "timeout_max_s",
        "expected_s",
        "transaction",
    )
)
CALL_NAMES = _OPTION_NAMES | {"deadline", "nice", "key", "submit_timeout_s"}
_NO_OPTIONS = TaskOptions()

Fn = Callable[..., Any] | str
"""A callable, or the name of one: "module:qualname", of a module that the nodes load."""
AnyFuture = concurrent.futures.Future[Any]


class Chosen:
    """The options of a call: those of the task, its deadline and niceness, its key, how long to wait for room, and what tells how
    long each item of a map takes."""

    __slots__ = ("deadline", "key", "lengths", "nice", "patience", "task")

    def __init__(
        self,
        task: TaskOptions,
        deadline: float | None = None,
        nice: int = 0,
        key: str | None = None,
        patience: tuple[float | None] | None = None,
        lengths: Callable[..., float] | None = None,
    ) -> None:
        self.task = task
        self.patience = patience
        self.deadline = deadline
        self.nice = nice
        self.key = key
        self.lengths = lengths


NOTHING_CHOSEN = Chosen(_NO_OPTIONS)


def chosen(options: dict[str, Any]) -> Chosen:
    """Options as people write them, checked. ConfigError."""
    if not options:
        return NOTHING_CHOSEN
    unknown = sorted(set(options) - CALL_NAMES)
    if unknown:
        raise ConfigError(f"there is no option {unknown[0]!r}", hint=f"there are {', '.join(sorted(CALL_NAMES))}")
    deadline = options.pop("deadline", None)
    if deadline is not None and (isinstance(deadline, bool) or not isinstance(deadline, int | float) or deadline < 0):
        raise ConfigError(
            f"deadline={deadline!r} is not a time in seconds since the epoch", hint="time.time() + 60, say"
        )
    nice, key = options.pop("nice", 0), options.pop("key", None)
    if isinstance(nice, bool) or not isinstance(nice, int) or not -20 <= nice <= 19:
        raise ConfigError(f"nice={nice!r} is not a whole number from -20 to 19", hint="lower ones go first")
    patience = _patience(options.pop("submit_timeout_s")) if "submit_timeout_s" in options else None
    lengths = options.pop("expected_s") if callable(options.get("expected_s")) else None
    return Chosen(TaskOptions.of(**options) if options else _NO_OPTIONS, deadline, nice, key, patience, lengths)


def _patience(timeout_s: Any) -> tuple[float | None]:
    if timeout_s is None:
        return (None,)
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not timeout_s >= 0:
        raise ConfigError(
            f"submit_timeout_s={timeout_s!r} is no time in seconds", hint="0 is not to wait, None for ever"
        )
    return (float(timeout_s),)


def flat(futures: Iterable[Any]) -> list[AnyFuture]:
    """Futures given one by one or as iterables of them."""
    found: list[AnyFuture] = []
    for one in futures:
        if isinstance(one, concurrent.futures.Future):
            found.append(one)
        else:
            found.extend(one)
    return found
