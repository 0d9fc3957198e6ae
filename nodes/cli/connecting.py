"""From a command line to a connected client. The client is imported here, and only when a verb needs it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
