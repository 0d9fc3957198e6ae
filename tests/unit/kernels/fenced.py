"""Chunks of any content, read where one byte too far ends the process: each lies at the end of a page behind which nothing may be read.

``python -m tests.unit.kernels.fenced COUNT`` tries COUNT of them.
"""

from __future__ import annotations

import ctypes
import mmap
import random
import struct
import sys

from kernels import lookup, packing

SALT = bytes(range(16))
ROOM = 65536


def fenced() -> tuple[mmap.mmap, int]:
    """Memory whose last page may not be touched, and how much there is before it."""
    area = mmap.mmap(-1, ROOM + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address + ROOM), ctypes.c_size_t(mmap.PAGESIZE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    return area, ROOM


def placed(data: bytes) -> memoryview:
    """The bytes, right before the fence."""
    area, end = fenced()
    area[end - len(data) : end] = data
    return memoryview(area)[end - len(data) : end]


def changed(draw: random.Random, data: bytes) -> bytes:
    """With words that are large, small, or off by a little, and perhaps cut."""
    found = bytearray(data)
    for _ in range(draw.randrange(4)):
        at = draw.randrange(max(1, len(found) - 4))
        (word,) = struct.unpack_from("<I", found.ljust(4, b"\0"), min(at, max(0, len(found) - 4)))
        word = draw.choice(
            [
                0,
                1,
                7,
                8,
                0xFFFFF,
                0xFFFFFFFF,
                len(found),
                word + 1,
                word - 1,
                draw.getrandbits(32),
                word ^ 1 << draw.randrange(32),
            ]
        )
        if len(found) >= 4:
            struct.pack_into("<I", found, min(at, len(found) - 4), word & 0xFFFFFFFF)
    return bytes(found[: draw.randrange(len(found) + 1)] if draw.random() < 0.3 else found)


def main(count: int) -> None:
    draw = random.Random(7)
    items = [(b"key %02d" % i, draw.randbytes(draw.randrange(30))) for i in range(20)]
    packer = packing.Packer(items, SALT)
    packed = packer.next_chunk()
    assert packed is not None
    layout = packing.Layout(30)
    tables = layout.put(packer.take_entries()) + layout.finish()
    done = 0
    for _ in range(count):
        data, table = placed(changed(draw, packed[0])), placed(changed(draw, tables[0]))
        finder = lookup.Finder(SALT, 1, 1, 30, 20)
        try:
            finder.put(1, table)
            finder.put(0, data)
            for call in (lambda: finder.find_many([key for key, _ in items]), lambda: lookup.records(data)):
                try:
                    call()
                except ValueError:
                    pass
            for key, _ in items:
                try:
                    finder.find_in(0, key)
                except ValueError:
                    pass
                done += 1
        except ValueError:
            pass
    print(done)


if __name__ == "__main__":
    main(int(sys.argv[1]))
