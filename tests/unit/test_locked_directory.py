"""Directories of one process: kept while it lives, removed by whoever comes next when it did not do so itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodes import locked_directory
from swarm.errors import SystemRefused

ROOT = Path(__file__).resolve().parents[2]
MAKE = "import sys; from pathlib import Path; from nodes import locked_directory as l; print(l.make(Path(sys.argv[1]), 'oak'))"


def made_by_another(parent: Path, rest: str = "") -> tuple[Path, subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", f"{MAKE}; sys.stdout.flush(); {rest or 'sys.stdin.read()'}", str(parent)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return Path(process.stdout.readline().strip()), process


def test_what_a_killed_process_left_goes_and_what_lives_stays(tmp_path: Path) -> None:
    parent = tmp_path / "scratch"
    living, one = made_by_another(parent)
    killed, other = made_by_another(parent)
    (killed / "locked").mkdir()
    (killed / "locked" / "file").write_text("x")
    (killed / "locked").chmod(0)
    other.kill()
    other.communicate()
    try:
        own = locked_directory.make(parent, "elm")
        assert own.is_dir() and living.is_dir() and not killed.exists()
        locked_directory.remove(own)
        assert parent.is_dir(), "another process has a directory there"
        locked_directory.remove(living)
        assert not parent.exists()
    finally:
        one.communicate("")


def test_a_half_made_one_is_left_to_who_makes_it_until_it_is_old(tmp_path: Path) -> None:
    parent = tmp_path / "scratch"
    half = parent / "half"
    half.mkdir(parents=True)
    locked_directory.make(parent, "oak")
    assert half.is_dir()
    old = half.stat().st_mtime - locked_directory.MAKING_MAX_S - 1
    os.utime(half, (old, old))
    locked_directory.make(parent, "elm")
    assert not half.exists()


def test_one_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemRefused) as caught:
        locked_directory.make(tmp_path / "file" / "scratch", "oak")
    assert str(tmp_path / "file") in str(caught.value) and caught.value.hint
