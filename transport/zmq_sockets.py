"""ZeroMQ sockets in an event loop, without zmq.asyncio: options, draining, and frames in parts.

The file descriptor of a ZeroMQ socket is edge-triggered: it tells once that something changed, and any call on the socket may use that
up. So a reader drains until the socket says EAGAIN, and whoever sends looks at the events again afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from transport import bounds, framing
from transport.links import Buffer, LinkSettings

Socket = zmq.Socket[bytes]
_CURVE_BYTES = 64
"""Encryption makes a part longer by 33 bytes (RFC 26, MESSAGE: command name, nonce, flags, authenticator)."""


def configure(socket: Socket, settings: LinkSettings) -> None:
    """The options that both ends of a link share."""
    socket.setsockopt(zmq.LINGER, int(settings.linger_s * 1000))
    socket.setsockopt(zmq.SNDHWM, bounds.SOCKET_FRAMES_MAX)
    socket.setsockopt(zmq.RCVHWM, bounds.SOCKET_FRAMES_IN_MAX)
    socket.setsockopt(zmq.MAXMSGSIZE, bounds.PART_BYTES_MAX + _CURVE_BYTES)
    socket.setsockopt(zmq.HEARTBEAT_IVL, int(settings.heartbeat_interval_s * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(settings.heartbeat_timeout_s * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TTL, int(settings.heartbeat_timeout_s * 1000))
    socket.setsockopt(zmq.HANDSHAKE_IVL, int(settings.handshake_timeout_s * 1000))
    socket.setsockopt(zmq.TCP_MAXRT, int(settings.keepalive_silence_s * 1000))


class Drained:
    """Calls ``take`` until it raises zmq.Again, whenever the socket may have something; then ``idle``, if given.

    At most `bounds.DRAIN_COUNT_MAX` at a time, so that one busy peer does not starve the loop. An exception from ``take`` goes to the
    loop's exception handler, and the draining goes on in the next turn.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        socket: Socket,
        take: Callable[[], None],
        idle: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._socket = socket
        self._take = take
        self._idle = idle
        self._due = False
        self._stopped = False
        self._fd = int(socket.getsockopt(zmq.FD))
        loop.add_reader(self._fd, self._drain)
        self.later()

    def later(self) -> None:
        """Drain in the next turn of the loop."""
        if not self._due and not self._stopped:
            self._due = True
            self._loop.call_soon(self._drain)

    def poke(self) -> None:
        """To be called after a send: it may have used up the edge."""
        if not self._due and not self._stopped and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self.later()

    def stop(self) -> None:
        """Leave the loop. The socket may be closed then."""
        if not self._stopped:
            self._stopped = True
            self._loop.remove_reader(self._fd)

    def _drain(self) -> None:
        self._due = False
        try:
            for _ in range(bounds.DRAIN_COUNT_MAX):
                if self._stopped:
                    return
                self._take()
            self.later()
        except zmq.Again:
            pass
        except BaseException:
            self.later()
            raise
        if self._idle is not None and not self._stopped:
            self._idle()
        if not self._stopped:
            self.poke()


def in_parts(frame: list[Buffer]) -> list[Buffer]:
    """A frame as the parts that cross ZeroMQ: the first holds the head, none is over `bounds.PART_BYTES_MAX`, slivers are joined."""
    if len(frame) == 1:
        return frame
    parts: list[Buffer] = [frame[0]]
    small: list[Buffer] = []
    small_bytes = 0
    for buffer in frame[1:]:
        size = len(buffer)
        if small and (size > bounds.COPIED_BYTES_MAX or small_bytes + size > bounds.PART_BYTES_MAX):
            parts.append(b"".join(small))
            small = []
            small_bytes = 0
        if size <= bounds.COPIED_BYTES_MAX:
            small.append(buffer)
            small_bytes += size
        elif size <= bounds.PART_BYTES_MAX:
            parts.append(buffer)
        else:
            view = memoryview(buffer)
            parts.extend(view[at : at + bounds.PART_BYTES_MAX] for at in range(0, size, bounds.PART_BYTES_MAX))
    if small:
        parts.append(b"".join(small))
    return parts


def send_parts(socket: Socket, parts: list[Buffer]) -> None:
    """Send a message without waiting. Raises zmq.Again or another zmq.ZMQError, and then nothing of it was sent."""
    last = len(parts) - 1
    for i, part in enumerate(parts):
        flags = zmq.NOBLOCK if i == last else zmq.NOBLOCK | zmq.SNDMORE
        socket.send(part, flags, copy=len(part) <= bounds.COPIED_BYTES_MAX)


def receive_tail(socket: Socket, limit: int) -> bytes:
    """The parts that follow the one just read, joined. Raises Malformed, having read them all, if they are over the limits."""
    parts: list[memoryview] = []
    size = 0
    more = True
    over = False
    while more:
        part = socket.recv(zmq.NOBLOCK, copy=False)
        more = part.more
        size += len(part.buffer)
        over = over or size > limit or len(parts) >= bounds.PARTS_COUNT_MAX
        if over:
            parts.clear()
        else:
            parts.append(part.buffer)
    if over:
        raise framing.Malformed(f"a message of {size} bytes in parts, the limit is {limit}")
    return b"".join(parts)
