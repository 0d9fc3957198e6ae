"""Twin of :mod:`kernels.batch`."""

from __future__ import annotations

import gc
import struct
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

from kernels.reference.plain import TAG, decode_call, decode_plain, encode_call, encode_plain

__all__ = [
    "CallBuilder",
    "Calls",
    "OutcomeBuilder",
    "Outcomes",
    "attributes",
    "decode_call",
    "decode_plain",
    "encode_plain",
    "settle",
]

U32_MAX = 2**32 - 1


class CallBuilder:
    """Collects the payloads of one batch of calls."""

    def __init__(self) -> None:
        self._payloads: list[bytes] = []

    @property
    def count(self) -> int:
        """Calls collected."""
        return len(self._payloads)

    @property
    def nbytes(self) -> int:
        """Bytes that take() would return now."""
        return 4 * self.count + sum(map(len, self._payloads))

    def add(self, payload: bytes | bytearray | memoryview) -> int:
        """Append a payload; returns its index."""
        self._payloads.append(bytes(payload))
        return self.count - 1

    def add_plain(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> int:
        """Append a call if it is plain; its index, or -1."""
        payload = encode_call(args, kwargs)
        return -1 if payload is None else self.add(payload)

    def take(self) -> bytes:
        """The columns; empties the builder."""
        payloads, self._payloads = self._payloads, []
        return struct.pack(f"<{len(payloads)}I", *map(len, payloads)) + b"".join(payloads)


class OutcomeBuilder:
    """Collects the outcomes of tasks of one batch."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int, bytes]] = []

    @property
    def count(self) -> int:
        """Outcomes collected."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes that take() would return now."""
        return -(-13 * self.count // 4) * 4 + sum(len(row[3]) for row in self._rows)

    def add(self, index: int, status: int, run_us: int, payload: bytes | bytearray | memoryview) -> None:
        """Append an outcome; run_us is clamped to 32 bits."""
        self._rows.append((index, status, min(run_us, U32_MAX), bytes(payload)))

    def add_plain(self, index: int, run_us: int, value: object) -> bool:
        """Append a result with status OK if it is plain."""
        payload = encode_plain(value)
        if payload is None:
            return False
        self.add(index, 0, run_us, payload)
        return True

    def take(self) -> bytes:
        """The columns; empties the builder."""
        rows, self._rows = self._rows, []
        n = len(rows)
        return b"".join(
            [
                struct.pack(f"<{n}I", *(row[0] for row in rows)),
                struct.pack(f"<{n}I", *(len(row[3]) for row in rows)),
                struct.pack(f"<{n}I", *(row[2] for row in rows)),
                bytes(row[1] for row in rows),
                bytes(-13 * n % 4),
                *(row[3] for row in rows),
            ]
        )


class _Columns:
    def __init__(self, buffer: bytes | bytearray | memoryview, count: int, each: int, lengths_at: int) -> None:
        if not 0 <= count <= U32_MAX:
            raise ValueError(f"a batch of {count} tasks")
        self._data = bytes(buffer)
        self.count = count
        self.nbytes = len(self._data)
        head = -(-each * count // 4) * 4
        if head > self.nbytes:
            raise ValueError(f"columns of {self.nbytes} bytes cannot hold {count} tasks")
        lengths = struct.unpack_from(f"<{count}I", self._data, lengths_at * count)
        self._edges = list(accumulate(lengths, initial=head))
        if self._edges[-1] != self.nbytes:
            raise ValueError(f"columns of {count} tasks speak of {self._edges[-1]} bytes, and are {self.nbytes}")

    def _within(self, i: int) -> None:
        if not 0 <= i < self.count:
            raise IndexError(f"task {i} of a batch of {self.count}")

    def payload(self, i: int) -> memoryview:
        """The payload of row i."""
        self._within(i)
        return memoryview(self._data)[self._edges[i] : self._edges[i + 1]]


class Calls(_Columns):
    """Checked view of the columns of a batch of calls."""

    def __init__(self, buffer: bytes | bytearray | memoryview, count: int) -> None:
        super().__init__(buffer, count, 4, 0)

    def call(self, i: int) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """(args, kwargs) of call i when its payload has tag M, else None."""
        payload = self.payload(i)
        return decode_call(payload) if payload[:1] == TAG else None

    def slice(self, start: int, stop: int) -> tuple[memoryview, memoryview]:
        """(lengths column, payloads) of the calls in [start, stop)."""
        if not 0 <= start <= stop <= self.count:
            raise IndexError(f"tasks {start}:{stop} of a batch of {self.count}")
        view = memoryview(self._data)
        return view[4 * start : 4 * stop], view[self._edges[start] : self._edges[stop]]

    def payload_bytes(self, start: int, stop: int) -> int:
        """Bytes of the payloads of the calls in [start, stop)."""
        return len(self.slice(start, stop)[1])

    def longest(self) -> int:
        """Bytes of the longest payload; 0 for an empty batch."""
        return max((after - before for before, after in pairwise(self._edges)), default=0)


class Outcomes(_Columns):
    """Checked view of the columns of outcomes, in any order."""

    def __init__(self, buffer: bytes | bytearray | memoryview, count: int) -> None:
        super().__init__(buffer, count, 13, 4)
        if any(self._data[13 * count : self._edges[0]]):
            raise ValueError("the padding of the columns is not zero")
        self.all_ok = not any(self.statuses())
        self.run_us_total = sum(self.run_times_us())

    def _column(self, which: int) -> memoryview:
        return memoryview(self._data)[4 * which * self.count : 4 * (which + 1) * self.count].cast("I")

    def indices(self) -> memoryview:
        """The column of indices."""
        return self._column(0)

    def run_times_us(self) -> memoryview:
        """The column of run times, µs."""
        return self._column(2)

    def statuses(self) -> memoryview:
        """The column of statuses."""
        return memoryview(self._data)[12 * self.count : 13 * self.count]

    def index(self, i: int) -> int:
        """Index in the batch of row i."""
        self._within(i)
        return int(self.indices()[i])

    def status(self, i: int) -> int:
        """Status of row i."""
        self._within(i)
        return int(self.statuses()[i])

    def run_us(self, i: int) -> int:
        """How long row i ran, µs."""
        self._within(i)
        return int(self.run_times_us()[i])


def attributes(it: object) -> dict[str, Any]:
    """The dictionary of an object's own attributes; nothing is collected while it is made."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return it.__dict__
    finally:
        if was_on:
            gc.enable()


def settle(outcomes: Outcomes, futures: list[Any], on_other: Callable[[int, int, memoryview], object]) -> int:
    """Finish the futures of a batch with the outcomes that came for it; returns how many."""
    if max(outcomes.indices(), default=-1) >= len(futures):
        raise ValueError(f"an outcome beyond the {len(futures)} tasks of a batch")
    done = 0
    for i in range(outcomes.count):
        index, status, payload = outcomes.index(i), outcomes.status(i), outcomes.payload(i)
        future = futures[index]
        if future is None:
            continue
        if status != 0 or payload[:1] != TAG:
            on_other(index, status, payload)
            continue
        try:
            value = decode_plain(payload)
        except ValueError:
            on_other(index, status, payload)
            continue
        futures[index] = None
        own = attributes(future)
        waited_on = own.keys() & {"_condition", "_done_callbacks", "_waiters"}
        if waited_on or own.get("_state", "PENDING") not in ("PENDING", "RUNNING"):
            future._finish(value)
        else:
            own["_result"] = value
            own["_state"] = "FINISHED"
        done += 1
    return done
