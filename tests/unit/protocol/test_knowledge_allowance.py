"""What a fleet holds of one author, and takes of it at a time: bounded, the same on all nodes, and told to the author itself."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.protocol.knowledge.allowance import BURSTS, Allowance
from swarm.protocol.knowledge.entries import Segment
from swarm.protocol.knowledge.knowledge import Knowledge, SaidTooMuch
from swarm.protocol.knowledge.rules import Outcome
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import HybridClock
from swarm.protocol.knowledge.sync import Exchange
from tests.sim.knowledge.node import name_of, signature
from tests.unit.protocol.knowledge_cases import LIFE, WALL_MS, fact, segment, shard, verify

BYTES = 2000
SMALL = Allowance(BYTES, 12, 1e9)


def hoard(count: int, size: int = 100, author: int = 0) -> list[Segment]:
    """A line of one-entry segments, a millisecond apart, of about so many bytes more than the least."""
    made = []
    for number in range(count):
        entry = fact(LIFE + 1 + (number << 16), f"k{number}", "x" * size)
        made.append(segment(author, number, [entry]))
    return made


def small(allowance: Allowance = SMALL) -> Shard:
    return shard(allowance=allowance)


def held(made: Shard, author: int = 0) -> int:
    return sum(len(payload) for payload in made.segments() if payload[3:19] == name_of(author))


def test_of_what_an_author_says_the_last_is_held_and_others_are_not_touched() -> None:
    made = small()
    others = hoard(3, author=1)
    for one in others:
        assert made.take(one.raw, WALL_MS)[0] is Outcome.NEW
    segments = hoard(20)
    for one in segments:
        assert made.take(one.raw, WALL_MS + 60 + one.first)[0] is Outcome.NEW
        assert held(made) <= BYTES
    assert made.evicted > 0 and made.get("facts", "k0") == "x" * 100, "the others' k0"
    assert made.get("facts", "k19") == "x" * 100 and held(made, 1) == sum(len(one.raw) for one in others)
    assert made.take(segments[0].raw, WALL_MS + 90)[0] is Outcome.ALLOWANCE
    assert made.entries == len(made)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 600), min_size=1, max_size=25),
    st.randoms(use_true_random=False),
    st.integers(0, 30),
)
def test_nodes_that_exchange_what_they_have_hold_the_same_of_an_author_that_said_too_much(
    sizes: list[int], random: Random, forgotten: int
) -> None:
    segments = [
        segment(0, number, [fact(LIFE + 1 + (number << 16), f"k{number % 7}", "x" * size)])
        for number, size in enumerate(sizes)
    ]
    one, other = small(), small()
    for made in (one, other):
        mixed = random.sample(segments, random.randint(0, len(segments)))
        for at, each in enumerate(mixed):
            if at == forgotten:
                made.expire(LIFE + 1 + (forgotten << 16))
            made.take(each.raw, WALL_MS + 60 + at)
    for later in range(len(sizes) + 2):
        if one.digest == other.digest:
            break
        for made in (one, other):
            # Time goes on. What was taken from before the horizon, and was out of date only by what came after it, goes then.
            made.expire(LIFE + 2 + (forgotten << 16) + later)
        a, b = Exchange(one, random.randbytes(32)), Exchange(other)
        message: Any = a.begin()
        sides = [b, a]
        while message is not None:
            message = sides[0].receive(message, WALL_MS + 1000 * (1 + later))
            sides.reverse()
    assert one.digest == other.digest and one.state_digest == other.state_digest
    assert held(one) <= BYTES and one.entries <= SMALL.entries_max


def test_what_comes_too_fast_is_taken_later_and_nobody_is_accused() -> None:
    slow = Allowance(1000, 100, 100.0)
    made, segments = small(slow), hoard(12)
    outcomes = [made.take(one.raw, WALL_MS + 60)[0] for one in segments]
    first = outcomes.index(Outcome.RATE)
    assert sum(len(one.raw) for one in segments[:first]) <= BURSTS * 1000 and set(outcomes[first:]) == {Outcome.RATE}
    assert made.take(segments[first].raw, WALL_MS + 5_000)[0] is Outcome.NEW
    assert made.take(segments[first + 1].raw, 0)[0] is Outcome.FUTURE
    assert made.take(segments[first + 1].raw, WALL_MS + 10_000)[0] is Outcome.NEW


def speaker(allowance: Allowance) -> tuple[Knowledge, Shard]:
    made = Shard(0, 1, verify, allowance=allowance)
    author = name_of(0)
    return (
        Knowledge(author, lambda m: signature(author, m), {0: made}, 1, HybridClock(), lambda _: made),
        made,
    )


def test_an_author_is_told_before_it_loses_anything() -> None:
    known, made = speaker(Allowance(6000, 1000, 1e9))
    said = 0
    with pytest.raises(SaidTooMuch, match="as much as the fleet keeps of one"):
        for number in range(100):
            known.put("facts", f"k{number}", "x" * 200, WALL_MS + number)
            said += 1
            known.take()
    assert said > 5 and made.evicted == 0 and len(known.query("facts")) == said
    known, made = speaker(Allowance(1 << 20, 7, 1e9))
    with pytest.raises(SaidTooMuch):
        for number in range(100):
            known.put("facts", f"k{number}", 1, WALL_MS)
    assert len(known.query("facts")) == 7, "what waits to be sealed is counted"
    known, made = speaker(Allowance(1 << 20, 1 << 20, 1.0))
    with pytest.raises(SaidTooMuch, match="short time"):
        for number in range(20_000):
            known.put("facts", "k", "x" * 30_000, WALL_MS + number)
            known.take()


def test_a_revoked_author_leaves_room_for_nothing_of_it() -> None:
    made = small()
    for one in hoard(6):
        made.take(one.raw, WALL_MS + 60)
    made.drop_author(name_of(0))
    assert len(made) == 0 and made.keys("facts") == [] and made.has_room(name_of(0), BYTES, 12, WALL_MS)
