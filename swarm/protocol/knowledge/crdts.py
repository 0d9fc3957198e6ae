"""What the entries about one key say together. A slot holds of each line the newest entry; the rest follows by reading it.

Every slot is a join of maxima (the newest entry of a line), so order and repetition do not matter; and what one line said can be
taken out again, which a value that was merged for good would not allow.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from math import fsum
from typing import Any, Final, NamedTuple

from kernels.plain import encode_plain
from swarm.protocol.knowledge.bounds import DROPS_MAX, LOG_ODDS_SUM_MAX, VALUE_BYTES_MAX
from swarm.protocol.knowledge.entries import Segment

PUT: Final = 0


class Line:
    """What one author says on one line, in one shard: its segments by their numbers."""

    __slots__ = ("author", "firsts", "held", "life", "name")

    def __init__(self, author: bytes, life: int) -> None:
        self.author = author
        self.life = life
        self.name = author + life.to_bytes(8, "big")
        """24 bytes that order lines."""
        self.firsts: list[int] = []
        """Numbers of the first entries of its segments, rising; `held` are these segments."""
        self.held: list[Held] = []


class Held:
    """A segment, and how many of its entries still count."""

    __slots__ = ("line", "live", "segment")

    def __init__(self, segment: Segment, line: Line) -> None:
        self.segment = segment
        self.line = line
        self.live = 0


class Said(NamedTuple):
    """An entry as it counts: stamp, line, op, value, tags, segment."""

    time: int
    line: Line
    op: int
    value: Any
    tags: list[str] | None
    held: Held


Slot = Said | dict[Line, Said]
"""Of a register, a counter or log-odds: what one line said, or more."""


def rows_of(slot: Slot) -> list[Said]:
    """What each line said."""
    return [slot] if type(slot) is Said else list(slot.values())  # type: ignore[union-attr]


def _time(said: Said) -> int:
    return said.time


def order(said: Said) -> tuple[int, bytes]:
    """By which the last one wins."""
    return said.time, said.line.name


def winner(slot: Slot) -> Said:
    """What counts of a register: the last that was said. A DROP may be."""
    return slot if type(slot) is Said else max(slot.values(), key=order)  # type: ignore[union-attr]


def total(slot: Slot) -> int:
    """A counter's value."""
    return sum(said.value[0] - said.value[1] for said in rows_of(slot))


def by_author(slot: Slot) -> dict[bytes, Said]:
    """What each author said last, on whichever line."""
    last: dict[bytes, Said] = {}
    for said in rows_of(slot):
        known = last.get(said.line.author)
        if known is None or order(said) > order(known):
            last[said.line.author] = said
    return last


def evidence(slot: Slot) -> float:
    """The sum of log-odds, bounded. Rounded once, so that it is the same float everywhere (`sum` differs between releases of Python)."""
    found = fsum(float(said.value) for said in by_author(slot).values())
    return max(-LOG_ODDS_SUM_MAX, min(LOG_ODDS_SUM_MAX, found))


def packed(element: object) -> bytes:
    """What tells one element of a set from another."""
    raw = encode_plain(element, 2 * VALUE_BYTES_MAX)
    assert raw is not None, "an element that was read is plain"
    return raw


class Elements:
    """The slot of an add-wins set: of each element, who added it last when, and what removals have seen."""

    __slots__ = ("added", "dropped")

    def __init__(self) -> None:
        self.added: dict[bytes, dict[Line, Said]] = {}
        self.dropped: dict[bytes, dict[Line, list[Said]]] = {}

    def add(self, said: Said) -> Said | None:
        """Takes an addition; gives back the one that does not count any more, maybe this one."""
        lines = self.added.setdefault(packed(said.value), {})
        known = lines.get(said.line)
        if known is not None and known.time >= said.time:
            return said
        lines[said.line] = said
        return known

    def drop(self, said: Said) -> Said | None:
        """Takes a removal; gives back the one that does not count any more, maybe this one. Of a line the last `DROPS_MAX` count: each names
        all additions that its line still knows of, so older ones matter only while some nodes have forgotten what others have not."""
        lines = self.dropped.setdefault(packed(said.value[0]), {})
        drops = lines.setdefault(said.line, [])
        insort(drops, said, key=_time)
        return drops.pop(0) if len(drops) > DROPS_MAX else None

    def _drops(self, element: bytes) -> Iterator[Said]:
        for drops in self.dropped.get(element, {}).values():
            yield from drops

    def hidden(self, said: Said, element: bytes) -> bool:
        """Whether a removal has seen this addition."""
        return any(_saw(drop, said) for drop in self._drops(element))

    def present(self, element: bytes) -> list[Said]:
        """The additions of an element that no removal has seen."""
        return [said for said in self.added.get(element, {}).values() if not self.hidden(said, element)]

    def values(self) -> list[Any]:
        """The elements that are there, ordered by their bytes."""
        found = []
        for element in sorted(self.added):
            there = self.present(element)
            if there:
                found.append(there[0].value)
        return found

    def take_out(self, line: Line, kept: set[Held]) -> None:
        """What one line said is not so, but for what it said in the segments that are kept."""
        for element in list(self.added):
            lines = self.added[element]
            if line in lines and lines[line].held not in kept:
                del lines[line]
                if not lines:
                    del self.added[element]
        for element in list(self.dropped):
            if line in self.dropped[element]:
                self._keep_drops(element, line, [said for said in self.dropped[element][line] if said.held in kept])

    def _keep_drops(self, element: bytes, line: Line, left: list[Said]) -> None:
        lines = self.dropped[element]
        if left:
            lines[line] = left
        else:
            del lines[line]
            if not lines:
                del self.dropped[element]

    def expire(self, horizon: int) -> list[Said]:
        """Forgets what was removed before an instant; gives it back."""
        gone: list[Said] = []
        for element in list(self.dropped):
            old = [said for said in self._drops(element) if said.time < horizon]
            if not old:
                continue
            lines = self.added.get(element, {})
            for said in list(lines.values()):
                if said.time < horizon and any(_saw(drop, said) for drop in old):
                    del lines[said.line]
                    gone.append(said)
            if not lines:
                self.added.pop(element, None)
        return gone

    def is_old(self, horizon: int) -> bool:
        """Whether there are removals before an instant."""
        return any(said.time < horizon for element in self.dropped for said in self._drops(element))

    def forget(self, horizon: int, first: int) -> list[Said]:
        """Forgets removals before an instant, but for those since `first`, when what they removed may have been added."""
        gone: list[Said] = []
        for element in list(self.dropped):
            for line, drops in list(self.dropped[element].items()):
                old = [said for said in drops if said.time < min(horizon, first)]
                if old:
                    self._keep_drops(element, line, [said for said in drops if said not in old])
                    gone += old
        return gone

    def rows(self) -> list[Said]:
        """All that counts."""
        found = [said for lines in self.added.values() for said in lines.values()]
        return found + [said for element in self.dropped for said in self._drops(element)]


def _saw(drop: Said, said: Said) -> bool:
    line = said.line
    return any(a == line.author and life == line.life and said.time <= time for a, life, time in drop.value[1])
