"""From a callable and its options to the bytes of a spec: worked out once, then looked up.

Functions, classes and names are looked up: a function keeps the code, and the values of the globals that it uses, that
it had when it was first submitted. What carries state of its own (bound methods, partials, callable objects) is written
anew each time, as it is then; the same content has the same digest, and is sent once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from swarm.errors import ConfigError
from swarm.payload_code import Code, display_name, encode_code
from swarm.protocol.ids import child_session
from swarm.protocol.spec import Spec
from swarm.protocol.states import Priority
from swarm.tasks import DURABILITIES, TaskOptions, command_here, current_task, forked, options_of

if TYPE_CHECKING:
    from swarm.client.batches import Batch

REST_S = 10.0
"""For so long a callable goes through the node that took long when it was called directly, the first time."""
REST_S_MAX = 640.0
ROUTES_MAX = 4096
SESSIONS_KEPT = 1024
QUICK_S = 0.005
"""What is said to take longer goes to the node, which knows who has room."""


@dataclass(slots=True, eq=False)
class Route:
    """A spec as bytes, the code that it refers to, and the batch that takes calls of it at the moment."""

    raw: bytes
    rerun: bool
    code: Code | None
    stream: bool
    open: Batch | None = None
    quick: bool = False
    """Whether calls of it may go directly to a worker (`swarm.client.direct`): as far as is known they are short."""
    rests_until: float = 0.0
    """The instant from which on it may go directly once more; 0 if it never took long when it did, or may not at all."""
    rest_s: float = 0.0
    """How long it rests now, having been called directly; twice as long each time that it takes long again."""
    known: bool = False
    """Whether a call of it went to the node, with its code."""
    durability: int = 0
    """The place of its level in `swarm.tasks.DURABILITIES`."""
    soft: bool = False
    """Whether nobody asked for this level, so that its calls are run without it where it is not to be had."""
    urgent: bool = False
    """Whether it is HIGH or CRITICAL: then there is room for it when there is none for others."""
    name: bytes = b""
    """Of the one call of this route, if it goes by a name that was said (`swarm.client.names`)."""

    def took_long(self, now: float) -> None:
        """A direct call of it took long: others go through the node for a while. Not for ever: a machine that stood still for a
        moment makes everything take long that runs just then."""
        self.quick = False
        self.rest_s = min(REST_S_MAX, 2 * self.rest_s or REST_S)
        self.rests_until = now + self.rest_s

    def rested(self, now: float) -> bool:
        """Whether it may go directly once more, having taken long."""
        if not self.quick and self.rests_until and now >= self.rests_until:
            self.quick = True
        return self.quick

    def is_not_for_workers(self) -> None:
        """A worker has given a call of it back: it goes through the node from now on."""
        self.quick, self.rests_until = False, 0.0


def is_lasting(fn: Any) -> bool:
    """Whether a callable is the same at each call, so that its route can be looked up."""
    if type(fn) is BuiltinFunctionType:
        return isinstance(fn.__self__, ModuleType)  # a function of a module; else a method of something that may change
    return type(fn) in (FunctionType, str, type)


class Routes:
    """Routes by (callable, options). What says nothing of its durability has that of the connection; `soft` if that is only
    what the node has where nothing is said."""

    def __init__(self, durability: str = "none", soft: bool = False) -> None:
        self._durability = durability
        self._soft = soft
        self._routes: dict[Any, Route] = {}
        self._by_raw: OrderedDict[bytes, Route] = OrderedDict()

    def of(self, fn: Any, options: TaskOptions, deadline: float | None = None, nice: int = 0) -> Route:
        """The route of a callable, or of "module:qualname", with these options."""
        return self._of(fn, options, deadline, nice, False)

    def chunked(self, fn: Any, options: TaskOptions, deadline: float | None = None, nice: int = 0) -> Route:
        """As `of`, for tasks that stand for many calls (see swarm.client.chunks)."""
        return self._of(fn, options, deadline, nice, True)

    def _of(self, fn: Any, options: TaskOptions, deadline: float | None, nice: int, chunked: bool) -> Route:
        if not is_lasting(fn):
            # Written anew each time; what has come out the same travels together.
            made = self._make(fn, options, deadline, nice, chunked)
            known = self._by_raw.setdefault(bytes((made.durability, made.soft)) + made.raw, made)
            while len(self._by_raw) > ROUTES_MAX:
                self._by_raw.popitem(last=False)
            return known
        needs = options.needs
        if needs is not None:
            options = replace(options, needs=None)
        # A connection may outlive a task of this process: what the next one submits has another parent.
        parent = current_task()
        of = None if parent is None else parent.id
        key = (fn, options, None if needs is None else tuple(sorted(needs.items())), deadline, nice, chunked, of)
        route = self._routes.get(key)
        if route is None:
            if len(self._routes) >= ROUTES_MAX:
                self._routes.clear()
            if needs is not None:
                options = replace(options, needs=needs)
            route = self._routes[key] = self._make(fn, options, deadline, nice, chunked)
        return route

    def _make(self, fn: Any, options: TaskOptions, deadline: float | None, nice: int, chunked: bool) -> Route:
        given = {} if isinstance(fn, str) else options_of(fn).given()
        given.update(options.given())
        level, soft = level_of(given, self._durability, "a stream" if given.get("stream") else "", self._soft)
        code: Code | None = None
        where: tuple[str, bytes | str, str]
        if isinstance(fn, str):
            if ":" not in fn:
                raise ConfigError(f"{fn!r} does not name a callable", hint="write it as module:qualname")
            where = ("name", fn, fn.partition(":")[2])
        elif callable(fn):
            code = encode_code(fn)
            where = ("blob", code.digest, code.name)
        else:
            raise ConfigError(f"{fn!r} can not be called", hint="give a function, or 'module:qualname'")
        if chunked:
            given["chunked"] = True
            given.pop("checkpoint", None)  # of several calls none can be moved by itself
            given.pop("expected_s", None)  # that of one of them
        name = given.pop("name", None) or (fn.partition(":")[2] if isinstance(fn, str) else display_name(fn))
        spec = _spec("call", where, name, given, deadline, nice)
        # What goes directly to a worker of this host is answered by it, and nothing is acknowledged before.
        quick = _is_plain(spec) and (soft or not level)
        urgent = spec.priority >= Priority.HIGH
        return Route(
            spec.encode(), spec.rerun, code, spec.stream, quick=quick, durability=level, soft=soft, urgent=urgent
        )


def level_of(given: dict[str, Any], default: str, live: str, soft: bool = False) -> tuple[int, bool]:
    """The level of what is submitted, taken out of what was said of it, and whether it is one that nobody asked for (`soft`
    says that the default is). What is `live` (a stream, input) is of use only while its caller is there: ConfigError if it
    is to be kept for later. What a task submits is of use to that task: it is not kept because of a default."""
    said = given.pop("durability", None)
    if live and said not in (None, "none"):
        raise ConfigError(
            f"{live} can not be kept for later: durability={said!r}", hint="leave durability= away, or say 'none'"
        )
    if live or (said is None and soft and current_task() is not None):
        return 0, False
    level = DURABILITIES.index(said or default)
    return level, bool(level) and soft and said is None


def _is_plain(spec: Spec) -> bool:
    """Whether a call asks nothing of the node but to be run, and is not said to be long."""
    if spec.expected_s is not None and spec.expected_s > QUICK_S:
        return False
    wants = (spec.stream, spec.python, spec.needs, spec.labels, spec.timeout_s, spec.deadline, spec.retries)
    return spec.rerun and not spec.checkpoint and not spec.transaction and not any(wants)


def command_route(
    name: str,
    options: TaskOptions,
    deadline: float | None = None,
    nice: int = 0,
    durability: str = "none",
    live: str = "",
    soft: bool = False,
) -> Route:
    """The route of a command; it is not run twice unless `rerun` says that it may be."""
    given = {"rerun": False} | options.given()
    given.pop("name", None)
    level, soft = level_of(given, durability, live, soft)
    spec = _spec("command", None, options.name or name, given, deadline, nice)
    urgent = spec.priority >= Priority.HIGH
    return Route(spec.encode(), spec.rerun, None, False, durability=level, soft=soft, urgent=urgent)


def _spec(
    kind: str,
    fn: tuple[str, bytes | str, str] | None,
    name: str,
    given: Mapping[str, Any],
    deadline: float | None,
    nice: int,
) -> Spec:
    fields: dict[str, Any] = dict(given)
    if deadline is not None:
        fields["deadline"] = float(deadline)
    if nice:
        fields["nice"] = int(nice)
    parent = current_task()
    if parent is not None:
        root, _, depth = parent.lineage
        fields |= {"root": root or parent.id, "parent": parent.id, "depth": depth + 1}
        if "priority" not in fields:
            fields |= {"priority": parent.priority, "inherits": True}
    elif (command := command_here()) is not None:
        root, mine, depth, priority = command
        fields |= {"root": root, "parent": mine, "depth": depth + 1}
        if "priority" not in fields:
            fields |= {"priority": priority, "inherits": True}
    return Spec(kind, fn, name, **fields)


_sessions: OrderedDict[tuple[bytes, int, tuple[int, ...]], int] = OrderedDict()
_sessions_lock = threading.Lock()


def session_for_here() -> bytes | None:
    """Inside a task: a session derived from it, another one for each connection that it makes. None elsewhere, and in what
    it forks, where the count of its connections would go on as the others' does.

    Its attempt and token count too: how calls fall into batches depends on the moment, so that the batches of two attempts can
    not be told to be the same by their numbers.
    """
    parent = current_task()
    if parent is None or forked():
        return None
    key = (parent.id, parent.attempt, parent.token)
    with _sessions_lock:
        number = _sessions[key] = _sessions.get(key, 0) + 1
        while len(_sessions) > SESSIONS_KEPT:
            _sessions.popitem(last=False)
    return child_session(parent.id, parent.attempt, parent.token, number)
