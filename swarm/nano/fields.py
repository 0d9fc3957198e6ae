"""What a kind declares: fields with their types, and the topics that it reads and writes."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from swarm.nano.errors import NanoError

Full = Literal["drop", "block"]


@dataclass(frozen=True, slots=True)
class FieldType:
    """A number of fixed size; `code` is that of `struct`."""

    name: str
    code: str


f64 = Annotated[float, FieldType("f64", "d")]
f32 = Annotated[float, FieldType("f32", "f")]
i64 = Annotated[int, FieldType("i64", "q")]
i32 = Annotated[int, FieldType("i32", "i")]
i16 = Annotated[int, FieldType("i16", "h")]
i8 = Annotated[int, FieldType("i8", "b")]
u64 = Annotated[int, FieldType("u64", "Q")]
u32 = Annotated[int, FieldType("u32", "I")]
u16 = Annotated[int, FieldType("u16", "H")]
u8 = Annotated[int, FieldType("u8", "B")]
boolean = Annotated[bool, FieldType("boolean", "?")]

BY_NAME: dict[str, FieldType] = {
    get_args(each)[1].name: get_args(each)[1] for each in (f64, f32, i64, i32, i16, i8, u64, u32, u16, u8, boolean)
}


PLAIN = (float, int, bool, "float", "int", "bool")


@dataclass(frozen=True, slots=True)
class Reads:
    """A topic whose messages a tick sees: with `delay` 1 those of the pass before, with 0 those of the same pass."""

    topic: str
    delay: int = 1


@dataclass(frozen=True, slots=True)
class Writes:
    """A topic that a tick publishes to. `full` says what becomes of a message for which there is no room: "drop" counts it
    and goes on, "block" tells the tick, which is to try again."""

    topic: str
    full: Full = "drop"


def reads(topic: str, *, delay: Literal[0, 1] = 1) -> Any:
    """Declare, in the body of a kind, that it reads a topic: messages of the pass before, in the order (kind, row, sequence).

    With `delay=0` it reads those of the very pass in which they are published, as the stages of a pipeline do: who writes
    them runs before it, which `spawn` holds to. (Synchronous languages call the two `pre` and instantaneous; Halbwachs and
    others, "The synchronous data flow programming language LUSTRE", Proc. IEEE 79, 1991.)
    """
    if delay not in (0, 1) or isinstance(delay, bool):
        raise NanoError(
            f"delay={delay!r} for topic {topic!r}", hint="a topic is read in the next pass, 1, or in the same, 0"
        )
    return Reads(_topic(topic), delay)


def writes(topic: str, *, full: Full = "drop") -> Any:
    """Declare, in the body of a kind, that it writes to a topic."""
    if full not in ("drop", "block"):
        raise NanoError(f"full={full!r} for topic {topic!r}", hint="full is 'drop' or 'block'")
    return Writes(_topic(topic), full)


def _topic(name: str) -> str:
    if not isinstance(name, str) or not name or len(name) > 64 or not name.isprintable():
        raise NanoError(f"{name!r} is no name of a topic", hint="a topic is named by 1 to 64 printable characters")
    return name


def fields_of(kind: type) -> dict[str, FieldType]:
    """The fields that a class declares by annotation, those of its bases first, in the order of their declaration."""
    found: dict[str, FieldType] = {}
    for base in reversed(kind.__mro__):
        for name, said in inspect.get_annotations(base).items():
            declared = _field_type(base, name, said)
            if declared is not None:
                found[name] = declared
            else:
                _check_no_field(base, name, said)
    return found


def _check_no_field(owner: type, name: str, said: Any) -> None:
    """Refuse what was meant as a field, and is none: a number of no fixed size, or a name that this module has not."""
    hint = f"fields are numbers of fixed size: {name}: nano.f64, or one of {', '.join(BY_NAME)}"
    if said in PLAIN and name not in owner.__dict__:
        said = said if isinstance(said, str) else said.__name__
        raise NanoError(f"{owner.__name__}.{name}: {said} is no field", hint=hint)
    if isinstance(said, str):
        module, dot, attribute = said.strip().partition(".")
        known = getattr(sys.modules.get(owner.__module__), module, None)
        meant = module == "nano" if known is None else getattr(known, "__name__", None) == "swarm.nano"
        if dot and meant and attribute.isidentifier() and not hasattr(sys.modules["swarm.nano"], attribute):
            raise NanoError(f"{owner.__name__}.{name}: there is no type {said}", hint=hint)


def _field_type(owner: type, name: str, said: Any) -> FieldType | None:
    if isinstance(said, str):
        # `from __future__ import annotations`; a local alias of the module is no name that can be looked up
        by_name = BY_NAME.get(said.strip().rpartition(".")[2])
        if by_name is not None:
            return by_name
        try:
            said = get_type_hints(owner, include_extras=True)[name]
        except (NameError, AttributeError, TypeError, KeyError):
            return None
    if get_origin(said) is Annotated:
        return next((each for each in get_args(said)[1:] if isinstance(each, FieldType)), None)
    return None
