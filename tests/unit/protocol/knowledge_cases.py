"""Makings of knowledge for tests: authors, statements as Hypothesis draws them, shards."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from swarm.protocol.knowledge.entries import Entry, Op, Segment, seal
from swarm.protocol.knowledge.rules import Outcome, Quota
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import time_of
from tests.sim.knowledge.node import name_of, signature

WALL_MS = 1_700_000_000_000
LIFE = time_of(WALL_MS)
KINDS = ("facts", "marks", "tallies", "beliefs")


def verify(author: bytes, message: bytes, signed: bytes) -> Outcome | None:
    return None if signed == signature(author, message) else Outcome.SIGNATURE


def shard(number: int = 0, shards: int = 1, **known: Any) -> Shard:
    return Shard(number, shards, verify, known.pop("quota", Quota(1 << 40)), **known)


def segment(author: int, first: int, entries: list[Entry], life: int = LIFE, number: int = 0) -> Segment:
    name = name_of(author)
    return seal(name, life, number, first, entries, lambda message: signature(name, message))


def fact(time: int, key: str = "k", value: Any = 1, op: Op = Op.PUT, kind: str = "facts") -> Entry:
    return Entry(time, kind, key, op, value)


@st.composite
def histories(draw: Any, authors: int = 3, most: int = 12) -> list[Segment]:
    """Segments of some authors, each on one or two lines, by the rules: numbers and stamps rise, counts never fall."""
    segments: list[Segment] = []
    seen: list[list[Any]] = []
    lines: dict[tuple[int, int], tuple[int, int]] = {}
    counts: dict[tuple[int, int, str], list[int]] = {}
    for _ in range(draw(st.integers(1, most))):
        author, life = draw(st.integers(0, authors - 1)), LIFE + draw(st.integers(0, 1))
        first, last = lines.get((author, life), (0, life + 10))
        entries = []
        for _ in range(draw(st.integers(1, 3))):
            last += draw(st.integers(1, 40))
            kind, key, n = draw(st.sampled_from(KINDS)), draw(st.sampled_from("ab")), draw(st.integers(0, 3))
            op, value = Op.PUT, n
            if kind == "facts":
                op = Op(n == 0)
            elif kind == "tallies":
                before = counts.get((author, life, key), [0, 0])
                value = counts[author, life, key] = [before[0] + n, before[1] + n % 2]
            elif kind == "marks" and seen and draw(st.booleans()):
                some = draw(st.lists(st.sampled_from(seen), max_size=3))
                earlier = [one for one in some if one[2] < last]
                op, value = Op.DROP, [n, earlier]
            elif kind == "marks":
                seen.append([name_of(author), life, last])
            entries.append(Entry(last, kind, key, op, value))
        segments.append(segment(author, first, entries, life))
        lines[author, life] = first + len(entries), last
    return segments
