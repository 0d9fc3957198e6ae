"""The engine of a client: a thread with an event loop that carries batches to a node and outcomes back.

User threads add calls to batches under a lock and wake the loop when it is not awake already; the loop hands over what
there is at its next turn. So calls that come quickly travel together, and a single one leaves at once.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future as StdFuture
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from swarm.client.batches import URGENT_PART, Batch, Batches, Make, Room, is_urgent
from swarm.client.buffers import Buffers, Lending
from swarm.client.code import CODE_KEPT_BYTES_MAX, KeptCode
from swarm.client.direct import Lane
from swarm.client.finder import ROUND_PAUSE_S, Finder, client_credentials
from swarm.client.futures import Future
from swarm.client.names import KEYED_HOME_FILE, Names, kept_home
from swarm.client.queries import Queries
from swarm.client.receipts import Receipt
from swarm.client.routes import Route
from swarm.client.settling import Settling
from swarm.errors import (
    FleetNotFound,
    SwarmError,
    TaskCancelled,
    TaskRefused,
)  # fmt: skip
from swarm.paths import Home
from swarm.payload import encode_call
from swarm.payload_code import is_local
from swarm.protocol.ledger.homes import SESSION_RANDOM_BYTES, durable_session
from swarm.protocol.messages import Kind, MessageError, decode, encode
from swarm.protocol.outbound import Tell
from swarm.protocol.session import Accepted, Delivered, Ended, Happened, Moving, Session
from swarm.tasks import DURABILITIES
from transport import bounds
from transport.identity import Identity
from transport.links import Link, LinkClosed, LinkOverflow

if TYPE_CHECKING:
    from swarm.client.bulk import ClientBulk

T = TypeVar("T")

WINDOW_TASKS = 100_000
"""Tasks handed over and not finished before `submit` waits."""
WINDOW_BYTES = 60 << 20
"""Bytes of calls not finished before `submit` waits."""
RECONNECT_TIMEOUT_S = 30.0
QUERY_TIMEOUT_S = 30.0
NODES_REFRESH_S = 10.0
CLOSE_TIMEOUT_S = 5.0

# All that is in the window may have to be sent again at once, on a new link.
assert (
    WINDOW_BYTES + WINDOW_BYTES // URGENT_PART + CODE_KEPT_BYTES_MAX + bounds.MESSAGE_BYTES_MAX
    <= bounds.OUTSTANDING_BYTES_MAX
)
assert WINDOW_TASKS + WINDOW_TASKS // URGENT_PART <= bounds.OUTSTANDING_COUNT_MAX


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How long a client waits, in seconds; None is for ever."""

    submit_timeout_s: float | None = None
    """For room, when too much is under way; then NotAccepted."""
    reconnect_timeout_s: float = RECONNECT_TIMEOUT_S
    """For another node when the one in use is gone; then everything unfinished fails with FleetNotFound."""
    window_tasks: int = WINDOW_TASKS
    window_bytes: int = WINDOW_BYTES
    direct: bool = True
    """Whether lone calls may go directly to a worker of this host."""


