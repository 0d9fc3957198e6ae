"""Tasks as their authors see them: the decorator :func:`task`; from within, :func:`current_task`, :func:`progress`,
:func:`restore` and :func:`checkpoint`.

The worker that runs a task binds itself here (:func:`bind`); outside a worker nothing is bound, `current_task()` is
None and `progress()` does nothing, so that a task's function stays an ordinary function.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import log2
from typing import Any, Protocol, TypeVar, overload

from swarm.protocol.spec import EXPECTED_S_MAX
from swarm.units import parse_bytes

F = TypeVar("F", bound=Callable[..., Any])

DURABILITIES = ("none", "node", "fleet")
"""What a receipt stands for: nothing on a disk, the disk of the home node, the disks of two of three hosts. The place of a
level is its number on the wire."""
EXPECTED_S_MIN = 1e-6
"""What is said to take less is told as this."""
_OPTIONS = "__swarm_task__"
_PRIORITIES = {"LOW": 0, "STANDARD": 1, "HIGH": 2, "CRITICAL": 3}


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a task asks for; None is "not said", so that a call can say it, or the default holds.

    Units: `timeout_s`, `expected_s` and `backoff_s` (initial, factor, most) are seconds, ``needs["memory"]`` is bytes.
    """

    name: str | None = None
    retries: int | None = None
    retry_on: tuple[str, ...] | None = None
    backoff_s: tuple[float, float, float] | None = None
    needs: Mapping[str, float] | None = None
    labels: tuple[str, ...] | None = None
    timeout_s: float | None = None
    timeout_max_s: float | None = None
    expected_s: float | None = None
    priority: int | None = None
    rerun: bool | None = None
    stream: bool | None = None
    python: str | None = None
    durability: str | None = None
    checkpoint: bool | None = None
    transaction: str | None = None
    reflect: Callable[[Any], Any] | None = None
    """Looks at each result where it was made; it goes with the callable."""

    def given(self) -> dict[str, Any]:
        """The options that were said, by the names that a spec has for them."""
        said = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        said.pop("reflect", None)
        return said

    @classmethod
    def of(
        cls,
        *,
        name: str | None = None,
        retries: int | None = None,
        retry_on: Sequence[type[BaseException] | str] | type[BaseException] | None = None,
        backoff_s: float | Sequence[float] | None = None,
        needs: Mapping[str, float | str] | None = None,
        labels: Sequence[str] | None = None,
        timeout_s: float | None = None,
        timeout_max_s: float | None = None,
        expected_s: float | None = None,
        priority: int | str | None = None,
        rerun: bool | None = None,
        stream: bool | None = None,
        python: str | None = None,
        durability: str | None = None,
        checkpoint: bool | None = None,
        transaction: str | os.PathLike[str] | None = None,
        reflect: Callable[[Any], Any] | None = None,
    ) -> TaskOptions:
        """Options from what people write. ConfigError names what is wrong and what is meant."""
        if durability is not None:
            check_durability(durability)
        if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
            raise _wrong(f"retries={retries!r} is not a whole number of at least 0")
        if timeout_s is not None and not (isinstance(timeout_s, int | float) and timeout_s > 0):
            raise _wrong(f"timeout_s={timeout_s!r} is not a number of seconds above 0")
        if timeout_max_s is not None and not (isinstance(timeout_max_s, int | float) and timeout_max_s > 0):
            raise _wrong(f"timeout_max_s={timeout_max_s!r} is not a number of seconds above 0")
        if reflect is not None and (not callable(reflect) or stream):
            raise _wrong(
                "reflect= is a function that looks at a result; a stream has none"
                if stream
                else f"reflect={reflect!r} can not be called"
            )
        if isinstance(labels, str):
            labels = (labels,)
        if stream and retries:
            raise _wrong("a stream cannot be retried: items that were delivered would come twice")
        if checkpoint and (stream or python):
            raise _wrong("neither a stream nor a task of another interpreter can be moved while it runs")
        if transaction is not None and (stream or checkpoint):
            what = (
                "a stream's items are used before its end"
                if stream
                else "a task that is moved goes on without its files"
            )
            raise _wrong(f"transaction= does not go with {'stream' if stream else 'checkpoint'}=True: {what}")
        return cls(
            name=name,
            retries=retries,
            retry_on=None if retry_on is None else _exceptions(retry_on),
            backoff_s=None if backoff_s is None else _backoff(backoff_s),
            needs=None if needs is None else {key: parse_amount(key, value) for key, value in needs.items()},
            labels=None if labels is None else tuple(labels),
            timeout_s=None if timeout_s is None else float(timeout_s),
            timeout_max_s=None if timeout_max_s is None else float(timeout_max_s),
            expected_s=None if expected_s is None else told_s(expected_s),
            priority=None if priority is None else parse_priority(priority),
            rerun=rerun,
            stream=stream,
            python=python,
            durability=durability,
            checkpoint=checkpoint,
            transaction=None if transaction is None else _directory(transaction),
            reflect=reflect,
        )


