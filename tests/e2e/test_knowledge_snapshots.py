"""Snapshots of what the fleet knows, and its past: taken from nodes that run and from one that does not, read at any moment, set back."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernels.plain import encode_plain
from nodes.cli.command_line import run
from nodes.cli.knowledge_snapshot import ask
from nodes.record_files import read_records
from swarm.client.sync import Fleet
from swarm.errors import SwarmError
from swarm.exit_codes import ExitCode
from swarm.snapshots.checking import verify
from swarm.snapshots.publishing import BEGUN
from swarm.snapshots.snapshot import Snapshot
from tests.e2e.fleets import Nodes, until
from tests.e2e.test_knowledge import known

SETTINGS = {
    "SWARM_HTTP_ENABLED": "false", "SWARM_WORKERS": "0", "SWARM_KNOWLEDGE_SYNC_EVERY_S": "1",
    "SWARM_KNOWLEDGE_SNAPSHOT_EVERY_S": "0", "SWARM_KNOWLEDGE_CHECK_EVERY_S": "0",
}  # fmt: skip


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path / "home", settings=SETTINGS)
    yield made
    assert set(made.stop_all().values()) <= {0}


def command(nodes: Nodes, *words: str) -> tuple[int, str, str]:
    """`swarm` in this process, which is quicker: (status, output, errors)."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors)
    ):  # fmt: skip
        patch.setenv("SWARM_HOME", str(nodes.root))
        patch.delenv("SWARM_NODE_SOCKET", raising=False)
        status = run(list(words))
    return status, out.getvalue(), errors.getvalue()


def said(nodes: Nodes, *words: str) -> Any:
    status, out, errors = command(nodes, *words, "--json")
    assert status == 0, errors
    return json.loads(out)


