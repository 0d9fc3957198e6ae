"""What one node was told, all know: real nodes of one home, killed, away, and turned away."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from swarm.client.aio import connect_async
from swarm.client.sync import Fleet
from swarm.errors import SwarmError
from tests.e2e.fleets import Nodes, until

NAMES = ("ash", "oak", "elm")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    # What was left out is compared so often, that a test need not wait long where gossip came too early.
    settings = {"SWARM_HTTP_ENABLED": "false", "SWARM_WORKERS": "0", "SWARM_KNOWLEDGE_SYNC_EVERY_S": "1"}
    made = Nodes(tmp_path / "home", settings=settings)
    yield made
    assert set(made.stop_all().values()) <= {0}


def begin(nodes: Nodes, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        nodes.start(name)
    with nodes.connect(names[0]) as fleet:
        until(lambda: len(fleet.members()) == len(names), 60, "members")


def known(fleet: Fleet, key: str, value: Any, kind: str = "facts") -> None:
    until(lambda: fleet.knowledge.get(kind, key) == value, 60, f"{key} is {value!r}")


def test_what_one_node_was_told_all_know(nodes: Nodes) -> None:
    begin(nodes)
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak, nodes.connect("elm") as elm:
        value = {"id": b"\0\xff", "n": [1, 2.5, None, True], "to": {"a": "b"}}
        with oak.knowledge.watch("facts", "room/") as seen_at_oak:
            ash.knowledge.put("facts", "hall", 0)
            ash.knowledge.put("facts", "room/7", value, tags=("rooms",))
            changes = iter(seen_at_oak)
            assert next(changes) == ("room/7", value, False)
            for fleet in (ash, oak, elm):
                known(fleet, "room/7", value)
            elm.knowledge.drop("facts", "room/7")
            assert next(changes) == ("room/7", None, True)
        for fleet in (ash, oak, elm):
            known(fleet, "room/7", None)
        # All at once, from everywhere: what was counted adds up, and sets have what anybody put.
        for fleet, mark in ((ash, "a"), (oak, "o"), (elm, "e")):
            fleet.knowledge.count("tallies", "visits", up=5, down=1)
            fleet.knowledge.put("marks", "seen", mark)
            fleet.knowledge.put("beliefs", "rain", 0.5)
        for fleet in (ash, oak, elm):
            known(fleet, "visits", 12, "tallies")
            known(fleet, "rain", 1.5, "beliefs")
            known(fleet, "seen", ["a", "e", "o"], "marks")
        oak.knowledge.drop("marks", "seen", "e")
        for fleet in (ash, oak, elm):
            known(fleet, "seen", ["a", "o"], "marks")


def test_long_answers_come_in_parts_and_in_order(nodes: Nodes) -> None:
    nodes.start("ash")
    with nodes.connect("ash") as fleet:
        keys = [f"part/{number:04}" for number in range(1100)]
        for some in (keys[:600], keys[600:]):
            asking = [fleet._engine.asking("knowledge.put", {"kind": "facts", "key": key}, b"M\x01") for key in some]
            for each in asking:
                each.result(60)
        fleet.knowledge.put("facts", "other", 2, tags=("odd",))
        assert [key for key, _ in fleet.knowledge.query("facts", prefix="part/")] == keys
        assert [key for key, _ in fleet.knowledge.query("facts", prefix="part/", reverse=True)] == keys[::-1]
        found = fleet.knowledge.query("facts", start="part/0003", stop="part/0900", limit=3)
        assert [key for key, _ in found] == keys[3:6]
        assert list(fleet.knowledge.query("facts", tag="odd")) == [("other", 2)]
        fleet.knowledge.put("facts", "words", {"where": ["Behind the *red* door", 7]}, tags=["rooms"])
        for words in ("red door", "DOOR behind", "roo*", '"red"', "words", "-- red", "where"):
            assert [key for key, _ in fleet.knowledge.query("facts", text=words)] == ["words"], words
        assert list(fleet.knowledge.query("facts", text="red window")) == []
        assert len(list(fleet.knowledge.query("facts", text="part", limit=7))) == 7
        fleet.knowledge.put("facts", "words", "a window that is far away, over the wall of another house")
        fleet.knowledge.put("facts", "more", "window, window")
        assert [key for key, _ in fleet.knowledge.query("facts", text="window")] == ["more", "words"]
        fleet.knowledge.drop("facts", "words")
        assert [key for key, _ in fleet.knowledge.query("facts", text="window")] == ["more"]
        for wrong in (" ", "x " * 40, "y" * 600):
            with pytest.raises(SwarmError, match="words"):
                list(fleet.knowledge.query("facts", text=wrong))
        with fleet.knowledge.watch("facts", "part/", current=True) as watch:
            assert [change.key for change in islice(watch, len(keys))] == keys

        async def elsewhere() -> list[str]:
            async with connect_async(nodes.home, timeout_s=60) as same:
                await same.knowledge.put("facts", "part/1100", 3)
                async with await same.knowledge.watch("facts", "part/") as watch:
                    await same.knowledge.drop("facts", "part/1100")
                    assert [change async for change in _some(watch, 1)] == [("part/1100", None, True)]
                return [entry.key async for entry in same.knowledge.query("facts", prefix="part/")]

        os.environ["SWARM_NODE_SOCKET"] = str(nodes.home.node_socket("ash"))
        try:
            assert asyncio.run(elsewhere()) == keys
        finally:
            del os.environ["SWARM_NODE_SOCKET"]


async def _some(watch: Any, count: int) -> Any:
    async for change in watch:
        yield change
        count -= 1
        if not count:
            return


def test_what_was_answered_survives_a_kill_and_who_was_away_catches_up(nodes: Nodes) -> None:
    begin(nodes)
    with nodes.connect("ash") as ash:
        for number in range(40):
            ash.knowledge.put("facts", f"before/{number:02}", number)
        nodes.kill("elm")
        for number in range(40):
            ash.knowledge.put("facts", f"after/{number:02}", number)
        nodes.kill("ash")
    nodes.start("elm")
    nodes.start("ash")
    for name in NAMES:
        with nodes.connect(name) as fleet:
            for kind in ("before", "after"):
                until(
                    lambda fleet=fleet, kind=kind: (
                        [value for _, value in fleet.knowledge.query("facts", prefix=f"{kind}/")] == list(range(40))
                    ),
                    60,
                    f"{name} has what was put {kind} the kill",
                )
    with nodes.connect("ash") as ash, nodes.connect("elm") as elm:
        # The line goes on where it was: nothing of it is struck.
        ash.knowledge.put("facts", "before/00", "again")
        known(elm, "before/00", "again")
        known(elm, "before/01", 1)


def test_who_joins_late_has_what_somebody_said_who_is_gone(nodes: Nodes) -> None:
    begin(nodes, ("ash", "oak"))
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
        ash.knowledge.put("facts", "testament", "all to elm")
        known(oak, "testament", "all to elm")
    assert nodes.stop("ash") == 0
    nodes.start("elm")
    with nodes.connect("elm") as elm:
        known(elm, "testament", "all to elm")


def test_what_a_revoked_node_said_goes(nodes: Nodes) -> None:
    begin(nodes)
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak, nodes.connect("elm") as elm:
        ash.knowledge.put("facts", "a", 1)
        elm.knowledge.put("facts", "e", 2)
        for fleet in (ash, oak, elm):
            known(fleet, "a", 1)
            known(fleet, "e", 2)
    assert nodes.cli("fleet", "revoke", "elm").returncode == 0
    for name in ("ash", "oak"):
        with nodes.connect(name) as fleet:
            known(fleet, "e", None)
            assert fleet.knowledge.get("facts", "a") == 1
    nodes.kill("elm")
    assert nodes.stop("oak") == 0
    nodes.start("oak")
    with nodes.connect("oak") as again:
        assert again.knowledge.get("facts", "e") is None
        assert again.knowledge.get("facts", "a") == 1


def test_a_damaged_file_is_set_aside_and_all_comes_again(nodes: Nodes) -> None:
    begin(nodes, ("ash", "oak"))
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
        ash.knowledge.put("facts", "a", 1)
        oak.knowledge.put("facts", "o", 2)
        known(ash, "o", 2)
        known(oak, "a", 1)
    assert nodes.stop("ash") == 0
    file = nodes.home.node_dir("ash") / "knowledge.db"
    file.write_bytes(b"this was a database" * 300)
    nodes.start("ash")
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
        known(ash, "a", 1)
        known(ash, "o", 2)
        ash.knowledge.put("facts", "a", 3)
        known(oak, "a", 3)
        known(oak, "o", 2)
    assert file.with_name("knowledge.db.damaged-1").read_bytes().startswith(b"this was")
    until(lambda: "knowledge.damaged" in (nodes.root / "ash.log").read_text(), 60, "it says so")


def test_nodes_without_knowledge_are_left_alone_and_say_so(nodes: Nodes) -> None:
    nodes.start("ash")
    nodes.start("oak", "--no-knowledge-enabled")
    nodes.start("elm")
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak, nodes.connect("elm") as elm:
        until(lambda: len(ash.members()) == 3, 60)
        ash.knowledge.put("facts", "a", 1)
        known(elm, "a", 1)
        with pytest.raises(SwarmError, match="does not know 'knowledge.get'"):
            oak.knowledge.get("facts", "a")
    assert "message.unknown" not in nodes.log("oak")


def test_bad_words_get_clear_errors_and_the_command_prints_json(nodes: Nodes) -> None:
    nodes.start("ash")
    with nodes.connect("ash") as fleet:
        for wrong, words in (
            (lambda: fleet.knowledge.put("rumours", "k", 1), "no kind of knowledge"),
            (lambda: fleet.knowledge.put("facts", "", 1), "a key is a text"),
            (lambda: fleet.knowledge.put("marks", "k", "x" * 70_000), "longer than"),
            (lambda: fleet.knowledge.put("facts", "k", object()), "only plain values"),
            (lambda: fleet.knowledge.put("tallies", "k", 1), "are counted"),
            (lambda: fleet.knowledge.put("facts", "k", 1, tags=["t"] * 17), "tags are at most"),
            (lambda: fleet.knowledge.count("facts", "k"), "cannot be counted"),
            (lambda: list(fleet.knowledge.query("rumours")), "no kind of knowledge"),
            (lambda: fleet.query("knowledge.put", kind="facts", key="k"), "a value of 0 bytes"),
            (lambda: fleet.query("knowledge.changes", watch=7), "no such watch"),
        ):
            with pytest.raises(SwarmError, match=words):
                wrong()
        watches = [fleet.knowledge.watch("facts") for _ in range(64)]
        with pytest.raises(SwarmError, match="64 watches"):
            fleet.knowledge.watch("facts")
        watches.pop().close()
        fleet.knowledge.watch("facts").close()
    put = nodes.cli("knowledge", "put", "facts", "k", '{"a": [1, "two"]}', "--tag", "t", "--json")
    assert (put.returncode, json.loads(put.stdout)["key"]) == (0, "k")
    got = json.loads(nodes.cli("knowledge", "get", "facts", "k", "--json").stdout)
    assert got.pop("weight") == pytest.approx(1.0, rel=0.03), "a little less when an hour begins in between"
    assert got == {"kind": "facts", "key": "k", "value": {"a": [1, "two"]}}
    assert json.loads(nodes.cli("knowledge", "query", "facts", "--json").stdout)["key"] == "k"
    assert nodes.cli("knowledge", "watch", "facts", "--current", "--count", "1").stdout.startswith(b"k  ")
    (who,) = map(json.loads, nodes.cli("knowledge", "who", "facts", "k", "--json").stdout.splitlines())
    assert (who["node"], who["gone"], who["task"]) == ("ash", False, "") and who["stamp"] == json.loads(put.stdout)[
        "stamp"
    ]
    assert nodes.cli("knowledge", "who", "facts", "nobody").returncode == 6
    assert nodes.cli("knowledge", "drop", "facts", "k").returncode == 0
    assert nodes.cli("knowledge", "get", "facts", "k").returncode == 6
