"""What `kernels.sends` does, in readable Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def send_each(iterator: Iterator[Any], value: object) -> Any:
    """The first outcome that is not None, or None at the end. StopIteration when a generator returns."""
    for agent in iterator:
        outcome = agent.send(value)
        if outcome is not None:
            return outcome
    return None
