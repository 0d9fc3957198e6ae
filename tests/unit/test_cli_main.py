"""The manners of the command line: what is imported, how errors are told, which status says what."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from nodes.cli import command_line, main
from nodes.cli.arguments import environment, needs
from nodes.cli.command_line import VERBS
from nodes.cli.completion import SCRIPTS, candidates
from nodes.cli.screen import Progress, table, to_json
from swarm.errors import FleetNotFound, NotAccepted, SwarmError, TaskLost, UsageError
from swarm.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[2]
SLOW = {"pydantic", "pydantic_settings", "structlog", "prometheus_client", "zmq", "asyncio", "cryptography", "zeroconf"}


def loaded_by(*words: str) -> set[str]:
    """Top-level modules that a command line imports."""
    code = (
        f"import sys; from nodes.cli import main; status = main({list(words)!r})\n"
        "print('\\n' + ' '.join(sys.modules)); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", [("--help",), ("__complete", "ta"), ("__complete", "run", "--"), ("version",)])
def test_what_must_be_quick_imports_nothing_slow(words: tuple[str, ...]) -> None:
    assert not loaded_by(*words) & SLOW


def test_only_the_verb_that_is_called_is_imported() -> None:
    loaded = loaded_by("version")
    assert {name for name in VERBS if f"nodes.cli.{name}" in loaded} == {"version"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_the_common_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: swarm {verb}" in shown
    assert "--json" in shown
    assert importlib.import_module(f"nodes.cli.{verb}").__doc__


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["statsu"], ExitCode.USAGE, "did you mean `swarm status`?"),
        (["--colour"], ExitCode.USAGE, "unknown option --colour"),
        (["task"], ExitCode.USAGE, "`swarm task --help`"),
        (["map", "--jobs", "0", "x"], ExitCode.USAGE, "whole number"),
        (["run", "--timeout", "soon", "--", "x"], ExitCode.USAGE, "is not a duration"),
        (["run"], ExitCode.USAGE, "no command given"),
        (["completion", "tcsh"], ExitCode.USAGE, "bash"),
        (["config", "show", "--workers", "x"], ExitCode.CONFIG, "node.workers"),
        (["fleet", "join", "nonsense"], ExitCode.DENIED, "token"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(
    words: list[str], code: ExitCode, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    message, blank, hint = err.splitlines()
    assert message.startswith("error: ")
    assert (blank, hint[:6]) == ("", "hint: ")
    assert told in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FleetNotFound("no fleet", hint="start a node"), ExitCode.NO_FLEET),
        (NotAccepted("full", retry_after_s=2.0), ExitCode.BUSY),
        (TaskLost("gone"), ExitCode.LOST),
        (OSError(28, "No space left on device", "/x"), ExitCode.SYSTEM),
        (ValueError("ours"), ExitCode.INTERNAL),
    ],
)
def test_the_status_says_which_kind_and_json_says_the_same(
    error: Exception, code: ExitCode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nodes.cli import version

    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(version, "run", fail)
    assert main(["version"]) == code
    assert "Traceback" not in capsys.readouterr().err
    assert main(["--json", "version"]) == code
    told = json.loads(capsys.readouterr().err)
    assert told["exit"] == code
    assert told["kind"] == type(error).__name__
    assert main(["version", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_options_of_the_command_are_not_ours() -> None:
    assert "--json" not in command_line._before_command(["run", "--", "ls", "--json"])


def test_a_pipe_that_closes_early_is_quiet() -> None:
    line = f"{sys.executable} -m nodes.cli config show --toml | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")


def test_ctrl_c_ends_quietly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from nodes.cli import version

    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(version, "run", interrupted)
    assert main(["version"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_without_a_command_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == ExitCode.USAGE
    assert main(["--help"]) == ExitCode.OK
    assert main(["help"]) == ExitCode.OK
    for verb in VERBS:
        assert capsys.readouterr().out.count(f"\n  {verb}") in (0, 3)
    assert main(["--version"]) == ExitCode.OK
    assert "python" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["ta"], ["task"]),
        (["task", ""], ["cancel", "explain", "list", "logs", "move", "nice", "show", "wait"]),
        (["--json", "completion", ""], ["bash", "fish", "zsh"]),
        (["run", "--priority", "h"], ["high"]),
        (["task", "list", "--lim"], ["--limit"]),
        (["config", "show", "--http-p"], ["--http-port"]),
        (["run", "--", "l"], []),
        (["nonsense", ""], []),
    ],
)
def test_completion_offers_what_is_taken(words: list[str], found: list[str]) -> None:
    assert candidates(words) == found


def test_completion_works_in_bash() -> None:
    script = (
        'swarm() { "$PYTHON" -m nodes.cli "$@"; }; eval "$(swarm completion bash)"\n'
        'COMP_WORDS=(swarm fleet jo); COMP_CWORD=2; _swarm; echo "${COMPREPLY[@]}"\n'
        'COMP_WORDS=(swarm ""); COMP_CWORD=1; _swarm; echo "${#COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    )
    assert done.stdout.split() == ["join", str(len(VERBS) + 2)], done.stderr
    assert set(SCRIPTS) == {"bash", "zsh", "fish"}


def test_a_table_fits_its_width_and_cuts_the_widest() -> None:
    shown = table(("NAME", "SIZE>", "NOTE"), [("oak", 5, "x" * 200), ("日本", 1234, "y")], width=40)
    lines = shown.splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert lines[1].startswith("oak   ")
    assert "…" in lines[1]
    assert lines[1].index("   5  ") < lines[1].index("x")
    assert "1234" in lines[2]


def test_what_a_peer_is_called_can_not_drive_the_terminal() -> None:
    assert "\x1b" not in table(("NAME",), [("\x1b[2J\x07evil\n",)])


def test_progress_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10) as progress:
        for done in range(10):
            progress.update(done)
    assert capsys.readouterr() == ("", "")
    assert progress.line(2.0) == "━" * 21 + "╌" * 3 + "  9/10  4.5/s  222 ms left"


def test_json_shows_ids_as_text() -> None:
    assert json.loads(to_json({"id": b"\x00" * 16, "path": Path("/x"), "labels": ("a",), "set": {"b"}})) == {
        "id": "0" * 26,
        "path": "/x",
        "labels": ["a"],
        "set": ["b"],
    }


def test_needs_and_environment_as_given() -> None:
    assert needs(["gpu=1,memory=2GB", "cpu=0.5"]) == {"gpu": 1.0, "memory": 2e9, "cpu": 0.5}
    assert environment(["A=1=2", "B", "C="], {"B": "b"}) == {"A": "1=2", "B": "b", "C": ""}
    for wrong in ("gpu", "gpu=x", "=1", "gpu=-1", "gpu=nan"):
        with pytest.raises(UsageError):
            needs([wrong])
    for wrong in ("=1", "UNSET"):
        with pytest.raises(UsageError):
            environment([wrong], {})


def test_an_error_has_its_message_even_when_it_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.report(SwarmError(), json=False, debug=False) == ExitCode.FAILED
    assert capsys.readouterr().err == "error: SwarmError\n"
