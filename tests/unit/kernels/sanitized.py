"""C harnesses over the headers of the kernels, compiled and run under ThreadSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KERNELS = Path(__file__).resolve().parents[3] / "kernels"
# -Wno-tsan: fences are not followed by ThreadSanitizer, which is why the headers do not rely on them alone
FLAGS = ["-std=gnu11", "-O1", "-g", "-pthread", "-fsanitize=thread", "-Wall", "-Wextra", "-Werror", "-Wno-tsan"]
TRIAL = "int main(void) { return 0; }"


def _missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(program), *arguments]
    if shutil.which("setarch"):  # ThreadSanitizer of older compilers does not cope with much randomness of addresses
        command = ["setarch", "-R", *command]
    env = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1 exitcode=66"}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=env, check=False)


def build(source: str, folder: Path) -> Path:
    """The harness, as a program. Skips (in CI: fails) where there is no compiler with a working ThreadSanitizer."""
    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc")
    if compiler is None:
        _missing("no C compiler")
        raise AssertionError
    trial = folder / "trial.c"
    trial.write_text(TRIAL)
    made = subprocess.run([compiler, *FLAGS, str(trial), "-o", str(folder / "trial")], capture_output=True, check=False)
    if made.returncode != 0 or _run(folder / "trial").returncode != 0:
        _missing("no ThreadSanitizer")
    program = folder / Path(source).stem
    command = [compiler, *FLAGS, "-D_GNU_SOURCE", f"-I{KERNELS}", str(HERE / source), "-o", str(program)]
    made_text = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert made_text.returncode == 0, made_text.stderr
    return program


def clean(program: Path, *arguments: str) -> str:
    """What it prints, when it ends well and nothing was reported."""
    ran = _run(program, *arguments)
    assert ran.returncode == 0, f"{program.name} {' '.join(arguments)} -> {ran.returncode}\n{ran.stdout}{ran.stderr}"
    return ran.stdout
