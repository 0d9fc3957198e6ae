"""Two processes with one identity: who waits at the door, and the verdict that both come to."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.protocol.twins import ANSWER_S, LEAVE_S, Admit, Ask, Door, Show, Standing, TurnAway, goes_on

STANDINGS = st.builds(
    Standing, st.binary(min_size=8, max_size=8), st.floats(0, 2e9), st.booleans(),
    st.lists(st.tuples(st.sampled_from(["10.0.0.1", "fe80::1"]), st.integers(1, 65535)), max_size=8).map(tuple),
    st.integers(0, 1 << 61), st.integers(0, 1 << 48),
)  # fmt: skip


def standing(number: int, since: float = 100.0, *, counted: bool = False) -> Standing:
    return Standing(bytes([number]) * 8, since, counted, (("10.0.0.1", 7000 + number),))


@given(STANDINGS, STANDINGS)
def test_at_most_one_of_two_goes_on_and_never_two_that_were_counted(one: Standing, other: Standing) -> None:
    assert not (goes_on(one, other) and goes_on(other, one))
    if one.counted and other.counted:
        assert not goes_on(one, other) and not goes_on(other, one)
    elif one.boot != other.boot:
        assert goes_on(one, other) or goes_on(other, one), "one of them goes on where nothing is lost by that"


@given(STANDINGS)
def test_what_is_said_is_read_as_it_was(said: Standing) -> None:
    assert Standing.read(said.header()) == said


@pytest.mark.parametrize(
    "said",
    [
        None, [], {}, standing(1).header() | {"boot": b"short"}, standing(1).header() | {"since": "now"},
        standing(1).header() | {"at": [["host"]]}, standing(1).header() | {"at": [[1, 2]]}, standing(1).header() | {"d": -1},
        standing(1).header() | {"i": 1 << 62}, standing(1).header() | {"at": 7}, standing(1).header() | {"d": "x"},
    ],
)  # fmt: skip
def test_what_is_no_standing_is_refused(said: Any) -> None:
    with pytest.raises(ValueError):
        Standing.read(said)


def test_the_one_that_was_there_goes_on_and_the_one_that_comes_is_shown_it() -> None:
    door: Door[str] = Door()
    assert door.came(1.0, "new", "known") == [Ask("known"), Ask("new")]
    assert door.holds("new") and not door.holds("known")
    first, second = standing(1, counted=True), standing(2, 200.0)
    assert door.said(1.1, "new", second) == []
    assert door.said(1.2, "known", first) == [Show("known", first, second), Show("new", second, first)]
    assert goes_on(first, second) and not goes_on(second, first)
    assert door.down("new") == [] and door.next_deadline() is None


def test_one_that_does_not_answer_is_gone() -> None:
    door: Door[str] = Door()
    door.came(1.0, "new", "known")
    door.said(1.1, "new", standing(2))
    assert door.next_deadline() == 1.0 + ANSWER_S
    assert door.on_timer(1.5) == []
    assert door.on_timer(1.0 + ANSWER_S) == [Admit("new")]
    assert not door.holds("new") and door.down("known") == [] and door.next_deadline() is None


def test_when_the_first_one_ends_the_other_is_let_in_at_once_with_all_its_links() -> None:
    door: Door[str] = Door()
    door.came(1.0, "new", "known")
    door.came(1.1, "new again", "known")
    assert door.down("known") == [Admit("new"), Admit("new again")]
    assert not door.holds("new") and not door.holds("new again")


def test_one_that_does_not_leave_is_turned_away() -> None:
    door: Door[str] = Door()
    door.came(1.0, "new", "known")
    door.said(1.1, "known", standing(1))
    assert door.said(1.2, "known", standing(3)) == []
    door.said(1.3, "new", standing(2))
    assert door.on_timer(1.3 + LEAVE_S - 0.1) == []
    assert door.on_timer(1.3 + LEAVE_S) == [TurnAway("new")]


def test_one_of_an_earlier_version_that_cannot_say_who_it_is_is_turned_away_while_the_first_one_is_there() -> None:
    door: Door[str] = Door()
    door.came(1.0, "new", "known")
    door.said(1.1, "known", standing(1))
    assert door.on_timer(1.0 + ANSWER_S) == [TurnAway("new")]


class Process:
    """One process with the identity: what it says, and whom it has been counted by."""

    def __init__(self, number: int, since: float) -> None:
        self.since, self.number = since, number
        self.counted = False
        self.up = True

    def says(self) -> Standing:
        return standing(self.number, self.since, counted=self.counted)


@pytest.mark.parametrize("seed", range(200))
def test_at_no_door_two_of_them_are_heard_and_where_both_were_heard_anywhere_both_end(seed: int) -> None:
    """Three processes with one identity come to three members in any order, on links that are slow."""
    import random

    rng = random.Random(seed)
    processes = [Process(number, rng.random()) for number in range(3)]
    doors: list[Door[tuple[int, int]]] = [Door() for _ in range(3)]
    inside: list[int | None] = [None] * 3
    now = 0.0
    pending: list[tuple[Any, ...]] = [("dial", door, number) for door in range(3) for number in range(3)]

    def hear(door: int, number: int) -> None:
        inside[door] = number
        processes[number].counted = True

    def carry(door: int, effects: Any) -> None:
        for it in effects:
            number = it.link[1]
            if isinstance(it, Ask):
                pending.append(("asked", door, it.link))
            elif isinstance(it, Show):
                pending.append(("shown", door, it.link, it.mine, it.other))
            elif isinstance(it, Admit) and processes[number].up:
                hear(door, number)

    while pending:
        what, door, *rest = pending.pop(rng.randrange(len(pending)))
        if what == "dial":
            number = rest[0]
            there = inside[door]
            if not processes[number].up:
                continue
            if there is None or not processes[there].up:
                hear(door, number)
            elif there != number:
                carry(door, doors[door].came(now, (door, number), (door, there)))
        elif what == "asked":
            if processes[rest[0][1]].up:
                carry(door, doors[door].said(now, rest[0], processes[rest[0][1]].says()))
        else:
            link, mine, other = rest
            process = processes[link[1]]
            if process.up and not goes_on(mine, other):
                process.up = False
                for each in range(3):
                    if inside[each] == link[1]:
                        inside[each] = None
                    carry(each, doors[each].down((each, link[1])))
    up = [process for process in processes if process.up]
    heard = {number for number in inside if number is not None}
    assert len(heard) <= 1
    for one, other in itertools.combinations(up, 2):
        assert not (one.counted and other.counted)
