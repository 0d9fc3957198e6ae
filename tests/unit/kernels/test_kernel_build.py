"""A machine that cannot compile is told what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
WITHOUT_HEADERS = """
import pathlib, runpy
there = pathlib.Path.is_file
pathlib.Path.is_file = lambda path: path.name != "Python.h" and there(path)
runpy.run_path("setup.py")
"""


@pytest.mark.parametrize(
    ("start", "environment", "what"),
    [
        (["setup.py"], {"CC": "/nowhere/cc"}, "no C compiler was found (/nowhere/cc)"),
        (["-c", WITHOUT_HEADERS], {}, "the C headers of this Python were not found"),
    ],
)
def test_what_is_missing_is_named(tmp_path, start, environment, what):
    pytest.importorskip("Cython")
    command = [sys.executable, *start, "-q", "build_ext", "--force", "-b", str(tmp_path), "-t", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode != 0
    assert what in done.stderr
    assert "build-essential python3-dev" in done.stderr
    assert not list(tmp_path.iterdir())
