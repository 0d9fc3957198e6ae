"""`swarm run` behaves like the command that it runs: streams, input, signals, status. Real processes throughout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_fleet import CommandFleet

from nodes.cli import main
from nodes.cli.run import Output
from nodes.cli.staging import bring_back, inputs, name_there
from swarm.client.receipts import Receipt
from swarm.errors import NotFound, UsageError
from swarm.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[2]
SWARM = [sys.executable, str(ROOT / "tests" / "unit" / "command_fleet.py")]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def swarm(*words: str, stdin: bytes | None = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*SWARM, *words], input=stdin, capture_output=True, timeout=60, cwd=cwd, env=ENV, check=False)


def start(*words: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen([*SWARM, *words], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=ENV)


def test_streams_and_status_are_the_commands() -> None:
    done = swarm("run", "--", "sh", "-c", "echo out; echo err >&2; printf '\\377'; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n\xff", b"err\n")


def test_input_is_forwarded_and_can_be_left_out() -> None:
    data = os.urandom(300_000)
    assert swarm("run", "--", "cat", stdin=data).stdout == data
    assert swarm("run", "-n", "--", "cat", stdin=data).stdout == b""


def test_output_comes_while_it_is_written() -> None:
    process = start("run", "--", "sh", "-c", "echo first; sleep 20")
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_go_to_the_command(number: signal.Signals) -> None:
    process = start(
        "run",
        "--",
        "sh",
        "-c",
        f"trap 'echo got; exit 9' {number.name[3:]}; echo up; for i in $(seq 400); do sleep 0.05; done",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (9, b"got\n")


def test_the_second_signal_leaves_at_once() -> None:
    process = start(
        "run", "--", "sh", "-c", "trap 'echo heard' INT; echo up; for i in $(seq 400); do sleep 0.05; done; echo late"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"heard\n"  # two that come before a process has its turn are one
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_a_signal_that_ended_the_command_is_the_status() -> None:
    assert swarm("run", "--", "sh", "-c", "kill -9 $$").returncode == 137


def test_the_last_status_counts_when_it_was_tried_again() -> None:
    done = swarm("run", "--retries", "2", "--", "sh", "-c", "exit 5")
    assert (done.returncode, done.stderr) == (5, b"")


def test_a_reader_that_goes_away_ends_the_command() -> None:
    line = f'"{SWARM[0]}" "{SWARM[1]}" run -- yes | head -n 1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, env=ENV, check=False)
    assert done.stdout.split() == ["y", "141"]
    assert done.stderr == ""


def test_files_go_there_and_come_back(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("a")
    (tmp_path / "data" / "b.txt").write_text("b")
    done = swarm(
        "run", "--in", "data", "--out", "made/all.sh", "--", "sh", "-c",
        "mkdir made; cat data/*.txt > made/all.sh; chmod 755 made/all.sh", cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "made" / "all.sh").read_text() == "ab"
    assert os.access(tmp_path / "made" / "all.sh", os.X_OK)
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["all.sh"]


def test_what_a_command_did_not_leave_is_told(tmp_path: Path) -> None:
    done = swarm("run", "--out", "model.pt", "--", "true", cwd=tmp_path)
    assert done.returncode == ExitCode.RUN_ERROR
    assert b"model.pt" in done.stderr
    assert swarm("run", "--out", "model.pt", "--", "false", cwd=tmp_path).returncode == 1


def test_an_input_that_is_not_there_is_told_before_anything_runs() -> None:
    done = swarm("run", "--in", "nothing.csv", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (ExitCode.RUN_ERROR, b"")
    assert done.stderr.startswith(b"error: no file nothing.csv\n\nhint: ")


def test_json_tells_how_it_ended_beside_its_output() -> None:
    done = swarm("run", "--json", "--", "sh", "-c", "echo out; exit 3")
    assert done.stdout == b"out\n"
    assert json.loads(done.stderr) == {"exit": 3, "signal": None, "missing": []}


def test_options_become_those_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = CommandFleet()
    monkeypatch.setattr("swarm.connect", lambda **_: fleet, raising=False)
    words = [
        "run",
        "-n",
        "--needs",
        "gpu=1",
        "--label",
        "fast",
        "-p",
        "high",
        "--timeout",
        "2m",
        "--retries",
        "2",
        "--rerun",
    ]
    assert main([*words, "--env", "A=b", "--", "sh", "-c", 'test "$A" = b']) == 0
    (submitted,) = fleet.submitted
    assert submitted == {
        "argv": ["sh", "-c", 'test "$A" = b'],
        "env": {"A": "b"},
        "files_in": [],
        "files_out": [],
        "needs": {"gpu": 1.0},
        "labels": ["fast"],
        "priority": 2,
        "timeout_s": 120.0,
        "retries": 2,
        "rerun": True,
        "durability": "none",
    }


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/b", "a/b"), ("./a//b/", "a/b"), ("/x/y.py", "y.py"), ("../z", "z"), ("a/../b", "b"), (".", ".")],
)
def test_names_there(path: str, name: str) -> None:
    if name == ".":
        with pytest.raises(UsageError):
            name_there(path)
    else:
        assert name_there(path) == name


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").touch()
    with pytest.raises(UsageError, match="both be x"):
        inputs([str(tmp_path / "a" / "x"), str(tmp_path / "b" / "x")])
    with pytest.raises(NotFound):
        inputs([str(tmp_path / "c")])


def test_nothing_is_written_that_was_not_asked_for(tmp_path: Path) -> None:
    fleet = CommandFleet()
    fleet.blobs[b"d"] = b"data"
    names = ["out/a", "out/../../evil", "/etc/evil", "other", "outer"]
    ended = {"out": [[name, b"d", 4, 0o4777] for name in names], "missing": []}
    assert bring_back(fleet, ended, {"out": tmp_path / "here"}) == []
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()] == [Path("here/a")]
    assert (tmp_path / "here" / "a").stat().st_mode & 0o7000 == 0


def test_output_counts_as_taken_when_it_is_written(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    output = Output()
    taken: list[int] = []
    output.took = taken.append
    assert output.put("out", b"x" * 11) is False, "not yet"
    assert output.put("err", b"y") is False
    assert not taken
    output.close()
    output.write_all()
    assert taken == [11, 1]
    assert capfdbinary.readouterr() == (b"x" * 11, b"y")


class Detaching:
    """A fleet that accepts, and is left."""

    def __init__(self) -> None:
        self.submitted: list[dict[str, Any]] = []
        self.detached = False

    def __enter__(self) -> Detaching:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit_command(self, argv: list[str], **options: Any) -> Any:
        self.submitted.append({"argv": argv, **options})
        receipt: Future[Receipt] = Future()
        receipt.set_result(Receipt(2, 2, 5, 60.0))
        return SimpleNamespace(id="a-task", batch_id="a-batch", receipt=receipt)

    def detach(self) -> None:
        self.detached = True


def test_what_is_left_to_the_fleet_is_kept_and_its_id_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Detaching()
    monkeypatch.setattr("swarm.connect", lambda **_: fleet, raising=False)
    assert main(["run", "--detach", "--", "true"]) == 0
    out, err = capsys.readouterr()
    assert (out, fleet.detached) == ("a-task\n", True) and "2 disks of 2 hosts" in err
    assert fleet.submitted[0]["durability"] == "fleet" and not fleet.submitted[0].get("stdin")
    assert main(["map", "--detach", "--durability", "node", "echo {}", ":::", "a", "b"]) == 0
    assert capsys.readouterr().out == "a-batch\n"
    assert [one["durability"] for one in fleet.submitted[1:]] == ["node", "node"]
    assert main(["run", "--json", "--detach", "--", "true"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ids": ["a-task"], "copies": 2, "hosts": 2}


def test_what_is_kept_nowhere_cannot_be_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("swarm.connect", lambda **_: Detaching(), raising=False)
    assert main(["run", "--detach", "--durability", "none", "--", "true"]) == ExitCode.USAGE
    assert "--durability node or fleet" in capsys.readouterr().err
