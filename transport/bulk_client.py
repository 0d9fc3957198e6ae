"""The dialling side of the bulk lane: transfers to and from peers, in pieces, over a few pooled connections each."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from transport import bounds
from transport.bulk import BulkFailed, Progress, Region, Route, Verb, Wire, Wires, ask, read_answer
from transport.identity import Identity

ANY_EVERY = 4
"""One piece in so many is of who waits for longest, whatever the ranks: so nobody waits for ever."""


class Transfer:
    """The bytes of one region, to or from a peer, over as many attempts as it takes.

    Each attempt has a route and a ticket of its own (`aim`). What has come, and its digest, is kept between them. `done`
    is called once an attempt, in a thread of the lane's, with None or with what went wrong.
    """

    def __init__(
        self,
        verb: Verb,
        region: Region,
        *,
        hashed: bool = True,
        done: Callable[[BulkFailed | None], None] | None = None,
        rank: Callable[[], int] = lambda: 0,
    ) -> None:
        """`rank` is asked before each piece, in any thread: transfers of a higher one go first."""
        assert verb in (Verb.READ, Verb.WRITE) and region.size > 0, (verb, region.size)
        self.verb = verb
        self.progress = Progress(region, hashed=hashed, wanted=self.wanted)
        self.cancelled = False
        self.route: Route | None = None
        self.ticket = b""
        self.done = done
        self.rank = rank
        self._ended = threading.Event()
        self._failure: BulkFailed | None = None
        self._placed = False

    def aim(self, route: Route, ticket: bytes) -> None:
        """Where the next attempt goes."""
        self.route, self.ticket = route, ticket
        self._failure, self._placed = None, False
        self._ended.clear()

    def cancel(self) -> None:
        """Give it up; `done` follows with BulkFailed("closed") unless it has ended before."""
        self.cancelled = True

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the end of the attempt. BulkFailed when it failed; "timeout" (it goes on) after so many seconds."""
        if not self._ended.wait(timeout_s):
            raise BulkFailed("timeout", f"not done after {timeout_s:g} s")
        if self._failure is not None:
            raise self._failure

    def piece(self, wire: Wire) -> bool:
        """Carry one piece; whether that was the last."""
        progress = self.progress
        if self.verb == Verb.READ:
            length = min(bounds.BULK_PIECE_BYTES_MAX, progress.size - progress.at)
            if ask(wire, Verb.READ, self.ticket, progress.at, length) != length:
                raise BulkFailed("malformed", "the answer is of another length than was asked for")
            progress.receive(wire, length)
            return progress.at == progress.size
        if not self._placed:
            self._place(ask(wire, Verb.WHERE, self.ticket, 0, 0))
        length = min(bounds.BULK_PIECE_BYTES_MAX, progress.size - progress.at)
        if length:
            ask(wire, Verb.WRITE, self.ticket, progress.at, length)
            progress.send(wire, length)
            if read_answer(wire) != progress.at:
                raise BulkFailed("malformed", "the peer has another count of bytes")
        return progress.at == progress.size

    def _place(self, at: int) -> None:
        """Go on where the peer is: the end of what was sent may not have arrived."""
        progress = self.progress
        if not 0 <= at <= progress.size:
            raise BulkFailed("malformed", "the peer has more bytes than there are")
        progress.resume(at)
        self._placed = True

    def end(self, failure: BulkFailed | None) -> None:
        """Tell whoever waits. Called by the lane."""
        self._failure = failure
        self._ended.set()
        if self.done is not None:
            self.done(failure)

    def wanted(self) -> None:
        """Raise BulkFailed("closed") once it was cancelled."""
        if self.cancelled:
            raise BulkFailed("closed", "the transfer was given up")


@dataclass(eq=False)
class _Lane:
    """The connections to one process of a peer, and the transfers that wait for them."""

    waiting: deque[Transfer] = field(default_factory=deque)
    running: set[Transfer] = field(default_factory=set)
    wires: set[Wire] = field(default_factory=set)
    threads: int = 0
    idle: int = 0
    turns: int = 0

    def take(self) -> Transfer:
        """The transfer whose turn it is: of the highest rank that which waits for longest, but every so often that which does of all."""
        self.turns += 1
        place = 0
        if len(self.waiting) > 1 and self.turns % ANY_EVERY:
            ranks = [transfer.rank() for transfer in self.waiting]
            place = ranks.index(max(ranks))
        transfer = self.waiting[place]
        del self.waiting[place]
        return transfer


