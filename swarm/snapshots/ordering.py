"""Records in the order of their keys, from any order, in bounded memory: sorted runs on disk that are merged (external merge sort,
Knuth, The Art of Computer Programming 3, 5.4)."""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

Record = tuple[bytes, bytes]
RUN_BYTES: Final = 64 << 20
OVERHEAD_BYTES: Final = 150
"""What a pair takes in memory beside its bytes."""
_SIZES: Final = struct.Struct("<II")


def ordered(records: Iterable[Record], folder: Path, *, run_bytes: int = RUN_BYTES) -> Iterator[Record]:
    """The records by ascending key; of several with one key the last that came.

    Takes about ``run_bytes`` of memory, and, when there are more, as much space in ``folder`` as they have. OSError without room.
    """
    runs: list[IO[bytes]] = []
    run: dict[bytes, bytes] = {}
    size = 0
    try:
        for key, value in records:
            run[key] = value
            size += len(key) + len(value) + OVERHEAD_BYTES
            if size >= run_bytes:
                runs.append(_written(run, folder))
                run, size = {}, 0
        if not runs:
            for key in sorted(run):
                yield key, run[key]
            return
        if run:
            runs.append(_written(run, folder))
            run = {}
        # a later run has the smaller number, so that of equal keys it comes first
        yield from _first_of_equal(heapq.merge(*(_read(each, -number) for number, each in enumerate(runs))))
    finally:
        for each in runs:
            each.close()


def _written(run: dict[bytes, bytes], folder: Path) -> IO[bytes]:
    file = tempfile.TemporaryFile(dir=folder)
    for key in sorted(run):
        value = run[key]
        file.write(_SIZES.pack(len(key), len(value)))
        file.write(key)
        file.write(value)
    file.seek(0)
    return file


def _read(file: IO[bytes], order: int) -> Iterator[tuple[bytes, int, bytes]]:
    while head := file.read(_SIZES.size):
        key_bytes, value_bytes = _SIZES.unpack(head)
        yield file.read(key_bytes), order, file.read(value_bytes)


def _first_of_equal(merged: Iterable[tuple[bytes, int, bytes]]) -> Iterator[Record]:
    last = None
    for key, _, value in merged:
        if key != last:
            yield key, value
            last = key
