"""How fast nodes are, from what their tasks took beside those of others; and that the faster one gets more of them."""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.protocol.pace import KINDS_MAX, KNOWN_AFTER, SPEED_MAX, WINDOW, Pace, Paces
from swarm.protocol.placement import Executor, judge, rank
from swarm.protocol.resources import PLAIN, Capacity

Draw = Callable[[Random], float]
DRAWS: dict[str, Draw] = {
    "all alike": lambda rng: 1.0,
    "about alike": lambda rng: 0.8 + 0.4 * rng.random(),
    "exponential": lambda rng: rng.expovariate(1.0),
    "Pareto": lambda rng: 0.005 / (1.0 - rng.random() * 0.99999) ** (1 / 1.5),
}


class Fleet:
    """Nodes of known speeds, that run tasks side by side."""

    def __init__(self, speeds: list[float], seed: int = 1, slots: float = 1.0) -> None:
        self.paces = Paces()
        self.nodes = [Pace() for _ in speeds]
        self.speeds = speeds
        self.slots = slots
        self.rng = Random(seed)
        self.now = 0.0

    def tell(self, node: int, kind: bytes, *times_s: float) -> None:
        self.now += 0.001
        pace = self.nodes[node]
        before = pace.speed
        changed = self.paces.observe(
            self.now, b"%03d" % node, pace, self.slots, kind, len(times_s), lambda row: times_s[row]
        )
        assert changed == (pace.speed != before)

    def run(self, kind: bytes, draw: Draw, tasks: int, nodes: list[int] | None = None) -> Fleet:
        for _ in range(tasks):
            for node in range(len(self.speeds)) if nodes is None else nodes:
                self.tell(node, kind, draw(self.rng) / self.speeds[node])
        return self

    @property
    def found(self) -> list[float]:
        return [pace.speed for pace in self.nodes]


@pytest.mark.parametrize("what", sorted(DRAWS))
@pytest.mark.parametrize("speeds", [[1.0, 3.0], [1.0, 4.0, 2.0], [0.25, 1.0, 1.0, 1.0], [1.0, 2.0] * 8])
def test_it_comes_to_the_true_ratio(speeds: list[float], what: str) -> None:
    fleet = Fleet(speeds)
    ratios = []
    for _ in range(8):
        found = fleet.run(b"k", DRAWS[what], 100).found
        fast, slow = (
            [log2(one) for one, true in zip(found, speeds, strict=True) if true == extreme]
            for extreme in (max(speeds), min(speeds))
        )
        ratios.append(2 ** (sum(fast) / len(fast) - sum(slow) / len(slow)))
    assert sum(ratios) / len(ratios) == pytest.approx(max(speeds) / min(speeds), rel=0.25), ratios
    if what in ("all alike", "about alike"):
        assert fleet.found == [pytest.approx(one / fleet.speeds[0] * fleet.found[0], rel=0.1) for one in speeds]
    average = sum(log2(one) for one in fleet.found) / len(speeds)
    assert abs(average) < 0.25, "1.0 is the average"


def test_in_a_large_fleet_tasks_of_one_length_that_end_in_waves_tell_who_is_slow() -> None:
    # All slots begin at once, so what ends together is of nodes of one speed: the last so many reports are all of these.
    speeds = [(1.0, 0.5, 2.0)[node % 3] for node in range(150)]
    fleet = Fleet(speeds, slots=4.0)
    ends = sorted(
        (round((turn + 1) / speed, 6), 1 / speed, node)
        for node, speed in enumerate(speeds) for turn in range(int(40 * speed))
    )  # fmt: skip
    for _, took_s, node in ends:
        for _ in range(4):
            fleet.tell(node, b"k", took_s)
    for speed in (1.0, 2.0):
        ratios = {round(fleet.found[node] / fleet.found[1], 1) for node in range(150) if speeds[node] == speed}
        assert ratios and all(0.8 * speed / 0.5 < one < 1.5 * speed / 0.5 for one in ratios), ratios


@pytest.mark.parametrize("what", sorted(DRAWS))
def test_equal_nodes_count_as_equal_but_for_a_few_by_chance(what: str) -> None:
    wrong = 0
    for seed in range(20):
        fleet = Fleet([1.0] * 3, seed)
        for _ in range(5):
            found = fleet.run(b"k", DRAWS[what], 40).found
            wrong += sum(one != 1.0 for one in found)
            assert all(0.5 < one < 2.0 for one in found), found
    assert wrong <= 0.05 * 20 * 5 * 3, wrong


