"""`swarm.connect()`: the fleet, for ordinary code."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernels.batch import encode_plain
from swarm.client.attached import ATTACH_TIMEOUT_S, Attached, attach_to
from swarm.client.batches import LOOK_EVERY, Batch
from swarm.client.buffers import Buffers
from swarm.client.chunks import Chunk, chunk_route
from swarm.client.commands import CommandFuture
from swarm.client.dependencies import Dependencies
from swarm.client.engine import QUERY_TIMEOUT_S, RECONNECT_TIMEOUT_S, Engine, EngineSettings
from swarm.client.futures import Future
from swarm.client.maps import Chunksize, Feed, Window, plan
from swarm.client.moves import SLACK_S, WITHIN_S, moved
from swarm.client.names import keyed
from swarm.client.options import CALL_NAMES, NOTHING_CHOSEN, AnyFuture, Chosen, Fn, chosen, flat
from swarm.client.routes import ROUTES_MAX, Route, Routes, command_route, is_lasting, session_for_here
from swarm.client.storing import Storing
from swarm.client.streams import Stream, StreamFuture
from swarm.errors import ConfigError, NotFound
from swarm.paths import Home
from swarm.payload import decode_value
from swarm.payload_failure import error_of
from swarm.protocol import ids
from swarm.protocol.states import Status
from swarm.tasks import TaskOptions, check_durability, current_task, waiting

if TYPE_CHECKING:
    from swarm.client.knowledge import Knowledge

_BETWEEN_LOOKS = LOOK_EVERY - 1


class Options:
    """A fleet together with options for what is submitted: ``fleet.options(priority=LOW).submit(f, x)``."""

    def __init__(self, fleet: Fleet, options: Mapping[str, Any]) -> None:
        self._fleet = fleet
        self.chosen = chosen(dict(options))

    def submit(self, fn: Fn, /, *args: Any, **kwargs: Any) -> Future:
        """Run ``fn(*args, **kwargs)`` somewhere; every keyword goes to the callable."""
        return self._fleet.handed(fn, args, kwargs, self.chosen)

    def map(self, fn: Fn, /, *iterables: Iterable[Any], **how: Any) -> Iterator[Any]:
        """As `Fleet.map`, with these options."""
        return self._fleet.mapped(fn, iterables, self.chosen, **how)

    def stream(self, fn: Fn, /, *args: Any, **kwargs: Any) -> Stream:
        """As `Fleet.stream`, with these options."""
        return self._fleet.streamed(fn, args, kwargs, self.chosen)


class Fleet:
    """A connection to a fleet. Use it in a ``with`` statement, or close it.

    Leaving the ``with`` block waits for what is unfinished; leaving it by an exception (Ctrl-C is one) cancels it. What
    is unfinished when the interpreter ends is cancelled; only what is durable goes on then, as it does after `detach`.
    """

    def __init__(self, engine: Engine, durability: str | None = None) -> None:
        self._engine = engine
        self._batches = engine.batches
        self._lane = engine.lane
        self.durability = durability or engine.durability_here()
        """What holds for tasks of which nothing else is said."""
        self._soft = durability is None
        self._routes = Routes(self.durability, self._soft)
        self._known: dict[Any, Route] = {}
        self._commands: dict[tuple[bytes, int, bool], Route] = {}
        storing = Storing(engine.room, lambda: engine.unfinished)
        self._buffers = Buffers(engine.query, engine.post, engine.later, self._reach, engine.bulk, storing.put)
        self._dependencies = Dependencies(engine, self._buffers)
        engine.settling.source = self._buffers

    def _reach(self) -> str:
        link = self._engine.link
        return "lan" if link is None else link.reach

    # --- work ---------------------------------------------------------------------------------------------------------

    def submit(self, fn: Fn, /, *args: Any, **kwargs: Any) -> Future:
        """Run ``fn(*args, **kwargs)`` somewhere in the fleet; a future of its result.

        The keywords priority, nice, needs, labels, timeout_s (seconds), deadline (seconds since the epoch), expected_s
        (seconds), retries, retry_on, backoff_s, rerun, stream, python, name, durability, transaction, key and submit_timeout_s are options, not arguments; a
        callable that has such keywords itself is submitted with ``options(…).submit``.

        A durable task is submitted once under a `key`, a text: whoever of this user (or of the task that submits it)
        says it again, within the time that outcomes are kept, gets the same task. TaskRefused if it is another call.

        An argument that is a future of this fleet is replaced by its result: if there is none yet, the fleet waits for
        it, not the caller.

        Waits while too much is under way, or the fleet is full: for `submit_timeout_s` seconds, or as the connection says.
        After that NotAccepted is raised, and says when to come back (``retry_after_s``).
        """
        if not kwargs:
            # The way of most tasks: a callable seen before, plain arguments, no options.
            try:
                route = self._known[fn]
            except (KeyError, TypeError):
                return self.hand(self.route(fn, NOTHING_CHOSEN), args, None)
            if route.open is not None:
                batches = self._batches
                with batches.lock:
                    it = route.open
                    if it is not None:
                        index = it.add(args)
                        if index >= 0:
                            future = Future(it, index)
                            if len(it.futures) == index and index & _BETWEEN_LOOKS:
                                it.futures.append(future)
                                return future
                            return batches.added(it, index, future)
            return self.hand(route, args, None)
        if not CALL_NAMES.isdisjoint(kwargs):
            options = {key: kwargs.pop(key) for key in CALL_NAMES.intersection(kwargs)}
            return self.handed(fn, args, kwargs, chosen(options))
        return self.hand(self.route(fn, NOTHING_CHOSEN), args, kwargs)

    def handed(self, fn: Fn, args: tuple[Any, ...], kwargs: dict[str, Any], options: Chosen) -> Future:
        """Hand over one call, with options worked out before."""
        if options.patience is None:
            return self.hand(self.route(fn, options), args, kwargs)
        with self._engine.room.patience(*options.patience):
            return self.hand(self.route(fn, options), args, kwargs)

    def route(self, fn: Fn, options: Chosen) -> Route:
        """Where calls of this callable go, with these options."""
        if options.lengths is not None:
            raise ConfigError("expected_s= is a function", hint="of the items of a map; of one call say the seconds")
        route = self._routes.of(fn, options.task, options.deadline, options.nice)
        if options.key is not None:
            return keyed(route, options.key)
        # In a task calls have a parent, and names of their own: that is looked at each time.
        if options is NOTHING_CHOSEN and is_lasting(fn) and current_task() is None:
            if len(self._known) >= ROUTES_MAX:
                self._known.clear()
            self._known[fn] = route
        return route

    def chunk_route(self, fn: Callable[..., Any]) -> Route:
        """Where chunks of calls of this callable go."""
        route, _ = chunk_route(self._routes, fn, NOTHING_CHOSEN.task)
        assert route is not None
        return route

    def hand(
        self,
        route: Route,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        make: Callable[[Batch, int], Future] = Future,
    ) -> Future:
        """Hand over one call."""
        if make is Future and (route.quick or route.rests_until) and route.open is None:
            future = self._lane.call(route, args, kwargs)
            if future is not None:
                return future
        for value in args:
            if isinstance(value, concurrent.futures.Future):
                return self._dependencies.hand(route, args, kwargs or {}, make)
        if kwargs and any(isinstance(value, concurrent.futures.Future) for value in kwargs.values()):
            return self._dependencies.hand(route, args, kwargs, make)
        return self._engine.submit(route, args, kwargs or None, make, self._buffers)

    def hand_chunk(self, route: Route, chunk: Chunk) -> Future:
        """Hand over several calls in one task, of a route that is chunked."""
        if chunk.packed is not None:
            return self._batches.add_payload(route, chunk.packed, Future)
        return self._engine.submit(route, chunk.arguments, None, Future, self._buffers)

    @property
    def trusts(self) -> bool:
        """Whether pickles are loaded from the node: it is granted `code`."""
        link = self._engine.link
        return link is None or "code" in link.identity.grants

    def options(self, **options: Any) -> Options:
        """This fleet with options for what is submitted through it."""
        return Options(self, options)

    def map(
        self,
        fn: Fn,
        /,
        *iterables: Iterable[Any],
        chunksize: Chunksize | None = "auto",
        window: Window | None = "auto",
        ordered: bool = True,
        timeout: float | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Results of `fn` over the items, in their order (or as they come, with ``ordered=False``).

        Items are taken as there is room for them: at most `window` are under way ("auto": 4096, or 64 tasks of several
        items where these are more), so that endless iterators will do; None takes them all at once. Each item is a
        task; those that are much quicker than what handing over a task costs are put together ("auto"), a number says
        how many make one (or less, where their arguments pass 512 KiB), None that each is one. What an item raises is
        raised when its turn comes, after the results before it; with `retries` and a number, it is tried again together
        with those that share its task. TimeoutError when the next result is not there `timeout` seconds after the call.
        What is under way when the iteration is left is cancelled. `expected_s` may be a function of the items that says how
        many seconds `fn` takes for them: each is a task then, and of those under way the longest go first.
        """
        return self.mapped(
            fn, iterables, chosen(options), chunksize=chunksize, window=window, ordered=ordered, timeout=timeout
        )

    def mapped(
        self,
        fn: Fn,
        iterables: Sequence[Iterable[Any]],
        options: Chosen,
        *,
        chunksize: Chunksize | None = "auto",
        window: Window | None = "auto",
        ordered: bool = True,
        timeout: float | None = None,
    ) -> Iterator[Any]:
        """As `map`, with options worked out before."""
        ends = None if timeout is None else time.monotonic() + timeout
        how = plan(
            self._routes, fn, options.task, options.deadline, options.nice, chunksize, options.key, options.lengths
        )
        feed = Feed(self, how, iterables, window=window, ordered=ordered)
        feed.fill()
        return feed.results(ends)

    def gather(self, *futures: Any, timeout: float | None = None) -> list[Any]:
        """The results of all, in their order; the first failure is raised, and the rest cancelled."""
        found = flat(futures)
        ends = None if timeout is None else time.monotonic() + timeout
        try:
            return [one.result(None if ends is None else max(0.0, ends - time.monotonic())) for one in found]
        except BaseException:
            self.cancel(found)
            raise

    @staticmethod
    def as_completed(futures: Iterable[AnyFuture], timeout: float | None = None) -> Iterator[AnyFuture]:
        """Futures as they end."""
        ended = concurrent.futures.as_completed(futures, timeout)
        while True:
            with waiting():
                future = next(ended, None)
            if future is None:
                return
            yield future

    @staticmethod
    def wait(
        futures: Iterable[AnyFuture],
        timeout: float | None = None,
        return_when: str = concurrent.futures.ALL_COMPLETED,
    ) -> Any:
        """(done, not done), as `concurrent.futures.wait`."""
        with waiting():
            return concurrent.futures.wait(list(futures), timeout, return_when)

    @staticmethod
    def cancel(*futures: Any) -> int:
        """Cancel tasks, also those that run; how many will not have a result."""
        return sum(1 for future in flat(futures) if future.cancel())

    def cancel_pending(self) -> None:
        """Cancel all that has not begun; what runs goes on."""
        self._engine.cancel_pending()

    def stream(self, fn: Fn, /, *args: Any, **kwargs: Any) -> Stream:
        """Items of a generator that runs somewhere, as it yields them."""
        options = {key: kwargs.pop(key) for key in CALL_NAMES.intersection(kwargs)}
        return self.streamed(fn, args, kwargs, chosen(options))

    def streamed(self, fn: Fn, args: tuple[Any, ...], kwargs: dict[str, Any], options: Chosen) -> Stream:
        """As `stream`, with options worked out before."""
        return Stream(self.stream_future(fn, args, kwargs, options), self.decode)

    def stream_future(self, fn: Fn, args: tuple[Any, ...], kwargs: dict[str, Any], options: Chosen) -> StreamFuture:
        """The future that collects a generator's items."""
        task = TaskOptions(**(options.task.given() | {"stream": True}))
        route = self._routes.of(fn, task, options.deadline, options.nice)
        if options.key is not None:
            route = keyed(route, options.key)
        future = self.hand(route, args, kwargs, StreamFuture)
        assert isinstance(future, StreamFuture)
        return future

    def decode(self, payload: bytes) -> Any:
        """The value of a payload that came from the node."""
        return decode_value(payload, self._buffers, trusted=self.trusts)

    def submit_command(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        files_in: Iterable[str | Path | tuple[str, str | Path]] = (),
        files_out: Iterable[str] = (),
        stdin: bool = False,
        on_output: Callable[[str, bytes], object] | None = None,
        **options: Any,
    ) -> CommandFuture:
        """Run a command somewhere, in a fresh directory. Its future's result is {"exit", "signal", "out", "missing",
        "written"}.

        `files_in` are put into its directory (a path, or (name there, path here)); `files_out` are names there, of
        which "out" has [name, blob id, size, mode] (see `fetch_file`) and "missing" those that it did not leave.
        ``on_output("out" | "err", bytes)`` is called in the client's thread as it writes, "written" bytes in all. If it
        returns False, it has not consumed them yet, and `CommandFuture.took_output` is to be called when it has: a
        command whose output nobody consumes waits, as at a pipe. Input may be sent by the
        future when `stdin` is true. Unless ``rerun=True``, a command that has begun is not begun again.
        """
        argv = [str(part) for part in argv]
        if not argv:
            raise ConfigError("there is no command", hint="give its name and arguments")
        said = chosen(options)
        route = self._command_route(
            argv[0], said.task, said.deadline, said.nice, self.durability, "input of a command" if stdin else "",
            self._soft,
        )  # fmt: skip
        if said.key is not None:
            route = keyed(route, said.key)
        staged = []
        for entry in files_in:
            there, here = entry if isinstance(entry, tuple) else (str(entry), entry)
            path = Path(here)
            try:
                ref = self._buffers.put_file(path)
            except OSError as error:
                raise NotFound(f"can not read {path}: {error.strerror or error}", hint="is the path right?") from error
            staged.append([there, ref.id, ref.size, path.stat().st_mode & 0o777])
        details = {"env": dict(env or {}), "in": staged, "out": list(files_out), "stdin": stdin, "tty": False}
        payload = encode_plain([argv, details])
        if payload is None:
            raise ConfigError(
                "the command's arguments are too long or hold what is no text", hint="stage files with --in"
            )
        future = self._batches.add_payload(route, payload, partial(_command, on_output))
        assert isinstance(future, CommandFuture)
        return future

    def _command_route(self, *how: Any) -> Route:
        """What outlives its caller travels in batches that people can name; of others each is begun at once."""
        route = command_route(*how)
        if not route.durability:
            return route
        if len(self._commands) >= ROUTES_MAX:
            self._commands.clear()
        return self._commands.setdefault((route.raw, route.durability, route.soft), route)

    def fetch_file(self, blob_id: bytes, size: int) -> bytes:
        """The content of a file that a command left."""
        return bytes(self._buffers.read(blob_id, size))

    # --- the fleet ----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The fleet's name."""
        return self._engine.fleet_name

    @property
    def node(self) -> str:
        """The name of the node that this client is linked to; empty while it looks for one."""
        link = self._engine.link
        return "" if link is None else link.identity.name

    @property
    def usable(self) -> bool:
        """Whether tasks are taken: not closed, and the fleet was not given up."""
        return self._batches.refusal is None and not self._engine.closed

    @property
    def unfinished(self) -> int:
        """Tasks handed over that have no outcome yet."""
        return self._engine.unfinished

    def get(self, task: str | bytes, timeout: float | None = None) -> Any:
        """The result of a task by its id, or a prefix of it that is unambiguous, from whichever node knows it."""
        text = ids.text(task) if isinstance(task, bytes) else task
        ends = None if timeout is None else time.monotonic() + timeout
        pause_s = 0.02
        while True:
            found, value = self.outcome(text, *self._engine.query("result", {"task": text}))
            if found:
                return value
            if ends is not None and time.monotonic() >= ends:
                raise TimeoutError(f"task {text[:8]} has no outcome yet")
            with waiting():
                time.sleep(pause_s if ends is None else max(0.0, min(pause_s, ends - time.monotonic())))
            pause_s = min(0.5, pause_s * 1.5)

    def attach(self, task: str | bytes, timeout: float | None = ATTACH_TIMEOUT_S) -> Attached:
        """A task or a batch by its id, whoever submitted it and wherever: its state, its results when they are there.

        NotFound when nothing with that id is kept; NoQuorum when that cannot be known for `timeout` seconds.
        """
        return attach_to(self, task, timeout)

    def detach(self, timeout: float | None = None) -> None:
        """Wait until every durable task handed over is accepted, and leave: they go on without this connection, and
        `attach` finds them. What is not durable is cancelled. TimeoutError after `timeout` seconds, and nothing is left.
        """
        with waiting():
            if not self._engine.wait_accepted(timeout):
                raise TimeoutError("not all tasks are accepted yet")
        self._engine.close()

    def outcome(self, task: str, shown: Mapping[str, Any], payload: bytes) -> tuple[bool, Any]:
        """(whether it ended, its value) from a node's answer; raises what the task raised."""
        if not payload:
            return False, None
        status = Status[str(shown["state"]).upper()]
        if status == Status.OK:
            return True, self.decode(payload)
        raise error_of(status, payload, trusted=True, task=task)

    def members(self) -> list[dict[str, Any]]:
        """The nodes of the fleet: name, id, state, slots, busy, labels, address and more."""
        return list(self.query("members")["members"])

    def move(self, task: Future | str, node: str, *, within_s: float = WITHIN_S) -> dict[str, Any]:
        """Have a task that runs go on at another node, by its name; `task` is its future or the text of its id.

        It ends where it is at its next safe point (`swarm.checkpoint`) and goes on there from the state that it gave. Waits for
        that, at most `within_s` seconds. {"id", "name", "node", "took_s", …}; NotFound, MoveBusy, MoveLate or another MoveRefused
        when it is not moved: then it goes on where it is.
        """
        name = task.id if isinstance(task, Future) else str(task)
        with waiting():
            return moved(self.query("move", within_s + SLACK_S, task=name, node=node, within_s=within_s))

    def plan(self, fn: Fn | None = None, /, *, count: int = 1, **options: Any) -> dict[str, Any]:
        """What would happen if so many tasks were submitted now, and does nothing of it: a dry run, as `swarm plan`.

        The options are those of `submit`, of which `priority`, `needs`, `labels` and `python` decide; those that `fn` declares hold unless
        they are said otherwise. {"begins": "at once", "later" or "never", "begins_s": seconds or None where that is not known,
        "at_once": how many would begin at once, "hint", "nodes": [{"name", "fits", "tasks", "next_s", "why", "displaced": [who would make
        way, {"id", "name", "priority", "run_s"}]}, the best first], …}. No slot is kept: a moment later it may be otherwise.
        """
        from swarm.client.plans import asked

        return self.query("plan", **asked(fn, count, options))

    @property
    def knowledge(self) -> Knowledge:
        """What the fleet knows: `put`, `get`, `query`, `watch` and more."""
        from swarm.client.knowledge import Knowledge

        return Knowledge(self._engine)

    def query(self, method: str, timeout_s: float = QUERY_TIMEOUT_S, **args: Any) -> dict[str, Any]:
        """Ask the node something; SwarmError with its words when it says no."""
        value, body = self._engine.query(method, args, timeout_s=timeout_s)
        return value if isinstance(value, dict) else {"value": value, "body": body}

    def close(self, *, cancel: bool = False) -> None:
        """Disconnect. Waits for what is unfinished, unless it is to be cancelled; `detach` leaves what is durable."""
        engine = self._engine
        if not engine.closed and not cancel:
            with waiting():
                engine.wait_idle()
        engine.close(cancel=cancel)

    def leaving(self, error: object) -> None:
        """The block of this connection is left by an exception. If that has the task that it is in tried again, the next
        attempt finds what this one submitted, and is not to find it cancelled."""
        task = current_task() if isinstance(error, Exception) else None
        if task is not None and task.durable and task.retries:
            self._engine.spare_named()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        finished = False
        self.leaving(error)
        try:
            self.close(cancel=kind is not None)
            finished = True
        finally:
            if not finished:  # Ctrl-C while it waited
                self.close(cancel=True)


