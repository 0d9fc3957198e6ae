"""The bulk lane: large blobs between two proven members, beside their control link. The contract of every reach, and the
form of what crosses it.

A transfer is agreed on over the control link and carried out here. The side that has the listener makes a *ticket* (16
random bytes: this peer may read, or write, this one blob) and a *door* (16 random bytes: this peer may open one
connection, with the certificate that it has announced); the other side dials, shows the door, proves its key, and asks
for pieces of what it has tickets for. So a stranger meets no TLS at all, nothing on a connection names a blob or a path,
and who is revoked gets neither.

::

    request   u8 verb | u8 version | u16 0 | u32 0 | ticket (16) | u64 offset | u64 length
    answer    u8 status | u8 version | u16 0 | u32 0 | u64 value

    READ      answer (OK, length), then the bytes
    WRITE     answer (OK, length), then the bytes go the other way, then answer (OK, bytes there are now)
    WHERE     answer (OK, bytes there are now): where to go on after a cut

Lengths are checked against the size agreed on before a byte is taken, and that size against the limits of the store
before memory is set aside. Reaches are `transport.tls_wires` (TLS 1.3 over TCP) and `transport.memory_wires` (the twin,
for tests). All of it runs in threads: TLS and hashing release the interpreter's lock, the loop of a node takes no part.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, Protocol

from blake3 import blake3

from transport import bounds
from transport.hints import Address
from transport.identity import Identity

VERSION: Final = 1
TICKET_BYTES: Final = 16
DOOR_BYTES: Final = 16
REQUEST: Final = struct.Struct("<BBHI16sQQ")
ANSWER: Final = struct.Struct("<BBHIQ")


class Verb(IntEnum):
    """What is asked."""

    READ = 1
    WRITE = 2
    WHERE = 3


class Status(IntEnum):
    """What is answered."""

    OK = 0
    UNKNOWN = 1
    """No such ticket, or not for this peer, or its time is over: ask for another one."""
    RANGE = 2
    """Beyond the size agreed on, longer than a piece, or not where the other side is."""
    BUSY = 3
    """Somebody is writing there."""


class BulkFailed(Exception):
    """A transfer, or a connection, that did not come off. ``reason`` is a short code, fit for a label."""

    REASONS: Final = (
        "unreachable",  # nobody answers at any of the addresses
        "timeout",  # somebody is there, but nothing moves
        "untrusted",  # the certificate, or the door, is not the one announced
        "cut",  # the connection ended within a transfer: what has come is kept, ask for another ticket and go on
        "unknown",  # the ticket is not known there
        "range",  # what was asked for is not there
        "busy",  # too many transfers at once, or two that write one blob
        "storage",  # the bytes can not be kept, or read, on this side
        "content",  # what came is not what its digest says
        "malformed",  # the peer does not follow the protocol
        "revoked",  # the peer is no member any more
        "closed",  # this side is closing, or gave the transfer up
    )

    def __init__(self, reason: str, message: str = "") -> None:
        assert reason in self.REASONS, reason
        super().__init__(message or reason)
        self.reason = reason

    @property
    def passing(self) -> bool:
        """Whether another attempt, with a new ticket, may go on where this one ended."""
        return self.reason in ("timeout", "cut", "unknown", "busy")


class Wire(Protocol):
    """One connection to a proven peer. Blocking, for one thread at a time; `abort` for any."""

    @property
    def peer(self) -> Identity:
        """Who is at the other end."""

    def wait_s(self, timeout_s: float) -> None:
        """How long each of the following calls may take without a byte moving; then they raise BulkFailed("timeout")."""

    def receive(self, view: memoryview) -> int:
        """Take at least one byte into the view; how many. 0 when the peer has closed. BulkFailed when it is cut."""

    def send(self, view: memoryview | bytes) -> None:
        """Send all of it."""

    def abort(self) -> None:
        """End it now, whoever is waiting on it."""

    def close(self) -> None:
        """End it in order. Closing twice is nothing."""


@dataclass(frozen=True, slots=True)
class Route:
    """How a peer's listener is reached, as it said on the control link just now."""

    peer: Identity
    addresses: tuple[Address, ...]
    door: bytes
    announcement: bytes


