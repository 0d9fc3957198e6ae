"""The listening side of the bulk lane: tickets, and the serving of connections to those who hold them."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from transport import bounds
from transport.bulk import (
    ANSWER,
    REQUEST,
    TICKET_BYTES,
    VERSION,
    BulkFailed,
    File,
    Progress,
    Region,
    Status,
    Verb,
    Wire,
    receive_exactly,
)
from transport.identity import Identity


class _Ticket:
    """What one peer may read or write."""

    __slots__ = ("lock", "peer", "region", "used_at", "users", "writer", "writing")

    def __init__(self, peer: bytes, region: Region, writing: Progress | None, now: float) -> None:
        self.peer = peer
        self.region = region
        self.writing = writing
        self.used_at = now
        self.users = 0
        self.writer: Wire | None = None
        """The connection that writes at this moment."""
        self.lock = threading.Lock()


class BulkServer:
    """Serves the bytes of regions to peers, and takes theirs. For any thread.

    `welcome` says whether a peer is (still) a member; it is asked before every request and within every long one.
    `note(reason, peer's name)` is told of connections that ended badly, `read(ticket)` of blobs that were sent to their
    end; both in the threads of connections.
    """

    def __init__(
        self,
        welcome: Callable[[Identity], bool],
        note: Callable[[str, str], None] = lambda reason, peer: None,
        read: Callable[[bytes], None] = lambda ticket: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._welcome = welcome
        self._note = note
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._tickets: dict[bytes, _Ticket] = {}
        self._wires: dict[bytes, set[Wire]] = {}
        self._count = 0
        self._closed = False
        self.sent_bytes = 0
        self.received_bytes = 0

    # --- tickets ------------------------------------------------------------------------------------------------------

    def offer(self, peer: bytes, path: Path, size: int) -> bytes:
        """Let a peer read the first `size` bytes of a file: the ticket. OSError, ValueError; BulkFailed("busy")."""
        return self._add(peer, File(path, size), None)

    def accept(self, peer: bytes, path: Path, size: int, *, hashed: bool) -> bytes:
        """Let a peer write the first `size` bytes of a file, once and in order: the ticket."""
        region = File(path, size, writable=True)
        return self._add(peer, region, Progress(region, hashed=hashed, wanted=lambda: None))

    def feed(self, peer: bytes, ticket: bytes, offset: int, data: memoryview) -> int:
        """Take bytes that came by another way, where no connection can be made; how many there are now. With none, at
        -1, that alone. BulkFailed."""
        entry = self._tickets.get(ticket)
        if entry is None or entry.peer != peer or entry.writing is None:
            raise BulkFailed("unknown", "no such transfer is open")
        if not entry.lock.acquire(blocking=False):
            raise BulkFailed("busy", "the blob is being written")
        try:
            if offset == -1 and not len(data):
                return entry.writing.at
            if offset != entry.writing.at or len(data) > entry.writing.size - offset:
                raise BulkFailed("range", f"{len(data)} bytes at {offset} are not the next of {entry.writing.size}")
            entry.writing.take(data)
            entry.used_at = self._clock()
            return entry.writing.at
        finally:
            entry.lock.release()

    def arrived(self, peer: bytes, ticket: bytes) -> tuple[int, bytes]:
        """How many bytes a peer has written, and their BLAKE3 digest if they are hashed. BulkFailed("unknown", "busy")."""
        entry = self._tickets.get(ticket)
        if entry is None or entry.peer != peer or entry.writing is None:
            raise BulkFailed("unknown", "no such transfer is open")
        if not entry.lock.acquire(blocking=False):  # a loop may be asking: it waits for no peer
            raise BulkFailed("busy", "the blob is being written")
        try:
            return entry.writing.at, entry.writing.digest
        finally:
            entry.lock.release()

    def withdraw(self, ticket: bytes) -> bool:
        """Forget a ticket; False when it is not known. A piece that is under way for it ends, with its connection."""
        with self._lock:
            return self._tickets.pop(ticket, None) is not None

    def expire(self) -> list[bytes]:
        """Forget the tickets that nobody used for `bounds.BULK_TICKET_LIFE_S`; which these are."""
        oldest = self._clock() - bounds.BULK_TICKET_LIFE_S
        with self._lock:
            over = [name for name, entry in self._tickets.items() if not entry.users and entry.used_at < oldest]
            for name in over:
                del self._tickets[name]
        return over

    def _add(self, peer: bytes, region: Region, writing: Progress | None) -> bytes:
        with self._lock:
            if sum(1 for entry in self._tickets.values() if entry.peer == peer) >= bounds.BULK_TICKETS_PER_PEER_MAX:
                raise BulkFailed("busy", f"{bounds.BULK_TICKETS_PER_PEER_MAX} transfers are open for this peer")
            ticket = os.urandom(TICKET_BYTES)
            self._tickets[ticket] = _Ticket(peer, region, writing, self._clock())
        return ticket

    # --- connections --------------------------------------------------------------------------------------------------

    def serve(self, wire: Wire) -> None:
        """Answer one connection until it ends. In the thread of that connection."""
        peer = wire.peer.id
        with self._lock:
            of_peer = self._wires.setdefault(peer, set())
            full = len(of_peer) >= bounds.BULK_SERVED_PER_PEER_MAX or self._count >= bounds.BULK_SERVED_COUNT_MAX
            if not full and not self._closed:
                of_peer.add(wire)
                self._count += 1
        try:
            if full or self._closed:
                raise BulkFailed("busy", "too many connections")
            while self._answer(wire):
                pass
        except BulkFailed as failure:
            if failure.reason not in ("cut", "closed"):
                self._note(failure.reason, wire.peer.name)
        finally:
            with self._lock:
                if wire in of_peer:
                    of_peer.discard(wire)
                    self._count -= 1
                if not of_peer:
                    self._wires.pop(peer, None)
            wire.close()

    def cut(self, peer: bytes) -> None:
        """End all connections of a peer and forget its tickets: it is no member any more."""
        with self._lock:
            wires = list(self._wires.get(peer, ()))
            for name in [name for name, entry in self._tickets.items() if entry.peer == peer]:
                del self._tickets[name]
        for wire in wires:
            wire.abort()

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            self._closed = True
            wires = [wire for of_peer in self._wires.values() for wire in of_peer]
            self._tickets.clear()
        for wire in wires:
            wire.abort()

    def _answer(self, wire: Wire) -> bool:
        """Answer one request; False when the peer has closed, or asked nothing for too long."""
        wire.wait_s(bounds.BULK_IDLE_SERVED_S)
        try:
            raw = receive_exactly(wire, REQUEST.size)
        except BulkFailed as failure:
            if failure.reason == "timeout":
                return False
            raise
        if not raw:
            return False
        wire.wait_s(bounds.BULK_STALL_TIMEOUT_S)
        verb, version, _, _, ticket, offset, length = REQUEST.unpack(raw)
        if version != VERSION or verb not in Verb.__members__.values():
            raise BulkFailed("malformed", f"verb {verb} of version {version}")
        if not self._welcome(wire.peer):
            raise BulkFailed("revoked")
        with self._lock:
            entry = self._tickets.get(ticket)
            if entry is not None and entry.peer != wire.peer.id:
                entry = None
            if entry is not None:
                entry.users += 1
        if entry is None:
            _say(wire, Status.UNKNOWN)
            return True
        try:
            self._carry_out(wire, Verb(verb), ticket, entry, offset, length)
        finally:
            with self._lock:
                entry.users -= 1
                entry.used_at = self._clock()
        return True

    def _carry_out(self, wire: Wire, verb: Verb, ticket: bytes, entry: _Ticket, offset: int, length: int) -> None:
        size = entry.region.size
        if verb == Verb.WHERE and entry.writing is not None:
            # Its peer is here: what another connection still brings of it is of one that has ended over there.
            if entry.writer is not None:
                entry.writer.abort()
            if not entry.lock.acquire(timeout=bounds.BULK_STALL_TIMEOUT_S):
                _say(wire, Status.BUSY)
                return
            at = entry.writing.at
            entry.lock.release()
            _say(wire, Status.OK, at)
        elif verb == Verb.WHERE or (verb == Verb.WRITE) != (entry.writing is not None):
            _say(wire, Status.UNKNOWN)
        elif not 0 < length <= bounds.BULK_PIECE_BYTES_MAX or offset > size or length > size - offset:
            _say(wire, Status.RANGE)
        elif entry.writing is None:
            _say(wire, Status.OK, length)
            reading = Progress(entry.region, hashed=False, wanted=lambda: self._wanted(wire, ticket))
            reading.at = offset
            try:
                reading.send(wire, length)
            finally:
                self.sent_bytes += reading.at - offset
            if reading.at == size:
                self._read(ticket)
        elif not entry.lock.acquire(blocking=False):
            _say(wire, Status.BUSY)
        else:
            with contextlib.ExitStack() as stack:
                stack.callback(entry.lock.release)
                entry.writer = wire
                stack.callback(setattr, entry, "writer", None)
                if offset != entry.writing.at:
                    _say(wire, Status.RANGE, entry.writing.at)
                    return
                _say(wire, Status.OK, length)
                try:
                    self._take(wire, ticket, entry.writing, length)
                finally:
                    self.received_bytes += entry.writing.at - offset
            _say(wire, Status.OK, offset + length)

    def _take(self, wire: Wire, ticket: bytes, writing: Progress, length: int) -> None:
        writing.wanted = lambda: self._wanted(wire, ticket)
        writing.receive(wire, length)

    def _wanted(self, wire: Wire, ticket: bytes) -> None:
        if ticket not in self._tickets:
            raise BulkFailed("closed", "the transfer was given up")
        if not self._welcome(wire.peer):
            raise BulkFailed("revoked")


def _say(wire: Wire, status: Status, value: int = 0) -> None:
    wire.send(ANSWER.pack(status, VERSION, 0, 0, value))
