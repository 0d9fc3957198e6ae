"""What the fleet should know: all that was ever said, and by the definitions, naively, what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum
from typing import Any

from kernels.reference.decay import single, weight
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


_About = dict[tuple[str, str], list[Statement]]
_NOTHING = Statement((b"", 0), 0, "", "", 1, None)


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
            if kind == "facts" and self._is_pruned(key, about, self.fading()):
                continue
            if value is not None:
                found[kind, key] = value
        return found

    def fading(self) -> tuple[int, float]:
        """(milliseconds of a cycle, threshold) of the policy, as far as it says them."""
        policy = (
            _register([one for one in self.said if (one.kind, one.key) == ("policies", "fading")] or [_NOTHING]) or {}
        )
        return int(1000 * policy.get("cycle_s", 3600)), single(policy.get("threshold", 1 / 64))

    def weight(self, key: str, ms: int) -> float:
        """What a fact weighs at an instant, by the twin of the kernel."""
        about: dict[tuple[str, str], list[Statement]] = {}
        for one in self.said:
            about.setdefault((one.kind, one.key), []).append(one)
        return _weight(key, about, ms, self.fading()[0])

    def _is_pruned(self, key: str, about: _About, fading: tuple[int, float]) -> bool:
        pruned, facts = about.get(("pruned", key)), about.get(("facts", key), [])
        if not pruned or max(pruned, key=_order).op:
            return False
        at = max(pruned, key=_order).time
        if any(one.time >= at for one in (*_last(about.get(("uses", key), [])), max(facts, key=_order))):
            return False
        return _weight(key, about, at >> 16, fading[0]) < fading[1]


def _order(one: Statement) -> tuple[int, Line]:
    return one.time, one.line


def _last(said: list[Statement]) -> list[Statement]:
    authors = {one.line[0] for one in said}
    return [max((one for one in said if one.line[0] == author), key=_order) for author in sorted(authors)]


def _weight(key: str, about: _About, ms: int, cycle_ms: int) -> float:
    facts = about.get(("facts", key))
    if not facts or max(facts, key=_order).op:
        return 0.0
    rows = [(1.0, max(facts, key=_order).time)]
    rows += [(max(0.0, float(one.value)), one.time) for one in _last(about.get(("uses", key), []))]
    return fsum(weight(strength, (time >> 16) // cycle_ms, ms // cycle_ms) for strength, time in rows)


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
