"""The direct lane: calls made one after the other go straight to a worker of this host that the node has granted.

A call through the node passes three processes, each way; most of what a caller who waits for each result pays is that.
After a few such *lone* calls the client asks the node for a worker's slot, and then writes a call to that worker's
socket and reads its outcome from it, both in the thread that calls. A call that comes while another is under way goes
through the node as ever, and so does everything that is not a plain call of something quick. Whenever the worker says
goodbye or is gone, the call under way is handed to the node, under the same id: only callables that may be run again go
this way, as all do unless they say otherwise.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
import time
from concurrent.futures import Future as StdFuture
from concurrent.futures._base import FINISHED
from typing import TYPE_CHECKING, Any

import msgpack

from kernels.batch import attributes, encode_plain
from kernels.plain import decode_plain
from swarm.client.futures import Future
from swarm.client.receipts import Receiving, no_receipt
from swarm.client.routes import Route
from swarm.errors import TaskCancelled
from swarm.protocol import direct as wire
from swarm.protocol.ids import batch_key
from swarm.protocol.states import Status
from swarm.tasks import current_task

if TYPE_CHECKING:
    from swarm.client.engine import Engine

LONE_CALLS = 4
"""So many calls in a row, each made when nothing was under way, have the client ask for a slot."""
QUICK_US = 50_000
"""A callable that has run longer than this, in microseconds, is not called directly for a while (`Route.took_long`)."""
REFUSED_PAUSE_S = 5.0
ANSWER_WAIT_S = 0.02
CONNECT_TIMEOUT_S = 1.0
READ_BYTES = 256 * 1024


class DirectCall:
    """A call on the direct lane: what its future knows as its batch, and what is needed to hand it to the node."""

    __slots__ = ("engine", "future", "number", "payload", "route")

    def __init__(self, engine: Engine, number: int, route: Route, payload: bytes) -> None:
        self.engine = engine
        self.number = number
        self.route = route
        self.payload = payload
        self.future: Future = DirectFuture(self)

    @property
    def session(self) -> bytes:
        """The client's own session: such a call is never durable."""
        return self.engine.session_id

    @property
    def key(self) -> bytes:
        """The key of the batch that it would be."""
        return batch_key(self.session, self.number)

    def receipt(self) -> Receiving:
        """That it is on no disk."""
        return no_receipt()


