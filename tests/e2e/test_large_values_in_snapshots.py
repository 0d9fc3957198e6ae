"""Values over 64 KiB in snapshots: there when the fleet is gone, when a node joins, and when its disk has lost them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.knowledge.blob_files import DIRECTORY
from swarm.snapshots.checking import verify
from tests.e2e.fleets import Nodes, until
from tests.e2e.test_knowledge_snapshots import SETTINGS, command, facts_in_log, fill, flip, said


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path / "home", settings=SETTINGS | {"SWARM_KNOWLEDGE_CHECK_EVERY_S": "0.5"})
    yield made
    assert set(made.stop_all().values()) <= {0}


def text(seed: int, size: int) -> str:
    return random.Random(seed).randbytes(size // 2).hex()


def restored(folder: Path) -> dict[str, object]:
    rows = map(json.loads, (folder / "facts.jsonl").read_text().splitlines())
    return {row["key"]: row["value"] for row in rows}


def test_they_outlive_the_fleet(nodes: Nodes, tmp_path: Path) -> None:
    first, second, other = text(1, 300_000), {"n": text(2, 2_000_000)}, text(3, 16_000_000)
    nodes.start("ash")
    with nodes.connect("ash") as ash:
        ash.knowledge.put("facts", "small", 1)
        then = ash.knowledge.put("facts", "large", first)
        time.sleep(0.01)
        ash.knowledge.put("facts", "large", second)
        ash.knowledge.put("facts", "other", other)
        one = said(nodes, "snapshot", "create", "one")
        assert said(nodes, "snapshot", "restore", "--at", str(then), "--to", str(tmp_path / "asked"))["records"] == 2
        assert restored(tmp_path / "asked") == {"small": 1, "large": first}
        ash.knowledge.put("facts", "small", 2)
        two = said(nodes, "snapshot", "create", "two")
        assert two["new_bytes"] < one["new_bytes"] / 10 and two["shared_bytes"] > 8_000_000, "each is kept once"
        # A bit of one that flips is found, and made again from what the node has.
        flip(max(Path(two["folder"]).glob("blobs-*"), key=lambda path: path.stat().st_size), 5000)
        until(lambda: facts_in_log(nodes, "ash", "snapshot.repaired"), 30, "it is repaired")
        assert verify(Path(two["folder"])).whole
    assert nodes.stop("ash") == 0
    away = tmp_path / "away"
    assert command(nodes, "snapshot", "push", "two", "--to", str(away))[0] == 0
    nodes.root.rename(tmp_path / "gone")
    (there,) = [path for path in away.iterdir() if path.name == "two"]
    now = said(nodes, "snapshot", "restore", str(there), "--any-signer", "--to", str(tmp_path / "now"))
    assert now["records"] == 3 and now["lacking"] == []
    assert restored(tmp_path / "now") == {"small": 2, "large": second, "other": other}
    said(nodes, "snapshot", "restore", str(there), "--any-signer", "--at", str(then), "--to", str(tmp_path / "then"))
    assert restored(tmp_path / "then") == {"small": 1, "large": first}
    (tmp_path / "gone").rename(nodes.root)


def test_who_joins_has_them_and_a_lost_one_comes_from_a_snapshot(nodes: Nodes) -> None:
    large = text(4, 1_000_000)
    nodes.start("ash")
    with nodes.connect("ash") as ash:
        fill(ash, 150, 2500)
        ash.knowledge.put("facts", "large", large)
    nodes.start("oak")
    until(lambda: facts_in_log(nodes, "oak", "snapshot.joined"), 60, "oak has joined")
    files = list((nodes.home.node_dir("oak") / DIRECTORY).iterdir())
    assert [file.stat().st_size > 500_000 for file in files] == [True], "it came with the snapshot"
    nodes.kill("ash")
    with nodes.connect("oak") as oak:
        assert oak.knowledge.get("facts", "large") == large
        until(lambda: any(one["state"] == "dead" for one in oak.members()), 30, "ash is known to be dead")
        files[0].unlink()
        assert oak.knowledge.get("facts", "large") == large, "the snapshot has it"
        until(lambda: files[0].exists(), 20, "and it is kept again")
