"""`swarm snapshot`: from files of records and back, who is believed, what is said of damage, and what status it ends with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgpack
import pytest

from nodes.cli.command_line import run
from nodes.record_files import BadRecords, line_of, read_log, read_records, write_records
from swarm.exit_codes import ExitCode
from swarm.snapshots import read_manifest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWARM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SWARM_DEBUG", raising=False)
    return tmp_path / "home"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    folder = tmp_path / "records"
    folder.mkdir()
    lines = [{"key": f"key {i:04}", "value": {"number": i, "text": "x" * (i % 50)}} for i in range(3000)]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "people.jsonl").write_text('{"key": "añn", "value": null}\n\n{"key64": "/w==", "value64": "xAEA"}\n')
    return folder


def said(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def change(records: Path) -> None:
    with (records / "people.jsonl").open("a") as file:
        file.write('{"key": "bob", "value": [1, 2.5, "x"]}\n')


def shards(folder: Path) -> dict[str, dict[bytes, bytes]]:
    return {path.stem: dict(read_records(path)) for path in sorted(folder.glob("*.jsonl"))}


def damage(folder: Path) -> None:
    path = next(folder.glob("facts-*"))
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.unlink()  # others share it
    path.write_bytes(data)


def test_there_and_back(records, tmp_path, capsys):
    assert run(["snapshot", "create", "monday", "--from", str(records), "--unsigned", "--json"]) == ExitCode.OK
    first = said(capsys)
    assert first["records"] == 3002 and first["shards"] == 2 and first["base"] is None
    before = shards(records)
    change(records)
    assert run(["snapshot", "create", "tuesday", "--from", str(records), "--unsigned", "--json"]) == ExitCode.OK
    second = said(capsys)
    assert second["base"].endswith("monday") and second["new_bytes"] < first["new_bytes"] / 2 < second["shared_bytes"]
    assert run(["snapshot", "create", "whole", "--from", str(records), "--unsigned", "--full", "--json"]) == ExitCode.OK
    assert said(capsys)["shared_bytes"] == 0
    assert run(["snapshot", "list", "--json"]) == ExitCode.OK
    assert [line["name"] for line in said(capsys)] == ["monday", "tuesday", "whole"]
    assert run(["snapshot", "diff", "monday", "tuesday", "--json"]) == ExitCode.OK
    assert said(capsys) == {"kind": "added", "shard": "people", "key": "bob"}
    assert run(["snapshot", "verify", "tuesday", "--deep"]) == ExitCode.OK
    assert "whole:" in capsys.readouterr().out
    assert run(["snapshot", "restore", "monday", "--to", str(tmp_path / "back")]) == ExitCode.OK
    assert shards(tmp_path / "back") == before
    assert run(["snapshot", "restore", "monday", "--to", str(tmp_path / "back")]) == ExitCode.USAGE
    assert "there already" in capsys.readouterr().err


def test_damage_is_said_and_repaired_and_pulled_around(records, home, tmp_path, capsys):
    assert run(["snapshot", "create", "s", "--from", str(records), "--unsigned"]) == ExitCode.OK
    shutil.copytree(home / "data" / "snapshots" / "s", tmp_path / "copy")
    damage(home / "data" / "snapshots" / "s")
    capsys.readouterr()
    assert run(["snapshot", "verify", "s", "--json"]) == ExitCode.FAILED
    report = said(capsys)
    assert not report["whole"] and [(each["shard"], each["chunk"]) for each in report["damage"]] == [("facts", 0)]
    assert run(["snapshot", "verify", "s"]) == ExitCode.FAILED
    out = capsys.readouterr()
    assert "DAMAGED" in out.out and "repair s --from" in out.err
    assert run(["snapshot", "restore", "s", "--to", str(tmp_path / "back")]) == ExitCode.FAILED
    assert "chunk 0 of facts is damaged" in capsys.readouterr().err and not (tmp_path / "back").exists()
    sources = ["--from", str(home / "data" / "snapshots" / "s"), "--from", str(tmp_path / "copy")]
    assert run(["snapshot", "pull", "pulled", *sources, "--json"]) == ExitCode.OK
    assert said(capsys)["chunks"] > 0
    assert run(["snapshot", "repair", "s", "--from", str(tmp_path / "copy"), "--json"]) == ExitCode.OK
    assert [each["chunk"] for each in said(capsys)["repaired"]] == [0]
    for name in ("s", "pulled"):
        assert run(["snapshot", "verify", name]) == ExitCode.OK
    capsys.readouterr()
    for name, reused in (("s", False), ("pulled", True)):
        assert run(["snapshot", "push", name, "--to", str(tmp_path / "disk"), "--json"]) == ExitCode.OK
        assert bool(said(capsys)["reused_bytes"]) == reused
        assert run(["snapshot", "verify", str(tmp_path / "disk" / name)]) == ExitCode.OK
        capsys.readouterr()


def test_members_sign_and_are_believed_and_others_are_not(records, home, tmp_path, capsys, monkeypatch):
    assert run(["snapshot", "create", "s", "--from", str(records)]) == ExitCode.NO_FLEET
    assert "--unsigned" in capsys.readouterr().err
    assert run(["fleet", "init", "--name", "lab"]) == ExitCode.OK
    assert run(["snapshot", "create", "s", "--from", str(records), "--encrypt"]) == ExitCode.OK
    assert run(["snapshot", "create", "bare", "--from", str(records), "--unsigned"]) == ExitCode.OK
    capsys.readouterr()
    assert run(["snapshot", "list", "--json"]) == ExitCode.OK
    listed = {line["name"]: line["member"] for line in said(capsys)}
    assert listed["s"] and not listed["bare"]
    assert run(["snapshot", "restore", "s", "--to", str(tmp_path / "1")]) == ExitCode.OK
    assert shards(tmp_path / "1") == shards(records)
    assert run(["snapshot", "restore", "bare", "--to", str(tmp_path / "2")]) == ExitCode.DENIED
    assert run(["snapshot", "restore", "bare", "--to", str(tmp_path / "2"), "--any-signer"]) == ExitCode.OK
    # a stranger's fleet neither believes it nor has the key
    there = home / "data" / "snapshots" / "s"
    monkeypatch.setenv("SWARM_HOME", str(tmp_path / "stranger"))
    assert run(["fleet", "init", "--name", "other"]) == ExitCode.OK
    for more, why in (([], "no member"), (["--any-signer"], "another key")):
        capsys.readouterr()
        assert run(["snapshot", "restore", str(there), "--to", str(tmp_path / "3"), *more]) == ExitCode.DENIED
        assert why in capsys.readouterr().err
    assert run(["snapshot", "verify", str(there)]) == ExitCode.OK, "that anybody can"


def test_any_moment(records, tmp_path, capsys):
    assert run(["snapshot", "create", "s", "--from", str(records), "--unsigned"]) == ExitCode.OK
    made = read_manifest(tmp_path / "home" / "data" / "snapshots" / "s").created_ms
    log = tmp_path / "log.jsonl"
    lines = [
        {"stamp": made + 10, "shard": "people", "key": "bob", "value": 1},
        {"stamp": made + 20, "shard": "people", "key": "añn"},
        {"stamp": made + 30, "shard": "people", "key": "bob", "value": 2},
    ]
    log.write_text("\n".join(map(json.dumps, lines)))
    for at, wanted in ((5, {"añn": None}), (10, {"añn": None, "bob": 1}), (25, {"bob": 1}), (99, {"bob": 2})):
        folder = tmp_path / str(at)
        assert (
            run(["snapshot", "restore", "s", "--to", str(folder), "--at", str(made + at), "--log", str(log)])
            == ExitCode.OK
        )
        found = shards(folder)["people"]
        assert {key.decode(): msgpack.unpackb(value) for key, value in found.items() if key != b"\xff"} == wanted
    for words in (["--at", "5"], ["--at", "yesterday", "--log", str(log)]):
        assert run(["snapshot", "restore", "s", "--to", str(tmp_path / "x"), *words]) == ExitCode.USAGE
    assert (
        run(["snapshot", "restore", "s", "--to", str(tmp_path / "x"), "--at", str(made - 1), "--log", str(log)])
        == ExitCode.FAILED
    )
    assert "earlier snapshot" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["{", "[]", '{"value": 1}', '{"key": 1, "value": 1}', '{"key": "a"}', '{"key": "a", "value64": "?"}', '{"key": "a", "value": 1e999999, "x": "\\ud800"}', '{"key": "\\ud800", "value": 1}', '{"key": "a", "value": 99999999999999999999999}'])  # fmt: skip
def test_lines_that_are_no_records_are_named(tmp_path, line):
    (tmp_path / "s.jsonl").write_text('{"key": "ok", "value": 1}\n' + line)
    try:
        list(read_records(tmp_path / "s.jsonl"))
    except BadRecords as error:
        assert "line 2" in str(error)
    else:
        assert "1e999999" in line
    assert run(["snapshot", "create", "s", "--from", str(tmp_path), "--unsigned"]) in (ExitCode.DATA, ExitCode.OK)
    with pytest.raises(BadRecords):
        list(read_log(tmp_path / "s.jsonl"))


def test_every_value_comes_back_as_it_was(tmp_path):
    values = [None, True, 1, -5, 2**63, 1.5, float("inf"), "é", b"bytes", [1, [2]], {"a": {"b": 1}}, {1: 2}]
    records = [(b"%d" % i, msgpack.packb(value)) for i, value in enumerate(values)]
    records += [(b"\xff\xfe", b"no MessagePack \xc1"), (b"long", b"\xd2\0\0\0\1"), (b"", b"")]
    write_records(tmp_path / "s.jsonl", records)
    assert list(read_records(tmp_path / "s.jsonl")) == records
    assert line_of(b"a", msgpack.packb({"x": 1})) == {"key": "a", "value": {"x": 1}}


def test_what_is_not_there_is_said(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(["snapshot", "verify", "nothing"]) == ExitCode.NOT_FOUND
    assert run(["snapshot", "create", "s", "--from", str(tmp_path / "empty"), "--unsigned"]) == ExitCode.NOT_FOUND
    assert run(["snapshot", "create", "../s", "--from", str(tmp_path / "empty")]) == ExitCode.NOT_FOUND
    capsys.readouterr()
    assert run(["snapshot", "list"]) == ExitCode.OK
    assert "no snapshots" in capsys.readouterr().err
