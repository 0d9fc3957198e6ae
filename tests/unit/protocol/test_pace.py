"""How fast nodes are, from what their tasks took; and that the faster one gets more of them."""

from __future__ import annotations

from random import Random

import pytest

from swarm.protocol.pace import KNOWN_AFTER, SPEED_MAX, Pace
from swarm.protocol.placement import Executor, judge, rank
from swarm.protocol.resources import PLAIN, Capacity


def paced(speed: float, tasks: int = 200) -> Pace:
    pace, rng = Pace(), Random(1)
    for _ in range(tasks):
        pace.observe(1.0, rng.expovariate(1.0) / speed, 1)
    return pace


@pytest.mark.parametrize("speed", [0.5, 2.0, 4.0])
def test_it_is_known_within_a_quarter_from_times_that_vary(speed: float) -> None:
    assert paced(speed).speed == pytest.approx(speed, rel=0.25)


def test_a_node_counts_as_any_other_until_enough_is_known_and_while_it_differs_little() -> None:
    assert paced(4.0, KNOWN_AFTER - 1).speed == 1.0
    assert paced(1.05, 2000).speed == 1.0
    pace = paced(1.0, 500)
    pace.observe(0.0, 1.0, 1)
    pace.observe(1.0, 1e9, 1)
    assert pace.speed == 1.0, "one task in the tail says nothing of the machine"
    for _ in range(5000):
        pace.observe(1.0, 1e-9, 1)
    assert pace.speed == SPEED_MAX


def seen(name: str, speed: float, slots: float = 4.0) -> Executor:
    it = Executor(name.encode(), name, Capacity({"cpu": slots}), linked=True, free=slots)
    it.pace = paced(speed)
    return it


def test_the_faster_node_is_sent_more_ahead_and_is_first_for_what_is_long() -> None:
    slow, even, fast = seen("a", 0.5), seen("b", 1.0), seen("c", 2.0)
    rooms = [judge(it, PLAIN, 0.001).room for it in (slow, even, fast)]
    assert rooms == [pytest.approx(120 * it.pace.speed, abs=1) for it in (slow, even, fast)]
    assert [verdict.name for verdict in rank([slow, even, fast], PLAIN, 1.0)] == ["c", "b", "a"]
    slow.local = True
    assert rank([slow, even, fast], PLAIN, 1.0)[0].name == "c" and rank([slow, even, fast], PLAIN, None)[0].name == "a"
