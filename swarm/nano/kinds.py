"""Kinds of agents: a class that declares fields and topics, and forms of its tick."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from kernels.population import CAPACITY_MAX
from swarm.nano import addresses
from swarm.nano.errors import BadTick, NanoError
from swarm.nano.fields import FieldType, Full, Reads, Writes, fields_of

IDLE: Final = 0
"""There was nothing to do."""
WORKED: Final = 1
"""There was; what a tick that returns None came to."""
FAILED: Final = 3
"""It went wrong: the agent is suspended, counted and shown."""
DONE: Final = 4
"""The agent has ended: its row is freed."""

Layout = Literal["columns", "rows"]
FIELDS_MAX: Final = 256
TAKEN: Final = frozenset(("alive", "cohort", "kill", "kind", "resume", "rows", "suspend"))
"""Attributes of `Agents`, behind which a field would not be found."""
DEFAULT_CAPACITY: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sleep:
    """What a tick returns that wants not to be called before an instant, ns of the swarm's time."""

    until_ns: int


@dataclass(frozen=True, slots=True)
class Form:
    """A kind with one of its four forms of a tick: what `spawn` takes."""

    kind: type[Kind]
    name: Literal["object", "generator", "native", "native_many"]
    address: int = 0
    make: Callable[..., Any] | None = None
    keep: Any = None
    whole: bool = False
    """Its agents are ticked by one thread, in one call where they are due together."""


class Field:
    """A field of an agent, read from and written to its column."""

    __slots__ = ("index", "name", "type")

    def __init__(self, name: str, index: int, type: FieldType) -> None:
        self.name, self.index, self.type = name, index, type

    def __get__(self, agent: Kind | None, owner: type) -> Any:
        return self if agent is None else agent._views[self.index][agent._row]

    def __set__(self, agent: Kind, value: Any) -> None:
        agent._views[self.index][agent._row] = value


