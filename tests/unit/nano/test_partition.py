"""A population cut into parts and run in step is the same, bit for bit, as one that was left whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import nano
from swarm.nano import partition, saving
from swarm.nano.lockstep import Part, in_step
from tests.unit.nano import kinds_to_spread
from tests.unit.nano.kinds_to_spread import Bird, Singer, population


def content(blob: Any) -> dict[Any, Any]:
    """All that a saved population holds, but for the number of calls and of deliveries: each part makes its own."""
    header, sections = saving.parts(blob)
    found: dict[Any, Any] = {"at": (header["now_ns"], header["passes"], header["seed"])}
    for kind in header["kinds"]:
        columns = [bytes(sections[number]) for number in kind["fields"]]
        found[kind["name"]] = bytes(sections[kind["states"]]), bytes(sections[kind["generations"]]), columns
    for number, cohort in enumerate(header["cohorts"]):
        state = dict(cohort["state"])
        del state["calls"]
        for name in ("rows", "awake", "waiting", "wakes", "periods"):
            state[name] = bytes(sections[state[name]])
        found[number] = state
    for topic in header["topics"]:
        found[topic["name"]] = bytes(sections[topic["inbox"]]), topic["counters"][:3]
    return found


def spread(whole: Any, parts: int, by: Any, until_ns: int, weights: list[float] | None = None) -> Any:
    how = partition.cut(whole, parts, by, weights)
    running = [Part(nano.load(blob), number) for number, blob in enumerate(partition.split(whole, how))]
    in_step(running, until_ns=until_ns)
    return partition.gather(whole, how, [part.flock.save() for part in running])


def test_weights_say_how_many_agents_a_part_gets():
    flock = nano.NanoSwarm()
    flock.spawn(Bird, 100, rate_hz=100)
    whole = flock.save()
    assert [partition.cut(whole, 3, "rows").agents(part) for part in range(3)] == [34, 33, 33]
    how = partition.cut(whole, 3, "rows", [1.0, 0.0, 3.0])
    assert [how.agents(part) for part in range(3)] == [25, 0, 75]
    assert [how.cohorts[0][part].tolist() for part in (0, 2)] == [list(range(25)), list(range(25, 100))]


@settings(max_examples=8, deadline=None)
@given(weights=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=4), seed=st.integers(0, 9))
def test_parts_of_any_weight_are_one_population(weights, seed):
    flock = population(seed, 30)
    whole = flock.save()
    flock.run_for(ns=200_000)
    assert content(spread(whole, len(weights), "rows", 200_000, weights)) == content(flock.save())


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1), birds=st.integers(1, 60), parts=st.integers(1, 5), before_us=st.integers(0, 300),
    by=st.sampled_from(["kinds", "rows"]),
)  # fmt: skip
def test_parts_in_step_are_one_population(seed, birds, parts, before_us, by):
    flock = population(seed, birds)
    flock.run_for(ns=before_us * 1000)
    whole = flock.save()
    end_ns = flock.now_ns + 400_000
    flock.run_for(ns=400_000)
    got = spread(whole, min(parts, 3) if by == "kinds" else parts, by, end_ns)
    assert content(got) == content(flock.save())
    again = nano.load(got)
    again.run_for(ns=100_000)
    flock.run_for(ns=100_000)
    assert content(again.save()) == content(flock.save()), "put together, it goes on the same"


def test_a_part_has_its_own_agents_and_nothing_else():
    flock = population()
    flock.run_for(ns=100_000)
    whole = flock.save()
    for by, counts in (("kinds", None), ("rows", None), ({"Bird": 2, "Singer": 0, "Stone": 0}, [55, 0])):
        how = partition.cut(whole, 3, by)
        loaded = [nano.load(blob) for blob in partition.split(whole, how)]
        assert sum(part.agents for part in loaded) == flock.agents
        assert [part.agents for part in loaded] == [how.agents(number) for number in range(3)]
        if counts:
            assert [part.agents for part in loaded[:2]] == counts
    assert content(partition.gather(whole, how, partition.split(whole, how))) == content(whole)


def test_what_is_whole_is_not_cut():
    flock = population()
    stones = kinds_to_spread.Stone.native_many(kinds_to_spread.move, whole=True)
    flock.spawn(stones, 30, rate_hz=10_000)
    flock.spawn(stones, 20, rate_hz=10_000)
    how = partition.cut(flock.save(), 2, "rows")
    sizes = [[len(part) for part in each] for each in how.cohorts]
    assert sizes == [[20, 20], [3, 2], [4, 3], [25, 25], [30, 0], [0, 20]]
    end_ns = flock.now_ns + 1_000_000
    whole = flock.save()
    flock.run_for(ns=1_000_000)
    assert content(spread(whole, 2, "rows", end_ns)) == content(flock.save())


def test_parts_of_a_swarm_of_several_cores_are_the_same():
    flock = population()
    whole = flock.save()
    how = partition.cut(whole, 2, "rows")
    parts = [nano.load(blob) for blob in partition.split(whole, how)]
    for each in parts:
        each.cores = 2
    in_step([Part(each, number) for number, each in enumerate(parts)], until_ns=1_000_000)
    flock.run_for(ns=1_000_000)
    assert content(partition.gather(whole, how, [each.save() for each in parts])) == content(flock.save())


def test_cuts_that_cannot_be_are_refused():
    whole = population().save()
    for parts, by, said in (
        (4, "kinds", "3 kinds cannot be spread over 4 nodes"),
        (0, "rows", "0 parts"),
        (2, "columns", "by='columns'"),
        (2, {"Bird": 0, "Singer": 1}, "not said where .*Stone goes"),
        (2, {"Bird": 2, "Singer": 1, "Stone": 0}, "cannot be in part 2"),
        (2, {"Fish": 0}, "no kind 'Fish'"),
    ):
        with pytest.raises(nano.NanoError, match=said):
            partition.cut(whole, parts, by)
    ordered = nano.NanoSwarm(topology=nano.RoundRobin())
    ordered.spawn(Singer, 4, rate_hz=100)
    with pytest.raises(nano.NanoError, match="topology 'round-robin' cannot be spread"):
        partition.cut(ordered.save(), 2, "rows")
    assert partition.cut(ordered.save(), 1, "rows").parts == 1


def test_parts_of_different_instants_are_not_put_together():
    whole = population().save()
    how = partition.cut(whole, 2, "rows")
    one, two = (nano.load(blob) for blob in partition.split(whole, how))
    one.run_for(ns=50_000)
    with pytest.raises(nano.SchemaMismatch, match="at 2 different instants"):
        partition.gather(whole, how, [one.save(), two.save()])


def test_a_topic_that_is_full_of_all_parts_together_ends_them():
    flock = nano.NanoSwarm(topic_lines=6)
    flock.spawn(Singer, 4, rate_hz=1000)
    flock.spawn(Bird, 4, rate_hz=1000)
    flock.spawn(Singer, 4, rate_hz=1000)
    whole = flock.save()
    with pytest.raises(nano.NanoError, match=r"more was published to the topic 'songs'.*6 lines"):
        spread(whole, 2, "rows", 5_000_000)


def test_only_virtual_time_runs_in_step():
    flock = nano.NanoSwarm(time="real")
    flock.spawn(Singer, 4, rate_hz=1000)
    with pytest.raises(nano.NanoError, match="virtual time"):
        Part(flock, 0)


def test_a_native_reader_sees_after_loading_what_was_published_before():
    """The messages of the last pass before it was saved are read in the first one after."""
    import ctypes

    from tests.unit.nano.kinds_to_save import TickOne

    class Counts(nano.Kind, capacity=4):
        n: nano.u64
        songs = nano.reads("songs")

    @TickOne
    def count(cols, row, now_ns, ctx):
        lines = ctypes.c_void_p.from_address(ctx + 48)  # inbox_count
        ctypes.c_uint64.from_address(cols[0] + 8 * row).value += ctypes.c_uint64.from_address(lines.value).value
        return 1

    Counts.__qualname__ = "Counts"
    globals()["Counts"] = Counts
    try:
        flock = nano.NanoSwarm()
        flock.spawn(Singer, 3, rate_hz=1000)
        flock.spawn(Counts.native(count), 1, rate_hz=1000)
        flock.run_for(passes=2)
        again = nano.load(flock.save(), ticks={"Counts": count})
        for each in (flock, again):
            each.run_for(passes=1)
        assert again.cohorts[1][0].n == flock.cohorts[1][0].n == 6
    finally:
        del globals()["Counts"]