def read_route(peer: Identity, answer: Mapping[str, Any], hosts: Iterable[str] = ()) -> Route:
    """The way to a peer's listener, from what it said on the control link: ``door``, ``tls``, ``at`` [[host, port]…].

    `hosts` are addresses by which it is known to be reached. Raises BulkFailed("malformed").
    """
    try:
        told = [(str(host), int(port)) for host, port in answer["at"][: bounds.HINT_ADDRESSES_COUNT_MAX]]
        known = [(host, told[0][1]) for host in hosts]
        return Route(peer, tuple(dict.fromkeys((*known, *told))), bytes(answer["door"]), bytes(answer["tls"]))
    except (KeyError, TypeError, ValueError, IndexError):
        raise BulkFailed("malformed", f"what {peer.name} says names no way to it") from None


class Wires(Protocol):
    """Makes and takes connections. For any thread."""

    def listen(self, host: str, port: int, serve: Callable[[Wire], None]) -> int:
        """Take connections; each is served in a thread of its own. The port (0 picks a free one). OSError if it is taken."""

    def announcement(self) -> bytes:
        """What the peer has to know to pin this side, for its `admit` or its `Route`."""

    def admit(self, peer: Identity, announcement: object) -> bytes:
        """Let a peer that announced this open one connection: its door. Raises `Untrusted`."""

    def dial(self, route: Route) -> Wire:
        """Connect. BulkFailed ("unreachable", "timeout", "untrusted")."""

    def close(self) -> None:
        """Take no more connections, and end those that are there."""


class Region(Protocol):
    """Where the bytes of a blob are, or go."""

    size: int
    """Bytes."""

    def room(self, at: int, count: int, scratch: memoryview) -> memoryview:
        """Where to put the next bytes, at most `count`: the place itself, or `scratch`."""

    def put(self, at: int, received: memoryview) -> None:
        """What was received into `room` is there. OSError when it can not be kept."""

    def get(self, at: int, count: int, scratch: memoryview) -> memoryview:
        """The next bytes, at most `count`. OSError when they can not be read."""


class Memory:
    """A region that is a buffer of this process: bytes come straight into it."""

    def __init__(self, data: bytes | bytearray | memoryview | mmap.mmap) -> None:
        view = memoryview(data)
        self._view = view if view.format == "B" and view.ndim == 1 else view.cast("B")
        self.size = self._view.nbytes

    @classmethod
    def fresh(cls, size: int) -> tuple[Memory, memoryview]:
        """A new buffer, a view of an `mmap`; in large pages where the system has them, since to touch 64 MiB for the
        first time takes longer than to decrypt it."""
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        mapped = mmap.mmap(-1, size, **private)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them
                mapped.madvise(mmap.MADV_HUGEPAGE)
        return cls(mapped), memoryview(mapped)

    def room(self, at: int, count: int, scratch: memoryview) -> memoryview:
        return self._view[at : at + count]

    def put(self, at: int, received: memoryview) -> None:
        pass  # it is there already

    def get(self, at: int, count: int, scratch: memoryview) -> memoryview:
        return self._view[at : at + count]


class File:
    """A region that is the head of a file, in shared memory as a rule.

    Read and written by calls, not mapped: a page of a mapping that is touched for the first time costs more than the copy
    of it does, and a file that is cut short, or a full disk, is an error and not the end of the process.
    """

    def __init__(self, path: Path, size: int, *, writable: bool = False) -> None:
        """OSError when it can not be opened."""
        self._file = open(path, "r+b" if writable else "rb", buffering=0)
        self.size = size

    def room(self, at: int, count: int, scratch: memoryview) -> memoryview:
        return scratch[:count]

    def put(self, at: int, received: memoryview) -> None:
        done = 0
        while done < len(received):
            done += os.pwrite(self._file.fileno(), received[done:], at + done)

    def get(self, at: int, count: int, scratch: memoryview) -> memoryview:
        got = os.preadv(self._file.fileno(), [scratch[:count]], at)
        if not got:
            raise OSError(f"the file ends after {at} of {self.size} bytes")
        return scratch[:got]


