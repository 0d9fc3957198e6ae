"""Every Python block and every `$ swarm …` line of README and docs is run, against a real node, as a reader would run it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOT_RUN = (
    "make ",  # the two commands have tests of their own
    "sudo ",
    "swarm node",  # the fixture's node is what it starts
)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    home = tmp_path_factory.mktemp("h")
    env = {**os.environ, "SWARM_HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env.pop("SWARM_NODE_SOCKET", None)
    log = (home / "log").open("wb")
    node = subprocess.Popen(
        [sys.executable, "-m", "nodes.cli", "node", "--name", "oak"], env=env, stdout=log, stderr=log, cwd=ROOT
    )
    try:
        deadline = time.monotonic() + 60
        while not list((home / "run").glob("*.sock")):
            assert node.poll() is None and time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.05)
        yield env
    finally:
        node.send_signal(signal.SIGTERM)
        assert node.wait(60) == 0, (home / "log").read_text()
        log.close()


def _blocks(language: str) -> list[object]:
    found = []
    for page in PAGES:
        for number, match in enumerate(BLOCK.finditer(page.read_text()), 1):
            if match.group(1) == language:
                found.append(pytest.param(match.group(2), id=f"{page.name}-{number}"))
    return found


def _commands() -> list[object]:
    found = []
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text()):
            if match.group(1) == "console":
                for line in match.group(2).splitlines():
                    if line.startswith("$ ") and not line[2:].startswith(NOT_RUN):
                        found.append(pytest.param(line[2:], id=f"{page.name}-{line[2:30]}"))
    return found


@pytest.mark.parametrize("code", _blocks("python"))
def test_python_blocks_run(code: str, env: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "snippet.py"
    script.write_text(code)
    ran = subprocess.run(
        [sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=200, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout, "a snippet shows something"


@pytest.mark.parametrize("command", _commands())
def test_commands_run(command: str, env: dict[str, str], tmp_path: Path) -> None:
    assert shutil.which("swarm", path=env["PATH"]), "the command is installed"
    for script in (ROOT / "examples" / "nano").glob("*.py"):
        shutil.copy(script, tmp_path)
    ran = subprocess.run(["sh", "-c", command], env=env, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
