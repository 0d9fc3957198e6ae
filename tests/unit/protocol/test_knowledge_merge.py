"""Merging knowledge: any order, any repetition and any grouping give one state, and it is what the model says."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.protocol.knowledge import entries
from swarm.protocol.knowledge.entries import Entry, Op, Segment
from swarm.protocol.knowledge.rules import Outcome
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import time_of
from tests.sim.knowledge.model import Model
from tests.sim.knowledge.node import name_of
from tests.unit.protocol.knowledge_cases import KINDS, LIFE, WALL_MS, fact, histories, segment, shard

QUICK = settings(max_examples=60, deadline=None)


def applied(segments: list[Segment]) -> Shard:
    made = shard()
    for one in segments:
        made.take(one.raw, WALL_MS)
    return made


def state(made: Shard) -> tuple[bytes, bytes]:
    return made.digest, made.state_digest


def expected(segments: list[Segment]) -> dict[tuple[str, str], object]:
    model = Model()
    for one in segments:
        model.add(one.line, one.rows())
    return model.values()


@QUICK
@given(histories(), st.randoms(use_true_random=False))
def test_merge_is_commutative_and_idempotent_and_equals_the_model(segments: list[Segment], random: Random) -> None:
    one = applied(segments)
    mixed = segments + random.choices(segments, k=len(segments))
    random.shuffle(mixed)
    assert state(applied(mixed)) == state(one)
    found = {(kind, key): one.get(kind, key) for kind in KINDS for key in one.keys(kind)}
    assert {about: value for about, value in found.items() if value is not None} == expected(segments)


@QUICK
@given(histories(), st.integers(0, 12), st.integers(0, 12))
def test_merge_is_associative(segments: list[Segment], i: int, j: int) -> None:
    i, j = sorted((i % (len(segments) + 1), j % (len(segments) + 1)))
    a, b, c = applied(segments[:i]), applied(segments[i:j]), applied(segments[j:])

    def merged(one: Shard, other: Shard) -> Shard:
        both = applied([])
        for payload in (*one.segments(), *other.segments()):
            both.take(payload, WALL_MS)
        return both

    assert state(merged(merged(a, b), c)) == state(merged(a, merged(b, c))) == state(applied(segments))


def test_a_segment_whose_first_entry_is_out_of_date_when_it_comes_is_kept_for_the_others() -> None:
    both = segment(0, 0, [fact(LIFE + 1, "s", 1, kind="marks"), fact(LIFE + 2, "s", 0, kind="marks")])
    again = segment(0, 2, [fact(LIFE + 3, "s", 1, kind="marks")])
    made = applied([again, both])
    made.expire(LIFE + 10)
    assert made.get("marks", "s") == [0, 1] and state(made) == state(applied([both, again]))


@QUICK
@given(histories(), st.randoms(use_true_random=False), st.integers(0, 60))
def test_forgetting_is_not_seen_and_does_not_depend_on_when_it_is_done(
    segments: list[Segment], random: Random, at: int
) -> None:
    horizon = LIFE + at * 5
    mixed = segments.copy()
    random.shuffle(mixed)
    early, late = shard(), applied(segments)
    early.expire(horizon)
    for one in mixed[: len(mixed) // 2]:
        late.take(one.raw, WALL_MS)
    before = late.state_digest
    late.expire(horizon)
    assert late.state_digest == before
    again = applied(mixed)
    again.expire(horizon)
    assert state(again) == state(late)
    # Who reads what is left knows the same: nothing that was removed is there again.
    left = [entries.read(raw) for raw in late.segments()]
    random.shuffle(left)
    fresh = applied(left)
    assert state(fresh) == state(late)
    fresh.expire(horizon)
    assert state(fresh) == state(late)
    assert len(late) <= len(applied(segments))


def test_what_was_dropped_stays_so_while_its_segment_is_held_for_something_else() -> None:
    puts = segment(0, 0, [fact(LIFE + 1, "a", 1), fact(LIFE + 2, "b", 1)])
    drop = segment(1, 0, [fact(LIFE + 3, "a", 0, op=Op.DROP)])
    made = applied([puts, drop])
    made.expire(LIFE + 100)
    fresh = applied([entries.read(raw) for raw in made.segments()])
    assert fresh.get("facts", "a") is None and fresh.get("facts", "b") == 1
    # As soon as nothing else holds it, all of it goes.
    made.take(segment(1, 1, [fact(LIFE + 200, "b", 2)]).raw, WALL_MS)
    made.expire(LIFE + 300)
    assert [entries.read(raw).rows()[0][2:5] for raw in made.segments()] == [["b", 0, 2]]


@QUICK
@given(histories(), st.randoms(use_true_random=False), st.integers(0, 2))
def test_a_revoked_author_is_gone_as_if_it_had_never_been(segments: list[Segment], random: Random, author: int) -> None:
    made = applied(segments)
    made.drop_author(name_of(author))
    others = [one for one in segments if one.author != name_of(author)]
    random.shuffle(others)
    assert state(made) == state(applied(others))


@QUICK
@given(histories(), st.randoms(use_true_random=False))
def test_a_line_that_contradicts_itself_is_struck_whatever_comes_first(segments: list[Segment], random: Random) -> None:
    first = segments[0]
    twin = segment(int(first.author[4:]), first.first, [fact(first.first_time, "b", "twin")], first.life)
    states = set()
    for _ in range(3):
        mixed = [*segments, twin]
        random.shuffle(mixed)
        made = applied(mixed)
        assert made.struck() == [first.line]
        states.add(made.state_digest)
    others = [one for one in segments if one.line != first.line]
    assert states == {applied(others).state_digest}
    # The proof alone does it too, and what is said on the line later is refused.
    told = applied(others)
    assert told.take(made.strike(first.line) or b"", WALL_MS)[0] is Outcome.NEW
    assert told.apply(first, WALL_MS) is Outcome.STRUCK
    assert state(told)[0] == made.digest


def test_what_is_refused_and_why() -> None:
    made = shard(3, 16, lines_max=2)
    from swarm.protocol.knowledge.entries import shard_of, signed  # noqa: F401
    from swarm.protocol.knowledge.rules import Quota

    key = next(f"k{n}" for n in range(1000) if shard_of("facts", f"k{n}", 16) == 3)
    good = segment(0, 0, [fact(LIFE + 1, key)], number=3)
    assert made.apply(segment(0, 0, [fact(LIFE + 1, key)], number=2), WALL_MS) is Outcome.WRONG_SHARD
    assert made.apply(segment(0, 0, [fact(LIFE + 1, key + "?" * 3)], number=3), WALL_MS) is Outcome.WRONG_SHARD
    ahead = segment(0, 0, [fact(time_of(WALL_MS + 60_001), key)], number=3)
    assert made.apply(ahead, WALL_MS) is Outcome.FUTURE
    assert made.apply(ahead, WALL_MS + 1) is Outcome.NEW
    broken = bytearray(good.raw)
    broken[100] ^= 1
    assert made.take(bytes(broken), WALL_MS)[0] is Outcome.SIGNATURE
    for at in (0, 91 + 64, len(good.raw) - 1):
        broken = bytearray(good.raw)
        broken[at] ^= 0x55
        assert made.take(bytes(broken), WALL_MS)[0] is Outcome.MALFORMED
    assert made.take(b"", WALL_MS)[0] is made.take(b"\xf0" * 9, WALL_MS)[0] is Outcome.MALFORMED
    tight = shard(quota=Quota(2, 1.0))
    assert tight.apply(segment(0, 2, [fact(LIFE + 1)]), WALL_MS) is Outcome.QUOTA
    assert tight.apply(segment(0, 2, [fact(time_of(WALL_MS + 1000))]), WALL_MS) is Outcome.NEW


def test_of_too_many_lines_of_an_author_the_last_begun_stay_in_any_order() -> None:
    segments = [segment(0, 0, [fact(LIFE + 50 + n, f"k{n}")], LIFE + n) for n in range(5)]
    for seed in range(20):
        mixed = segments.copy()
        Random(seed).shuffle(mixed)
        made = shard(lines_max=2)
        for one in mixed:
            made.apply(one, WALL_MS)
        assert [key for key in made.keys("facts") if made.get("facts", key)] == ["k3", "k4"]


def test_of_many_removals_by_one_line_the_last_count_in_any_order() -> None:
    adds = segment(0, 0, [fact(LIFE + n, "s", n, kind="marks") for n in range(1, 13)])
    drops = [
        segment(1, n, [fact(LIFE + 50 + n, "s", [n + 1, [[name_of(0), LIFE, LIFE + n + 1]]], Op.DROP, "marks")])
        for n in range(12)
    ]
    again = [segment(2, n, [fact(LIFE + 80 + n, "s", [1, []], Op.DROP, "marks")]) for n in range(20)]
    states = set()
    for seed in range(10):
        mixed = [adds, *drops, *again]
        Random(seed).shuffle(mixed)
        made = applied(mixed)
        assert made.get("marks", "s") is None
        assert len(made.said("marks", "s")) == 12 + 12 + 8
        states.add(state(made))
    assert len(states) == 1


def test_an_entry_is_read_again_with_where_it_was_learned() -> None:
    made = shard()
    entry = Entry(LIFE + 1, "facts", "k", Op.PUT, {"a": [1]}, ("x", "y"), b"t" * 16, 3)
    made.apply(segment(0, 0, [entry]), WALL_MS)
    (said,) = made.said("facts", "k")
    assert made.entry(said) == entry
    assert made.lines() == {(name_of(0), LIFE): [(0, 1)]}


def test_kinds_that_are_not_known_yet_are_kept_and_not_shown() -> None:
    made = shard()
    one = segment(0, 0, [fact(LIFE + 1, kind="agents"), fact(LIFE + 2)])
    assert made.apply(one, WALL_MS) is Outcome.NEW
    made.expire(LIFE + 1000)
    assert list(made.segments()) == [one.raw]
    assert made.get("agents", "k") is None and made.get("facts", "k") == 1
