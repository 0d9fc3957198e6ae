"""The wheel: built, installed where nothing of this tree is, and used as a user would.

Kernels that this tree has compiled of the very sources are taken as they are: that they can be compiled its own build has shown.
``TEST_PYTHONS="python3.12 python3.13"`` does this with other interpreters, too, and compiles for them. It needs a package index.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.e2e.fleets import until

ROOT = Path(__file__).parents[2]
PARTS = ("kernels", "transport", "swarm", "nodes", "setup.py", "pyproject.toml", "README.md", "LICENSE")
UNREACHABLE = ("No matching distribution", "Could not find a version", "Failed to establish a new connection")
PYTHONS = [sys.executable, *os.environ.get("TEST_PYTHONS", "").split()]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Place:
    """A virtual environment of its own, and an empty directory to be in."""

    def __init__(self, root: Path, python: str) -> None:
        self.root, self.venv, self.elsewhere = root, root / "venv", root / "elsewhere"
        self.elsewhere.mkdir()
        ours = ("PYTHON", "SWARM_", "VIRTUAL_ENV")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.env["PATH"] = f"{self.venv / 'bin'}:{self.env['PATH']}"
        self.env["SWARM_HOME"] = str(root / "home")
        self.env["KERNELS_BUILT"] = str(ROOT / "kernels")
        self.env["KERNELS_OPTIMIZE"] = "-O1"  # for other interpreters: how fast they are is not asked here
        subprocess.run([shutil.which(python) or python, "-m", "venv", self.venv], check=True, env=self.env)

    def run(self, *command: str | Path, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.elsewhere, env=self.env, capture_output=True, text=True, timeout=timeout_s
        )

    def pip(self, *words: str | Path) -> None:
        done = self.run(self.venv / "bin" / "pip", "--disable-pip-version-check", *words, timeout_s=900)
        if done.returncode and any(text in done.stderr for text in UNREACHABLE) and not os.environ.get("CI"):
            pytest.skip(f"no package index is reachable: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def says(self, *command: str | Path) -> str:
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module", params=PYTHONS, ids=lambda python: Path(python).name)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Built from a copy of the sources, with what pyproject.toml says it takes to build them."""
    place = Place(tmp_path_factory.mktemp("wheel"), request.param)
    source = place.root / "source"
    for part in PARTS:
        if (ROOT / part).is_dir():
            # C that Cython has made of the very sources is taken as it is: that it can be made the build of this tree has shown.
            made = shutil.ignore_patterns("*.so", "__pycache__")
            shutil.copytree(ROOT / part, source / part, ignore=made)
        else:
            shutil.copy(ROOT / part, source / part)
    place.pip("wheel", "--quiet", "--no-deps", "--wheel-dir", place.root / "dist", source)
    (wheel,) = (place.root / "dist").glob("*.whl")
    place.pip("install", "--quiet", wheel)
    shutil.rmtree(source)
    return place


def test_it_holds_the_kernels_and_what_a_node_starts_and_no_tests(place: Place) -> None:
    (wheel,) = (place.root / "dist").glob("nanoswarm-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    kernels = {Path(name).name.split(".")[0] for name in names if name.startswith("kernels/") and name.endswith(".so")}
    assert kernels == {path.stem for path in (ROOT / "kernels").glob("*.pyx")}
    assert {"nodes/worker/guest/__main__.py", "swarm/py.typed", "kernels/batch.pyi"} <= set(names)
    assert any(name.endswith("LICENSE") for name in names)
    tops = {name.split("/")[0] for name in names if not re.match(r"nanoswarm-[^/]*\.dist-info/", name)}
    assert tops == {"kernels", "transport", "swarm", "nodes"}


def test_a_node_and_the_first_script_elsewhere(place: Place) -> None:
    assert re.search(r"\b0\.1\.0\b", place.says("swarm", "version"))
    where = place.says(
        "python", "-c", "import kernels.batch, nodes, swarm; print(swarm.__file__, kernels.batch.__file__)"
    )
    assert all(Path(path).is_relative_to(place.venv) for path in where.split()), where
    with open(place.root / "log", "wb") as log:
        node = subprocess.Popen(
            ["swarm", "node", "--name", "oak", "--workers", "2"],
            env=place.env, cwd=place.elsewhere, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        socket = place.root / "home" / "run" / "oak.sock"
        until(lambda: socket.exists() or node.poll() is not None, 60, "the node is up")
        assert node.poll() is None, (place.root / "log").read_text()
        block = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
        assert block is not None
        (place.elsewhere / "first.py").write_text(block.group(1))
        assert place.says("python", "first.py").split() == [str(2**100), str(sum(x * x for x in range(1000))), "81"]
        assert place.says("swarm", "run", "--", "echo", "hello") == "hello\n"
        assert "oak" in place.says("swarm", "status")
    finally:
        node.send_signal(signal.SIGTERM)
        code = node.wait(60)
    assert code == 0, (place.root / "log").read_text()