def test_a_cold_start_makes_nobody_fast() -> None:
    # What was: the mean of the kind, inflated by one worker's first task, made all its later ones look 16 times as fast.
    fleet = Fleet([1.0, 1.0])
    fleet.tell(0, b"k", 0.5)
    fleet.run(b"k", lambda rng: 0.0002, 300, [0])
    assert fleet.found == [1.0, 1.0], "a kind that ran on one node says nothing"
    fleet.tell(1, b"k", 0.5)
    fleet.run(b"k", lambda rng: 0.0002, 300)
    assert fleet.found == [1.0, 1.0]


def test_the_first_task_of_each_worker_is_not_counted() -> None:
    fleet = Fleet([1.0, 1.0], slots=30.0)
    fleet.run(b"k", lambda rng: 0.01, 100, [0])
    for _ in range(30):
        fleet.tell(1, b"k", 1.0)
    fleet.run(b"k", lambda rng: 0.01, KNOWN_AFTER + 8)
    assert fleet.found == [1.0, 1.0]


def test_a_node_counts_as_any_other_until_enough_is_known_of_it_beside_others() -> None:
    fleet = Fleet([1.0, 4.0])
    assert fleet.run(b"k", DRAWS["all alike"], KNOWN_AFTER).found == [1.0, 1.0]
    assert fleet.run(b"k", DRAWS["all alike"], 2 * WINDOW, [1]).found == [1.0, 1.0], (
        "alone it is as fast as the average"
    )
    fleet.run(b"k", DRAWS["all alike"], 2 * WINDOW)
    assert fleet.found[1] / fleet.found[0] == pytest.approx(4.0)


def test_a_kind_whose_tasks_become_longer_makes_nobody_slow() -> None:
    # As many as a node has slots, at its speed: the faster ones are through with what is short, and with what is long, sooner.
    speeds, slots = [1.0, 0.5, 2.0], [2, 4, 6]
    fleet = Fleet(speeds)
    ratios = []
    for draw in (lambda rng: 0.001 * (0.5 + rng.random()), lambda rng: 0.5 + rng.random()):
        for _ in range(150):
            for node, speed in enumerate(speeds):
                for _ in range(int(slots[node] * speed)):
                    fleet.tell(node, b"k", draw(fleet.rng) / speed)
            ratios.append(fleet.found[2] / fleet.found[1])
    assert ratios[149] == pytest.approx(4.0, rel=0.25) and ratios[-1] == pytest.approx(4.0, rel=0.25)
    assert all(2.0 < ratio < 8.0 for ratio in ratios[100:]), ratios


def test_a_node_that_joins_as_tasks_become_longer_is_not_slow_for_it() -> None:
    fleet = Fleet([1.0, 1.0])
    fleet.run(b"k", lambda rng: 0.001, 300, [0])
    found = []
    for _ in range(300):
        found += fleet.run(b"k", lambda rng: 0.5 + rng.random(), 1).found
    assert set(found) == {1.0}


def test_what_was_long_ago_is_not_compared() -> None:
    fleet = Fleet([1.0, 1.0])
    fleet.run(b"k", lambda rng: 0.001, 200, [0])
    fleet.now += 3600
    assert fleet.run(b"k", lambda rng: 0.5, 200, [1]).found == [1.0, 1.0]


def test_kinds_that_nodes_do_not_share_make_nobody_faster() -> None:
    fleet = Fleet([1.0, 1.0, 1.0, 1.0])
    for _ in range(300):
        fleet.run(b"short", lambda rng: 0.001 * (0.5 + rng.random()), 1, [0, 1])
        fleet.run(b"long", lambda rng: 2.0 * (0.5 + rng.random()), 1, [2, 3])
    assert all(0.8 < one < 1.3 for one in fleet.found), fleet.found


def test_a_node_that_leaves_says_nothing_any_more() -> None:
    fleet = Fleet([1.0, 4.0])
    fleet.run(b"k", DRAWS["all alike"], 100)
    fleet.paces.gone(b"001")
    fleet.nodes[0].speed = 1.0
    assert fleet.run(b"k", DRAWS["all alike"], 200, [0]).found[0] == 1.0


