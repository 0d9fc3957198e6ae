"""The recipe for a further kind of knowledge, followed to the letter: one line, and it is stored, merged, spread, found and restored.

One node of the fleet does not know the kind: it keeps what is said of it, and gives it to one that does.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fleets import ROOT, Nodes, until

ANCHOR = '        Kind("policies", Crdt.REGISTER, _a_map, whole=True),\n'
LINES = '        Kind("agents", Crdt.REGISTER, _a_map),\n        Kind("votes", Crdt.SET),\n'


class Fleet(Nodes):
    """Nodes of this source, and of one with two kinds more."""

    def __init__(self, root: Path, **settings: str) -> None:
        super().__init__(root / "home", settings=settings)
        self.elsewhere = root
        self.new = root / "new"
        shutil.copytree(ROOT / "swarm", self.new / "swarm", ignore=shutil.ignore_patterns("__pycache__"))
        kinds = self.new / "swarm/protocol/knowledge/kinds.py"
        source = kinds.read_text()
        assert source.count(ANCHOR) == 1
        kinds.write_text(source.replace(ANCHOR, ANCHOR + LINES))
        self.env["PYTHONPATH"] = str(ROOT)

    def begin(self, name: str, *, knows: bool) -> None:
        before = self.env["PYTHONPATH"]
        if knows:
            self.env["PYTHONPATH"] = f"{self.new}:{ROOT}"
        self.start(name)
        self.env["PYTHONPATH"] = before

    def told(self, name: str, *words: str) -> list[Any]:
        """What a command prints, at a node that knows the kinds, by a client that does."""
        env = {**self.env, "PYTHONPATH": f"{self.new}:{ROOT}", "SWARM_NODE_SOCKET": str(self.home.node_socket(name))}
        ran = subprocess.run(
            [sys.executable, "-m", "nodes.cli", *words, "--json"],
            env={**os.environ, **env}, capture_output=True, timeout=60, cwd=self.root,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return [json.loads(line) for line in ran.stdout.splitlines()]

    def written(self, name: str) -> int:
        """Segments in a node's log."""
        log = sqlite3.connect(f"file:{self.home.node_dir(name) / 'knowledge.db'}?mode=ro", uri=True)
        try:
            return int(log.execute("SELECT count(*) FROM segments").fetchone()[0])
        finally:
            log.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, SWARM_HTTP_ENABLED="false", SWARM_WORKERS="1", SWARM_KNOWLEDGE_SYNC_EVERY_S="1")
    yield made
    assert set(made.stop_all().values()) <= {0}


def test_a_line_in_a_table_is_all_that_a_kind_needs(fleet: Fleet, tmp_path: Path) -> None:
    fleet.begin("ash", knows=True)
    fleet.begin("old", knows=False)
    with fleet.connect("ash") as ash:
        until(lambda: len(ash.members()) == 2, 60, "members")
    fleet.told("ash", "knowledge", "put", "agents", "critic/1", '{"mind": "cautious"}', "--tag", "minds")
    fleet.told("ash", "knowledge", "put", "agents", "critic/1", '{"mind": "bold"}', "--tag", "minds")
    fleet.told("ash", "knowledge", "put", "votes", "who", '"ash"')
    until(lambda: fleet.written("old") == fleet.written("ash") >= 3, 60, "what ash says is on the disk of old")
    assert fleet.stop("ash") == 0
    fleet.begin("elm", knows=True)  # from old alone, which does not know what it gives
    until(lambda: fleet.told("elm", "knowledge", "query", "agents"), 60, "elm has it")
    (found,) = fleet.told("elm", "knowledge", "query", "agents", "--tag", "minds")
    assert found["key"] == "critic/1" and found["value"] == {"mind": "bold"}
    assert fleet.told("elm", "knowledge", "query", "agents", "--text", "bold")[0]["key"] == "critic/1"
    assert fleet.told("elm", "knowledge", "query", "agents", "--prefix", "critic/")[0]["key"] == "critic/1"
    (put,) = fleet.told("elm", "knowledge", "put", "agents", "critic/1", '{"mind": "shy"}')
    then = str(put["stamp"])
    fleet.told("elm", "knowledge", "put", "agents", "critic/1", '{"mind": "mild"}')
    assert fleet.told("elm", "knowledge", "get", "agents", "critic/1", "--at", then)[0]["value"] == {"mind": "shy"}
    assert fleet.told("elm", "knowledge", "get", "votes", "who")[0]["value"] == ["ash"]
    fleet.told("elm", "snapshot", "restore", "--at", then, "--fleet", "--yes", "--kind", "agents")
    assert fleet.told("elm", "knowledge", "get", "agents", "critic/1")[0]["value"] == {"mind": "shy"}
    fleet.told("elm", "snapshot", "create", "all")
    fleet.told("elm", "snapshot", "restore", "all", "--of", "elm", "--to", str(tmp_path / "back"))
    (row,) = (tmp_path / "back" / "agents.jsonl").read_text().splitlines()
    assert json.loads(row)["value"] == {"mind": "shy"}
    fleet.told("elm", "knowledge", "drop", "agents", "critic/1")
    assert fleet.told("elm", "knowledge", "query", "agents") == []
