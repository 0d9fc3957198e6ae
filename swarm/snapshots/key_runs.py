"""The hashes of all keys of a shard, in bounded memory: sorted runs in a file, given back in the order of the hashes."""

from __future__ import annotations

import bisect
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from kernels.packing import ENTRY_BYTES, sort_entries

RUN_KEYS: Final = 1 << 20
_PARTS: Final = 256


class KeyRuns:
    """Runs of sorted entries (16 bytes each, the hash first, little endian). One stays in memory, more go to a file without a name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._runs: list[bytes] = []
        self._starts: list[tuple[int, list[int]]] = []
        self._size = 0

    def add(self, run: bytes) -> None:
        """One more sorted run. OSError."""
        if not run:
            return
        if self._runs:
            self._spill(self._runs.pop())
        self._runs.append(run)

    def parts(self) -> Iterator[bytes]:
        """All entries, in ascending parts, each sorted."""
        if self._file is None:
            yield from self._runs
            return
        if self._runs:
            self._spill(self._runs.pop())
        for part in range(_PARTS):
            slices = [
                os.pread(self._file.fileno(), starts[part + 1] - starts[part], at + starts[part])
                for at, starts in self._starts
            ]
            yield sort_entries(b"".join(slices))

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()

    def _spill(self, run: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)
        count = len(run) // ENTRY_BYTES
        highest = [
            bisect.bisect_left(range(count), part, key=lambda i: run[i * ENTRY_BYTES + 7]) * ENTRY_BYTES
            for part in range(_PARTS)
        ]
        self._starts.append((self._size, [*highest, len(run)]))
        self._file.write(run)
        self._size += len(run)