class Engine:
    """One client's connection to its fleet."""

    def __init__(
        self,
        home: Home,
        *,
        seeds: Iterable[str] = (),
        session: bytes | None = None,
        settings: EngineSettings | None = None,
        name: str | None = None,
    ) -> None:
        self.home = home
        self.settings = settings or EngineSettings()
        self.session_id = session or os.urandom(8)
        self.closed = False
        self.fleet_name = ""
        self.settling = Settling()
        self._name = name
        self._session = Session(self.session_id)
        self._boot = os.urandom(8)
        self._seeds = tuple(seeds)
        self.room = Room(self.settings.window_tasks, self.settings.window_bytes, self.settings.submit_timeout_s)
        self.batches = Batches(self, self._wake, self.room)
        self._cancels: list[tuple[int, int, bool]] = []  # under the lock
        # In the loop alone.
        self._link: Link | None = None
        self._queries = Queries()
        self._code = KeptCode()
        self._receiving: dict[int, Batch] = {}
        """Batches whose receipt is to come."""
        self.names = Names(self._keyed_home)
        self._keyed = b""
        """The home of what is submitted with a key."""
        self._spare_named = False
        self._home = b""
        """The node that was used last, and the session of the durable batches whose home it is."""
        self._durable_session = b""
        self._timer: asyncio.TimerHandle | None = None
        self._refresh: asyncio.TimerHandle | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._moving = ""
        self._finder: Finder | None = None
        self._bulk: ClientBulk | None = None
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._run, name="swarm-client", daemon=True)
        self.lane = Lane(self, wanted=self.settings.direct)
        self.room.used = self._used

    # --- life ---------------------------------------------------------------------------------------------------------

    def open(self, timeout_s: float) -> None:
        """Find the fleet and connect. FleetNotFound after `timeout_s` seconds."""
        fleet, credentials = client_credentials(self.home)
        self.fleet_name = fleet.name
        info = {"client": self._name or credentials.identity.name}
        self.begin(Finder(self.home, fleet, credentials, self, self._boot, self._seeds, info), timeout_s)

    def begin(self, finder: Finder, timeout_s: float) -> None:
        """Start the loop, and connect to whom the finder finds."""
        self._finder = finder
        self._thread.start()
        _engines.add(self)
        try:
            self._call(self._connect(time.monotonic() + timeout_s, None), timeout_s + CLOSE_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S, *, cancel: bool = False) -> None:
        """Disconnect; futures without an outcome end as cancelled. Safe to call again.

        Tasks that are not durable end with their client. The others go on, unless they are to be cancelled.
        """
        self.lane.close()
        with self.room.lock:
            if self.closed:
                return
            self.closed = True
        self.room.shut()
        _engines.discard(self)
        if self._bulk is not None:
            self._bulk.close()
        if self._thread.is_alive():
            try:
                self._call(self._close(cancel), timeout_s)
            except (Exception, asyncio.CancelledError):
                pass  # a node that does not answer is left to find out by itself
            self._loop.call_soon_threadsafe(self._loop.stop)
            if threading.get_ident() != self.room.thread_id:
                self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._loop.close()
        self.settling.close()
        self._fail_all(TaskCancelled("the client was closed before the task ended"))
        self.batches.refusal = RuntimeError("this client is closed")

    def refuse_in_own_thread(self, what: str) -> None:
        """Raise RuntimeError in the client's own thread, where waiting would be for ever."""
        if threading.get_ident() == self.room.thread_id:
            raise RuntimeError(f"a callback of a future can not {what}: give that to a thread of your own")

    def wait_idle(self, timeout_s: float | None = None) -> bool:
        """Wait until every task handed over has its outcome. False after `timeout_s` seconds."""
        self.refuse_in_own_thread("wait for tasks")
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        if not self.lane.finish(timeout_s):
            return False
        if ends is not None:
            timeout_s = max(0.0, ends - time.monotonic())
        done = self.room.wait_for(lambda: not self.unfinished, timeout_s)
        if done:
            self.settling.wait_opened(timeout_s)
        return done

    @property
    def link(self) -> Link | None:
        """The link to the node in use."""
        return self._link

    @property
    def unfinished(self) -> int:
        """Tasks handed over that have no outcome."""
        return self.batches.tasks + self._session.tasks + self.lane.tasks

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the client's thread."""
        return self._loop

    def run_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function in the client's thread. Nothing happens when that has ended."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            pass  # closed

    def _call(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def _run(self) -> None:
        self.room.thread_id = threading.get_ident()
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _close(self, cancel: bool) -> None:
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        for timer in (self._timer, self._refresh):
            if timer is not None:
                timer.cancel()
        self._flush()
        if cancel and self._session.unfinished_durable:
            for number in self._session.unfinished_durable:
                if not (self._spare_named and self._session.has_name(number)):
                    self._session.cancel(number)
            self._turn()
            if self._link is not None:
                self._link.flush()
        if self._finder is not None:
            await self._finder.close()

    def abandon(self) -> None:
        """In a child of fork(2): the thread and the connection are the parent's."""
        self.closed = True
        self.lane.abandon()
        self.room.lock = self.batches.lock = threading.Lock()
        self.room.changed = threading.Condition(self.room.lock)
        self.batches.refusal = RuntimeError("this client was opened before fork(); connect again in the child")

    def _used(self) -> tuple[int, int]:
        return self.batches.tasks + self._session.tasks, self.batches.waiting_bytes + self._session.bytes

    # --- from any thread ----------------------------------------------------------------------------------------------

    def submit(
        self, route: Route, args: tuple[Any, ...], kwargs: dict[str, Any] | None, make: Make, sink: Buffers | None
    ) -> Future:
        """Add one call, its large arguments by way of `sink`. Waits while too much is under way."""
        future = self.batches.add(route, args, kwargs, make)
        if future is None:
            # Encoding may run code of the user's (pickling), so it is done without the lock.
            future = self.lending(
                sink,
                lambda lent: self.batches.add_payload(route, encode_call(args, kwargs, lent, by_value=is_local), make),
                by_content=self.names.apply(route),
            )
        return future

    @staticmethod
    def lending(sink: Buffers | None, hand: Callable[[Lending | None], Future], *, by_content: bool = False) -> Future:
        """Hand over a call whose large arguments go by way of `sink`; they are given back when it has its outcome.
        `by_content` when they have to be the same if the call is handed over again by somebody else."""
        if sink is None:
            return hand(None)
        lent = sink.lend(by_content=by_content)
        try:
            future = hand(lent)
        except BaseException:
            lent.give_back()
            raise
        lent.until_done(future)
        return future

    def failed(self, route: Route, error: BaseException, make: Make) -> Future:
        """A future of a task that is not handed over at all, since it can not but fail."""
        future = make(self.batches.reserve(route), 0)
        future._fail(error)
        return future

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._flush)

    def cancel(self, number: int, index: int, *, kill: bool = True) -> None:
        """Give up a task; without `kill` only if it has not begun."""
        with self.room.lock:
            if not self.closed:
                self._cancels.append((number, index, kill))
                self.batches.rouse()

    def cancel_pending(self) -> None:
        """Give up all that has not begun."""
        if not self.closed:
            self._loop.call_soon_threadsafe(self._cancel_pending)

    def give_input(self, number: int, index: int, what: str, value: Any, body: bytes) -> None:
        """Send input, a signal or credit to a task."""
        if not self.closed:
            self._loop.call_soon_threadsafe(self._give_input, number, index, what, value, body)

    def query(
        self, method: str, args: Mapping[str, Any], body: bytes = b"", timeout_s: float = QUERY_TIMEOUT_S
    ) -> tuple[Any, bytes]:
        """Ask the node something. SwarmError with the node's words when it says no."""
        self.refuse_in_own_thread("ask the node, or send large arguments")
        answer = self.asking(method, args, body)
        try:
            return answer.result(timeout_s)
        except TimeoutError:
            raise SwarmError(
                f"the node did not answer {method} in {timeout_s:g} s", hint="swarm status shows its state"
            ) from None

    def asking(self, method: str, args: Mapping[str, Any], body: bytes = b"") -> StdFuture[tuple[Any, bytes]]:
        """Ask the node something, and get a future of the answer."""
        if self.batches.refusal is not None:
            raise self.batches.refusal
        answer: StdFuture[tuple[Any, bytes]] = StdFuture()
        self._loop.call_soon_threadsafe(self._ask_for, answer, method, dict(args), body)
        return answer

    def bulk(self) -> ClientBulk:
        """The way of large buffers to and from nodes of other hosts; made when it is needed first. From any thread."""
        self.refuse_in_own_thread("move large buffers")
        with self.room.lock:
            if self._bulk is None:
                from swarm.client.bulk import ClientBulk

                assert self._finder is not None
                self._bulk = ClientBulk(self._finder.credentials, self._finder.trust, self.query, self._linked)
            return self._bulk

    def _linked(self) -> tuple[Identity, Sequence[str]] | None:
        link, finder = self._link, self._finder
        if link is None or finder is None:
            return None
        host = finder.reached.get(link.identity.id)
        return link.identity, () if host is None else (host,)

    def post(self, method: str, args: Mapping[str, Any]) -> None:
        """Tell the node something, without an answer; nothing when there is no node. From any thread, and finalizers."""
        if not self.closed:
            self.run_soon(self._ask, method, dict(args), b"")

    def later(self, delay_s: float, function: Callable[[], None]) -> None:
        """Have the loop call something. From any thread."""
        if not self.closed:
            try:
                self._loop.call_soon_threadsafe(self._loop.call_later, delay_s, function)
            except RuntimeError:
                pass  # closed at this very moment

    # --- in the loop --------------------------------------------------------------------------------------------------

    def _flush(self, *, whole: bool = False) -> None:
        """Hand over what there is, urgent tasks first. What the link has no room for waits, but for urgent tasks, and with it those who
        submit; `whole`: nothing does."""
        link = self._link
        whole = whole or link is None or self.closed
        if whole or link is None or not link.congested:
            batches, code = self.batches.take()
        else:
            batches, code = self.batches.take_urgent()  # else stays awake; `link_writable` comes back here
            if not batches:
                return
        for digest, blob in code:
            if self._code.keep(digest, blob) and self._link is not None:
                self._ask("code.put", {"digest": digest}, blob)
        waits: list[Batch] = []
        for it in batches:
            if not (whole or is_urgent(it)) and link is not None and link.congested:
                waits.append(it)
                continue
            count, columns, futures = it.take()
            if not count:
                continue  # begun for a call that then turned out to be no plain one, and went elsewhere
            self.settling.expect(it.number, futures)
            level = it.route.durability
            if level:
                self._receiving[it.number] = it
            self._session.submit(
                it.number, it.route.raw, it.route.rerun, count, columns, it.deps, durability=level, soft=it.route.soft,
                key=it.key,
            )  # fmt: skip
            if len(batches) > 1:
                self._turn()  # so that the link knows
        if batches:
            self.batches.handed(waits)
        with self.room.lock:
            waiting = self.batches.numbers
            cancels = [one for one in self._cancels if one[0] not in waiting]
            self._cancels = [one for one in self._cancels if one[0] in waiting]
        if cancels:
            self._cancel(cancels)
        self._turn()
        if self._link is not None:
            self._link.flush()  # now rather than at the end of the loop's turn: somebody may be waiting

    def _cancel(self, cancels: list[tuple[int, int, bool]]) -> None:
        ranges: dict[tuple[int, bool], list[tuple[int, int]]] = {}
        for number, index, kill in sorted(cancels):
            found = ranges.setdefault((number, kill), [])
            if found and found[-1][1] >= index:
                found[-1] = (found[-1][0], index + 1)
            else:
                found.append((index, index + 1))
        for (number, kill), wanted in ranges.items():
            self._session.cancel(number, wanted, kill=kill)

    def _cancel_pending(self) -> None:
        self._flush(whole=True)
        for number in sorted(self._session.unfinished):
            self._session.cancel(number, kill=False)
        self._turn()

    def _give_input(self, number: int, index: int, what: str, value: Any, body: bytes) -> None:
        self._flush(whole=True)
        self._session.give_input(number, index, what, value, body)
        self._turn()

    def _ask(self, method: str, args: dict[str, Any], body: bytes) -> StdFuture[tuple[Any, bytes]]:
        answer: StdFuture[tuple[Any, bytes]] = StdFuture()
        self._ask_for(answer, method, args, body)
        return answer

    def _ask_for(self, answer: StdFuture[tuple[Any, bytes]], method: str, args: dict[str, Any], body: bytes) -> None:
        self._queries.ask(self._link, answer, method, args, body)

    def _turn(self) -> None:
        for effect in self._session.take_effects():
            match effect:
                case Delivered():
                    self.settling.deliver(effect, trusted=self._is_trusted())
                    self.room.drain.ended(time.monotonic(), effect.fresh)
                    if effect.last and effect.batch in self._receiving:
                        error = SwarmError("the node told the outcomes, but never on how many disks they are")
                        self._receiving.pop(effect.batch).receipt().fail(error)
                    self.room.notify()
                case Accepted():
                    receipt = Receipt(effect.copies, effect.hosts, effect.epoch, effect.retention_s)
                    accepted = self._receiving.pop(effect.batch, None)
                    if accepted is not None:
                        accepted.receipt().receive(receipt)
                        self.room.notify()
                case Tell():
                    self._tell(effect)
                case Happened():
                    self.settling.happen(effect)
                case Ended():
                    self.settling.end(effect)
                    refused = self._receiving.pop(effect.batch, None) if effect.last else None
                    if refused is not None:
                        refused.receipt().fail(TaskRefused(effect.message, hint=effect.hint))
                    self.room.notify()
                case Moving():
                    self._moving = effect.reason or "moving"
        if self._session.full_until > self.room.refused_until:
            self.room.refused_until = self._session.full_until
        if self._moving:
            self._move()
        at = self._session.next_deadline()
        if at is not None and self._timer is None:
            self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._on_timer)

    def _is_trusted(self) -> bool:
        return self._link is not None and "code" in self._link.identity.grants

    def _tell(self, it: Tell) -> None:
        if self._link is None:
            return
        try:
            self._link.send(encode(it.kind, it.header), *it.parts)
        except LinkClosed:
            pass  # `link_down` follows, and everything is handed over again
        except LinkOverflow as error:
            self._link.close(f"overflow: {error}"[:200])

    def _on_timer(self) -> None:
        self._timer = None
        self._session.on_timer(time.monotonic())
        self._turn()
        self.room.notify()  # what a full node refused was handed over again: others may try as well

    def durability_here(self) -> str:
        """What the node in use has for tasks of which nothing is said. Nodes without a journal do not say."""
        link = self._link
        said = link.info.get("durability") if link is not None else None
        return said if isinstance(said, str) and said in DURABILITIES else "none"

    def _keyed_home(self) -> tuple[bytes, bytes]:
        finder = self._finder
        assert finder is not None
        if not self._keyed:
            with self.room.lock:
                home = self._home
            self._keyed = kept_home(self.home.data / "client" / KEYED_HOME_FILE, finder.trust.fleet, home)
        return self._keyed, finder.credentials.identity.id

    def spare_named(self) -> None:
        """What has a name is not cancelled when this client is closed, but goes on."""
        self._spare_named = True

    def durable_session(self) -> bytes:
        """The session of durable batches that are begun now: it names the node in use as their home."""
        return self._durable_session

    def wait_accepted(self, timeout_s: float | None = None) -> bool:
        """Wait until every durable batch handed over has its receipt, or was refused. False after `timeout_s` seconds."""
        self.refuse_in_own_thread("wait for receipts")
        return self.room.wait_for(lambda: not self._receiving and not self.batches.tasks, timeout_s)

    def _fail_all(self, error: BaseException) -> None:
        for it in list(self._receiving.values()):
            it.receipt().fail(error)
        self._receiving.clear()
        self.settling.fail_all(self.batches.refuse(error), error)
        self.room.shut()

    # --- links --------------------------------------------------------------------------------------------------------

    async def _connect(self, deadline: float, avoid: bytes | None) -> None:
        assert self._finder is not None
        link = await self._finder.find(deadline - time.monotonic() + self._loop.time(), avoid)
        while not link.up and not self.closed:
            # It went down before it was in use: of that, `link_down` had nothing to tell.
            await asyncio.sleep(ROUND_PAUSE_S)
            link = await self._finder.find(deadline - time.monotonic() + self._loop.time(), avoid)
        if self.closed:
            link.close("the client is closing")
        else:
            self._use(link)

    def _use(self, link: Link) -> None:
        self._link = link
        self._moving = ""
        if self._home != link.identity.id:
            self._home = link.identity.id
            self._durable_session = durable_session(self._home, self.session_id[:SESSION_RANDOM_BYTES])
        for digest, code in self._code.items():
            self._ask("code.put", {"digest": digest}, code)
        self._session.link_up(link.identity.id + link.boot)
        self._turn()
        self.settling.relinked()
        self._flush()
        self._learn()

    def _learn(self) -> None:
        """Hear from the node, now and then, which others there are: where to go when it is gone."""
        if self._refresh is not None:
            self._refresh.cancel()
        if self._link is not None and not self.closed:
            self._refresh = self._loop.call_later(NODES_REFRESH_S, self._look_and_learn)
            self._ask("nodes", {}, b"").add_done_callback(self._learned)

    def _look_and_learn(self) -> None:
        """The link has been up for a while."""
        self._session.look()
        self._turn()
        self._learn()

    def _learned(self, answered: StdFuture[tuple[Any, bytes]]) -> None:
        if not answered.cancelled() and answered.exception() is None and self._finder is not None:
            value = answered.result()[0]
            if isinstance(value, dict):
                self._finder.learn(value.get("nodes", ()))
                self.batches.bound(value.get("batch_tasks_max"))
            if self._moving:
                self._move()

    def link_up(self, link: Link) -> None:
        """`find` comes back with it."""

    def link_messages(self, link: Link, messages: list[bytes]) -> None:
        """Messages from the node."""
        if link is not self._link:
            return
        now = time.monotonic()
        try:
            for message in messages:
                kind, header, body = decode(message)
                if kind == Kind.REPLY:
                    self._queries.replied(header, body)
                else:
                    self._session.on_message(now, kind, header, body)
        except (MessageError, ValueError, TypeError, KeyError) as error:
            link.close(f"violation: {error}"[:200])
        self._turn()

    def link_writable(self, link: Link) -> None:
        """The node consumes again: hand over what waited."""
        if link is self._link:
            self._flush()

    def link_down(self, link: Link, reason: str) -> None:
        """The node is gone: find another, or it again."""
        if link is not self._link:
            return
        self._link = None
        self._session.link_down()
        self.lane.drop()
        self._queries.fail(FleetNotFound(f"the node is gone ({reason})", hint="the client looks for another"))
        if not self.closed and self._reconnecting is None:
            avoid = link.identity.id if self._moving else None
            self._reconnecting = self._loop.create_task(self._reconnect(avoid))
        self._flush()

    def refused(self, reason: str, facts: Mapping[str, object]) -> None:
        """Somebody who is no member answered; the finder goes on."""

    def _move(self) -> None:
        """Leave a node that stops, if there is another one, and nothing would be lost by leaving."""
        link = self._link
        if link is None or self._finder is None or not self._session.may_move:
            return
        if any(known != link.identity.id for known in self._finder.places):
            link.close(f"moving: {self._moving}")

    async def _reconnect(self, avoid: bytes | None) -> None:
        try:
            await self._connect(time.monotonic() + self.settings.reconnect_timeout_s, avoid)
        except FleetNotFound as error:
            self._fail_all(error)
        finally:
            self._reconnecting = None


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _close_all() -> None:
    """At the interpreter's end: what is unfinished is cancelled, so that nothing runs for nobody."""
    for engine in list(_engines):
        engine.close(1.0)


def _forked() -> None:
    for engine in list(_engines):
        engine.abandon()
    _engines.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
