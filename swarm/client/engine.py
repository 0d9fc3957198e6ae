"""The engine of a client: a thread with an event loop that carries batches to a node and outcomes back.

User threads add calls to batches under a lock and wake the loop when it is not awake already; the loop hands over what
there is at its next turn. So calls that come quickly travel together, and a single one leaves at once.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future as StdFuture
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kernels.batch import CallBuilder, settle
from swarm.client.buffers import Buffers
from swarm.client.finder import Finder, client_credentials
from swarm.client.futures import Future
from swarm.errors import FleetNotFound, NotAccepted, SwarmError, TaskCancelled, TaskLost, TaskRefused
from swarm.paths import Home
from swarm.payload import decode_value, encode_call
from swarm.payload_failure import error_of
from swarm.protocol.messages import Kind, MessageError, decode, encode
from swarm.protocol.outbound import Tell
from swarm.protocol.session import Delivered, Ended, Happened, Moving, Session
from swarm.protocol.states import Status
from transport.links import Link, LinkClosed, LinkOverflow

T = TypeVar("T")

BATCH_TASKS_MAX = 1024
BATCH_BYTES_MAX = 256 * 1024
WINDOW_TASKS = 100_000
"""Tasks handed over and not finished before `submit` waits."""
WINDOW_BYTES = 256 << 20
RECONNECT_TIMEOUT_S = 30.0
QUERY_TIMEOUT_S = 30.0


class Open:
    """A batch that still takes calls: those of one spec that come before the loop's next turn."""

    __slots__ = ("builder", "deps", "future_type", "futures", "number", "raw", "rerun")

    def __init__(self, number: int, raw: bytes, rerun: bool) -> None:
        self.number = number
        self.raw = raw
        self.rerun = rerun
        self.builder = CallBuilder()
        self.futures: list[Any] = []
        self.deps: list[bytes] = []


