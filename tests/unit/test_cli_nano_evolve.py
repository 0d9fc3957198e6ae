"""`swarm nano evolve`: what people type, and what they see."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys

import pytest

from nodes.cli import command_line

SCRIPT = """
import math
import time

import numpy as np

ROWS = np.linspace(-2, 2, 21)[:, None]
number = 5

def sphere(x):
    return -float((x**2).sum())

def formula(it):
    return -float(np.abs(it(ROWS) - (ROWS[:, 0] ** 2 + 1)).max())

def raises(x):
    if x[0] > 0:
        raise ValueError("not above 0")
    return float("nan") if x[1] > 0 else -float((x**2).sum())

def never(x):
    raise KeyError("always")

def writes(x):
    x[:] = 0
    return float(x.sum())

def slow(x):
    time.sleep(0.01)
    return sphere(x)
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "fit_of_cli.py").write_text(SCRIPT)
    yield "fit_of_cli.py"
    sys.modules.pop("fit_of_cli", None)


def evolve(capsys, *words):
    status = command_line.run(["nano", "evolve", *words])
    said = capsys.readouterr()
    return status, said.out, said.err


ARRAY = ("--array", "5", "--bounds", "-5", "5", "--population", "20", "--seed", "3")


def test_a_line_a_generation_and_the_result(script, capsys, tmp_path):
    status, out, err = evolve(
        capsys, f"{script}:sphere", *ARRAY, "--generations", "12", "--baseline", "--save", "best.json"
    )
    assert status == 0
    lines = [line for line in err.splitlines() if "diversity" in line]
    assert [int(line.split()[0]) for line in lines] == list(range(1, 13)) and all("random" in line for line in lines)
    saved = json.loads((tmp_path / "best.json").read_text())
    assert saved["fitness"] == -sum(x * x for x in saved["genome"]) and len(saved["genome"]) == 5
    assert saved["evaluations"] == 20 + 11 * 18 == saved["baseline"]["evaluations"]
    assert saved["fitness"] > saved["baseline"]["random"], "it beats random search at equal evaluations"
    assert f"best {saved['fitness']:.9g}" in out and "random search at equal evaluations" in out
    status, out, err = evolve(capsys, "fit_of_cli:sphere", *ARRAY, "--generations", "12", "--baseline", "--json")
    again = json.loads(out)
    assert status == 0 and (again["genome"], again["baseline"]) == (saved["genome"], saved["baseline"])
    best = [line["best"] for line in again["history"]]
    assert best == sorted(best) and again["history"][0]["diversity"] > again["history"][-1]["diversity"] > 0


def test_programs_are_shown_as_their_bytecode(script, capsys):
    words = ("--program", "1", "--population", "40", "--generations", "10", "--seed", "1")
    status, out, _ = evolve(capsys, f"{script}:formula", *words)
    assert status == 0 and "constants:" in out and "input" in out
    status, out, _ = evolve(capsys, f"{script}:formula", *words, "--json")
    found = json.loads(out)
    from kernels.stackvm import Program

    program = Program(bytes.fromhex(found["genome"]["code"]), tuple(found["genome"]["constants"]), 1, 1)
    assert program.depth >= 1 and found["history"][-1]["best"] == found["fitness"]


def test_a_checkpoint_goes_on_to_the_same_result(script, capsys, tmp_path):
    whole = json.loads(evolve(capsys, f"{script}:sphere", *ARRAY, "--generations", "9", "--baseline", "--json")[1])
    kept = ("--checkpoint", "c", "--json")
    assert evolve(capsys, f"{script}:sphere", *ARRAY, "--generations", "4", "--baseline", *kept)[0] == 0
    status, out, _ = evolve(capsys, f"{script}:sphere", "--generations", "9", "--resume", *kept)
    parts = json.loads(out)
    assert status == 0 and len(parts["history"]) == 5
    assert {**parts, "history": 0} == {**whole, "history": 0}
    status, _, err = evolve(capsys, f"{script}:sphere", *ARRAY, "--population", "21", "--resume", *kept)
    assert status == 2 and "--population: the checkpoint c was made with 20, not 21" in err
    raw = bytearray((tmp_path / "c").read_bytes())
    for at, said in ((0, "no checkpoint"), (15, "another version"), (60, "damaged"), (-1, "damaged")):
        wrong = bytearray(raw)
        wrong[at] ^= 1
        (tmp_path / "c").write_bytes(wrong)
        status, _, err = evolve(capsys, f"{script}:sphere", "--resume", "--checkpoint", "c")
        assert status == 2 and said in err
    for length in (0, 5, 20, len(raw) - 1):
        (tmp_path / "c").write_bytes(raw[:length])
        assert evolve(capsys, f"{script}:sphere", "--resume", "--checkpoint", "c")[0] == 2


