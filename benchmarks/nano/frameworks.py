"""Peers in an environment of their own (.venv-bench), made here when it is missing, and asked in processes of their own.

A peer that is not to be had is named, and does not stop the rest.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VENV = Path(".venv-bench")
PACKAGES = ("numpy", "numba", "mesa", "agentpy", "mesa-frames", "simpy", "uvloop", "celery[redis]", "psycopg[binary]")
SCRIPT = Path(__file__).with_name("peer.py")
INSTALL_S = 300


@functools.cache
def python() -> str | None:
    """The interpreter of the peers, or None. Packages that fail to install are named once and not tried again."""
    interpreter = VENV / "bin" / "python"
    tried = VENV / ".tried"
    if tried.is_file():
        return str(interpreter)
    print(f"installing peers into {VENV} (once)", flush=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True, capture_output=True, timeout=INSTALL_S)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"no peers: {error}", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        return None
    failed = [package for package in PACKAGES if not _install(str(interpreter), package)]
    tried.write_text("\n".join(failed))
    return str(interpreter)


def _install(interpreter: str, package: str) -> bool:
    pip = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--prefer-binary", package]
    try:
        return subprocess.run(pip, capture_output=True, timeout=INSTALL_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


class Peer:
    """A process that answers lines of JSON; `missing` says why there is none."""

    def __init__(self, name: str) -> None:
        self.missing: str | None = None
        self.version = ""
        self._process: subprocess.Popen[str] | None = None
        interpreter = python()
        if interpreter is None:
            self.missing = "no environment"
            return
        self._process = subprocess.Popen(
            [interpreter, str(SCRIPT), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        said = self._answer()
        self.version, self.missing = said.get("version", ""), said.get("missing")

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Have it measure something."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        said = self._answer()
        if "missing" in said:
            raise RuntimeError(said["missing"])
        return said

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        said = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(said) if said else {"missing": "it ended"}
        return answer

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(30)


@contextlib.contextmanager
def peer(name: str) -> Iterator[Peer]:
    """A peer for a while."""
    it = Peer(name)
    try:
        yield it
    finally:
        it.close()