def test_the_past_to_the_entry_and_back_to_it(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("ash")
    nodes.start("oak")
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
        until(lambda: len(ash.members()) == 2, 20, "members")
        knowledge = ash.knowledge
        stamps = [knowledge.put("facts", "door", number, tags=["n"] if number else []) for number in range(5)]
        knowledge.put("facts", "kept", "the same")
        knowledge.put("marks", "seen", "a")
        knowledge.put("marks", "seen", "b")
        knowledge.count("tallies", "visits", up=7)
        oak.knowledge.put("beliefs", "rain", 2.0)
        known(ash, "rain", 2.0, "beliefs")
        moment = knowledge.put("facts", "gone", {"deep": [1, 2]}, tags=["old"])
        time.sleep(0.01)  # a moment is a millisecond: what follows is of a later one
        before = {kind: dict(knowledge.query(kind)) for kind in ("facts", "marks", "tallies", "beliefs")}
        # Each entry has its moment, and times name the same.
        for number, stamp in enumerate(stamps):
            assert knowledge.get("facts", "door", at=stamp) == number
            assert knowledge.get("facts", "door", at=stamp - 1) == (number - 1 if number else None)
        assert [key for key, _ in knowledge.query("facts", tag="n", at=stamps[0])] == []
        assert [key for key, _ in knowledge.query("facts", tag="n", at=stamps[1])] == ["door"]
        knowledge.drop("facts", "gone")
        knowledge.put("facts", "door", "after")
        knowledge.put("facts", "new", 1)
        knowledge.drop("marks", "seen", "a")
        knowledge.put("marks", "seen", "c")
        knowledge.count("tallies", "visits", up=1, down=3)
        knowledge.put("beliefs", "rain", -5.0)
        later = {kind: dict(knowledge.query(kind)) for kind in before}
        assert {kind: dict(knowledge.query(kind, at=moment)) for kind in before} == before
        known(oak, "rain", -3.0, "beliefs")
        until(
            lambda: (
                [dict(oak.knowledge.query(kind, at=moment)) for kind in ("facts", "marks")]
                == [before[kind] for kind in ("facts", "marks")]
            ),
            20,
            "every node has the same past as soon as it has heard of it",
        )
        for wrong in ("yesterday", 1 << 63, "2001-01-01", int(time.time() * 1000) + 3_600_000):
            with pytest.raises(SwarmError) as refused:
                knowledge.get("facts", "door", at=wrong)
            assert refused.value.hint

        # As a user: files, then what would be set back, then set back.
        _, found, _ = command(nodes, "knowledge", "get", "facts", "gone", "--at", str(moment))
        assert json.loads(found) == {"deep": [1, 2]}
        assert command(nodes, "knowledge", "get", "facts", "new", "--at", str(moment))[0] == ExitCode.NOT_FOUND
        out = tmp_path / "then"
        assert said(nodes, "snapshot", "restore", "--at", str(moment), "--to", str(out))["records"] == 6
        assert dict(read_records(out / "facts.jsonl")).keys() == {b"door", b"gone", b"kept"}
        refused_words = ("snapshot", "restore", "--at", str(moment), "--fleet")
        assert command(nodes, *refused_words)[0] == ExitCode.USAGE, "nobody agreed"
        dry = said(nodes, *refused_words, "--dry-run")
        assert (dry["differences"], dry["set_back"]) == (6, 0)
        assert {(row["kind"], row["key"]) for row in dry["rows"]} == {
            ("facts", "door"), ("facts", "gone"), ("facts", "new"), ("marks", "seen"), ("tallies", "visits"), ("beliefs", "rain"),
        }  # fmt: skip
        assert {kind: dict(knowledge.query(kind)) for kind in before} == later, "a dry run changes nothing"
        assert said(nodes, *refused_words, "--kind", "tallies", "--yes")["set_back"] == 1
        assert knowledge.get("tallies", "visits") == 7 and knowledge.get("facts", "new") == 1
        done = said(nodes, *refused_words, "--yes")
        assert (done["set_back"], done["partly"]) == (5, 0)
        assert {kind: dict(knowledge.query(kind)) for kind in before} == before
        assert [key for key, _ in knowledge.query("facts", tag="old")] == ["gone"], "tags come back, too"
        until(lambda: {kind: dict(oak.knowledge.query(kind)) for kind in before} == before, 15, "oak is set back")
        assert said(nodes, *refused_words, "--yes")["differences"] == 0


def test_snapshots_of_a_running_node_and_of_one_that_stopped(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("ash")
    with nodes.connect("ash") as ash:
        for number in range(200):
            ash.knowledge.put("facts", f"room/{number:03}", {"n": number, "x": "y" * number})
        first = said(nodes, "snapshot", "create", "monday")
        assert first["records"] >= 200 and first["base"] is None
        ash.knowledge.put("facts", "room/000", "changed")
        second = said(nodes, "snapshot", "create", "tuesday")
        assert second["base"] == "monday"
        assert "there already" in command(nodes, "snapshot", "create", "monday")[2]
        assert command(nodes, "snapshot", "create", "../x")[0] == ExitCode.CONFIG
    listed = {line["name"]: line for line in said(nodes, "snapshot", "list")}
    assert listed.keys() == {"monday", "tuesday"}
    assert all((line["node"], line["member"]) == ("ash", "ash") for line in listed.values()), "signed by the node"
    assert command(nodes, "snapshot", "verify", "tuesday", "--deep")[0] == 0
    assert nodes.stop("ash") == 0
    third = said(nodes, "snapshot", "create", "--of", "ash")
    assert third["base"] == "tuesday" and third["new_bytes"] < first["new_bytes"]
    assert command(nodes, "snapshot", "create", "--of", "nobody")[0] == ExitCode.NOT_FOUND
    for name, value in (("monday", {"n": 0, "x": ""}), ("tuesday", "changed"), (Path(third["folder"]).name, "changed")):
        assert said(nodes, "snapshot", "restore", name, "--to", str(tmp_path / name))["records"] == 200
        rows = {}
        for line in (tmp_path / name / "facts.jsonl").read_text().splitlines():
            record = json.loads(line)
            rows[record["key"]] = record["value"]
        assert rows["room/000"] == value and rows["room/199"]["n"] == 199
    # A snapshot has the past in it: the moment of the first can be had from the second.
    at = str(first["stamp"])
    assert said(nodes, "snapshot", "restore", "tuesday", "--at", at, "--to", str(tmp_path / "back"))["records"] == 200
    assert (tmp_path / "back" / "facts.jsonl").read_text() == (tmp_path / "monday" / "facts.jsonl").read_text()
    nodes.start("ash")
    with nodes.connect("ash") as ash:
        assert ash.knowledge.get("facts", "room/000") == "changed", "looking at a stopped node's file changed nothing"
        ash.knowledge.put("facts", "room/000", "again")
        assert ash.knowledge.get("facts", "room/000") == "again"


def test_automatic_ones_come_and_go(tmp_path: Path) -> None:
    nodes = Nodes(
        tmp_path / "home",
        settings=SETTINGS | {"SWARM_KNOWLEDGE_SNAPSHOT_EVERY_S": "0.2", "SWARM_KNOWLEDGE_SNAPSHOT_KEEP": "3"},
    )
    nodes.start("ash")
    try:
        folder = nodes.home.node_dir("ash") / "snapshots"
        with nodes.connect("ash") as ash:
            mine = said(nodes, "snapshot", "create", "mine")

            def names() -> list[str]:
                return sorted(path.name for path in folder.glob("auto-*"))

            seen = set[str]()
            deadline = time.monotonic() + 30
            number = 0
            while len(seen) < 5:
                assert time.monotonic() < deadline
                ash.knowledge.put("facts", "n", number)
                number += 1
                seen |= set(names())
                time.sleep(0.05)
            until(lambda: len(names()) <= 3, 10, "the oldest go")
            assert Path(mine["folder"]).exists(), "those that somebody asked for stay"
            until(lambda: verify(folder / names()[-1]).whole, 10)

            def rests() -> bool:
                there = names()
                time.sleep(0.8)  # four times the interval
                return names() == there

            until(rests, 20, "nothing new is known: nothing is taken")
    finally:
        assert set(nodes.stop_all().values()) <= {0}


def fill(fleet: Fleet, count: int, size_bytes: int, what: str = "page") -> None:
    """So many facts, quickly."""
    rng = random.Random(what)
    values = [encode_plain(rng.randbytes(size_bytes)) or b"" for _ in range(count)]
    for first in range(0, count, 500):  # a node takes so many questions at once
        asking = [
            fleet._engine.asking("knowledge.put", {"kind": "facts", "key": f"{what}/{number:05}"}, values[number])
            for number in range(first, min(first + 500, count))
        ]
        for each in asking:
            each.result(60)


def facts_in_log(nodes: Nodes, name: str, event: str) -> list[str]:
    return [line for line in (nodes.root / f"{name}.log").read_text(errors="replace").splitlines() if event in line]


def test_who_joins_has_shards_from_several_and_answers_at_once(nodes: Nodes) -> None:
    nodes.start("ash")
    nodes.start("oak")
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
        until(lambda: len(ash.members()) == 2, 20, "members")
        early = ash.knowledge.put("facts", "page/00007", "before")
        time.sleep(0.01)
        fill(ash, 500, 2500)
        last = random.Random("page").randbytes(2500)
        until(lambda: oak.knowledge.get("facts", "page/00499") is not None, 30, "oak has it")
        until(lambda: len(list(oak.knowledge.query("facts", prefix="page/"))) == 500, 30, "oak has all")
        nodes.start("elm")
        with nodes.connect("elm") as elm:
            # As soon as it is linked to one who knows, nothing that is known is said to be unknown.
            until(lambda: elm.knowledge.get("facts", "page/00001") is not None, 20, "a first answer")
            assert not facts_in_log(nodes, "elm", "snapshot.joined"), "the answer came before all was here"
            answers = 0
            while not facts_in_log(nodes, "elm", "snapshot.joined"):
                for number in (0, 250, 499):
                    assert elm.knowledge.get("facts", f"page/{number:05}") is not None
                    answers += 1
                assert answers < 3000, nodes.log("elm")
            assert answers
            assert elm.knowledge.get("facts", "page/00000") == last
            assert len(list(elm.knowledge.query("facts", prefix="page/"))) == 500
            (joined,) = facts_in_log(nodes, "elm", "snapshot.joined")
            how = json.loads(joined)
            assert how["gave"] == 2 and how["bulk_bytes"] > 0 == how["control_bytes"], joined
            ash.knowledge.put("facts", "page/00000", "new")
            known(elm, "page/00000", "new")
            # It has the past with it, which it has not seen itself.
            assert elm.knowledge.get("facts", "page/00007", at=early) == "before"
    (joined_one,) = (nodes.home.node_dir("elm") / "snapshots").iterdir()
    assert verify(joined_one).whole


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    with path.open("r+b") as file:
        file.write(data)


def test_a_flipped_bit_is_found_and_repaired_from_a_peer(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path / "home", settings=SETTINGS | {"SWARM_KNOWLEDGE_CHECK_EVERY_S": "0.5"})
    nodes.start("ash")
    nodes.start("oak")
    try:
        with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
            until(lambda: len(ash.members()) == 2, 20, "members")
            time.sleep(2)  # who has begun just now may join the other, and has its snapshot then: it is not asked for
            fill(ash, 150, 3000)
            until(lambda: ask(ash, "snapshot.digests")[0] == ask(oak, "snapshot.digests")[0], 30, "oak has all")
            # Where another node has the same in a snapshot it comes from there; else it would be made again from the log.
            said(nodes, "snapshot", "create", "theirs", "--of", "oak")
            found = said(nodes, "snapshot", "create", "mine", "--of", "ash")
            path = max(Path(found["folder"]).glob("knowledge-*"), key=lambda path: path.stat().st_size)
            whole = path.read_bytes()
            flip(path, 300)
            until(lambda: facts_in_log(nodes, "ash", "snapshot.repaired"), 30, "it is repaired")
            (damaged, *_), (repaired, *_) = (
                facts_in_log(nodes, "ash", f"snapshot.{what}") for what in ("damaged", "repaired")
            )
            assert json.loads(damaged)["chunks"] == 1 and json.loads(repaired)["left"] == 0
            assert json.loads(repaired)["from_peers_bytes"] > 0
            assert path.read_bytes() == whole and verify(Path(found["folder"])).whole
            assert not facts_in_log(nodes, "ash", "unrepaired")
            # The file of the log, too: it is read now and then, and written again from what is known.
            file = nodes.home.node_dir("ash") / "knowledge.db"
            with contextlib.closing(sqlite3.connect(file)) as db:
                payload = bytearray(db.execute("SELECT payload FROM segments").fetchone()[0])
                good = bytes(payload)
                payload[200] ^= 1
                db.execute("UPDATE segments SET payload = ? WHERE payload = ?", (bytes(payload), good))
                db.commit()
                until(
                    lambda: db.execute("SELECT count(*) FROM segments WHERE payload = ?", (good,)).fetchone()[0],
                    30,
                    "mended",
                )
    finally:
        assert set(nodes.stop_all().values()) <= {0}


def test_from_node_to_node_and_on_after_a_kill(nodes: Nodes) -> None:
    for name in ("ash", "oak"):
        nodes.start(name)
    with nodes.connect("ash") as ash, nodes.connect("oak") as oak:
        until(lambda: len(ash.members()) == 2, 20, "members")
        fill(ash, 900, 6000)
        until(lambda: len(list(oak.knowledge.query("facts", prefix="page/"))) == 900, 60, "oak has all")
        made = said(nodes, "snapshot", "create", "mine", "--of", "ash")
        begun, _ = ask(oak, "snapshot.fetch", of="oak", name="mine", node="ash")
        for _ in range(10_000):
            if ask(oak, "snapshot.progress", transfer=begun["transfer"])[0]["bytes"]:
                break
        nodes.kill("oak")
    target = nodes.home.node_dir("oak") / "snapshots" / "mine"
    if target.exists():  # it was quicker
        assert verify(target).whole
        shutil.rmtree(target)
    again_after_kill(nodes, "oak")
    with nodes.connect("oak") as oak:
        until(lambda: len(oak.members()) == 2, 20, "members")
        until(
            lambda: (
                "there are: ash" in str(command(nodes, "snapshot", "pull", "x", "--from-node", "no", "--of", "oak"))
            ),
            20,
        )
        pulled = said(nodes, "snapshot", "pull", "mine", "--from-node", "ash", "--of", "oak")
        assert pulled["id"] == made["id"] and verify(target, deep=True).whole
        again = command(nodes, "snapshot", "pull", "mine", "--from-node", "ash", "--of", "oak")
        assert again[0] and "there already" in again[2]
        assert (
            "no snapshot nothing"
            in command(nodes, "snapshot", "pull", "nothing", "--from-node", "ash", "--of", "oak")[2]
        )
        # The other way: what is there already is not sent.
        shutil.rmtree(target)
        oak.knowledge.put("facts", "page/00000", "changed")
        own = said(nodes, "snapshot", "create", "own", "--of", "oak")
        sent = said(nodes, "snapshot", "push", "own", "--to-node", "ash")
        assert sent["id"] == own["id"] and verify(nodes.home.node_dir("ash") / "snapshots" / "own", deep=True).whole
        assert sent["reused_bytes"] + sent["kept_bytes"] > sent["bytes"]
        # Killed while it takes one: it is there whole or not at all, and nothing of it is left behind.
        folder = nodes.home.node_dir("oak") / "snapshots"
        asked = threading.Thread(target=create_full, args=(oak,))
        asked.start()
        until(lambda: list(folder.glob(".full*")) or (folder / "full").exists(), 20, "it is being written")
        nodes.kill("oak")
    asked.join(60)
    again_after_kill(nodes, "oak")
    until(lambda: not list(folder.glob(f".full*{BEGUN}")), 20, "what was begun is cleared away")
    assert not (folder / "full").exists() or verify(folder / "full").whole
    assert verify(folder / "own").whole


def again_after_kill(nodes: Nodes, name: str) -> None:
    path = nodes.home.node_socket(name)
    path.unlink()  # that of the dead: to be waited for is the new one
    nodes.start(name)

    def answers() -> bool:
        with socket.socket(socket.AF_UNIX) as door:
            return door.connect_ex(str(path)) == 0

    until(answers, 20, f"{name} answers")


def create_full(fleet: Fleet) -> None:
    with contextlib.suppress(SwarmError, TimeoutError):
        ask(fleet, "snapshot.create", 20.0, of="oak", name="full", full=True)


def test_where_it_is_asked_for_all_of_them_are_encrypted_and_joining_reads_them(tmp_path: Path) -> None:
    settings = SETTINGS | {"SWARM_KNOWLEDGE_SNAPSHOT_ENCRYPT": "true", "SWARM_KNOWLEDGE_SNAPSHOT_EVERY_S": "0.5"}
    nodes = Nodes(tmp_path / "home", settings=settings)
    nodes.start("ash")
    try:
        folder = nodes.home.node_dir("ash") / "snapshots"
        with nodes.connect("ash") as ash:
            fill(ash, 200, 2500)
            ash.knowledge.put("facts", "secret", "the key is under the mat " * 50)
            said(nodes, "snapshot", "create", "mine")
            ash.knowledge.put("facts", "more", 1)  # what is known already is in a snapshot: no other is taken of it
            until(lambda: list(folder.glob("auto-*")), 30, "one by itself")
            nodes.start("elm")
            with nodes.connect("elm") as elm:
                known(elm, "secret", "the key is under the mat " * 50)
                until(lambda: facts_in_log(nodes, "elm", "snapshot.joined"), 60, "by a snapshot")
                assert len(list(elm.knowledge.query("facts", prefix="page/"))) == 200
        said(nodes, "snapshot", "restore", "mine", "--of", "ash", "--to", str(tmp_path / "back"))
        assert "under the mat" in (tmp_path / "back" / "facts.jsonl").read_text()
    finally:
        assert set(nodes.stop_all().values()) <= {0}
    shards = [path for name in ("ash", "elm") for path in (nodes.home.node_dir(name) / "snapshots").rglob("*.shard")]
    assert shards
    for path in shards:
        with open(path, "rb") as file:
            assert b"under the mat" not in file.read()
    for made in folder.iterdir():
        if made.is_dir():
            with Snapshot.open(made) as snapshot:
                assert all(snapshot.shard(name).header.encrypted for name in snapshot.names)