def test_who_fails_fails_alone_and_is_counted(script, capsys):
    status, out, err = evolve(capsys, f"{script}:raises", *ARRAY, "--generations", "6")
    assert status == 0 and "best" in out
    assert "ValueError: not above 0" in err and "it returned NaN" in err and "evaluations gave no number" in err
    found = json.loads(evolve(capsys, f"{script}:raises", *ARRAY, "--generations", "6", "--json")[1])
    assert sum(found["reasons"].values()) == found["failures"] > 10
    status, out, err = evolve(capsys, f"{script}:never", *ARRAY, "--generations", "2")
    assert status == 1 and out == "" and "no genome had a fitness" in err and "KeyError: 'always'" in err


def test_a_function_cannot_change_what_is_evolved(script, capsys):
    found = json.loads(evolve(capsys, f"{script}:writes", *ARRAY, "--generations", "2", "--json")[1])
    assert found["fitness"] == 0 and any(found["genome"]) and found["history"][-1]["diversity"] > 0.3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gone.py:f", "--array", "2"), "there is no script gone.py"),
        (("no_such_module_here:f", "--array", "2"), "no module 'no_such_module_here'"),
        (("fit_of_cli.py", "--array", "2"), "names no function"),
        (("fit_of_cli.py:gone", "--array", "2"), "has no 'gone'"),
        (("fit_of_cli.py:number", "--array", "2"), "is a int, which cannot be called"),
        (("fit_of_cli.py:sphere",), "say what a genome is"),
        (("fit_of_cli.py:sphere", "--array", "2", "--program", "1"), "say what a genome is"),
        (("fit_of_cli.py:sphere", "--array", "0"), "not a whole number of at least 1"),
        (("fit_of_cli.py:sphere", "--array", "2", "--bounds", "nan", "1"), "bounds that are finite"),
        (("fit_of_cli.py:sphere", "--array", "2", "--bounds", "-1e308", "1e308"), "bounds that are finite"),
        (("fit_of_cli.py:sphere", "--array", "2", "--bounds", "2", "1"), "bounds that are finite"),
        (("fit_of_cli.py:sphere", "--program", "1", "--bounds", "1", "2"), "--bounds are those of --array"),
        (("fit_of_cli.py:sphere", "--program", "999"), "1 to 255 inputs"),
        (("fit_of_cli.py:sphere", "--array", "2", "--elites", "64"), "do not go together"),
        (("fit_of_cli.py:sphere", "--array", "2", "--mutation", "nan"), "out of bounds"),
        (("fit_of_cli.py:sphere", "--array", "2", "--crossover", "2"), "out of bounds"),
        (("fit_of_cli.py:sphere", "--array", "2", "--seed", "-1"), "whole number of at least 0"),
        (("fit_of_cli.py:sphere", "--array", "2", "--resume"), "--resume needs --checkpoint"),
        (("fit_of_cli.py:sphere", "--array", "2", "--timeout", "1s"), "--timeout needs --fleet"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(script, capsys, words, said):
    status, out, err = evolve(capsys, *words)
    assert status == 2 and said in err and "hint:" in err and out == "" and "Traceback" not in err


def test_files_that_cannot_be_written_are_said_before_the_work(script, capsys, tmp_path):
    for option in ("--save", "--checkpoint"):
        status, _, err = evolve(capsys, f"{script}:sphere", *ARRAY, option, "no/folder/x")
        assert status == 71 and "there is no folder" in err and "diversity" not in err
        status, _, err = evolve(capsys, f"{script}:sphere", *ARRAY, option, str(tmp_path))
        assert status == 71 and "it is a folder" in err


def test_scripts_that_raise_or_end_are_shown_with_their_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text, status, said in (
        ("x = 1\nx / 0\n", 1, "wrong_of_cli.py, line 2: ZeroDivisionError"),
        ("def f(:\n", 1, "line 1: SyntaxError"), ("import sys\nsys.exit(3)\n", 2, "ends the process: exit(3)"),
    ):  # fmt: skip
        (tmp_path / "wrong_of_cli.py").write_text(text)
        for where in ("wrong_of_cli.py:f", "wrong_of_cli:f"):
            sys.modules.pop("wrong_of_cli", None)
            found, _, err = evolve(capsys, where, "--array", "2")
            assert (found, said in err, "hint:" in err) == (status, True, True), err
    (tmp_path / "json.py").write_text("def f(x): return 0.0\n")
    status, _, err = evolve(capsys, "json.py:f", "--array", "2")
    assert status == 2 and "has the name of the module 'json'" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_prints_what_there_is_and_keeps_the_checkpoint(script, capsys, tmp_path, number):
    words = ("nano", "evolve", f"{script}:slow", *ARRAY, "--generations", "100000", "--checkpoint", "c")
    with subprocess.Popen(
        [sys.executable, "-m", "nodes.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        assert process.stderr is not None and process.stdout is not None
        for _ in range(3):
            assert "diversity" in process.stderr.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert out.startswith("best -") and "interrupted after" in err and "Traceback" not in err
    made = int(err.split("interrupted after ")[1].split()[0])
    sys.modules.pop("fit_of_cli", None)
    status, out, _ = evolve(
        capsys, f"{script}:sphere", "--generations", str(made + 1), "--resume", "--checkpoint", "c", "--json"
    )
    found = json.loads(out)
    assert status == 0 and [line["generation"] for line in found["history"]] == [made + 1]
    assert math.isfinite(found["fitness"])
