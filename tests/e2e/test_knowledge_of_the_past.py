"""The past of what the fleet knows, asked of nodes that had not heard all of it: the answer has all, or there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fleets import Nodes, until
from tests.e2e.test_knowledge import known
from tests.e2e.test_knowledge_snapshots import SETTINGS, fill


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path / "home", settings=SETTINGS)
    yield made
    assert set(made.stop_all().values()) <= {0}


def soon() -> int:
    """A moment that has not come yet: what is said meanwhile is of before it."""
    return int(time.time() * 1000) + 58_000


def test_an_answer_about_a_moment_has_what_was_heard_since_it_was_asked_first(nodes: Nodes) -> None:
    nodes.start("ash")
    nodes.start("oak")
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
        until(lambda: len(ash.members()) == 2, 20, "members")
        moment = soon()
        for fleet in (ash, oak):
            assert dict(fleet.knowledge.query("facts", at=moment)) == {}
        for number in range(3):
            ash.knowledge.put("facts", "door", number)
            known(oak, "door", number)
            for fleet in (ash, oak):
                assert dict(fleet.knowledge.query("facts", at=moment)) == {"door": number}
        fill(ash, 1100, 10)  # more than come in one part
        moment = soon()
        rows = iter(ash.knowledge.query("facts", prefix="page/", at=moment))
        first = next(rows)
        fill(ash, 1200, 10)
        assert [first[0], *(key for key, _ in rows)] == [f"page/{number:05}" for number in range(1100)], "one state"
        assert len(list(ash.knowledge.query("facts", prefix="page/", at=moment))) == 1200
