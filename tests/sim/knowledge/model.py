"""What the fleet should know: all that was ever said, and by the definitions, naively, what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum
from typing import Any

from swarm.protocol.knowledge.crdts import packed
from swarm.protocol.knowledge.kinds import KINDS, Crdt

Line = tuple[bytes, int]


@dataclass(frozen=True)
class Statement:
    """One entry, and whose it is."""

    line: Line
    time: int
    kind: str
    key: str
    op: int
    value: Any


class Model:
    """A list of statements. Slow, and plain."""

    def __init__(self) -> None:
        self.said: list[Statement] = []

    def add(self, line: Line, rows: list[list[Any]]) -> None:
        """These entries were said."""
        self.said += [Statement(line, *row[:5]) for row in rows]

    def without(self, lines: set[Line], authors: set[bytes]) -> Model:
        """What is left when these lines and authors do not count."""
        model = Model()
        model.said = [one for one in self.said if one.line not in lines and one.line[0] not in authors]
        return model

    def values(self) -> dict[tuple[str, str], Any]:
        """(kind, key) -> what `get` must give; nothing for what is gone."""
        about: dict[tuple[str, str], list[Statement]] = {}
        for one in self.said:
            about.setdefault((one.kind, one.key), []).append(one)
        found = {}
        for (kind, key), said in about.items():
            value = _VALUE[KINDS[kind].crdt](said)
            if value is not None:
                found[kind, key] = value
        return found


def _register(said: list[Statement]) -> Any:
    last = max(said, key=lambda one: (one.time, one.line))
    return None if last.op else last.value


def _elements(said: list[Statement]) -> Any:
    drops: dict[tuple[Line, bytes], list[Statement]] = {}
    for one in sorted(said, key=lambda one: one.time):
        if one.op:
            drops.setdefault((one.line, packed(one.value[0])), []).append(one)
    seen = [
        (element, (author, life), time)
        for (_, element), found in drops.items()
        for one in found[-8:]
        for author, life, time in one.value[1]
    ]
    there = {}
    for one in said:
        if not one.op and not any(
            packed(one.value) == element and one.line == line and one.time <= time for element, line, time in seen
        ):
            there[packed(one.value)] = one.value
    return [there[element] for element in sorted(there)] or None


def _counter(said: list[Statement]) -> Any:
    last: dict[Line, Statement] = {}
    for one in said:
        if one.line not in last or last[one.line].time < one.time:
            last[one.line] = one
    return sum(one.value[0] - one.value[1] for one in last.values())


def _evidence(said: list[Statement]) -> Any:
    last: dict[bytes, Statement] = {}
    for one in said:
        author = one.line[0]
        if author not in last or (last[author].time, last[author].line) < (one.time, one.line):
            last[author] = one
    return max(-40.0, min(40.0, fsum(float(one.value) for one in last.values())))


_VALUE = {Crdt.REGISTER: _register, Crdt.SET: _elements, Crdt.COUNTER: _counter, Crdt.LOG_ODDS: _evidence}