class Engine:
    """One client's connection to its fleet."""

    def __init__(self, home: Home, *, seeds: Iterable[str] = (), session: bytes | None = None) -> None:
        self.home = home
        self.session_id = session or os.urandom(8)
        self._session = Session(self.session_id)
        self._boot = os.urandom(8)
        self._seeds = tuple(seeds)
        self._lock = threading.Lock()
        self._opened: dict[bytes, Open] = {}
        self._closed: list[Open] = []
        self._awake = False
        self._number = 0
        self._futures: dict[int, list[Any]] = {}
        self._handed = 0
        self._room = threading.Condition()
        self._waiting_for_room = 0
        self._link: Link | None = None
        self._dead: BaseException | None = None
        self._queries: dict[int, StdFuture[tuple[Any, bytes]]] = {}
        self._query_number = 0
        self._code_sent: set[bytes] = set()
        self._code: dict[bytes, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._moving = False
        self.closed = False
        self.on_finished: Callable[[int], None] = lambda number: None
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._run, name="swarm-client", daemon=True)
        self._source: Any = None
        self._openers: ThreadPoolExecutor | None = None
        self._finder: Finder | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    def open(self, timeout_s: float) -> None:
        """Find the fleet and connect. FleetNotFound after `timeout_s` seconds."""
        fleet, credentials = client_credentials(self.home)
        self._fleet = fleet
        self._finder = Finder(
            self.home, fleet, credentials, self, self._boot, self._seeds, {"client": credentials.identity.name}
        )
        self._thread.start()
        try:
            self.run(self._connect(time.monotonic() + timeout_s), timeout_s + 5.0)
        except BaseException:
            self.close()
            raise

    def close(self, timeout_s: float = 5.0) -> None:
        """Disconnect; futures without an outcome end as cancelled. Safe to call again."""
        if self.closed:
            return
        self.closed = True
        if self._thread.is_alive():
            try:
                self.run(self._close(), timeout_s)
            except Exception:
                pass
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._loop.close()
        if self._openers is not None:
            self._openers.shutdown(wait=False)
        self._fail_all(TaskCancelled("the client was closed before the task ended"))
        with self._room:
            self._room.notify_all()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run a coroutine in the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    @property
    def fleet_name(self) -> str:
        """The name of the fleet."""
        return self._fleet.name

    @property
    def link(self) -> Link | None:
        """The link to the node in use."""
        return self._link

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _close(self) -> None:
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        self._flush()
        if self._finder is not None:
            await self._finder.close()

    async def _connect(self, deadline: float, avoid: bytes | None = None) -> None:
        assert self._finder is not None
        # The finder's links call `link_up` in this same turn; the session goes on from there.
        link = await self._finder.find(deadline - time.monotonic() + self._loop.time(), avoid)
        if self._link is not link:
            self._use(link)

    def _use(self, link: Link) -> None:
        self._link = link
        self._code_sent.clear()
        for digest, code in self._code.items():
            self._send_code(digest, code)
        self._session.link_up(link.boot)
        self._turn()
        self._ask("nodes", {}, b"").add_done_callback(self._learn)

    def _learn(self, answered: StdFuture[tuple[Any, bytes]]) -> None:
        if not answered.cancelled() and answered.exception() is None and self._finder is not None:
            value = answered.result()[0]
            if isinstance(value, dict):
                self._finder.learn(value.get("nodes", ()))

    # --- submitting, from any thread ----------------------------------------------------------------------------------

    def add_code(self, digest: bytes, code: bytes) -> None:
        """Code that a spec refers to; the node gets it before the first batch that does."""
        if digest not in self._code:
            self._code[digest] = code
            self._loop.call_soon_threadsafe(self._send_code, digest, code)

    def submit(
        self,
        raw: bytes,
        rerun: bool,
        args: tuple[Any, ...] | None,
        kwargs: dict[str, Any] | None,
        sink: Buffers | bytes,
        make: type[Future] = Future,
    ) -> Future:
        """Add one call, its large arguments by way of `sink`; or, without `args`, the payload that `sink` is then.

        Waits while too much is under way.
        """
        if self._handed >= WINDOW_TASKS:
            self._wait_for_room()
        with self._lock:
            it = self._opened.get(raw)
            if it is None:
                it = self._begin(raw, rerun)
            index = -1 if args is None else it.builder.add_plain(args, kwargs)
            if index >= 0:
                return self._added(it, index, make)
        # Encoding may run code of the user's (pickling), so it is done without the lock.
        payload = sink if args is None else encode_call(args, kwargs, sink)  # type: ignore[arg-type]
        with self._lock:
            it = self._opened.get(raw) or self._begin(raw, rerun)
            return self._added(it, it.builder.add(payload), make)

    def submit_after(self, raw: bytes, rerun: bool, payload: bytes, deps: list[bytes], make: type[Future]) -> Future:
        """Add one call that waits for other tasks: a batch of its own."""
        with self._lock:
            # Batches of the dependencies have to be handed over before this one.
            self._closed.extend(self._opened.values())
            self._opened.clear()
            it = self._begin(raw, rerun)
            it.deps = deps
            future = self._added(it, it.builder.add(payload), make)
            if self._opened.pop(raw, None) is not None:
                self._closed.append(it)
            return future

    def _begin(self, raw: bytes, rerun: bool) -> Open:
        if self._dead is not None:
            raise self._dead
        if self.closed:
            raise RuntimeError("this client is closed")
        self._number += 1
        it = self._opened[raw] = Open(self._number, raw, rerun)
        return it

    def _added(self, it: Open, index: int, make: type[Future]) -> Future:
        future = make(self, it.number, index)
        it.futures.append(future)
        self._handed += 1
        if index + 1 >= BATCH_TASKS_MAX or it.builder.nbytes >= BATCH_BYTES_MAX:
            self._closed.append(it)
            del self._opened[it.raw]
        if not self._awake:
            self._awake = True
            self._loop.call_soon_threadsafe(self._flush)
        return future

    def _wait_for_room(self) -> None:
        with self._room:
            self._waiting_for_room += 1
            try:
                while self._handed >= WINDOW_TASKS and not self.closed and self._dead is None:
                    self._room.wait(1.0)
            finally:
                self._waiting_for_room -= 1

    def cancel(self, number: int, index: int | None) -> None:
        """Give up a task, or all of a batch."""
        if not self.closed:
            self._loop.call_soon_threadsafe(self._cancel, number, index)

    def give_input(self, number: int, index: int, what: str, value: Any, body: bytes) -> None:
        """Send input, a signal or credit to a task."""
        if not self.closed:
            self._loop.call_soon_threadsafe(self._give_input, number, index, what, value, body)

    def query(self, method: str, args: Mapping[str, Any], body: bytes = b"", timeout_s: float = QUERY_TIMEOUT_S) -> tuple[Any, bytes]:
        """Ask the node something. SwarmError with the node's words when it says no."""
        answer: StdFuture[tuple[Any, bytes]] = StdFuture()
        self._loop.call_soon_threadsafe(self._ask_for, answer, method, dict(args), body)
        try:
            return answer.result(timeout_s)
        except TimeoutError:
            raise SwarmError(f"the node did not answer {method} in {timeout_s:g} s", hint="swarm status shows its state") from None

    # --- in the loop --------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        with self._lock:
            self._awake = False
            batches = self._closed + list(self._opened.values()) if self._opened else self._closed
            self._closed = []
            self._opened = {}
        for it in sorted(batches, key=lambda one: one.number):
            self._futures[it.number] = it.futures
            count = it.builder.count
            self._session.submit(it.number, it.raw, it.rerun, count, it.builder.take(), it.deps)
        self._turn()

    def _cancel(self, number: int, index: int | None) -> None:
        self._flush()
        self._session.cancel(number, None if index is None else [(index, index + 1)])
        self._turn()

    def _give_input(self, number: int, index: int, what: str, value: Any, body: bytes) -> None:
        self._flush()
        self._session.give_input(number, index, what, value, body)
        self._turn()

    def _send_code(self, digest: bytes, code: bytes) -> None:
        if self._link is not None and digest not in self._code_sent:
            self._code_sent.add(digest)
            self._ask("code.put", {"digest": digest}, code)

    def _ask(self, method: str, args: dict[str, Any], body: bytes) -> StdFuture[tuple[Any, bytes]]:
        answer: StdFuture[tuple[Any, bytes]] = StdFuture()
        self._ask_for(answer, method, args, body)
        return answer

    def _ask_for(self, answer: StdFuture[tuple[Any, bytes]], method: str, args: dict[str, Any], body: bytes) -> None:
        if self._link is None:
            answer.set_exception(FleetNotFound("there is no node at the moment", hint="it is being looked for"))
            return
        self._query_number += 1
        self._queries[self._query_number] = answer
        try:
            self._link.send(encode(Kind.QUERY, {"q": self._query_number, "m": method, "a": args}), body)
        except (LinkClosed, LinkOverflow) as error:
            del self._queries[self._query_number]
            answer.set_exception(SwarmError(str(error), hint="try again"))

    def _turn(self) -> None:
        for effect in self._session.take_effects():
            match effect:
                case Tell():
                    if self._link is not None:
                        try:
                            self._link.send(encode(effect.kind, effect.header), *effect.parts)
                        except LinkClosed:
                            pass
                        except LinkOverflow as error:
                            self._link.close(f"overflow: {error}"[:200])
                case Delivered():
                    self._deliver(effect)
                case Ended():
                    self._ended(effect)
                case Happened():
                    futures = self._futures.get(effect.batch)
                    future = futures[effect.index] if futures else None
                    if future is not None:
                        future._happened(effect.name, effect.value, effect.body, effect.node)
                case Moving():
                    self._move(effect.reason)
        at = self._session.next_deadline()
        if at is not None and self._timer is None:
            self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._session.on_timer(time.monotonic())
        self._turn()

    def _deliver(self, it: Delivered) -> None:
        futures = self._futures.get(it.batch)
        if futures is None:
            return

        def other(index: int, status: int, payload: memoryview) -> None:
            future = futures[index]
            futures[index] = None
            if future is not None:
                self._settle_one(future, status, payload)

        settle(it.outcomes, futures, other)
        self._less(it.batch, it.fresh, it.last)

    def _settle_one(self, future: Future, status: int, payload: memoryview) -> None:
        trusted = self._link is not None and "code" in self._link.identity.grants
        if len(payload) and payload[0] in b"BR":
            # Its buffers have to be asked for, and the answer comes by this very loop.
            if self._openers is None:
                self._openers = ThreadPoolExecutor(2, "swarm-client-buffers")
            self._openers.submit(self._load, future, status, bytes(payload), trusted)
        else:
            self._load(future, status, payload, trusted)

    def _load(self, future: Future, status: int, payload: bytes | memoryview, trusted: bool) -> None:
        try:
            if status == Status.OK:
                future._finish(decode_value(payload, self._source, trusted=trusted))
            else:
                future._fail(error_of(status, payload, trusted=trusted))
        except BaseException as error:
            # A result that cannot be loaded here is the task's failure, never the engine's.
            future._fail(error)

    def _ended(self, it: Ended) -> None:
        futures = self._futures.get(it.batch)
        if futures is None:
            return
        kinds: dict[int, type[SwarmError]] = {Status.LOST: TaskLost, Status.CANCELLED: TaskCancelled}
        kind = kinds.get(it.status, TaskRefused)
        for index in it.indices:
            future, futures[index] = futures[index], None
            if future is not None:
                future._fail(kind(it.message, hint=it.hint))
        self._less(it.batch, len(it.indices), it.last)

    def _less(self, number: int, count: int, last: bool) -> None:
        with self._lock:
            self._handed -= count
        if last:
            self._futures.pop(number, None)
            self.on_finished(number)
        if self._waiting_for_room:
            with self._room:
                self._room.notify_all()

    # --- links --------------------------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """`connect` comes back with it."""

    def link_messages(self, link: Link, messages: list[bytes]) -> None:
        """Messages from the node."""
        if link is not self._link:
            return
        try:
            for message in messages:
                kind, header, body = decode(message)
                if kind == Kind.REPLY:
                    self._replied(header, body)
                else:
                    self._session.on_message(time.monotonic(), kind, header, body)
        except (MessageError, ValueError, TypeError, KeyError) as error:
            link.close(f"violation: {error}"[:200])
        self._turn()

    def _replied(self, header: dict[str, Any], body: memoryview) -> None:
        answer = self._queries.pop(header.get("q", 0), None)
        if answer is None or answer.done():
            return
        error = header.get("e")
        if error is not None:
            from swarm import errors

            kind = getattr(errors, str(error[0]), SwarmError)
            if not (isinstance(kind, type) and issubclass(kind, SwarmError)) or kind is NotAccepted:
                kind = SwarmError
            answer.set_exception(kind(str(error[1]), hint=str(error[2])))
        else:
            answer.set_result((header.get("v"), bytes(body)))

    def link_writable(self, link: Link) -> None:
        """The node consumes again."""

    def link_down(self, link: Link, reason: str) -> None:
        """The node is gone: find another, or it again."""
        if link is not self._link:
            return
        self._link = None
        self._session.link_down()
        failed = FleetNotFound(f"the node is gone ({reason})", hint="the client looks for another")
        for answer in self._queries.values():
            if not answer.done():
                answer.set_exception(failed)
        self._queries.clear()
        if not self.closed and self._reconnecting is None:
            avoid = link.identity.id if self._moving else None
            self._moving = False
            self._reconnecting = self._loop.create_task(self._reconnect(avoid))

    def refused(self, reason: str, facts: Mapping[str, object]) -> None:
        """Somebody who is no member answered; the finder goes on."""

    def _move(self, reason: str) -> None:
        if self._link is not None and not self._moving and self._finder is not None and len(self._finder.places) > 1:
            self._moving = True
            self._link.close(f"moving: {reason}")

    async def _reconnect(self, avoid: bytes | None) -> None:
        try:
            await self._connect(time.monotonic() + RECONNECT_TIMEOUT_S, avoid)
        except FleetNotFound as error:
            self._dead = error
            self._fail_all(error)
        finally:
            self._reconnecting = None

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            waiting = [it.futures for it in (*self._closed, *self._opened.values())]
            self._closed, self._opened = [], {}
        for futures in (*waiting, *self._futures.values()):
            for index, future in enumerate(futures):
                futures[index] = None
                if future is not None and not future.done():
                    future._fail(error)
        self._futures.clear()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