def test_what_is_kept_is_bounded() -> None:
    fleet = Fleet([1.0, 2.0])
    for number in range(2 * KINDS_MAX):
        fleet.run(b"%d" % number, DRAWS["exponential"], 2 * WINDOW)
    kinds = fleet.paces._kinds
    assert len(kinds) == KINDS_MAX
    windows = [pace.beside for pace in fleet.nodes] + [it.times for it in kinds.values()]
    assert all(len(it.last) == len(it.ordered) == WINDOW and sorted(it.last) == list(it.ordered) for it in windows)
    assert all(sum(it.of.values()) == len(it.nodes) == WINDOW for it in kinds.values())


TIMES = st.floats(0.0, 1e12, allow_nan=False)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.lists(TIMES, min_size=1, max_size=40)), max_size=60))
def test_whatever_is_reported_it_is_bounded(reports: list[tuple[int, int, list[float]]]) -> None:
    fleet = Fleet([1.0] * 3)
    for node, kind, times in reports:
        fleet.tell(node, b"%d" % kind, *times)
        assert all(1 / SPEED_MAX <= one <= SPEED_MAX for one in fleet.found)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(0, 2), st.integers(1, 199), TIMES, st.sampled_from(sorted(DRAWS)))
def test_no_single_run_time_matters(seed: int, node: int, at: int, outlier: float, what: str) -> None:
    def history(changed: bool) -> list[float]:
        fleet = Fleet([1.0, 2.0, 4.0], seed)
        for number in range(200):
            for one, speed in enumerate(fleet.speeds):
                time_s = DRAWS[what](fleet.rng) / speed
                fleet.tell(one, b"k", outlier if changed and (number, one) == (at, node) else time_s)
        return [pace.shift for pace in fleet.nodes]

    # In octaves: from one of 128 values to the next one in their order.
    for one, other in zip(history(False), history(True), strict=True):
        assert abs(one - other) < 0.35, (one, other)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(8, 400))
def test_short_tasks_are_seen_as_often_whether_their_reports_are_large_or_small(seed: int, size: int) -> None:
    """Nine of ten tasks are short, and reported many at a time; the others by themselves."""
    rng, fleet = Random(seed), Fleet([1.0, 1.0])
    for _ in range(60):
        short = [0.001 * (0.9 + 0.2 * rng.random()) for _ in range(size)]
        fleet.tell(0, b"k", *short)
        fleet.tell(1, b"k", *short[: size // 4])
        for node, count in ((0, size // 9), (1, size // 36)):
            for _ in range(count):
                fleet.tell(node, b"k", 1.0)
    assert fleet.found == [1.0, 1.0]


def seen(name: str, speed: float, slots: float = 4.0) -> Executor:
    it = Executor(name.encode(), name, Capacity({"cpu": slots}), linked=True, free=slots)
    it.pace = Pace(speed)
    return it


def test_the_faster_node_is_sent_more_ahead_and_is_first_for_what_is_long() -> None:
    slow, even, fast = seen("a", 0.5), seen("b", 1.0), seen("c", 2.0)
    rooms = [judge(it, PLAIN, 0.001).room for it in (slow, even, fast)]
    assert rooms == [pytest.approx(120 * it.pace.speed, abs=1) for it in (slow, even, fast)]
    assert [verdict.name for verdict in rank([slow, even, fast], PLAIN, 1.0)] == ["c", "b", "a"]
    slow.local = True
    assert rank([slow, even, fast], PLAIN, 1.0)[0].name == "c" and rank([slow, even, fast], PLAIN, None)[0].name == "a"


@pytest.mark.parametrize("speed", [1 / SPEED_MAX, SPEED_MAX])
@pytest.mark.parametrize("mean_s", [0.0001, 0.01, 1.0, None])
def test_a_wrong_speed_never_takes_the_last_room_from_an_idle_node(speed: float, mean_s: float | None) -> None:
    idle, busy = seen("a", speed), seen("b", 1.0)
    assert judge(idle, PLAIN, mean_s).room >= 4
    full = judge(busy, PLAIN, mean_s).room
    busy.sent(PLAIN, full)
    assert rank([idle, busy], PLAIN, mean_s)[0].name == "a"
