"""What an executor wants done, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swarm.protocol.effects import Fact
from swarm.protocol.outbound import Bytes, Tell


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker process; `python` names another interpreter, "" is the node's own."""

    worker: int
    python: str


@dataclass(frozen=True, slots=True)
class StopWorker:
    """End a worker: "finish" lets it end by itself, "kill" ends its process group now."""

    worker: int
    how: str
    reason: str


@dataclass(frozen=True, slots=True)
class HandSpec:
    """Tell a worker a spec, before the first slice that refers to it."""

    worker: int
    number: int
    raw: bytes
    granted: bool


@dataclass(slots=True)
class HandSlice:
    """Hand a slice of a run to a worker."""

    worker: int
    slot: int
    run: int
    start: int
    count: int
    spec: int
    extra: Mapping[str, Any]
    lengths: memoryview
    payloads: memoryview
    low: bool = False
    """All that the worker has in hand now is LOW."""


@dataclass(frozen=True, slots=True)
class HandInput:
    """Pass input, a signal or a stream's credit on to the worker that runs a task."""

    worker: int
    run: int
    index: int
    what: str
    value: Any
    body: Bytes = b""


@dataclass(frozen=True, slots=True)
class RevokeSlot:
    """Have a worker whose slot was granted to a client return after the call that it runs."""

    worker: int


@dataclass(frozen=True, slots=True)
class SuspendWorker:
    """Stop the processes of a worker where they stand."""

    worker: int


@dataclass(frozen=True, slots=True)
class ResumeWorker:
    """Let the processes of a suspended worker go on."""

    worker: int


ExecutionEffect = (
    StartWorker
    | StopWorker
    | HandSpec
    | HandSlice
    | HandInput
    | RevokeSlot
    | SuspendWorker
    | ResumeWorker
    | Tell
    | Fact
)
