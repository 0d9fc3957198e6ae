"""A peer's snapshots as a copy that chunks are taken from: over connections of the bulk lane, or the control link where none can be made.

Its methods are for threads; what is asked on the control link is asked by the node's loop. Nothing that comes is believed: who asked for
a chunk checks it against its hash.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeVar

from nodes.knowledge.lending import FIND_MAX
from nodes.lane import Lane
from nodes.queries import AskFailed, Switchboard
from transport import bounds
from transport.bulk import BulkFailed, Verb, Wire, ask, read_route, receive_exactly
from transport.links import Link

T = TypeVar("T")
ASK_S: Final = 60.0
WIRES_MAX: Final = bounds.BULK_CONNECTIONS_PER_PEER_MAX
"""Connections to one peer."""
CHUNK_BYTES_MAX: Final = 80 << 20


class PeerCopy:
    """The snapshots of one peer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, switchboard: Switchboard, lane: Lane, link: Link) -> None:
        self.link = link
        self.name: str | None = None
        """Of the snapshot whose manifest is asked for."""
        self.bulk_bytes = 0
        self.control_bytes = 0
        """By which way chunks came."""
        self._loop = loop
        self._switchboard = switchboard
        self._lane = lane
        self._lock = threading.Lock()
        self._free = threading.Semaphore(WIRES_MAX)
        self._wires: list[Wire] = []
        self._wanted: dict[bytes, int] | None = None
        self._places: dict[bytes, tuple[bytes, int]] = {}
        """Hash -> (ticket, offset)."""
        self._by_control = not lane.port
        self._closed = False

    # --- as a copy --------------------------------------------------------------------------------------------------------

    def manifest(self) -> bytes | None:
        """Of the snapshot that is meant. OSError when the peer does not answer."""
        if self.name is None:
            return None
        try:
            _, body = self._asked("snapshot.manifest", {"name": self.name})
        except AskFailed as error:
            if error.facts.get("kind") == "NotFound":
                return None
            raise OSError(str(error)) from error
        return body

    def head(self, shard: str, root: bytes) -> bytes | None:
        """Header and table of a file."""
        answer, body = self._told("snapshot.head", {"shard": shard, "root": root})
        return body if answer.get("found") is True else None

    def want(self, chunks: Iterable[tuple[bytes, int]]) -> None:
        """These will be asked for: find out which of them are there."""
        wanted = dict(chunks)
        places: dict[bytes, tuple[bytes, int]] = {}
        hashes = list(wanted)
        for at in range(0, len(hashes), FIND_MAX):
            places |= self._found(hashes[at : at + FIND_MAX])
        with self._lock:
            self._wanted = {**(self._wanted or {}), **{hash: size for hash, size in wanted.items() if hash in places}}
            self._places |= places

    def has(self, hash: bytes) -> bool:
        """Whether the peer has a chunk, as far as is known."""
        return self._wanted is None or hash in self._wanted

    def chunk(self, hash: bytes) -> bytes | None:
        """A chunk. OSError when the peer does not answer."""
        if self._wanted is not None and not self._by_control:
            try:
                return self._read(hash)
            except BulkFailed as failure:
                if failure.reason in ("revoked", "closed"):
                    raise OSError(str(failure)) from failure
                self._by_control = failure.reason in ("unreachable", "untrusted", "timeout")
        answer, body = self._told("snapshot.part", {"hash": hash})
        if answer.get("found") is not True:
            return None
        with self._lock:
            self.control_bytes += len(body)
        return body

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            self._closed = True
            wires, self._wires = self._wires, []
        for wire in wires:
            wire.close()

    # --- over the bulk lane -----------------------------------------------------------------------------------------------

    def _found(self, hashes: list[bytes]) -> dict[bytes, tuple[bytes, int]]:
        """Hash -> (ticket, offset), of those that the peer has."""
        answer, _ = self._told("snapshot.find", {"bulk": not self._by_control}, b"".join(hashes))
        places, tickets = answer.get("places"), answer.get("tickets")
        if not isinstance(places, list) or not isinstance(tickets, list) or len(places) != len(hashes):
            raise OSError("the peer does not say where chunks are")
        found: dict[bytes, tuple[bytes, int]] = {}
        for hash, place in zip(hashes, places, strict=True):
            if place is None:
                continue
            file, offset = place
            found[hash] = (bytes(tickets[file]) if file < len(tickets) else b"", int(offset))
        return found

    def _read(self, hash: bytes) -> bytes | None:
        assert self._wanted is not None
        size = self._wanted.get(hash)
        if size is None:
            return None
        for attempt in (1, 2, 3):
            place = self._places.get(hash)
            if place is None or not place[0]:
                found = self._found([hash])
                with self._lock:
                    self._places |= found
                place = found.get(hash)
                if place is None:
                    return None
            try:
                return self._carried(*place, size)
            except BulkFailed as failure:
                if not failure.passing or attempt == 3:
                    raise
                with self._lock:
                    self._places.pop(hash, None)  # with another ticket
        return None

    def _carried(self, ticket: bytes, offset: int, size: int) -> bytes:
        if not 0 < size <= CHUNK_BYTES_MAX:
            raise BulkFailed("range", f"a chunk of {size} bytes")
        with self._free:
            with self._lock:
                wire = self._wires.pop() if self._wires else None
            if wire is None:
                wire = self._dialled()
            good = False
            try:
                parts = []
                while size:
                    length = min(size, bounds.BULK_PIECE_BYTES_MAX)
                    if ask(wire, Verb.READ, ticket, offset, length) != length:
                        raise BulkFailed("malformed", "the answer is of another length than was asked for")
                    parts.append(receive_exactly(wire, length))
                    offset, size = offset + length, size - length
                good = True
            except BulkFailed as failure:
                good = failure.reason in ("unknown", "range", "busy")  # a whole answer
                raise
            finally:
                with self._lock:
                    good = good and not self._closed
                    if good:
                        self._wires.append(wire)
                if not good:
                    wire.close()
        found = b"".join(parts)
        with self._lock:
            self.bulk_bytes += len(found)
        return found

    def _dialled(self) -> Wire:
        try:
            answer, _ = self._asked("blob.door", {"tls": self._lane.announcement()})
        except AskFailed as error:
            raise BulkFailed("unreachable", str(error)) from error
        wire = self._lane.dial(read_route(self.link.identity, answer))
        wire.wait_s(bounds.BULK_STALL_TIMEOUT_S)
        return wire

    # --- over the control link --------------------------------------------------------------------------------------------

    def _told(self, method: str, args: Mapping[str, Any], body: bytes = b"") -> tuple[Mapping[str, Any], bytes]:
        try:
            return self._asked(method, args, body)
        except AskFailed as error:
            raise OSError(str(error)) from error

    def _asked(self, method: str, args: Mapping[str, Any], body: bytes = b"") -> tuple[Mapping[str, Any], bytes]:
        answer, found = in_loop(self._loop, lambda: self._switchboard.asked(self.link, method, args, body, ASK_S))
        if not isinstance(answer, Mapping):
            raise AskFailed(f"the answer to {method} is not a map")
        return answer, found


def in_loop(loop: asyncio.AbstractEventLoop, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Have the loop do it, and wait: from another thread. AskFailed where the loop has ended."""
    try:
        return asyncio.run_coroutine_threadsafe(begin(), loop).result(2 * ASK_S)
    except (RuntimeError, TimeoutError, asyncio.CancelledError) as error:
        raise AskFailed(f"this node is closing: {error}") from error
