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

def real():
    flock = nano.NanoSwarm(time="real")
    flock.spawn(Cell, 10, rate_hz=200, budget=nano.Budget(1, on_overrun="demote"))
    return flock

def overrun(what):
    def build():
        flock = nano.NanoSwarm(time="real")
        flock.spawn(Cell, 10, rate_hz=200, budget=nano.Budget(1, on_overrun=what))
        flock.spawn(Cell, 10, rate_hz=200)
        return flock
    return build

warned, demoted, suspended, killed = map(overrun, ("warn", "demote", "suspend", "kill"))

class Stuck(Cell):
    def tick(self, now_ns, bus):
        while now_ns >= 500_000_000:
            pass

def stuck():
    flock = population()
    flock.spawn(Stuck, 5, rate_hz=1000)
    return flock
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


def test_what_follows_an_overrun_is_seen(script, capsys):
    seen = {}
    for what in ("warned", "demoted", "suspended", "killed"):
        status, out, _ = swarm(capsys, "run", f"{script}:{what}", "--seconds", "300ms", "--json")
        first, second = json.loads(out)["cohorts"]
        assert status == 0 and first["violations"] >= 10 and second["violations"] == 0 and second["budget_ns"] is None
        assert second["awake"] == 10 and second["late_ns"]["count"] == second["ticks"] > 0
        assert second["jitter_ns"]["count"] == second["ticks"] - 10
        seen[what] = (first["awake"], first["ticks"])
    assert seen["warned"][0] == seen["demoted"][0] == 10 and seen["suspended"] == seen["killed"] == (0, 10)
    assert seen["demoted"][1] < seen["warned"][1]


def test_alerts_are_raised_and_shown(script, capsys):
    words = (
        "run",
        script,
        "--seconds",
        "300ms",
        "--alert",
        "ticks_per_s > 50/ms of Cell",
        "--alert",
        "dropped_per_s > 1",
    )
    status, out, _ = swarm(capsys, *words)
    assert status == 0
    assert "ALERTS\nCell (cohort 0): ticks_per_s > 50000/s: 100000/s from 0 s\n" in out
    status, out, _ = swarm(capsys, *words, "--json")
    (raised,) = json.loads(out)["alerts"]
    assert (raised["metric"], raised["value"], raised["to_ns"]) == ("ticks_per_s", 100_000.0, None)
    status, out, _ = swarm(
        capsys, "run", script, "--seconds", "300ms", "--alert", "ticks_per_s > 1 then suspend", "--json"
    )
    assert json.loads(out)["cohorts"][0]["awake"] == 0
    assert json.loads(out)["anomalies"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("luck > 5", "no metric 'luck'"), ("late_p99_ns > 1", "virtual time"), ("ticks_per_s", "is no alert"),
        ("ticks_per_s > 5 of Bird", "no such kind or topic"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", [(), ("--isolate",)])
def test_an_alert_that_is_none_is_said(script, capsys, words, said, where):
    status, _, err = swarm(capsys, "run", script, "--alert", words, *where)
    assert status == 2 and said in err and "hint:" in err


def test_isolated_it_does_the_same(script, capsys):
    here = swarm(capsys, "run", script, "--seconds", "200ms", "--save", "here.blob", "--json")
    there = swarm(capsys, "run", script, "--seconds", "200ms", "--save", "there.blob", "--json", "--isolate")
    ours, theirs = json.loads(here[1]), json.loads(there[1])
    assert (ours["ticks"], ours["passes"], ours["topics"]) == (theirs["ticks"], theirs["passes"], theirs["topics"])
    assert theirs["incidents"] == [] and "incidents" not in ours
    assert open("here.blob", "rb").read() == open("there.blob", "rb").read()
    status, out, _ = swarm(capsys, "resume", "there.blob", "--passes", "5", "--isolate", "--json")
    assert status == 0 and json.loads(out)["passes"] == 5
    status, out, err = swarm(capsys, "run", f"{script}:failing", "--passes", "3", "--isolate")
    assert status == 1 and "Cell 7: ValueError: not me" in err
    assert swarm(capsys, "run", script, "--checkpoint", "1s")[0] == 2


def test_an_endless_tick_is_ended_and_named(script, capsys):
    status, _, err = swarm(capsys, "run", f"{script}:stuck", "--isolate", "--watchdog", "300ms")
    assert status == 1
    assert (
        "while Stuck ticked (cohort 1, rows 0 to 4, pass 500)" in err
        and "did not come back for" in err
        and "hint:" in err
    )
    status, out, err = swarm(
        capsys, "run", f"{script}:stuck", "--isolate", "--watchdog", "300ms", "--checkpoint", "0s", "--json"
    )
    said = json.loads(out)
    assert status == 0 and said["cohorts"][0]["ticks"] == 100_000 and said["cohorts"][1]["awake"] == 0
    assert len(said["incidents"]) == 1 and "Stuck" in said["incidents"][0]


def test_the_live_view_shows_lateness_jitter_and_alerts(script):
    from nodes.cli.nano_live import screen
    from nodes.nano_scripts import prepared

    flock = prepared(f"{script}:real", alerts=["violations_ratio > 10%"])
    shown = screen(flock.run_for(seconds=0.4), flock.now_ns)
    title = shown.splitlines()[1].split()
    assert title == ["KIND", "FORM", "AWAKE", "TICKS/S", "BUDGET", "P99", "LATE", "JITTER", "OVER"]
    assert len(shown.splitlines()[2].split()) == len(title) + 4, "with units"
    assert "alert    Cell (cohort 0): violations_ratio > 10 %: 100 %" in shown


NATIVE = """
from kernels.passes import TICKS
from swarm import nano

class Stone(nano.Kind, capacity=400_000):
    x: nano.f64
    v: nano.f64

fall = TICKS["move_many"]

def population():
    flock = nano.NanoSwarm(seed=4)
    flock.spawn(Stone.native_many(fall), 400_000, rate_hz=1000).v[:] = range(400_000)
    return flock
"""


def test_cores_change_what_runs_and_not_what_comes_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "stones_of_cli.py").write_text(NATIVE)
    from swarm import nano

    try:
        columns = []
        for cores in ("1", "3"):
            words = ("stones_of_cli.py", "--passes", "6", "--cores", cores, "--save", f"{cores}.nano", "--json")
            status, out, _ = swarm(capsys, "run", *words)
            assert status == 0
            assert json.loads(out)["ticks"] == 6 * 400_000
            kind = sys.modules["stones_of_cli"]
            again = nano.load((tmp_path / f"{cores}.nano").read_bytes(), ticks={"Stone": kind.fall})
            assert again.cores == int(cores)
            columns.append(again.cohorts[0].x.tobytes())
        assert columns[0] == columns[1] != bytes(len(columns[0]))
        status, _, err = swarm(capsys, "run", "stones_of_cli.py", "--cores", "0")
        assert status != 0 and "cores" in err
        status, out, _ = swarm(
            capsys, "benchmark", "--form", "native_many", "--agents", "300000", "--seconds", "50ms", "--cores", "2"
        )
        assert status == 0 and "2 cores" in out
    finally:
        sys.modules.pop("stones_of_cli", None)