class DirectFuture(Future):
    """A future whose outcome is read by whoever waits for it; by the client's thread, when nobody does but cares."""

    def __init__(self, call: DirectCall) -> None:
        self._batch = call  # type: ignore[assignment]  # it has what a future needs of its batch
        self._index = 0

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        made: threading.Condition | None = attributes(self).get("_condition")
        if made is None:
            made = attributes(self).setdefault("_condition", threading.Condition())
            # Somebody wants to be told: `concurrent.futures.wait`, a callback, a coroutine.
            self._batch.engine.lane.watch(self._batch)
        return made

    @property
    def progress(self) -> Any:
        """What the task last reported of its progress, or None."""
        self._batch.engine.lane.poll()
        return self._progress

    def add_progress_callback(self, function: Any) -> None:
        """Have `function(progress)` called in the client's thread whenever the task reports progress."""
        super().add_progress_callback(function)
        self._batch.engine.lane.watch(self._batch)

    def done(self) -> bool:
        """Whether it has its outcome."""
        if not super().done():
            self._batch.engine.lane.poll()
        return super().done()

    def cancel(self) -> bool:
        """Cancel the task, also when it runs: its worker is ended. True unless it has its outcome already."""
        self._batch.engine.lane.poll()
        lane_cancels = self._batch.engine.lane.has(self._batch)
        cancelled = super().cancel()
        if cancelled and lane_cancels:
            self._batch.engine.lane.cancelled()
        return cancelled

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has its outcome, whatever that is. TimeoutError after `timeout` seconds."""
        engine = self._batch.engine
        engine.refuse_in_own_thread("wait for a task")
        ends = None if timeout is None else time.monotonic() + timeout
        engine.lane.wait(self._batch, ends)
        super().wait(None if ends is None else max(0.0, ends - time.monotonic()))


_SETTLED = Future.__new__(Future)
_SETTLED._state = FINISHED


class Lane:
    """The direct lane of one client. Any thread may call; one call is under way at a time."""

    def __init__(self, engine: Engine, *, wanted: bool) -> None:
        self._engine = engine
        # Inside a task the call has a lineage, and waiting for it lends the slot: that is the node's business.
        self._wanted = wanted and hasattr(socket, "AF_UNIX") and current_task() is None
        self._lock = threading.Lock()  # of all below
        # Of what comes by the socket. Reentrant: a Ctrl-C may leave it taken by its thread (see `wait`).
        self._reading = threading.RLock()
        self._frames = wire.Frames()
        self._socket: socket.socket | None = None
        self._specs: dict[bytes, int] = {}
        self._call: DirectCall | None = None
        self._trusted = False
        self._worker = 0
        self._lone = 0
        self._asking = False
        self._answer = threading.Event()
        self._not_before = 0.0
        self._watched: socket.socket | None = None

    @property
    def open(self) -> bool:
        """Whether a worker's slot is granted."""
        return self._socket is not None

    @property
    def tasks(self) -> int:
        """Calls under way: 0 or 1."""
        return 0 if self._call is None else 1

    # --- calling ------------------------------------------------------------------------------------------------------

    def call(self, route: Route, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Future | None:
        """Call directly. None when this one has to go through the node."""
        if not self._wanted or not (route.quick or route.rested(time.monotonic())):
            return None
        if self._socket is None and not self._asked():
            return None
        if self._call is not None:
            self.poll()
        if not route.known or self._engine.unfinished:
            return None  # together with others it is better off in a batch
        payload = encode_plain([list(args), kwargs] if kwargs else [list(args)])
        if payload is None:
            return None
        number = self._engine.batches.number()
        call = DirectCall(self._engine, number, route, payload)
        future = call.future
        with self._lock:
            sock = self._socket
            if sock is None or self._call is not None:
                return None
            spec = self._specs.get(route.raw)
            frame = b""
            if spec is None:
                spec = self._specs[route.raw] = len(self._specs) + 1
                frame = wire.pack(wire.SPEC, route.raw, word=spec)
            self._call = call
            try:
                sock.sendall(frame + wire.pack(wire.CALL, payload, number, spec))
            except OSError:
                self._call = None
            else:
                return future
        self.drop()
        return None

    def _asked(self) -> bool:
        """Count lone calls; after some of them ask for a slot. Whether there is one now."""
        if self._asking:
            return False
        if self._engine.unfinished:
            self._lone = 0
            return False
        self._lone += 1
        link = self._engine.link
        if self._lone < LONE_CALLS or link is None or link.reach != "host" or time.monotonic() < self._not_before:
            return False
        self._asking, self._lone = True, 0
        self._answer.clear()
        try:
            self._engine.asking("slot.grant", {"session": self._engine.session_id}).add_done_callback(self._answered)
        except BaseException:
            self._asking = False
            raise
        # An event loop has other things to do than to wait, even for a moment.
        if asyncio._get_running_loop() is None and threading.get_ident() != self._engine.room.thread_id:
            # This call would keep busy the very worker that is asked for, should there be no other.
            self._answer.wait(ANSWER_WAIT_S)
        return self._socket is not None

    def _answered(self, answer: StdFuture[tuple[Any, bytes]]) -> None:
        """In the client's thread: there is a slot, or not."""
        try:
            self._connect(answer)
        finally:
            self._asking = False
            self._answer.set()

    def _connect(self, answer: StdFuture[tuple[Any, bytes]]) -> None:
        error = None if answer.cancelled() else answer.exception()
        said: Any = {} if answer.cancelled() or error is not None else answer.result()[0]
        if not isinstance(said, dict) or "path" not in said:
            pause_s = said.get("after_s") if isinstance(said, dict) else None
            self._not_before = time.monotonic() + (pause_s if isinstance(pause_s, int | float) else REFUSED_PAUSE_S)
            return
        sock = socket.socket(socket.AF_UNIX)
        try:
            # The worker listens there already, and is this user's own: connecting does not wait.
            sock.settimeout(CONNECT_TIMEOUT_S)
            sock.connect(str(said["path"]))
            sock.sendall(bytes(said["ticket"]))
            sock.settimeout(None)
        except OSError:
            sock.close()
            self._not_before = time.monotonic() + REFUSED_PAUSE_S
            return
        link = self._engine.link
        with self._reading, self._lock:
            self._frames = wire.Frames()
            self._specs.clear()
            self._worker = int(said["worker"])
            self._trusted = link is not None and "code" in link.identity.grants
            self._socket = sock
            closed = link is None or self._engine.closed
        if closed:
            self.drop()

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def wait(self, call: Any, ends: float | None) -> None:
        """Read until a call is no longer under way here. TimeoutError at the instant `ends` (monotonic)."""
        while self._call is call:
            left = None if ends is None else max(0.0, ends - time.monotonic())
            if not self._reading.acquire(timeout=-1 if left is None else left):
                raise TimeoutError
            try:
                if self._call is call:
                    self._receive(None if ends is None else max(0.0, ends - time.monotonic()))
            finally:
                self._reading.release()

    def poll(self) -> None:
        """Read what is there, without waiting."""
        if self._call is not None and self._reading.acquire(blocking=False):
            try:
                self._receive(0.0)
            except TimeoutError:
                pass
            finally:
                self._reading.release()

    def finish(self, timeout_s: float | None) -> bool:
        """Wait for the call under way. False after `timeout_s` seconds."""
        call = self._call
        if call is not None:
            try:
                self.wait(call, None if timeout_s is None else time.monotonic() + timeout_s)
            except TimeoutError:
                return False
        return True

    def _receive(self, timeout_s: float | None) -> None:
        sock = self._socket
        if sock is None:
            self._over()
            return
        try:
            if timeout_s is None:
                try:
                    data = sock.recv(READ_BYTES)
                except BlockingIOError:
                    # An event loop that watched it once has made it non-blocking, behind Python's back.
                    self._readable_within(sock, None)
                    data = sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
            else:
                if timeout_s and not self._readable_within(sock, timeout_s):
                    raise TimeoutError
                data = sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise TimeoutError from None
        except TimeoutError:
            raise
        except OSError:
            data = b""
        try:
            frames = self._frames.feed(data)
        except wire.DirectViolation:
            frames, data = [], b""
        for kind, status, number, word, body in frames:
            call = self._call
            if call is None or number != call.number:
                continue
            if kind == wire.OUTCOME:
                self._call = None
                if word > QUICK_US:
                    call.route.took_long(time.monotonic())
                elif call.route.rest_s:
                    call.route.rest_s = 0.0
                self._settle(call, status, body)
            elif kind == wire.EVENT:
                self._happened(call.future, body)
        if not data or any(frame[0] == wire.BYE for frame in frames):
            self._over()

    @staticmethod
    def _readable_within(sock: socket.socket, timeout_s: float | None) -> bool:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1e3))

    def _settle(self, call: DirectCall, status: int, body: memoryview) -> None:
        future, engine = call.future, self._engine
        # They know each other no longer: a result goes when its future does, not at the next collection.
        call.future = _SETTLED
        if status == Status.RETURNED:
            call.route.is_not_for_workers()
            engine.batches.again(call.route, call.number, call.payload, future)
        elif self._is_elsewhere(future):
            # Callbacks are called in the client's thread, in their order, whoever happened to read this.
            engine.run_soon(self._open, future, status, bytes(body))
        else:
            self._open(future, status, body)

    def _is_elsewhere(self, future: Future) -> bool:
        """Whether there is something to be called that is not to be called in this thread."""
        awaited = future._listeners or "_done_callbacks" in attributes(future)
        return bool(awaited) and threading.get_ident() != self._engine.room.thread_id

    def _open(self, future: Future, status: int, body: bytes | memoryview) -> None:
        if status == Status.OK and body[:1] == b"M":
            try:
                value = decode_plain(body)
            except ValueError as error:
                future._fail(error)
            else:
                future._finish(value)
        elif threading.get_ident() == self._engine.room.thread_id:
            self._engine.settling.settle_one(future, status, bytes(body), self._trusted)
        else:
            self._engine.settling.load(future, status, bytes(body), self._trusted)
        self._engine.room.notify()

    def _happened(self, future: Future, body: memoryview) -> None:
        try:
            name, value = msgpack.unpackb(body)
        except (ValueError, TypeError):
            return
        if self._is_elsewhere(future):
            self._engine.run_soon(future._happened, str(name), value, b"", "")
        else:
            future._happened(str(name), value, b"", "")

    # --- watching, for those who do not wait here -----------------------------------------------------------------------

    def watch(self, call: Any) -> None:
        """Have the client's thread read the outcome of a call, if it is under way here."""
        if self._call is call:
            self._engine.run_soon(self._watch, call)

    def _watch(self, call: DirectCall) -> None:
        sock = self._socket
        if sock is not None and self._call is call and self._watched is not sock:
            self._watched = sock
            self._engine.loop.add_reader(sock.fileno(), self._readable, sock)

    def _readable(self, sock: socket.socket) -> None:
        if self._socket is sock:
            self.poll()
        # What comes next may be waited for by its caller, who is quicker alone.
        if self._watched is sock and (self._call is None or self._socket is not sock):
            self._watched = None
            self._engine.loop.remove_reader(sock.fileno())

    # --- ending -------------------------------------------------------------------------------------------------------

    def has(self, call: Any) -> bool:
        """Whether a call is under way here."""
        return self._call is call

    def cancelled(self) -> None:
        """The call under way is given up: its worker is ended with it, as a task's is."""
        self._engine.post("slot.cancel", {"worker": self._worker})
        self._call = None
        self.drop()

    def drop(self) -> None:
        """Leave the worker. A call that is under way is handed to the node by whoever reads next, or here."""
        sock = self._socket
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # wakes a reader
            except OSError:
                pass
        if self._reading.acquire(blocking=False):
            try:
                self._over()
            finally:
                self._reading.release()

    def _over(self) -> None:
        """The worker is gone, or the node's again. Called by who may read."""
        with self._lock:
            sock, self._socket = self._socket, None
            call, self._call = self._call, None
            self._lone = 0
        if sock is not None:
            self._retire(sock)
        if call is not None and not Future.done(call.future):
            self._engine.batches.again(call.route, call.number, call.payload, call.future)

    def _retire(self, sock: socket.socket) -> None:
        if self._watched is sock:
            # Its number must not be given to another socket while the loop looks at it.
            self._engine.run_soon(self._unwatch, sock)
        else:
            sock.close()

    def _unwatch(self, sock: socket.socket) -> None:
        if self._watched is sock:
            self._watched = None
            self._engine.loop.remove_reader(sock.fileno())
        sock.close()

    def close(self) -> None:
        """No more calls. What is under way is cancelled."""
        self._wanted = False
        call = self._call
        if call is not None and not Future.done(future := call.future):
            future._fail(TaskCancelled("the client was closed before the task ended", task=future.id))
            self._engine.post("slot.cancel", {"worker": self._worker})
        self.drop()

    def abandon(self) -> None:
        """In a child of fork(2): the socket is the parent's, and so are the locks that may be held."""
        self._wanted = False
        self._lock, self._reading = threading.Lock(), threading.RLock()
        sock, self._socket, self._call, self._watched = self._socket, None, None, None
        if sock is not None:
            os.close(sock.detach())  # this process's copy; no shutdown, which the parent would feel
