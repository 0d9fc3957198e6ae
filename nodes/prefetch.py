"""Brings what waiting tasks will need, while they wait: a worker that gets a task finds its blobs here.

For each run whose payloads refer to blobs one reader goes ahead of the workers, in the order in which they take tasks.
It stays a bounded number of bytes ahead of what they have opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import msgpack

from kernels.batch import Calls
from kernels.plain import decode_plain
from swarm.errors import SwarmError
from swarm.payload import REF_ID_BYTES, PayloadError, Ref, refs_of
from swarm.protocol.spec import Spec
from swarm.protocol.states import Priority

AHEAD_BYTES_MAX = 256 << 20
AHEAD_PART = 4
"""At most this part (a quarter) of the store is taken by what nobody has asked for yet."""
RUNS_MAX = 64
"""Runs that are read ahead at one time, and as many urgent ones beside them; what the others need is fetched when it is asked for."""
LOOK_EVERY_S = 0.25
LOOKED_AT_ONCE = 64
"""Payloads looked at before the loop gets another turn."""


class Fetch(Protocol):
    """`Workshop.fetch`: brings a blob from wherever it is, from `first` if it can."""

    async def __call__(self, blob_id: bytes, first: bytes | None = None, rank: Callable[[], int] = ...) -> object: ...


class Prefetch:
    """Reads ahead of the workers of one node."""

    def __init__(
        self,
        fetch: Fetch,
        is_here: Callable[[bytes], bool],
        waits: Callable[[bytes, int], bool],
        bytes_max: int,
        loop: asyncio.AbstractEventLoop,
        rank: Callable[[bytes, int], int] = lambda owner, dispatch: 0,
    ) -> None:
        """`waits` says whether a dispatch of an owner still has tasks here; `bytes_max` is the size of the store; `rank` says how urgent
        a dispatch is by now: the more, the earlier comes what it needs."""
        self._fetch = fetch
        self._is_here = is_here
        self._waits = waits
        self._ahead_max = min(AHEAD_BYTES_MAX, bytes_max // AHEAD_PART)
        self._loop = loop
        self._rank = rank
        self._ahead: dict[bytes, int] = {}
        self._ahead_bytes = 0
        self._opened = asyncio.Event()
        self._readers: set[asyncio.Task[None]] = set()

    def queued(self, owner: bytes, dispatch: int, spec: Spec, calls: Calls, extra: Mapping[str, Any]) -> None:
        """A run came. Cheap where it needs no blobs: two payloads are looked at, whatever their number."""
        told = extra.get("deps")
        dependencies = list(told) if isinstance(told, list | tuple) else []
        if not dependencies and spec.kind != "command":
            ends = (calls.payload(0), calls.payload(calls.count - 1)) if calls.count else ()
            if not any(len(end) and end[0] in b"RB" for end in ends):
                return
        if len(self._readers) < (RUNS_MAX if spec.priority < Priority.HIGH else 2 * RUNS_MAX):
            reader = self._loop.create_task(self._read(owner, dispatch, spec, calls, dependencies))
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)

    def opened(self, blob_id: bytes) -> None:
        """A worker has asked for a blob: the reader may go on."""
        size = self._ahead.pop(blob_id, None)
        if size is not None:
            self._ahead_bytes -= size
            self._opened.set()

    async def close(self) -> None:
        """Stop reading ahead."""
        for reader in list(self._readers):
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def _read(self, owner: bytes, dispatch: int, spec: Spec, calls: Calls, dependencies: list[Any]) -> None:
        brought: list[bytes] = []
        try:
            for number, ref in enumerate(_refs(spec, calls, dependencies)):
                if number % LOOKED_AT_ONCE == 0:
                    await asyncio.sleep(0)
                if ref is None or self._is_here(ref.id) or ref.id in self._ahead or ref.size > self._ahead_max:
                    continue
                while self._ahead_bytes + ref.size > self._ahead_max and self._waits(owner, dispatch):
                    self._opened.clear()
                    try:
                        await asyncio.wait_for(self._opened.wait(), LOOK_EVERY_S)
                    except TimeoutError:
                        pass  # the run may be over by now
                if not self._waits(owner, dispatch):
                    return
                self._ahead[ref.id] = ref.size
                self._ahead_bytes += ref.size
                brought.append(ref.id)
                await self._fetch(ref.id, owner, partial(self._rank, owner, dispatch))
            while self._waits(owner, dispatch) and any(one in self._ahead for one in brought):
                await asyncio.sleep(LOOK_EVERY_S)
        except (SwarmError, PayloadError, OSError):
            pass  # the worker that gets the task asks again, and says what is wrong
        finally:
            for one in brought:
                self.opened(one)


def needs_of(spec: Spec, calls: Calls) -> dict[bytes, int]:
    """The blobs that the tasks of a batch refer to, with their sizes. All payloads are looked at."""
    try:
        return {ref.id: ref.size for ref in _refs(spec, calls, ()) if ref is not None}
    except PayloadError:
        return {}  # whoever gets the task says what is wrong with it


def _refs(spec: Spec, calls: Calls, dependencies: Iterable[Any]) -> Iterator[Ref | None]:
    """What the tasks of a run refer to, in their order; None for a payload without."""
    for payload in dependencies:
        yield from refs_of(payload) if isinstance(payload, bytes | memoryview) else ()
    for index in range(calls.count):
        payload = calls.payload(index)
        found = _inputs(payload) if spec.kind == "command" else refs_of(payload)
        if found:
            yield from found
        else:
            yield None


def outputs_of(spec: Spec, payload: memoryview) -> tuple[bytes, ...]:
    """By their ids, the blobs that an outcome refers to: large values, and the files that a command left."""
    try:
        found = [ref.id for ref in refs_of(payload)]
    except PayloadError:
        return ()  # whoever gets it is told what is wrong with it
    if spec.kind == "command" and len(payload):
        try:
            told = decode_plain(payload) if payload[0] == ord("M") else msgpack.unpackb(payload[1:])
        except (ValueError, msgpack.UnpackException):
            told = None
        if isinstance(told, dict) and payload[0] == ord("F"):
            told = told.get("facts")
        files = told.get("out") if isinstance(told, dict) else None
        for row in files if isinstance(files, list) else ():
            match row:
                case [str(), bytes(id), *_] if len(id) == REF_ID_BYTES:
                    found.append(id)
    return tuple(dict.fromkeys(found))


def _inputs(payload: memoryview) -> list[Ref]:
    """The input files of a command: ``[argv, {"in": [[name there, blob id, size, mode]…], …}]``."""
    try:
        match decode_plain(payload):
            case [_, {"in": list(files)}]:
                return [Ref(one[1], one[2]) for one in files if isinstance(one[1], bytes) and isinstance(one[2], int)]
    except (ValueError, IndexError, TypeError):
        pass  # the worker says what is wrong with it
    return []
