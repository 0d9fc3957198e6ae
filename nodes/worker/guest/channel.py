"""A guest's end of its channel: the frames of `nodes.worker.channel`, which it cannot import."""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from typing import Any

from .plain import pack, unpack

SPEC, RUN, ACK, REPLY, STOP, CODE = 1, 2, 3, 7, 8, 9
READY, OUTCOMES, EVENT, BLOCKED, UNBLOCKED, REQUEST, DONE = 33, 34, 35, 36, 37, 38, 39
GRANTED, ERROR = 1, 1
FRAME_BYTES_MAX = 256 * 1024 * 1024
HEADER = struct.Struct("<IBBHI")


class Closed(ConnectionError):
    """The node is gone."""


class Channel:
    """Frames over the inherited socket; blocks."""

    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(True)
        self.waiting: deque[tuple[int, int, int, int, Any]] = deque()
        self.requests = 0
        self.taken: Any = lambda kind, run, body: False
        os.register_at_fork(after_in_child=self.socket.close)

    def send(self, kind: int, body: Any = b"", slot: int = 0, run: int = 0) -> None:
        try:
            self.socket.sendall(HEADER.pack(HEADER.size - 4 + len(body), kind, slot, 0, run) + body)
        except OSError as error:
            raise Closed(str(error)) from None

    def event(self, run: int, index: int, name: str, data: Any) -> None:
        self.send(EVENT, pack([index, name, data]), run=run)

    def read(self) -> tuple[int, int, int, int, Any]:
        """One frame as (kind, slot, flags, run, body)."""
        length, kind, slot, flags, run = HEADER.unpack(self._exactly(HEADER.size))
        if not HEADER.size - 4 <= length <= FRAME_BYTES_MAX:
            raise Closed(f"a frame of {length} bytes")
        return kind, slot, flags, run, memoryview(self._exactly(length - HEADER.size + 4))

    def next(self) -> tuple[int, int, int, int, Any]:
        while not self.waiting:
            self.pump()
        return self.waiting.popleft()

    def pump(self) -> None:
        frame = self.read()
        if not self.taken(frame[0], frame[3], frame[4]):
            self.waiting.append(frame)

    def request(self, method: str, *args: Any) -> Any:
        self.requests += 1
        number = self.requests & 0xFFFFFFFF
        self.send(REQUEST, pack([method, list(args)]), run=number)
        while True:
            frame = self.read()
            kind, _, flags, run, body = frame
            if kind == REPLY and run == number:
                answer = unpack(body) if len(body) else None
                if flags & ERROR:
                    said = answer if isinstance(answer, dict) else {}
                    raise OSError(f"{method}: {said.get('message', 'refused')}")
                return answer
            if not self.taken(kind, run, body):
                self.waiting.append(frame)

    def _exactly(self, count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while len(view):
            try:
                done = self.socket.recv_into(view)
            except OSError as error:
                raise Closed(str(error)) from None
            if not done:
                raise Closed("the node closed the channel")
            view = view[done:]
        return buffer
