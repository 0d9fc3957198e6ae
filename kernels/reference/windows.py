"""Twin of :mod:`kernels.windows` for what can be said in Python: the copies. Python before 3.12 can export no buffer."""

from __future__ import annotations


def copied(buffer: bytes | bytearray | memoryview) -> bytes:
    """The content of a contiguous buffer as bytes."""
    return bytes(buffer)


def copy_into(target: bytearray | memoryview, offset: int, source: bytes | bytearray | memoryview) -> None:
    """Copy a contiguous buffer to `offset` of a writable one."""
    there, raw = memoryview(target).cast("B"), memoryview(source).cast("B")
    if offset < 0 or offset > len(there) or len(raw) > len(there) - offset:
        raise ValueError(f"{len(raw)} bytes to place {offset} of a buffer of {len(there)}")
    there[offset : offset + len(raw)] = raw
