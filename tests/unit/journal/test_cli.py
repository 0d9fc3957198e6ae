"""`swarm journal`: what it says of a journal, and what status it ends with."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from nodes.cli.command_line import run
from nodes.journal.files import RealFiles
from nodes.journal.journal import Journal
from swarm.exit_codes import ExitCode
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Members, Snapshot, Vote
from tests.unit.journal.model import ID, NODES, SMALL
from tests.unit.journal.test_files import GROUP, entries, filled, image, opened, recovered


def rot(directory: Path, number: int = 0, offset: int = 8192 * 3 + 300) -> None:
    path = sorted(directory.glob("segment-*"))[number]
    data = bytearray(path.read_bytes())
    data[offset] ^= 16
    path.write_bytes(data)


def test_verify_says_that_it_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path, 20)
    before = image(tmp_path)
    assert run(["journal", "verify", str(tmp_path)]) == ExitCode.OK
    text = capsys.readouterr().out
    assert GROUP.hex() in text and "segment-000000000001" in text and "whole:" in text and "DAMAGED" not in text
    assert run(["journal", "verify", "--json", str(tmp_path)]) == ExitCode.OK
    report = json.loads(capsys.readouterr().out)
    assert report["whole"] and report["node"] == ID.node.hex() and report["missing_commits"] == 0
    assert [(group["entries"], group["term"], group["voted"]) for group in report["groups"]] == [
        (20, 1, NODES[0].hex())
    ]
    assert sum(segment["commits"] for segment in report["segments"]) >= 20
    assert image(tmp_path) == before, "nothing is changed"


def test_verify_says_where_the_damage_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path, 20)
    rot(tmp_path)
    before = image(tmp_path)
    assert run(["journal", "verify", str(tmp_path)]) == ExitCode.FAILED
    text = capsys.readouterr().out
    assert "DAMAGED" in text and "damaged" in text
    assert run(["journal", "verify", str(tmp_path), "--json"]) == ExitCode.FAILED
    report = json.loads(capsys.readouterr().out)
    assert not report["whole"]
    assert report["segments"][0]["damage"] == [{"group": GROUP.hex(), "records": 1}]
    assert not report["segments"][1]["damage"]
    assert report["groups"][0]["damaged"] and report["groups"][0]["entries"] == 2
    rot(tmp_path, offset=8192 * 3)  # the commit's header
    assert run(["journal", "verify", str(tmp_path), "--json"]) == ExitCode.FAILED
    assert json.loads(capsys.readouterr().out)["segments"][0]["damage"] == [
        {"offset": 8192 * 3, "commits": 1, "first": 3}
    ]
    assert run(["journal", "verify", str(tmp_path)]) == ExitCode.FAILED
    assert "1 lost at byte 24,576" in capsys.readouterr().out
    assert image(tmp_path).keys() == before.keys()


def test_verify_finds_a_state_file_that_has_rotted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path, 3)
    data = bytearray((tmp_path / "state-a").read_bytes())
    data[60] ^= 1
    (tmp_path / "state-a").write_bytes(data)
    assert run(["journal", "verify", str(tmp_path)]) == ExitCode.FAILED
    assert "state-a can not be read" in capsys.readouterr().out
    opened(tmp_path).close()
    assert run(["journal", "verify", str(tmp_path)]) == ExitCode.OK


def test_export_has_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = opened(tmp_path / "j")
    members = Members.of(NODES[:2], NODES[2:])
    journal.commit([Write(b"other", Vote(4, None), Snapshot(7, 3, members, b"state"), True, False, 0, ())])
    journal.commit([entries(1, 3)])
    journal.close()
    assert run(["journal", "export", str(tmp_path / "j")]) == ExitCode.OK
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["group"] for line in lines] == [GROUP.hex()] * 4 + [b"other".hex()]
    assert [line["index"] for line in lines[1:4]] == [1, 2, 3]
    assert base64.b64decode(lines[1]["data"]) == b"00000001" + bytes(100)
    assert lines[4]["snapshot"] == {
        "index": 7, "term": 3, "voters": [id.hex() for id in NODES[:2]], "learners": [NODES[2].hex()],
        "data": base64.b64encode(b"state").decode(),
    }  # fmt: skip
    out = tmp_path / "out"
    group = b"other".hex()[:4]
    assert run(["journal", "export", str(tmp_path / "j"), "--group", group, "--out", str(out), "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {"file": str(out), "groups": 1, "lines": 1, "damaged": 0}
    assert json.loads(out.read_text()) == lines[4]
    assert run(["journal", "export", str(tmp_path / "j"), "--group", "ffff"]) == ExitCode.NOT_FOUND


def test_export_of_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a journal that no node would open."""
    filled(tmp_path, 20)
    (tmp_path / "state-a").unlink()
    (tmp_path / "state-b").unlink()
    assert run(["journal", "verify", str(tmp_path)]) == ExitCode.SYSTEM
    assert "new identity" in capsys.readouterr().err
    assert run(["journal", "export", str(tmp_path)]) == ExitCode.OK
    assert len(capsys.readouterr().out.splitlines()) == 21
    sorted(tmp_path.glob("segment-*"))[-1].write_bytes(b"gone")
    assert run(["journal", "export", str(tmp_path)]) == ExitCode.OK
    assert 8 <= len(capsys.readouterr().out.splitlines()) < 21


def test_compact_leaves_what_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path, 40)
    journal = opened(tmp_path)
    journal.commit([Write(GROUP, None, Snapshot(38, 1, Members(), b"s"), False, False, 0, ())])
    journal.close()
    before = recovered(tmp_path)
    assert run(["journal", "compact", str(tmp_path), "--json"]) == ExitCode.OK
    said = json.loads(capsys.readouterr().out)
    assert said["after_bytes"] <= said["before_bytes"] / 2 and said["damaged"] == []
    assert recovered(tmp_path) == before and before.snapshot.index == 38 and len(before.entries) == 2
    assert run(["journal", "verify", str(tmp_path)]) == ExitCode.OK
    rot(tmp_path, offset=8192 + 300)
    assert run(["journal", "compact", str(tmp_path)]) == ExitCode.OK
    assert f"damaged: {GROUP.hex()}" in capsys.readouterr().err
    assert recovered(tmp_path).damaged


def test_a_journal_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal.open(RealFiles(tmp_path / "j"), ID, SMALL)
    for action in ("verify", "export", "compact"):
        assert run(["journal", action, str(tmp_path / "j")]) == ExitCode.SYSTEM
        assert "another process" in capsys.readouterr().err
    journal.close()


def test_which_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SWARM_HOME", str(tmp_path))
    assert run(["journal", "verify"]) == ExitCode.NOT_FOUND
    nodes = tmp_path / "data" / "nodes"
    (nodes / "one").mkdir(parents=True)
    filled(nodes / "one" / "journal", 2)
    assert run(["journal", "verify"]) == ExitCode.OK
    (nodes / "two").mkdir()
    filled(nodes / "two" / "journal", 3)
    assert run(["journal", "verify"]) == ExitCode.NOT_FOUND
    assert "one, two" in capsys.readouterr().err
    assert run(["journal", "verify", "--name", "two", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["groups"][0]["entries"] == 3
    assert run(["journal", "verify", "--name", "three"]) == ExitCode.NOT_FOUND
    assert run(["journal", "verify", str(tmp_path / "nowhere")]) == ExitCode.NOT_FOUND
    (tmp_path / "empty").mkdir()
    assert run(["journal", "verify", str(tmp_path / "empty")]) == ExitCode.SYSTEM
    assert not list((tmp_path / "empty").iterdir())
