"""The reach between processes of one host: a Unix stream socket, guarded by user id and by signed hellos.

The socket lies in a directory that only its user may enter; each side checks the user id of the process at the other
end with SO_PEERCRED (LOCAL_PEERCRED where that is missing), and then the handshake proves who it is. Frames carry
their own length, so they go on the stream as they are. The path is short: one recv into a large buffer, one sendmsg
that gathers, no copy of large messages.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from transport import bounds, framing
from transport.channel import BOOT, Channel, Switch, arrived
from transport.handshake import Handshake, Role
from transport.identity import Credentials, Trust
from transport.links import Buffer, HandshakeFailed, Link, LinkHandler, LinkSettings

SCHEME: Final = "unix://"
_READ_BYTES: Final = 256 * bounds.KIB
_GATHER_MAX: Final = 64
_BACKLOG: Final = 128
_HELD_BYTES: Final = bounds.MIB
"""Above this, frames wait in the channel rather than in the socket's backlog."""


class StreamLinks:
    """Links over Unix sockets. ``endpoint`` is a path, with or without ``unix://``."""

    def __init__(
        self,
        credentials: Credentials,
        trust: Trust,
        handler: LinkHandler,
        *,
        info: Mapping[str, object],
        settings: LinkSettings | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        boot: bytes = BOOT,
    ) -> None:
        self.switch = Switch(
            credentials, trust, handler, info=info, settings=settings, loop=loop, clock=clock, wall=wall, boot=boot
        )
        self.unverified: set[_Stream] = set()
        self.streams: set[_Stream] = set()
        self._listeners: dict[str, tuple[socket.socket, tuple[int, int]]] = {}

    async def listen(self, endpoint: str) -> str:
        """Listen at a path; its directory is made (0700) if need be. Returns the endpoint as others connect to it.

        Raises OSError if the path is in use or too long, PermissionError if others may enter the directory.
        """
        path = _path(endpoint)
        listener, inode = _bind(path)
        self._listeners[str(path)] = (listener, inode)
        self.switch.loop.add_reader(listener.fileno(), self._accept, listener)
        return f"{SCHEME}{path}"

    async def connect(
        self,
        endpoint: str,
        *,
        server_key: bytes | None = None,
        expect: bytes | None = None,
        timeout_s: float | None = None,
    ) -> Link:
        """Raises HandshakeFailed. ``server_key`` is the CURVE key that the peer's certificate must have, if it is
        given."""
        waiter: asyncio.Future[Channel] = self.switch.loop.create_future()
        handshake = self.switch.handshake("initiator", authenticated_key=None, expect=expect)
        stream = await self._dial(endpoint, handshake)
        stream.waiter = waiter
        stream.server_key = server_key
        for frame in handshake.start():
            stream.transmit([frame])
        return await self._wait(stream, waiter, endpoint, timeout_s)

    async def close(self) -> None:
        """Close every link and socket, and remove the socket files. When it returns, every ``link_down`` has been
        called."""
        for listener, _ in self._listeners.values():
            self.switch.loop.remove_reader(listener.fileno())
            listener.close()
        for path, (_, inode) in self._listeners.items():
            _remove_own(Path(path), inode)
        self._listeners.clear()
        self.switch.close("shutting down")
        for stream in list(self.unverified):
            stream.fail(HandshakeFailed("closed", "shutting down"), None)
        deadline = self.switch.clock() + self.switch.settings.linger_s
        while self.streams and self.switch.clock() < deadline:
            await asyncio.sleep(0.01)
        for stream in list(self.streams):
            stream.finish()
        await asyncio.sleep(0)

    async def _dial(self, endpoint: str, handshake: Handshake) -> _Stream:
        if self.switch.closed:
            raise HandshakeFailed("closed", "these links are closed")
        try:
            path = _path(endpoint)
        except OSError as error:
            raise HandshakeFailed("unreachable", f"{endpoint}: {error.strerror}") from None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            hint = "raise the limit of open files (ulimit -n, LimitNOFILE=)"
            raise HandshakeFailed("busy", str(error.strerror), hint) from None
        try:
            sock.setblocking(False)
            await self.switch.loop.sock_connect(sock, str(path))
            _check_user(sock)
        except BlockingIOError:
            sock.close()
            raise HandshakeFailed("busy", f"the node at {path} has too many connections waiting", "try again") from None
        except OSError as error:
            sock.close()
            raise HandshakeFailed(
                "unreachable", f"nobody listens at {path} ({os.strerror(error.errno or 0)})", "is the node running?"
            ) from None
        except BaseException:
            sock.close()
            raise
        return _Stream(self, sock, "initiator", handshake)

    async def _wait(
        self, stream: _Stream, waiter: asyncio.Future[Channel], endpoint: str, timeout_s: float | None
    ) -> Channel:
        timeout_s = self.switch.settings.handshake_timeout_s if timeout_s is None else timeout_s
        try:
            return await arrived(waiter, timeout_s)
        except TimeoutError:
            raise HandshakeFailed(
                "timeout", f"{endpoint} did not answer within {timeout_s:g} s", "is the node stopped?"
            ) from None
        finally:
            if stream.channel is None:
                stream.finish()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_BACKLOG):
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    continue  # the connection ended before it was accepted
                self.switch.refuse("busy", detail=os.strerror(error.errno), reach="host")
                self.switch.loop.remove_reader(listener.fileno())
                self.switch.loop.call_later(0.5, self._accept_again, listener)
                return
            self._greet(sock)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self.switch.loop.add_reader(listener.fileno(), self._accept, listener)

    def _greet(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            _check_user(sock)
            if len(self.unverified) >= bounds.UNVERIFIED_COUNT_MAX:
                raise HandshakeFailed("busy", f"{len(self.unverified)} connections have not shown a certificate yet")
        except HandshakeFailed as failure:
            self.switch.refuse(failure.reason, detail=str(failure), reach="host")
            sock.close()
            return
        except OSError:
            sock.close()
            return
        _Stream(self, sock, "acceptor", self.switch.handshake("acceptor", authenticated_key=None))


class _Stream:
    """One connection: reads frames for its handshake and then its channel, and is the wire of the latter."""

    def __init__(self, links: StreamLinks, sock: socket.socket, role: Role, handshake: Handshake) -> None:
        self.links = links
        self.channel: Channel | None = None
        self.waiter: asyncio.Future[Channel] | None = None
        self.server_key: bytes | None = None
        self._sock = sock
        self._fd = sock.fileno()
        self._role = role
        self._handshake = handshake
        self._loop = links.switch.loop
        self._out: deque[Buffer] = deque()
        self._out_bytes = 0
        self._writing = False
        self._shutting: asyncio.TimerHandle | None = None
        self._buffer = bytearray(framing.UNVERIFIED_FRAME_MAX)
        self._view = memoryview(self._buffer)
        self._start = self._stop = 0
        self._timer = self._loop.call_later(links.switch.settings.handshake_timeout_s, self._late)
        links.streams.add(self)
        if role == "acceptor":
            links.unverified.add(self)
        self._loop.add_reader(self._fd, self._readable)

    # -- out

    def transmit(self, parts: list[Buffer]) -> bool:
        """See `transport.channel.Wire`."""
        if self._fd < 0:
            return False
        if not self._out:
            try:
                sent = self._sock.send(parts[0]) if len(parts) == 1 else self._sock.sendmsg(parts[:_GATHER_MAX])
            except BlockingIOError:
                sent = 0
            except OSError:
                return self._broken()
            for part in parts:
                size = len(part)
                if sent >= size:
                    sent -= size
                    continue
                rest = memoryview(part)[sent:] if sent else part
                self._out.append(rest)
                self._out_bytes += len(rest)
                sent = 0
            if not self._out:
                return True
        else:
            self._out.extend(parts)
            self._out_bytes += sum(map(len, parts))
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)
        return self._out_bytes <= _HELD_BYTES

    def _writable(self) -> None:
        try:
            while self._out:
                batch = [self._out[i] for i in range(min(len(self._out), _GATHER_MAX))]
                sent = self._sock.sendmsg(batch)
                self._out_bytes -= sent
                while sent:
                    size = len(self._out[0])
                    if sent < size:
                        self._out[0] = memoryview(self._out[0])[sent:]
                        break
                    sent -= size
                    self._out.popleft()
                while self._out and not len(self._out[0]):
                    self._out.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._broken()
        self._writing = False
        self._loop.remove_writer(self._fd)
        if self._shutting is not None:
            self.finish()
        elif self.channel is not None:
            self.channel.wire_ready()

    def _broken(self) -> bool:
        """The peer reads no more. What it still said (why, perhaps) is read first; the end of it is seen there."""
        self._out.clear()
        self._out_bytes = 0
        return False

    def shut(self) -> None:
        """See `transport.channel.Wire`."""
        if self._fd < 0 or self._shutting is not None:
            return
        if not self._out:
            self.finish()
            return
        self._loop.remove_reader(self._fd)
        self._shutting = self._loop.call_later(self.links.switch.settings.linger_s, self.finish)

    def finish(self) -> None:
        """Close the socket, whatever has not left yet."""
        if self._fd < 0:
            return
        self._timer.cancel()
        if self._shutting is not None:
            self._shutting.cancel()
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self._fd = -1
        self._sock.close()
        self._out.clear()
        self.links.streams.discard(self)
        self.links.unverified.discard(self)
        if self.channel is not None:
            self.channel.lost("disconnected")

    # -- in

    def _readable(self) -> None:
        try:
            got = self._sock.recv_into(self._view[self._stop :])
        except BlockingIOError:
            return
        except OSError:
            got = 0
        if got == 0:
            self._gone()
            return
        self._stop += got
        channel = self.channel
        if channel is not None:
            channel.alive()
        self._parse_all()

    def _parse_all(self) -> None:
        try:
            self._parse()
        except BaseException:
            self._loop.call_soon(self._parse_all)  # what is in the buffer does not make the socket readable again
            raise
        finally:
            self.links.switch.flush()

    def _parse(self) -> None:
        """Take every whole frame out of the buffer, then make room for the next one."""
        while self._fd >= 0 and self._shutting is None:
            have = self._stop - self._start
            if have < 4:
                self._room(4)
                return
            size = 4 + int.from_bytes(self._view[self._start : self._start + 4], "little")
            if size > (framing.UNVERIFIED_FRAME_MAX if self.channel is None else bounds.FRAME_BYTES_MAX):
                self._violated(f"a frame of {size} bytes")
                return
            if have < size:
                self._room(size)
                return
            frame = self._view[self._start : self._start + size]
            self._start += size
            if self.channel is not None:
                self.channel.receive(frame)
            else:
                self._shake(frame)

    def _room(self, size: int) -> None:
        """Make the buffer large enough for a frame of this size that begins at its start."""
        held = self._view[self._start : self._stop]
        wanted = max(size, len(self._buffer) if self.channel is None else _READ_BYTES)
        if wanted != len(self._buffer):
            buffer = bytearray(wanted)
            buffer[: len(held)] = held
            self._buffer, self._view = buffer, memoryview(buffer)
        elif self._start:
            self._view[: len(held)] = bytes(held)
        self._start, self._stop = 0, len(held)

    def _shake(self, frame: memoryview) -> None:
        switch = self.links.switch
        try:
            type, body = framing.read_unverified(frame)
            for reply in self._handshake.receive(type, body, switch.wall()):
                self.transmit([reply])
            peer = self._handshake.peer
            if peer is not None and self.server_key not in (None, peer.identity.curve_key):
                raise HandshakeFailed("key-mismatch", f"{peer.identity.name} has another key than was expected there")
        except framing.Malformed as error:
            self._refuse(HandshakeFailed("malformed", str(error)))
            return
        except HandshakeFailed as failure:
            self._refuse(failure)
            return
        if peer is not None:
            self._timer.cancel()
            self.links.unverified.discard(self)
            self.channel = Channel(switch, self, peer, "host", dialled=self._role == "initiator")
            if self.waiter is not None and not self.waiter.done():
                self.waiter.set_result(self.channel)

    def _refuse(self, failure: HandshakeFailed) -> None:
        if not failure.remote:
            self.links.switch.refuse(failure.reason, detail=str(failure), reach="host")
        self.fail(failure, None if failure.remote else self.links.switch.refusal(failure))

    def _violated(self, detail: str) -> None:
        if self.channel is not None:
            self.channel.violated("malformed", detail)
        else:
            self._refuse(HandshakeFailed("malformed", detail))

    def fail(self, failure: HandshakeFailed, frame: bytes | None) -> None:
        """Give up the handshake, telling the peer if there is a frame for it."""
        if frame is not None:
            self.transmit([frame])
        self.shut()
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(failure)

    def _gone(self) -> None:
        if self._fd < 0:
            return
        if self.channel is None:
            self.fail(HandshakeFailed("disconnected", "the connection ended before the handshake did"), None)
        self.finish()

    def _late(self) -> None:
        if self._role == "acceptor":
            self._refuse(HandshakeFailed("timeout", "no valid hello in time"))


