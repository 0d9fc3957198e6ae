"""The channel between a node and one of its workers: frames over a socket pair, both ends.

A frame is ``u32 length of the rest | u8 kind | u8 slot | u16 flags | u32 run | body``, little-endian. The node's end is
fed by its event loop (:class:`Frames`); the worker's end blocks (:class:`Channel`).
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from transport.bounds import WORKER_FRAME_BYTES_MAX as FRAME_BYTES_MAX

HEADER = struct.Struct("<IBBHI")
"""Length of the rest, kind, slot, flags, run."""
RUN_HEADER = struct.Struct("<IIII")
"""Body of RUN: first index, count, number of the spec, bytes of the extra map that follows; then the calls."""
READ_BYTES = 256 * 1024

# node to worker
SPEC = 1
RUN = 2
ACK = 3
INPUT = 4
SIGNAL = 5
DROP = 6
REPLY = 7
STOP = 8
CODE = 9
HEARD = 10
GRANT = 11
"""The slot is a client's for a while: {path, ticket, session, granted}."""
REVOKE = 12
"""The node wants a granted slot back, after the call that runs."""
SAVE = 13
"""A task is to end at its next safe point (flag ASKED), or need not any more: u32 index of a run."""
HOLD = 14
"""Coroutines are to stand still at their next await (flag HELD_ON), or may go on; `run` is the number of the order."""
# worker to node
READY = 33
OUTCOMES = 34
EVENT = 35
BLOCKED = 36
UNBLOCKED = 37
REQUEST = 38
DONE = 39
GRANT_READY = 40
GRANT_OVER = 41
HOLDABLE = 43
"""What runs is coroutines, which can be held (flag HELD_ON), or is not any more."""
HELD = 44
"""They stand still, as the order of this number wants."""
RECORDS = 42
"""Direct calls that have ended: [[number, name, status, run time in microseconds], ...]."""

GRANTED = 1
"""Flag of SPEC: the author is granted `code`."""
AGAIN = 1
"""Flag of HEARD: send what follows this offset once more."""
ASKED = 1
"""Flag of SAVE."""
HELD_ON = 1
"""Flag of HOLD and HOLDABLE."""
ERROR = 1
"""Flag of REPLY: the request failed; the body is the map of a notice, {message, hint}."""


class Frame(NamedTuple):
    """One frame. The body is a view of what was received, and keeps that alive."""

    kind: int
    slot: int
    flags: int
    run: int
    body: memoryview


class ChannelClosed(ConnectionError):
    """The other end is gone."""


class ChannelViolation(ValueError):
    """The other end sent what is no frame."""


def pack(kind: int, body: bytes = b"", *, slot: int = 0, flags: int = 0, run: int = 0) -> bytes:
    """One frame as bytes."""
    return HEADER.pack(HEADER.size - 4 + len(body), kind, slot, flags, run) + body


def pack_run(
    run: int, slot: int, start: int, count: int, spec: int, extra: dict[str, Any], lengths: Any, payloads: Any
) -> bytes:
    """A RUN frame: `count` calls from index `start` of their batch, as the two columns of ``Calls.slice``."""
    said = msgpack.packb(extra)
    body = b"".join((RUN_HEADER.pack(start, count, spec, len(said)), said, lengths, payloads))
    return pack(RUN, body, slot=slot, run=run)


