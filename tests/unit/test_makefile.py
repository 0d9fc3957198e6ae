"""What a machine lacks for `make` is named, before anything is made."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def check(tmp_path: Path, python: str, *tools: str) -> subprocess.CompletedProcess[str]:
    """`make check-tools` with nothing but these programs on the PATH."""
    for tool in tools:
        found = shutil.which(tool)
        if found is None:
            pytest.skip(f"there is no {tool} here")
        (tmp_path / tool).symlink_to(found)
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make here")
    return subprocess.run(
        [make, "-C", str(ROOT), "check-tools", f"PYTHON={python}"],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_no_python(tmp_path: Path) -> None:
    done = check(tmp_path, "python-that-is-nowhere")
    assert done.returncode and "error: no python-that-is-nowhere found" in done.stdout
    assert "python3-venv" in done.stdout


def test_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\n[ \"$1\" = -V ] && echo 'Python 3.9.2' && exit 0\nexit 1\n")
    old.chmod(0o755)
    done = check(tmp_path, str(old))
    assert done.returncode and "Python 3.11 or later is needed, this is Python 3.9.2" in done.stdout


def test_no_compiler(tmp_path: Path) -> None:
    done = check(tmp_path, sys.executable)
    assert done.returncode and "error: no C compiler found" in done.stdout and "apt-get install gcc" in done.stdout


def test_a_compiler_without_headers(tmp_path: Path) -> None:
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\necho 'fatal error: stdlib.h: No such file or directory' >&2\nexit 1\n")
    compiler.chmod(0o755)
    done = check(tmp_path, sys.executable)
    assert done.returncode and "headers of the C library" in done.stdout and "libc6-dev" in done.stdout


def test_a_python_with_the_lock_is_not_taken_for_one_without(tmp_path: Path) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make here")
    locked = tmp_path / "python"
    locked.write_text("#!/bin/sh\nexit 1\n")
    locked.chmod(0o755)
    done = subprocess.run(
        [make, "-C", str(ROOT), "free-threaded", f"PYTHON={locked}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode and "is no free-threaded Python" in done.stdout and "--disable-gil" in done.stdout
