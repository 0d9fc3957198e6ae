"""From a callable and its options to the bytes of a spec: worked out once, then looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from swarm.errors import ConfigError
from swarm.payload_code import Code, display_name, encode_code
from swarm.protocol.ids import child_session
from swarm.protocol.spec import Spec
from swarm.tasks import TaskOptions, current_task, options_of

ROUTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Route:
    """A spec as bytes, and the code that it refers to."""

    raw: bytes
    rerun: bool
    code: Code | None
    stream: bool


class Routes:
    """Routes by (callable, options). A callable that is changed after its first use keeps the code it had then."""

    def __init__(self) -> None:
        self._routes: dict[Any, Route] = {}

    def of(self, fn: Any, options: TaskOptions, deadline: float | None = None, nice: int = 0) -> Route:
        """The route of a callable, or of "module:qualname", with these options."""
        key = (fn, options, deadline, nice)
        try:
            route = self._routes.get(key)
        except TypeError:
            return self._make(fn, options, deadline, nice)  # not hashable: made anew each time
        if route is None:
            if len(self._routes) >= ROUTES_MAX:
                self._routes.clear()
            route = self._routes[key] = self._make(fn, options, deadline, nice)
        return route

    @staticmethod
    def _make(fn: Any, options: TaskOptions, deadline: float | None, nice: int) -> Route:
        given = {} if isinstance(fn, str) else options_of(fn).given()
        given.update(options.given())
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
        name = given.pop("name", None) or (fn.partition(":")[2] if isinstance(fn, str) else display_name(fn))
        spec = _spec("call", where, name, given, deadline, nice)
        return Route(spec.encode(), spec.rerun, code, spec.stream)


def command_route(name: str, options: TaskOptions, deadline: float | None = None, nice: int = 0) -> Route:
    """The route of a command; it is not run twice unless `rerun` says that it may be."""
    given = {"rerun": False} | options.given()
    given.pop("name", None)
    spec = _spec("command", None, options.name or name, given, deadline, nice)
    return Route(spec.encode(), spec.rerun, None, False)


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
    return Spec(kind, fn, name, **fields)


def session_for_here() -> bytes | None:
    """Inside a task: the session derived from it, so that a repeated parent finds its children. None elsewhere."""
    parent = current_task()
    return None if parent is None else child_session(parent.id, parent.attempt)


Chooser = Callable[[str], bool]