def connect(
    home: Home | str | Path | None = None,
    *,
    seeds: Iterable[str] = (),
    timeout_s: float = 3.0,
    name: str | None = None,
    durability: str | None = None,
    submit_timeout_s: float | None = None,
    reconnect_timeout_s: float = RECONNECT_TIMEOUT_S,
    direct: bool = True,
) -> Fleet:
    """Connect to the fleet of this user, or of another `home`. FleetNotFound when no node is reached in `timeout_s`.

    `seeds` are addresses ("HOST:PORT") for networks without multicast, `name` is how nodes show this client.
    `submit_timeout_s` limits how long `submit` waits while too much is under way (then NotAccepted; None: for ever),
    `reconnect_timeout_s` how long another node is looked for when the one in use is gone (then all that is unfinished
    fails with FleetNotFound). `durability` is that of tasks of which nothing else is said: "none", "node" (on the disk of
    the node before it counts as accepted) or "fleet" (on those of two of three hosts). None leaves it to the node's
    setting ("fleet" where three hosts keep its log), and has what can not be kept run all the same: the receipt tells. Calls made one after the other may go directly to a worker of this host, once the node has
    granted its slot; with ``direct=False`` all go through the node, which then keeps every outcome for a while.
    """
    if durability is not None:
        check_durability(durability)
    engine = Engine(
        _home(home),
        seeds=seeds,
        session=session_for_here(),
        settings=EngineSettings(submit_timeout_s, reconnect_timeout_s, direct=direct),
        name=name,
    )
    engine.open(timeout_s)
    return Fleet(engine, durability)


def _home(home: Home | str | Path | None) -> Home:
    if isinstance(home, Home):
        return home
    return Home.resolve() if home is None else Home.resolve({"SWARM_HOME": str(home)})


def _command(on_output: Callable[[str, bytes], object] | None, batch: Batch, index: int) -> CommandFuture:
    # Listening from the beginning: the command may write before `submit_command` returns.
    return CommandFuture(batch, index, on_output)


__all__ = ["Fleet", "Options", "connect"]
