"""Put the machines that you have to work: `swarm.connect()` finds the fleet, `submit` and `map` hand it work.

>>> import swarm
>>> with swarm.connect() as fleet:                      # doctest: +SKIP
...     print(fleet.submit(pow, 2, 100).result())
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from swarm.joblib_offer import offer as offer_to_joblib

__version__ = "0.1.0"

_WHERE = {
    "AsyncFleet": "swarm.client.aio",
    "Attached": "swarm.client.attached",
    "Receipt": "swarm.client.receipts",
    "attach": "swarm.client.attached",
    "Executor": "swarm.client.executor",
    "Fleet": "swarm.client.sync",
    "Future": "swarm.client.futures",
    "connect": "swarm.client.sync",
    "connect_async": "swarm.client.aio",
    "checkpoint": "swarm.tasks",
    "current_task": "swarm.tasks",
    "lesson": "swarm.tasks",
    "progress": "swarm.tasks",
    "restore": "swarm.tasks",
    "task": "swarm.tasks",
    "StateTransaction": "swarm.transactions",
    "Priority": "swarm.protocol.states",
} | {
    name: "swarm.errors"
    for name in (
        "ConfigError", "DependencyFailed", "FleetNotFound", "JoinRefused", "MoveBusy", "MoveLate", "MoveRefused", "NotAccepted", "NotFound", "NoQuorum", "NotPicklable",
        "PayloadTooLarge", "SwarmError", "SystemRefused", "TaskCancelled", "TaskError", "TaskExpired", "TaskFailed",
        "TaskLost", "TaskQuarantined", "TaskRefused", "TaskTimeout", "WorkerCrashed",
    )
}  # fmt: skip

_WHERE |= {
    name: "swarm.transactions"
    for name in (
        "PathRefused", "TransactionBusy", "TransactionDamaged", "TransactionError", "TransactionFenced", "TransactionUndecided",
    )
}  # fmt: skip

LOW, STANDARD, HIGH, CRITICAL = 0, 1, 2, 3
"""Priorities; `swarm.Priority` names them."""

__all__ = ["CRITICAL", "HIGH", "LOW", "STANDARD", *sorted(_WHERE)]

if TYPE_CHECKING:
    from swarm.client.aio import AsyncFleet as AsyncFleet
    from swarm.client.aio import connect_async as connect_async
    from swarm.client.attached import Attached as Attached
    from swarm.client.attached import attach as attach
    from swarm.client.executor import Executor as Executor
    from swarm.client.futures import Future as Future
    from swarm.client.receipts import Receipt as Receipt
    from swarm.client.sync import Fleet as Fleet
    from swarm.client.sync import connect as connect
    from swarm.errors import FleetNotFound as FleetNotFound
    from swarm.errors import SwarmError as SwarmError
    from swarm.protocol.states import Priority as Priority
    from swarm.tasks import checkpoint as checkpoint
    from swarm.tasks import current_task as current_task
    from swarm.tasks import lesson as lesson
    from swarm.tasks import progress as progress
    from swarm.tasks import restore as restore
    from swarm.tasks import task as task
    from swarm.transactions import StateTransaction as StateTransaction


def __getattr__(name: str) -> Any:
    # Imported when first used: `import swarm` stays fast, and a worker does not load the client.
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'swarm' has no attribute {name!r}")
    value = getattr(importlib.import_module(where), name)
    globals()[name] = value
    return value


offer_to_joblib()


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
