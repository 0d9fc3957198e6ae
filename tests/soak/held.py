"""What a process holds: memory by its allocators' own counts, files, mappings."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from dataclasses import dataclass

NATIVE_BYTES = 32 << 10
OBJECTS = 2_000
RESIDENT_BYTES = 16 << 20
MAPPINGS = 8


class _MallInfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """At one moment. `native_bytes` are those that malloc has given out and not got back (mallinfo2(3)), -1 where the C
    library does not tell; `objects` are blocks of Python's own allocator."""

    native_bytes: int
    objects: int
    resident_bytes: int
    files: int
    mappings: int

    def more_than(self, before: Held) -> list[str]:
        """What has grown by more than noise."""
        rooms = {
            "native_bytes": NATIVE_BYTES, "objects": OBJECTS, "resident_bytes": RESIDENT_BYTES, "files": 0, "mappings": MAPPINGS
        }  # fmt: skip
        grown = {name: getattr(self, name) - getattr(before, name) for name in rooms}
        return [f"{name} +{by:,}" for name, by in grown.items() if by > rooms[name]]


def held() -> Held:
    """Now, after a collection of garbage."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as said:
        resident = int(said.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as said:
        mappings = sum(1 for _ in said)
    return Held(_native_bytes(), sys.getallocatedblocks(), resident, len(os.listdir("/proc/self/fd")), mappings)


def _native_bytes() -> int:
    tell = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if tell is None:
        return -1
    tell.restype = _MallInfo
    info = tell()
    return int(info.uordblks + info.hblkhd)
