"""What an isolated population and its parent say to each other: frames over a socket, files beside them, words of a page."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgpack

PAGE: Final = 4096
STOP: Final = 1
"""The word of the page by which the parent asks for the end of a run."""
BEAT: Final = 8
"""Words 8 to 15 are the beat (kernels/beat.h) of the thread that makes the passes, 16 to 23 that of Python's own, if any."""
BESIDE: Final = 16
FDS_MAX: Final = 200
"""Files beside one frame; the system takes 253."""
FRAME_MAX: Final = 1 << 30
_HEAD: Final = struct.Struct("<QI")


class Phases(NamedTuple):
    """What the worker does, as a word of the page: `at` is its place."""

    at: int
    names: tuple[str, ...]


PHASES: Final = Phases(0, ("starting", "waiting", "building", "running", "saving", "calling"))


def send(link: socket.socket, message: Sequence[Any], files: Sequence[int] = ()) -> None:
    """Send one message, and copies of descriptors."""
    body = bytes(msgpack.packb(list(message)))
    head = _HEAD.pack(len(body), len(files))
    if files:
        socket.send_fds(link, [head], list(files))
    else:
        link.sendall(head)
    link.sendall(body)


def receive(link: socket.socket) -> list[Any] | None:
    """The next message, descriptors that came along at its end; None when the other side is gone, or talks nonsense."""
    try:
        head, files, _, _ = socket.recv_fds(link, _HEAD.size, FDS_MAX + 1)
    except OSError:
        return None
    message: Any = None
    try:
        head += _exactly(link, _HEAD.size - len(head)) if head else b""
        if len(head) == _HEAD.size:
            size, count = _HEAD.unpack(head)
            if size <= FRAME_MAX and count == len(files):
                message = msgpack.unpackb(_exactly(link, size), strict_map_key=False)
    except (OSError, ValueError, msgpack.UnpackException):
        message = None
    if not isinstance(message, list):
        for each in files:
            os.close(each)
        return None
    return [*message, files]


def _exactly(link: socket.socket, size: int) -> bytes:
    """So many bytes. OSError when the other side ends before."""
    body = bytearray(size)
    with memoryview(body) as view:
        at = 0
        while at < size:
            got = link.recv_into(view[at:])
            if not got:
                raise ConnectionError("the other side is gone")
            at += got
    return bytes(body)