@overload
def task(fn: F, /) -> F: ...
@overload
def task(
    *,
    name: str | None = None,
    retries: int | None = None,
    retry_on: Sequence[type[BaseException] | str] | type[BaseException] | None = None,
    backoff_s: float | Sequence[float] | None = None,
    needs: Mapping[str, float | str] | None = None,
    labels: Sequence[str] | None = None,
    timeout_s: float | None = None,
    timeout_max_s: float | None = None,
    expected_s: float | None = None,
    priority: int | str | None = None,
    rerun: bool | None = None,
    stream: bool | None = None,
    python: str | None = None,
    durability: str | None = None,
    checkpoint: bool | None = None,
    transaction: str | os.PathLike[str] | None = None,
    reflect: Callable[[Any], Any] | None = None,
) -> Callable[[F], F]: ...
def task(fn: Any = None, /, **options: Any) -> Any:
    """Say with a function how it wants to be run. It stays the function that it is, and can be called as before.

    >>> @task(retries=3, retry_on=[TimeoutError], needs={"memory": "2GB"})
    ... def fetch(url): ...
    >>> options_of(fetch).retries
    3

    `retries` counts further attempts after an exception of `retry_on` (any Exception when that is not given), with
    `backoff_s` = (initial, factor, most) seconds between them. `needs` reserves resources (cpu, memory in bytes or text
    like "2GB", gpu, or a node's own), `labels` are required of the node. `expected_s` says how many seconds it takes, as far as you
    know: of what waits the longest goes first then, and placement need not find out. `rerun=False`: what had started when its node
    died is not started again. `stream=True`: a generator's items are delivered as they come. `python` names a guest
    interpreter of the node. `timeout_max_s` allows a lesson (``swarm lesson``) to let it run longer than `timeout_s`, up to that. `durability` says on whose disks it is before it counts as accepted: "none", "node" or
    "fleet". `checkpoint=True`: it says at safe points what it would go on from (:func:`checkpoint`), so that it can be moved
    to another node while it runs. `transaction="DIR"`: each call runs within a :class:`swarm.StateTransaction` on that
    directory of the machine that runs it; relative to the worker's own, where that is no absolute path. ``reflect=check``: each
    result is given to this function where it was made, and what it returns is a lesson: None for none, a cause, or a
    dictionary of what :func:`lesson` takes; the result stays what it is. A call's own options come before these.
    """
    if fn is not None and not callable(fn):
        raise _wrong(f"@task was given {fn!r}, which is not callable")
    made = TaskOptions.of(**options)

    def mark(function: F) -> F:
        setattr(function, _OPTIONS, made)
        return function

    return mark if fn is None else mark(fn)


def options_of(fn: Any) -> TaskOptions:
    """What :func:`task` said of a callable; the empty options when it said nothing. Looks through functools.partial."""
    for candidate in (fn, getattr(fn, "__func__", None), getattr(fn, "func", None)):
        found = getattr(candidate, _OPTIONS, None)
        if isinstance(found, TaskOptions):
            return found
    return TaskOptions()


def check_durability(durability: str) -> None:
    """ConfigError for a level that there is not."""
    if durability not in DURABILITIES:
        raise _wrong(f"durability={durability!r} is not one of 'none', 'node' and 'fleet'")


def told_s(expected_s: Any) -> float:
    """How long a task is said to take, as it is told to the fleet: in steps of a fourth root of 2 (19 %), so that calls that take about
    the same travel together. ConfigError unless it is a time that there is."""
    said = expected_s
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 < said <= EXPECTED_S_MAX:
        raise _wrong(f"expected_s={said!r} is not a number of seconds above 0 and up to {EXPECTED_S_MAX:g}")
    return min(EXPECTED_S_MAX, float(2.0 ** (round(4 * log2(max(said, EXPECTED_S_MIN))) / 4)))


def parse_amount(resource: str, value: float | str) -> float:
    """An amount of a resource; text may carry a unit ("2GB", "512MiB"). ConfigError otherwise."""
    if isinstance(value, bool):
        raise _wrong(f"needs[{resource!r}]={value!r} is not an amount")
    if isinstance(value, int | float) and value >= 0:
        return value
    try:
        return parse_bytes(str(value))
    except ValueError:
        hint = "write a number of at least 0, or a size like '2GB'"
        raise _wrong(f"needs[{resource!r}]={value!r} is not an amount; {hint}") from None


