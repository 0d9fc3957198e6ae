"""The past of what the fleet knows, asked of nodes that had not heard all of it: the answer has all, or there is none."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.knowledge.store import Store
from tests.e2e.fleets import Nodes, until
from tests.e2e.test_knowledge import known
from tests.e2e.test_knowledge_snapshots import SETTINGS, command, fill, said


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


def let_go(nodes: Nodes, name: str, least: int) -> int:
    """Of what a stopped node holds all but the last segment of each shard goes into its past, as it does after a month."""
    store = Store(nodes.home.node_dir(name))
    try:
        rows = [(row.shard, row.place) for row in store.rows()]
        for shard in {shard for shard, _ in rows}:
            store.keep_only(shard, {max(place for of, place in rows if of == shard)}, int(time.time() * 1000))
        gone = len(rows) - sum(store.counts.values())
        assert gone >= least
        return gone
    finally:
        store.close(in_order=store.begin())


def test_who_was_away_when_something_was_said_and_let_go_has_it_in_its_past(nodes: Nodes) -> None:
    nodes.start("ash")
    nodes.start("oak")
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
        until(lambda: len(ash.members()) == 2, 20, "members")
        ash.knowledge.put("facts", "wall", 1)
        known(oak, "wall", 1)
    nodes.stop("oak")
    with nodes.connect("ash") as ash:
        stamps = [ash.knowledge.put("facts", "door", number) for number in range(6)]
    nodes.stop("ash")
    let_go(nodes, "ash", 5)
    nodes.start("oak")
    nodes.start("ash")
    with nodes.connect("oak") as oak:
        until(lambda: len(oak.members()) == 2, 20, "members")
        # At once, whatever was compared until now: it is right or it is none.
        for number, stamp in enumerate(stamps):
            assert oak.knowledge.get("facts", "door", at=stamp) == number
            assert dict(oak.knowledge.query("facts", at=stamp)) == {"wall": 1, "door": number}
    # It has them itself now.
    nodes.kill("ash")
    with nodes.connect("oak") as oak:
        until(lambda: any(one["state"] == "dead" for one in oak.members()), 30, "ash is known to be dead")
        assert [oak.knowledge.get("facts", "door", at=stamp) for stamp in stamps] == list(range(6))


def test_who_begins_late_reads_what_was_before(nodes: Nodes) -> None:
    nodes.start("ash")
    with nodes.connect("ash") as ash:
        stamps = [ash.knowledge.put("facts", "door", number) for number in range(4)]
    nodes.stop("ash")
    let_go(nodes, "ash", 3)
    nodes.start("ash")
    nodes.start("oak")
    with nodes.connect("oak") as oak:
        until(lambda: len(oak.members()) == 2, 20, "members")
        assert [oak.knowledge.get("facts", "door", at=stamp) for stamp in stamps] == list(range(4))
    nodes.kill("ash")
    with nodes.connect("oak") as oak:
        until(lambda: any(one["state"] == "dead" for one in oak.members()), 30, "ash is known to be dead")
        assert oak.knowledge.get("facts", "door", at=stamps[0]) == 0


def test_where_no_node_holds_all_the_past_is_asked_of_those_who_do(nodes: Nodes, tmp_path: Path) -> None:
    names = ("ash", "oak", "elm", "fir")
    for name in names:
        nodes.start(name, "--knowledge-whole-nodes", "1", "--knowledge-replicas", "2")
    fleets = {name: nodes.connect(name) for name in names}
    try:
        for fleet in fleets.values():
            until(lambda fleet=fleet: len(fleet.members()) == len(names), 20, "members")
        time.sleep(0.5)  # what members say of themselves is known to all
        keys = [f"room/{number:02}" for number in range(40)]
        moment = max(
            fleets[names[number % 4]].knowledge.put("facts", key, number, tags=[] if number % 2 else ["even"])
            for number, key in enumerate(keys)
        )
        before = {key: number for number, key in enumerate(keys)}
        time.sleep(0.01)
        ash = fleets["ash"].knowledge
        for key in keys[:20]:
            ash.put("facts", key, "changed")
        ash.drop("facts", keys[30])
        for fleet in fleets.values():
            knowledge = fleet.knowledge
            assert dict(knowledge.query("facts", at=moment)) == before
            assert [key for key, _ in knowledge.query("facts", at=moment, reverse=True, limit=3)] == keys[:-4:-1]
            assert [key for key, _ in knowledge.query("facts", tag="even", start=keys[7], at=moment)] == keys[8::2]
            assert knowledge.get("facts", keys[0], at=moment) == 0
        out = tmp_path / "then"
        assert said(nodes, "snapshot", "restore", "--at", str(moment), "--to", str(out))["records"] == 40
        back = ("snapshot", "restore", "--at", str(moment), "--fleet", "--of", "oak")
        dry = said(nodes, *back, "--dry-run")
        assert dry["differences"] == 21 and [row["key"] for row in dry["rows"]] == [*keys[:20], keys[30]]
        assert ash.get("facts", keys[0]) == "changed"
        assert said(nodes, *back, "--yes")["set_back"] == 21
        for fleet in fleets.values():
            until(lambda fleet=fleet: dict(fleet.knowledge.query("facts")) == before, 20, "set back")
        assert sorted(key for key, _ in ash.query("facts", tag="even")) == keys[::2], "tags come back, too"
        assert said(nodes, *back, "--yes")["differences"] == 0
        # A snapshot has what its node holds, and says so.
        assert said(nodes, "snapshot", "create", "part", "--of", "elm")["records"]
        status, _, errors = command(nodes, "snapshot", "restore", "part", "--to", str(tmp_path / "part"))
        assert status == 0 and re.search(r"part has \d+ of 16 shards: elm held no more", errors)
    finally:
        for fleet in fleets.values():
            fleet.close()
