"""Facts that fade, beliefs, large values and parts of the knowledge that a node does not hold: real nodes, as people use them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from swarm.client.aio import connect_async
from swarm.client.sync import Fleet
from swarm.errors import NotFound, SwarmError
from tests.e2e.fleets import Nodes, until

NAMES = ("ash", "oak", "elm", "fir")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    settings = {"SWARM_HTTP_ENABLED": "false", "SWARM_WORKERS": "0", "SWARM_KNOWLEDGE_SYNC_EVERY_S": "1"}
    made = Nodes(tmp_path / "home", settings=settings)
    yield made
    assert set(made.stop_all().values()) <= {0}


def begin(nodes: Nodes, *names: str, flags: tuple[str, ...] = ()) -> None:
    for name in names:
        nodes.start(name, *flags)
    with nodes.connect(names[0]) as fleet:
        until(lambda: len(fleet.members()) == len(names), 60, "members")


def about(value: Any) -> Any:
    """A weight, or several: a fiftieth part of a halving less where an hour begins in the middle of a test."""
    return pytest.approx(value, rel=0.03)


def known(fleet: Fleet, key: str, value: Any, kind: str = "facts") -> None:
    until(lambda: fleet.knowledge.get(kind, key, use=False) == value, 60, f"{key} is {value!r}")


def test_what_nobody_uses_is_pruned_everywhere_and_brought_back(nodes: Nodes) -> None:
    begin(nodes, "ash", "oak")
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
        stamp = ash.knowledge.put("facts", "seldom", {"n": 1}, tags=["t"])
        ash.knowledge.put("facts", "often", 2)
        for fleet in (ash, oak):
            known(fleet, "often", 2)
        assert oak.knowledge.use("often") == about(2.0)
        until(lambda: ash.knowledge.weight("often") == about(2.0), 60, "the use is known at ash")
        assert [row.key for row in ash.knowledge.query("facts", by_weight=True)] == ["often", "seldom"]
        weighed = {row.key: row.weight for row in ash.knowledge.query("facts", weights=True)}
        assert weighed == about({"often": 2.0, "seldom": 1.0})
        for _ in range(6):  # heavy enough to stay for minutes, on a slow machine
            oak.knowledge.use("often")
        until(lambda: ash.knowledge.weight("often") == about(8.0), 60, "the uses are known at ash")
        with oak.knowledge.watch("facts") as changes:
            # A cycle of a second and a high threshold: the fleet forgets within seconds.
            ash.knowledge.put("policies", "fading", {"cycle_s": 1, "threshold": 0.95})
            assert next(iter(changes)) == ("seldom", None, True)
            for fleet in (ash, oak):
                until(lambda fleet=fleet: [one.key for one in fleet.knowledge.pruned()] == ["seldom"], 60, "pruned")
                assert fleet.knowledge.get("facts", "seldom") is None and fleet.knowledge.get("facts", "often") == 2
                assert [key for key, _ in fleet.knowledge.query("facts")] == ["often"]
                assert list(fleet.knowledge.query("facts", tag="t")) == []
                assert list(fleet.knowledge.query("facts", text="seldom")) == []
            assert ash.knowledge.get("facts", "seldom", at=stamp) == {"n": 1}, "before it was pruned"
            assert ash.knowledge.get("facts", "seldom", at=int(1000 * time.time())) is None, "after that"
            assert nodes.cli("knowledge", "get", "facts", "seldom").returncode == 6
            assert b"swarm knowledge restore seldom" in nodes.cli("knowledge", "get", "facts", "seldom").stderr
            shown = json.loads(nodes.cli("knowledge", "pruned", "--json").stdout)
            assert shown["key"] == "seldom" and shown["pruned_at"] < shown["restorable_until"]
            assert oak.knowledge.restore("seldom") > 1.0
            assert next(iter(changes)) == ("seldom", {"n": 1}, False)
        for fleet in (ash, oak):
            known(fleet, "seldom", {"n": 1})
            assert list(fleet.knowledge.pruned()) == []
        with pytest.raises(NotFound, match="no fact 'seldom' is pruned"):
            ash.knowledge.restore("seldom")
        with pytest.raises(NotFound, match="there is no fact"):
            ash.knowledge.use("nothing")
        with pytest.raises(SwarmError, match="cycle_s"):
            ash.knowledge.put("policies", "fading", {"cycle_s": 0})
    assert json.loads(nodes.cli("knowledge", "use", "often", "--json").stdout)["weight"] > 1
    lines = nodes.cli("knowledge", "query", "facts", "--by", "weight").stdout.decode().splitlines()
    assert lines[0].split() == ["KEY", "WEIGHT", "VALUE"] and lines[1].startswith("often")


def test_getting_a_fact_is_using_it_and_is_said_when_the_node_stops(nodes: Nodes) -> None:
    begin(nodes, "ash", "oak")
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
        for key in "ab":
            oak.knowledge.put("facts", key, 1)
            known(ash, key, 1)
        for _ in range(3):
            assert ash.knowledge.get("facts", "a") == 1
        assert ash.knowledge.weight("a") == about(1.0), "it is gathered, and not said yet"
    assert nodes.stop("ash") == 0
    nodes.start("ash")
    with nodes.connect("oak") as oak:
        until(lambda: oak.knowledge.weight("a") == about(4.0), 60, "the uses are known")
        assert oak.knowledge.weight("b") == about(1.0)

    async def the_same() -> None:
        async with connect_async(nodes.home, timeout_s=60) as fleet:
            known = fleet.knowledge
            assert await known.get("facts", "a", use=False) == 1 and await known.weight("a") == about(4.0)
            assert await known.use("b") == about(2.0)
            with pytest.raises(NotFound):
                await known.restore("b")
            assert [one async for one in known.pruned()] == []
            found = [row async for row in known.query("facts", by_weight=True, weights=True)]
            assert [row.key for row in found] == ["a", "b"] and [row.weight for row in found] == about([4.0, 2.0])
            await known.put("beliefs", "x", 1.0)
            assert (await known.belief("x")).log_odds == about(1.0)

    asyncio.run(the_same())


def test_a_belief_has_a_probability_and_what_speaks_for_and_against_it(nodes: Nodes) -> None:
    begin(nodes, "ash", "oak")
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
        ash.knowledge.put("beliefs", "rain", 2.0)
        oak.knowledge.put("beliefs", "rain", -0.5)
        for fleet in (ash, oak):
            until(lambda fleet=fleet: fleet.knowledge.belief("rain").authors == 2, 60, "both are heard")
            belief = fleet.knowledge.belief("rain")
            assert (belief.log_odds, belief.evidence_for, belief.evidence_against) == about((1.5, 2.0, -0.5))
            assert belief.probability == about(0.8176)
        assert ash.knowledge.belief("snow").probability == 0.5 and ash.knowledge.belief("snow").authors == 0
        ash.knowledge.put("policies", "fading", {"cycle_s": 1})
        until(lambda: oak.knowledge.belief("rain").log_odds < 1.4, 60, "it fades")
        assert next(iter(oak.knowledge.query("beliefs"))).value < 1.4
        ash.knowledge.put("policies", "fading", {})
    shown = json.loads(nodes.cli("knowledge", "get", "beliefs", "rain", "--json").stdout)
    assert shown["log_odds"] == shown["value"] and shown["probability"] > 0.5 and shown["authors"] == 2
    assert (
        b"% probable  (for +2.000, against -0.500, by 2 nodes)"
        in nodes.cli("knowledge", "get", "beliefs", "rain").stdout
    )
    assert b"PROBABILITY" in nodes.cli("knowledge", "query", "beliefs").stdout
    assert nodes.cli("knowledge", "get", "beliefs", "snow").returncode == 6


def test_who_says_too_much_is_told_and_the_others_may_go_on(nodes: Nodes) -> None:
    begin(nodes, "ash", "oak")
    value = "x" * 65_000
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
        with pytest.raises(SwarmError, match="as much as the fleet keeps of one .16 MiB"):
            for number in range(300):
                ash.knowledge.put("facts", "k", f"{number} {value}")
        assert number > 200
        oak.knowledge.put("facts", "k", "short")
        known(ash, "k", "short")
        ash.knowledge.put("policies", "p", {"a": 1})
        known(oak, "p", {"a": 1}, "policies")


def blobs(nodes: Nodes, name: str) -> list[Path]:
    return sorted((nodes.home.node_dir(name) / "knowledge-blobs").glob("*"))


def test_a_large_value_is_a_blob_on_every_node_and_a_damaged_one_is_repaired(nodes: Nodes) -> None:
    begin(nodes, "ash", "oak")
    value = {"rows": [bytes([n % 256]) * 5000 for n in range(400)]}
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
        ash.knowledge.put("facts", "large", value, tags=["t"])
        known(oak, "large", value)
        until(lambda: len(blobs(nodes, "oak")) == 1, 60, "it is on the other disk, too")
        assert blobs(nodes, "ash")[0].stat().st_size > 2_000_000
        listed = next(iter(oak.knowledge.query("facts", tag="t"))).value
        assert listed.bytes == blobs(nodes, "ash")[0].stat().st_size and blobs(nodes, "oak")[0].name == listed.id
        # Rot on one disk: it is seen when it is asked for, and comes again from the other.
        file = blobs(nodes, "oak")[0]
        rotten = bytearray(file.read_bytes())
        rotten[1000] ^= 1
        file.write_bytes(rotten)
        # Who has joined just now has others answer.
        until(
            lambda: oak.knowledge.get("facts", "large") == value and file.read_bytes() != rotten, 60, "it is repaired"
        )
        until(lambda: "knowledge.blob_damaged" in nodes.log("oak"), 60, "it is told")
        blobs(nodes, "ash")[0].unlink()
        assert ash.knowledge.get("facts", "large") == value
        with pytest.raises(SwarmError, match="more than the 16 MiB"):
            ash.knowledge.put("facts", "larger", b"x" * (17 << 20))
        with pytest.raises(SwarmError, match="stands for a large value"):
            ash.knowledge.put("facts", "k", {"": "blob", "id": bytes(32), "bytes": 1 << 20})
        with pytest.raises(SwarmError, match="is not a map"):
            ash.knowledge.put("lessons", "k", "x" * 70_000)
    nodes.kill("ash")
    with nodes.connect("oak") as oak:
        assert oak.knowledge.get("facts", "large") == value
        oak.knowledge.put("facts", "large", "small")
        assert oak.knowledge.get("facts", "large") == "small"
    shown = nodes.cli("knowledge", "query", "facts")
    assert b"small" in shown.stdout


def test_in_a_larger_fleet_each_part_is_on_some_nodes_and_all_of_them_answer(nodes: Nodes) -> None:
    begin(nodes, *NAMES, flags=("--knowledge-whole-nodes", "1", "--knowledge-replicas", "2"))
    fleets = {name: nodes.connect(name) for name in NAMES}
    try:
        for fleet in fleets.values():
            until(lambda fleet=fleet: len(fleet.members()) == len(NAMES), 60, "members")
        keys = [f"room/{number:02}" for number in range(40)]
        with fleets["fir"].knowledge.watch("facts", "room/") as changes:
            for number, key in enumerate(keys):
                fleets[NAMES[number % 4]].knowledge.put("facts", key, number, tags=["even"] if number % 2 == 0 else [])
            assert sorted(change.key for change in islice(changes, 40)) == keys
        fleets["oak"].knowledge.put("lessons", "l", {"a": 1})
        for name, fleet in fleets.items():
            for number, key in enumerate(keys):
                known(fleet, key, number)
                fleet.knowledge.get("facts", key)
            wanted = list(zip(keys, range(40), strict=True))
            until(lambda fleet=fleet: list(fleet.knowledge.query("facts", prefix="room/")) == wanted, 60, name)
            assert [key for key, _ in fleet.knowledge.query("facts", reverse=True, limit=3)] == keys[:-4:-1]
            assert [key for key, _ in fleet.knowledge.query("facts", start="room/07", limit=3)] == keys[7:10]
            assert [key for key, _ in fleet.knowledge.query("facts", tag="even")] == keys[::2]
            assert len(list(fleet.knowledge.query("facts", text="room"))) == 40
            known(fleet, "l", {"a": 1}, "lessons")
            for _ in range(2):
                fleet.knowledge.count("tallies", "visits", up=1)
        for name, fleet in fleets.items():
            fleet.knowledge.put("marks", "seen", name)
            fleet.knowledge.put("beliefs", "rain", 0.5)
        for fleet in fleets.values():
            until(lambda fleet=fleet: fleet.knowledge.belief("rain").authors == 4, 60, "each speaks for itself")
        for fleet in fleets.values():
            known(fleet, "visits", 8, "tallies")
            known(fleet, "seen", sorted(NAMES), "marks")
        ids = {
            name: next(one["id"] for one in fleet.members() if one["name"] == name) for name, fleet in fleets.items()
        }
        for fleet in fleets.values():
            assert {one.author for one in fleet.knowledge.said("marks", "seen")} == set(ids.values()), "who added what"
            (one,) = fleet.knowledge.said("facts", "room/01")
            assert (one.author, one.gone, one.task) == (ids[NAMES[1]], False, "")
        fleets["ash"].knowledge.drop("marks", "seen", "fir")
        fleets["ash"].knowledge.drop("facts", "room/00")
        for fleet in fleets.values():
            known(fleet, "seen", sorted({*NAMES} - {"fir"}), "marks")
            known(fleet, "room/00", None)
        weight = fleets["elm"].knowledge.use("room/01")
        assert weight >= 2.0, "what elm got before is said with it, if elm holds it"
        for fleet in fleets.values():
            until(lambda fleet=fleet: fleet.knowledge.weight("room/01") >= weight, 60, "weight")
        large = bytes(300_000)
        fleets["elm"].knowledge.put("facts", "large", large)
        for fleet in fleets.values():
            known(fleet, "large", large)
        with pytest.raises(NotFound):
            fleets["oak"].knowledge.use("nothing")
        # One of the four holds about half of it, and no shard is on fewer than two.
        nodes.kill("elm")
        for name in ("ash", "oak", "fir"):
            for number, key in enumerate(keys[1:], 1):
                known(fleets[name], key, number)
    finally:
        for fleet in fleets.values():
            fleet.close()
