"""What a machine has, as its gossip tells it."""

from __future__ import annotations

import pytest

from nodes.machine import capacity_from, classes_from, fitted
from swarm.protocol.placement import Executor, judge, rank
from swarm.protocol.ranking import Rankings
from swarm.protocol.resources import PLAIN
from swarm.protocol.states import Priority


@pytest.mark.parametrize("said", [float("inf"), float("nan"), -1.0, True, "4", None, 1 << 70])
def test_a_resource_that_no_machine_has_counts_as_nothing(said: object) -> None:
    capacity = capacity_from({"r": {"cpu": said, "memory": 8 << 30}}, "oak")
    assert capacity.totals == {"memory": float(8 << 30)}
    assert judge(Executor(b"oak", "oak", capacity), PLAIN, None).why == "has no cpu"


def test_a_machine_of_a_great_many_slots_overflows_nothing() -> None:
    it = Executor(b"oak", "oak", capacity_from({"r": {"cpu": 1e19}}, "oak"), linked=True)
    ranking = Rankings({it.id: it}).of(PLAIN, Priority.STANDARD)
    for mean_s in (None, 1e-6, 3.0):
        assert ranking.verdicts(mean_s) == rank([it], PLAIN, mean_s)
        assert ranking.best(mean_s, 1 << 40, 1000)[:2] == (it, 1000)


def test_classes_go_with_the_gossip_where_there_is_room() -> None:
    info: dict[str, object] = {"f": 1.0, "k": [0, 2, 0, 0, 1, 0, 3, 0]}
    assert classes_from(fitted(dict(info))) == {
        "low": {"running": 0, "suspended": 2}, "high": {"running": 1, "suspended": 0}, "critical": {"running": 3, "suspended": 0},
    }  # fmt: skip
    full = fitted(info | {"l": ["x" * 170]})
    assert "k" not in full and full["f"] == 1.0
    for odd in (None, [1] * 7, [-1] * 8, ["1"] * 8, [1 << 32] * 8, [0] * 8):
        assert classes_from({"k": odd}) == {}