def parse_priority(value: int | str) -> int:
    """A priority as 0 (LOW) to 3 (CRITICAL), from its number or name. ConfigError otherwise."""
    if isinstance(value, str) and value.upper() in _PRIORITIES:
        return _PRIORITIES[value.upper()]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 3:
        return int(value)
    raise _wrong(f"priority={value!r} is not one of LOW, STANDARD, HIGH, CRITICAL")


def exception_name(kind: type[BaseException]) -> str:
    """The name by which `retry_on` knows an exception: "module:QualName"."""
    return f"{kind.__module__}:{kind.__qualname__}"


@dataclass(frozen=True, slots=True)
class CurrentTask:
    """The task that is running here.

    `id` is 16 bytes; `token` the fencing token of this attempt (greater tokens belong to later attempts: hand it to a
    store that refuses smaller ones, and a zombie cannot overwrite); `attempt` counts from 1; `lineage` is (root id,
    parent id, depth); `node` the name of the node. `priority` is its class, which tasks that it submits have too unless
    they are given another one.
    """

    id: bytes
    token: tuple[int, ...]
    attempt: int
    lineage: tuple[bytes, bytes, int]
    name: str
    node: str
    priority: int = 1
    retries: int = 0
    """Further attempts after an exception that were asked for."""

    moved: int = 0
    """How often it was moved while it ran: what it goes on from (:func:`restore`) is of the last time."""

    @property
    def durable(self) -> bool:
        """Whether it is kept in a log: then its token is (epoch, number), and it is run again until it has an outcome."""
        return len(self.token) == 2

    @property
    def text(self) -> str:
        """The id as people see it."""
        from swarm.protocol.ids import text

        return text(self.id)


class Running(Protocol):
    """What a worker gives to :func:`bind`."""

    def describe(self) -> Mapping[str, Any] | None:
        """The running task's id, token, attempt, lineage, name, node and priority; None when the caller is in no task."""
        ...

    def progress(self, done: float, total: float | None, note: str) -> None: ...
    def lesson(self, said: Mapping[str, Any]) -> None: ...
    def told(self) -> list[bytes]: ...
    def restore(self, default: Any) -> Any: ...
    def checkpoint(self, state: Any) -> None: ...
    def waiting(self, begins: bool) -> None: ...
    def places_to_stand(self, begins: bool) -> None: ...
    def stand(self) -> float: ...


_running: Running | None = None
_process = 0
"""The worker's: what a task forks has its tasks by inheritance alone."""


def bind(running: Running | None) -> None:
    """Called by the worker of this process."""
    global _running, _process
    _running, _process = running, os.getpid()


def forked() -> bool:
    """Whether this process was forked by a task: what it does is in no order with what the task itself does."""
    return _running is not None and os.getpid() != _process


def current_task() -> CurrentTask | None:
    """The task that the caller runs in, or None outside of one."""
    facts = _running.describe() if _running is not None else None
    if facts is None:
        return None
    return CurrentTask(
        id=bytes(facts["id"]),
        token=tuple(facts["token"]),
        attempt=int(facts["attempt"]),
        lineage=tuple(facts["lineage"]),
        name=str(facts["name"]),
        node=str(facts["node"]),
        priority=int(facts.get("priority", 1)),
        retries=int(facts.get("retries", 0)),
        moved=int(facts.get("moved", 0)),
    )


def command_here() -> tuple[bytes, bytes, int, int] | None:
    """(root, id, depth, class when it began) of the command that this process is part of, by its environment; None outside of one."""
    said = os.environ.get("SWARM_TASK_ID"), os.environ.get("SWARM_TASK_LINEAGE")
    if said[0] is None or said[1] is None or _running is not None:
        return None
    from swarm.protocol.ids import parse

    try:
        root, depth, priority = said[1].split(".")
        mine = parse(said[0])
        return parse(root), mine, int(depth), min(3, max(0, int(priority)))
    except ValueError:
        return None


def progress(done: float, total: float | None = None, note: str = "") -> None:
    """Report how far the current task is. What comes faster than people can read is left out, except the last."""
    if _running is not None:
        _running.progress(done, total, note)


