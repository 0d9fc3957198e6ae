"""The direct lane: what a client and a worker say to each other once the node has granted the client the worker's slot.

A frame is ``u32 length of the rest | u8 kind | u8 status | u16 zero | u32 number | u32 word | body``, little-endian. A
call's number is that of the batch whose only task it is; `word` is the number of a spec in a call, and the run time in
microseconds in an outcome. The client begins by sending the ticket that the node gave it, and has one call under way.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("<IBBHII")
TICKET_BYTES = 32
CALL_BYTES_MAX = 64 * 1024 + 1024
"""Bytes of a call, tag and all: what is plain and goes in band."""
FRAME_BYTES_MAX = 2 << 20
"""Bytes of any frame: results may be pickles of up to the inline bound."""

# client to worker
SPEC = 1
CALL = 2
# worker to client
OUTCOME = 33
EVENT = 34
BYE = 35
"""The worker takes no more calls: what it has not answered it has not begun."""


class DirectViolation(ValueError):
    """The other end sent what is no frame."""


def pack(kind: int, body: bytes | memoryview, number: int = 0, word: int = 0, status: int = 0) -> bytes:
    """One frame as bytes."""
    return HEADER.pack(HEADER.size - 4 + len(body), kind, status, 0, number, word) + body


class Frames:
    """Bytes in, frames out, as (kind, status, number, word, body). DirectViolation for an impossible length."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, int, int, int, memoryview]]:
        """The frames that `data` completes, in order."""
        if self._rest:
            data = self._rest + data
        found: list[tuple[int, int, int, int, memoryview]] = []
        at, end, size = 0, len(data), HEADER.size
        view = memoryview(data)
        while end - at >= size:
            length, kind, status, _, number, word = HEADER.unpack_from(data, at)
            if not size - 4 <= length <= FRAME_BYTES_MAX:
                raise DirectViolation(f"a frame of {length} bytes; at most {FRAME_BYTES_MAX} are taken")
            if end - at < length + 4:
                break
            found.append((kind, status, number, word, view[at + size : at + 4 + length]))
            at += length + 4
        self._rest = data[at:]
        return found
