"""The guest itself: takes slices of one task, runs each as it comes, and is what task code sees of the swarm."""

from __future__ import annotations

import importlib.util
import os
import struct
import sys
import time
import types
from collections import OrderedDict
from typing import Any

from .callables import Callables, Refused, bound
from .channel import (
    ACK,
    BLOCKED,
    CODE,
    DONE,
    GRANTED,
    OUTCOMES,
    READY,
    RUN,
    SPEC,
    STOP,
    UNBLOCKED,
    Channel,
    Closed,
)
from .failures import failure, name_of, notice
from .library import transaction_of, transactions
from .payloads import Payloads
from .plain import pack, unpack
from .reflection import reflecting
from .results import FAILED, Results, Streams, asyncio_run

REFUSED, RETRY = 6, 16
INLINE_BYTES_MAX = 1024 * 1024
SPECS_MAX = 1024
PROGRESS_INTERVAL_S = 0.05
RUN_HEADER = struct.Struct("<IIII")


class Guest:
    """One guest worker."""

    def __init__(self, options: dict[str, str]) -> None:
        self.node = os.environ.get("SWARM_NODE", "")
        self.channel = Channel(int(options["channel"]))
        self.channel.taken = self._taken
        self.payloads = Payloads(self.channel)
        self.results = Results(self.payloads, int(options.get("result-bytes-max", 0)) or INLINE_BYTES_MAX)
        self.streams = Streams(self.channel, self.results)
        self.callables = Callables(self.channel, [name for name in options.get("modules", "").split(",") if name])
        self.specs: OrderedDict[int, tuple[dict[str, Any], bool]] = OrderedDict()
        self.current: tuple[int, int, int, dict[str, Any], dict[str, Any]] | None = None
        self.reported: tuple[Any, float] = (None, 0.0)

    def serve(self) -> None:
        ready = {
            "pid": os.getpid(),
            "python": list(sys.version_info[:3]),
            "implementation": sys.implementation.name,
            "cloudpickle": importlib.util.find_spec("cloudpickle") is not None,
        }
        self.channel.send(READY, pack(ready))
        while True:
            kind, slot, flags, run, body = self.channel.next()
            if kind == STOP:
                return
            if kind == SPEC:
                self.specs[run] = (unpack(body), bool(flags & GRANTED))
                bound(self.specs, SPECS_MAX)
            elif kind == RUN:
                self._run(slot, run, body)

    def _run(self, slot: int, run: int, body: Any) -> None:
        start, count, number, length = RUN_HEADER.unpack_from(body)
        extra = unpack(body[RUN_HEADER.size : RUN_HEADER.size + length]) if length else {}
        columns = body[RUN_HEADER.size + length :]
        lengths = struct.unpack_from(f"<{count}I", columns)
        at = 4 * count
        for i in range(count):
            self._task(run, start + i, slot, columns[at : at + lengths[i]], number, extra)
            at += lengths[i]
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        self.channel.send(DONE, slot=slot, run=run)

    def _task(self, run: int, index: int, slot: int, payload: Any, number: int, extra: dict[str, Any]) -> None:
        spec, granted = self.specs[number]
        began = time.monotonic()
        self.payloads.where = (run, index)
        self.current = (run, index, slot, spec, extra)
        try:
            status, said = self._outcome(run, index, payload, spec, granted, extra)
        finally:
            self.current = None
        run_us = min(int((time.monotonic() - began) * 1e6), 0xFFFFFFFF)
        row = struct.pack("<IIIIB3x", 1, index, len(said), run_us, status)
        self.channel.send(OUTCOMES, row + said, run=run)

    def _outcome(
        self, run: int, index: int, payload: Any, spec: dict[str, Any], granted: bool, extra: dict[str, Any]
    ) -> tuple[int, bytes]:
        try:
            fn = self.callables.resolve(spec.get("fn"), granted)
        except Refused as refused:
            return REFUSED, notice(*refused.args)
        try:
            call = self.payloads.decode(payload, granted)
            args, kwargs = list(call[0]), dict(call[1]) if len(call) > 1 else {}
            for place, which in call[2] if len(call) > 2 else ():
                target = kwargs if isinstance(place, str) else args
                target[place] = self.payloads.decode(memoryview(extra["deps"][which]), granted)
            directory = transaction_of(spec, fn)
            if not spec.get("stream"):
                fn = reflecting(fn)
            if directory is not None:
                value = self._in_transaction(fn, directory)(*args, **kwargs)
            else:
                value = fn(*args, **kwargs)
            if spec.get("stream"):
                value = self.streams.deliver(run, index, value)
            elif isinstance(value, types.CoroutineType):
                value = asyncio_run(value)
        except Closed:
            raise
        except BaseException as error:
            wanted = spec.get("retry_on") or ["builtins:Exception"]
            retry = spec.get("retries") and any(name_of(kind) in wanted for kind in type(error).__mro__)
            return RETRY if retry else FAILED, failure(error, self.node, extra.get("attempt", 1))
        return self.results.of(value)

    def _in_transaction(self, fn: Any, directory: str) -> Any:
        import inspect

        asks = fn if hasattr(fn, "__code__") else getattr(fn, "__call__", fn)  # noqa: B004 - the method is wanted
        return transactions().transactional(
            fn, directory, is_coroutine=inspect.iscoroutinefunction(asks), seal=self.results.sealed
        )

    def _taken(self, kind: int, run: int, body: Any) -> bool:
        if kind == CODE:
            self.callables.given(bytes(body[:32]), bytes(body[32:]))
            return True
        if kind == ACK:
            index, items = struct.unpack_from("<II", body)
            self.streams.acknowledged(run, index, items)
            return True
        return False

    # what task code sees as swarm.current_task() and so on

    def describe(self) -> dict[str, Any] | None:
        if self.current is None:
            return None
        _, index, _, spec, extra = self.current
        mine = extra.get("batch", b"") + struct.pack(">I", index)
        token = extra.get("token", ())
        return {
            "id": mine,
            "token": tuple(token) if isinstance(token, (list, tuple)) else (token,),
            "attempt": extra.get("attempt", 1),
            "lineage": (spec.get("root") or mine, spec.get("parent", b""), spec.get("depth", 0)),
            "name": spec.get("name", ""),
            "node": self.node,
            "priority": extra.get("priority", spec.get("priority", 1)),
            "retries": spec.get("retries", 0),
        }

    def progress(self, done: float, total: float | None, note: str) -> None:
        if self.current is not None:
            run, index = self.current[:2]
            now = time.monotonic()
            if self.reported[0] == (run, index) and now - self.reported[1] < PROGRESS_INTERVAL_S and done != total:
                return
            self.reported = ((run, index), now)
            self.channel.event(run, index, "progress", {"done": done, "total": total, "note": note[:200]})

    def lesson(self, said: Any) -> None:
        if self.current is not None:
            run, index = self.current[:2]
            self.channel.event(run, index, "lesson", dict(said))

    def restore(self, default: Any) -> Any:
        """A task of another interpreter is not moved: it begins."""
        return default

    def checkpoint(self, state: Any) -> None:
        """It has no safe points."""

    def told(self) -> list[bytes]:
        return []  # home workers alone hear

    def places_to_stand(self, begins: bool) -> None:
        """It is stopped where it stands."""

    def stand(self) -> float:
        return 0.0

    def waiting(self, begins: bool) -> None:
        if self.current is not None:
            self.channel.send(BLOCKED if begins else UNBLOCKED, slot=self.current[2], run=self.current[0])
