"""A node whose queue is smaller than what clients usually hand over at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.fleets import Nodes

ITEMS = 1_500


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    nodes = Nodes(
        tmp_path_factory.mktemp("small") / "w",
        settings={"SWARM_LEDGER_ENABLED": "false", "SWARM_LIMITS_QUEUE_TASKS": "100"},
    )
    nodes.start("oak", "--workers", "2")
    yield nodes
    assert nodes.stop_all() == {"oak": 0}


@pytest.mark.parametrize("chunksize", [1, "auto"])
def test_a_map_of_more_than_it_holds_ends(nodes: Nodes, chunksize: int | str) -> None:
    with nodes.connect("oak") as fleet:
        assert list(fleet.map(abs, range(-ITEMS, 0), chunksize=chunksize, window=None)) == list(range(ITEMS, 0, -1))


def test_a_burst_of_more_than_it_holds_ends(nodes: Nodes) -> None:
    with nodes.connect("oak") as fleet:
        futures = [fleet.submit(abs, -number) for number in range(ITEMS)]
        assert [future.result(60) for future in futures] == list(range(ITEMS))