class Progress:
    """How far the bytes of a region have come, with the digest of those that have. One thread at a time."""

    def __init__(self, region: Region, *, hashed: bool, wanted: Callable[[], None]) -> None:
        """`wanted` is called now and then, and raises BulkFailed when the transfer is to end."""
        self.size = region.size
        self.at = 0
        self.wanted = wanted
        self._region = region
        self._hasher = blake3() if hashed else None
        self._hashed = 0

    @property
    def digest(self) -> bytes:
        """BLAKE3 of what has come so far; b"" where it is not hashed."""
        return b"" if self._hasher is None else self._hasher.digest()

    def receive(self, wire: Wire, length: int) -> None:
        """Take the next bytes from a wire, and hash them while they are in the cache. BulkFailed("cut") may leave some."""
        end = self.at + length
        assert end <= self.size, (end, self.size)
        scratch = memoryview(bytearray(bounds.BULK_PORTION_BYTES))
        while self.at < end:
            self.wanted()
            room = self._region.room(self.at, min(end - self.at, bounds.BULK_PORTION_BYTES), scratch)
            got = 0
            try:
                while got < len(room):
                    more = wire.receive(room[got:])
                    if not more:
                        raise BulkFailed("cut", f"the connection ended after {self.at + got} of {self.size} bytes")
                    got += more
            finally:
                try:
                    self._region.put(self.at, room[:got])
                except OSError as error:
                    raise BulkFailed("storage", str(error)) from error
                self.at += got
                self._hash(room[:got])

    def take(self, data: memoryview) -> None:
        """The next bytes came by another way. BulkFailed("storage")."""
        assert len(data) <= self.size - self.at, (len(data), self.at, self.size)
        try:
            self._region.put(self.at, data)
        except OSError as error:
            raise BulkFailed("storage", str(error)) from error
        self.at += len(data)
        self._hash(data)

    def send(self, wire: Wire, length: int) -> None:
        """Send the next bytes over a wire."""
        end = self.at + length
        assert end <= self.size, (end, self.size)
        scratch = memoryview(bytearray(bounds.BULK_PORTION_BYTES))
        while self.at < end:
            self.wanted()
            part = self._read(self.at, end - self.at, scratch)
            wire.send(part)
            self.at += len(part)
            if self._hashed < self.at:
                self._hash(part)

    def resume(self, at: int) -> None:
        """Go on sending from `at`, which is where the peer is. What was sent before is hashed, and is so once."""
        assert 0 <= at <= self.size, at
        scratch = memoryview(bytearray(bounds.BULK_PORTION_BYTES))
        while self._hasher is not None and self._hashed < at:
            self._hash(self._read(self._hashed, at - self._hashed, scratch))
        self.at = at

    def _read(self, at: int, count: int, scratch: memoryview) -> memoryview:
        if at < self._hashed:
            count = min(count, self._hashed - at)  # sent once more: no portion is hashed in part
        try:
            return self._region.get(at, min(count, bounds.BULK_PORTION_BYTES), scratch)
        except OSError as error:
            raise BulkFailed("storage", str(error)) from error

    def _hash(self, part: memoryview) -> None:
        if self._hasher is not None:
            self._hasher.update(part)
            self._hashed += len(part)


def receive_exactly(wire: Wire, count: int) -> bytes:
    """So many bytes; b"" when the peer closed before the first. BulkFailed("cut") when it ends in between."""
    head = bytearray(count)
    got = 0
    with memoryview(head) as view:
        while got < count:
            more = wire.receive(view[got:])
            if not more:
                if not got:
                    return b""
                raise BulkFailed("cut", "the connection ended within a request or answer")
            got += more
    return bytes(head)


def ask(wire: Wire, verb: Verb, ticket: bytes, offset: int, length: int) -> int:
    """Send a request and read its answer; the value. BulkFailed when it is not OK."""
    wire.send(REQUEST.pack(verb, VERSION, 0, 0, ticket, offset, length))
    return read_answer(wire)


def read_answer(wire: Wire) -> int:
    """The value of an answer. BulkFailed when it is not OK."""
    raw = receive_exactly(wire, ANSWER.size)
    if not raw:
        raise BulkFailed("cut", "the connection ended before the answer")
    status, version, _, _, value = ANSWER.unpack(raw)
    if version != VERSION:
        raise BulkFailed("malformed", f"an answer of version {version}")
    if status != Status.OK:
        reasons = {Status.UNKNOWN: "unknown", Status.RANGE: "range", Status.BUSY: "busy"}
        raise BulkFailed(reasons.get(status, "malformed"), f"the peer answered with status {status}")
    return int(value)
