"""Rankings that are kept, held against `rank`, which judges everybody anew for each decision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.ranks import SHOWN_MAX
from swarm.protocol.placement import JUDGED, Executor, Verdict, rank
from swarm.protocol.ranking import RANKINGS_KEPT_MAX, Ranking, Rankings
from swarm.protocol.resources import PLAIN, Capacity, Shape
from swarm.protocol.states import Priority
from tests.unit.protocol.owner import ME, OAK, Owner, columns_of, key_of, spec_of

SHAPES = (
    PLAIN,
    Shape("", (("cpu", 2.0),), ()),
    Shape("", (("cpu", 0.5), ("gpu", 1.0)), ()),
    Shape("", (("cpu", 0.0),), ("big",)),
)
MEANS = (None, 0.0004, 0.019, 0.02, 0.7, 40.0)
AMOUNTS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 8.0])

capacities = st.builds(
    lambda cpu, gpu, labels: Capacity({"cpu": cpu} | ({"gpu": 1.0} if gpu else {}), frozenset(labels)),
    st.sampled_from([1.0, 2.0, 4.0, 16.0]),
    st.booleans(),
    st.sampled_from([(), ("big",)]),
)
loads = st.fixed_dictionaries(
    {"free": AMOUNTS, "wait": st.integers(0, 9)},
    optional={
        "off": AMOUNTS,
        "blocked": st.integers(0, 3),
        "others": AMOUNTS,
        "drain": st.booleans(),
        "low": st.lists(AMOUNTS, max_size=3),
        "urgent": st.integers(0, 3),
    },
)
kinds = st.tuples(st.sampled_from(SHAPES), st.sampled_from(MEANS), st.sampled_from(list(Priority)))

WHOSE = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("decide"), kinds),
    st.tuples(st.just("join"), capacities),
    st.tuples(st.just("leave"), WHOSE),
    st.tuples(st.just("heard"), WHOSE, loads),
    st.tuples(st.just("sent"), WHOSE, st.sampled_from(SHAPES), st.integers(1, 9), st.sampled_from(list(Priority))),
    st.tuples(st.just("back"), WHOSE, st.sampled_from(SHAPES), st.integers(1, 9), st.sampled_from(list(Priority))),
    st.tuples(st.just("displaced"), WHOSE, st.sampled_from(SHAPES), st.integers(1, 4)),
    st.tuples(st.just("suspect"), WHOSE, st.booleans()),
    st.tuples(st.just("linked"), WHOSE, st.booleans()),
    st.tuples(st.just("capacity"), WHOSE, capacities),
    st.tuples(st.just("paced"), WHOSE, st.sampled_from([0.1, 1.0, 5.0])),
    st.tuples(st.just("asked"), loads),
)


class Fleet:
    """Executors twice, with the same told to both: one of each is ranked by what is kept, the other by `rank`."""

    def __init__(self, size: int) -> None:
        self.load: dict[str, Any] = {"free": 0.0, "wait": 0}
        self.kept: dict[bytes, Executor] = {}
        self.plain: dict[bytes, Executor] = {}
        self.rankings = Rankings(self.kept)
        self.joined = 0
        for _ in range(size):
            self.join(Capacity({"cpu": 4.0}))

    def join(self, capacity: Capacity) -> None:
        # Ids in an order that is not that of their coming.
        id, local = (self.joined * 7919 % 1000).to_bytes(16, "big"), not self.joined
        for executors in (self.kept, self.plain):
            it = executors[id] = Executor(id, f"node{self.joined}", capacity, local=local, free=capacity.totals["cpu"])
            if local:
                it.ask_load = lambda: self.load
            it.heard({"free": 0.0, "wait": 0, "low": [2.0, 1.0, 1.0]} if self.joined % 2 else {})
        self.rankings.joined(self.kept[id])
        self.joined += 1

    def leave(self, whose: int) -> None:
        id = list(self.kept)[whose % len(self.kept)]
        if not self.kept[id].local:
            self.rankings.gone(self.kept.pop(id))
            del self.plain[id]

    def tell(self, whose: int, what: Callable[[Executor], object]) -> None:
        id = list(self.kept)[whose % len(self.kept)]
        what(self.kept[id])
        what(self.plain[id])

    def decide(self, shape: Shape, mean_s: float | None, priority: int) -> list[Verdict]:
        expected = rank(list(self.plain.values()), shape, mean_s, priority)
        ranking = self.rankings.of(shape, priority)
        assert ranking.verdicts(mean_s) == expected
        # A part of urgent decisions is that this very node is asked, which may change what is thought of it: of both.
        self.choose(ranking, mean_s, rank(list(self.plain.values()), shape, mean_s, priority))
        return expected

    def choose(self, ranking: Ranking, mean_s: float | None, expected: list[Verdict]) -> None:
        """The decision itself is that of the readable rule: the first with room and a link, and its share of what waits."""
        with_room = [verdict for verdict in expected if verdict.room]
        linked = next((verdict for verdict in with_room if self.kept[verdict.executor].linked), None)
        room = sum(verdict.room for verdict in expected)
        best, count, displaces, ranked = ranking.best(mean_s, 100, 40)
        assert ranked.lines() == [verdict.brief for verdict in expected[:SHOWN_MAX]]
        if linked is None:
            assert (best, count, displaces) == (None, 0, False)
        else:
            share = -(-100 * linked.room // room) if room > linked.room else 100
            assert best is self.kept[linked.executor] and displaces == linked.displaces
            assert count == max(1, min(linked.room, share, 40))
        ahead = with_room if linked is None else with_room[: with_room.index(linked)]
        unreached = [self.kept[verdict.executor] for verdict in ahead]
        assert ranking.passed_over == bool(unreached)
        assert ranking.unreached(best) == unreached


def paced(it: Executor, speed: float) -> None:
    it.pace.speed = speed
    it.changed()


def step(fleet: Fleet, what: str, *given: Any) -> None:
    """Carry out one step of a history."""
    match what:
        case "decide":
            fleet.decide(*given[0])
        case "join":
            fleet.join(given[0])
        case "leave":
            fleet.leave(given[0])
        case "heard":
            fleet.tell(given[0], lambda it: it.heard(given[1]))
        case "sent":
            fleet.tell(given[0], lambda it: it.sent(*given[1:]))
        case "back":
            fleet.tell(given[0], lambda it: it.back(*given[1:]))
        case "displaced":
            fleet.tell(given[0], lambda it: it.displaced(given[1], Priority.CRITICAL, given[2]))
        case "suspect":
            fleet.tell(given[0], lambda it: setattr(it, "suspect", given[1]))
        case "linked":
            fleet.tell(given[0], lambda it: setattr(it, "linked", given[1]))
        case "capacity":
            fleet.tell(given[0], lambda it: (setattr(it, "capacity", given[1]), it.fits.clear()))
        case "paced":
            fleet.tell(given[0], lambda it: paced(it, given[1]))
        case "asked":
            fleet.load = given[0]


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([1, 3, SHOWN_MAX + 9]),
    st.lists(kinds, min_size=1, max_size=RANKINGS_KEPT_MAX + 2),
    st.lists(steps, max_size=40),
)
def test_what_is_kept_is_what_rank_says(size: int, asked: list[Any], history: list[Any]) -> None:
    fleet = Fleet(size)
    for kind in asked:
        fleet.decide(*kind)
    for what in history:
        step(fleet, *what)
        # Some kinds are asked for after every step, others after many.
        fleet.decide(*asked[-1])
    for kind in reversed(asked):
        fleet.decide(*kind)


def test_only_of_who_has_changed_the_row_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []
    write = Ranking._write

    def counted(self: Ranking, row: int, executor: Executor) -> None:
        judged.append(executor.name)
        write(self, row, executor)

    monkeypatch.setattr(Ranking, "_write", counted)
    fleet = Fleet(50)
    fleet.tell(9, lambda it: it.heard({"free": 4.0, "wait": 0, "low": []}))
    fleet.decide(PLAIN, None, Priority.STANDARD)
    assert len(judged) == 50
    judged.clear()
    fleet.tell(7, lambda it: it.sent(PLAIN, 2))
    fleet.tell(9, lambda it: it.heard({"free": 4.0, "wait": 0, "low": []}))
    fleet.decide(PLAIN, None, Priority.STANDARD)
    assert judged == ["node7"], "what was heard of node9 was nothing new"
    judged.clear()
    fleet.decide(PLAIN, None, Priority.CRITICAL)
    judged.clear()
    fleet.decide(PLAIN, None, Priority.CRITICAL)
    assert set(judged) == {"node0"}, "this very node is asked each time"


@pytest.mark.parametrize("attribute", sorted(JUDGED - {"ask_load", "capacity", "pace", "yielding"}))
def test_a_change_of_anything_that_counts_is_noted(attribute: str) -> None:
    fleet = Fleet(2)
    it = list(fleet.kept.values())[1]
    ranking = fleet.rankings.of(PLAIN, Priority.STANDARD)
    ranking.verdicts(None)
    value = getattr(it, attribute)
    setattr(it, attribute, copy.copy(value))
    assert not ranking.changed
    setattr(it, attribute, not value if isinstance(value, bool) else value * 2 + type(value)(1))
    assert ranking.changed == {it}


def test_slots_that_were_given_away_are_not_given_away_again() -> None:
    fleet = Fleet(2)
    fleet.tell(0, lambda it: it.heard({"free": 0.0, "wait": 0, "others": 4.0, "low": [4.0]}))
    fleet.tell(1, lambda it: it.heard({"free": 0.0, "wait": 0, "others": 4.0, "low": [2.0]}))
    fleet.load = {"free": 0.0, "wait": 0, "others": 4.0, "low": [1.0]}
    for room in (2, 1, 0):
        rooms = {verdict.name: verdict.room for verdict in fleet.decide(PLAIN, None, Priority.CRITICAL)}
        assert rooms == {"node0": 1, "node1": room}
        fleet.tell(1, lambda it: it.displaced(PLAIN, Priority.CRITICAL, 1))


def test_what_is_done_to_a_copy_is_no_change_of_the_executor() -> None:
    fleet = Fleet(3)
    it = list(fleet.kept.values())[1]
    fleet.decide(PLAIN, None, Priority.STANDARD)
    other = copy.copy(it)
    other.inflight = {}
    other.sent(PLAIN, 3)
    assert (it.ours, other.ours, other.name, other.capacity) == (0, 3, it.name, it.capacity)
    fleet.decide(PLAIN, None, Priority.STANDARD)


def test_who_is_gone_is_ranked_no_more_and_who_comes_back_is() -> None:
    """Through an owner: its parts tell the rankings of who comes and goes."""
    owner = Owner(slots=1.0)
    owner.it.executor_seen(owner.now, OAK, "oak", Capacity({"cpu": 4.0}), {"free": 4.0, "wait": 0})
    owner.it.executor_linked(owner.now, OAK)
    raw = spec_of().encode()

    def submit(number: int, count: int) -> dict[bytes, int]:
        owner.it.submit(owner.now, 1.7e9, b"client", "ann", True, key_of(number), raw, count, columns_of(count))
        return {id: it.ours for id, it in owner.it.executors.items()}

    assert submit(1, 5) == {ME: 1, OAK: 4}
    owner.it.executor_lost(owner.now, OAK, "dead")
    assert submit(2, 1) == {ME: 1}
    owner.it.executor_seen(owner.now, OAK, "oak", Capacity({"cpu": 4.0}), {"free": 4.0, "wait": 0})
    owner.it.executor_linked(owner.now, OAK)
    assert submit(3, 1) == {ME: 1, OAK: 4}
