"""Batches that are being filled: calls of one spec that come before the loop's next turn travel together.

The path of a call is as short as it can be made: one lock, the arguments encoded straight into the batch's columns, a
bare future. All that is done once a batch (room, code, waking the loop) is done when it is begun.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kernels.batch import CallBuilder
from swarm.client.futures import Future
from swarm.client.receipts import Receiving, no_receipt
from swarm.client.routes import Route
from swarm.errors import NotAccepted
from swarm.payload_canonical import canonical_payload
from swarm.protocol.drain import Drain
from swarm.protocol.ids import SESSION_BYTES, batch_key

if TYPE_CHECKING:
    from swarm.client.engine import Engine

BATCH_TASKS_MAX = 1024
BATCH_BYTES_MAX = 256 * 1024
LOOK_EVERY = 32
"""Calls after which the size of a batch is looked at; and how many are in one until the node has said how many it takes at once."""

URGENT_PART = 16
"""By one part in so many may urgent tasks go beyond the window."""
EASED_PART = 8
"""Who waits for room is woken when one part in so many is free."""
RETRY_S_MIN, RETRY_S_MAX = 0.05, 5.0

assert BATCH_TASKS_MAX % LOOK_EVERY == 0

Make = Callable[["Batch", int], Future]


class Batch:
    """Calls of one route, and their futures."""

    __slots__ = ("add", "builder", "deps", "engine", "futures", "key", "number", "receiving", "route")

    def __init__(self, engine: Engine, number: int, route: Route, key: bytes | None = None) -> None:
        self.engine = engine
        self.number = number
        self.route = route
        self.key: bytes = key or batch_key(engine.durable_session() if route.durability else engine.session_id, number)
        self.receiving: Receiving | None = None
        self.builder = CallBuilder()
        self.add: Callable[..., int] = self.builder.add_plain
        self.futures: list[Any] = []
        self.deps: list[bytes] = []

    def receipt(self) -> Receiving:
        """Its receipt, now or later."""
        if self.receiving is None:
            with self.engine.batches.lock:
                if self.receiving is None:
                    self.receiving = Receiving() if self.route.durability else no_receipt()
        return self.receiving

    def take(self) -> tuple[int, bytes, list[Any]]:
        """(count, columns, futures); what it was built with goes, since futures keep their batch."""
        count, columns, futures = self.builder.count, self.builder.take(), self.futures
        if len(futures) < count:
            # A Ctrl-C struck between a call and its future: that one has none.
            futures.extend([None] * (count - len(futures)))
        self.builder, self.add, self.futures = _EMPTY, _EMPTY.add_plain, []
        return count, columns, futures


_EMPTY = CallBuilder()


def is_urgent(it: Batch) -> bool:
    """Whether a batch goes before others: HIGH and CRITICAL tasks that wait for no others, as on the way from here on."""
    return it.route.urgent and not it.deps


def _place(it: Batch) -> tuple[bool, int]:
    return not is_urgent(it), it.number


class Batches:
    """The batches of one client that are not handed over yet. `lock` guards all of it.

    `wake` is called, under the lock, when there is something to be taken and nobody was told yet.
    """

    def __init__(self, engine: Engine, wake: Callable[[], object], room: Room) -> None:
        self.engine = engine
        self.lock = room.lock
        self.room = room
        self.awake = False
        self.refusal: BaseException | None = None
        """Why nothing is taken any more."""
        self._wake = wake
        self._number = 0
        self._open: list[Batch] = []
        self._full: list[Batch] = []
        self._full_bytes = 0
        self._taken = 0
        self._tasks_max = LOOK_EVERY
        self._code: list[tuple[bytes, bytes]] = []

    @property
    def tasks(self) -> int:
        """Tasks that are not handed over yet."""
        return self._taken + sum(it.builder.count for it in (*self._full, *self._open))

    @property
    def waiting_bytes(self) -> int:
        """Bytes of full batches that are not handed over yet."""
        return self._full_bytes

    def add(self, route: Route, args: tuple[Any, ...], kwargs: dict[str, Any] | None, make: Make) -> Future | None:
        """Add a call; None when its arguments are not plain, or it has a name. Waits for room."""
        if route.durability and self.engine.names.apply(route):
            return None
        self.room.wait(route.urgent)
        with self.lock:
            it = route.open or self._begin(route)
            index = it.add(args, kwargs)
            return self.added(it, index, make(it, index)) if index >= 0 else None

    def add_payload(self, route: Route, payload: bytes, make: Make) -> Future:
        """Add a call whose arguments are encoded already. Waits for room."""
        self.room.wait(route.urgent)
        key, payload = self._named(route, payload, []) if route.durability else (None, payload)
        with self.lock:
            it = self._begin(route, key) if key is not None or route.open is None else route.open
            index = it.builder.add(payload)
            future = self.added(it, index, make(it, index))
            if key is not None or (it.builder.nbytes >= BATCH_BYTES_MAX and route.open is it):
                self._shut(it)
            return future

    def add_after(self, route: Route, payload: bytes, deps: list[bytes], make: Make) -> Future:
        """Add a call that waits for other tasks: a batch of its own, after those that are open now."""
        self.room.wait(route.urgent)
        key, payload = self._named(route, payload, deps) if route.durability else (None, payload)
        with self.lock:
            for it in self._open:
                it.route.open = None
                self._full_bytes += it.builder.nbytes
            self._full.extend(self._open)
            self._open.clear()
            it = self._begin(route, key)
            it.deps = deps
            if route.durability and key is None:
                # In the log of what it waits for, wherever new tasks go by now.
                it.key = batch_key(deps[0][:SESSION_BYTES], it.number)
            index = it.builder.add(payload)
            future = self.added(it, index, make(it, index))
            self._shut(it)
            return future

    def number(self) -> int:
        """The number of a batch that is not made here. Raises when nothing is taken any more."""
        with self.lock:
            self._check()
            self._number += 1
            return self._number

    def again(self, route: Route, number: int, payload: bytes, future: Future) -> None:
        """Hand over a call that went another way before, as the batch that its future knows."""
        with self.lock:
            refusal = self.refusal
            if refusal is None:
                it = Batch(self.engine, number, route)
                it.builder.add(payload)
                it.futures.append(future)
                self._full.append(it)
                self._full_bytes += it.builder.nbytes
                if route.code is not None:
                    self._code.append((route.code.digest, route.code.blob))
                self.rouse()
        if refusal is not None:
            future._fail(refusal)

    def reserve(self, route: Route) -> Batch:
        """A batch that is never handed over, for a future that has failed before."""
        with self.lock:
            self._check()
            self._number += 1
            return Batch(self.engine, self._number, route)

    def added(self, it: Batch, index: int, future: Future) -> Future:
        """Put a future to its call. Under the lock."""
        futures = it.futures
        if len(futures) != index:
            futures.extend([None] * (index - len(futures)))  # a Ctrl-C struck here before
        futures.append(future)
        if not index & (LOOK_EVERY - 1):
            self._look(it, index)
        return future

    def take(self) -> tuple[list[Batch], list[tuple[bytes, bytes]]]:
        """All there is, what is urgent first and else in the order of their numbers, and new code that they need. `handed` follows."""
        with self.lock:
            self.awake = False
            for it in self._open:
                it.route.open = None
            # One is empty when the arguments of its first call turned out not to be plain: they are still being written.
            batches = [it for it in (*self._full, *self._open) if it.builder.count]
            code, self._code = self._code, []
            self._taken = sum(it.builder.count for it in batches)
            self._full, self._open, self._full_bytes = [], [], 0
        if len(batches) > 1:
            batches.sort(key=_place)
        return batches, code

    def take_urgent(self) -> tuple[list[Batch], list[tuple[bytes, bytes]]]:
        """The same of urgent tasks alone. What else there is waits, and `awake` stays as it is."""
        with self.lock:
            batches = [it for it in (*self._full, *self._open) if it.builder.count and is_urgent(it)]
            if not batches:
                return [], []
            for it in batches:
                if it.route.open is it:
                    it.route.open = None
            needed = {it.route.code.digest for it in batches if it.route.code is not None}
            code = [one for one in self._code if one[0] in needed]
            self._code = [one for one in self._code if one[0] not in needed]
            self._taken = sum(it.builder.count for it in batches)
            self._full_bytes -= sum(it.builder.nbytes for it in self._full if it in batches)
            self._full = [it for it in self._full if it not in batches]
            self._open = [it for it in self._open if it not in batches]
        batches.sort(key=_place)
        return batches, code

    def handed(self, waits: Sequence[Batch] = ()) -> None:
        """What was taken is counted by the session now, but for batches that wait here again. Then `awake` holds."""
        with self.lock:
            self._taken = 0
            if waits:
                self._full[:0] = waits
                self._full_bytes += sum(it.builder.nbytes for it in waits)
                self.awake = True

    @property
    def numbers(self) -> set[int]:
        """The batches that are not handed over. Under the lock."""
        return {it.number for it in (*self._full, *self._open)}

    def bound(self, tasks_max: object) -> None:
        """The node takes so many tasks at once; if it is of a version that does not say, as many as there are in a batch."""
        said = tasks_max if isinstance(tasks_max, int) else BATCH_TASKS_MAX
        with self.lock:
            self._tasks_max = max(LOOK_EVERY, min(said - said % LOOK_EVERY, BATCH_TASKS_MAX))

    def refuse(self, error: BaseException) -> list[list[Any]]:
        """Take nothing any more; the futures of what was not handed over."""
        with self.lock:
            self.refusal = error
            left = [it.take()[2] for it in (*self._full, *self._open)]
            for it in self._open:
                it.route.open = None
            self._full, self._open, self._full_bytes = [], [], 0
        return left

    def rouse(self, urgent: bool = False) -> None:
        """Have the loop look here, if it does not already, or waits for a link that is congested and there is something `urgent`. Under
        the lock."""
        if not self.awake or urgent:
            self.awake = True
            self._wake()

    def _check(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def _named(self, route: Route, payload: bytes, deps: list[bytes]) -> tuple[bytes | None, bytes]:
        """The key of a call that has a name, and its payload as it is whoever writes it."""
        names = self.engine.names
        if not names.apply(route):
            return None, payload
        payload = canonical_payload(payload)
        return names.key_of(route, payload, deps), payload

    def _begin(self, route: Route, key: bytes | None = None) -> Batch:
        self._check()
        self._number += 1
        it = Batch(self.engine, self._number, route, key)
        if key is None:
            route.open = it
        self._open.append(it)
        route.known = True
        if route.code is not None:
            # Together with the batch, so that it is there before it.
            self._code.append((route.code.digest, route.code.blob))
        self.rouse(route.urgent)
        return it

    def _look(self, it: Batch, index: int) -> None:
        if index and (index >= self._tasks_max or it.builder.nbytes >= BATCH_BYTES_MAX):
            self._shut(it)

    def _shut(self, it: Batch) -> None:
        if it.route.open is it:
            it.route.open = None
        self._open.remove(it)
        self._full.append(it)
        self._full_bytes += it.builder.nbytes


class Room:
    """How much may be under way, and those who wait for some of it to end."""

    def __init__(self, tasks_max: int, bytes_max: int, timeout_s: float | None) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.waiting = 0
        self.thread_id = 0
        """The thread that brings outcomes: it never waits for them."""
        self.used: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """(tasks, bytes) under way."""
        self.open = True
        self.refused_until = 0.0
        """Until then (monotonic seconds) the node, which was full, shall be left alone. 0: it takes what it is given."""
        self.drain = Drain()
        """How fast tasks end."""
        self._tasks_max = tasks_max
        self._bytes_max = bytes_max
        self._timeout_s = timeout_s
        self._here = threading.local()

    @property
    def full(self) -> bool:
        """Whether `wait` would wait."""
        return self._is_full(False)

    def _is_full(self, urgent: bool) -> bool:
        tasks, size = self.used()
        if tasks < self._tasks_max and size < self._bytes_max:
            return not urgent and self._refused()
        part = self._tasks_max // URGENT_PART, self._bytes_max // URGENT_PART
        return not urgent or tasks >= self._tasks_max + part[0] or size >= self._bytes_max + part[1]

    def _refused(self) -> bool:
        return self.refused_until > 0.0 and time.monotonic() < self.refused_until

    def _eased(self) -> bool:
        # Some way below the bound, so that those who wait are not woken for each single task that ends.
        tasks, size = self.used()
        part = self._tasks_max // EASED_PART, self._bytes_max // EASED_PART
        return tasks <= self._tasks_max - part[0] and size <= self._bytes_max - part[1] and not self._refused()

    @contextmanager
    def patience(self, timeout_s: float | None) -> Iterator[None]:
        """What this thread hands over meanwhile waits so long for room, whatever else holds."""
        self._here.timeout_s = (timeout_s,)
        try:
            yield
        finally:
            self._here.timeout_s = None

    @property
    def timeout_s(self) -> float | None:
        """How long this thread may wait for room; None is for ever."""
        said: tuple[float | None] | None = getattr(self._here, "timeout_s", None)
        return self._timeout_s if said is None else said[0]

    def wait(self, urgent: bool = False) -> None:
        """Wait until there is room. NotAccepted when there is none in time. What is `urgent` has some of its own."""
        if not self._is_full(urgent) or threading.get_ident() == self.thread_id:
            return
        timeout_s = self.timeout_s
        if not self.wait_for((lambda: not self._is_full(True)) if urgent else self._eased, timeout_s):
            raise self.refusal(f"and there was no room in {timeout_s:g} s")

    def refusal(self, more: str, hint: str = "") -> NotAccepted:
        """What somebody is told for whom there is no room now; when there will be, as fast as tasks end."""
        tasks, size = self.used()
        now = time.monotonic()
        over = max(tasks - self._tasks_max + self._tasks_max // EASED_PART, 1)
        if size >= self._bytes_max:
            over = max(over, tasks // EASED_PART)
        self.drain.full(now, tasks)
        after_s = max(self.refused_until - now, self.drain.after_s(now, over, RETRY_S_MIN, RETRY_S_MAX))
        what = "the node is full" if self._refused() else f"{tasks} tasks are under way"
        return NotAccepted(
            f"{what}, {more}", hint=hint or "take results before submitting more, or give submit_timeout_s=None to wait",
            retry_after_s=after_s,
        )  # fmt: skip

    def wait_for(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until a condition holds or the client is closed. False after `timeout_s` seconds."""
        with self.changed:
            self.waiting += 1
            try:
                return self.changed.wait_for(lambda: condition() or not self.open, timeout_s)
            finally:
                self.waiting -= 1

    def notify(self) -> None:
        """Something ended."""
        if self.waiting:
            with self.changed:
                self.changed.notify_all()

    def shut(self) -> None:
        """Nobody waits any longer."""
        with self.changed:
            self.open = False
            self.changed.notify_all()
