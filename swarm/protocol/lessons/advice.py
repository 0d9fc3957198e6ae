"""What a lesson advises, as typed values with bounds. Never code, and never a command.

On the wire each is a list, its kind first, in the one MessagePack form that it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from kernels.plain import encode_plain

ADVICE_MAX: Final = 8
"""Pieces of advice of one lesson."""
ADVICE_BYTES_MAX: Final = 4096
TEXT_CHARACTERS_MAX: Final = 500
NAME_CHARACTERS_MAX: Final = 200
DELAY_MS_MAX: Final = 7 * 86_400_000
AMOUNT_MAX: Final = 1e15
TIES: Final = ("node", "label", "interpreter", "packages")
"""What of a machine may be avoided."""
PARAMETERS: Final[dict[str, tuple[float, float]]] = {"timeout_s": (0.001, 30 * 86_400.0)}
"""Options of a task that a lesson may change, and between which values: those that owners give (`swarm.protocol.owner.given`)."""


class AdviceError(ValueError):
    """Advice that is malformed or out of bounds; the text says why."""


@dataclass(frozen=True, slots=True)
class Avoid:
    """Do not place there: a node by its name, what has a label, an interpreter ("cpython-3.11"), a set of packages (hex)."""

    what: str
    value: str


@dataclass(frozen=True, slots=True)
class Require:
    """Reserve at least so much of a resource (memory in bytes); amount 0: the label `resource` is required."""

    resource: str
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Try again, not before so many milliseconds after the failure."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class Change:
    """Let an option of the task be at least this value; see PARAMETERS."""

    parameter: str
    value: float


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Do not run it any more, for so many milliseconds."""

    for_ms: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a person this."""

    question: str


Advice = Avoid | Require | RetryAfter | Change | Quarantine | Ask
_CODES: Final[dict[type, int]] = {Avoid: 1, Require: 2, RetryAfter: 3, Change: 4, Quarantine: 5, Ask: 6}


def plain(advice: Sequence[Advice]) -> list[list[Any]]:
    """Advice as plain values. AdviceError when it is out of bounds."""
    rows = []
    for one in advice:
        match one:
            case Avoid(what, value):
                row: list[Any] = [1, what, value]
            case Require(resource, amount):
                row = [2, resource, float(amount)]
            case RetryAfter(delay_ms):
                row = [3, delay_ms]
            case Change(parameter, value_to):
                row = [4, parameter, float(value_to)]
            case Quarantine(for_ms):
                row = [5, for_ms]
            case Ask(question):
                row = [6, question]
        rows.append(row)
    read(rows)
    return rows


def read(rows: Any) -> tuple[Advice, ...]:
    """Advice from plain values. AdviceError for anything that is not exactly that."""
    if type(rows) not in (list, tuple) or len(rows) > ADVICE_MAX:
        raise AdviceError(f"advice is not a list of at most {ADVICE_MAX}")
    found: list[Advice] = []
    for row in rows:
        match list(row) if type(row) in (list, tuple) else None:
            case [1, str(what), str(value)] if what in TIES and _is_name(value):
                found.append(Avoid(what, value))
            case [2, str(resource), float(amount)] if _is_name(resource) and 0 <= amount <= AMOUNT_MAX:
                found.append(Require(resource, amount))
            case [3, int(delay_ms)] if _is_delay(delay_ms):
                found.append(RetryAfter(delay_ms))
            case [4, str(parameter), float(value_to)] if _is_within(parameter, value_to):
                found.append(Change(parameter, value_to))
            case [5, int(for_ms)] if _is_delay(for_ms):
                found.append(Quarantine(for_ms))
            case [6, str(question)] if 0 < len(question) <= TEXT_CHARACTERS_MAX and _is_text(question):
                found.append(Ask(question))
            case _:
                raise AdviceError(f"{str(row)[:200]!r} is no advice of this version, or out of its bounds")
    return tuple(found)


def encode(advice: Sequence[Advice]) -> bytes:
    """Advice as MessagePack."""
    body = encode_plain(plain(advice))
    assert body is not None
    if len(body) > ADVICE_BYTES_MAX + 1:
        raise AdviceError(f"the advice takes {len(body) - 1} bytes; at most {ADVICE_BYTES_MAX} are carried")
    return body[1:]  # without the tag of payloads


def decode(raw: bytes) -> tuple[Advice, ...]:
    """Advice from MessagePack. AdviceError unless it is the very bytes that `encode` makes of it."""
    if len(raw) > ADVICE_BYTES_MAX:
        raise AdviceError(f"the advice has {len(raw)} bytes; at most {ADVICE_BYTES_MAX} are taken")
    try:
        rows = msgpack.unpackb(raw, max_array_len=ADVICE_MAX, max_str_len=ADVICE_BYTES_MAX)
    except Exception as error:
        raise AdviceError(f"the advice is not MessagePack: {error}") from None
    found = read(rows)
    if encode(found) != raw:
        raise AdviceError("the advice is not written in its one form")
    return found


def shown(advice: Advice) -> str:
    """In words, for people."""
    match advice:
        case Avoid(what, value):
            return f"avoid {what} {value}"
        case Require(resource, amount):
            return f"require {resource}" + (f" of at least {amount:g}" if amount else "")
        case RetryAfter(delay_ms):
            return f"try again after {delay_ms / 1000:g} s"
        case Change(parameter, value_to):
            return f"let {parameter} be at least {value_to:g}"
        case Quarantine(for_ms):
            return f"do not run it for {for_ms / 1000:g} s"
        case Ask(question):
            return f"ask a person: {question}"


def _is_name(text: str) -> bool:
    return 0 < len(text) <= NAME_CHARACTERS_MAX and _is_text(text)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return text.isprintable()


def _is_delay(value: object) -> bool:
    return type(value) is int and 0 <= value <= DELAY_MS_MAX


def _is_within(parameter: str, value: float) -> bool:
    bounds = PARAMETERS.get(parameter)
    return bounds is not None and math.isfinite(value) and bounds[0] <= value <= bounds[1]
