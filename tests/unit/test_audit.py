"""The audit: figures equal radon's, what cannot be measured is listed, what is known is not measured again."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest
from radon.complexity import cc_visit
from radon.metrics import mi_visit
from radon.raw import analyze

from swarm.tools.audit.cache import Cache
from swarm.tools.audit.collect import find, read
from swarm.tools.audit.html import page
from swarm.tools.audit.job import Report, audit
from swarm.tools.audit.measure import measure_source
from tests.unit.audit_here import Here

STDLIB = Path(sysconfig.get_paths()["stdlib"])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "package" / "__pycache__").mkdir(parents=True)
    (root / "package" / "__pycache__" / "x.py").write_text("never = 1\n")
    (root / "package" / "a.py").write_text("def f(x):\n    return 1 if x and x > 2 else 3\n")
    (root / "package" / "broken.py").write_text("def f(:\n")
    (root / "package" / "empty.py").write_text("")
    (root / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nx = 'ü'\n".encode("latin-1"))
    (root / "binary.py").write_bytes(b"\xff\xfe\x00x")
    (root / "nul.py").write_bytes(b"x = 1\0\n")
    return root


@pytest.mark.parametrize("name", ["json/decoder.py", "asyncio/events.py", "argparse.py", "this.py", "keyword.py"])
def test_figures_are_those_of_radon(name: str) -> None:
    source = (STDLIB / name).read_text()
    figures = measure_source(source)
    expected = [[b.fullname, b.lineno, b.complexity] for b in cc_visit(source) if b.letter in "FM"]
    assert figures["functions"] == expected
    assert figures["mi"] == pytest.approx(mi_visit(source, True), abs=1e-12)
    raw = analyze(source)
    assert [figures[key] for key in ("loc", "lloc", "sloc", "comments", "blank")] == [
        raw.loc,
        raw.lloc,
        raw.sloc,
        raw.comments,
        raw.blank,
    ]


def test_what_cannot_be_measured_is_listed_and_not_fatal(tree: Path) -> None:
    report = audit(Here(), [str(tree)], Cache(None))
    assert set(report.files) == {"package/a.py", "package/empty.py", "latin.py"}
    assert set(report.errors) == {"package/broken.py", "binary.py", "nul.py"}
    assert report.errors["package/broken.py"].startswith("line 1: ")
    assert report.functions[0][0] == 3
    assert report.totals()["files"] == 6


def test_only_what_changed_is_measured_again(tree: Path, tmp_path: Path) -> None:
    cache, first, second, third = Cache(tmp_path / "c" / "cache"), Here(), Here(), Here()
    one = audit(first, [str(tree)], cache)
    two = audit(second, [str(tree)], cache)
    assert second.given == []
    assert (two.files, two.errors) == (one.files, one.errors)
    (tree / "package" / "a.py").write_text("def g():\n    pass\n")
    three = audit(third, [str(tree)], cache)
    assert third.given == ["def g():\n    pass\n"]
    assert three.files["package/a.py"]["functions"] == [["g", 1, 1]]
    cache.close()


def test_a_damaged_cache_is_done_without(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    path.write_bytes(b"no database" * 100)
    cache = Cache(path)
    report = audit(Here(), [str(tree)], cache)
    assert len(report.files) == 3
    assert cache.problem


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        find([str(tmp_path / "nowhere")])


def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    assert read("x.py", str(tmp_path / "x.py")).error.startswith("can not be read")


def test_reports(tree: Path) -> None:
    report = audit(Here(), [str(tree)], Cache(None))
    text = page(report, "a <tree>")
    assert "a &lt;tree&gt;" in text
    assert "package/broken.py" in text
    assert text.count("<svg") == 2
    said = json.loads(json.dumps(report.as_json(5)))
    assert said["worst"][0]["name"] == "f"
    assert said["totals"]["errors"] == 3
    assert [row["package"] for row in said["packages"]] == ["package", "."]
    assert page(Report({}, {}, 0, report.nodes), "nothing")