def _path(endpoint: str) -> Path:
    path = Path(endpoint.removeprefix(SCHEME))
    if len(os.fsencode(path)) > 103:
        raise OSError(errno.ENAMETOOLONG, "longer than the 103 bytes that a socket may have", str(path))
    return path


def _bind(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    """A listening socket at the path, and the inode of its file."""
    _guard_directory(path.parent)
    _clear_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(_BACKLOG)
        seen = path.stat()
    except BaseException:
        listener.close()
        raise
    return listener, (seen.st_dev, seen.st_ino)


def _clear_stale(path: Path) -> None:
    """Remove the socket file of a process that is gone. Raises OSError if somebody listens there, or it is no
    socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "is no socket", str(path))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # connecting a Unix socket never waits: it is done, refused, or the backlog is full
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, "another node listens there", str(path))


def _guard_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    seen = directory.stat()
    if seen.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "the directory of the socket belongs to another user", str(directory))
    if stat.S_IMODE(seen.st_mode) & 0o077:
        raise PermissionError(errno.EPERM, "others may enter the directory of the socket: chmod 700", str(directory))


def _remove_own(path: Path, inode: tuple[int, int]) -> None:
    try:
        seen = path.lstat()
        if (seen.st_dev, seen.st_ino) == inode:
            path.unlink()
    except FileNotFoundError:
        pass


def _check_user(sock: socket.socket) -> None:
    uid = peer_uid(sock)
    if uid != os.getuid():
        raise HandshakeFailed("wrong-user", f"the process at the other end belongs to user {uid}")


def peer_uid(sock: socket.socket) -> int:
    """The user id of the process at the other end of a Unix socket. Raises OSError where the system can not tell."""
    if sys.platform == "linux":
        return int(struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
    # struct xucred of <sys/ucred.h> on macOS and FreeBSD: u32 version, u32 uid, ... ; SOL_LOCAL is 0, LOCAL_PEERCRED 1
    return int(struct.unpack_from("=II", sock.getsockopt(0, 1, 76))[1])
