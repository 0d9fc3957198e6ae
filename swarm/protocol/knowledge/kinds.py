"""Kinds of knowledge, and the CRDT by which the entries of each merge.

How to add one: add a line to `KINDS` with the CRDT and, if its values have a form, a check that says in words what is wrong
with a value. Nothing else: storing, merging, gossip, anti-entropy and queries go by the CRDT. The check is for who writes;
what comes from elsewhere is held to the form of its CRDT alone, so that an older node keeps what a newer one may say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from math import isfinite
from typing import Any, Final

from swarm.protocol.knowledge.bounds import COUNT_MAX, ID_BYTES, LOG_ODDS_MAX, SEEN_MAX


class Crdt(IntEnum):
    """How entries about one key become one value (Shapiro, Preguiça, Baquero, Zawirski 2011)."""

    REGISTER = 0
    """The last stamp wins."""
    SET = 1
    """An element is there as long as one of its additions was not seen by a removal: adding wins over removing at the same time."""
    COUNTER = 2
    """Each line says how much it has counted up and down in all; the sum counts."""
    LOG_ODDS = 3
    """Each author says what its evidence is now; the sum counts, and repeating oneself adds nothing."""


def _anything(value: object) -> str | None:
    return None


def _a_map(value: object) -> str | None:
    return None if isinstance(value, dict) else "is not a map"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of knowledge."""

    name: str
    crdt: Crdt
    check: Callable[[Any], str | None] = _anything
    """What is wrong with a value that is to be put, in words after "the value"; None if nothing is."""
    whole: bool = False
    """All nodes of a fleet of any size hold it: it is in shard `WHOLE`."""
    beside: str = ""
    """The kind by whose shards its keys are spread, if not by its own: what is said of the same key is then on the same nodes."""


KINDS: Final[dict[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("lessons", Crdt.REGISTER, _a_map, whole=True),
        Kind("facts", Crdt.REGISTER),
        Kind("policies", Crdt.REGISTER, _a_map, whole=True),
        Kind("beliefs", Crdt.LOG_ODDS),
        Kind("tallies", Crdt.COUNTER),
        Kind("marks", Crdt.SET),
        Kind("uses", Crdt.LOG_ODDS, beside="facts"),
        Kind("pruned", Crdt.REGISTER, beside="facts"),
    )
}

WHOLE: Final = 0
"""The shard that every node holds, however many there are."""
HELD_BY_ALL: Final = frozenset(kind.name for kind in KINDS.values() if kind.whole)
SPREAD_BY: Final = {kind.name: kind.beside for kind in KINDS.values() if kind.beside}
"""Kinds that are in the shards of another one."""


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value <= COUNT_MAX


def malformed(crdt: Crdt, op: int, value: Any) -> str | None:
    """What is wrong with the form of an entry of this CRDT, whoever made it; None if nothing is. ``op`` is 0 (PUT) or 1 (DROP)."""
    if crdt == Crdt.REGISTER:
        return None
    if crdt == Crdt.COUNTER:
        if op or not (type(value) is list and len(value) == 2 and _count(value[0]) and _count(value[1])):
            return "is not [ups, downs]"
    elif crdt == Crdt.LOG_ODDS:
        if op or type(value) not in (int, float) or not isfinite(value) or abs(value) > LOG_ODDS_MAX:
            return f"is not evidence from -{LOG_ODDS_MAX} to {LOG_ODDS_MAX}"
    elif op:
        if not (type(value) is list and len(value) == 2 and type(value[1]) is list and len(value[1]) <= SEEN_MAX):
            return "is not [element, seen]"
        for seen in value[1]:
            if not (type(seen) is list and len(seen) == 3 and _line(seen)):
                return "names additions that are not [author, life, stamp]"
    return None


def _line(seen: list[Any]) -> bool:
    author, life, time = seen
    return (
        type(author) is bytes
        and len(author) == ID_BYTES
        and all(type(n) is int and 0 <= n < 1 << 64 for n in (life, time))
    )