class BulkClient:
    """Carries transfers. For any thread. `welcome` as for `BulkServer`."""

    def __init__(
        self,
        wires: Wires,
        welcome: Callable[[Identity], bool],
        *,
        connections_max: int = bounds.BULK_CONNECTIONS_PER_PEER_MAX,
        idle_s: float = bounds.BULK_IDLE_S,
        rested: Callable[[], None] = lambda: None,
    ) -> None:
        """`rested` is called, in a thread of the lane's, when the last idle connection is closed."""
        self._wires = wires
        self._welcome = welcome
        self._connections_max = connections_max
        self._idle_s = idle_s
        self._rested = rested
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._lanes: dict[tuple[bytes, bytes], _Lane] = {}
        self._threads: set[threading.Thread] = set()
        self._shut: dict[tuple[bytes, bytes], float] = {}
        """Peers to which no connection could be made, and until when none is tried."""
        self._closed = False

    def start(self, transfer: Transfer) -> None:
        """Begin an attempt of a transfer that was aimed."""
        route = transfer.route
        assert route is not None
        key = (route.peer.id, route.announcement)
        with self._lock:
            lane = self._lanes.setdefault(key, _Lane())
            if self._closed or len(lane.waiting) >= bounds.BULK_WAITING_PER_PEER_MAX:
                failure = BulkFailed("closed" if self._closed else "busy")
            else:
                failure = None
                lane.waiting.append(transfer)
                if lane.idle < len(lane.waiting) and lane.threads < self._connections_max:
                    lane.threads += 1
                    thread = threading.Thread(target=self._work, args=(key, lane), name="swarm-bulk", daemon=True)
                    self._threads.add(thread)
                    thread.start()
                else:
                    self._changed.notify_all()
        if failure is not None:
            transfer.end(failure)

    def connections(self, peer: bytes) -> int:
        """How many connections to a peer are open."""
        with self._lock:
            return sum(len(lane.wires) for key, lane in self._lanes.items() if key[0] == peer)

    def cut(self, peer: bytes) -> None:
        """End all connections to a peer: it is no member any more."""
        with self._lock:
            wires = [wire for key, lane in self._lanes.items() if key[0] == peer for wire in lane.wires]
        for wire in wires:
            wire.abort()

    def close(self, timeout_s: float = 2.0) -> None:
        """End all connections; what is under way fails with BulkFailed("closed")."""
        with self._lock:
            self._closed = True
            wires = [wire for lane in self._lanes.values() for wire in lane.wires]
            for lane in self._lanes.values():
                for transfer in (*lane.waiting, *lane.running):
                    transfer.cancelled = True
            self._changed.notify_all()
            threads = list(self._threads)
        for wire in wires:
            wire.abort()
        until = time.monotonic() + timeout_s
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    # --- a thread for each connection ---------------------------------------------------------------------------------

    def _work(self, key: tuple[bytes, bytes], lane: _Lane) -> None:
        wire: Wire | None = None
        while (transfer := self._next(key, lane, self._idle_s if wire is not None else 0.0)) is not None:
            wire = self._carry(lane, transfer, wire)
        if wire is not None:
            self._drop(lane, wire)
        if not self._lanes:
            self._rested()

    def _next(self, key: tuple[bytes, bytes], lane: _Lane, idle_s: float) -> Transfer | None:
        """The transfer whose turn it is. None when there was none for so long: this thread is counted out then."""
        until = time.monotonic() + idle_s
        with self._lock:
            while not lane.waiting:
                left_s = until - time.monotonic()
                if left_s <= 0 or self._closed:
                    lane.threads -= 1
                    self._threads.discard(threading.current_thread())
                    if not lane.threads and self._lanes.get(key) is lane:
                        del self._lanes[key]
                    return None
                lane.idle += 1
                self._changed.wait(left_s)
                lane.idle -= 1
            transfer = lane.take()
            lane.running.add(transfer)
            return transfer

    def _carry(self, lane: _Lane, transfer: Transfer, wire: Wire | None) -> Wire | None:
        """Carry one piece of a transfer; the connection to go on with. Pieces of several transfers take turns."""
        at = transfer.progress.at
        pooled = wire is not None
        ended, wire, failure = self._try(lane, transfer, wire)
        if pooled and failure is not None and failure.reason == "cut" and transfer.progress.at == at:
            # A connection that was idle may have been closed by the peer just now: that is nobody's failure.
            ended, wire, failure = self._try(lane, transfer, None)
        with self._lock:
            lane.running.discard(transfer)
            if self._closed and failure is not None:
                failure = BulkFailed("closed")
            if not ended and failure is None:
                lane.waiting.append(transfer)
        if ended or failure is not None:
            transfer.end(failure)
        return wire

    def _try(self, lane: _Lane, transfer: Transfer, wire: Wire | None) -> tuple[bool, Wire | None, BulkFailed | None]:
        """(whether it was the last piece, the connection if it can be used again, what went wrong)."""
        route = transfer.route
        assert route is not None
        try:
            transfer.wanted()
            if not self._welcome(route.peer):
                raise BulkFailed("revoked")
            if wire is None:
                wire = self._dial(route)
                wire.wait_s(bounds.BULK_STALL_TIMEOUT_S)
                with self._lock:
                    lane.wires.add(wire)
            return transfer.piece(wire), wire, None
        except BulkFailed as failure:
            if wire is not None and failure.reason not in ("unknown", "range", "busy"):
                self._drop(lane, wire)
                wire = None
            return False, wire, failure

    def _dial(self, route: Route) -> Wire:
        key = (route.peer.id, route.announcement)
        with self._lock:
            if time.monotonic() < self._shut.get(key, 0.0):
                raise BulkFailed("unreachable", f"{route.peer.name} was not reached a moment ago")
        try:
            wire = self._wires.dial(route)
        except BulkFailed as failure:
            if failure.reason in ("unreachable", "timeout"):
                with self._lock:
                    now = time.monotonic()
                    self._shut = {one: until for one, until in self._shut.items() if until > now}
                    self._shut[key] = now + bounds.BULK_SHUT_S
                raise BulkFailed("unreachable", str(failure)) from failure
            raise
        return wire

    def _drop(self, lane: _Lane, wire: Wire) -> None:
        with self._lock:
            lane.wires.discard(wire)
        wire.close()
