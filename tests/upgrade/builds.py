"""Builds of this tree beside each other: as it is, and as a next release could be, laid out as a wheel is when it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.fleets import Nodes
from tests.upgrade import next_minor

ROOT = Path(__file__).parents[2]
PARTS = ("kernels", "transport", "swarm", "nodes", "pyproject.toml", "README.md", "LICENSE")


def build(root: Path, version: str, *, changed: bool) -> Path:
    """A directory with the packages and their metadata, from a copy of the sources; with `changed` as a next minor release has them.

    The compiled kernels are those of this tree: their sources are the same.
    """
    source, place = root / f"source-{version}", root / version
    source.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            made = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
            shutil.copytree(ROOT / part, source / part, ignore=made)
        else:
            shutil.copy(ROOT / part, source / part)
    for name, pattern in (
        ("pyproject.toml", r'(?m)^version = "[^"]+"$'),
        ("swarm/__init__.py", r'(?m)^__version__ = "[^"]+"$'),
    ):
        path = source / name
        text, count = re.subn(pattern, lambda found: re.sub(r'"[^"]+"', f'"{version}"', found[0]), path.read_text())
        assert count == 1, name
        path.write_text(text)
    if changed:
        next_minor.apply(source)
    for kernel in (ROOT / "kernels").glob("*.pyx"):
        assert (source / "kernels" / kernel.name).read_bytes() == kernel.read_bytes()
    (source / "setup.py").write_text("from setuptools import setup\n\nsetup()\n")
    place.mkdir()
    _run(source, sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(place))
    _run(source, sys.executable, "setup.py", "-q", "dist_info", "--output-dir", str(place))
    for kernel in (ROOT / "kernels").glob("*.so"):
        shutil.copy(kernel, place / "kernels")
    shutil.rmtree(source)
    return place


def _run(where: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


class MixedNodes(Nodes):
    """Nodes of one home, each of a build of its own; nothing of this tree is on their way."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "home", settings={"SWARM_HTTP_PORT": "0"})
        self.elsewhere = root / "elsewhere"
        self.elsewhere.mkdir(parents=True)
        self.builds: dict[str, Path] = {}
        """What each node runs."""

    def start(self, name: str, *flags: str) -> None:
        """Start a node, of the build that is named for it."""
        self.env["PYTHONPATH"] = str(self.builds[name])
        super().start(name, "--workers", "1", "--ledger-zone", f"zone-{name}", *flags)

    def of(self, build: Path, *words: str, node: str = "", timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """The command `swarm` of a build, at a node."""
        env = {**self.env, "PYTHONPATH": str(build)}
        if node:
            env["SWARM_NODE_SOCKET"] = str(self.home.node_socket(node))
        return subprocess.run(
            [sys.executable, "-m", "nodes.cli", *words], env=env, cwd=self.elsewhere, capture_output=True, text=True,
            timeout=timeout_s,
        )  # fmt: skip
