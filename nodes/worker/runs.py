"""What a worker knows of a run (a slice of a batch), of its spec, and of the task that is running."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgpack

from kernels.batch import Calls
from nodes.worker.channel import BLOCKED, GRANTED, RUN_HEADER, UNBLOCKED, Channel, Frame
from swarm.tasks import options_of

if TYPE_CHECKING:
    from nodes.worker.direct import DirectRun
    from nodes.worker.safe_points import SafePoints
    from nodes.worker.stands import Stands

PROGRESS_INTERVAL_S = 0.05
"""Progress reports of one task that come closer together are left out, except the last."""

LETTERS_COUNT_MAX = 256
"""What one task was told and has not looked at; see `Context.told`."""

_INDEX = struct.Struct(">I")
_ANY_EXCEPTION = ("builtins:Exception",)


class WorkerSpec:
    """The fields of a spec that a worker needs. The node has validated it."""

    __slots__ = (
        "checkpoint", "chunked", "command", "depth", "fn", "granted", "name", "number", "parent", "priority", "raw", "retries", "retry_on", "root", "stream",
        "timeout_s", "transaction",
    )  # fmt: skip

    def __init__(self, number: int, raw: bytes, granted: bool) -> None:
        fields: dict[str, Any] = msgpack.unpackb(raw)
        self.number = number
        self.raw = raw
        self.granted = granted
        self.fn: list[Any] | None = fields.get("fn")
        self.command = fields.get("kind") == "command"
        self.name: str = fields.get("name") or (str(self.fn[-1]) if self.fn else "command")
        self.chunked = bool(fields.get("chunked"))
        self.checkpoint = bool(fields.get("checkpoint"))
        self.stream = bool(fields.get("stream"))
        self.retries: int = fields.get("retries", 0)
        self.retry_on: tuple[str, ...] = tuple(fields.get("retry_on") or _ANY_EXCEPTION)
        self.timeout_s: float | None = fields.get("timeout_s")
        self.transaction: str | None = fields.get("transaction")
        self.priority: int = fields.get("priority", 1)
        self.root: bytes = fields.get("root", b"")
        self.parent: bytes = fields.get("parent", b"")
        self.depth: int = fields.get("depth", 0)

    @classmethod
    def of(cls, frame: Frame) -> WorkerSpec:
        """From a SPEC frame."""
        return cls(frame.run, bytes(frame.body), bool(frame.flags & GRANTED))

    def retried(self, error: BaseException) -> bool:
        """Whether this exception is one to try again for."""
        if not self.retries:
            return False
        return any(f"{kind.__module__}:{kind.__qualname__}" in self.retry_on for kind in type(error).__mro__)


def transaction_of(spec: WorkerSpec, fn: Any) -> str | None:
    """The directory on which calls are transactions: what the call says, else what the callable was marked with, since a
    caller that only names it does not know."""
    if spec.transaction is not None:
        return spec.transaction
    found: str | None = getattr(options_of(fn), "transaction", None)  # a mark of an older release has none
    return found


class Run:
    """One RUN frame: tasks `start` to `start` + `count` of a batch, to be claimed from slice `slot`."""

    __slots__ = (
        "attempt",
        "batch",
        "calls",
        "count",
        "deps",
        "number",
        "priority",
        "saved",
        "slot",
        "spec",
        "start",
        "token",
    )

    def __init__(self, frame: Frame, specs: Mapping[int, WorkerSpec]) -> None:
        start, count, spec, length = RUN_HEADER.unpack_from(frame.body)
        columns = RUN_HEADER.size + length
        extra: dict[str, Any] = msgpack.unpackb(frame.body[RUN_HEADER.size : columns]) if length else {}
        self.number = frame.run
        self.slot = frame.slot
        self.start: int = start
        self.count: int = count
        self.spec = specs[spec]
        self.calls = Calls(frame.body[columns:], count)
        self.batch: bytes = extra.get("batch", b"")
        self.attempt: int = extra.get("attempt", 1)
        self.priority: int = extra.get("priority", self.spec.priority)
        token = extra.get("token", ())
        self.token: tuple[int, ...] = tuple(token) if isinstance(token, list | tuple) else (token,)
        self.deps: list[bytes] = extra.get("deps", [])
        self.saved: dict[int, tuple[int, bytes]] = {
            index: (moved, state) for index, moved, state in extra.get("saved", ())
        }
        """Index -> (how often it was moved, what it goes on from)."""

    def task_id(self, index: int) -> bytes:
        """The id of the task at `index` of the batch."""
        return self.batch + _INDEX.pack(index)


class Context:
    """The task that is running, for :func:`swarm.current_task` (this is its `Running`) and for progress.

    Ordinary tasks run one at a time, and the main loop writes `run` and `index` here. Coroutines say which they are by
    a context variable.
    """

    def __init__(self, channel: Channel, node: str) -> None:
        self._channel = channel
        self._node = node
        self.run: Run | DirectRun | None = None
        self.index = -1
        self.safe_points: SafePoints | None = None
        self.stands: Stands | None = None
        self.coroutine: ContextVar[tuple[Run | DirectRun, int] | None] = ContextVar("swarm_task", default=None)
        self.letters: dict[tuple[int, int], list[bytes]] = {}
        """What tasks were told and did not look at yet, by run and index."""
        self._reported: tuple[int, int] = (-1, -1)
        self._reported_at_s = 0.0

    def current(self) -> tuple[Run | DirectRun, int] | None:
        """The run and index of the caller's task."""
        found = self.coroutine.get()
        if found is not None:
            return found
        run, index = self.run, self.index
        return (run, index) if run is not None and index >= 0 else None

    def describe(self) -> Mapping[str, Any] | None:
        """The facts of the caller's task."""
        found = self.current()
        if found is None:
            return None
        run, index = found
        mine = run.task_id(index)
        spec = run.spec
        return {
            "id": mine,
            "token": run.token,
            "attempt": run.attempt,
            "lineage": (spec.root or mine, spec.parent, spec.depth),
            "name": spec.name,
            "node": self._node,
            "priority": run.priority,
            "retries": spec.retries,
            "moved": run.saved[index][0] if isinstance(run, Run) and index in run.saved else 0,
        }

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Send a report, unless the last one of this task was just before."""
        found = self.current()
        if found is None:
            return
        run, index = found
        now = time.monotonic()
        mine = (run.number, index)
        if mine == self._reported and now - self._reported_at_s < PROGRESS_INTERVAL_S and done != total:
            return
        self._reported, self._reported_at_s = mine, now
        said = {"done": done, "total": total, "note": note[:200]}
        if isinstance(run, Run):
            self._channel.event(run.number, index, "progress", said)
        else:
            run.direct.event(run.number, "progress", said)

    def lesson(self, said: Mapping[str, Any]) -> None:
        """Tell the owner of the caller's task what it has found out."""
        found = self.current()
        if found is None:
            return
        if isinstance(found[0], Run):
            self._channel.event(found[0].number, found[1], "lesson", dict(said))
        else:
            found[0].direct.lesson(said)

    def restore(self, default: Any) -> Any:
        """What the caller's task goes on from."""
        found = self.current()
        if found is None or not isinstance(found[0], Run) or self.safe_points is None:
            return default
        return self.safe_points.restore(found[0], found[1], default)

    def checkpoint(self, state: Any) -> None:
        """A safe point of the caller's task. Nearly always there is nothing to do, so that is found out first."""
        points = self.safe_points
        if points is None or (not points.asked and time.monotonic() < points.look_at_s):
            return
        found = self.current()
        if found is not None and isinstance(found[0], Run) and found[0].spec.checkpoint:
            points.checkpoint(found[0], found[1], state, self.coroutine.get() is None)

    def told(self) -> list[bytes]:
        """What the caller's task was told since the last time: that of a stream, in the main thread."""
        found = self.current()
        if found is None or not isinstance(found[0], Run):
            return []
        self._channel.drain()
        return self.letters.pop((found[0].number, found[1]), [])

    def hear(self, run: int, index: int, letter: bytes) -> None:
        """Keep what a task is told until it looks; beyond LETTERS_COUNT_MAX the oldest is let go."""
        kept = self.letters.setdefault((run, index), [])
        kept.append(letter)
        del kept[:-LETTERS_COUNT_MAX]

    def places_to_stand(self, begins: bool) -> None:
        """The caller's task begins, or ends, to say where it may stand still."""
        if self.stands is not None and self.coroutine.get() is None and isinstance(self.run, Run):
            self.stands.places(begins)

    def stand(self) -> float:
        """The caller's task may stand still here; for how many seconds it did."""
        return self.stands.stand() if self.stands is not None and self.coroutine.get() is None else 0.0

    def waiting(self, begins: bool) -> None:
        """The caller's task begins or ends to wait for another task."""
        found = self.current()
        if found is not None:
            self._channel.send(BLOCKED if begins else UNBLOCKED, run=found[0].number, slot=found[0].slot)
