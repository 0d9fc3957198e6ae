"""From a command line to a connected client. The client is imported here, and only when a verb needs it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from swarm.errors import TaskError


@contextmanager
def connected(args: argparse.Namespace) -> Iterator[Any]:
    """A connected fleet, left again at the end. FleetNotFound when there is none in time."""
    import swarm

    with swarm.connect(seeds=list(args.seed), timeout_s=args.connect_timeout) as fleet:
        yield fleet


def ask(args: argparse.Namespace, method: str, **arguments: Any) -> dict[str, Any]:
    """Connect, ask the node one thing, and leave."""
    with connected(args) as fleet:
        answer: dict[str, Any] = fleet.query(method, **arguments)
        return answer


def ended(handle: Any) -> dict[str, Any]:
    """How a command ended: exit, signal, out, missing. Raises TaskError when it did not come to an end of its own.

    A command that may be retried fails as a task when its last status is not 0; it has ended all the same.
    """
    try:
        result: dict[str, Any] = handle.result()
    except TaskError as error:
        if not isinstance(error.facts.get("exit"), int):
            raise
        return error.facts
    return result
