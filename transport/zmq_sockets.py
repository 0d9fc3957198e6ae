"""ZeroMQ sockets in an event loop, without zmq.asyncio: options, draining, and frames in parts.

The file descriptor of a ZeroMQ socket is edge-triggered: it tells once that something changed, and any call on the
socket may use that up. So a reader drains until the socket says EAGAIN, and whoever sends looks at the events again
afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import zmq

from transport import bounds, framing
from transport.links import Buffer, LinkSettings

Socket = zmq.Socket[bytes]
# Plain numbers: pyzmq's flags are enumerations, and their arithmetic costs more than a call into ZeroMQ.
NOBLOCK: Final = int(zmq.NOBLOCK)
SNDMORE: Final = int(zmq.SNDMORE)
POLLIN: Final = int(zmq.POLLIN)
POLLOUT: Final = int(zmq.POLLOUT)
_EVENTS: Final = int(zmq.EVENTS)
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
    """Calls ``take`` until there is nothing more, whenever the socket may have something; it may raise zmq.Again.

    ``drained`` is called after each such batch, ``idle`` (with the events) when after that there is really nothing to
    read. At most `bounds.DRAIN_COUNT_MAX` at a time, so that one busy peer does not starve the loop. An exception
    from ``take`` goes to the loop's exception handler, and the draining goes on in the next turn.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        socket: Socket,
        take: Callable[[], None],
        drained: Callable[[], None] | None = None,
        idle: Callable[[int], None] | None = None,
    ) -> None:
        self._loop = loop
        self._socket = socket
        self._take = take
        self._drained = drained
        self._idle = idle
        self._due = False
        self._draining = False
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
        if not self._due and not self._draining and not self._stopped and self.events() & POLLIN:
            self.later()

    def events(self) -> int:
        """ZeroMQ's events now: `POLLIN`, `POLLOUT`."""
        return int(self._socket.getsockopt(_EVENTS))

    def stop(self) -> None:
        """Leave the loop. The socket may be closed then."""
        if not self._stopped:
            self._stopped = True
            self._loop.remove_reader(self._fd)

    def _drain(self) -> None:
        self._due = False
        if self._stopped:
            return
        self._draining = True
        try:
            events = self._take_all()
        except BaseException:
            self.later()
            raise
        finally:
            self._draining = False
        if self._stopped:
            return
        if events & POLLIN:
            self.later()
        elif self._idle is not None:
            self._idle(events)

    def _take_all(self) -> int:
        """Take what is there, up to the bound, and return the events after the last call on the socket.

        Asking for the events is a system call, so a single message, which is what matters for latency, costs one: it
        is answered first. What comes after it is answered together.
        """
        self._take_one()
        taken = 1
        while not self._stopped:
            if self._drained is not None:
                self._drained()
                if self._stopped:
                    break
            events = self.events()
            if not events & POLLIN or taken >= bounds.DRAIN_COUNT_MAX:
                return events
            while events & POLLIN and taken < bounds.DRAIN_COUNT_MAX:
                self._take_one()
                if self._stopped:
                    return 0
                taken += 1
                events = self.events()
        return 0

    def _take_one(self) -> None:
        try:
            self._take()
        except zmq.Again:
            pass


def in_parts(frame: list[Buffer]) -> list[Buffer]:
    """A frame as the parts that cross ZeroMQ: the first holds the head, none is over `bounds.PART_BYTES_MAX`, slivers
    are joined."""
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
    last = parts[-1]
    if len(parts) > 1:
        for part in parts[:-1]:
            socket.send(part, NOBLOCK | SNDMORE, copy=len(part) <= bounds.COPIED_BYTES_MAX)
    socket.send(last, NOBLOCK, copy=len(last) <= bounds.COPIED_BYTES_MAX)


def receive_tail(socket: Socket, limit: int) -> bytes:
    """The parts that follow the one just read, joined. Raises Malformed, having read them all, if they are over the
    limits."""
    parts: list[memoryview] = []
    size = 0
    more = True
    over = False
    while more:
        part = socket.recv(NOBLOCK, copy=False)
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
