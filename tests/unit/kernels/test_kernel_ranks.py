"""Ranks of executors, against their readable twin."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import ranks
from kernels.reference import ranks as twin

WORDS = ("", "drains", "silent", "full", "way of low", "way of standard", "way of high")
BOTH = (ranks.Ranks, twin.Ranks)


def ranks_of(cpu: float = 1.0, ways: int = 0, words: tuple[str, ...] = WORDS) -> list[Any]:
    return [make(cpu, ways, words, 1e-9, 0.02, 0.03, 2048) for make in BOTH]


slots = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 3.5, 16.0]) | st.floats(0, 40)
tasks = st.integers(-2, 40)
rows = st.tuples(
    st.sampled_from(["oak", "elm"]), st.sampled_from(["", "", "", "has no gpu"]), st.booleans(), st.booleans(),
    st.sampled_from([False, False, True]), st.sampled_from([False, False, True]), st.integers(0, 20), st.integers(0, 4), slots, slots,
    tasks, tasks, st.sampled_from([1.0, 1.0, 0.25, 3.0]), slots, st.lists(slots, max_size=4),
)  # fmt: skip
means = st.one_of(
    st.none(),
    st.sampled_from([0.0, 1e-7, 0.0004, 0.019, 0.02, 0.7, 40.0]),
    # Waits that lie on the half between two ms, or just beside.
    st.integers(40, 4000).map(lambda halves: halves * 0.0005),
    st.integers(1, 200).map(lambda parts: parts * 0.0625),
    st.floats(0, 1e5),
)
steps = st.one_of(
    st.tuples(st.just("insert"), st.integers(0, 30), rows),
    st.tuples(st.just("put"), st.integers(0, 30), rows),
    st.tuples(st.just("sent"), st.integers(0, 30), st.integers(1, 9)),
    st.tuples(st.just("give"), st.integers(0, 30), st.lists(slots, max_size=3)),
    st.tuples(st.just("remove"), st.integers(0, 30)),
    st.tuples(st.just("best"), means, st.integers(1, 5000), st.integers(1, 1024)),
)


def done(it: Any, what: str, given: tuple[Any, ...]) -> Any:
    """Carry out one step; what came of it."""
    size = len(it)
    if what == "insert":
        it.insert(given[0] % (size + 1))
        it.put(given[0] % (size + 1), *given[1])
    elif what == "best":
        row, count, displaces, ranked = it.best(*given)
        short = [it.is_short(row, given[0]) for row in range(size)]
        return (
            row, count, displaces, ranked.lines(), it.passed_over, it.unreached(row), it.order(), it.room, short,
            [it.verdict(row) for row in range(size)],
        )  # fmt: skip
    elif size:
        row, *rest = given
        if what == "put":
            it.put(row % size, *rest[0])
        else:
            getattr(it, what)(row % size, *rest)
    return None


@settings(deadline=None)
@given(
    st.sampled_from([0.0, 0.5, 1.0, 1.5, 4.0]), st.integers(0, 7), st.lists(rows, max_size=24), means,
    st.lists(steps, max_size=30),
)  # fmt: skip
def test_it_judges_as_its_twin_does(cpu: float, ways: int, first: list[Any], mean: Any, history: list[Any]) -> None:
    both = ranks_of(cpu, ways)
    asked = ("best", mean, 100, 40)
    for what, *told in [*(("insert", number, row) for number, row in enumerate(first)), asked, *history, asked]:
        found, expected = (done(it, what, tuple(told)) for it in both)
        assert found == expected, (what, told)


def waits_of(it: Any, mean_s: float, rows: list[tuple[float, float]]) -> list[int]:
    """The order of executors of one slot, each of which (others there, speed) is given."""
    for number, (others, speed) in enumerate(rows):
        it.insert(number)
        it.put(number, "oak", "", True, False, False, False, 1, 0, 0.0, others, 0, 1, speed, 1.0, [])
    it.best(mean_s, 1, 1)
    found: list[int] = it.order()
    for _ in rows:
        it.remove(0)
    return found


def test_waits_are_rounded_to_ms_as_python_rounds_them() -> None:
    """To the nearest by the exact value of the double, not by that of its product with 1000, which may fall on a half."""
    kernel, readable = ranks_of()
    seen = set()
    for ms in range(21, 2000):
        half_s = (ms + 0.5) / 1000
        late = [(1.0, 1.0), (ms / (ms + 0.5), 1.0), ((ms + 1) / (ms + 0.5), 1.0)]
        fast_s = (2 * ms + 1) / 1000
        early = [(0.0, 2.0), (0.0, (2 * ms + 1) / (ms + 1)), (0.0, (2 * ms + 1) / ms)]
        for mean_s, rows in ((half_s, late), (fast_s, early)):
            found = waits_of(kernel, mean_s, rows)
            assert found == waits_of(readable, mean_s, rows), (ms, mean_s)
            seen.add(tuple(found))
    assert seen == {(0, 1, 2), (1, 0, 2), (2, 0, 1)}, (
        "up and down; of those that are equally early the fastest goes first"
    )


def test_slots_that_make_way_are_divided_as_python_divides_them() -> None:
    rooms = []
    for cpu in (0.1, 0.3, 0.7):
        kernel, readable = ranks_of(cpu, 1)
        for count in range(1, 200):
            for slots in (count * cpu - 1e-9, count * cpu - 2e-9, count * cpu):
                for it in (kernel, readable):
                    it.insert(0)
                    it.put(0, "oak", "", True, False, False, False, 1, 0, 0.0, 9.0, 0, 0, 1.0, 0.0, [slots])
                    it.best(None, 1, 1)
                    rooms.append(it.verdict(0)[0])
                    it.remove(0)
    assert rooms[::2] == rooms[1::2]


def idle(it: Any, count: int, **but: Any) -> None:
    """So many executors of four slots each, all of them free."""
    row = {
        "name": "",
        "never": "",
        "linked": True,
        "local": False,
        "draining": False,
        "suspect": False,
        "fitting": 4,
    } | but
    for number in range(count):
        it.insert(number)
        given = row | {"name": f"node{number}"}
        it.put(number, *given.values(), 0, 0.0, 0.0, 0, 0, 1.0, 4.0, [])


@pytest.mark.parametrize("make", range(2))
def test_ranges_go_round_until_all_are_full(make: int) -> None:
    it = ranks_of()[make]
    idle(it, 40)
    left, got = 100, [0] * 40
    while left:
        row, count, displaces, ranked = it.best(None, left, 1024)
        assert row >= 0 and not displaces and len(ranked) == ranks.SHOWN_MAX
        it.sent(row, count)
        got[row] += count
        left -= count
    assert max(got) == 3 and sum(got) == 100, "each gets its share of what is left when it is chosen"
    it.best(None, 1, 1)
    assert it.room == 60
    for row in range(40):
        it.sent(row, 4)
    assert it.best(None, 1, 1)[:3] == (-1, 0, False)


@pytest.mark.parametrize("make", range(2))
def test_who_has_no_link_is_passed_over(make: int) -> None:
    it = ranks_of()[make]
    idle(it, 20, linked=False)
    assert it.best(None, 1, 1)[0] == -1 and it.passed_over
    assert it.unreached(-1) == list(range(20))
    it.put(18, "far", "", True, False, False, False, 4, 0, 0.0, 0.0, 0, 0, 1.0, 4.0, [])
    assert it.best(None, 1, 1)[0] == 18 and it.passed_over and it.unreached(18) == list(range(18))
    it.put(18, "here", "", True, True, False, False, 4, 0, 0.0, 0.0, 0, 0, 1.0, 4.0, [])
    assert it.best(None, 1, 1)[0] == 18 and not it.passed_over, "this node comes before the others"


@pytest.mark.parametrize("make", range(2))
def test_a_record_stays_as_it_was_decided(make: int) -> None:
    it = ranks_of()[make]
    idle(it, 2, never="has no gpu")
    ranked = it.best(None, 1, 1)[3]
    it.put(0, "other", "", True, True, False, False, 4, 0, 0.0, 0.0, 0, 0, 1.0, 4.0, [])
    it.best(None, 1, 1)
    it.remove(1)
    assert list(ranked) == ranked.lines() == [("node0", 0, 0.0, "has no gpu"), ("node1", 0, 0.0, "has no gpu")]


@pytest.mark.parametrize("make", range(2))
def test_what_no_executor_is_like_is_refused(make: int) -> None:
    it = ranks_of()[make]
    idle(it, 1)
    good: list[Any] = ["oak", "", True, False, False, False, 4, 0, 0.0, 0.0, 0, 0, 1.0, 4.0, []]
    for place, bad in ((6, -1), (7, 1 << 25), (8, float("inf")), (9, float("nan")), (10, 1 << 41), (12, 0.0)):
        with pytest.raises(ValueError, match="no executor is like this"):
            it.put(0, *good[:place], bad, *good[place + 1 :])
    for call in (
        it.remove,
        it.verdict,
        lambda row: it.put(row, *good),
        lambda row: it.sent(row, 1),
        lambda row: it.give(row, []),
    ):
        for row in (-1, 1):
            with pytest.raises(IndexError):
                call(row)
    with pytest.raises(IndexError):
        it.insert(2)
    with pytest.raises(ValueError, match="no such kind of tasks"):
        BOTH[make](1.0, 8, WORDS, 1e-9, 0.02, 0.03, 2048)
