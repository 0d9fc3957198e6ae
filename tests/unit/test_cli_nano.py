"""`swarm nano`: what people type, and what they see."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from nodes.cli import command_line

SCRIPT = """
from swarm import nano

class Cell(nano.Kind, capacity=1000):
    x: nano.f64
    news = nano.writes("news")

    def tick(self, now_ns, bus):
        self.x += 1
        bus.publish("news", b"a")
        if self.row == WRONG:
            raise ValueError("not me")

WRONG = -1

def population():
    flock = nano.NanoSwarm(seed=4)
    flock.spawn(Cell, 100, rate_hz=1000, budget=1e6)
    return flock

def failing():
    global WRONG
    WRONG = 7
    return population()

def nothing():
    return 5
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "cells_of_cli.py").write_text(SCRIPT)
    yield "cells_of_cli.py"
    sys.modules.pop("cells_of_cli", None)


def swarm(capsys, *words):
    status = command_line.run(["nano", *words])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_run_save_inspect_and_resume(script, capsys):
    status, out, err = swarm(capsys, "run", script, "--seconds", "100ms", "--save", "cells.blob")
    assert status == 0
    assert "Cell  object" in out and "10,000" in out and "news" in out and "100 passes over 0.1 s" in out
    assert "saved 100 agents at 0.1 s" in err
    status, out, _ = swarm(capsys, "inspect", "cells.blob", "--json")
    said = json.loads(out)
    assert said["kinds"][0] | {"schema": ""} == {
        "name": "cells_of_cli:Cell", "rows": 100, "capacity": 1000, "agents": 100, "schema": "",
    }  # fmt: skip
    assert (said["now_s"], said["passes"], said["seed"], said["topics"]) == (0.1, 100, 4, ["news"])
    status, out, _ = swarm(capsys, "inspect", "cells.blob")
    assert status == 0 and "its own" in out
    status, out, _ = swarm(capsys, "resume", "cells.blob", "--passes", "5", "--json")
    said = json.loads(out)
    assert (said["ticks"], said["passes"]) == (500, 5)


def test_resume_finds_the_script_where_one_stands(script, tmp_path):
    program = [sys.executable, "-P", "-c", "import sys; from nodes.cli import main; sys.exit(main())", "nano"]
    for words in (["run", script, "--passes", "2", "--save", "cells.blob"], ["resume", "cells.blob", "--passes", "3"]):
        done = subprocess.run([*program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    assert "3 passes over" in done.stdout


def test_a_tick_that_raises_is_shown_and_the_rest_goes_on(script, capsys):
    status, out, err = swarm(capsys, "run", f"{script}:failing", "--seconds", "10ms")
    assert status == 1
    assert "Cell 7: ValueError: not me" in err
    assert "99" in out and "991" in out


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nowhere.py", "there is no script nowhere.py"), ("no_such_module", "no module 'no_such_module'"),
        ("cells_of_cli.py:birds", "has no 'birds'"), ("cells_of_cli.py:nothing", "no population is in"),
        ("cells_of_cli:WRONG", "no population is in"),
    ],
)  # fmt: skip
def test_what_makes_no_population_is_said(script, capsys, what, said):
    status, _, err = swarm(capsys, "run", what)
    assert status == 2 and said in err and "hint:" in err


def test_a_file_that_is_no_population_is_said(script, capsys):
    for action in ("inspect", "resume"):
        status, _, err = swarm(capsys, action, script)
        assert status == 1 and "no saved population" in err
        status, _, err = swarm(capsys, action, "gone.blob")
        assert status != 0 and "gone.blob: No such file" in err
    assert swarm(capsys, "run", script, "--passes", "-1")[0] == 2
    assert swarm(capsys, "benchmark", "--agents", "0")[0] == 2


def test_a_profile_is_a_file_of_trace_events(script, capsys, tmp_path):
    status, out, err = swarm(capsys, "profile", script, "--seconds", "20ms", "--trace-events", "t.json", "--calls", "7")
    assert status == 0 and "2,000" in out and "t.json" in err
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert [each["ph"] for each in events] == ["M", *["X"] * 7, "I"]
    assert swarm(capsys, "profile", script, "--calls", "0")[0] == 2


def test_benchmark_measures_every_form(capsys):
    status, out, _ = swarm(capsys, "benchmark", "--agents", "50", "--seconds", "20ms", "--json")
    said = json.loads(out)
    assert status == 0 and [each["form"] for each in said["forms"]] == ["native_many", "native", "generator", "object"]
    assert all(each["ticks"] and each["p99_ns"] >= each["p50_ns"] > 0 for each in said["forms"])
    status, out, _ = swarm(capsys, "benchmark", "--agents", "50", "--seconds", "20ms", "--form", "native")
    assert status == 0 and out.splitlines()[1].startswith("native  chained")


def test_the_live_view_draws_over_itself(script):
    primary, secondary = pty.openpty()
    shown = b""
    with subprocess.Popen(
        [sys.executable, "-m", "nodes.cli", "nano", "run", script, "--live", "--seconds", "5"],
        stdout=subprocess.PIPE, stderr=secondary, env=os.environ | {"TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(secondary)
        try:
            while chunk := os.read(primary, 65536):
                shown += chunk
        except OSError:
            pass  # how a terminal of Linux ends
        os.close(primary)
        assert process.stdout is not None
        out = process.stdout.read().decode()
    assert process.returncode == 0
    assert b"M ticks a second" in shown and b"BUDGET" in shown and b"\x1b[J" in shown
    assert "5,000 passes over 5 s" in out