class Frames:
    """Bytes in, frames out; for whoever reads the socket himself. ChannelViolation for an impossible length."""

    def __init__(self) -> None:
        self._rest = b""
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order."""
        if self._parts or self._rest:
            # a large frame is joined once, when it is whole
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join((self._rest, *self._parts))
        frames: list[Frame] = []
        view = memoryview(data)
        at, end = 0, len(data)
        need = HEADER.size
        while end - at >= HEADER.size:
            length, kind, slot, flags, run = HEADER.unpack_from(data, at)
            if not HEADER.size - 4 <= length <= FRAME_BYTES_MAX:
                raise ChannelViolation(f"a frame of {length} bytes; at most {FRAME_BYTES_MAX} are taken")
            if end - at < length + 4:
                need = length + 4
                break
            frames.append(Frame(kind, slot, flags, run, view[at + HEADER.size : at + 4 + length]))
            at += length + 4
        self._rest = data[at:]
        self._parts = []
        self._have = end - at
        self._need = need
        return frames


class Channel:
    """The worker's end. Sends from any thread; frames are read by the main thread alone, in order.

    Frames that arrive while something else is awaited are kept for later, apart from those that `interrupts` takes.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)
        self._frames = Frames()
        self._waiting: deque[Frame] = deque()
        self._sending = threading.Lock()
        self._requests = 0
        self._replies: dict[int, Frame] = {}
        self.interrupts: Callable[[Frame], bool] = lambda frame: False
        """Asked of every frame as it arrives; True when it was taken care of."""
        os.register_at_fork(after_in_child=self._forget)

    def fileno(self) -> int:
        """To be polled for reading."""
        return self._socket.fileno()

    def send(self, kind: int, body: bytes = b"", *, slot: int = 0, flags: int = 0, run: int = 0) -> None:
        """Send one frame; blocks while the node does not read. ChannelClosed when it is gone."""
        try:
            with self._sending:
                self._socket.sendall(pack(kind, body, slot=slot, flags=flags, run=run))
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def event(self, run: int, index: int, name: str, data: Any) -> None:
        """Send an EVENT of the task at `index` of its batch."""
        self.send(EVENT, bytes(msgpack.packb([index, name, data], unicode_errors="backslashreplace")), run=run)

    def next(self) -> Frame:
        """The next frame, waiting for it. ChannelClosed at the end."""
        while not self._waiting:
            self.pump()
        return self._waiting.popleft()

    def holds(self, wanted: Callable[[Frame], bool]) -> bool:
        """Whether one of the frames kept for later is `wanted`."""
        return bool(self._waiting) and any(map(wanted, self._waiting))

    def pick(self, wanted: Callable[[Frame], bool]) -> list[Frame]:
        """Those of the frames kept for later that are `wanted`, in order; they are kept no more."""
        found = [frame for frame in self._waiting if wanted(frame)]
        if found:
            self._waiting = deque(frame for frame in self._waiting if not wanted(frame))
        return found

    def pump(self) -> None:
        """Read once, waiting for data, and sort what came. ChannelClosed at the end."""
        try:
            data = self._socket.recv(READ_BYTES)
        except InterruptedError:
            return
        except OSError as error:
            raise ChannelClosed(str(error)) from None
        if not data:
            raise ChannelClosed("the node closed the channel")
        for frame in self._frames.feed(data):
            if frame.kind == REPLY:
                self._replies[frame.run] = frame
            elif not self.interrupts(frame):
                self._waiting.append(frame)

    def drain(self) -> None:
        """Read what is there, without waiting. ChannelClosed at the end. From the main thread only."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while poll.poll(0):
            self.pump()

    def request(self, method: str, *args: Any) -> Any:
        """Ask the node; blocks until it answers. From the main thread only. RequestFailed when it says no."""
        self._requests = number = self._requests % 0xFFFFFFFF + 1  # 0 wants no answer
        self.send(REQUEST, bytes(msgpack.packb([method, list(args)])), run=number)
        while number not in self._replies:
            self.pump()
        reply = self._replies.pop(number)
        answer = msgpack.unpackb(reply.body) if len(reply.body) else None
        if reply.flags & ERROR:
            raise RequestFailed(method, answer if isinstance(answer, dict) else {})
        return answer

    def tell(self, method: str, *args: Any) -> None:
        """Tell the node something, without an answer. From any thread."""
        self.send(REQUEST, bytes(msgpack.packb([method, list(args)])))

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _forget(self) -> None:
        # a child that a task forked must neither speak for the worker nor keep the channel open
        self._socket.close()


class RequestFailed(OSError):
    """The node refused a request of this worker. ``hint`` says what to do."""

    def __init__(self, method: str, said: dict[str, Any]) -> None:
        super().__init__(f"{method}: {said.get('message', 'refused')}")
        self.hint = str(said.get("hint", ""))
