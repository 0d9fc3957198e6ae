"""`swarm audit --watch`, as it is typed: a report, then what becomes of each change, until Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fleets import ROOT, Nodes, until


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path / "m")
    nodes.start("oak", "--workers", "1")
    yield nodes
    assert nodes.stop_all() == {"oak": 0}


def change(file: Path, text: str) -> None:
    """At once: whoever looks in between does not see half of it."""
    new = file.parents[1] / "new"
    new.write_text(text)
    new.replace(file)


def start(nodes: Nodes, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nodes.cli", "audit", "--watch", "--every", "100ms", *words],
        env={**nodes.env, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_changes_are_told_as_they_come(nodes: Nodes, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.py").write_text("def f(x):\n    return x\n")
    (tree / "b.py").write_text("def g():\n    pass\n")
    page = tmp_path / "page.html"
    watch = start(nodes, "--json", "--html", str(page), str(tree))
    assert watch.stdout is not None

    def said() -> dict[str, object]:
        assert watch.stdout is not None
        found: dict[str, object] = json.loads(watch.stdout.readline())
        return found

    try:
        first = said()
        assert set(first["files"]) == {"a.py", "b.py"}  # type: ignore[call-overload]
        change(tree / "a.py", "def f(x):\n    return 1 if x and x > 2 else 3\n")
        second = said()
        assert second["changed"] == ["a.py"] and second["gone"] == []
        assert second["functions"] == [{"complexity": 3, "was": 1, "path": "a.py", "line": 1, "name": "f"}]
        until(lambda: "a.py" in page.read_text(), 60, "the page is written again")
        (tree / "b.py").unlink()
        third = said()
        assert third["gone"] == ["b.py"] and third["totals"]["files"] == 1  # type: ignore[index]
        watch.send_signal(signal.SIGINT)
        _, complaint = watch.communicate(timeout=60)
        assert (watch.returncode, complaint) == (130, "")
    finally:
        watch.kill()
        watch.wait()


def test_a_person_reads_lines(nodes: Nodes, tmp_path: Path) -> None:
    file = tmp_path / "tree" / "a.py"
    file.parent.mkdir()
    file.write_text("def f(x):\n    return x\n")
    watch = start(nodes, str(file))
    assert watch.stdout is not None
    try:
        while "MAINTAINABLE" not in watch.stdout.readline():
            pass
        change(file, "def f(:\n")
        line = ""
        while "1 changed" not in line:
            line = watch.stdout.readline()
        assert "not parsed  a.py: line 1" in watch.stdout.readline()
    finally:
        watch.terminate()
        watch.communicate(timeout=60)