def lesson(cause: str, *, here: bool = True, wait_s: float = 0.0, require: str = "", ask: str = "") -> None:
    """Say what went wrong, or would, so that the fleet knows (see `swarm lesson`): in a sentence, without what is data of this call.

    It is about this callable. By default it says that it should not run on this node; with ``here=False`` it is the same everywhere, and
    says to wait for so long, or to run only where there is a label. `ask` is a question for people. Outside of a task, and in a
    call on a slot that its client was granted, nothing is told. ValueError when it advises nothing.
    """
    if not cause or not (here or wait_s or require or ask):
        raise ValueError("a lesson has a cause, and advises something: here=True, wait_s, require or ask")
    if here and (wait_s or require):
        raise ValueError("wait_s and require are about all machines: here=False")
    if _running is not None:
        said = {"cause": cause[:500], "here": here, "wait_s": float(wait_s), "require": require[:200], "ask": ask[:500]}
        _running.lesson(said)


class Saved(BaseException):
    """Raised by :func:`checkpoint` in a task that is about to be moved: it ends here, and goes on elsewhere from `payload`.

    Like KeyboardInterrupt no Exception, so that what a task does about its errors does not catch it; its ``finally`` and
    ``with`` blocks are left as by any exception.
    """

    def __init__(self, payload: bytes) -> None:
        super().__init__("the task goes on elsewhere")
        self.payload = payload


def saved_in(error: BaseException) -> Saved | None:
    """What :func:`checkpoint` raised, also where a group of tasks has put it into an exception group."""
    if isinstance(error, Saved):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for one in error.exceptions if (found := saved_in(one)) is not None), None)
    return None


def restore(default: Any = None) -> Any:
    """What the current task goes on from: what it gave to :func:`checkpoint` before it was moved, or `default` when it begins.

    To be called at the beginning; a task that is run again after a crash is given the same again.
    """
    return _running.restore(default) if _running is not None else default


def checkpoint(state: Any) -> None:
    """A safe point of the current task: it could go on from `state` elsewhere. Nothing happens, unless it is to be moved.

    `state` is what :func:`restore` returns there; or a function without arguments that makes it, called only when it is
    needed. A task that is to be moved ends here, by an exception that is no Exception, and its function is called again
    elsewhere with the same arguments. Costs about half a microsecond otherwise. In a task that does
    not say ``checkpoint=True``, and outside of tasks, it does nothing.
    """
    if _running is not None:
        _running.checkpoint(state)


def told() -> list[bytes]:
    """What the client told the current task by `StreamFuture.tell` since the last time; for generators, in their own thread.

    Each letter comes at most once: what was sent while a connection was down, or before the generator began, is lost.
    """
    return _running.told() if _running is not None else []


@contextmanager
def places_to_stand() -> Iterator[None]:
    """While this is open the current task stands still only where it calls `stand`, when more urgent work has its slot.

    It has `node.hold_s` to come to such a place; then it is stopped where it is, as any other task. For callables of one call at a time
    in a home worker, in their own thread; elsewhere it does nothing.
    """
    running = _running
    if running is None:
        yield
        return
    running.places_to_stand(True)
    try:
        yield
    finally:
        running.places_to_stand(False)


def stand() -> float:
    """The current task may stand still here. For how many seconds it did: 0.0 unless more urgent work had its slot."""
    return _running.stand() if _running is not None else 0.0


@contextmanager
def waiting() -> Iterator[None]:
    """While the current task waits for another task its slot may be lent, so that tasks that wait never lock up.

    The client's futures do this by themselves.
    """
    running = _running
    if running is None:
        yield
        return
    running.waiting(True)
    try:
        yield
    finally:
        running.waiting(False)


def _exceptions(kinds: Sequence[type[BaseException] | str] | type[BaseException] | str) -> tuple[str, ...]:
    if isinstance(kinds, type | str):
        kinds = (kinds,)
    names = []
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseException):
            names.append(exception_name(kind))
        elif isinstance(kind, str) and kind.count(":") == 1:
            names.append(kind)
        else:
            raise _wrong(f"retry_on holds {kind!r}, which is neither an exception class nor 'module:Name'")
    return tuple(names)


def _backoff(value: float | Sequence[float]) -> tuple[float, float, float]:
    parts = (value, 2.0, 60.0) if isinstance(value, int | float) else tuple(value)
    if len(parts) != 3 or not all(isinstance(part, int | float) and part >= 0 for part in parts):
        raise _wrong(f"backoff_s={value!r} is neither a number of seconds nor (initial, factor, most)")
    return float(parts[0]), float(parts[1]), float(parts[2])


def _directory(value: str | os.PathLike[str]) -> str:
    try:
        text = os.fspath(value)
    except TypeError:
        text = b""  # type: ignore[assignment]
    if not isinstance(text, str) or not text or "\0" in text:
        raise _wrong(f"transaction={value!r} is not the path of a directory")
    return text


def _wrong(message: str) -> Exception:
    from swarm.errors import ConfigError

    return ConfigError(message, hint="see the options of @swarm.task")
