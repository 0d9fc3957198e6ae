"""Writing all of it: the system may take less than it was given. Snapshots are written by this, too; it stands here since guest workers load
this folder alone."""

from __future__ import annotations

import os
from collections.abc import Iterable


def write_all(fd: int, data: bytes | memoryview, at: int | None = None) -> None:
    """Write all of ``data``: at an offset, or where the file stands. OSError."""
    view = memoryview(data)
    while view:
        count = os.write(fd, view) if at is None else os.pwrite(fd, view, at)
        view = view[count:]
        at = None if at is None else at + count


def write_synced(fd: int, parts: Iterable[bytes]) -> None:
    """Write all parts one behind the other, and have them on the disk. OSError."""
    for part in parts:
        write_all(fd, part)
    os.fsync(fd)
