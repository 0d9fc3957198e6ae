"""Stamps, and what a node says and asks: `put`, `drop`, `count`, `get`, `query`, `watch`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.protocol.knowledge import bounds
from swarm.protocol.knowledge.knowledge import BadEntry, Knowledge
from swarm.protocol.knowledge.rules import Quota
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import FarFuture, HybridClock, Stamp, ms_of
from swarm.protocol.knowledge.views import GONE, Change, OrderedKeys, after_prefix
from tests.sim.knowledge.node import name_of, signature
from tests.unit.protocol.knowledge_cases import WALL_MS, verify

QUICK = settings(max_examples=60, deadline=None)


def node(number: int = 0, shards: dict[int, Shard] | None = None, clean: bool = True) -> Knowledge:
    name = name_of(number)

    def made(at: int) -> Shard:
        return Shard(at, 4, verify, Quota(1 << 40))

    opened = {} if shards is None else shards
    last = (
        0
        if shards is None
        else max(s.said(k, key)[0].time for s in shards.values() for k in s.kinds() for key in s.keys(k))
    )
    return Knowledge(name, lambda message: signature(name, message), opened, 4, HybridClock(last), made, clean)


def tell(one: Knowledge, other: Knowledge) -> None:
    """Hands on what one has said since."""
    for segment in one.take():
        other.shard(segment.shard).take(segment.raw, WALL_MS + 1000)


@QUICK
@given(st.lists(st.integers(0, 5000), max_size=40), st.integers(0, 10))
def test_stamps_rise_whatever_the_clock_does(walls: list[int], seen: int) -> None:
    clock = HybridClock()
    last = 0
    for at, wall in enumerate(walls):
        if at % 3 == 2:
            clock.saw((wall + seen) << 16, wall)
        stamp = clock.stamp(wall)
        assert stamp > last and ms_of(stamp) >= wall
        last = stamp


def test_a_stamp_of_the_far_future_is_refused_and_changes_nothing() -> None:
    clock = HybridClock(future_ms=1000)
    clock.saw((5000 + 1000) << 16, 5000)
    before = clock.last
    with pytest.raises(FarFuture) as refused:
        clock.saw((5000 + 1001) << 16, 5000)
    assert (refused.value.ahead_ms, refused.value.bound_ms, clock.last) == (1001, 1000, before)


@QUICK
@given(st.tuples(st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16)), st.integers(0, 2**64 - 1))
def test_packed_stamps_compare_as_stamps(one: tuple[int, bytes], time: int) -> None:
    a, b = Stamp(*one), Stamp(time, bytes(16))
    assert Stamp.unpacked(a.packed()) == a and (a.packed() < b.packed()) == (a < b)
    with pytest.raises(ValueError, match="23 bytes"):
        Stamp.unpacked(a.packed()[1:])


@QUICK
@given(st.lists(st.tuples(st.sets(st.integers(0, 3000), max_size=40), st.sets(st.integers(0, 3000), max_size=40)), max_size=12),
       st.integers(0, 3000), st.integers(0, 3000))  # fmt: skip
def test_ordered_keys_are_a_sorted_set(changes: list[tuple[set[int], set[int]]], low: int, high: int) -> None:
    keys, model = OrderedKeys(), {f"{n:04}" for n in range(0, 3000, 2)}
    keys.change(set(model), set())
    for added, removed in changes:
        put, gone = {f"{n:04}" for n in added}, {f"{n:04}" for n in removed - added}
        keys.change(put, gone)
        model = (model | put) - gone
    assert list(keys) == sorted(model) and len(keys) == len(model)
    start, stop = f"{low:04}", f"{high:04}"
    wanted = [key for key in sorted(model) if start <= key < stop]
    assert list(keys.between(start, stop)) == wanted
    assert list(keys.between(start, stop, reverse=True)) == wanted[::-1]


def test_ordered_keys_grow_and_shrink_one_by_one() -> None:
    keys, model = OrderedKeys(), set()
    for n in range(6000):
        key = f"{n * 7919 % 6007:05}"
        keys.change({key}, set())
        model.add(key)
    for key in sorted(model)[::2]:
        keys.change(set(), {key})
        model.discard(key)
    keys.change(set(), {"not there", ""})
    assert list(keys) == sorted(model)


def test_what_comes_after_all_with_a_prefix() -> None:
    for prefix in ("a", "ab", "a\U0010ffff", "\ud7ff", "é"):
        end = after_prefix(prefix)
        assert end is not None and prefix < end and prefix + "\U0010ffff" * 3 < end
        end.encode()
    assert after_prefix("") is after_prefix("\U0010ffff") is None


def test_what_is_said_is_there_at_once_and_elsewhere_when_it_was_told() -> None:
    oak, elm = node(0), node(1)
    value: dict[str, Any] = {"needs": ["bpy"]}
    oak.put("facts", "a/1", value, WALL_MS, tags=["gpu", "gpu"])
    value["needs"].append("changed later")
    oak.put("facts", "a/2", 2, WALL_MS)
    oak.put("facts", "b/1", None, WALL_MS)
    oak.count("tallies", "n", WALL_MS, up=3)
    oak.count("tallies", "n", WALL_MS, up=1, down=2)
    oak.put("beliefs", "p", 1.5, WALL_MS)
    elm.put("beliefs", "p", -0.5, WALL_MS)
    elm.count("tallies", "n", WALL_MS, up=10)
    oak.put("marks", "m", "x", WALL_MS)
    tell(oak, elm)
    tell(elm, oak)
    for one in (oak, elm):
        assert one.get("facts", "a/1") == {"needs": ["bpy"]}
        assert one.get("facts", "b/1", "nothing") is None and one.get("facts", "c", "nothing") == "nothing"
        assert one.get("tallies", "n") == 12 and one.get("beliefs", "p") == 1.0 and one.get("marks", "m") == ["x"]
        assert one.query("facts", prefix="a/") == [("a/1", {"needs": ["bpy"]}), ("a/2", 2)]
        assert one.query("facts", start="a/2", limit=1) == [("a/2", 2)]
        assert one.query("facts", stop="b", reverse=True, limit=1) == [("a/2", 2)]
        assert [key for key, _ in one.query("facts", tag="gpu")] == ["a/1"] and one.query("facts", tag="cpu") == []
    own = oak.get("facts", "a/1")
    own["needs"].clear()
    assert oak.get("facts", "a/1") == {"needs": ["bpy"]}


def test_adding_at_the_same_time_wins_over_removing() -> None:
    oak, elm = node(0), node(1)
    oak.put("marks", "m", "x", WALL_MS)
    tell(oak, elm)
    elm.drop("marks", "m", WALL_MS, "x")
    oak.put("marks", "m", "x", WALL_MS)
    tell(elm, oak)
    tell(oak, elm)
    assert oak.get("marks", "m") == elm.get("marks", "m") == ["x"]
    elm.drop("marks", "m", WALL_MS, "x")
    tell(elm, oak)
    assert oak.get("marks", "m", []) == elm.get("marks", "m", []) == []


def test_a_watch_hears_what_changes_and_when_it_missed_something() -> None:
    oak = node()
    oak.put("facts", "a/0", 0, WALL_MS)
    watch = oak.watch("facts", "a/")
    oak.put("facts", "a/1", 1, WALL_MS)
    oak.put("facts", "b/1", 1, WALL_MS)
    oak.drop("facts", "a/0", WALL_MS)
    assert sorted(oak.changes(watch)) == [Change("facts", "a/0", GONE), Change("facts", "a/1", 1)]
    assert oak.changes(watch) == [] and oak.query("facts") == [("a/1", 1), ("b/1", 1)]
    for n in range(bounds.WATCH_EVENTS_MAX + 1):
        watch.tell(Change("facts", "a/", n))
    assert watch.lost and len(watch.read()) == 1


def test_after_a_restart_a_node_goes_on_with_its_numbers_and_counts() -> None:
    oak = node()
    for _ in range(3):
        oak.count("tallies", "n", WALL_MS)
        oak.take()
    again = node(shards=oak.shards, clean=False)
    again.count("tallies", "n", WALL_MS)
    (segment,) = again.take()
    assert again.get("tallies", "n") == 4 and segment.first == 3 + bounds.SEGMENT_ENTRIES_MAX
    assert not again.shards[segment.shard].struck()


def test_a_node_whose_store_is_old_loses_nothing_that_it_says_now() -> None:
    oak, elm = node(), node(1)
    oak.count("tallies", "n", WALL_MS, up=5)
    for segment in oak.take():
        elm.shard(segment.shard).take(segment.raw, WALL_MS)
    restored = node()
    restored.count("tallies", "n", WALL_MS + 50, up=2)
    tell(restored, elm)
    assert elm.get("tallies", "n") == 7
    for segment in restored.shards.values():
        assert not segment.struck()


@pytest.mark.parametrize(
    ("kind", "key", "value", "tags", "says"),
    [
        ("rumours", "k", 1, (), "no kind of knowledge"),
        ("facts", "", 1, (), "a key is a text"),
        ("facts", "k" * 513, 1, (), "a key is a text"),
        ("facts", "k", object(), (), "not plain"),
        ("facts", "k", "x" * 70_000, (), "longer than 65536 bytes"),
        ("facts", "k", 1, ["t" * 65], "tags are"),
        ("facts", "k", 1, ["t"] * 17, "tags are"),
        ("lessons", "k", 1, (), "is not a map"),
        ("beliefs", "k", 9.0, (), "is not evidence"),
        ("beliefs", "k", float("nan"), (), "is not evidence"),
        ("tallies", "k", 1, (), "are counted"),
    ],
)
def test_what_cannot_be_put_is_refused_in_words(kind: str, key: str, value: Any, tags: Any, says: str) -> None:
    oak = node()
    with pytest.raises(BadEntry, match=says):
        oak.put(kind, key, value, WALL_MS, tags=tags)
    assert oak.take() == []


def test_what_cannot_be_dropped_or_counted_is_refused() -> None:
    oak = node()
    for call in (
        lambda: oak.drop("beliefs", "k", WALL_MS),
        lambda: oak.drop("marks", "k", WALL_MS),
        lambda: oak.count("facts", "k", WALL_MS),
        lambda: oak.count("tallies", "k", WALL_MS, up=-1),
    ):
        with pytest.raises(BadEntry):
            call()


def test_large_values_become_several_segments() -> None:
    oak = node()
    for n in range(100):
        oak.put("facts", f"k{n}", "x" * 16_000, WALL_MS)
    segments = oak.take()
    assert all(len(segment.raw) <= bounds.SEGMENT_BYTES_MAX for segment in segments)
    assert sum(segment.count for segment in segments) == 100 == len(oak.query("facts"))


def test_what_was_counted_and_given_away_is_counted_on() -> None:
    """Who holds no part of a key forgets what it gave; what it counts later adds to that all the same."""
    giver, holder = node(0), node(1)
    giver.count("tallies", "n", WALL_MS, 5)
    giver.put("facts", "k", 1, WALL_MS)
    tell(giver, holder)
    for shard in giver.shards.values():
        shard.expire((WALL_MS + 1) << 16)
        shard.lapse()
    assert giver.get("tallies", "n") is None
    giver.count("tallies", "n", WALL_MS + 500, 2)
    tell(giver, holder)
    assert holder.get("tallies", "n") == 7 and holder.get("facts", "k") == 1
    assert all(not shard.struck() for shard in holder.shards.values())


def test_an_element_is_dropped_by_who_was_told_of_its_additions() -> None:
    giver, holder = node(0), node(1)
    holder.put("marks", "m", "x", WALL_MS)
    giver.drop("marks", "m", WALL_MS, "x")
    tell(giver, holder)
    assert holder.get("marks", "m") == ["x"], "it has not seen that"
    giver.drop("marks", "m", WALL_MS, "x", holder.additions("marks", "m", "x"))
    tell(giver, holder)
    assert holder.get("marks", "m") is None
    assert len(giver.own_since(giver._shard("marks", "m").number, 0)) == 2


def test_who_said_what_counts_and_in_which_task() -> None:
    one, other = node(0), node(1)
    task = bytes(range(16))
    one.put("lessons", "l", {"a": 1}, WALL_MS, task=task, attempt=2)
    tell(one, other)
    other.put("lessons", "l", {"a": 2}, WALL_MS + 5)
    said = other.said("lessons", "l", 10)
    assert [(author, entry.task, entry.attempt) for author, entry in said] == [
        (name_of(1), None, 0), (name_of(0), task, 2),
    ]  # fmt: skip
    assert [author for author, _ in other.said("lessons", "l", 1)] == [name_of(1)]
    assert other.said("lessons", "nothing", 10) == []
