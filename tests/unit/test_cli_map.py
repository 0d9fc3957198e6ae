"""`swarm map`: placeholders as GNU parallel has them, a bounded window, outputs in one piece."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_fleet import CommandFleet, Handle
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.cli import main
from nodes.cli.templates import Template, fill, split_sources
from swarm.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[2]
SWARM = [sys.executable, str(ROOT / "tests" / "unit" / "command_fleet.py")]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def swarm(*words: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*SWARM, "map", *words], input=stdin, capture_output=True, timeout=60, cwd=cwd, env=ENV, check=False
    )


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> CommandFleet:
    made = CommandFleet()
    monkeypatch.setattr("swarm.connect", lambda **_: made, raising=False)
    return made


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{}", "d/a.b.c"),
        ("{.}", "d/a.b"),
        ("{/}", "a.b.c"),
        ("{//}", "d"),
        ("{/.}", "a.b"),
        ("{#}", "4"),
        ("{1}", "d/a.b.c"),
        ("{1/.}", "a.b"),
        ("x{}y{.}", "xd/a.b.cyd/a.b"),
        ("{2}", "{2}"),
        ("{x} {} {", "{x} d/a.b.c {"),
        ("${#a}", "${#a}"),
    ],
)
def test_placeholders(text: str, filled: str) -> None:
    assert fill(text, 4, ["d/a.b.c"]) == filled


def test_an_extension_of_a_directory_is_not_one_of_the_file() -> None:
    assert fill("{.}", 1, ["d.x/file"]) == "d.x/file"
    assert fill("{.}", 1, [".hidden"]) == ".hidden"
    assert fill("{//}", 1, ["file"]) == "."


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
@settings(max_examples=25, deadline=None)
def test_no_input_can_break_out_of_its_quotes(text: str) -> None:
    job = Template(("printf %s {}; true",)).job(1, [text])
    done = subprocess.run(job.argv, capture_output=True, timeout=20, check=True)
    assert done.stdout == os.fsencode(text)


def test_words_are_an_argument_list_and_a_line_is_for_the_shell() -> None:
    assert Template(("wc", "-l", "{}")).job(1, ["a b; rm"]).argv == ("wc", "-l", "a b; rm")
    assert Template(("wc", "-l")).job(1, ["a"]).argv == ("wc", "-l", "a")
    assert Template(("wc -l",)).job(1, ["a b"]).argv == ("sh", "-c", "wc -l 'a b'")
    assert Template(("gzip",)).job(1, ["a"]).argv == ("gzip", "a")
    assert Template(("{}",)).job(1, ["echo hi"]).argv == ("sh", "-c", "echo hi")


def test_sources_are_combined() -> None:
    assert split_sources(["echo", ":::", "a", "b", ":::", "c"]) == (("echo",), [["a", "b"], ["c"]])
    done = swarm("-k", "echo {1}-{2} {#}", ":::", "a", "b", ":::", "1", "2")
    assert done.stdout == b"a-1 1\na-2 2\nb-1 3\nb-2 4\n"


def test_inputs_come_by_lines_or_zero_bytes_or_from_a_file(tmp_path: Path) -> None:
    assert swarm("-k", "echo", "{}", stdin=b"a b\n\nc").stdout == b"a b\nc\n"
    assert swarm("-k", "-0", "echo", "{}", stdin=b"a\nb\0c").stdout == b"a\nb\nc\n"
    (tmp_path / "list").write_text("x\ny\n")
    assert swarm("-k", "-a", str(tmp_path / "list"), "echo").stdout == b"x\ny\n"


def test_output_keeps_the_order_of_inputs_when_asked() -> None:
    done = swarm("-k", "sleep {}; echo {}", ":::", "0.3", "0.2", "0.1", "0")
    assert done.stdout == b"0.3\n0.2\n0.1\n0\n"
    done = swarm("sleep {}; echo {}", ":::", "0.5", "0")
    assert done.stdout == b"0\n0.5\n"


def test_each_jobs_output_comes_in_one_piece() -> None:
    done = swarm("echo {}a; sleep 0.05; echo {}b", ":::", *map(str, range(8)))
    lines = done.stdout.split()
    assert sorted(lines) == sorted(f"{n}{x}".encode() for n in range(8) for x in "ab")
    assert all(lines[i][:-1] == lines[i + 1][:-1] for i in range(0, 16, 2))


def test_the_window_is_bounded_whatever_comes(fleet: CommandFleet) -> None:
    assert main(["map", "-j", "3", "true", ":::", *map(str, range(12))]) == ExitCode.OK
    assert len(fleet.submitted) == 12
    assert fleet.most_under_way <= 3


def test_with_order_a_slow_first_job_bounds_the_rest(fleet: CommandFleet) -> None:
    at_once: list[int] = []
    original = fleet.submit_command

    def submit(argv: list[str], **options: object) -> object:
        at_once.append(len(fleet.submitted))
        return original(argv, **options)  # type: ignore[arg-type]

    fleet.submit_command = submit  # type: ignore[method-assign, assignment]
    assert main(["map", "-k", "-j", "2", "sleep", ":::", "0.3", "0", "0", "0"]) == ExitCode.OK
    assert at_once == [0, 1, 2, 3]


def test_failures_are_told_and_are_the_status() -> None:
    done = swarm("-k", "echo {}; exit {}", ":::", "0", "3", "0")
    assert done.returncode == ExitCode.FAILED
    assert done.stdout == b"0\n3\n0\n"
    assert done.stderr.decode().splitlines() == ["failed: job 2 (3): exit status 3", "2 of 3 jobs ended well"]


def test_a_job_whose_file_is_missing_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("12")
    done = swarm("-k", "--in", "{}", "wc -c {}", ":::", "none.txt", "a.txt", cwd=tmp_path)
    assert done.returncode == ExitCode.FAILED
    assert done.stdout == b"2 a.txt\n"
    assert b"job 1 (none.txt): no file none.txt" in done.stderr


def test_files_by_placeholders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name)
    done = swarm("--in", "{}", "--out", "{.}.up", "tr a-z A-Z < {} > {.}.up", ":::", "a.txt", "b.txt", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [(tmp_path / f"{name}.up").read_text() for name in ("a", "b")] == ["A", "B"]


def test_fail_fast_begins_nothing_more(fleet: CommandFleet) -> None:
    assert main(["map", "-j", "1", "--fail-fast", "false", ":::", "1", "2", "3"]) == ExitCode.FAILED
    assert len(fleet.submitted) == 1


def test_dry_run_runs_nothing(fleet: CommandFleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", "--dry-run", "ffmpeg", "-i", "{}", "{.}.webm", ":::", "my film.mkv"]) == ExitCode.OK
    assert capsys.readouterr().out == "ffmpeg -i 'my film.mkv' 'my film.webm'\n"
    assert fleet.submitted == []


def test_json_is_one_object_a_job() -> None:
    done = swarm("--json", "-k", "echo {}; exit {}", ":::", "0", "4")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"job": 1, "inputs": ["0"], "exit": 0, "error": None, "out": "0\n"},
        {"job": 2, "inputs": ["4"], "exit": 4, "error": "exit status 4", "out": "4\n"},
    ]


def test_ctrl_c_cancels_what_runs_and_begins_nothing_more(tmp_path: Path) -> None:
    line = "echo started >&2; sleep 20"
    process = subprocess.Popen(
        [*SWARM, "map", "-u", "-j", "2", line, ":::", "1", "2", "3"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=ENV,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline() == b"started\n"
    assert process.stderr.readline() == b"started\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert b"started" not in err


def test_ctrl_c_in_the_middle_of_a_submit_cancels_that_job_too(
    fleet: CommandFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = fleet.submit_command

    def interrupted(*args: Any, **options: Any) -> Handle:
        handle = submit(*args, **options)
        os.kill(os.getpid(), signal.SIGINT)  # it runs, and nobody holds its handle yet
        time.sleep(0.01)
        return handle

    monkeypatch.setattr(fleet, "submit_command", interrupted)
    begun = time.monotonic()
    assert main(["map", "-j", "2", "sleep 60", ":::", "1", "2"]) == ExitCode.INTERRUPTED
    assert time.monotonic() - begun < 30
    assert len(fleet.submitted) == 1


def test_ctrl_c_while_inputs_do_not_come_cancels_what_runs() -> None:
    process = subprocess.Popen(
        [*SWARM, "map", "-u", "echo started; sleep 60"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"first\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"started\n"
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(30) == ExitCode.INTERRUPTED
    finally:
        process.kill()
        process.communicate()


def test_without_inputs_nothing_happens(fleet: CommandFleet) -> None:
    assert main(["map", "true", ":::"]) == ExitCode.OK
    assert fleet.submitted == []


def test_an_endless_input_without_line_ends_is_refused(tmp_path: Path) -> None:
    done = swarm("echo", stdin=b"x" * 500_000)
    assert done.returncode == ExitCode.USAGE
    assert b"--null" in done.stderr