class Kind:
    """Subclass it: annotate fields, declare topics, and give a `tick`, unless that is native.

    `tick(self, now_ns, bus)` is the object form; where it is a generator function, `tick(self, bus)`, it is the generator
    form, whose `yield` gives the instant and takes the outcome. An outcome is None (worked), `IDLE`, `FAILED`, `DONE` or
    `Sleep(until_ns)`; an exception is a failure, a generator that returns is done. An object of the class is a handle: its
    fields are those of its row.
    """

    __slots__ = ("__weakref__", "_generation", "_row", "_views")

    fields: ClassVar[dict[str, FieldType]] = {}
    topics_read: ClassVar[dict[str, str]] = {}
    """Attribute -> topic, in the order of their declaration, which is that of the numbers that native ticks use."""
    topics_written: ClassVar[dict[str, Writes]] = {}
    topics_at_once: ClassVar[frozenset[str]] = frozenset()
    """Topics that are read with `delay=0`."""
    layout: ClassVar[Layout] = "columns"
    capacity: ClassVar[int] = DEFAULT_CAPACITY

    _row: int
    _generation: int
    _views: Any

    def __init_subclass__(cls, *, layout: Layout | None = None, capacity: int | None = None, **more: Any) -> None:
        super().__init_subclass__()
        if layout is not None:
            if layout not in ("columns", "rows"):
                raise NanoError(f"layout {layout!r} of {cls.__name__}", hint="a layout is 'columns' or 'rows'")
            cls.layout = layout
        if capacity is not None:
            if not isinstance(capacity, int) or not 1 <= capacity <= CAPACITY_MAX:
                hint = f"a capacity is a whole number of agents from 1 to {CAPACITY_MAX:,}"
                raise NanoError(f"capacity {capacity!r} of {cls.__name__}", hint=hint)
            cls.capacity = capacity
        if more:
            raise NanoError(
                f"class {cls.__name__}(nano.Kind, {', '.join(f'{name}=…' for name in more)})",
                hint="a kind takes capacity= and layout=",
            )
        cls.fields = fields_of(cls)
        if len(cls.fields) > FIELDS_MAX:
            raise NanoError(
                f"{cls.__name__} declares {len(cls.fields)} fields", hint=f"a kind has at most {FIELDS_MAX}"
            )
        reads, writes = dict(cls.topics_read), dict(cls.topics_written)
        for name, declared in cls.__dict__.items():
            if isinstance(declared, Reads):
                reads[name] = declared.topic
            elif isinstance(declared, Writes):
                writes[name] = declared
        cls.topics_read, cls.topics_written = reads, writes
        cls.topics_at_once = _at_once(cls)
        for index, (name, type) in enumerate(cls.fields.items()):
            if name.startswith("_") or name == "tick" or hasattr(Kind, name) or name in TAKEN:
                raise NanoError(
                    f"a field of {cls.__name__} cannot be named {name!r}",
                    hint="kinds or their agents have an attribute of this name: choose another",
                )
            setattr(cls, name, Field(name, index, type))

    @property
    def row(self) -> int:
        """The number of the agent in its kind's columns."""
        return self._row

    @property
    def generation(self) -> int:
        """How many agents the row had before this one."""
        return self._generation

    def __repr__(self) -> str:
        if not hasattr(self, "_views"):
            return f"<{type(self).__name__} of no population>"
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in type(self).fields)
        return f"<{type(self).__name__} {self._row}: {values}>"

    @classmethod
    def native(cls, tick: Any, *, whole: bool = False) -> Form:
        """This kind, ticked by native code for one agent: an address, a Numba `cfunc`, a function of ctypes or cffi, or a
        PyCapsule with the signature in `nano.h` as its name. BadTick for what is none of them.

        On a swarm of several `cores` its agents are ticked by several threads at once, so a tick writes its own row and reads no
        other's. One that looks at others declares itself `whole`, and is left to one thread."""
        address, keep = addresses.resolve(tick, addresses.TICK)
        return Form(cls, "native", address, None, keep, whole)

    @classmethod
    def native_many(cls, tick: Any, *, whole: bool = False) -> Form:
        """This kind, ticked by native code for a batch of agents; see `native`. A batch is cut into parts for several cores,
        unless it is `whole`."""
        address, keep = addresses.resolve(tick, addresses.TICK_MANY)
        return Form(cls, "native_many", address, None, keep, whole)

    @classmethod
    def objects(cls, make: Callable[[], Any] | None = None) -> Form:
        """This kind, ticked by Python objects: its own handles, or those that `make()` returns, of any class with
        `tick(now_ns, bus)`."""
        return Form(cls, "object", 0, make)

    @classmethod
    def generators(cls, make: Callable[..., Any]) -> Form:
        """This kind, ticked by generators: `make(agent, bus)` returns one for each agent."""
        return Form(cls, "generator", 0, make)


def _at_once(kind: type[Kind]) -> frozenset[str]:
    """The topics that a kind reads with `delay=0`. NanoError for one that it reads or writes otherwise as well."""
    declared = [getattr(kind, name) for name in kind.topics_read]
    found = frozenset(each.topic for each in declared if each.delay == 0)
    for topic in sorted(found):
        if any(each.topic == topic and each.delay for each in declared):
            raise NanoError(f"{kind.__name__} reads {topic!r} with delay=0 and with delay=1", hint="declare it once")
        if any(each.topic == topic for each in kind.topics_written.values()):
            raise NanoError(
                f"{kind.__name__} reads {topic!r} with delay=0 and writes to it",
                hint="what a kind tells itself is read in the next pass: delay=1",
            )
    return found


def form_of(what: Any) -> Form:
    """What `spawn` was given, as a form. BadTick when it is none."""
    if isinstance(what, Form):
        return what
    if isinstance(what, type) and issubclass(what, Kind):
        tick = getattr(what, "tick", None)
        if tick is None:
            raise BadTick(
                f"{what.__name__} has no tick", hint=f"give it one, or spawn {what.__name__}.native_many(address)"
            )
        if inspect.isgeneratorfunction(tick):
            return Form(what, "generator", 0, what.tick)  # type: ignore[attr-defined]
        return Form(what, "object")
    if isinstance(what, Kind):
        raise BadTick(f"{what!r} is an agent, not a kind", hint=f"spawn the class: {type(what).__name__}")
    raise BadTick(f"{what!r} cannot be spawned", hint="spawn a subclass of nano.Kind, or one of its forms")


def full_of(kind: type[Kind], topic: str) -> Full | None:
    """What a kind wants done with messages to a topic that is full; None where it does not write to it."""
    return next((each.full for each in kind.topics_written.values() if each.topic == topic), None)
